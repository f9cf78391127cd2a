"""Files of trained networks: one that says what it is and what it was trained on, and the same weights for PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from experiments import command
from segjax import checkpoints, torch_weights
from segjax.models import ARCHITECTURES, SegmentationCNN, from_config, to_config

MODEL, TORCH = "model.safetensors", "model-torch.safetensors"
# What a file of PyTorch does not say: the textures of the notebook's training.
NOTEBOOK = {"batch_size": 8, "image_size": 128, "sigma1": 0.2, "sigma2": 1.2, "sigma": 25.6}


class Network(NamedTuple):
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


def check(options: Any) -> None:
    """Says that only networks that PyTorch has names for can be exported."""
    model = ARCHITECTURES[options.architecture]
    if options.export_torch and not (isinstance(model, SegmentationCNN) and model.depth == 3):
        named = [name for name, it in ARCHITECTURES.items() if isinstance(it, SegmentationCNN) and it.depth == 3]
        raise ValueError(f"--export-torch needs an --architecture of: {', '.join(named)}; got {options.architecture!r}")


def save(options: Any, variables: dict[str, Any], trained_on: Mapping[str, Any]) -> Path:
    """Writes the network of `options.architecture` to the folder of results, for PyTorch too where that is asked for.

    Args:
        trained_on: {"texture": options of `generate_data`} or {"exemplars": ...}, what `load` reads again.
    """
    path, model = options.out / MODEL, to_config(ARCHITECTURES[options.architecture])
    checkpoints.save(path, variables, {"model": model, **trained_on})
    if options.export_torch:
        torch_weights.save(options.out / TORCH, variables)
    return Path(path)


def load(path: Path) -> Network:
    """A network from a file that `save` wrote, or from a safetensors file of PyTorch's state_dict.

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
            return Network(torch_weights.model_of(variables), variables, NOTEBOOK, 128, ("inside", "outside"))
        if "model" not in metadata:
            raise ValueError("it holds no network")
        model = from_config(metadata["model"])
        if "texture" in metadata:
            texture = metadata["texture"]
            names = f"sigma {texture['sigma1']:g}", f"sigma {texture['sigma2']:g}"
            return Network(model, variables, texture, int(texture["image_size"]), names)
        exemplars = metadata["exemplars"]
        names = str(exemplars["first"]), str(exemplars["second"])
        return Network(model, variables, None, int(exemplars["image_size"]), names)
    except OSError as error:
        raise command.UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise command.UsageError(f"{path} is not a model of these experiments: {error}") from error


def load_with_textures(path: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The same for a network of the notebook's textures: model, variables, and the options of `generate_data`."""
    network = load(path)
    if network.texture is None:
        raise command.UsageError(f"{path} was trained on photographs, of which no new images can be drawn")
    return network.model, network.variables, network.texture
