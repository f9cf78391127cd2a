import pytest
from small_runs import result

from experiments.notebook import published


def test_every_published_number_is_there():
    """11 numbers of the long run, 8 rates, and 2 of each of 4 optimizers, those of one held against two runs."""
    assert len({(row.label, row.thousands, row.quantity, row.value) for row in published.PUBLISHED}) == 29


def test_quantities_are_the_notebook_s():
    run = result([0.4, 0.2, 0.6], agreeing=[1, 0, 1])
    assert published.quantity(run, published.LOSS, 2) == pytest.approx(0.3)
    assert published.quantity(run, published.AGREEMENT, 3) == pytest.approx(2 / 3)
    assert published.quantity(run, published.LAST, 2) == 0
