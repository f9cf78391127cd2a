from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_variables
from small_runs import SMALL, execute, ticking, told_to_stop

import segjax
from experiments import train_best_model
from experiments.lab import arms
from experiments.lab.folder import Folder
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import PartialRun
from experiments.lab.stops import Interrupted, UsageError
from experiments.pictures import saved_models
from experiments.timed import clock
from segjax import checkpoints

# Half a second a chunk, after 100 for compiling: 6 chunks of 10 steps fit into what is left.
TICK, COMPILING = 0.5, 100.0
COMPILED, SECONDS, STEPS = COMPILING + TICK, COMPILING + 4, 60
WORDS = [*SMALL, "--count-compilation", "--seconds", SECONDS, "--held-out", "16", "--architecture", "shallow"]


def run(out, *arguments):
    with ticking(TICK, COMPILING):
        return execute(train_best_model, *WORDS, "--out", out, *arguments)


@pytest.mark.slow
def test_what_was_interrupted_goes_on_with_its_clock(tmp_path):
    for _ in range(2):
        with told_to_stop(), pytest.raises(Interrupted):
            run(tmp_path)
    arrays, metadata = checkpoints.load(tmp_path / "runs" / "clock-seed0.part")
    assert len(arrays["history"]["loss"]) == 20
    assert arrays["state"]["step"] == 20
    # The second compilation is not on the clock: only the ten steps are.
    assert float(arrays["notes"]["compiled"]) == COMPILED
    assert metadata["seconds"] == COMPILED + 2 * TICK
    rows = run(tmp_path)["snapshots"]
    assert rows[-1]["step"] == STEPS
    assert SECONDS - TICK <= rows[-1]["seconds"] <= SECONDS
    assert not list(tmp_path.glob("runs/*.part"))


def test_a_last_chunk_with_room_for_more_steps_counts_those_that_were_done():
    timed, losses = clock.Timed(steps=3), np.float32([0.3, 0.2, 0.1, *[0.0] * 7])
    state = SimpleNamespace(step=np.int32(3), variables={})
    partial_run = PartialRun(None).after(state, segjax.History(losses, None), 1.0)
    trained = clock.TimedRun(timed, 0.0, 0.0)
    trained.add_chunk(partial_run)
    (snapshot,) = trained.snapshots
    assert snapshot[:3] == (1.0, 3, pytest.approx(0.2))
    for timed_run in (trained, clock.TimedRun.resumed(timed, partial_run, trained.notes | {"shots": {}})):
        assert timed_run.steps == 3
        assert timed_run.share == 1


@pytest.mark.slow
def test_compilation_may_be_left_out_of_the_time(tmp_path):
    rows = run(tmp_path, "--no-count-compilation", "--seconds", SECONDS - COMPILING)["snapshots"]
    assert rows[-1]["step"] == STEPS + 10
    assert rows[-1]["seconds"] == SECONDS - COMPILED


@pytest.mark.slow
def test_a_report_that_fails_costs_no_training(tmp_path, monkeypatch):
    """And the results of before stay: the next try has the steps of this one, not one more."""
    (tmp_path / "model.safetensors").write_text("another's")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, "--overwrite")
    assert (tmp_path / "model.safetensors").read_text() == "another's"
    arrays, _ = checkpoints.load(tmp_path / "runs" / "clock-seed0.part")
    steps = [int(shot["step"]) for _, shot in sorted(arrays["notes"]["shots"].items())]
    assert [row["step"] for row in run(tmp_path)["snapshots"]] == steps


@pytest.mark.slow
def test_the_rate_follows_the_clock(tmp_path, monkeypatch):
    rates = []
    spied = {"constant": lambda rate, steps: lambda step: rates.append(step / steps) or rate}
    monkeypatch.setattr(clock, "SCHEDULES", spied)
    run(tmp_path, "--schedule", "constant", "--covered", "0.25")
    # A quarter of the schedule in the time that is left after compiling.
    share = TICK / (SECONDS - COMPILED)
    assert rates == pytest.approx([0.25 * share * chunk for chunk in range(STEPS // 10)], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds must be a finite number > 0"),
        (["--covered", "1.5"], r"--covered must be in \(0, 1\], got 1.5"),
        (["--covered", "nan"], "--covered must be a finite number > 0"),
        (["--held-out", "0"], "--held-out must be an integer >= 1"),
        (["--checkpoint-seconds", "0"], "--checkpoint-seconds must be a finite number > 0"),
        (["--architecture", "notebook"], "--architecture must be one of: separate_norm, narrow"),
        (["--export-torch"], "--export-torch needs an --architecture of: separate_norm, narrow"),
    ],
)
def test_refuses(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_the_error_falls_in_the_figure():
    rows = [{"seconds": s, "accuracy": 1 - 1 / s, "iou": 1 - 2 / s} for s in (4.0, 8.0)]
    axes = clock.quality_drawings(clock.Timed(), rows, "title")["quality_over_time"].figure.axes[0]
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], [[0.25, 0.125], [0.5, 0.25]])
    assert clock.quality_drawings(clock.Timed(), rows[:1], "title") == {}


def test_a_training_that_came_to_nothing_says_why():
    counted, not_counted = (clock.Timed(count_compilation=counts) for counts in (True, False))
    assert clock.warnings(counted, [{"step": 100}], diverged=False) == []
    assert "diverged" in clock.warnings(counted, [{"step": 100}], diverged=True)[0]
    assert "compiling: give it more --seconds" in clock.warnings(counted, [{"step": 10}], diverged=False)[0]
    assert "first 10 steps: give it more" in clock.warnings(not_counted, [{"step": 10}], diverged=False)[0]
    # --seconds have no say then.
    assert clock.warnings(clock.Timed(steps=10), [{"step": 10}], diverged=False) == []


def test_a_network_that_diverged_is_not_recommended():
    timed = clock.Timed(architecture="shallow")
    params = {"conv1": {"kernel": np.full((3, 3, 1, 2), np.nan, np.float32)}}
    shots = [clock.Snapshot(1.0, 100, 0.5, {"params": params})]
    rows = [{"seconds": 1.0, "step": 100, "loss": 0.5, **dict.fromkeys(arms.HELD_OUT, 0.5)}]
    report = clock.report(timed, ["After 1 s", "look inside"], {}, shots, rows, {})
    assert report.findings == ["After 1 s"]
    assert report.warnings == [saved_models.DIVERGED]


@pytest.mark.parametrize("export", [False, True])
def test_the_weights_go_to_pytorch_where_that_is_asked_for(export):
    timed = clock.Timed(architecture="separate_norm", export_torch=export)
    shots = [clock.Snapshot(1.0, 100, 0.5, random_variables(ARCHITECTURES["separate_norm"]))]
    rows = [{"seconds": 1.0, "step": 100, "loss": 0.5, **dict.fromkeys(arms.HELD_OUT, 0.5)}]
    report = clock.report(timed, ["After 1 s"], {}, shots, rows, {})
    assert set(report.files) == {saved_models.MODEL, *([saved_models.TORCH] if export else [])}
