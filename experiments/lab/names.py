"""The networks by name, and the format of names and numbers."""

from types import MappingProxyType

import flax.linen as nn

from segjax.models import PatchCNN, SegmentationCNN, UNet

# The first shares one BatchNorm, as the notebook does; all others predict with running statistics.
ARCHITECTURES: MappingProxyType[str, nn.Module] = MappingProxyType(
    {
        "notebook": SegmentationCNN(),
        "separate_norm": SegmentationCNN(shared_norm=False),
        "narrow": SegmentationCNN(num_channels=8, shared_norm=False),
        "wide": SegmentationCNN(num_channels=32, shared_norm=False),
        "kernel_3": SegmentationCNN(kernel_size=3, shared_norm=False),
        "kernel_7": SegmentationCNN(kernel_size=7, shared_norm=False),
        "shallow": SegmentationCNN(depth=1, shared_norm=False),
        "deep": SegmentationCNN(depth=5, shared_norm=False),
        "unet": UNet(),
        "patch": PatchCNN(),
        "patch_sharp": PatchCNN(sharpen=True),
    }
)


def exact(number: float) -> str:
    """The shortest text for a number, 0.001 or 1e-05, from which exactly this number is read."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def shortened(text: str, width: int) -> str:
    """The text in at most `width` characters: the middle is cut out, where import paths differ least.

    >>> shortened("optax.contrib:schedule_free_adamw", 20)
    'optax.con...ee_adamw'
    """
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def printable(text: str) -> str:
    """Text for a terminal or a page: line breaks and other characters that cannot be printed become escapes.

    >>> print(printable("two\\nlines"))
    two\\nlines
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
