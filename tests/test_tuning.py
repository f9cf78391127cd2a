import pytest

from experiments import tuning
from experiments.tuning import Candidate


def test_candidates_have_the_common_grid_or_their_own():
    found = tuning.candidates(["sgd", "optax:lion=1e-3,1e-5"], [0.1, 0.01])
    assert found == [Candidate("sgd", (0.01, 0.1)), Candidate("optax:lion", (1e-5, 1e-3))]


@pytest.mark.parametrize(
    ("texts", "rates", "message"),
    [
        ([], [0.1], "--optimizers must be different optimizers"),
        (["sgd", "sgd=0.2"], [0.1], "--optimizers must be different optimizers"),
        (["sdg"], [0.1], "--optimizers: 'sdg' is no optimizer"),
        (["sgd="], [0.1], "--optimizers: could not convert string to float"),
        (["sgd=fast"], [0.1], "--optimizers: could not convert string to float"),
        (["sgd=0.1,0.1"], [0.1], "--optimizers sgd= must be different numbers > 0"),
        (["sgd=-1"], [0.1], "--optimizers sgd= must be a finite number > 0"),
        (["sgd"], [], "--rates must be different numbers > 0"),
        (["sgd"], [float("nan")], "--rates must be a finite number > 0"),
    ],
)
def test_refuses(texts, rates, message):
    with pytest.raises(ValueError, match=message):
        tuning.candidates(texts, rates)
