"""Training as pure functions: one step, a whole run as one program, and the same run in chunks.

A run draws a fresh batch at every step from `fold_in(data_key, step)`. One key therefore fixes the initial weights and
every image, for all optimizers, rates and chunk sizes: the runs of one key are paired.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from segjax import metrics
from segjax._checks import (
    check_callable,
    check_count,
    check_key,
    check_model,
    check_optimizer,
    check_options,
    check_positive,
)
from segjax.losses import Loss, mean_squared_error
from segjax.models import Variables
from segjax.optimizers import Optimizer, adam
from segjax.textures import Batch, generate_data


class TrainState(NamedTuple):
    """All that the next step needs, arrays only. `step` counts the updates done, int32."""

    # No key: a step folds `step` into the run's key, so the images are the same for every chunk size and resumed run.
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    step: jax.Array

    @property
    def variables(self) -> Variables:
        """The model's variables, as `model.apply` and `segjax.predict` take them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class History(NamedTuple):
    """The batch's mean loss and counts at each step, before its update; leaves (num_steps,)."""

    loss: jax.Array
    counts: metrics.Counts


# (key, **options) -> a batch.
Generate = Callable[..., Batch]
# (key, learning_rate, resume_from=None, **numbers) -> a whole run, as `make_train` says.
Train = Callable[..., tuple[TrainState, History]]
# Called with the state and the history of each chunk of `Fit`.
Report = Callable[[TrainState, History], None]
# A run so far: its state, and the history of every step up to it.
PartialRun = tuple[TrainState, History]
# What the loop hands from step to step: the state, the losses and the counts, a row each.
_Carry = tuple[TrainState, jax.Array, jax.Array]


# Two keys, so that networks of any number of layers see the same images.
class _Keys(NamedTuple):
    init: jax.Array
    data: jax.Array


