"""The notebook's four optimizers, as PyTorch defines them: learning rate -> optax transformation.

Any function of that form is an optimizer here, such as `optax.lion`. The rate is a number, which may be traced, or one
of optax's schedules.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

import jax
import optax

Rate: TypeAlias = jax.typing.ArrayLike | optax.Schedule
# The rate comes as an argument, and training calls the optimizer inside the compiled function: one program then serves
# every rate. `optax.inject_hyperparams` would also do that, but it makes float32 arrays of Adam's betas and epsilon,
# and the run drifts away from PyTorch's.
Optimizer = Callable[[Rate], optax.GradientTransformation]


def sgd(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr)`. The notebook's run of this name had momentum 0.9."""
    return optax.sgd(learning_rate)


def momentum(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr, momentum=0.9)`: the buffer starts at the first gradient, without dampening."""
    return optax.sgd(learning_rate, momentum=0.9)


def rmsprop(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.RMSprop(lr)`: decay 0.99, and epsilon 1e-8 added outside the square root."""
    # optax's own defaults are decay 0.9 and epsilon inside the root, which matters for gradients as small as 1e-4.
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def adam(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.Adam(lr)`: betas 0.9 and 0.999, epsilon 1e-8 outside the square root."""
    # These are optax's defaults, too.
    return optax.adam(learning_rate)


OPTIMIZERS = MappingProxyType({"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam})
