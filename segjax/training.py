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
from jax.custom_batching import sequential_vmap

from segjax import metrics
from segjax._checks import (
    check_callable,
    check_concrete,
    check_count,
    check_key,
    check_layout,
    check_model,
    check_optimizer,
    check_options,
    check_positive,
    describe,
    describe_error,
    is_ready,
    named_arrays,
    options_of,
)
from segjax.losses import Loss, mean_squared_error
from segjax.models import Variables, collections_of
from segjax.optimizers import Optimizer, adam, transformation
from segjax.textures import Batch, generate_data


class TrainState(NamedTuple):
    """All that the next step needs, arrays only.

    Attributes:
        params: trained weights.
        batch_stats: BatchNorm's running statistics.
        opt_state: state of the optimizer.
        step: number of the updates done, int32.
        collections: name -> the network's further collections of variables, most often none.
    """

    # No key: a step folds `step` into the run's key, so the images are the same for every chunk size and resumed run.
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    step: jax.Array
    collections: Mapping[str, Any] = {}

    @property
    def variables(self) -> Variables:
        """The model's variables, as `model.apply` and `segjax.predict` take them."""
        return {"params": self.params, "batch_stats": self.batch_stats, **self.collections}


class History(NamedTuple):
    """The batch's mean loss and counts at each step, before its update; leaves (num_steps,)."""

    loss: jax.Array
    counts: metrics.Counts


# (key, **options) -> a batch.
Generate = Callable[..., Batch]
# (key, learning_rate=None, resume_from=None, **traced_options) -> a whole run, as `make_train` says.
Train = Callable[..., tuple[TrainState, History]]
# Called after each chunk of `Fit`, with the state and the history of the chunk.
Report = Callable[[TrainState, History], None]
# A run so far: its state, and the history of every step up to it.
PartialRun = tuple[TrainState, History]
# The generator whose numbers do not depend on the batch under `vmap`.
_THREEFRY = "threefry2x32"
# Loop carry: state, losses, counts; one row per step.
_Carry = tuple[TrainState, jax.Array, jax.Array]
# Option -> value, which may be traced.
_Options = Mapping[str, jax.typing.ArrayLike]
_NO_OPTIONS: _Options = MappingProxyType({})


