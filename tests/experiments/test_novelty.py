from functools import partial

import jax
import numpy as np
import pytest

from experiments.pictures import novelty
from segjax import generate_data, tiling

SIZE = 64


@pytest.fixture(scope="module")
def squares():
    draws = [partial(generate_data, image_size=SIZE, sigma=12.8, sigma1=one, sigma2=two) for one, two in SIGMAS]
    return novelty.training_squares(*draws, SIZE)


SIGMAS = ((0.2, 1.2), (0.2, 0.2), (1.2, 1.2))


def test_a_square_is_described_by_its_differences():
    # Vertical stripes of one pixel: neighbours across differ by 1, those at distances 2 and 4 not at all.
    stripes = np.tile([0.0, 1.0], (8, 4))
    (described,) = novelty.describe(stripes, 8)
    one, none = np.log(np.sqrt(0.5)), np.log(1e-3)
    np.testing.assert_allclose(described, [0.5, np.log(0.5), one - np.log(0.5), none - one, 0], atol=1e-12)
    # Five whole squares in each of two rows; what is left over is left out.
    assert novelty.describe(np.zeros((17, 47)), 8).shape == (10, novelty.NUM_FEATURES)


def test_training_gives_the_most_squares_that_a_file_may_have(squares):
    assert squares.shape == (novelty.MAX_TRAINING_SQUARES, novelty.NUM_FEATURES)
    assert np.isfinite(squares).all()


def share(squares, picture):
    strange = novelty.strange(squares, tiling.to_training_scale(np.asarray(picture), SIZE), SIZE)
    return strange and strange.share


@pytest.mark.parametrize("sigmas", SIGMAS)
def test_images_of_training_are_not_strange(sigmas, squares):
    drawn = generate_data(jax.random.key(9), 64, SIZE, *sigmas, sigma=12.8).image[..., 0]
    shares = [share(squares, image) for image in drawn]
    assert np.mean(np.array(shares) > novelty.MOST_STRANGE) < 0.05


def test_what_is_something_else_is_strange(squares):
    noise = np.random.default_rng(0).uniform(size=(96, 96)).astype(np.float32)
    ramp = np.linspace(0, 1, 96, dtype=np.float32)
    for picture in (noise, np.zeros_like(noise), ramp[:, None] * ramp, (noise < 0.02).astype(np.float32)):
        assert share(squares, picture) > 0.9
        # On any scale of grey.
        assert share(squares, 100 * picture - 7) > 0.9


def test_strange_squares_are_known_by_their_pixels(squares):
    image = np.array(generate_data(jax.random.key(9), 1, 2 * SIZE, 0.2, 1.2, sigma=12.8).image[0, ..., 0])
    image = image[: SIZE + 5, : SIZE + 9]
    image[:32, :48] = 0.5
    strange = novelty.strange(squares, image, SIZE)
    assert strange.pixels.shape == image.shape
    assert strange.pixels[:32, :48].all()
    assert strange.share == pytest.approx(6 / 16, abs=0.13)
    # The last pixels belong to the last squares.
    np.testing.assert_array_equal(strange.pixels[-5:], np.broadcast_to(strange.pixels[SIZE - 1], (5, SIZE + 9)))
    valid = np.ones(image.shape, bool)
    valid[:32, :48] = False
    assert novelty.strange(squares, image, SIZE, valid).share < 0.2


def test_what_has_no_square_is_not_judged(squares):
    assert share(squares, np.zeros((15, 90), np.float32)) is None
    assert share(squares[:0], np.zeros((90, 90), np.float32)) is None
    assert novelty.strange(squares, np.zeros((90, 90)), SIZE, np.zeros((90, 90), bool)) is None


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


def test_a_blank_frame_is_named_and_a_texture_is_not():
    picture = np.full((100, 100), 7)
    picture[3, 3] = 9
    assert novelty.blank("a", picture) == ["a is blank: 99% of its pixels have one grey level. Its areas mean nothing."]
    assert novelty.blank("a", texture()) == []
    # Rows of one grey level each, but not of one.
    assert novelty.blank("a", np.broadcast_to(np.arange(100.0)[:, None], (100, 100))) == []
