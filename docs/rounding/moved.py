"""The notebook's optimizers; with MOVED=1 or -1 the first step also moves each weight by one unit in its last place."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import optax

import segjax

DIRECTION = int(os.environ.get("MOVED", "0"))


def moved(name, learning_rate):
    inner = segjax.OPTIMIZERS[name](learning_rate)

    def init(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(gradients, state, params):
        step, inner_state = state
        updates, inner_state = inner.update(gradients, inner_state, params)
        if DIRECTION:
            units = jax.tree.map(lambda weight: jnp.nextafter(weight, DIRECTION * jnp.inf) - weight, params)
            updates = jax.tree.map(lambda update, unit: update + jnp.where(step == 0, unit, 0), updates, units)
        return updates, (step + 1, inner_state)

    return optax.GradientTransformation(init, update)


sgd, momentum, rmsprop, adam = (partial(moved, name) for name in ("sgd", "momentum", "rmsprop", "adam"))
