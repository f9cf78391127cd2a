import subprocess
import sys
import time
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small_runs import ROOT, execute

import segjax
from experiments import benchmark
from experiments.bench import contenders, limits, timing
from experiments.bench.timing import Call, Program
from experiments.lab.stops import UsageError

QUIET = Console(quiet=True)
SIZES = {"batch_size": 2, "image_size": 8}


def run(*arguments):
    return execute(benchmark, "--preset", "quick", *arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    sizes = ("--image-size", "8", "--batch-size", "2", "--repeats", "1", "--steps", "1", "--runs", "1", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_MATRIX", 512)
        patch.setattr(limits, "_COPIED", 2**20)
        begin = time.monotonic()
        return out, run("--out", out, *sizes), time.monotonic() - begin


def test_measures_all_of_ours(written):
    out, document, _ = written
    parts = {}
    for program in document["programs"]:
        parts.setdefault(program["part"], []).append(program["name"])
        assert all(second > 0 for second in program["seconds"])
    assert parts["generation"] == ["ours", "naive JAX: dense convolutions"]
    assert parts["step"] == ["ours"]
    assert parts["iteration"] == ["ours", "ours, step by step", "naive JAX: plain convolutions in the loop"]
    assert parts["sweep"][:2] == ["1", "2"]
    assert set(document["first_steps"]) == {"ours"}
    assert document["warnings"] == ["PyTorch was not measured."]
    assert document["limits"]["fraction"] > 0
    names = {"times.png", "runs.csv", "tables.tex", "report.html", "results.json", "options.json"}
    assert {path.name for path in out.iterdir()} == names


def test_ratios_are_of_medians(written):
    _, document, _ = written
    medians = {(program["part"], program["name"]): program["median"] for program in document["programs"]}
    ours, naive = medians["iteration", "ours"], medians["iteration", "naive JAX: plain convolutions in the loop"]
    assert document["ratios"]["naive iteration in JAX / ours"] == pytest.approx(naive / ours)
    assert document["ratios"]["cost of a run: one of 2 / of 1"] == pytest.approx(
        medians["sweep", "2"] / medians["sweep", "1"]
    )


def test_the_first_step_of_a_process_is_timed_and_weighed(written):
    start = written[1]["first_steps"]["ours"]
    # It is among what the whole took.
    assert 0 < start["seconds"] < written[2]
    # Python and jax alone take more than this.
    assert 5e7 < start["peak_bytes"] < 2e10


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="batch_size must be an integer >= 1"):
        benchmark.first_step("ours", benchmark.Options(batch_size=0, image_size=8, steps=1))


def test_peak_memory_does_not_forget():
    # In a process of its own, since this one may have had more before.
    code = "from experiments.bench.first_step import peak_bytes as peak\n"
    code += "before = peak(); block = b'1' * 10**8; del block\n"
    done = subprocess.run([sys.executable, "-c", code + "print(peak() - before)"], capture_output=True, cwd=ROOT)
    assert int(done.stdout) >= 9e7


def test_growth_changes_one_quantity_at_a_time():
    programs = contenders.growth(8, 32, 5)
    assert {name: list(chosen) for name, chosen in programs.items()} == {
        "image_size": [8, 16, 32],
        "batch_size": [2, 4, 8, 16],
        "num_channels": [8, 16, 32],
        "num_steps": [5, 20],
    }
    assert programs["num_steps"][20].units == 20
    times = {
        (f"by {part}", str(value)): timing.Timing([value / 1e3], 0.0, None)
        for part, v in programs.items()
        for value in v
    }
    rows = benchmark.growth_table(times).rows
    assert rows[1] == ["image_size", "16", "16.0\n16.0-16.0", "2.00"]
    assert programs["image_size"][8].make().run()[1].loss.shape == (5,)


def test_compilation_is_apart_and_slow_programs_get_fewer_repeats():
    calls = {"slow": 0, "fast": 0}

    def make(name, seconds):
        def call():
            calls[name] += 1
            time.sleep(seconds)

        time.sleep(0.2)
        return Call(call)

    programs = {"slow": Program(lambda: make("slow", 0.2), 2), "fast": Program(lambda: make("fast", 0.001))}
    times = timing.measure(programs, 4, 0.45, QUIET)
    assert {name: len(timed.seconds) for name, timed in times.items()} == {"slow": 2, "fast": 4}
    assert calls == {"slow": 3, "fast": 5}
    # A unit is half a call.
    assert 0.1 <= times["slow"].median < 0.2
    assert times["slow"].compile_seconds >= 0.15


def test_a_compiled_program_tells_its_memory():
    call = timing.compiled(lambda x: jnp.sort(x)[::2] @ jnp.sort(x)[1::2], jnp.arange(1000.0))
    # Both halves, sorted.
    assert call.temporary_bytes >= 4000
    np.testing.assert_allclose(call.run(), np.arange(0.0, 1000, 2) @ np.arange(1.0, 1000, 2), rtol=1e-5)


def test_naive_convolutions_train_the_same_network():
    """On the same variables: the same logits, statistics, loss and gradients; and so the same losses of a run."""
    ours, naive = segjax.SegmentationCNN(num_channels=2), contenders.NaiveCNN(num_channels=2)
    batch = segjax.generate_data(jax.random.key(0), batch_size=2, image_size=8, sigma=2.0)
    variables = ours.init(jax.random.key(1), batch.image)
    chex.assert_trees_all_equal_shapes_and_dtypes(naive.init(jax.random.key(1), batch.image), variables)

    def loss(params, model):
        given = {**variables, "params": params}
        logits, changed = model.apply(given, batch.image, train=True, mutable=["batch_stats"])
        return segjax.losses.mean_squared_error(logits, batch.mask).mean(), (logits, changed)

    found, expected = (jax.value_and_grad(loss, has_aux=True)(variables["params"], it) for it in (naive, ours))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    evaluated = (it.apply(variables, batch.image, train=False) for it in (naive, ours))
    np.testing.assert_allclose(*evaluated, rtol=1e-4, atol=1e-6)


def test_naive_steps_train_as_ours_do():
    ours, naive = segjax.SegmentationCNN(num_channels=2), contenders.NaiveCNN(num_channels=2)
    optimizer, loss = segjax.OPTIMIZERS["sgd"], segjax.losses.mean_squared_error
    keys = jax.random.split(jax.random.key(0), 3)
    batches = [segjax.generate_data(key, batch_size=2, image_size=8, sigma=2.0) for key in keys]
    first = segjax.training.create_state(ours, optimizer, jax.random.key(1), batches[0].image, 0.1)
    losses = []
    for model in (naive, ours):
        state = first
        for batch in batches:
            state, step = jax.jit(partial(segjax.training.train_step, model, optimizer, loss))(state, batch, 0.1)
            losses.append(step.loss)
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-4)


