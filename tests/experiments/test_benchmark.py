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
    """A machine with a GPU, which jax and PyTorch use; the n-th program takes n / 20 ms, without running.

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
        line = {"moment": time.time() + 2, "peak_bytes": 10**9}
        return subprocess.CompletedProcess(words, 0, json.dumps(line), "")

    def measure(programs, *_):
        return {key: timing.Timing([5e-5 * place], 1.0, 10**6) for place, key in enumerate(programs, start=1)}

    def one_run(*_):
        return {"iteration": {"PyTorch, tuned": timing.Program(None)}}

    monkeypatch.setenv(PREALLOCATE, "true")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(provenance, "numerics", lambda: note("jax is asked for its device") and {})
    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.setattr(contenders, "torch_is_installed", lambda: True)
    monkeypatch.setattr(contenders, "can_compile", lambda: True)
    monkeypatch.setitem(
        sys.modules, "experiments.bench.peers", SimpleNamespace(one_run=one_run, platform=lambda: "gpu")
    )
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
    others = ["ours, XLA's convolution"] if contenders.has_two_convolutions() else []
    assert parts["generation"] == ["ours"]
    assert parts["step"] == ["ours", *others]
    assert parts["iteration"] == ["ours", *others, "ours, step by step", "naive JAX: plain convolutions in the loop"]
    assert parts["16 to 1, kernel gradient"] == ["ours", *others]
    assert parts["runs"][:2] == ["sweep of 1", "sweep of 2"]
    assert set(document["first_steps"]) == {"ours"}
    assert document["warnings"] == ["PyTorch was not measured."]
    assert document["limits"]["fraction"] > 0
    names = {"times.png", "runs.csv", "tables.tex", "report.html", "results.json", "options.json"}
    assert {path.name for path in out.iterdir()} == names


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


def test_a_program_is_compared_with_the_first_of_its_part():
    parts = {
        "step": {"ours": timing.Program(None, flops=2e9), "naive": timing.Program(None)},
        "run": {"one": timing.Program(None)},
    }
    times = {
        ("step", "ours"): timing.Timing([0.1, 0.2, 0.6], 1.5, 3_000_000),
        ("step", "naive"): timing.Timing([4.0], 0.5, None),
        ("run", "one"): timing.Timing([0.001], 0.5, None),
    }
    assert benchmark.times_table("title", parts, times, "note").rows == [
        ["step", "ours", "200.0\n100.0-600.0", "1", "10", "1.5", "3"],
        ["step", "naive", "4000.0\n4000.0-4000.0", "20", "", "0.5", ""],
        ["run", "one", "1.00\n1.00-1.00", "1", "", "0.5", ""],
    ]


def test_on_a_gpu_processes_find_the_device_free(on_a_gpu, tmp_path):
    document = run("--out", tmp_path / "out", "--torch")
    assert set(document["first_steps"]) == {"ours", "notebook", "tuned"}
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
        benchmark.first_step = lambda name, options: print(name)
        limits.measure = lambda *_: exit("it computes")
        lab = SimpleNamespace(progress=lambda: progress_bar(Console(quiet=True)))
        benchmark.answer(benchmark.Options(), lab)
    """
    # Whatever looks for a device fails where there is no such platform.
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stderr == "it computes\n"
    assert done.stdout.split()[:2] == ["ours", "notebook"]


def test_the_share_of_the_limit_is_the_least_time_over_that_of_our_step(on_a_gpu):
    report = benchmark.answer(benchmark.Options(growth=False), LAB)
    tables = {table.title: {row[0]: row[1:] for row in table.rows} for table in report.tables}
    # The step takes 100 us; moving its 150 MB takes at least 50, at 3 TB/s.
    assert report.results["limits"]["fraction"] == pytest.approx(0.5)
    assert tables["The device's limit"]["least time of a step"] == ["0.0500 ms"]
    assert tables["From a command to its first step"]["tuned"] == ["2.0", "1000"]
    assert ("iteration", "PyTorch, tuned") in {
        (program["part"], program["name"]) for program in report.results["programs"]
    }
    assert report.warnings == []


def test_pytorch_on_another_kind_of_device_is_not_compared(on_a_gpu, monkeypatch):
    monkeypatch.setattr(sys.modules["experiments.bench.peers"], "platform", lambda: "cpu")
    report = benchmark.answer(benchmark.Options(growth=False), LAB)
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
