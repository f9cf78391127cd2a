"""Files of trained networks, with architecture and textures; the same weights under PyTorch's names."""

import math
import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Texture
from experiments.lab.stops import UsageError, usage_errors
from experiments.pictures import novelty
from experiments.pictures.areas import AreaError
from experiments.pictures.novelty import Reference
from segjax import checkpoints, generate_data, torch_weights
from segjax._checks import check_count
from segjax.convolution import cpu_backend
from segjax.models import SegmentationCNN, from_config, to_config

MODEL, TORCH = "model.safetensors", "model-torch.safetensors"
# PyTorch's file names no textures: the network is assumed to be trained on the notebook's.
NOTEBOOK: dict[str, Any] = Texture()._asdict()
DIVERGED = "The training diverged: the network that is saved is of no use. Try a lower --learning-rate."


def look_inside(out: Path) -> str:
    """A finding: the command that inspects the network in the folder `out`."""
    command = shlex.join(["python", "-m", "experiments.inspect_layers", "--model", str(out / MODEL)])
    return f"The model is saved; look inside it with: {command}"


class SavedModel(NamedTuple):
    """A trained network.

    Attributes:
        model, variables: as `segjax.predict` takes them.
        texture: the options of `generate_data` that it was trained with; None for photographs.
        image_size: side of its training images in pixels.
        names: of the textures where the mask is 1 and where it is 0; always different.
        diverged: whether its training diverged (`segjax.metrics.diverged_at`), so that it is of no use.
        reference: `novelty.reference` of photographs; None if the file has none.
        area: `areas.measure` of photographs; None if the file has none.
    """

    model: nn.Module
    variables: dict[str, Any]
    texture: dict[str, Any] | None
    image_size: int
    names: tuple[str, str]
    diverged: bool
    reference: Reference | None = None
    area: AreaError | None = None


def check_export(export_torch: bool, architecture: str, known: Iterable[str] = ARCHITECTURES) -> None:
    """Raises a ValueError if a network is to be exported for which PyTorch's file has no names."""
    networks = [(name, ARCHITECTURES[name]) for name in known]
    names = [name for name, network in networks if isinstance(network, SegmentationCNN) and network.depth == 3]
    if export_torch and architecture not in names:
        raise ValueError(f"--export-torch needs an --architecture of: {', '.join(names)}; got {architecture!r}")


def files(
    architecture: str,
    variables: dict[str, Any],
    trained_on: Mapping[str, Any],
    export_torch: bool,
    diverged: bool = False,
) -> dict[str, bytes]:
    """name -> content of the files of a network.

    Args:
        trained_on: {"texture": options of `generate_data`} or {"exemplars": ...}; `load` reads it again.
        export_torch: also write the weights under PyTorch's names.
        diverged: whether the training diverged.
    """
    metadata = {"model": to_config(ARCHITECTURES[architecture]), "diverged": diverged, **trained_on}
    contents = {MODEL: checkpoints.to_bytes(variables, metadata)}
    return contents | ({TORCH: torch_weights.to_bytes(variables)} if export_torch else {})


def load(path: Path) -> SavedModel:
    """A network from a file of `files`, or from a safetensors file of PyTorch's state_dict.

    Raises:
        UsageError: if the file is neither, does not fit the network that it names, or has numbers that are not finite.
    """
    with usage_errors():
        # Otherwise the message of a bad SEGJAX_NATIVE would blame the file.
        cpu_backend()
    try:
        try:
            saved = _from_files(*checkpoints.load(path))
        except checkpoints.ForeignFileError:
            saved = _from_pytorch(path)
        _check_variables(saved.model, saved.variables)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.variables)):
            raise ValueError("its training diverged: its parameters are not finite numbers")
        return saved
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a model of these experiments: {error}") from error


def load_with_textures(path: Path) -> tuple[SavedModel, Texture]:
    """A network trained on generated textures, and the options of `generate_data`; raises like `load`."""
    saved = load(path)
    if saved.texture is None:
        raise UsageError(f"{path} was trained on photographs, of which no new images can be drawn")
    return saved, Texture(**saved.texture)


def reference(saved: SavedModel) -> Reference | None:
    """What `novelty.strange` compares a picture with; None if the file has none, or training images have no square."""
    if saved.texture is None or saved.image_size < novelty.MIN_SIDE:
        return saved.reference
    mixed = partial(generate_data, **saved.texture)
    sigmas = saved.texture["sigma1"], saved.texture["sigma2"]
    first, second = (partial(mixed, sigma1=sigma, sigma2=sigma) for sigma in sigmas)
    return novelty.reference(mixed, first, second, saved.image_size)


