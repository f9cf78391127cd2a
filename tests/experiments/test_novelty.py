from functools import partial

import jax
import numpy as np
import pytest

from experiments.pictures import novelty
from segjax import generate_data

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


@pytest.mark.parametrize("sigmas", SIGMAS)
def test_images_of_training_are_not_strange(sigmas, squares):
    drawn = generate_data(jax.random.key(9), 64, SIZE, *sigmas, sigma=12.8).image[..., 0]
    shares = [novelty.strange_share(squares, np.asarray(image), SIZE) for image in drawn]
    assert np.mean(np.array(shares) > novelty.MOST_STRANGE) < 0.05


def test_what_is_something_else_is_strange(squares):
    noise = np.random.default_rng(0).uniform(size=(96, 96)).astype(np.float32)
    ramp = np.linspace(0, 1, 96, dtype=np.float32)
    for picture in (noise, np.zeros_like(noise), ramp[:, None] * ramp, (noise < 0.02).astype(np.float32)):
        assert novelty.strange_share(squares, picture, SIZE) > 0.9
        # On any scale of grey.
        assert novelty.strange_share(squares, 100 * picture - 7, SIZE) > 0.9


def test_what_has_no_square_is_not_judged(squares):
    assert novelty.strange_share(squares, np.zeros((15, 90), np.float32), SIZE) is None
    assert novelty.strange_share(squares[:0], np.zeros((90, 90), np.float32), SIZE) is None
