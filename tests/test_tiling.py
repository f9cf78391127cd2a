from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables

import segjax
from segjax import tiling
from segjax.models import PatchCNN
from segjax.textures import rescale

pytestmark = pytest.mark.usefixtures("full_precision")

NETWORKS = {
    "separate": segjax.SegmentationCNN(num_channels=2, kernel_size=3, shared_norm=False),
    "even kernel": segjax.SegmentationCNN(num_channels=2, kernel_size=4, shared_norm=False, depth=3),
    "even unet": segjax.UNet(num_channels=2, kernel_size=2),
    "unet": segjax.UNet(num_channels=2),
    "patch": PatchCNN(num_channels=4, depth=2, standardize=False),
}


def picture(height, width):
    return np.random.default_rng(0).uniform(size=(height, width)).astype(np.float32)


def some_variables(model):
    """Weights large enough for probabilities all over (0, 1)."""
    variables = random_variables(model)
    return {**variables, "params": jax.tree.map(lambda leaf: 2 * leaf, variables["params"])}


@partial(jax.jit, static_argnums=0)
def at_once(model, variables, image):
    return jax.nn.sigmoid(segjax.predict(model, variables, image[None, ..., None]))[0, ..., 0]


SIZES = [((61, 90), 16), ((90, 61), 7), ((61, 61), 200), ((5, 70), 16)]
# Each pair is a program of its own.
TILED = [
    pytest.param(name, *size, marks=[pytest.mark.slow] * (name != "separate")) for name in NETWORKS for size in SIZES
]


@pytest.mark.parametrize(("name", "size", "tile_size"), TILED)
def test_tiles_give_what_the_whole_gives(name, size, tile_size):
    model, image = NETWORKS[name], picture(*size)
    variables = some_variables(model)
    whole = at_once(model, variables, image)
    assert np.ptp(whole) > 0.1
    progress = []
    tiled = tiling.predict_tiled(model, variables, image, tile_size, lambda done, total: progress.append((done, total)))
    assert tiled.dtype == np.float32
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
    assert progress == [(number, len(progress)) for number in range(1, len(progress) + 1)]


def test_all_tiles_of_a_picture_are_one_program():
    model, shapes = NETWORKS["patch"], set()

    class Spy:
        margin, multiple, batch_statistics, init = model.margin, model.multiple, False, model.init

        def apply(self, variables, window, train):
            shapes.add(window.shape)
            return model.apply(variables, window, train=train)

    tiling.predict_tiled(Spy(), some_variables(model), picture(100, 133), 32)
    assert len(shapes) == 1


@pytest.mark.parametrize("model", [NETWORKS["separate"], PatchCNN(num_channels=4, depth=2)])
def test_a_picture_of_the_training_size_is_scaled_as_in_training(model):
    variables, image = some_variables(model), 7 * picture(48, 48) - 3
    probability = tiling.segment(model, variables, image, image_size=48, tile_size=16)
    np.testing.assert_allclose(probability, at_once(model, variables, np.asarray(rescale(image))), atol=2e-4)