def create_state(
    key: jax.Array, model: nn.Module, optimizer: Optimizer, image: jax.Array, learning_rate: jax.typing.ArrayLike
) -> TrainState:
    """Initial weights and optimizer state; of `image`, (batch, height, width, channels), only shape and dtype count."""
    return _start(optimizer, _weights(model, key, image), learning_rate)


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    learning_rate: jax.typing.ArrayLike,
) -> tuple[TrainState, History]:
    """One gradient step on one batch, in train mode; the returned `History` has scalar leaves.

    Args:
        model, optimizer, loss: as in `make_train`.
        state: before the step.
        batch: images and masks.
        learning_rate: one number, which may be traced.
    """

    def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = model.apply(variables, batch.image, train=True, mutable=["batch_stats"])
        # A network without BatchNorm has no updates.
        return jnp.mean(loss(logits, batch.mask)), (logits, updates.get("batch_stats", {}))

    (value, (logits, batch_stats)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    # Built here, from the traced rate: a rate that was a Python number would be part of the compiled program.
    # Some ask for the loss's value, such as momo and polyak_sgd of optax, and some for the gradient by its name.
    transformation = optax.with_extra_args_support(optimizer(learning_rate))
    updates, opt_state = transformation.update(gradient, state.opt_state, state.params, value=value, grad=gradient)
    params = optax.apply_updates(state.params, updates)
    # Counted on the logits of the gradient: no second forward pass.
    history = History(value, metrics.count(logits, batch.mask))
    return TrainState(params, batch_stats, opt_state, state.step + 1), history


def make_train(
    model: nn.Module,
    *,
    optimizer: Optimizer = adam,
    loss: Loss = mean_squared_error,
    num_steps: int = 1000,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Train:
    """Makes `train(key, learning_rate, resume_from=None, **traced_options) -> (state, history)`: a whole run.

    Jit `train`: the run is then one XLA program. Its arguments:

    - key, learning_rate: one key of `jax.random`, one number > 0;
    - resume_from: (state, history) of this run so far. On a CPU the result is bit for bit that of an uninterrupted run,
      and the history contains all steps from the first;
    - traced_options: options of `generate` that may be traced, such as sigma1; they replace those of `make_train`.

    The run is a loop that cannot be differentiated. On a GPU its convolutions round to TF32, unless it is traced under
    `jax.default_matmul_precision("highest")`. A CPU repeats a run's bits, as long as the process may use
    as many cores; a GPU does so only with `XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true`.

    Args:
        model: any Linen module, image -> logits, with a `train` argument; its BatchNorm state is carried along.
        optimizer: learning rate -> optax transformation, such as those of `OPTIMIZERS`.
        loss: (logits, mask) -> (batch,).
        num_steps: number of updates, >= 1.
        generate: (key, **generate_options) -> Batch, pure.
        generate_options: for `generate_data`: batch_size, image_size, sigma1, sigma2, sigma; the sigmas may be traced.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax, segjax
    >>> model = segjax.SegmentationCNN(num_channels=2, depth=1)
    >>> train = segjax.make_train(model, num_steps=5, batch_size=2, image_size=16, sigma=3)
    >>> state, history = jax.jit(train)(jax.random.key(0), 1e-3)
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> states, histories = jax.jit(jax.vmap(train, in_axes=(0, None)))(keys, 1e-3)
    >>> history.loss.shape, histories.loss.shape
    ((5,), (4, 5))
    """
    num_steps = check_count("num_steps", num_steps, minimum=1)
    check_options(make_train, check_callable("generate", generate), generate_options)
    init, advance = _make_run(model, optimizer, loss, partial(generate, **generate_options))

    def train(
        key: jax.Array,
        learning_rate: jax.typing.ArrayLike,
        resume_from: PartialRun | None = None,
        **numbers: jax.typing.ArrayLike,
    ) -> tuple[TrainState, History]:
        key, learning_rate = _check_run(key, learning_rate)
        if resume_from is None:
            state, done = init(key, learning_rate), 0
        else:
            state, done = _check_begun(resume_from, num_steps, jax.eval_shape(init, key, learning_rate))
            if done == num_steps:
                return resume_from
        left = num_steps - done
        state, history = advance(key, state, learning_rate, left, left, numbers)
        if resume_from is not None:
            history = jax.tree.map(lambda *rows: jnp.concatenate(rows), resume_from[1], history)
        return state, history

    return train


class Fit(NamedTuple):
    """A run in compiled chunks, between which the host can look, report and stop; made by `make_fit`.

    `fit(key, learning_rate)` gives what `train` gives, bit for bit on a CPU, for any chunk size. Rates, keys and
    lengths are arguments of the compiled programs: one compilation serves them all.

    Attributes:
        init: (key, learning_rate) -> state.
        advance: (key, state, learning_rate, n) -> (state, history) for n <= chunk_size steps; only the first n rows of
            the history are valid. It consumes `state`, whose buffers it reuses.
        num_steps, chunk_size: as given to `make_fit`.
    """

    init: Callable[..., TrainState]
    advance: Callable[..., tuple[TrainState, History]]
    num_steps: int
    chunk_size: int

    def __call__(
        self,
        key: jax.Array,
        learning_rate: jax.typing.ArrayLike,
        report: Report | None = None,
        resume_from: PartialRun | None = None,
    ) -> tuple[TrainState, History]:
        """Trains for `num_steps`; the history is of NumPy arrays.

        Args:
            key, learning_rate: as for `train`.
            report: called after each chunk with the state, valid until the next chunk, and the chunk's history.
            resume_from: as for `train`.

        Raises:
            TypeError, ValueError: naming the argument that is out of range.
        """
        key, learning_rate = _check_run(key, learning_rate)
        if resume_from is None:
            state, chunks, done = self.init(key, learning_rate), [], 0
        else:
            state, done = _check_begun(resume_from, self.num_steps, jax.eval_shape(self.init, key, learning_rate))
            # A copy, since `advance` consumes its state: the caller can still use the one in `resume_from`.
            state, chunks = jax.tree.map(jnp.copy, state), [resume_from[1]]
        for start in range(done, self.num_steps, self.chunk_size):
            num_steps = min(self.chunk_size, self.num_steps - start)
            state, history = self.advance(key, state, learning_rate, num_steps)
            # To the host at once, so that the device holds the history of one chunk alone.
            chunks.append(jax.tree.map(lambda leaf, n=num_steps: np.asarray(leaf)[:n], history))
            if report is not None:
                report(state, chunks[-1])
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)

    def compile(self, key: jax.Array, learning_rate: jax.typing.ArrayLike) -> None:
        """Compiles the run by doing 0 steps of it, so that a later call can be timed without compilation."""
        key, learning_rate = _check_run(key, learning_rate)
        jax.block_until_ready(self.advance(key, self.init(key, learning_rate), learning_rate, 0))


def make_fit(
    model: nn.Module,
    *,
    optimizer: Optimizer = adam,
    loss: Loss = mean_squared_error,
    num_steps: int = 1000,
    chunk_size: int = 50,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Fit:
    """Makes `fit(key, learning_rate, report=None, resume_from=None) -> (state, history)`: the same run, in chunks.

    Args:
        chunk_size: number of steps between two calls of `report`, >= 1.
        model, optimizer, loss, num_steps, generate, generate_options: as in `make_train`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    num_steps = check_count("num_steps", num_steps, minimum=1)
    # Chunks of 10 steps cost 1 % at the notebook's size: 60 steps take 8.54 s, and 8.44 s in one chunk.
    chunk_size = check_count("chunk_size", chunk_size, minimum=1)
    check_options(make_fit, check_callable("generate", generate), generate_options)
    init, advance = _make_run(model, optimizer, loss, partial(generate, **generate_options))
    # The number of steps is traced: the last, shorter chunk needs no compilation of its own, and a chunk of one step is
    # on a CPU the same loop as any other, rounding included. Reused buffers save page faults: 72 against 86 ms a step.
    advance_chunk = jax.jit(partial(advance, capacity=chunk_size), donate_argnums=1)
    return Fit(init, advance_chunk, num_steps, chunk_size)


def _make_run(
    model: nn.Module, optimizer: Optimizer, loss: Loss, generate: Generate
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, History]]]:
    """The two pure functions of a run: `init` makes its first state, `advance` does n further steps."""
    check_model(model)
    check_optimizer(optimizer)
    check_callable("loss", loss)
    # Traced here as well, so that a bad option raises where it is given and not when the run starts.
    image = jax.eval_shape(generate, jax.random.key(0)).image
    # Jitted: operation by operation, an initialisation compiles each of them, and where an optimizer keeps the weights
    # too, a buffer would stand twice in a state that `advance` consumes.
    weights, start = _jitted_weights(model), jax.jit(partial(_start, optimizer))

    def init(key: jax.Array, learning_rate: jax.Array) -> TrainState:
        # Zeros serve as the image, since the initial weights depend on the key alone.
        return start(weights(_split(key).init, jnp.zeros(image.shape, image.dtype)), learning_rate)

    def step(
        data_key: jax.Array, state: TrainState, learning_rate: jax.Array, numbers: Mapping[str, jax.typing.ArrayLike]
    ) -> tuple[TrainState, History]:
        batch = generate(jax.random.fold_in(data_key, state.step), **numbers)
        return train_step(model, optimizer, loss, state, batch, learning_rate)

    def advance(
        key: jax.Array,
        state: TrainState,
        learning_rate: jax.Array,
        num_steps: jax.Array | int,
        capacity: int,
        numbers: Mapping[str, jax.typing.ArrayLike] = MappingProxyType({}),
    ) -> tuple[TrainState, History]:
        # Outside of the loop, from which XLA does not move it.
        data_key = _split(key).data
        _, row = jax.eval_shape(partial(step, numbers=numbers), data_key, state, learning_rate)
        losses = jnp.zeros(capacity, row.loss.dtype)
        # One array for all counts: each would be a launch of its own on a GPU.
        counts = jnp.zeros((capacity, len(row.counts)), row.counts[0].dtype)

        # Jitted, so that it is traced once for the three loops that it is the body of.
        @jax.jit
        def body(index: jax.Array, carry: _Carry) -> _Carry:
            state, losses, counts = carry
            state, row = step(data_key, state, learning_rate, numbers)
            # Not `.at[index].set`, which looks whether the index is inside: a launch of its own on a GPU.
            losses = lax.dynamic_update_index_in_dim(losses, row.loss, index, 0)
            return state, losses, lax.dynamic_update_index_in_dim(counts, jnp.stack(row.counts), index, 0)

        def on_cpu(num_steps: jax.Array, carry: _Carry) -> _Carry:
            # The compiler must not know the number of steps: with a known one it compiles another loop, whose rounding
            # differs from the second step on (1.5e-8 in the weights after 7 steps). Runs and chunks of all lengths
            # share this one.
            return lax.fori_loop(0, lax.optimization_barrier(num_steps), body, carry)

        def elsewhere(num_steps: jax.Array, carry: _Carry) -> _Carry:
            # A GPU's loop of unknown length asks the host after each step. Only a last, shorter chunk is such a loop.
            full, part = partial(lax.fori_loop, 0, capacity, body), partial(lax.fori_loop, 0, num_steps, body)
            return full(carry) if known_to_be_full else lax.cond(num_steps == capacity, full, part, carry)

        # A whole run is: it needs no second loop.
        known_to_be_full = isinstance(num_steps, int) and num_steps == capacity
        carry = (state, losses, counts)
        state, losses, counts = lax.platform_dependent(jnp.int32(num_steps), carry, cpu=on_cpu, default=elsewhere)
        return state, History(losses, metrics.Counts(*counts.T))

    return init, advance


def _weights(model: nn.Module, key: jax.Array, image: jax.Array) -> Variables:
    variables = model.init(key, image, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def _start(optimizer: Optimizer, variables: Variables, learning_rate: jax.typing.ArrayLike) -> TrainState:
    params = variables["params"]
    return TrainState(params, variables["batch_stats"], optimizer(learning_rate).init(params), jnp.int32(0))


def _jitted_weights(model: nn.Module) -> Callable[[jax.Array, jax.Array], Variables]:
    """`_weights` of a network: one program for the runs of all optimizers, which takes 1 to 1.5 s to compile."""
    # What only has the methods of a Linen module can be changed between two runs.
    if isinstance(model, nn.Module):
        try:
            return _shared_weights(model, repr(model))
        except TypeError:
            # With a list or an array among its attributes it has no hash.
            pass
    return jax.jit(partial(_weights, model))


@lru_cache(maxsize=32)
def _shared_weights(model: nn.Module, attributes: str) -> Callable[[jax.Array, jax.Array], Variables]:
    # By `attributes` as well: a network of 1 equals that of 1.0, whose weights are of another dtype.
    return jax.jit(partial(_weights, model))


def _split(key: jax.Array) -> _Keys:
    return _Keys(*jax.random.split(key))


def _check_run(key: jax.Array, learning_rate: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    # One dtype for Python and NumPy numbers alike: no second trace.
    return check_key(key), jnp.asarray(check_positive("learning_rate", learning_rate), float)


def _check_begun(resume_from: PartialRun, num_steps: int, template: TrainState) -> tuple[TrainState, int]:
    """The state in `resume_from`, laid out as the template, and the number of its steps: the length of its history."""
    pair = isinstance(resume_from, tuple | list) and len(resume_from) == 2
    if not pair or not isinstance(resume_from[0], TrainState) or not isinstance(resume_from[1], History):
        raise TypeError(f"resume_from must be the pair (state, history) of a run, got {resume_from!r:.60}")
    state, history = resume_from
    # Flax takes no notice of layers that a network does not have: it would train the others alone.
    found, wanted = _layout(state), _layout(template)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            there, here = (layout.get(name, "missing") for layout in (found, wanted))
            raise ValueError(
                f"resume_from must be of this model and optimizer: {name} is {there} there, and {here} here"
            )
    done = len(history.loss)
    # Inside `jit` the counter has no value yet, but the length of the history is static.
    steps = done if isinstance(state.step, jax.core.Tracer) else int(state.step)
    if done != steps or done > num_steps:
        raise ValueError(f"resume_from must be a state of at most {num_steps} steps and their history, got {steps}")
    return state, done


def _layout(tree: Any) -> dict[str, str]:
    """Name -> dtype and shape of each leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(place, simple=True, separator="/"): f"{jnp.result_type(leaf)} of shape {jnp.shape(leaf)}"
        for place, leaf in leaves
    }