def _from_pytorch(path: Path) -> SavedModel:
    variables = torch_weights.load(path)
    if (channels := variables["params"]["conv1"]["kernel"].shape[2]) != 1:
        raise ValueError(f"it takes images of {channels} channels, not of one")
    model, names = torch_weights.model_of(variables), ("inside the mask", "outside the mask")
    return SavedModel(model, variables, NOTEBOOK, NOTEBOOK["image_size"], names, diverged=False)


def _from_files(variables: dict[str, Any], metadata: dict[str, Any]) -> SavedModel:
    if "model" not in metadata:
        raise ValueError("it holds no network")
    model = from_config(metadata["model"])
    # Files of earlier versions lack the entry.
    if not isinstance(diverged := metadata.get("diverged", False), bool):
        raise ValueError(f"diverged must be true or false, got {diverged!r:.60}")
    if "texture" in metadata:
        texture = metadata["texture"]
        if not isinstance(texture, dict) or texture.keys() != set(Texture._fields):
            raise ValueError(f"texture must have {', '.join(Texture._fields)}, got {texture!r:.60}")
        # `generate_data` checks its options; no image is drawn.
        jax.eval_shape(partial(generate_data, **texture), jax.random.key(0))
        names = f"inside the mask (sigma {texture['sigma1']:g})", f"outside the mask (sigma {texture['sigma2']:g})"
        return SavedModel(model, variables, texture, texture["image_size"], names, diverged)
    exemplars = metadata.get("exemplars")
    if not isinstance(exemplars, dict) or not exemplars.keys() >= {"first", "second", "image_size"}:
        raise ValueError(f"exemplars must have first, second and image_size, got {exemplars!r:.60}")
    first, second, image_size = (exemplars[name] for name in ("first", "second", "image_size"))
    if not (isinstance(first, str) and isinstance(second, str)):
        raise ValueError(f"first and second must be names, got {first!r:.60} and {second!r:.60}")
    # Photographs in two folders may have the same name.
    names = (first, second) if first != second else (f"{first} (first)", f"{second} (second)")
    check_count("image_size", image_size, 2)
    reference, area = _reference(exemplars.get("novelty")), _area(exemplars.get("area"))
    return SavedModel(model, variables, None, image_size, names, diverged, reference, area)


def _reference(entry: Any) -> Reference | None:
    """The entry of a file, checked; files of earlier versions have none, or one of other features."""
    if entry is None:
        return None
    names = Reference._fields
    if not isinstance(entry, dict) or entry.keys() != set(names):
        raise ValueError(f"novelty must have {', '.join(names)}, got {entry!r:.60}")
    most = {"squares": novelty.MAX_TRAINING_SQUARES, "images": novelty.MAX_TRAINING_IMAGES}
    squares, images = (_features(name, entry[name], rows) for name, rows in most.items())
    return Reference(squares, images, check_count("number", entry["number"], 1))


def _area(entry: Any) -> AreaError | None:
    """The entry of a file, checked."""
    if entry is None:
        return None
    numbers: list[Any] = [entry.get(name) for name in AreaError._fields] if isinstance(entry, dict) else [None]
    if not all(isinstance(number, float) and math.isfinite(number) for number in numbers) or min(numbers[2:]) < 0:
        raise ValueError(
            f"area must have finite {', '.join(AreaError._fields)}, the last three >= 0, got {entry!r:.60}"
        )
    return AreaError(*numbers)


def _features(name: str, entry: Any, rows: int) -> np.ndarray:
    try:
        features = np.asarray(entry, float)
    except (ValueError, TypeError):
        features = np.empty(0)
    columns = novelty.NUM_FEATURES
    if features.ndim != 2 or features.shape[1] != columns or not 2 <= len(features) <= rows:
        raise ValueError(f"{name} must be 2 to {rows} rows of {columns} numbers, got {entry!r:.60}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} must be finite numbers")
    return features


def _check_variables(model: nn.Module, variables: dict[str, Any]) -> None:
    """Raises a ValueError naming the first array that is missing, superfluous or of another shape or dtype."""
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    # Any floating dtype is accepted: with x64 enabled, networks are float64.

    def in_float32(leaf: Any) -> Any:
        return np.zeros_like(leaf, np.float32) if np.issubdtype(leaf.dtype, np.floating) else leaf

    checkpoints.restore(template, jax.tree.map(in_float32, variables))
