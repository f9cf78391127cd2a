"""Golden arrays of PyTorch (tests/data/README.md) and small sizes shared by the tests."""

from pathlib import Path

import jax
import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """PyTorch's (..., channels, height, width) -> (..., height, width, channels)."""
    return np.moveaxis(array, -3, -1)


@pytest.fixture(scope="session")
def golden_model() -> dict[str, np.ndarray]:
    return load("model")


@pytest.fixture(scope="session")
def golden_trajectories() -> dict[str, np.ndarray]:
    return load("trajectories")


@pytest.fixture
def x64():
    """Float64 for one test alone."""
    with jax.enable_x64(True):
        yield
