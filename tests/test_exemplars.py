import collections
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segjax
from segjax.exemplars import generate_crops, mix_crops

# One program each: drawn operation by operation, every one of them would be compiled.
draw = jax.jit(generate_crops, static_argnames=("batch_size", "image_size"))
mix = jax.jit(mix_crops)
KEY = jax.random.key(0)
FIRST, SECOND = np.random.default_rng(1).uniform(size=(2, 20, 30)).astype(np.float32)
FIRST_WITH_NAN = np.where(np.arange(600).reshape(20, 30) == 7, np.float32(np.nan), FIRST)
SMALL = {"first": FIRST, "second": SECOND, "batch_size": 2, "image_size": 16, "sigma": 4.0}


def test_images_and_masks_keep_their_range():
    batch = draw(KEY, **SMALL)
    chex.assert_shape(batch, (2, 16, 16, 1))
    chex.assert_tree_all_finite(batch)
    np.testing.assert_array_equal(np.min(batch.image, axis=(1, 2, 3)), 0)
    np.testing.assert_array_equal(np.max(batch.image, axis=(1, 2, 3)), 1)
    assert set(np.unique(batch.mask)) == {0.0, 1.0}


def test_pure_function_of_the_key():
    first = draw(KEY, **SMALL)
    chex.assert_trees_all_equal(first, draw(KEY, **SMALL))
    other = draw(jax.random.key(1), **SMALL)
    assert np.any(first.image != other.image)
    assert np.any(first.mask != other.mask)


def test_sizes_are_those_of_the_textures():
    large = np.zeros((200, 200), np.float32)
    shapes = jax.eval_shape(generate_crops, KEY, large, large)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, jax.eval_shape(segjax.generate_data, KEY))


@pytest.mark.slow
def test_jit_and_vmap_change_nothing():
    generate = partial(draw, **SMALL)
    chex.assert_trees_all_close(generate(KEY), generate_crops(KEY, **SMALL), atol=1e-6)
    keys = jax.random.split(KEY, 3)
    batches = jax.jit(jax.vmap(generate))(keys)
    for index in range(3):
        single = jax.tree.map(lambda leaf, i=index: leaf[i], batches)
        chex.assert_trees_all_close(single, generate(keys[index]), atol=1e-6)


def test_a_crop_is_laid_down_in_each_of_eight_ways():
    # As large as the image, an exemplar has one place to be cut from.
    square = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    batch = jax.device_get(draw(KEY, square, square, batch_size=400, image_size=4, sigma=4.0, contrast=0))
    ways = [np.rot90(turned, quarter) / 15 for turned in (square, square.T) for quarter in range(4)]
    whole = [image for image, mask in zip(batch.image[..., 0], batch.mask, strict=True) if np.ptp(mask) == 0]
    ways_of_images = {way for image in whole for way in range(8) if np.allclose(image, ways[way], atol=1e-6)}
    assert ways_of_images == set(range(8))
    assert all(any(np.allclose(image, way, atol=1e-6) for way in ways) for image in whole)


def test_every_place_of_an_exemplar_is_cut():
    # Three neighbours on a parabola tell by the place of the middle one between the two others where they are from.
    parabola = np.broadcast_to(np.arange(6, dtype=np.float32), (3, 6)) ** 2
    batch = jax.device_get(draw(KEY, parabola, parabola, batch_size=200, image_size=3, sigma=3.0, contrast=0))
    whole = [image for image, mask in zip(batch.image, batch.mask, strict=True) if np.ptp(mask) == 0]
    places = [((k + 1) ** 2 - k**2) / ((k + 2) ** 2 - k**2) for k in range(4)]
    assert {round(float(np.median(image)), 4) for image in whole} == {round(place, 4) for place in places}


