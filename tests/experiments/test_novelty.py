from functools import partial

import jax
import numpy as np
import pytest
import scipy

from experiments.pictures import novelty
from segjax import Batch, generate_data, tiling
from segjax.textures import rescale

SIZE = 64


@pytest.fixture(scope="module")
def reference():
    draws = [partial(generate_data, image_size=SIZE, sigma=12.8, sigma1=one, sigma2=two) for one, two in SIGMAS]
    return novelty.reference(*draws, SIZE)


SIGMAS = ((0.2, 1.2), (0.2, 0.2), (1.2, 1.2))


def test_a_square_is_described_by_its_differences():
    # Vertical stripes of one pixel: neighbours across differ by 1, those at distances 2 and 4 not at all.
    stripes = np.tile([0.0, 1.0], (8, 4))
    (described,) = novelty.describe(stripes, 8)
    one, none = np.log(np.sqrt(0.5)), np.log(1e-3)
    np.testing.assert_allclose(described, [0.5, np.log(0.5), one - np.log(0.5), none - one, *[0] * 4], atol=1e-12)
    # Bright dots on dark ground, and dark ones on bright ground.
    dots = np.zeros((8, 8))
    dots[::4, ::4] = 1
    (bright,), (dark,) = novelty.describe(dots, 8), novelty.describe(1 - dots, 8)
    np.testing.assert_allclose(bright[5:], -dark[5:], atol=1e-12)
    assert (bright[5:] > 1).all()
    np.testing.assert_allclose(bright[1:5], dark[1:5], atol=1e-12)
    # Five whole squares in each of two rows; what is left over is left out.
    assert novelty.describe(np.zeros((17, 47)), 8).shape == (10, novelty.NUM_FEATURES)


def test_training_gives_the_most_squares_that_a_file_may_have(reference):
    assert reference.squares.shape == (novelty.MAX_TRAINING_SQUARES, novelty.NUM_FEATURES)
    assert reference.images.shape == (novelty.MAX_TRAINING_IMAGES, novelty.NUM_FEATURES)
    assert reference.number == 16
    assert all(np.isfinite(features).all() for features in reference[:2])


def share(reference, picture):
    strange = novelty.strange(reference, tiling.to_training_scale(np.asarray(picture), SIZE), SIZE)
    return strange and strange.share


@pytest.mark.parametrize("sigmas", SIGMAS)
def test_images_of_training_are_not_strange(sigmas, reference):
    drawn = generate_data(jax.random.key(9), 64, SIZE, *sigmas, sigma=12.8).image[..., 0]
    strange = [novelty.strange(reference, np.asarray(image), SIZE) for image in drawn]
    assert np.mean([each.share > novelty.MOST_STRANGE or each.distance > 1 for each in strange]) < 0.05


def test_what_is_something_else_is_strange(reference):
    noise = np.random.default_rng(0).uniform(size=(96, 96)).astype(np.float32)
    ramp = np.linspace(0, 1, 96, dtype=np.float32)
    for picture in (noise, np.zeros_like(noise), ramp[:, None] * ramp, (noise < 0.02).astype(np.float32)):
        assert share(reference, picture) > 0.9
        # On any scale of grey.
        assert share(reference, 100 * picture - 7) > 0.9


def test_a_negative_and_another_magnification_are_far_from_training():
    # Bright discs on a dark ground, of 5 pixels across.
    def draw(key, batch_size):
        dots = jax.random.bernoulli(key, 0.02, (batch_size, SIZE, SIZE)).astype(float)
        discs = np.asarray([scipy.ndimage.grey_dilation(dot, (5, 5)) for dot in np.asarray(dots)])
        noise = np.asarray(jax.random.normal(key, discs.shape))
        return Batch(rescale(discs + 0.1 * noise)[..., None], dots[..., None])

    reference = novelty.reference(draw, draw, draw, SIZE)
    images = np.asarray(draw(jax.random.key(9), 4).image[..., 0])

    def compared(pictures):
        return [novelty.strange(reference, tiling.to_training_scale(picture, SIZE), SIZE) for picture in pictures]

    def far(pictures):
        return np.array([each.distance for each in compared(pictures)])

    assert (far(images) < 1.2).all()
    assert (far(1 - images) > 2).all()
    assert [each.negative for each in compared([*images, *(1 - images)])] == [False] * 4 + [True] * 4
    assert (far(images[:, :32, :32].repeat(2, 1).repeat(2, 2)) > 2).all()
    assert (far(scipy.ndimage.gaussian_filter(images, (0, 1, 1))) > 2).all()


def spots(key, batch_size, size):
    """Sparse bright spots in noise: in a small image they hardly show the sign of its contrast."""
    keys = jax.random.split(key)
    dots = np.asarray(jax.random.bernoulli(keys[0], 0.01, (batch_size, size, size)), float)
    blurred = scipy.ndimage.gaussian_filter(dots, (0, 1, 1))
    noise = scipy.ndimage.gaussian_filter(np.asarray(jax.random.normal(keys[1], dots.shape)), (0, 1, 1))
    return blurred + 0.2 * noise