def create_state(
    key: jax.Array,
    model: nn.Module,
    optimizer: Optimizer,
    image: jax.Array,
    learning_rate: jax.typing.ArrayLike | None = None,
    **optimizer_options: Any,
) -> TrainState:
    """Initial weights and optimizer state. Only shape and dtype of `image`, (batch, height, width, channels), count."""
    return _start(optimizer, _weights(model, key, image), learning_rate, optimizer_options)


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    learning_rate: jax.typing.ArrayLike | None = None,
    rng: jax.Array | None = None,
    **optimizer_options: Any,
) -> tuple[TrainState, History]:
    """One gradient step on one batch, in train mode; the returned `History` has scalar leaves.

    Args:
        model, optimizer, loss: as in `make_train`.
        state: before the step.
        batch: images and masks.
        learning_rate: one number, which may be traced; None for a ready transformation.
        rng: key of this step, for networks that draw random numbers, such as dropout's.
        optimizer_options: of a factory, such as b1 of `optax.adam`; they may be traced.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"batch must be a segjax.Batch, got {describe(batch)}")

    def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        variables = {**state.variables, "params": params}
        mutable = collections_of(variables)
        logits, updates = model.apply(variables, batch.image, train=True, mutable=mutable, rngs=rng)
        if not isinstance(logits, jax.Array):
            raise TypeError(f"model must return one array, the logits, got {describe(logits)}")
        return jnp.mean(_losses(loss, logits, batch.mask)), (logits, updates)

    (value, (logits, variables)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    # Built here, from the traced rate: a rate that was a Python number would be part of the compiled program.
    # Some optimizers, such as momo and polyak_sgd of optax, need the loss value or the gradient as extra arguments.
    update = transformation(optimizer, learning_rate, **optimizer_options).update
    results = update(gradient, state.opt_state, state.params, value=value, grad=gradient)
    updates, opt_state = _check_update(results, gradient, state.opt_state)
    variables = {**variables, "params": optax.apply_updates(state.params, updates)}
    # Counted on the logits of the gradient: no second forward pass.
    history = History(value, metrics.count(logits, batch.mask))
    return _state(variables, opt_state, state.step + 1), history


def make_train(
    model: nn.Module,
    *,
    optimizer: Optimizer = adam,
    loss: Loss = mean_squared_error,
    num_steps: int = 1000,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Train:
    """Makes `train(key, learning_rate=None, resume_from=None, **traced_options) -> (state, history)`: a whole run.

    Jit `train`: the run is then one XLA program. Its arguments:

    - key: one key of `jax.random`;
    - learning_rate: one number > 0; none for a ready transformation, which has its rate already;
    - resume_from: (state, history) of this run so far. On a CPU the result is bit for bit that of an uninterrupted run
      (under `jax.vmap` up to a few last digits), and the history contains all steps from the first;
    - traced_options: options that may be traced, of `generate`, such as sigma1, or named by the signature of the
      optimizer's factory, such as b1 of `optax.adam`. They replace those given to `make_train`.

    The run is a loop that cannot be differentiated. Inside `jax.shard_map` it needs `check_vma=False`; `sweep` shares
    runs between devices without it. On a GPU its convolutions round to TF32, unless it is traced under
    `jax.default_matmul_precision("highest")`. A CPU reproduces a run bit for bit if the process may use the same number
    of cores; a GPU does so only with `XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true`.

    Args:
        model: any Linen module, image -> logits, with a `train` argument; its collections of variables, such as the
            state of BatchNorm, are carried along, and its random numbers, such as dropout's, depend on key and step.
        optimizer: a factory, learning rate -> optax transformation, such as those of `OPTIMIZERS` or `optax.lion`; or a
            ready transformation, such as `optax.adam(1e-3)`.
        loss: (logits, mask) -> (batch,), floating.
        num_steps: number of updates, >= 1.
        generate: `(key, **generate_options) -> Batch`, pure, such as `partial(generate_crops, first=..., second=...)`.
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
    generate = partial(generate, **generate_options)
    init, advance = _make_run(model, optimizer, loss, generate)

    def train(
        key: jax.Array,
        learning_rate: jax.typing.ArrayLike | None = None,
        resume_from: PartialRun | None = None,
        **traced_options: jax.typing.ArrayLike,
    ) -> tuple[TrainState, History]:
        key, learning_rate = _check_run(key, learning_rate)
        of_optimizer, of_generate = _split_options(optimizer, generate, traced_options)
        if resume_from is None:
            state, done = init(key, learning_rate, of_optimizer), 0
        else:
            template = jax.eval_shape(init, key, learning_rate, of_optimizer)
            state, done = _check_partial_run(resume_from, num_steps, template)
            if done == num_steps:
                return resume_from
        remaining = num_steps - done
        state, history = advance(key, state, learning_rate, remaining, remaining, of_optimizer, of_generate)
        if resume_from is not None:
            history = jax.tree.map(lambda *rows: jnp.concatenate(rows), resume_from[1], history)
        return state, history

    return train


class Fit(NamedTuple):
    """A run in compiled chunks, made by `make_fit`: between two chunks the host can read the state, report and stop.

    `fit(key, learning_rate)` returns what `train` returns, bit for bit on a CPU, for any chunk size. Rates, keys and
    lengths are arguments of the compiled programs: one compilation serves them all.

    Attributes:
        init: (key, learning_rate) -> state. The rate is None for a ready transformation.
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
        learning_rate: jax.typing.ArrayLike | None = None,
        report: Report | None = None,
        resume_from: PartialRun | None = None,
    ) -> tuple[TrainState, History]:
        """Trains for `num_steps`; the history consists of NumPy arrays.

        Args:
            key, learning_rate, resume_from: as for `train`.
            report: called after each chunk with the state, valid until the next chunk, and the chunk's history.

        Raises:
            TypeError, ValueError: naming the argument that is out of range.
        """
        key, learning_rate = _check_run(check_concrete("key", key), check_concrete("learning_rate", learning_rate))
        if report is not None:
            check_callable("report", report, "state", "history")
        if resume_from is None:
            state, chunks, done = self.init(key, learning_rate), [], 0
        else:
            state, done = _check_partial_run(resume_from, self.num_steps, jax.eval_shape(self.init, key, learning_rate))
            # A copy, since `advance` consumes its argument: the caller can still use the state in `resume_from`.
            state, chunks = jax.tree.map(jnp.copy, state), [resume_from[1]]
        for start in range(done, self.num_steps, self.chunk_size):
            num_steps = min(self.chunk_size, self.num_steps - start)
            state, history = self.advance(key, state, learning_rate, num_steps)
            check_concrete("the result of a Fit", history.loss)
            # Copied to the host at once, so that the device holds the history of one chunk only.
            chunks.append(jax.tree.map(lambda leaf, n=num_steps: np.asarray(leaf)[:n], history))
            if report is not None:
                report(state, chunks[-1])
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)

    def compile(self, key: jax.Array, learning_rate: jax.typing.ArrayLike | None = None) -> None:
        """Compiles the run by running 0 steps of it, so that a later call can be timed without compilation."""
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
    """Makes `fit(key, learning_rate=None, report=None, resume_from=None) -> (state, history)`: the run in chunks.

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
    # The number of steps is traced: the last, shorter chunk needs no compilation of its own, and on a CPU a chunk of
    # one step is the same loop as any other, rounding included. Reused buffers save page faults: 72 ms a step, not 86.
    advance_chunk = jax.jit(partial(advance, capacity=chunk_size), donate_argnums=1)
    return Fit(init, advance_chunk, num_steps, chunk_size)


