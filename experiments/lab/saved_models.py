"""Files of trained networks: with their architecture and textures, and the same weights by PyTorch's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import UsageError
from segjax import checkpoints, torch_weights
from segjax.models import SegmentationCNN, from_config, to_config

MODEL, TORCH = "model.safetensors", "model-torch.safetensors"
# A file of PyTorch says nothing of textures: those of the notebook's training are assumed.
NOTEBOOK = {"batch_size": 8, "image_size": 128, "sigma1": 0.2, "sigma2": 1.2, "sigma": 25.6}


class SavedModel(NamedTuple):
    """A trained network.

    Attributes:
        model, variables: as `segjax.predict` takes them.
        texture: the options of `generate_data` that it was trained with; None for photographs.
        image_size: side of its training images in pixels.
        names: of the texture where its mask is 1, and of the other.
    """

    model: nn.Module
    variables: dict[str, Any]
    texture: dict[str, Any] | None
    image_size: int
    names: tuple[str, str]


def check_export(wanted: bool, architecture: str) -> None:
    """Raises a ValueError for the export of a network that PyTorch's file has no names for."""
    named = [name for name, it in ARCHITECTURES.items() if isinstance(it, SegmentationCNN) and it.depth == 3]
    if wanted and architecture not in named:
        raise ValueError(f"--export-torch needs an --architecture of: {', '.join(named)}; got {architecture!r}")


def files(
    architecture: str, variables: dict[str, Any], trained_on: Mapping[str, Any], export_torch: bool
) -> dict[str, bytes]:
    """name -> content of the files of a network, for PyTorch too where that is asked for.

    Args:
        trained_on: {"texture": options of `generate_data`} or {"exemplars": ...}, what `load` reads again.
    """
    metadata = {"model": to_config(ARCHITECTURES[architecture]), **trained_on}
    written = {MODEL: checkpoints.to_bytes(variables, metadata)}
    return written | ({TORCH: torch_weights.to_bytes(variables)} if export_torch else {})


def load(path: Path) -> SavedModel:
    """A network from a file of `files`, or from a safetensors file of PyTorch's state_dict.

    Raises:
        UsageError: where the file is neither.
    """
    try:
        try:
            variables, metadata = checkpoints.load(path)
        except checkpoints.OfAnotherError:
            variables = torch_weights.load(path)
            if (channels := variables["params"]["conv1"]["kernel"].shape[2]) != 1:
                raise ValueError(f"it takes images of {channels} channels, not of one") from None
            return SavedModel(torch_weights.model_of(variables), variables, NOTEBOOK, 128, ("inside", "outside"))
        if "model" not in metadata:
            raise ValueError("it holds no network")
        model = from_config(metadata["model"])
        if "texture" in metadata:
            texture = metadata["texture"]
            names = f"sigma {texture['sigma1']:g}", f"sigma {texture['sigma2']:g}"
            return SavedModel(model, variables, texture, int(texture["image_size"]), names)
        exemplars = metadata["exemplars"]
        names = str(exemplars["first"]), str(exemplars["second"])
        return SavedModel(model, variables, None, int(exemplars["image_size"]), names)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a model of these experiments: {error}") from error


def load_with_textures(path: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The same for a network of the notebook's textures: model, variables, and the options of `generate_data`."""
    saved = load(path)
    if saved.texture is None:
        raise UsageError(f"{path} was trained on photographs, of which no new images can be drawn")
    return saved.model, saved.variables, saved.texture
