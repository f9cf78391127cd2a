from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn

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
    variables = drawn(model)
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


@pytest.mark.parametrize("standardize", [False, True])
def test_any_network_is_tiled(standardize):
    model, image = Mean(standardize), picture(40, 33)
    variables = {"params": {"scale": np.float32(1)}}
    whole = at_once(model, variables, tiling.to_training_scale(image, 16))
    np.testing.assert_allclose(tiling.segment(model, variables, image, 16, tile_size=7), whole, atol=1e-4)


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


def test_the_training_scale_ignores_one_spot():
    image = picture(100, 100)
    image[50, 50] = 1e6
    scaled = tiling.to_training_scale(image, 20)
    assert scaled.dtype == np.float32
    assert np.percentile(scaled, 1) == pytest.approx(0, abs=0.05)
    assert np.percentile(scaled, 99) == pytest.approx(1, abs=0.05)


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


@pytest.mark.parametrize("kind", [np.float64, np.uint32])
def test_the_training_scale_of_a_small_contrast_on_a_large_offset(kind):
    ramp = np.linspace(0, 1, 20 * 20).reshape(20, 20)
    scaled = tiling.to_training_scale((4_000_000_100 + 1000 * ramp).astype(kind), 20)
    np.testing.assert_allclose(scaled, ramp, atol=2e-3)
    assert scaled.dtype == np.float32


def test_the_training_scale_of_a_constant_is_zero():
    np.testing.assert_array_equal(tiling.to_training_scale(np.full((30, 20), 7), 10), 0)


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
    with pytest.raises(ValueError, match="image_size must be an integer >= 1"):
        tiling.segment(model, variables, image, image_size=0)
    with pytest.raises(TypeError, match="model must be a Flax Linen module"):
        tiling.predict_tiled(None, variables, image)


@pytest.mark.parametrize("missing", ["margin", "multiple", "batch_statistics", "standardize"])
def test_refuses_a_network_that_does_not_tell(missing):
    model, image = NETWORKS["separate"], picture(8, 8)

    class Silent:
        init = apply = model.apply

    for name in {"margin", "multiple", "batch_statistics", "standardize"} - {missing}:
        setattr(Silent, name, getattr(model, name))
    with pytest.raises(TypeError, match=f"model must have the attribute {missing}, which segjax.models.Network desc"):
        tiling.segment(Silent(), some_variables(model), image, 16)
