import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_are_cudnn_s, convolutions_on_gpu, normal, plain_convolution
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from segjax import convolution
from segjax.convolution import conv2d, depth_to_space, double, halve, space_to_depth

pytestmark = pytest.mark.usefixtures("full_precision")


INPUTS, KERNEL, WEIGHTS = normal(2, 9, 8, 3), normal(5, 3, 3, 4, seed=1), normal(2, 9, 8, 4, seed=2)


# One program: operation by operation, each would be compiled for itself.
@partial(jax.jit, static_argnums=0)
def value_and_gradients(convolve, inputs, kernel):
    value, pullback = jax.vjp(convolve, inputs, kernel)
    return value, pullback(2 * WEIGHTS.astype(value.dtype) * value)


def gradients(convolve, inputs, kernel):
    return value_and_gradients(convolve, inputs, kernel)[1]


@pytest.mark.parametrize(
    "size", [(2, 2), (4, 5), *(pytest.param(size, marks=pytest.mark.slow) for size in ((1, 1), (3, 3), (5, 5)))]
)
def test_value_and_gradients_are_the_plain_ones(size):
    kernel = normal(*size, 3, 4)
    (value, ours), (expected, theirs) = (
        value_and_gradients(way, INPUTS, kernel) for way in (conv2d, plain_convolution)
    )
    chex.assert_trees_all_close(value, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "height"),
    [(1, 40), (3, 13), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 4), (7, 13), (8, 13)))],
)
def test_few_images_are_cut_into_bands_without_a_trace(batch, height, x64):
    inputs, kernel = normal(batch, height, 6, 2, dtype=np.float64), normal(4, 3, 2, 3, dtype=np.float64)
    ours, theirs = (
        jax.jit(jax.grad(lambda *run, convolve=convolve: jnp.sum(jnp.sin(convolve(*run))), (0, 1)))(inputs, kernel)
        for convolve in (conv2d, plain_convolution)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 3)])
def test_vmap_gives_each_run_its_own_gradients(axes):
    inputs = INPUTS if axes[0] is None else np.stack([INPUTS, 2 * INPUTS, -INPUTS], axes[0])
    kernels = KERNEL if axes[1] is None else np.stack([KERNEL, -KERNEL, 3 * KERNEL], axes[1])
    batched = jax.jit(jax.vmap(partial(gradients, conv2d), axes))(inputs, kernels)
    for index in range(3):
        single = gradients(
            plain_convolution,
            inputs if axes[0] is None else np.take(inputs, index, axes[0]),
            kernels if axes[1] is None else np.take(kernels, index, axes[1]),
        )
        picked = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        chex.assert_trees_all_close(picked, single, rtol=1e-4, atol=1e-2)


def test_nested_vmap():
    inputs = np.stack([INPUTS, -INPUTS])
    kernels = np.stack([KERNEL, 2 * KERNEL, -KERNEL])
    nested = jax.jit(jax.vmap(jax.vmap(conv2d, (None, 0)), (0, None)))(inputs, kernels)
    chex.assert_shape(nested, (2, 3, 2, 9, 8, 4))
    expected = [[plain_convolution(x, kernel) for kernel in kernels] for x in inputs]
    np.testing.assert_allclose(nested, expected, rtol=1e-4, atol=1e-4)


def descend(kernel):
    """A loop of gradient steps: where JAX's own rules leave the fast path."""

    def step(kernel, scale):
        # Not constants, which XLA would transpose beforehand; the outer layer needs its gradient with respect to its
        # inputs.
        images = conv2d(scale * INPUTS, KERNEL)
        return kernel - 1e-4 * jax.grad(lambda k: jnp.sum(conv2d(conv2d(images, k), k) ** 2))(kernel), None

    return lax.scan(step, kernel, jnp.arange(4.0))[0]


def test_native_where_it_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr(convolution, "find_spec", lambda name: None)
    monkeypatch.delenv("SEGJAX_NATIVE", raising=False)
    assert convolution.cpu_backend() == "xla"
    monkeypatch.setenv("SEGJAX_NATIVE", "1")
    with pytest.raises(ValueError, match="SEGJAX_NATIVE must be 0 where the package segjax-native is not installed"):
        convolution.cpu_backend()
    monkeypatch.setenv("SEGJAX_NATIVE", "yes")
    with pytest.raises(ValueError, match="SEGJAX_NATIVE must be 0 or 1, got 'yes'"):
        convolution.cpu_backend()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the traps and their cures are XLA's on CPU")
