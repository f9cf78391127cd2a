import time
from functools import partial

import pytest
from small_runs import execute

from experiments import benchmark
from experiments.bench import limits, timing
from experiments.lab.stops import UsageError


def run(*arguments):
    return execute(benchmark, "--preset", "quick", *arguments)


def standing_in(measure):
    """`timing.measure` of programs by their names alone: each is a sleep, a longer one than the one before."""

    def sleeping(programs, *others):
        calls = [timing.Call(partial(time.sleep, 1e-3 * place), temporary_bytes=8) for place in range(len(programs))]
        made = [program._replace(make=lambda it=it: it) for program, it in zip(programs.values(), calls, strict=True)]
        return measure(dict(zip(programs, made, strict=True)), *others)

    return sleeping


@pytest.fixture(scope="module", params=["names", pytest.param("programs", marks=pytest.mark.deep)])
def written(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    sizes = ("--image-size", "8", "--batch-size", "2", "--repeats", "1", "--steps", "1", "--runs", "1", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_MATRIX", 512)
        patch.setattr(limits, "_COPIED", 2**20)
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
    assert parts["step"] == ["ours"]
    assert parts["iteration"] == ["ours", "ours, step by step", "naive JAX: plain convolutions in the loop"]
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
def test_the_first_step_of_a_process_is_timed_and_weighed(written):
    start = written[1]["first_steps"]["ours"]
    # It is among what the whole took.
    assert 0 < start["seconds"] < written[2]
    # Python and jax alone take more than this.
    assert 5e7 < start["peak_bytes"] < 2e10


@pytest.mark.slow
def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="batch_size must be an integer >= 1"):
        benchmark.first_step("ours", benchmark.Options(batch_size=0, image_size=8, steps=1))


def test_a_growing_cost_is_held_against_that_of_the_first_value():
    sizes = {"image_size": (8, 16, 32), "num_steps": (5, 20)}
    times = {
        (f"by {part}", str(value)): timing.Timing([value / 1e3], 0.0, None) for part in sizes for value in sizes[part]
    }
    rows = benchmark.growth_table(times).rows
    assert rows[1] == ["image_size", "16", "16.0\n16.0-16.0", "2.00"]
    assert [row[-1] for row in rows] == ["1.00", "2.00", "4.00", "1.00", "4.00"]


@pytest.mark.parametrize("name", ["repeats", "steps", "batch-size"])
def test_bad_input_is_one_line(name, tmp_path):
    with pytest.raises(UsageError, match=f"--{name} must be an integer >= 1"):
        run("--out", str(tmp_path / "out"), f"--{name}", "0")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--runs"], ["--runs", "2", "2"], ["--runs", "0"], ["--budget", "nan"]])
def test_other_bad_input_is_one_line(words, tmp_path):
    with pytest.raises(UsageError, match=f"{words[0]} must be"):
        run("--out", str(tmp_path / "out"), *words)
