import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Plain, assert_are_cudnn_s, convolutions_on_gpu

import segjax

KEY = jax.random.key(0)
# Nearly all of the time goes into compiling. With fewer layers it is less, and loops that round differently can agree.
MODEL = segjax.SegmentationCNN(num_channels=4, kernel_size=3)
SMALL = {"batch_size": 2, "image_size": 16, "sigma": 4.0}
STEPS = 7
both = pytest.mark.parametrize("make", [segjax.make_train, segjax.make_fit])


class Counted:
    """A network that counts how often its weights are initialised; to trace that for its shapes does not count."""

    def __init__(self):
        self._inits, self.apply = [], MODEL.apply

    @property
    def inits(self):
        jax.effects_barrier()
        return len(self._inits)

    def init(self, *arguments, **options):
        jax.debug.callback(lambda: self._inits.append(None))
        return MODEL.init(*arguments, **options)


def flat(key):
    """A batch that costs nothing to compile, for what does not depend on the images."""
    image = jnp.linspace(0, 1, 32).reshape(2, 4, 4, 1)
    return segjax.Batch(image, jnp.round(image))


@pytest.fixture(scope="module")
def model():
    return Counted()


@pytest.fixture(scope="module")
def train(model):
    """Whole runs as one program."""
    return jax.jit(segjax.make_train(model, num_steps=STEPS, **SMALL))


@pytest.fixture(scope="module")
def fit(model):
    """The same in chunks; `fit._replace(num_steps=n)` is a run of another length, by the same programs."""
    return segjax.make_fit(model, num_steps=STEPS, chunk_size=2, **SMALL)


@pytest.fixture(scope="module")
def run(train):
    return train(KEY, 1e-2)


@pytest.fixture
def either(request, name):
    """`train` or `fit`."""
    return request.getfixturevalue(name)


def test_state_and_history(run):
    state, history = run
    assert int(state.step) == STEPS
    chex.assert_tree_shape_prefix(history, (STEPS,))
    chex.assert_tree_all_finite(run)
    assert set(state.variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(sum(history.counts[:4]), 2 * 16 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 50])
def test_chunks_change_no_bit(run, fit, chunk_size):
    reports = []
    if chunk_size != fit.chunk_size:
        fit = segjax.make_fit(MODEL, num_steps=STEPS, chunk_size=chunk_size, **SMALL)
    result = fit(KEY, 1e-2, lambda state, history: reports.append((int(state.step), len(history.loss))))
    chex.assert_trees_all_equal(result, run)
    assert sum(rows for _, rows in reports) == reports[-1][0] == STEPS
    assert max(rows for _, rows in reports) <= chunk_size


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, STEPS])
@pytest.mark.parametrize("name", ["train", "fit"])
def test_a_run_resumes_bit_for_bit_as_often_as_wanted_without_a_second_start(run, fit, model, either, stop):
    partial_run = fit._replace(num_steps=stop)(KEY, 1e-2)
    before = model.inits
    # A file gives NumPy's arrays back. They may share the state's buffers, which no run could consume then: so they
    # come last.
    for read in (lambda tree: tree, lambda tree: tree, jax.device_get):
        chex.assert_trees_all_equal(either(KEY, 1e-2, resume_from=read(partial_run)), run)
    assert model.inits == before
    either(KEY, 1e-2)
    assert model.inits == before + 1


def test_a_run_has_the_notebook_s_length():
    _, history = jax.eval_shape(segjax.make_train(MODEL, **SMALL), KEY, 1e-3)
    chex.assert_tree_shape_prefix(history, (1000,))
    assert segjax.make_fit(MODEL, **SMALL).num_steps == 1000


