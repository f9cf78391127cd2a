"""Results as JSON has them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def plain(value: Any) -> Any:
    """JSON's types: arrays as lists, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
