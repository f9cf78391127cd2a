import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax import edges

SHAPE = (2, 14, 17)


def masks(seed, shape=SHAPE):
    """Smooth ones, so that distances of all bands occur."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return scipy.ndimage.gaussian_filter(noise, (0, 4, 4)) > 0


def of_scipy(mask):
    """scipy's distance transform of either class of one image, minus half a pixel."""
    return np.where(mask, *(scipy.ndimage.distance_transform_edt(part) for part in (mask, ~mask))) - 0.5


def by_hand(predicted, true, tolerance):
    """A plain loop over the pixels of one image: the counts, from distances between all pairs of pixels."""
    pixels = list(itertools.product(*map(range, true.shape)))

    def nearest(pixel, of):
        return min(
            (np.hypot(pixel[0] - other[0], pixel[1] - other[1]) for other in pixels if of(other)), default=np.inf
        )

    def at_edge(mask, pixel):
        return any(mask[p] != mask[pixel] for p in pixels if abs(p[0] - pixel[0]) + abs(p[1] - pixel[1]) == 1)

    counted, wrong, rest = [0] * 5, [0] * 5, [0] * 4
    for pixel in pixels:
        distance = nearest(pixel, lambda other, p=pixel: true[other] != true[p]) - 0.5
        band = sum(distance > end for end in (1, 2, 4, 8))
        counted[band] += 1
        wrong[band] += true[pixel] != predicted[pixel]
        for place, (mask, other) in enumerate([(true, predicted), (predicted, true)]):
            if at_edge(mask, pixel):
                rest[2 * place] += 1
                rest[2 * place + 1] += nearest(pixel, lambda p, m=other: at_edge(m, p)) <= tolerance
    return counted, wrong, rest


def count(predicted, true, tolerance=2.0):
    """Counts of predicted masks, as logits, against true ones."""
    return edges.count(jnp.where(predicted, 3.0, -3.0)[..., None], jnp.asarray(true, jnp.float32)[..., None], tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_scipy(seed):
    mask = masks(seed, (2, 40, 33))
    expected, distance = np.stack([*map(of_scipy, mask)]), np.asarray(jax.jit(edges.edge_distance)(mask))
    near = expected <= 8.5
    assert 0.2 < near.mean() < 1
    np.testing.assert_allclose(distance[near], expected[near], rtol=1e-6)
    assert np.isinf(distance[~near]).all()


@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_counts_are_those_of_a_plain_loop(tolerance):
    true, predicted = masks(0), masks(1)
    counts = count(predicted, true, tolerance)
    hand = [by_hand(*masks_of_one, tolerance) for masks_of_one in zip(predicted, true, strict=True)]
    pixels, wrong, rest = (np.sum(parts, axis=0) for parts in zip(*hand, strict=True))
    np.testing.assert_array_equal(counts.pixels, pixels)
    np.testing.assert_array_equal(counts.wrong, wrong)
    np.testing.assert_array_equal(np.stack(counts[2:]), rest)
    assert counts.pixels.sum() == true.size


def test_a_straight_edge():
    """Columns 0 to 9 against 10 to 19: bands of known width; the prediction is one pixel off."""
    true, predicted = (np.tile(np.arange(20) < end, (1, 20, 1)) for end in (10, 11))
    counted = count(predicted, true)
    # At 0.5; 1.5; 2.5 and 3.5; 4.5 to 7.5; 8.5 and 9.5: on both sides.
    np.testing.assert_array_equal(counted.pixels, 20 * 2 * np.array([1, 1, 2, 4, 2]))
    np.testing.assert_array_equal(counted.wrong, [20, 0, 0, 0, 0])
    np.testing.assert_allclose(edges.error(counted), [0.5, 0, 0, 0, 0])
    assert edges.boundary_f(counted) == 1
    # Off by a pixel, two of its four columns of edge pixels are on the other's.
    assert edges.boundary_f(count(predicted, true, tolerance=0.5)) == pytest.approx(0.5)


def test_without_an_edge():
    nothing = jnp.zeros((1, 12, 12, 1))
    counted = edges.count(nothing - 3, nothing)
    assert counted.pixels.tolist() == [0, 0, 0, 0, 144]
    assert edges.error(counted).tolist() == [0] * 5
    assert edges.boundary_f(counted) == 1
    # A predicted edge where there is none.
    counted = count(masks(0, (1, 12, 12)), np.zeros((1, 12, 12)))
    assert counted.true_edge == 0 < counted.predicted_edge
    assert edges.boundary_f(counted) == 0


def test_a_nan_is_wrong_and_at_an_edge_that_matches_none():
    mask = jnp.zeros((1, 12, 12, 1)).at[:, 6:].set(1)
    nothing = jnp.full_like(mask, jnp.nan)
    for logits, true in ((nothing, mask), (nothing, nothing), (mask - 0.5, nothing), (nothing, jnp.zeros_like(mask))):
        counted = edges.count(logits, true)
        assert counted.wrong.sum() == counted.predicted_edge == 144
        assert edges.boundary_f(counted) == 0
    counted = edges.count((mask - 0.5).at[0, 0, 0].set(jnp.nan), mask)
    assert counted.wrong.tolist() == [0, 0, 0, 1, 0]
    assert counted.predicted_edge == 1 + counted.predicted_matched == 25


@settings(max_examples=10)
@given(st.integers(0, 100), st.integers(0, 100))
def test_counts_add(first, second):
    true, predicted = (np.concatenate([masks(seed), masks(seed + 1000)]) for seed in (first, second))
    parts, whole = [count(predicted[part], true[part]) for part in (slice(0, 2), slice(2, 4))], count(predicted, true)
    for added, expected in zip(jax.tree.map(jnp.add, *parts), whole, strict=True):
        np.testing.assert_array_equal(added, expected)
        assert added.dtype == jnp.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((1, 4, 4)), np.zeros((1, 4, 4))), "mask must have shape"),
        ((np.zeros((1, 4, 4, 1)), np.zeros((1, 5, 4, 1))), "logits must have the shape of mask"),
        ((np.zeros((1, 4, 4, 2)), np.zeros((1, 4, 4, 2))), "mask must have shape .batch, height, width, 1."),
        ((np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1)), 9), "tolerance must be at most 8 pixels"),
        ((np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1)), 0), "tolerance must be a finite number > 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        edges.count(*arguments)


@pytest.mark.parametrize("mask", [np.zeros((4, 4), bool), np.zeros((1, 4, 4))])
def test_distance_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(batch, height, width\)"):
        edges.edge_distance(mask)


def test_distance_refuses_no_reach():
    with pytest.raises(ValueError, match="reach must be an integer >= 1"):
        edges.edge_distance(np.zeros((1, 4, 4), bool), 0)
