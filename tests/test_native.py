"""The optional convolution in C++ (native/) against XLA's: the same numbers, the same bits however it is run."""

import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import normal, plain_convolution

from segjax import convolution
from segjax.convolution import conv2d

pytestmark = [
    pytest.mark.skipif(find_spec("segjax_native") is None, reason="segjax-native is not installed"),
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is for CPUs"),
]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "1")


@partial(jax.jit, static_argnums=0)
def all_three(convolve, inputs, kernel, cotangent):
    """The outputs, and the gradients with respect to the inputs and to the kernel."""
    outputs, pullback = jax.vjp(convolve, inputs, kernel)
    return outputs, *pullback(cotangent)


def ours_and_theirs(*arrays):
    """Each of `all_three`, in C++ and by XLA."""
    return zip(all_three(conv2d, *arrays), all_three(plain_convolution, *arrays), strict=True)


def random_arrays(batch, height, width, size, channels):
    return (
        normal(batch, height, width, channels[0]),
        normal(*size, *channels, seed=1),
        normal(batch, height, width, channels[1], seed=2),
    )


# Batch, height, width, kernel, channels: each path of native/src/convolution.cc, and what is left over at its ends.
SHAPES = [
    (2, 9, 8, (5, 3), (3, 4)),
    (1, 1, 1, (5, 5), (1, 1)),
    (2, 1, 1, (5, 5), (16, 16)),
    (2, 16, 17, (4, 4), (16, 16)),
    (1, 20, 13, (2, 5), (1, 16)),
    (2, 8, 9, (5, 5), (16, 1)),
    (1, 33, 9, (3, 3), (8, 40)),
    (2, 7, 5, (1, 1), (17, 33)),
    (1, 8, 3, (5, 9), (9, 16)),
    (2, 5, 40, (7, 7), (9, 10)),
    (2, 5, 41, (1, 2), (9, 10)),
    (2, 5, 40, (3, 6), (12, 24)),
    (3, 50, 7, (3, 4), (33, 8)),
    (1, 70, 30, (5, 5), (16, 16)),
    (0, 8, 8, (3, 3), (8, 8)),
    (2, 0, 8, (3, 3), (8, 8)),
    (2, 8, 0, (3, 3), (8, 8)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_xla_s(shape):
    for ours, theirs in ours_and_theirs(*random_arrays(*shape)):
        largest = np.max(np.abs(theirs), initial=1e-30)
        np.testing.assert_allclose(ours / largest, theirs / largest, rtol=0, atol=5e-6)


def test_the_rounding_error_is_at_most_a_few_times_that_of_plain_sums():
    arrays = random_arrays(2, 32, 32, (5, 5), (16, 16))
    with jax.enable_x64(True):
        exact = [np.asarray(part) for part in all_three(plain_convolution, *map(np.float64, arrays))]
    for pair, right in zip(ours_and_theirs(*arrays), exact, strict=True):
        ours, theirs = (np.std(np.float64(part) - right) / np.std(right) for part in pair)
        assert ours < 2e-6
        assert ours < 6 * theirs


def test_float32_alone_is_computed_in_c_plus_plus(x64, monkeypatch):
    def program(dtype):
        inputs, kernel, _ = (array.astype(dtype) for array in random_arrays(1, 4, 4, (3, 3), (2, 2)))
        # A new function each time, since jax keeps what it has traced.
        return jax.jit(lambda *arrays: conv2d(*arrays)).lower(inputs, kernel).as_text()

    assert "segjax_forward" in program(np.float32)
    assert "segjax_forward" not in program(np.float64)
    assert "segjax_forward" not in program(jnp.bfloat16)
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    assert "segjax_forward" not in program(np.float32)


def test_the_environment_chooses(monkeypatch):
    assert convolution.cpu_backend() == "native"
    monkeypatch.delenv("SEGJAX_NATIVE")
    assert convolution.cpu_backend() == "native"
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    assert convolution.cpu_backend() == "xla"


def test_a_gpu_gets_its_own_convolution():
    arrays = random_arrays(1, 4, 4, (3, 3), (2, 2))
    lowered = all_three.trace(conv2d, *arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "segjax_" not in lowered


@pytest.mark.parametrize("at", ["inputs", "kernel", "cotangent"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("channels", [(16, 16), (1, 16), (16, 1)], ids=str)
def test_what_is_not_finite_spreads_as_in_xla(channels, value, at):
    inputs, kernel, cotangent = random_arrays(2, 20, 12, (5, 5), channels)
    {"inputs": inputs, "kernel": kernel, "cotangent": cotangent}[at][0, 3, -1, 0] = value
    if at == "cotangent" and np.isfinite(value):
        # Sums that overflow do so by their order.
        inputs, kernel = np.abs(inputs), np.abs(kernel)
    for ours, theirs in ours_and_theirs(inputs, kernel, cotangent):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_array_equal(np.isposinf(ours), np.isposinf(theirs))
        finite = np.isfinite(theirs)
        np.testing.assert_allclose(ours[finite], theirs[finite], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-16, 1e17])
def test_small_and_large_numbers_keep_their_digits(scale):
    for ours, theirs in ours_and_theirs(
        *(np.float32(scale) * array for array in random_arrays(1, 20, 20, (5, 5), (8, 8)))
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())


def test_a_gradient_of_many_pieces_is_the_sum_of_few_shares():
    """Large kernels: the shares of all pieces would not fit into memory."""
    *_, (ours, theirs) = ours_and_theirs(*random_arrays(1, 300, 3, (3, 3), (256, 256)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_a_large_number_spoils_no_pixel_outside_its_window():
    inputs, kernel, _ = random_arrays(1, 8, 16, (5, 5), (8, 8))
    inputs[0, 4, 8] = 1e32
    ours, theirs = jax.jit(conv2d)(inputs, kernel), jax.jit(plain_convolution)(inputs, kernel)
    np.testing.assert_allclose(ours[:, :, :6], theirs[:, :, :6], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e27)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, 0, None), (2, 1, 3)], ids=str)
def test_vmap_has_the_bits_of_each_run_alone(axes):
    arrays = random_arrays(2, 6, 9, (5, 5), (8, 8))
    runs = [np.stack([array, -2 * array], axis) if axis is not None else array
            for array, axis in zip(arrays, axes, strict=True)]  # fmt: skip
    batched = jax.jit(jax.vmap(partial(all_three, conv2d), axes))(*runs)
    for index in range(2):
        single = [np.take(array, index, axis) if axis is not None else array
                  for array, axis in zip(runs, axes, strict=True)]  # fmt: skip
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=index: leaf[i], batched), all_three(conv2d, *single))


def test_nested_vmap_has_the_bits_of_each_run_alone():
    inputs, kernel, _ = random_arrays(1, 6, 9, (5, 5), (8, 8))
    many, kernels = np.stack([inputs, -inputs]), np.stack([kernel, 2 * kernel, -kernel])
    nested = jax.jit(jax.vmap(jax.vmap(conv2d, (None, 0)), (0, None)))(many, kernels)
    single = jax.jit(conv2d)
    np.testing.assert_array_equal(nested, [[single(x, kernel) for kernel in kernels] for x in many])


def test_images_are_computed_alone():
    inputs, kernel, cotangent = random_arrays(3, 40, 24, (5, 5), (16, 16))
    whole = all_three(conv2d, inputs, kernel, cotangent)
    for image in range(3):
        single = all_three(conv2d, inputs[image : image + 1], kernel, cotangent[image : image + 1])
        chex.assert_trees_all_equal(single[:2], tuple(part[image : image + 1] for part in whole[:2]))


PROGRAM = """
import hashlib, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax, numpy as np
import test_native
digest = hashlib.sha256()
for shape in [(3, 40, 24, (5, 5), (16, 16)), (3, 40, 24, (5, 5), (1, 16)), (3, 40, 24, (5, 5), (16, 1))]:
    for array in test_native.all_three(test_native.conv2d, *test_native.random_arrays(*shape)):
        digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux keeps a process to some cores")
def test_any_number_of_threads_gives_the_same_bits():
    environment = {**os.environ, "PYTHONPATH": f"{os.path.dirname(__file__)}:."}
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, cores], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for cores in ("1", "2")
    }
    assert len(digests) == 1


def call(name, shape, *arrays, **attributes):
    result = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.jit(lambda *arrays: jax.ffi.ffi_call(name, result)(*arrays, **attributes))(*arrays)


@pytest.mark.parametrize(
    ("shape", "inputs", "kernel"),
    [
        ((1, 4, 4, 2), (1, 4, 4, 3), (3, 3, 2, 2)),
        ((1, 4, 4, 3), (1, 4, 4, 2), (3, 3, 2, 2)),
        ((1, 4, 5, 2), (1, 4, 4, 2), (3, 3, 2, 2)),
        ((2, 4, 4, 2), (1, 4, 4, 2), (3, 3, 2, 2)),
        ((1, 4, 4, 2), (1, 4, 4, 2), (0, 3, 2, 2)),
        ((1, 4, 4, 2), (4, 4, 2), (3, 3, 2, 2)),
        ((4, 4, 2), (1, 4, 4, 2), (3, 3, 2, 2)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(shape, inputs, kernel):
    jax.jit(conv2d)(*random_arrays(1, 4, 4, (3, 3), (2, 2))[:2])  # registers the functions
    arrays = np.zeros(inputs, np.float32), np.zeros(kernel, np.float32)
    refused = "do not fit|[Ww]rong|rank"
    for flipped in (False, True):
        with pytest.raises(Exception, match=refused):
            jax.block_until_ready(call("segjax_forward", shape, *arrays, flipped=flipped))
    if 0 in kernel:
        return  # XLA computes no empty result
    with pytest.raises(Exception, match=refused):
        jax.block_until_ready(call("segjax_kernel_gradient", kernel, arrays[0], np.zeros(shape, np.float32)))


def test_other_dtypes_are_refused(x64):
    jax.jit(conv2d)(*random_arrays(1, 4, 4, (3, 3), (2, 2))[:2])
    arrays = np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2, 2))
    with pytest.raises(Exception, match="dtype"):
        jax.block_until_ready(call("segjax_forward", (1, 4, 4, 2), *arrays, flipped=False))