@both
def test_refuses_what_is_no_partial_run(run, make):
    state, history = run
    resume = make(MODEL, num_steps=STEPS, **SMALL)
    message = "resume_from must be a state of at most {} steps and their history, got 7"
    with pytest.raises(ValueError, match=message.format(STEPS)):
        resume(KEY, 1e-2, resume_from=(state, jax.tree.map(lambda leaf: leaf[1:], history)))
    with pytest.raises(ValueError, match=message.format(3)):
        make(MODEL, num_steps=3, **SMALL)(KEY, 1e-2, resume_from=run)
    for other in (state, 3, (3, history), (state, None)):
        with pytest.raises(TypeError, match=r"resume_from must be the pair \(state, history\) of a run"):
            resume(KEY, 1e-2, resume_from=other)


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(segjax.make_train(MODEL, num_steps=STEPS, generate=flat), KEY, 1e-2)


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 2}, r"params/conv3/bias is float32 of shape \(4,\) there, and missing here"),
        ({"depth": 4}, r"params/conv4/bias is missing there, and float32 of shape \(4,\) here"),
        ({"num_channels": 3}, r"params/conv1/bias is float32 of shape \(4,\) there, and float32 of shape \(3,\) here"),
        ({"shared_norm": False}, "params/norm1/bias is missing there"),
        ({}, "opt_state/0/count is int32 .* there, and missing here"),
    ],
)
def test_refuses_what_another_network_or_optimizer_began(shapes, make, changes, message):
    optimizer = segjax.OPTIMIZERS["adam" if changes else "sgd"]
    resume = make(MODEL.clone(**changes), optimizer=optimizer, num_steps=STEPS + 1, generate=flat)
    with pytest.raises(ValueError, match=f"resume_from must be of this model and optimizer: {message}"):
        resume(KEY, 1e-2, resume_from=shapes)
    # In a program the state is traced.
    if make is segjax.make_train:
        with pytest.raises(ValueError, match=f"resume_from must be of this model and optimizer: {message}"):
            jax.eval_shape(resume, KEY, 1e-2, shapes)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_numbers(run, fit):
    train = segjax.make_train(MODEL, num_steps=STEPS, batch_size=2, image_size=16, sigma=2.0)
    partial_run = fit._replace(num_steps=3)(KEY, 1e-2)
    keys = jnp.stack([KEY, KEY])
    _, histories = jax.jit(jax.vmap(lambda key: train(key, 1e-2, partial_run, sigma=4.0)))(keys)
    np.testing.assert_array_equal(histories.loss[:, :3], np.stack(2 * [partial_run[1].loss]))
    # As in a whole run under vmap, the first steps tell.
    np.testing.assert_allclose(histories.loss[1, :5], run[1].loss[:5], rtol=1e-3)


class Noisy(nn.Module):
    """With dropout, BatchNorm, and a collection of its own, which counts its steps."""

    batch_statistics = False

    @nn.compact
    def __call__(self, image, train=False):
        steps = self.variable("counts", "steps", lambda: jnp.int32(0))
        if train:
            steps.value += 1
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(image))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))


def test_any_linen_module_trains():
    train = segjax.make_train(Plain(), num_steps=2, generate=flat)
    chex.assert_tree_all_finite(jax.jit(train)(KEY, 1e-2))
    fit = segjax.make_fit(Noisy(), optimizer=optax.sgd, num_steps=STEPS, chunk_size=2, generate=flat)
    state, history = fit(KEY, 1e-2)
    assert state.variables.keys() == {"params", "batch_stats", "counts"}
    assert state.collections["counts"]["steps"] == STEPS
    chex.assert_trees_all_equal(fit(KEY, 1e-2, resume_from=fit._replace(num_steps=3)(KEY, 1e-2)), (state, history))
    # With a rate so small that the weights stay, and the same images at each step, dropout alone changes the loss.
    losses = [fit(jax.random.key(seed), 1e-30)[1].loss for seed in (0, 1)]
    assert len({float(loss) for loss in np.ravel(losses)}) == 2 * STEPS
    segjax.evaluate(KEY, Noisy(), state.variables, 2, generate=flat)
    again = segjax.recalibrate(KEY, Noisy(), state.variables, 2, generate=flat)
    assert again["counts"] == state.collections["counts"]


@pytest.mark.parametrize("name", ["train", "fit"])
def test_same_key_same_run(run, either):
    _, other = either(jax.random.key(1), 1e-2)
    assert np.all(other.loss != run[1].loss)
    chex.assert_trees_all_equal(either(KEY, 1e-2), run)


def test_a_longer_run_begins_as_the_shorter_one(run, fit):
    _, longer = fit._replace(num_steps=STEPS + 3)(KEY, 1e-2)
    np.testing.assert_array_equal(longer.loss[:STEPS], run[1].loss)