class Mean(nn.Module):
    """A network of somebody else: the mean of 3 x 3 pixels, or of the picture brought to mean 0 and variance 1."""

    standardize: bool = False
    margin = 1
    multiple = 1
    batch_statistics = False

    @nn.compact
    def __call__(self, image, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        if self.standardize:
            image = (image - image.mean()) / image.std()
        return scale * nn.avg_pool(image, (3, 3), padding="SAME")


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("standardize", [False, True])
def test_any_network_is_tiled(standardize):
    model, image = Mean(standardize), picture(40, 33)
    variables = {"params": {"scale": np.float32(1)}}
    whole = at_once(model, variables, tiling.to_training_scale(image, 40))
    np.testing.assert_allclose(tiling.segment(model, variables, image, 40, tile_size=7), whole, atol=1e-4)


def test_a_shared_norm_predicts_by_the_statistics_of_a_tile():
    model = segjax.SegmentationCNN(num_channels=2, kernel_size=3)
    variables, image = some_variables(model), picture(30, 30)
    np.testing.assert_allclose(
        tiling.predict_tiled(model, variables, image, 64), at_once(model, variables, image), atol=1e-5
    )
    # Each of several tiles has its own statistics.
    image[20:] *= 0.2
    tiled, side = tiling.predict_tiled(model, variables, image, 15), 15 + 2 * model.margin
    part = at_once(model, variables, image[:side, :side])
    np.testing.assert_allclose(tiled[:15, :15], part[:15, :15], atol=1e-5)
    assert np.abs(tiled - at_once(model, variables, image)).max() > 1e-2


# Stripes, every second with four times the contrast of the others.
HALVES = np.where(np.arange(256) // 32 % 2, 1, 4) * np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)


class Contrast(nn.Module):
    """Says where the picture's contrast is high: the mean deviation of 9 x 9 pixels above that of the whole."""

    standardize: bool = True
    margin = 4
    multiple = 1
    batch_statistics = False

    @nn.compact
    def __call__(self, image, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        if self.standardize:
            image = (image - image.mean()) / image.std()
        return scale * (nn.avg_pool(jnp.abs(image), (9, 9), padding="SAME") - 0.6)


def share(image, valid=None, tile_size=256):
    probability = tiling.segment(Contrast(), {"params": {"scale": np.float32(9)}}, image, 64, tile_size, valid=valid)
    return probability, float(np.mean(probability[np.isfinite(probability)] > 0.5))


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("number", [1, 25, 300])
@pytest.mark.parametrize("value", [-9999.0, -32768.0, 1e4, 1e15, "hot"])
def test_outliers_of_any_size_change_the_mask_around_them_alone(value, number):
    clean, right = share(HALVES)
    assert right == pytest.approx(0.5, abs=0.02)
    rng = np.random.default_rng(2)
    places = rng.choice(HALVES.size, number, replace=False)
    image = HALVES.copy()
    # A sensor's hot pixels have any value up to the largest of 16 bits.
    image.flat[places] = rng.uniform(60, 65535, number) if value == "hot" else value
    assert tiling.outliers(image).sum() == number
    disturbed, dirty = share(image)
    assert dirty == pytest.approx(right, abs=0.002)
    hot = np.zeros(HALVES.shape, bool)
    hot.flat[places] = True
    near = np.lib.stride_tricks.sliding_window_view(np.pad(hot, 6), (13, 13)).any(axis=(2, 3))
    assert np.mean((disturbed > 0.5)[~near] != (clean > 0.5)[~near]) < 0.001
    # As of one tile.
    np.testing.assert_allclose(share(image, tile_size=50)[0], disturbed, atol=1e-5)


@pytest.mark.usefixtures("mixed_dtypes")
def test_a_dark_bar_does_not_move_the_rest():
    image = HALVES.copy()
    image[-30:] = -200
    bar = np.arange(256)[:, None] >= 226
    assert (share(image)[0][:220] > 0.5).mean() == pytest.approx(0.5, abs=0.02)
    probability, right = share(image, np.broadcast_to(~bar, (256, 256)))
    assert right == pytest.approx(0.5, abs=0.02)
    assert np.isnan(probability[226:]).all()
    assert np.isfinite(probability[:226]).all()


def test_what_counts_alone_decides_on_the_scale():
    image = picture(60, 60)
    valid = np.ones((60, 60), bool)
    valid[20:40, 10:50] = False
    dirty = np.where(valid, image, 1e6 * np.random.default_rng(0).normal(size=(60, 60)))
    scaled = tiling.to_training_scale(dirty, 20, valid)
    np.testing.assert_allclose(scaled[valid], tiling.to_training_scale(image, 20)[valid], atol=0.05)
    assert 0 < scaled[~valid].min() <= scaled[~valid].max() < 1
    assert not tiling.outliers(dirty, valid).any()
    with pytest.raises(
        ValueError, match=r"valid must be a mask of shape \(60, 60\) with some True, got bool\(60, 60\)"
    ):
        tiling.to_training_scale(image, 20, np.zeros((60, 60), bool))
    with pytest.raises(ValueError, match="valid must be a mask of shape"):
        tiling.outliers(image, np.ones((60, 60)))


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("rows", [slice(0, 128), slice(64, 192)])
def test_a_hole_in_one_half_leaves_the_share_of_the_rest(rows):
    # The left half has the high contrast, and a quarter of that half is a hole: 3 of 7 parts remain.
    image = np.where(np.arange(256) < 128, 4, 1) * np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    valid = np.ones(image.shape, bool)
    valid[rows, 32:96] = False
    _, right = share(image)
    assert right == pytest.approx(1 / 2, abs=0.01)
    for missing in (-9999.0, 0.0):
        probability, rest = share(np.where(valid, image, np.float32(missing)), valid)
        assert rest == pytest.approx(3 / 7, abs=0.01)
        np.testing.assert_array_equal(np.isnan(probability), ~valid)


@pytest.mark.parametrize("sigma", [0.2, 1.2])
def test_training_images_have_no_outliers(sigma):
    images = segjax.generate_data(jax.random.key(0), 8, 64, sigma1=0.2, sigma2=sigma, sigma=12.8).image
    assert not any(tiling.outliers(np.asarray(image)[..., 0]).any() for image in images)


def test_an_outlier_gets_the_median_of_its_neighbours():
    image = picture(100, 100)
    image[50, 50], image[0, 0] = 1e6, -1e6
    scaled = tiling.to_training_scale(image, 20)
    assert scaled.dtype == np.float32
    assert np.percentile(scaled, [1, 99]) == pytest.approx([0, 1], abs=0.05)
    neighbours = np.delete(scaled[48:53, 48:53].ravel(), 12)
    assert scaled[50, 50] == np.sort(neighbours)[11]
    assert scaled.min() > -0.2


SQUARE = picture(20, 20)


@pytest.mark.parametrize(
    ("image", "size", "atol"),
    [
        (SQUARE, 20, 1e-6),
        # Smaller than a square of the training size, too; and no scale changes it.
        (5 * SQUARE - 2, 99, 1e-5),
        (np.float64(SQUARE) * 1e-50, 20, 1e-6),
        ((255 * SQUARE).astype(np.uint8), 20, 1e-6),
    ],
)
def test_the_training_scale_of_one_square_is_rescale(image, size, atol):
    numbers = image.astype(np.float32) if image.dtype == np.uint8 else SQUARE
    np.testing.assert_allclose(tiling.to_training_scale(image, size), rescale(numbers), atol=atol)


def test_the_training_scale_takes_arrays_of_jax():
    np.testing.assert_array_equal(
        tiling.to_training_scale(jnp.asarray(SQUARE), 20), tiling.to_training_scale(SQUARE, 20)
    )


def test_one_square_of_more_contrast_leaves_the_training_scale():
    image = picture(100, 100)
    scaled = tiling.to_training_scale(image, 20)
    image[:20, :20] *= 1.6
    np.testing.assert_allclose(tiling.to_training_scale(image, 20)[20:], scaled[20:], atol=2e-3)


@pytest.mark.parametrize("kind", [np.float64, np.uint32])
def test_the_training_scale_of_a_small_contrast_on_a_large_offset(kind):
    ramp = np.linspace(0, 1, 20 * 20).reshape(20, 20)
    scaled = tiling.to_training_scale((4_000_000_100 + 1000 * ramp).astype(kind), 20)
    np.testing.assert_allclose(scaled, ramp, atol=2e-3)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize("value", [7, 1.5e308, -1.5e308, np.float32(3e38)])
def test_the_training_scale_of_a_constant_is_zero(value):
    np.testing.assert_array_equal(tiling.to_training_scale(np.full((30, 20), value), 10), 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fraction", [0.3, 0.9, 1])
def test_the_training_scale_does_not_depend_on_the_unit(dtype, fraction):
    """Sums and differences of such pixels are infinite."""
    image = 2 * picture(40, 40).astype(dtype) - 1
    exponent = np.finfo(dtype).maxexp - 1
    huge = np.ldexp(image / np.abs(image).max() * dtype(fraction), exponent)
    np.testing.assert_array_equal(tiling.outliers(huge), tiling.outliers(image))
    scaled, expected = (tiling.to_training_scale(pixels, 20) for pixels in (huge, image))
    np.testing.assert_allclose(scaled, expected, atol=max(1e-6, 5 * np.finfo(dtype).eps))


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 1e37])
def test_the_largest_numbers_may_be_outliers(largest):
    image = picture(40, 40).astype(np.float32)
    clean = tiling.to_training_scale(image, 20)
    image[5, 7], image[30, 2] = largest, -largest
    assert np.argwhere(tiling.outliers(image)).tolist() == [[5, 7], [30, 2]]
    scaled = tiling.to_training_scale(image, 20)
    hot = np.abs(image) >= 1e37
    np.testing.assert_allclose(scaled[~hot], clean[~hot], atol=0.05)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), r"image must have shape \(height, width\), got \(4, 4, 3\)"),
        (np.zeros((0, 4)), "image must have shape"),
        (np.full((4, 4), np.nan), "image must be of real, finite numbers"),
        (np.full((4, 4), 1j), "image must be of real, finite numbers"),
    ],
)
def test_refuses_what_is_no_picture(image, message):
    model = NETWORKS["separate"]
    for function in (partial(tiling.segment, image_size=16), tiling.predict_tiled):
        with pytest.raises(ValueError, match=message):
            function(model, some_variables(model), image)