def _make_run(
    model: nn.Module, optimizer: Optimizer, loss: Loss, generate: Generate
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, History]]]:
    """The two pure functions of a run: `init` returns its first state, `advance` does n further steps."""
    check_model(model)
    check_optimizer(optimizer)
    check_callable("loss", loss, "logits", "mask")
    # Traced here as well, so that a bad option or loss raises in `make_train` and not when the run starts.
    image, mask = batch_shapes(jax.random.key(0), generate, {})
    jax.eval_shape(partial(_losses, loss), jax.ShapeDtypeStruct(mask.shape, image.dtype), mask)
    dtype = jnp.result_type(float)
    # Jitted: without it, each operation of an initialisation is compiled alone, and one buffer would occur twice in a
    # state that `advance` consumes if the optimizer keeps the weights too.
    weights, start = _jitted_weights(model), jax.jit(partial(_start, optimizer))

    def init(key: jax.Array, learning_rate: Any = None, of_optimizer: _Options = _NO_OPTIONS) -> TrainState:
        if jnp.result_type(float) != dtype:
            raise ValueError(f"jax_enable_x64 must be as when the run was made, for {dtype}, not changed since")
        init_key, _ = _split(key)
        # Zeros serve as the image, since the initial weights depend on the key alone.
        variables = _alone(weights, key)(init_key, jnp.zeros(image.shape, image.dtype))
        return start(variables, learning_rate, dict(of_optimizer))

    def draw(key: jax.Array, step: jax.Array, of_generate: _Options) -> Batch:
        return generate(jax.random.fold_in(key, step), **of_generate)

    def advance(
        key: jax.Array,
        state: TrainState,
        learning_rate: jax.Array | None,
        num_steps: jax.Array | int,
        capacity: int,
        of_optimizer: _Options = _NO_OPTIONS,
        of_generate: _Options = _NO_OPTIONS,
    ) -> tuple[TrainState, History]:
        # Before the loop: XLA would not move it out.
        init_key, data_key = _split(key)

        def step(state: TrainState) -> tuple[TrainState, History]:
            batch = _alone(draw, key)(data_key, state.step, dict(of_generate))
            rng = _of_any_batch(_alone(jax.random.fold_in, key)(init_key, state.step))
            return train_step(model, optimizer, loss, state, batch, learning_rate, rng, **of_optimizer)

        _, row = jax.eval_shape(step, state)
        losses = jnp.zeros(capacity, row.loss.dtype)
        # One array for all counts: on a GPU, five would be five launches.
        counts = jnp.zeros((capacity, len(row.counts)), row.counts[0].dtype)

        # Jitted, so that it is traced once for the three loops below.
        @jax.jit
        def body(index: jax.Array, carry: _Carry) -> _Carry:
            state, losses, counts = carry
            state, row = step(state)
            # Not `.at[index].set`: its bounds check is one more launch on a GPU.
            losses = lax.dynamic_update_index_in_dim(losses, row.loss, index, 0)
            return state, losses, lax.dynamic_update_index_in_dim(counts, jnp.stack(row.counts), index, 0)

        def loop_on_cpu(num_steps: jax.Array, carry: _Carry) -> _Carry:
            # The barrier hides the number of steps from the compiler. With a known number it compiles another loop,
            # whose rounding differs from the second step on (1.5e-8 in the weights after 7 steps). Runs and chunks of
            # all lengths share this loop.
            return lax.fori_loop(0, lax.optimization_barrier(num_steps), body, carry)

        def loop_elsewhere(num_steps: jax.Array, carry: _Carry) -> _Carry:
            # A GPU's loop of unknown length asks the host after each step. Only a last, shorter chunk is such a loop.
            full, part = partial(lax.fori_loop, 0, capacity, body), partial(lax.fori_loop, 0, num_steps, body)
            return full(carry) if known_to_be_full else lax.cond(num_steps == capacity, full, part, carry)

        # True for a whole run, which needs no second loop.
        known_to_be_full = isinstance(num_steps, int) and num_steps == capacity
        carry = (state, losses, counts)
        state, losses, counts = lax.platform_dependent(
            jnp.int32(num_steps), carry, cpu=loop_on_cpu, default=loop_elsewhere
        )
        return state, History(losses, metrics.Counts(*counts.T))

    return init, advance