@pytest.mark.parametrize("depth", [0, 1, 2], ids=["scan", "vmap of scan", "nested vmap of scan"])
def test_compiles_to_the_fast_form_alone(depth, monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    kernel = normal(*(2,) * depth, 5, 5, 4, 4)
    function = descend
    for _ in range(depth):
        function = jax.vmap(function)
    program = jax.jit(function).lower(kernel).compile().as_text()
    forms = set(re.findall(r"dim_labels=([\w>-]+)", program))
    assert forms == {"b01f_01io->b01f"}
    assert "feature_group_count" not in program
    assert "batch_group_count" not in program


# What the inner and the outer `vmap` run over: inputs, kernel, cotangent.
@pytest.mark.parametrize("inner", [(0, 0, 0), (None, 0, 0), (0, None, None), (None, None, 0)], ids=str)
@pytest.mark.parametrize(
    "outer",
    [None, *(pytest.param(axes, marks=pytest.mark.slow) for axes in [(0, 0, 0), (None, 0, 0), (0, None, None)])],
    ids=str,
)
def test_off_a_cpu_vmap_gives_each_run_its_own_gradients(inner, outer):
    # Private: on a CPU nothing public reaches it.
    function, lead = convolution._plain_backward, [()] * 3
    for axes, runs in ((inner, 2), (outer, 3)):
        if axes:
            function = jax.vmap(function, axes)
            lead = [shape if axis is None else (runs, *shape) for axis, shape in zip(axes, lead, strict=True)]
    shapes = [(2, 5, 4, 2), (3, 2, 2, 3), (2, 5, 4, 3)]
    arrays = [normal(*before, *shape, seed=seed) for seed, (before, shape) in enumerate(zip(lead, shapes, strict=True))]
    ours = jax.jit(function)(*arrays)
    whole = (3, 2) if outer else (2,)
    # An axis of the outer `vmap` alone stands before those of the inner one.
    spread = []
    for array, shape, axis in zip(arrays, shapes, inner, strict=True):
        if axis is None:
            array = np.expand_dims(array, array.ndim - len(shape))
        spread.append(np.broadcast_to(array, (*whole, *shape)).reshape(-1, *shape))
    for index, run in enumerate(zip(*spread, strict=True)):
        expected = jax.vjp(plain_convolution, *run[:2])[1](run[2])
        picked = [leaf.reshape(-1, *leaf.shape[len(whole) :])[index] for leaf in ours]
        chex.assert_trees_all_close(picked, list(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "groups"), [(0, 1), (1, 2), (2, 4)])
def test_on_a_gpu_gradients_stay_cudnn_s(depth, groups):
    function = jax.grad(lambda inputs, kernel: jnp.sum(conv2d(inputs, kernel) ** 2), (0, 1))
    for _ in range(depth):
        function = jax.vmap(function)
    runs = (2,) * depth
    convolutions = convolutions_on_gpu(function, normal(*runs, 2, 9, 8, 3), normal(*runs, 5, 3, 3, 4))
    assert len(convolutions) == 3
    assert_are_cudnn_s(convolutions, (5, 3), {groups})


def test_on_a_gpu_runs_are_computed_one_after_the_other_where_that_is_asked_for(monkeypatch):
    def gradients(inputs, kernel):
        return jax.grad(lambda inputs: jnp.sum(conv2d(inputs, kernel) ** 2))(inputs)

    arguments = normal(2, 2, 9, 8, 3), normal(2, 5, 3, 3, 4)
    monkeypatch.setenv("SEGJAX_RUNS", "loop")
    assert_are_cudnn_s(convolutions_on_gpu(jax.vmap(gradients), *arguments), (5, 3), {1})
    monkeypatch.setenv("SEGJAX_RUNS", "side by side")
    with pytest.raises(ValueError, match="SEGJAX_RUNS must be groups or loop, got 'side by side'"):
        jax.eval_shape(lambda *run: conv2d(*run), INPUTS, KERNEL)


def test_second_derivatives_are_the_plain_ones(x64):
    def of_gradients(convolve, inputs, kernel):
        def squares(*arrays):
            return sum(jnp.sum(leaf**2) for leaf in gradients(convolve, *arrays))

        return jax.grad(squares, (0, 1))(inputs, kernel)

    arrays = np.float64(INPUTS), np.float64(KERNEL)
    ours, theirs = (jax.jit(partial(of_gradients, way))(*arrays) for way in (conv2d, plain_convolution))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("sharded", ["inputs", "kernel", "both"])
def test_gradients_of_arrays_sharded_over_explicit_axes(sharded):
    """One device is enough: the sharding is part of the types."""
    mesh = jax.make_mesh((1,), ("shards",), axis_types=(AxisType.Explicit,))
    axes = {"inputs": ("shards", None), "kernel": (None, "shards"), "both": ("shards", "shards")}[sharded]
    with jax.set_mesh(mesh):
        inputs = jax.device_put(INPUTS, NamedSharding(mesh, PartitionSpec(axes[0])))
        kernel = jax.device_put(KERNEL, NamedSharding(mesh, PartitionSpec(None, None, None, axes[1])))

        def loss(convolve, inputs, kernel):
            return jnp.sum(convolve(inputs, kernel) ** 2)

        ours = jax.jit(jax.grad(partial(loss, conv2d), (0, 1)))(inputs, kernel)
        theirs = jax.jit(jax.grad(partial(loss, plain_convolution), (0, 1)))(inputs, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("native", ["0", None])
def test_gradients_inside_shard_map_are_those_outside(native, monkeypatch):
    """With its default, which checks what varies over devices; the kernel is shared, so its gradient is their sum."""
    if native:
        monkeypatch.setenv("SEGJAX_NATIVE", native)
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))
    specs = PartitionSpec("devices"), PartitionSpec()

    def loss(inputs, kernel):
        return lax.psum(jnp.sum(conv2d(inputs, kernel) ** 2), "devices")

    sharded = jax.shard_map(jax.grad(loss, (0, 1)), mesh=mesh, in_specs=specs, out_specs=specs)
    plain = jax.grad(lambda *arrays: jnp.sum(plain_convolution(*arrays) ** 2), (0, 1))
    chex.assert_trees_all_close(jax.jit(sharded)(INPUTS, KERNEL), plain(INPUTS, KERNEL), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"dtype": jnp.bfloat16}, {"param_dtype": jnp.float16}])
