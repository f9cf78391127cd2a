"""Golden arrays of PyTorch (tests/data/README.md) and what several tests share."""

import atexit
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Most of the tests' time is LLVM's. Without its optimisation, with XLA's old emitter of loops and programs in one piece
# it is a sixth; what XLA does before, the form of the convolutions included, stays the same. Must be set before jax is
# imported. `XLA_FLAGS= pytest ...` compiles as users do.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Later versions have the new emitter alone, and a flag that XLA does not know ends the process.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

# Many tests, and the processes that they start, run the same programs: whoever needs one first compiles it for all. The
# folder goes when the tests are over, unless it was given by hand; pytest-xdist's workers have it from their parent.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="segjax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import flax.linen as nn

# As in the tests of careful users: a broadcast along a new axis is written out.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax
import numpy as np
import pytest
from hypothesis import settings

# A shell that starts the tests in the background has them ignore it, and so would all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"

# For jax.jit(..., compiler_options=): as users compile, where a program runs for long, or where its last digits count.
AS_USERS = {"xla_backend_optimization_level": 3}
if "fusion_emitters" in os.environ["XLA_FLAGS"]:
    AS_USERS["xla_cpu_use_fusion_emitters"] = True

# Compilation takes its time, and a test must fail today as it did yesterday: the same few examples each time.
# `make test-deep` searches wide.
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=8)
settings.register_profile("wide", settings.get_profile("quick"), max_examples=300)
settings.load_profile("quick")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Docstrings' examples are slow: most compile a program of their own, a training even. And files that take long
    come first: of two workers, none waits long for the other at the end.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("slow")
    # Here pytest leaves out those that -m does not choose.
    yield
    # A mark has its seconds in brackets where they are many: @pytest.mark.deep(80).
    seconds: Counter[Path] = Counter()
    for item in items:
        if mark := item.get_closest_marker("deep") or item.get_closest_marker("slow"):
            seconds[item.path] += mark.args[0] if mark.args else 2
    items.sort(key=lambda item: -seconds[item.path])


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def random_variables(model: Any, shape: tuple[int, ...] = (1, 12, 12, 1)) -> dict[str, Any]:
    """Initial variables of a network, drawn by NumPy: to compile an initialisation takes longer than a test."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        constant = {"scale": 1, "mean": 0, "var": 1}.get(path[-1].key)
        bound = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        array = rng.uniform(-bound, bound, leaf.shape) if constant is None else np.full(leaf.shape, constant)
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Plain(nn.Module):
    """A network without BatchNorm, and without any attribute of `Network`."""

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(1)(image)


class Convolution(NamedTuple):
    """A convolution of a lowered program: the shapes of its operands and its groups."""

    inputs: tuple[int, ...]
    window: tuple[int, ...]
    feature_groups: int
    batch_groups: int


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def plain_convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """JAX's own convolution, differentiated by JAX's own rules."""
    padding = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolutions_on_gpu(function: Callable[..., Any], *arguments: Any) -> list[Convolution]:
    """The convolutions of a function that is lowered for a GPU, which need not be there: XLA gets them in this form."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    pattern = (
        r"stablehlo\.convolution.*?x\[(.*?)\].*?batch_group_count = (\d+).*?feature_group_count = (\d+)"
        r".*?\(tensor<([\dx]+)x\w+>, tensor<([\dx]+)x\w+>\)"
    )
    convolutions = []
    for labels, batch_groups, feature_groups, *shapes in re.findall(pattern, lowered):
        inputs, kernel = (tuple(map(int, shape.split("x"))) for shape in shapes)
        places = [place for place, label in enumerate(labels.split(", ")) if label.isdecimal()]
        window = tuple(kernel[place] for place in places)
        convolutions.append(Convolution(inputs, window, int(feature_groups), int(batch_groups)))
    return convolutions


def assert_are_cudnn_s(convolutions: Collection[Convolution], window: tuple[int, int], groups: Collection[int]) -> None:
    """All have a form that XLA runs by cuDNN: forward, gradient with respect to the inputs or to the kernel.

    The last comes as a convolution with a window as large as the image, and XLA knows it by its groups of batches; with
    groups of channels it would run it as it stands.

    Args:
        window: of the network's kernels.
        groups: allowed numbers of runs.
    """
    assert convolutions
    for convolution in convolutions:
        if convolution.window == window:
            assert convolution.batch_groups == 1
            assert convolution.feature_groups in groups
        else:
            assert convolution.feature_groups == 1
            assert convolution.batch_groups in groups


def photograph(name: str) -> Path:
    """One of the photographs that come with scikit-image; the test is skipped where that is not installed."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        pytest.skip("needs scikit-image")
    return Path(package.origin).parent / "data" / f"{name}.png"


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
def full_precision() -> Iterator[None]:
    """For what is held against exact numbers: a GPU would multiply in TF32, as it does in all other tests."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test alone."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def strict_dtypes(request: pytest.FixtureRequest) -> Iterator[None]:
    """The library's tests run without any implicit conversion between dtypes."""
    library = request.path.parent == Path(__file__).parent
    with jax.numpy_dtype_promotion("strict" if library and "mixed_dtypes" not in request.fixturenames else "standard"):
        yield


@pytest.fixture
def mixed_dtypes() -> None:
    """For tests that mix dtypes on purpose, or call optax or Flax directly, which convert between them."""