def test_every_place_of_several_exemplars_is_as_likely():
    # Parts of one parabola: 4 places in the first; 3 columns in 2 rows in the second, which is higher.
    parabola = np.arange(20, dtype=np.float32) ** 2
    exemplars = [np.broadcast_to(parabola[:6], (3, 6)), np.broadcast_to(parabola[10:15], (4, 5))]
    batch = jax.device_get(draw(KEY, exemplars, exemplars, batch_size=2000, image_size=3, sigma=3.0, contrast=0))
    whole = [image for image, mask in zip(batch.image, batch.mask, strict=True) if np.ptp(mask) == 0]
    weights = {
        round(((k + 1) ** 2 - k**2) / ((k + 2) ** 2 - k**2), 3): 1 if k < 4 else 2 for k in (0, 1, 2, 3, 10, 11, 12)
    }
    counts = collections.Counter(round(float(np.median(image)), 3) for image in whole)
    assert counts.keys() == weights.keys()
    for place, weight in weights.items():
        assert counts[place] == pytest.approx(len(whole) * weight / 10, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("others", [[], [np.full((20, 16), 5, np.float32)]])
def test_contrast_scales_a_crop_about_its_exemplar_s_mean(others):
    # Pixels of 2 and of 4, more of these to the right, so that a crop has another mean; and beside them 5, which no
    # contrast changes: in the image it is 1, and the pixels of 2 are 0.
    fours = np.random.default_rng(0).uniform(size=(16, 40)) < np.linspace(0.1, 0.9, 40)
    first, second = np.where(fours, 4, 2).astype(np.float32), np.full((16, 16), 5, np.float32)
    exemplars = [first, *others]
    batch = jax.device_get(draw(KEY, exemplars, second, batch_size=400, image_size=16, sigma=4.0, contrast=0.3))
    mean, factors = first.mean(), []
    # Around a pixel that the edge does not reach, all are of one kind.
    padded = np.pad(batch.mask[..., 0] > 0.5, [(0, 0), (5, 5), (5, 5)], mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (1, 2))
    first_alone, some_first = around.all((-2, -1)), around.any((-2, -1))
    for image, whole, some in zip(batch.image[..., 0], first_alone, some_first, strict=True):
        inside = image[whole]
        if not some.all() and inside.size and inside.min() < 1e-4 and inside.max() > 0.1:
            top = inside.max()
            np.testing.assert_allclose(inside, np.where(inside > top / 2, top, 0), atol=1e-4)
            # (5 - four) / (5 - two) = 1 - top, where four = mean + factor (4 - mean), and two alike.
            factors.append((5 - mean) * top / ((4 - mean) - (1 - top) * (2 - mean)))
    assert len(factors) > 100
    assert min(factors) == pytest.approx(0.7, abs=0.02)
    assert max(factors) == pytest.approx(1.3, abs=0.02)


def test_away_from_the_edge_pixels_are_the_photographs():
    mask = np.broadcast_to(np.arange(40) < 20, (1, 40, 40))
    first, second = np.random.default_rng(2).uniform(size=(2, 1, 40, 40)).astype(np.float32)
    first[0, 0, 0], second[0, 0, -1] = -1, 3
    batch = mix(mask, first, second)
    np.testing.assert_array_equal(batch.mask[..., 0], mask)
    # The darkest and the brightest pixel are far from the edge, so the scale is known.
    np.testing.assert_allclose(batch.image[0, :, :14, 0], (first[0, :, :14] + 1) / 4, atol=1e-6)
    np.testing.assert_allclose(batch.image[0, :, 26:, 0], (second[0, :, 26:] + 1) / 4, atol=1e-6)
    # At the edge both count, by weights that mirror each other.
    weights = np.asarray(mix(mask, np.ones_like(first), np.zeros_like(second)).image)[0, 5, :, 0]
    np.testing.assert_allclose(weights + weights[::-1], 1, atol=1e-3)
    assert np.all(np.diff(weights) <= 1e-6)


@pytest.mark.slow
def test_trains_by_the_same_path():
    model = segjax.SegmentationCNN(num_channels=4, kernel_size=3)
    bright, dark = np.full((20, 20), 0.9, np.float32), np.full((20, 20), 0.1, np.float32)
    train = segjax.make_train(
        model, num_steps=30, generate=generate_crops, first=bright, second=dark, batch_size=2, image_size=16
    )
    _, history = jax.jit(train)(KEY, 1e-2, sigma=3.0)
    assert np.mean(history.loss[-5:]) < 0.5 * np.mean(history.loss[:5])


def test_takes_the_place_of_gaussian_textures():
    model = segjax.SegmentationCNN(num_channels=2, kernel_size=3, depth=1)
    train = segjax.make_train(model, num_steps=3, generate=generate_crops, **SMALL)
    state, history = jax.eval_shape(train, KEY, 1e-2, sigma=3.0, contrast=0.1)
    assert history.loss.shape == (3,)
    options = {"num_batches": 2, "generate": generate_crops, **SMALL}
    counts = jax.eval_shape(lambda state: segjax.evaluate(KEY, model, state.variables, **options), state)
    assert counts.agreeing.shape == ()
    variables = jax.eval_shape(lambda state: segjax.recalibrate(KEY, model, state.variables, **options), state)
    chex.assert_trees_all_equal_shapes(variables, state.variables)


def test_dtype_follows_the_exemplars(x64):
    wide = {**SMALL, "first": FIRST.astype(np.float64), "second": SECOND.astype(np.float64)}
    assert jax.eval_shape(partial(draw, **wide), KEY).image.dtype == np.float64
    assert jax.eval_shape(partial(draw, **SMALL), KEY).image.dtype == np.float32


def test_the_difference_of_two_pixels_is_finite_too():
    far = np.zeros((20, 30), np.float32)
    far[0, :2] = 2e38, -2e38
    with pytest.raises(ValueError, match="crops are finite in float32"):
        generate_crops(KEY, **{**SMALL, "first": far, "second": np.zeros_like(far)})


def test_float64_exemplars_are_float32_where_x64_is_not_enabled():
    wide = {**SMALL, "first": FIRST.astype(np.float64), "second": SECOND.astype(np.float64)}
    assert jax.eval_shape(partial(draw, **wide), KEY).image.dtype == np.float32
    # Finite in float64, and infinite in the computation.
    with pytest.raises(ValueError, match="crops are finite in float32"):
        generate_crops(KEY, **{**wide, "first": 1e39 * wide["first"]})


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"image_size": 21}, r"first must have shape \(height, width\), both at least 21, got \(20, 30\)"),
        (ValueError, {"second": SECOND[None]}, "second must have shape"),
        (TypeError, {"second": np.zeros((20, 20), np.uint8)}, "second must be of a floating dtype"),
        (
            TypeError,
            {"second": SECOND.astype(np.float16)},
            "second must be of the dtype of first, float32, got float16",
        ),
        (TypeError, {"first": 1.0}, "first must be an array"),
        (TypeError, {"first": [FIRST, [1.0]]}, r"first\[1\] must be an array"),
        (ValueError, {"second": []}, "second must be an array or several, got none"),
        (ValueError, {"second": [SECOND, SECOND[:9]]}, r"second\[1\] must have shape .* at least 16, got \(9, 30\)"),
        (TypeError, {"first": [FIRST, FIRST.astype(np.float16)]}, "first must be of the dtype of first, float32, got"),
        (ValueError, {"contrast": 1.0}, r"contrast must be a number in \[0, 1\)"),
        (ValueError, {"contrast": -0.1}, "contrast must be"),
        (ValueError, {"contrast": float("nan")}, "contrast must be"),
        (ValueError, {"sigma": 0.0}, "sigma must be a finite number > 0"),
        (ValueError, {"sigma": 1e-30}, "sigma must be .* whose square is 0 in float32"),
        (ValueError, {"batch_size": 2**31 - 1}, r"batch_size \* image_size\^2 must be at most 2\^31 - 1 pixels"),
        (ValueError, {"first": FIRST_WITH_NAN}, "first must be finite numbers, got NaN or infinity in 1 pixels"),
        (ValueError, {"second": [SECOND, FIRST_WITH_NAN]}, r"second\[1\] must be finite numbers, got NaN or infinity"),
        (ValueError, {"second": np.full_like(SECOND, np.inf)}, "second must be finite numbers, got NaN or infinity"),
        (ValueError, {"first": FIRST * np.float32(3e38)}, "first and second must be .* crops are finite in float32"),
        (ValueError, {"batch_size": 0}, "batch_size must be an integer >= 1"),
    ],
)
def test_refuses(error, options, message):
    with pytest.raises(error, match=message):
        generate_crops(KEY, **{**SMALL, **options})


@pytest.mark.parametrize("option", ["sigma", "contrast"])
def test_a_bad_traced_option_makes_the_images_nan(option):
    first, second = jax.random.uniform(jax.random.key(1), (2, 20, 20))

    @jax.jit
    def draw(value):
        return generate_crops(jax.random.key(0), first, second, batch_size=2, image_size=16, **{option: value})

    assert jnp.isfinite(draw(0.5).image).all()
    for bad in (-0.5, jnp.nan, jnp.inf, {"sigma": 0.0, "contrast": 1.0}[option]):
        batch = draw(bad)
        assert jnp.isnan(batch.image).all(), bad
        assert option == "contrast" or jnp.isnan(batch.mask).all(), bad