@pytest.mark.slow
@pytest.mark.parametrize("model", [Plain(), pytest.param(MODEL, marks=pytest.mark.deep)], ids=["Plain", "MODEL"])
def test_vmap_over_seeds_and_rates(model):
    single = jax.jit(segjax.make_train(model, num_steps=STEPS, **SMALL))
    # The traced option replaces the one that is given here.
    train = segjax.make_train(model, num_steps=STEPS, **{**SMALL, "sigma": 2.0})
    keys, rates = jnp.stack([KEY, jax.random.key(1)]), jnp.array([1e-3, 1e-2])
    nested = jax.vmap(jax.vmap(partial(train, sigma=4.0), in_axes=(None, 0)), in_axes=(0, None))
    _, histories = jax.jit(nested)(keys, rates)
    chex.assert_tree_shape_prefix(histories, (2, 2, STEPS))
    for place in np.ndindex(2, 2):
        _, history = single(keys[place[0]], rates[place[1]])
        # Rounding differs under vmap, and training multiplies it: the first steps tell.
        np.testing.assert_allclose(histories.loss[place][:3], history.loss[:3], rtol=1e-3)


def test_every_step_has_images_of_its_own():
    def generate(key):
        image = jax.random.uniform(key, (2, 4, 4, 1))
        return segjax.Batch(image, image)

    def loss(logits, mask):
        return mask.mean(axis=(1, 2, 3))

    fit = segjax.make_fit(Plain(), loss=loss, num_steps=STEPS, chunk_size=2, generate=generate)
    losses = [fit(jax.random.key(seed), 1e-2)[1].loss for seed in (0, 1)]
    assert len({float(value) for value in np.ravel(losses)}) == 2 * STEPS