def _weights(model: nn.Module, key: jax.Array, image: jax.Array) -> Variables:
    variables = model.init(key, image, train=False)
    if not jax.tree.leaves(variables.get("params")):
        raise ValueError(f"model must have parameters to train, got none in {describe(model)}")
    return dict(variables)


def _start(
    optimizer: Optimizer, variables: Variables, learning_rate: jax.typing.ArrayLike | None, options: _Options
) -> TrainState:
    opt_state = transformation(optimizer, learning_rate, **options).init(variables["params"])
    named_arrays("the state of optimizer", opt_state)
    return _state(variables, opt_state, jnp.int32(0))


def _state(variables: Variables, opt_state: optax.OptState, step: jax.Array) -> TrainState:
    further = {name: variables[name] for name in collections_of(variables) if name != "batch_stats"}
    # A network without BatchNorm has no running statistics.
    return TrainState(variables["params"], variables.get("batch_stats", {}), opt_state, step, further)


def _losses(loss: Loss, logits: jax.Array, mask: jax.Array) -> jax.Array:
    try:
        losses = loss(logits, mask)
    except (AttributeError, TypeError) as error:
        raise TypeError(f"loss must be a function of logits and mask: {describe_error(error)}") from error
    if not isinstance(losses, jax.Array) or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"loss must return an array (batch,) of floating numbers, got {describe(losses)}")
    if losses.shape != mask.shape[:1]:
        raise ValueError(f"loss must return an array of shape (batch,), {mask.shape[:1]}, got {losses.shape}")
    return losses


def _check_update(results: Any, gradient: Any, opt_state: optax.OptState) -> tuple[Any, optax.OptState]:
    """Updates like the gradient, and a state like the one before: the loop would refuse another in words of jax's."""
    if not isinstance(results, tuple | list) or len(results) != 2:
        raise TypeError(f"optimizer must return updates and its state, got {describe(results)}")
    check_layout("the updates of optimizer", results[0], gradient, "gradient", dtypes=False)
    check_layout("the state of optimizer", results[1], opt_state, "optimizer's first state")
    return results[0], results[1]


def batch_shapes(key: jax.Array, generate: Generate, options: Mapping[str, Any]) -> Batch:
    """Shapes and dtypes of a batch.

    Raises:
        TypeError, ValueError: if `generate` with its options is no function of a key, or returns no `Batch` of arrays
            with at least one pixel.
    """
    of_key = check_callable("generate", partial(check_callable("generate", generate), **options), "key")
    batch = jax.eval_shape(of_key, key)
    if not isinstance(batch, Batch) or len(jax.tree.leaves(batch)) != 2:
        raise TypeError(f"generate must return a segjax.Batch of two arrays, got {describe(batch)}")
    if not jnp.issubdtype(batch.image.dtype, jnp.floating):
        raise TypeError(f"generate must return floating images, got {batch.image.dtype}")
    if not batch.image.size or not batch.mask.size:
        shapes = f"{batch.image.shape} and {batch.mask.shape}"
        raise ValueError(f"generate must return images and masks of at least one pixel, got arrays of shape {shapes}")
    return batch


