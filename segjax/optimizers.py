"""The notebook's four optimizers with PyTorch's definitions: learning rate -> optax transformation.

The rate is a number or a schedule of optax. A number is an argument of the compiled program, so build the optimizer
inside the traced function from the traced rate.
"""

from collections.abc import Callable
from types import MappingProxyType

import jax
import optax

Schedule = Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
Rate = jax.typing.ArrayLike | Schedule
Optimizer = Callable[[Rate], optax.GradientTransformation]


def sgd(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr)`. The notebook's run of this name had momentum 0.9."""
    return optax.sgd(learning_rate)


def momentum(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr, momentum=0.9)`: the buffer starts at the first gradient, and nothing is dampened."""
    return optax.sgd(learning_rate, momentum=0.9)


def rmsprop(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.RMSprop(lr)`: decay 0.99, and epsilon added outside the square root; optax's own defaults differ."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def adam(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.Adam(lr)`: betas 0.9 and 0.999, epsilon 1e-8 outside the square root."""
    return optax.adam(learning_rate)


OPTIMIZERS = MappingProxyType({"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam})
