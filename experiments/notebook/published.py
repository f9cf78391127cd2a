"""The numbers that the notebook publishes, and the same quantities for our runs."""

from typing import NamedTuple

import numpy as np

from experiments.lab.runs import Result
from segjax import metrics

ADAM_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 5.0)
LOSS, AGREEMENT, LAST = "loss", "agreement", "last batch's agreement"
# Notes on its last run, which has momentum and is called SGD.
MISNAMED, AS_MOMENTUM = 'its "SGD"', 'its "SGD", as momentum'


class Published(NamedTuple):
    """A number in the notebook: its run, its thousands of steps, its quantity, and its value."""

    label: str
    thousands: int
    quantity: str
    value: float
    note: str = ""


# Losses after each thousand steps of the long run, and after the thousand steps of Adam at each rate.
LONG_SGD = (1.3996e-1, 9.6638e-2, 7.6834e-2, 6.5161e-2, 5.7315e-2, 5.1751e-2, 4.7524e-2, 4.4245e-2, 4.1612e-2, 3.944e-2)
ADAM = (1.3820e-1, 3.5675e-2, 1.4514e-2, 1.3491e-2, 2.6231e-2, 3.3673e-2, 7.2490e-2, 5.0313e-1)
PUBLISHED = (
    *(Published("sgd 0.001", thousands, LOSS, value) for thousands, value in enumerate(LONG_SGD, start=1)),
    Published("sgd 0.001", 10, LAST, 0.8326),
    *(Published(f"adam {rate:g}", 1, LOSS, value) for rate, value in zip(ADAM_RATES, ADAM, strict=True)),
    Published("adam 0.001", 1, LOSS, 1.4081e-2, "its second run"),
    Published("adam 0.001", 1, AGREEMENT, 0.9182),
    Published("rmsprop 0.001", 1, LOSS, 1.3566e-2),
    Published("rmsprop 0.001", 1, AGREEMENT, 0.9356),
    Published("momentum 0.001", 1, LOSS, 3.8248e-2),
    Published("momentum 0.001", 1, AGREEMENT, 0.7434),
    Published("sgd 0.001", 1, LOSS, 4.5060e-2, MISNAMED),
    Published("sgd 0.001", 1, AGREEMENT, 0.7185, MISNAMED),
    Published("momentum 0.001", 1, LOSS, 4.5060e-2, AS_MOMENTUM),
    Published("momentum 0.001", 1, AGREEMENT, 0.7185, AS_MOMENTUM),
)


def quantity(result: Result, name: str, step: int) -> float:
    """One of the notebook's three quantities after `step` steps."""
    if name == LOSS:
        return float(metrics.running_mean(result.history.loss)[step - 1])
    agreement = np.asarray(metrics.agreement(result.history.counts))
    return float(agreement[step - 1] if name == LAST else metrics.running_mean(agreement)[step - 1])
