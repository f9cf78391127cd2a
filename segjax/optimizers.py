"""The notebook's four optimizers with PyTorch's definitions, and any other by its name: rate -> optax transformation.

The rate is a number or a schedule of optax. A number is an argument of the compiled program, so build the optimizer
inside the traced function from the traced rate.
"""

import importlib
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
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


def by_name(name: str) -> Optimizer:
    """One of `OPTIMIZERS`, or what an import path names: "optax:lion", "optax.contrib:muon", "my_module:factory".

    The factory is called as factory(learning_rate), and tried once on two small arrays.

    Raises:
        TypeError: if the name is no text.
        ValueError: if there is no such name, module or factory, or if it makes no optimizer that updates from gradients
            alone, as one that wants the loss's value, or a second gradient, does not.

    >>> update = by_name("optax:lion")(1e-3)
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a text, got {name!r:.60}")
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise ValueError(f"{name!r} is no optimizer: one of {', '.join(OPTIMIZERS)}, or an import path as optax:lion")
    try:
        module = importlib.import_module(module_name)
    # So can the import of a stranger's code.
    except Exception as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(f"{name!r} is no optimizer: {module_name} has no function {factory_name}")
    params = {"kernel": jnp.ones((1, 1, 1, 2)), "bias": jnp.ones(2)}
    try:
        transformation = factory(jnp.asarray(1e-3))
        transformation.update(params, transformation.init(params), params)
    # A stranger's code can raise anything.
    except Exception as error:
        raise ValueError(f"{name!r} is no optimizer of one learning rate and gradients: {error}") from error
    return factory