def loop_lengths(platform, function, *arguments):
    """Lengths of the loops over steps, as XLA gets them; None if unknown. A random number's loop has 5 turns."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    lengths = re.findall(r"cond \{\n(?:.*constant dense<(\d+)> : tensor<i32>\n)?", lowered)
    return sorted({int(length or 0) or None for length in lengths} - {5}, key=str)


def test_only_a_cpu_compiles_a_loop_of_unknown_length():
    """There it would round differently; on a GPU every step would wait for the host."""
    train = segjax.make_train(Plain(), num_steps=STEPS, **SMALL)
    assert loop_lengths("cpu", train, KEY, 1e-2) == [None]
    assert loop_lengths("cuda", train, KEY, 1e-2) == [STEPS]
    fit = segjax.make_fit(Plain(), num_steps=STEPS, chunk_size=4, **SMALL)
    start = KEY, jax.eval_shape(fit.init, KEY, 1e-2), 1e-2
    assert loop_lengths("cpu", fit.advance, *start, 4) == [None]
    # One for full chunks, one for the last.
    assert loop_lengths("cuda", fit.advance, *start, 4) == [4, None]


@pytest.mark.slow
def test_on_a_gpu_a_run_and_many_are_of_cudnn_s_convolutions():
    train = segjax.make_train(MODEL, num_steps=STEPS, **SMALL)
    keys, rates = jax.random.split(KEY, 2), jnp.ones(3)
    over_keys, over_rates = jax.vmap(train, (0, None)), jax.vmap(train, (None, 0))
    nested = jax.vmap(over_rates, (0, None))
    window = (MODEL.kernel_size,) * 2
    for function, arguments, groups in (
        (train, (KEY, 1e-2), {1}),
        (over_keys, (keys, 1e-2), {1, 2}),
        (over_rates, (KEY, rates), {1, 3}),
        (nested, (keys, rates), {1, 2, 6}),
    ):
        assert_are_cudnn_s(convolutions_on_gpu(function, *arguments), window, groups)


@pytest.mark.slow
def test_runs_of_a_key_are_paired():
    """Equal weights for every optimizer; and the first loss, before any update, says that the images are equal too."""
    fits = {name: segjax.make_fit(Plain(), optimizer=o, num_steps=1, **SMALL) for name, o in segjax.OPTIMIZERS.items()}
    first, *others = (fit.init(KEY, 1e-3).params for fit in fits.values())
    for other in others:
        chex.assert_trees_all_equal(other, first)
    losses = {float(fits[name](KEY, rate)[1].loss[0]) for name in ("sgd", "adam") for rate in (1e-3, 1.0)}
    assert len(losses) == 1
    assert float(fits["sgd"](jax.random.key(1), 1e-3)[1].loss[0]) not in losses


def test_one_compilation_for_every_rate_seed_and_length():
    chex.clear_trace_counter()

    # Traced when made and twice in `advance` for the shapes, then once to be compiled; never again.
    @chex.assert_max_traces(n=4)
    def generate(key):
        return flat(key)

    fit = segjax.make_fit(Plain(), num_steps=5, chunk_size=2, generate=generate)
    fit.compile(KEY, 1e-3)
    for seed, rate in ((0, 1e-3), (1, 1e-2), (2, np.float32(0.1)), (3, 1)):
        fit(jax.random.key(seed), rate)
    assert fit.advance._cache_size() == 1


def test_a_run_begins_with_the_state_of_its_first_key():
    create = partial(segjax.training.create_state, model=Plain(), optimizer=segjax.OPTIMIZERS["adam"])
    state = jax.jit(create)(jax.random.split(KEY)[0], image=flat(KEY).image, learning_rate=1e-2)
    chex.assert_trees_all_equal(segjax.make_fit(Plain(), num_steps=1, generate=flat).init(KEY, 1e-2), state)


def test_equal_networks_share_the_program_of_their_weights():
    initialised = []

    class Noted(Plain):
        width: int = 1

        def __call__(self, image, train=False):
            initialised.extend([self.width] if self.is_initializing() else [])
            return super().__call__(image)

    for width, optimizer in ((1, optax.sgd), (1, optax.adam), (2, optax.sgd), (2, optax.sgd)):
        segjax.make_fit(Noted(width), optimizer=optimizer, num_steps=1, generate=flat).init(KEY, 1e-3)
    assert initialised == [1, 2]


def test_networks_that_differ_in_a_dtype_alone_share_nothing():
    class Scaled(nn.Module):
        scale: float

        @nn.compact
        def __call__(self, image, train=False):
            return image * self.param("scale", lambda _: jnp.asarray(self.scale))

    states = [segjax.make_fit(Scaled(one), num_steps=1, generate=flat).init(KEY, 1e-2) for one in (1, 1.0)]
    assert [state.params["scale"].dtype for state in states] == [jnp.int32, jnp.float32]


def test_what_only_has_the_methods_of_a_network_may_change_between_runs():
    class Wrapper:
        def init(self, *arguments, **options):
            return nn.Dense(self.width).init(jax.random.key(0), flat(KEY).image)

        apply = MODEL.apply

    model, widths = Wrapper(), []
    for model.width in (1, 2):
        state = segjax.make_fit(model, num_steps=1, generate=flat).init(KEY, 1e-2)
        widths.append(state.params["kernel"].shape[-1])
    assert widths == [1, 2]


def test_a_network_without_a_hash_trains_as_any_other():
    class Listed(Plain):
        widths: list[int]

        def __call__(self, image, train=False):
            return super().__call__(image)

    fits = [segjax.make_fit(model, num_steps=2, generate=flat) for model in (Listed([1, 2]), Plain())]
    chex.assert_trees_all_equal(*(fit(KEY, 1e-2)[0] for fit in fits))


def test_an_optimizer_that_keeps_the_weights_shares_no_buffer_with_them():
    def keeper(learning_rate):
        return optax.GradientTransformation(lambda params: params, lambda updates, state, params=None: (updates, state))

    fit = segjax.make_fit(Plain(), optimizer=keeper, num_steps=2, chunk_size=1, generate=flat)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(fit.init(KEY, 1e-2))]
    assert len(set(buffers)) == len(buffers)
    # A chunk consumes its state: it takes no buffer twice.
    chex.assert_tree_all_finite(fit(KEY, 1e-2)[0].params)


def test_any_optax_optimizer_and_schedule():
    def scheduled(rate):
        return optax.lion(optax.cosine_decay_schedule(rate, STEPS))

    train = segjax.make_train(Plain(), optimizer=scheduled, num_steps=STEPS, generate=flat)
    state, history = jax.jit(train)(KEY, 1e-3)
    chex.assert_tree_all_finite((state.params, history.loss))


def test_float64_throughout(x64):
    state, history = jax.eval_shape(segjax.make_train(MODEL.clone(depth=1), num_steps=2, **SMALL), KEY, 1e-3)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((state, history.loss))}
    assert {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)} == {jnp.dtype("float64")}


def test_an_optimizer_gets_the_loss_and_the_gradient_that_it_asks_for():
    def loss_keeper(learning_rate):
        def update(gradient, state, params, *, value, grad):
            chex.assert_trees_all_equal_shapes(gradient, grad)
            return jax.tree.map(jnp.zeros_like, gradient), value

        return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)

    train = jax.jit(segjax.make_train(Plain(), optimizer=loss_keeper, num_steps=1, generate=flat))
    state, history = train(KEY, 1e-3)
    assert float(state.opt_state) == float(history.loss[0]) > 0


@both
@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"num_steps": 0}, "num_steps must be an integer >= 1"),
        (TypeError, {"num_steps": 1.5}, "num_steps must be an integer >= 1"),
        (ValueError, {"batch_size": 0}, "batch_size must be an integer >= 1"),
        (ValueError, {"image_size": 1}, "image_size must be an integer >= 2"),
        (ValueError, {"sigma2": -1.0}, "sigma2 must be a finite number > 0"),
        (TypeError, {"sigma3": 1.0}, "sigma3"),
    ],
)
def test_refuses_bad_options_when_made(make, error, options, message):
    with pytest.raises(error, match=message):
        make(MODEL, **options)


@both
def test_refuses_a_rate_out_of_range(make):
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0, got 1e-50, which is 0 in float32"):
        make(MODEL, **SMALL)(KEY, 1e-50)
    if make is segjax.make_fit:
        with pytest.raises(ValueError, match="chunk_size must be an integer >= 1"):
            make(MODEL, chunk_size=0)


READY = {
    "adam": optax.adam(1e-2),
    "a chain with its schedule": optax.chain(optax.clip(1.0), optax.sgd(optax.linear_schedule(1e-2, 1e-3, 5))),
}


@pytest.mark.parametrize("name", READY)
def test_a_ready_transformation_trains_without_a_rate(name):
    train, factory = (
        jax.jit(segjax.make_train(Plain(), optimizer=optimizer, num_steps=3, generate=flat))
        for optimizer in (READY[name], lambda rate: READY[name])
    )
    expected = factory(KEY, 1)
    chex.assert_trees_all_equal(train(KEY), expected)
    fit = segjax.make_fit(Plain(), optimizer=READY[name], num_steps=3, chunk_size=2, generate=flat)
    fit.compile(KEY)
    chex.assert_trees_all_equal(fit(KEY), expected)
    partial_run = fit._replace(num_steps=2)(KEY)
    for resume in (train, fit):
        chex.assert_trees_all_equal(resume(KEY, resume_from=partial_run), expected)


@both
def test_only_a_factory_takes_a_rate(make):
    run = make(Plain(), optimizer=READY["adam"], num_steps=3, generate=flat)
    with pytest.raises(TypeError, match="learning_rate must be None for a ready transformation, which has its rate"):
        run(KEY, 1e-2)
    with pytest.raises(TypeError, match="learning_rate must be a finite number > 0, got None: the optimizer is a func"):
        make(Plain(), num_steps=3, generate=flat)(KEY)


def test_options_of_the_optimizer_may_be_traced():
    def train(optimizer, num_steps):
        return jax.jit(segjax.make_train(Plain(), optimizer=optimizer, num_steps=num_steps, generate=flat))

    adam = train(optax.adam, 3)
    state, history = adam(KEY, 1e-2, b1=0.5)
    expected, expected_history = train(partial(optax.adam, b1=0.5), 3)(KEY, 1e-2)
    chex.assert_trees_all_close((state.params, history), (expected.params, expected_history), rtol=1e-6)
    assert history.loss[2] != adam(KEY, 1e-2)[1].loss[2]
    partial_run = train(optax.adam, 1)(KEY, 1e-2, b1=0.5)
    chex.assert_trees_all_close(adam(KEY, 1e-2, partial_run, b1=0.5), (state, history), rtol=1e-6)


def test_an_option_of_both_is_refused():
    def generate(key, b1=1.0):
        return flat(key)

    train = segjax.make_train(Plain(), optimizer=optax.adam, num_steps=1, generate=generate)
    with pytest.raises(TypeError, match="b1 must be an option of the optimizer or of generate, got one of both"):
        train(KEY, 1e-2, b1=0.5)
    # Without it there is nothing to decide; nor with an optimizer that has no options.
    train(KEY, 1e-2)
    segjax.make_train(Plain(), num_steps=1, generate=generate)(KEY, 1e-2, b1=0.5)


@both
def test_options_may_be_bound_to_generate(make):
    generate = partial(segjax.generate_data, image_size=16, sigma=4.0)
    _, history = make(Plain(), num_steps=2, generate=generate, batch_size=2)(KEY, 1e-2)
    _, expected = make(Plain(), num_steps=2, **SMALL)(KEY, 1e-2)
    chex.assert_trees_all_equal(history, expected)
    with pytest.raises(TypeError, match="has no option sgima; its options, the closest first: sigma, "):
        make(Plain(), num_steps=2, generate=generate, sgima=4.0)