def test_a_large_negative_is_recognised_where_small_images_scatter():
    def draw(key, batch_size):
        return Batch(rescale(spots(key, batch_size, 32))[..., None], np.zeros((batch_size, 32, 32, 1)))

    reference = novelty.reference(draw, draw, draw, 32)
    for picture in spots(jax.random.key(9), 3, 256):
        plain, negative = (
            novelty.strange(reference, tiling.to_training_scale(each, 32), 32) for each in (picture, -picture)
        )
        assert not plain.negative
        assert negative.negative
        # Neither its squares nor its distance say so.
        assert negative.share < novelty.MOST_STRANGE
        assert negative.distance < 1
        # Nor is something else a negative, though with dark and bright swapped it is nearer.
        other = novelty.strange(reference, tiling.to_training_scale(-picture.repeat(4, 0).repeat(4, 1), 32), 32)
        assert other.distance > 1
        assert not other.negative
        # A picture as small as a training image is not judged.
        assert not novelty.strange(reference, tiling.to_training_scale(-picture[:32, :32], 32), 32).negative


def test_a_texture_that_looks_like_its_negative_is_no_negative(reference):
    drawn = generate_data(jax.random.key(9), 8, 2 * SIZE, 0.2, 1.2, sigma=12.8).image[..., 0]
    for image in np.asarray(drawn):
        for picture in (image, 1 - image):
            assert not novelty.strange(reference, tiling.to_training_scale(picture, SIZE), SIZE).negative


def test_strange_squares_are_known_by_their_pixels(reference):
    image = np.array(generate_data(jax.random.key(9), 1, 2 * SIZE, 0.2, 1.2, sigma=12.8).image[0, ..., 0])
    image = image[: SIZE + 5, : SIZE + 9]
    image[:32, :48] = 0.5
    strange = novelty.strange(reference, image, SIZE)
    assert strange.pixels.shape == image.shape
    assert strange.pixels[:32, :48].all()
    assert strange.share == pytest.approx(6 / 16, abs=0.13)
    # The last pixels belong to the last squares.
    np.testing.assert_array_equal(strange.pixels[-5:], np.broadcast_to(strange.pixels[SIZE - 1], (5, SIZE + 9)))
    valid = np.ones(image.shape, bool)
    valid[:32, :48] = False
    assert novelty.strange(reference, image, SIZE, valid).share < 0.2


def test_what_has_no_square_is_not_judged(reference):
    assert share(reference, np.zeros((15, 90), np.float32)) is None
    assert share(reference._replace(squares=reference.squares[:0]), np.zeros((90, 90), np.float32)) is None
    assert novelty.strange(reference, np.zeros((90, 90)), SIZE, np.zeros((90, 90), bool)) is None


def texture():
    return np.random.default_rng(0).uniform(50, 200, (120, 150))


@pytest.mark.parametrize(
    ("edge", "rows", "columns", "box"),
    [
        ("bottom", slice(90, None), slice(None), "0,90,150,30"),
        ("top", slice(None, 12), slice(None), "0,0,150,12"),
        ("left", slice(None), slice(None, 40), "0,0,40,120"),
        ("right", slice(None), slice(130, None), "130,0,20,120"),
    ],
)
def test_an_information_bar_is_named(edge, rows, columns, box):
    picture = texture()
    # Compressed, with a line at its edge and text in it.
    picture[rows, columns] = np.random.default_rng(1).uniform(0, 1.4, picture[rows, columns].shape)
    bar = picture[rows, columns]
    bar[bar.shape[0] // 2, ::3] = 255
    (sentence,) = novelty.blank("a", picture)
    assert f"at the {edge}. --ignore-box {box} leaves it out" in sentence
    valid = np.ones(picture.shape, bool)
    valid[rows, columns] = False
    assert novelty.blank("a", picture, valid) == []


def test_pixels_far_from_all_others_make_no_bar_of_the_rest():
    picture = texture()
    picture[np.random.default_rng(1).uniform(size=picture.shape) < 0.01] = -9999
    assert novelty.blank("a", picture) == []
    picture[:, :60] = -9999
    (sentence,) = novelty.blank("a", picture)
    assert "60 pixels, at the left. --ignore-box 0,0,60,120 leaves it out" in sentence


def test_a_blank_frame_is_named_and_a_texture_is_not():
    picture = np.full((100, 100), 7)
    picture[3, 3] = 9
    assert novelty.blank("a", picture) == ["a is blank: 99% of its pixels have one grey level. Its areas mean nothing."]
    assert novelty.blank("a", texture()) == []
    # Half of the pixels of two grey levels have one of them.
    assert novelty.blank("a", np.random.default_rng(0).integers(0, 2, (50, 40)).astype(float)) == []
    # Rows of one grey level each, but not of one.
    assert novelty.blank("a", np.broadcast_to(np.arange(100.0)[:, None], (100, 100))) == []
