"""The networks by name, and the format of names and numbers."""

import os
from types import MappingProxyType

import flax.linen as nn

from segjax.models import PatchCNN, SegmentationCNN, UNet

# In bytes, since labels are part of file names.
_LONGEST_LABEL = 200
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


def check_label(label: str) -> str:
    """Returns `label`; raises a ValueError if it cannot stand in tables, figures and file names."""
    # matplotlib reads dollars as formulas, and omits labels with a leading underscore from legends.
    odd = not label.isprintable() or label != label.strip() or label.startswith("_") or set(label) & set("/$")
    if not label or odd or len(os.fsencode(label)) > _LONGEST_LABEL:
        raise ValueError(
            f"a label must be words without a slash or a dollar, begin with no underscore, and have at most "
            f"{_LONGEST_LABEL} bytes, got {label!r:.60}"
        )
    return label


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