def test_work_of_a_step_is_what_xla_counts():
    model, image = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=2), jnp.zeros((2, 64, 64, 1))
    state = segjax.training.create_state(model, segjax.OPTIMIZERS["sgd"], jax.random.key(0), image, 0.1)
    step = jax.jit(
        lambda state, batch: segjax.training.train_step(
            model, segjax.OPTIMIZERS["sgd"], segjax.losses.mean_squared_error, state, batch, 0.1
        )
    )
    counted = step.lower(state, segjax.Batch(image, image)).compile().cost_analysis()["flops"]
    # XLA counts all else too, and leaves out the taps that fall on zeros.
    assert limits.step(model, 2, 64).flops == pytest.approx(counted, rel=0.25)


def test_the_limit_is_the_slower_of_computing_and_moving():
    device = limits.Limits(flops=100.0, bytes=10.0)
    assert limits.Work(flops=50.0, bytes=1.0).floor(device) == 0.5
    assert limits.Work(flops=50.0, bytes=20.0).floor(device) == 2.0


@pytest.mark.parametrize("name", ["repeats", "steps", "batch-size"])
def test_bad_input_is_one_line(name, tmp_path):
    with pytest.raises(UsageError, match=f"--{name} must be an integer >= 1"):
        run("--out", str(tmp_path / "out"), f"--{name}", "0")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--runs"], ["--runs", "2", "2"], ["--runs", "0"], ["--budget", "nan"]])
def test_other_bad_input_is_one_line(words, tmp_path):
    with pytest.raises(UsageError, match=f"{words[0]} must be"):
        run("--out", str(tmp_path / "out"), *words)


def test_pytorch_s_peers_do_what_ours_do():
    torch = pytest.importorskip("torch")
    from experiments.bench import peers

    torch.manual_seed(0)
    dense = peers.dense_batch(2, 16)()
    torch.manual_seed(0)
    by_hand = peers.dense_batch(2, 16, by_hand=True)()
    torch.manual_seed(0)
    separable = peers.separable_batch(2, 16)()
    for image, mask in (by_hand, separable):
        np.testing.assert_allclose(image, dense[0], atol=1e-5)
        np.testing.assert_array_equal(mask, dense[1])
    torch.manual_seed(0)
    noise = torch.randn(3, 2, 1, 16, 16).numpy()[:, :, 0]
    ours = segjax.compose_batch(noise, *peers.SIGMAS, 16 / 5)
    np.testing.assert_allclose(ours.image[..., 0], dense[0][:, 0], atol=1e-5)
    training = peers.Training(channels_last=True)
    before = [array.clone() for array in training.network.parameters()]
    peers.steps(training, lambda: dense, 2).run()
    assert training.running_loss > 0
    assert all((old != new).any() for old, new in zip(before, training.network.parameters(), strict=True))