@pytest.mark.parametrize("size", [(3, 5), (2, 4)])
def test_the_layer_takes_the_place_of_flax_s(size, options):
    ours, theirs = convolution.Conv(4, size, **options), nn.Conv(4, size, **options)
    with jax.numpy_dtype_promotion("standard"):
        params = ours.init(jax.random.key(0), INPUTS)
        expected = theirs.init(jax.random.key(0), INPUTS)
        dtype = options.get("param_dtype", np.float32)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
        values = ours.apply(params, INPUTS), theirs.apply(params, INPUTS)
    assert values[0].dtype == values[1].dtype
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_close(*values, rtol=0.02 if options.get("dtype") else 1e-5, atol=1e-5)


def test_refuses_forward_mode():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(conv2d, (INPUTS, KERNEL), (INPUTS, KERNEL))


@pytest.mark.parametrize("shape", [(3, 3, 2), (3, 3, 1, 4), (0, 3, 2, 4), (3, 3, 2, 0)])
def test_refuses_a_kernel_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"kernel must have shape \(height, width, 2, channels_out\), got"):
        conv2d(jnp.zeros((1, 8, 8, 2)), jnp.zeros(shape))


def test_squares_become_channels_and_come_back():
    x = normal(2, 6, 9, 4)
    deep = space_to_depth(x, 3)
    np.testing.assert_array_equal(deep[1, 1, 2].reshape(3, 3, 4), x[1, 3:6, 6:9])
    np.testing.assert_array_equal(depth_to_space(deep, 3), x)
    x = normal(1, 4, 6, 2)
    np.testing.assert_allclose(halve(x)[0, 1, 2], x[0, 2:4, 4:6].mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(double(x)[0, 5, 7], x[0, 2, 3])


@pytest.mark.parametrize(
    ("resize", "message"),
    [
        (lambda: halve(normal(1, 4, 3, 1)), "the width of x must be a multiple of 2, got 3"),
        (lambda: space_to_depth(normal(1, 4, 6, 1), 3), "the height of x must be a multiple of 3, got 4"),
        (lambda: depth_to_space(normal(1, 2, 2, 6), 2), "the channels of x must be a multiple of 4, got 6"),
        (lambda: space_to_depth(normal(1, 4, 4, 1), 0), "side must be an integer >= 1, got 0"),
        (lambda: double(normal(4, 4, 1)), r"x must have shape \(batch, height, width, channels\), got \(4, 4, 1\)"),
    ],
)
def test_refuses_images_that_do_not_divide(resize, message):
    with pytest.raises(ValueError, match=message):
        resize()


def test_refuses_a_kernel_of_another_dtype():
    with pytest.raises(TypeError, match="kernel must be of the dtype of inputs"):
        conv2d(jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 4), jnp.float16))