def _split_options(optimizer: Optimizer, generate: Generate, options: _Options) -> tuple[_Options, _Options]:
    """The options of the optimizer's factory, by its signature, and those of `generate`: all others."""
    accepted = [] if is_ready(optimizer) else options_of(optimizer) or []
    of_optimizer = {name: value for name, value in options.items() if name in accepted}
    if both := sorted(of_optimizer.keys() & set(options_of(generate) or ())):
        raise TypeError(f"{both[0]} must be an option of the optimizer or of generate, got one of both")
    named_arrays("options of optimizer", of_optimizer)
    of_generate = {name: value for name, value in options.items() if name not in of_optimizer}
    for name, value in of_generate.items():
        _check_traceable(partial(generate, jax.random.key(0)), name, value)
    return of_optimizer, of_generate


def _check_traceable(function: Callable[..., Any], name: str, value: jax.typing.ArrayLike) -> None:
    """Raises TypeError if an option of a function, such as `batch_size`, must be static."""
    try:
        jax.eval_shape(lambda value: function(**{name: value}), value)
    except TypeError as error:
        # A sweep passes 2 as 2.0.
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        # Such as a text, which has a better message.
        jax.eval_shape(lambda: function(**{name: value}))
        raise TypeError(f"{name} may not be traced: give it to make_train and not to train") from error


def _jitted_weights(model: nn.Module) -> Callable[[jax.Array, jax.Array], Variables]:
    """`_weights` of a network: one program for the runs of all optimizers, which takes 1 to 1.5 s to compile."""
    # A wrapper that is no Linen module is mutable, so its program cannot be shared between runs.
    if isinstance(model, nn.Module):
        try:
            return _shared_weights(model, repr(model))
        except TypeError:
            # A list or an array among its attributes: it has no hash.
            pass
    return jax.jit(partial(_weights, model))


@lru_cache(maxsize=32)
def _shared_weights(model: nn.Module, attributes: str) -> Callable[[jax.Array, jax.Array], Variables]:
    # `attributes` is part of the cache's key: a network of 1 equals that of 1.0, whose weights have another dtype.
    return jax.jit(partial(_weights, model))


def _split(key: jax.Array) -> jax.Array:
    """The keys of the weights and of the data: the images then do not depend on the number of layers."""
    # Cloned, since runs are paired by their key on purpose: `jax_debug_key_reuse` would refuse the second.
    return _alone(lambda key: jax.random.split(key), key)(jax.random.clone(key))


def _alone(function: Callable[..., Any], key: jax.Array) -> Callable[..., Any]:
    """A function that draws random numbers; under `vmap` a loop for keys with which it would draw others than alone."""
    # Such as those of rbg, a generator that depends on the batch.
    return function if str(jax.random.key_impl(key)) == _THREEFRY else sequential_vmap(function)


def _of_any_batch(key: jax.Array) -> jax.Array:
    """A key for a network's random numbers, which draws the same ones alone and under `vmap`."""
    if str(jax.random.key_impl(key)) == _THREEFRY:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl=_THREEFRY)


def _check_run(key: jax.Array, learning_rate: jax.typing.ArrayLike | None) -> tuple[jax.Array, jax.Array | None]:
    check_key(key)
    # Whether the optimizer takes a rate shows in `transformation`.
    if learning_rate is None:
        return key, None
    # One dtype for Python and NumPy numbers: no second trace.
    return key, jnp.asarray(check_positive("learning_rate", learning_rate), float)


def _check_partial_run(resume_from: PartialRun, num_steps: int, template: TrainState) -> tuple[TrainState, int]:
    """The state in `resume_from`, of the template's layout, and the number of its steps: the length of its history."""
    pair = isinstance(resume_from, tuple | list) and len(resume_from) == 2
    if not pair or not isinstance(resume_from[0], TrainState) or not isinstance(resume_from[1], History):
        raise TypeError(f"resume_from must be the pair (state, history) of a run, got {describe(resume_from)}")
    state, history = resume_from
    check_layout("resume_from", state, template, "model and optimizer")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(history)]
    if len(shapes) != 1 + len(metrics.Counts._fields) or len({*shapes}) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"resume_from must have a history of 6 arrays of one shape (steps,), got {shapes}")
    (done,) = shapes[0]
    # Inside `jit` the counter is traced, but the length of the history is static.
    steps = done if isinstance(state.step, jax.core.Tracer) else int(state.step)
    if done != steps or done > num_steps:
        raise ValueError(f"resume_from must be a state of at most {num_steps} steps and their history, got {steps}")
    return state, done
