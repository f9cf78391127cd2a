import numpy as np
import pytest
import scipy

from experiments.pictures import areas
from experiments.pictures.areas import AreaError

SIZE, SIGMA = 32, 6.4
# Bright noise and dark noise, which a threshold tells apart.
FIRST, SECOND = np.random.default_rng(0).normal(size=(2, 32, 128)) * 0.1 + np.array([1, 0])[:, None, None]


def segment(picture):
    """Sees the first material two pixels beyond its edge, and is unsure there."""
    blurred = scipy.ndimage.gaussian_filter(picture, 2)
    return scipy.special.expit(10 * (blurred - 0.25))


@pytest.fixture(scope="module")
def error():
    return areas.measure(segment, [FIRST], [SECOND], SIZE, SIGMA, 0.2)


@pytest.mark.parametrize("side", [32, 80, 160])
def test_the_interval_covers_the_true_area(side, error):
    rng = np.random.default_rng(5)
    covered, biases, counted = [], [], []
    for _ in range(100):
        picture, mask = areas.compose(rng, [FIRST], [SECOND], side, SIGMA * 2 ** rng.uniform(-1, 1), 0.2)
        low, high = error.interval(probability := segment(picture), SIZE)
        covered.append(low <= mask.mean() <= high)
        biases.append((low + high) / 2 - mask.mean())
        counted.append(areas.shares(probability)[0] - mask.mean())
    assert np.mean(covered) >= 0.9
    assert abs(np.mean(biases)) < 0.01
    # Where plain counting is far off.
    assert np.mean(counted) > 0.03


def test_a_composed_picture_shows_the_materials_where_its_mask_says():
    picture, mask = areas.compose(np.random.default_rng(1), [FIRST], [SECOND], 96, 8.0, 0.0)
    assert picture.shape == mask.shape == (96, 96)
    inside = scipy.ndimage.binary_erosion(mask, iterations=4)
    assert picture[inside].min() > 0.4
    assert picture[scipy.ndimage.binary_erosion(~mask, iterations=4)].max() < 0.6
    shares = [
        areas.compose(np.random.default_rng(seed), [FIRST], [SECOND], 32, 8.0, 0.0)[1].mean() for seed in range(50)
    ]
    assert 0.04 < min(shares) < 0.2
    assert 0.8 < max(shares) < 0.96


def test_an_interval_narrows_with_the_squares_and_stays_a_share():
    error = AreaError(slope=0.1, tilt=-0.2, picture=1e-4, square=9e-4, reach=2.1)
    probability = np.full((16, 16), 0.95)
    probability[:, :8] = 0.05
    probability[:4] = 0.6
    # 10 of 16 columns' worth of pixels are the first, 4 of 16 rows unsure.
    centre = 0.625 + 0.25 * (0.1 - 0.2 * 0.125)
    low, high = error.interval(probability, 16)
    assert (low + high) / 2 == pytest.approx(centre)
    assert (high - low) / 2 == pytest.approx(2.1 * 1e-3**0.5)
    low, high = error.interval(np.tile(probability, (3, 3)), 16)
    assert (high - low) / 2 == pytest.approx(2.1 * 2e-4**0.5)
    # What is left out makes a picture smaller.
    probability = np.where(np.arange(16) < 8, np.nan, 0.95)[None] * np.ones((16, 1))
    assert error.interval(probability, 16) == (pytest.approx(1 - 2.1 * 19e-4**0.5), 1.0)
