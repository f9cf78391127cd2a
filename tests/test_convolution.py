import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax.convolution import conv2d

KEYS = jax.random.split(jax.random.key(0), 3)
INPUTS = jax.random.normal(KEYS[0], (2, 9, 8, 3))
KERNEL = jax.random.normal(KEYS[1], (5, 3, 3, 4))
WEIGHTS = jax.random.normal(KEYS[2], (2, 9, 8, 4))


def plain(inputs, kernel):
    """JAX's own convolution, differentiated by JAX's own rules."""
    padding = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradients(convolve, inputs, kernel):
    return jax.grad(lambda *arguments: jnp.sum(WEIGHTS * convolve(*arguments) ** 2), (0, 1))(inputs, kernel)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 5), (5, 5)])
def test_value_and_gradients_are_the_plain_ones(size):
    kernel = jax.random.normal(KEYS[1], (*size, 3, 4))
    chex.assert_trees_all_close(conv2d(INPUTS, kernel), plain(INPUTS, kernel), rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(conv2d, INPUTS, kernel), gradients(plain, INPUTS, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("batch", "height"), [(1, 40), (1, 4), (3, 13), (7, 13), (8, 13)])
def test_few_images_are_cut_into_bands_without_a_trace(batch, height, x64):
    inputs = jax.random.normal(KEYS[0], (batch, height, 6, 2))
    kernel = jax.random.normal(KEYS[1], (4, 3, 2, 3))
    ours, theirs = (
        jax.grad(lambda *run, convolve=convolve: jnp.sum(jnp.sin(convolve(*run))), (0, 1))(inputs, kernel)
        for convolve in (conv2d, plain)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-11)


def test_gradients_are_exact_in_float64(x64):
    inputs, kernel = INPUTS.astype(jnp.float64), KERNEL.astype(jnp.float64)
    ours, theirs = gradients(conv2d, inputs, kernel), gradients(plain, inputs, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 3)])
def test_vmap_is_a_loop(axes):
    sizes = {0: 3, 1: 3, 3: 3}
    inputs = INPUTS if axes[0] is None else jnp.stack([INPUTS, 2 * INPUTS, -INPUTS], axes[0])
    kernels = KERNEL if axes[1] is None else jnp.stack([KERNEL, -KERNEL, 3 * KERNEL], axes[1])
    batched = jax.vmap(lambda *run: gradients(conv2d, *run), axes)(inputs, kernels)
    for index in range(sizes[0]):
        single = gradients(
            plain,
            inputs if axes[0] is None else jnp.take(inputs, index, axes[0]),
            kernels if axes[1] is None else jnp.take(kernels, index, axes[1]),
        )
        picked = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        chex.assert_trees_all_close(picked, single, rtol=1e-4, atol=1e-2)


def test_nested_vmap():
    inputs = jnp.stack([INPUTS, -INPUTS])
    kernels = jnp.stack([KERNEL, 2 * KERNEL, -KERNEL])
    nested = jax.vmap(jax.vmap(conv2d, (None, 0)), (0, None))(inputs, kernels)
    chex.assert_shape(nested, (2, 3, 2, 9, 8, 4))
    expected = jnp.stack([jnp.stack([plain(x, kernel) for kernel in kernels]) for x in inputs])
    np.testing.assert_allclose(nested, expected, rtol=1e-4, atol=1e-4)


def descend(kernel):
    """A loop of gradient steps: where JAX's own rules leave the fast path."""

    def step(kernel, _):
        images = conv2d(INPUTS, KERNEL)
        return kernel - 1e-4 * jax.grad(lambda k: jnp.sum(conv2d(images, k) ** 2))(kernel), None

    return lax.scan(step, kernel, length=4)[0]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the traps and their cures are XLA's on CPU")
@pytest.mark.parametrize("depth", [0, 1, 2], ids=["scan", "vmap of scan", "nested vmap of scan"])
def test_compiles_to_the_fast_form_alone(depth):
    kernel = jax.random.normal(KEYS[1], (2,) * depth + (5, 5, 4, 4))
    function = descend
    for _ in range(depth):
        function = jax.vmap(function)
    program = jax.jit(function).lower(kernel).compile().as_text()
    forms = set(re.findall(r"dim_labels=([\w>-]+)", program))
    assert forms == {"b01f_01io->b01f"}
    assert "feature_group_count" not in program
    assert "batch_group_count" not in program


def test_refuses_forward_mode():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(conv2d, (INPUTS, KERNEL), (INPUTS, KERNEL))
