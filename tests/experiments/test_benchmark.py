import json
import os
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console
from small_runs import ROOT, execute

from experiments import benchmark
from experiments.bench import contenders, limits, timing
from experiments.lab import provenance
from experiments.lab.stops import UsageError
from experiments.lab.train import progress_bar

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
LAB = SimpleNamespace(progress=lambda: progress_bar(Console(quiet=True)), say=lambda text: None)


def run(*arguments):
    return execute(benchmark, "quick", *arguments)


def standing_in(measure):
    """`timing.measure` of programs by their names alone: each is a sleep, a longer one than the one before."""

    def sleeping(programs, *others):
        calls = [timing.Call(partial(time.sleep, 1e-3 * place), temporary_bytes=8) for place in range(len(programs))]
        sleepers = [
            program._replace(make=lambda call=call: call)
            for program, call in zip(programs.values(), calls, strict=True)
        ]
        return measure(dict(zip(programs, sleepers, strict=True)), *others)

    return sleeping


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A machine with a GPU, which jax and PyTorch use; the n-th program of a part takes n / 20 ms, without running.

    Returns what happens to the device, in order: whose process, and whether jax would take most of its memory at once.
    """
    events, real = [], subprocess.run

    def note(name, environment=os.environ):
        events.append((name, environment.get(PREALLOCATE) != "false"))
        return True

    def start(words, **options):
        if "experiments.bench.first_step" not in words:
            return real(words, **options)
        name = words[words.index("experiments.bench.first_step") + 1]
        note(name, options["env"])
        line = {"moment": time.time() + 2, "platform": "gpu", "peak_bytes": 10**9, "device_peak_bytes": 10**8}
        return subprocess.CompletedProcess(words, 0, json.dumps(line), "")

    def measure(programs, *_):
        return {name: timing.Timing([5e-5 * place], 1.0, 10**6) for place, name in enumerate(programs, start=1)}

    monkeypatch.setenv(PREALLOCATE, "true")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(provenance, "numerics", lambda: note("jax is asked for its device") and {})
    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.setattr(contenders, "torch_is_installed", lambda: True)
    monkeypatch.setattr(contenders, "can_compile", lambda: True)
    monkeypatch.setitem(sys.modules, "experiments.bench.peers", SimpleNamespace(dense_batch=int, separable_batch=int))
    monkeypatch.setattr(limits, "measure", lambda *_: note("jax computes") and limits.Limits(4e14, 3e12))
    monkeypatch.setattr(limits, "step", lambda *_: limits.Work(1e10, 1.5e8))
    monkeypatch.setattr(timing, "measure", measure)
    return events


@pytest.fixture(scope="module", params=["names", pytest.param("programs", marks=pytest.mark.deep)])
def written(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    sizes = ("--image-size", "8", "--batch-size", "2", "--repeats", "1", "--steps", "1", "--runs", "1", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_MATRIX", 512)
        patch.setattr(limits, "_COPY", 2**20)
        if request.param == "names":
            patch.setattr(timing, "measure", standing_in(timing.measure))
        begin = time.monotonic()
        return out, run("--out", out, *sizes), time.monotonic() - begin


@pytest.mark.slow
def test_measures_all_of_ours(written):
    out, document, _ = written
    parts = {}
    for program in document["programs"]:
        parts.setdefault(program["part"], []).append(program["name"])
        assert all(second > 0 for second in program["seconds"])
    assert parts["generation"] == ["ours", "naive JAX: dense convolutions"]
    others = ["ours, XLA's convolution"] if contenders.has_two_convolutions() else []
    assert parts["step"] == ["ours", *others]
    assert parts["iteration"] == ["ours", *others, "ours, step by step", "naive JAX: plain convolutions in the loop"]
    assert len(parts["layer"]) == 9 * (1 + len(others))
    assert parts["sweep"][:2] == ["1", "2"]
    assert set(document["first_steps"]) == {"ours"}
    assert document["warnings"] == ["PyTorch was not measured."]
    assert document["limits"]["fraction"] > 0
    names = {"times.png", "runs.csv", "tables.tex", "report.html", "results.json", "options.json"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.slow
def test_ratios_are_of_medians(written):
    _, document, _ = written
    medians = {(program["part"], program["name"]): program["median"] for program in document["programs"]}
    ours, naive = medians["iteration", "ours"], medians["iteration", "naive JAX: plain convolutions in the loop"]
    assert document["ratios"]["naive iteration in JAX / ours"] == pytest.approx(naive / ours)
    assert document["ratios"]["cost of a run: one of 2 / of 1"] == pytest.approx(
        medians["sweep", "2"] / medians["sweep", "1"]
    )


@pytest.mark.slow
def test_the_first_step_of_a_process_has_its_time_and_its_memory(written):
    start = written[1]["first_steps"]["ours"]
    # The command's time includes it.
    assert 0 < start["seconds"] < written[2]
    # Python and jax alone take more than this.
    assert 5e7 < start["peak_bytes"] < 2e10


@pytest.mark.slow
def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="batch_size must be an integer >= 1"):
        benchmark.first_step("ours", benchmark.Options(batch_size=0, image_size=8, steps=1))


def test_a_growing_cost_is_compared_with_that_of_the_first_value():
    sizes = {"image_size": (8, 16, 32), "num_steps": (5, 20)}
    growth = {
        quantity: {str(value): timing.Timing([value / 1e3], 0.0, None) for value in values}
        for quantity, values in sizes.items()
    }
    rows = benchmark.growth_table(growth).rows
    assert rows[1] == ["image_size", "16", "16.0\n16.0-16.0", "2.00"]
    assert [row[-1] for row in rows] == ["1.00", "2.00", "4.00", "1.00", "4.00"]
    # Programs with XLA's convolution have no rows, but a column.
    for times in growth.values():
        times |= {contenders.with_xla(name): timing.Timing([0.016], 0.0, None) for name in times}
    rows = benchmark.growth_table(growth).rows
    assert [row[-1] for row in rows] == ["0.50", "1.00", "2.00", "0.31", "1.25"]


def test_on_a_gpu_processes_find_the_device_free(on_a_gpu, tmp_path):
    document = run("--out", tmp_path / "out", "--torch")
    assert document["pytorch"]
    assert {name: start["platform"] for name, start in document["first_steps"].items()} == dict.fromkeys(
        ("ours", "notebook", "tuned"), "gpu"
    )
    # This process takes no more memory than it needs; each of the others takes what its own command would.
    assert on_a_gpu == [
        ("jax is asked for its device", False),
        *((name, True) for name in ("ours", "notebook", "tuned")),
        ("jax computes", False),
    ]


@pytest.mark.slow
def test_nothing_is_computed_before_the_processes_have_ended():
    code = """if True:
        from types import SimpleNamespace

        from rich.console import Console

        from experiments import benchmark
        from experiments.bench import contenders, limits
        from experiments.lab.train import progress_bar

        contenders.torch_is_installed = lambda: True
        benchmark.first_step = lambda name, options: print(name) or {"platform": "gpu"}
        limits.measure = lambda *_: exit("it computes")
        lab = SimpleNamespace(progress=lambda: progress_bar(Console(quiet=True)))
        benchmark.answer(benchmark.Options(), lab)
    """
    # Whatever looks for a device fails where there is no such platform.
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stderr == "it computes\n"
    assert done.stdout.split()[:2] == ["ours", "notebook"]


def test_a_gpu_s_results_have_its_own_goals(on_a_gpu, tmp_path):
    options = benchmark.Options(runs=(1, 4, 16), growth=False, out=tmp_path)
    report = benchmark.answer(options, LAB)
    tables = {table.title: {row[0]: row[1:] for row in table.rows} for table in report.tables}
    goals = {name: goal for name, (_, goal) in tables["Ratios"].items() if goal}
    assert goals == {
        "the notebook's iteration / ours": "at least 100",
        "tuned PyTorch's iteration / ours": "at least 2",
        "loop / step by step": "at most 1.1",
        "steps per second: 16 runs side by side / 1": "at least 5",
        "cost of a run: jax.vmap, 4 / 1": "at most 1.5",
        "seconds to the first step": "at most 5",
        "step: share of the device's limit": "at least 0.5",
    }
    # Programs: 1, 4 and 16 runs one after the other, then 4 and 16 side by side, the fifth.
    assert report.results["ratios"]["steps per second: 16 runs side by side / 1"] == pytest.approx(1 / 5)
    # The step takes 50 us; moving its 150 MB takes at least as long, at 3 TB/s.
    assert tables["Ratios"]["step: share of the device's limit"][0] == "1.00"
    assert tables["The device's limit"]["least time of a step"] == ["0.0500 ms"]
    assert tables["From a command to its first step"]["tuned"] == ["2.0", "1000", "100"]
    cells = {tuple(row[:2]): row[2] for row in report.tables[0].rows}
    assert cells["step", "PyTorch, tuned"] == "0.200\n0.200-0.200"
    assert report.warnings == []


def test_pytorch_on_another_kind_of_device_is_not_compared(on_a_gpu, monkeypatch):
    first_step = benchmark.first_step
    monkeypatch.setattr(
        benchmark,
        "first_step",
        lambda name, options: {**first_step(name, options), "platform": "gpu" if name == "ours" else "cpu"},
    )
    report = benchmark.answer(benchmark.Options(growth=False), LAB)
    assert not report.results["pytorch"]
    assert not any("PyTorch" in program["name"] for program in report.results["programs"])
    (sentence,) = report.warnings
    assert "it runs on a cpu, and jax on a gpu" in sentence


@pytest.mark.parametrize("name", ["repeats", "steps", "batch-size"])
def test_bad_input_is_one_line(name, tmp_path):
    with pytest.raises(UsageError, match=f"--{name} must be an integer >= 1"):
        run("--out", str(tmp_path / "out"), f"--{name}", "0")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--runs"], ["--runs", "2", "2"], ["--runs", "0"], ["--budget", "nan"]])
def test_other_bad_input_is_one_line(words, tmp_path):
    with pytest.raises(UsageError, match=f"{words[0]} must be"):
        run("--out", str(tmp_path / "out"), *words)