def test_refuses_other_arguments():
    model, image = NETWORKS["separate"], picture(8, 8)
    variables = some_variables(model)
    with pytest.raises(ValueError, match="tile_size must be an integer >= 1"):
        tiling.segment(model, variables, image, 16, tile_size=0)
    with pytest.raises(ValueError, match="image_size must be an integer >= 2"):
        tiling.segment(model, variables, image, image_size=1)
    with pytest.raises(TypeError, match="model must be a Flax Linen module"):
        tiling.predict_tiled(None, variables, image)
    shallow = NETWORKS["separate"].clone(depth=1)
    with pytest.raises(ValueError, match="variables must be of this model"):
        tiling.segment(shallow, variables, image, 16)


@pytest.mark.parametrize("missing", ["margin", "multiple", "batch_statistics", "standardize"])
def test_refuses_a_network_that_does_not_tell(missing):
    model, image = NETWORKS["separate"], picture(8, 8)

    class Silent:
        init = apply = model.apply

    for name in {"margin", "multiple", "batch_statistics", "standardize"} - {missing}:
        setattr(Silent, name, getattr(model, name))
    with pytest.raises(TypeError, match=f"model must have the attribute {missing}, which segjax.models.Network desc"):
        tiling.segment(Silent(), some_variables(model), image, 16)
