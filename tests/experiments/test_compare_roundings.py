"""Rounding beside the seeds: numbers by hand from small files, and files that do not belong together."""

import importlib
import json

import numpy as np
import optax
import pytest
from small_runs import ROOT, execute, parse

from experiments import compare_roundings
from experiments.compare_roundings import chosen_rates, deviations, read, values, verdict_counts
from experiments.lab.arms import COLUMNS

# Each rounding: label -> (loss, IoU) of two seeds; None is a run that diverged.
FIRST = {
    "adam 0.01": [(0.10, 0.80), (0.20, 0.90)],
    "adam 0.1": [(0.11, 0.70), (0.21, 0.80)],
    "sgd 1": [(0.3, 0.7), None],
}
SECOND = {**FIRST, "adam 0.1": [(0.08, 0.72), (0.20, 0.86)], "sgd 1": [(0.3, 0.7), (0.3, 0.7)]}


def write(folder, name, arms, **changes):
    runs = [
        {
            "label": label,
            "optimizer": label.split()[0],
            "learning_rate": float(label.split()[1]),
            "seed": seed,
            "final_loss": numbers[0] if numbers else None,
            "iou": numbers[1] if numbers else 0.1,
            "diverged_at": None if numbers else 7,
        }
        for label, seeds in arms.items()
        for seed, numbers in enumerate(seeds)
    ]
    document = {"experiment": "compare_optimizers", "reference": "adam 0.01", "runs": runs}
    document |= {"options": {"iterations": 10, "width": 1, "out": name}, **changes}
    path = folder / name / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def paths(tmp_path):
    return [write(tmp_path, "native", FIRST), write(tmp_path, "xla", SECOND)]


def test_deviations_between_roundings_and_between_seeds(paths):
    runs = values(read(paths), COLUMNS["iou"], "adam 0.1")
    np.testing.assert_array_equal(runs, [[0.7, 0.8], [0.72, 0.86]])
    np.testing.assert_allclose(deviations(runs, 0), np.array([0.02, 0.06]) / np.sqrt(2))
    np.testing.assert_allclose(deviations(runs, 1), np.array([0.10, 0.14]) / np.sqrt(2))
    # A run that diverged leaves one value, which has no deviation.
    np.testing.assert_allclose(deviations(values(read(paths), COLUMNS["iou"], "sgd 1"), 0), [0.0])


def test_verdicts_and_rates_are_counted_over_roundings(paths):
    results = read(paths)
    ious, losses = ({label: values(results, COLUMNS[name], label) for label in FIRST} for name in ("iou", "final_loss"))
    verdicts = verdict_counts(ious, "adam 0.01")
    # Equal differences have an interval of no width; two seeds with other differences have a wide one.
    assert dict(verdicts["adam 0.1"]) == {"worse": 1, "not told apart": 1}
    assert dict(verdicts["sgd 1"]) == {"more runs diverged": 1, "not told apart": 1}
    assert {name: dict(counts) for name, counts in chosen_rates(results[0].runs, losses).items()} == {
        "adam": {"0.01": 1, "0.1": 1}
    }


def test_the_report_counts_what_rounding_changed(paths, tmp_path):
    document = execute(compare_roundings, "--results", *paths, "--out", tmp_path / "out")
    assert document["roundings"] == ["native", "xla"]
    assert document["verdicts"]["adam 0.1"] == {"worse": 1, "not told apart": 1}
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "Under 2 roundings, 2 of 2 verdicts against adam 0.01 differ, and 1 of 1 choices of a rate (2 seeds)." in page
    )
    assert (tmp_path / "out" / "deviations.png").exists()


def test_diverged_runs_are_counted_and_their_seeds_are_in_no_mean(paths, tmp_path):
    """A mean of one rounding over other seeds than the next one's would differ by the seeds."""
    roundings = [{"sgd 1": runs, "adam 0.01": FIRST["adam 0.01"]} for runs in (FIRST["sgd 1"], [None, (0.3, 0.9)])]
    apart = [write(tmp_path, f"apart{number}", arms) for number, arms in enumerate(roundings)]
    for files, row, num_arms in (
        (paths, ["sgd 1", "0.7000", "0.0000", "0.0000", "0.7000 to 0.7000", "1 of 4"], 3),
        (apart, ["sgd 1", "-", "-", "-", "-", "2 of 4"], 1),
    ):
        report = compare_roundings.answer(parse(compare_roundings, "--results", *files), lab=None)
        means, verdicts, *choices = report.tables
        assert f"median over {num_arms} arms" in report.findings[0]
        assert means.headings[-1] == "runs diverged"
        assert row in means.rows
        assert ["adam 0.01", "0.8500"] in [cells[:2] for cells in means.rows]
    assert verdicts.rows == [["sgd 1", "more runs diverged (1 of 2 and 0 of 2): 2"]]
    # Each optimizer of the last files has one rate: no choice is a table.
    assert not choices


def test_without_a_run_that_did_not_diverge_there_is_no_median(tmp_path):
    arms = {"sgd 1": [None, None], "adam 0.01": [None, None]}
    files = [write(tmp_path, name, arms) for name in ("native", "xla")]
    report = compare_roundings.answer(parse(compare_roundings, "--results", *files), lab=None)
    assert "of a run by -, another seed by - (standard deviations; median over 0 arms)." in report.findings[0]


def test_without_diverged_runs_there_is_no_column_for_them(tmp_path):
    arms = {label: FIRST[label] for label in ("adam 0.01", "adam 0.1")}
    ious = {label: np.array([[iou for _, iou in runs]] * 2) for label, runs in arms.items()}
    spreads = [{label: deviations(runs, axis) for label, runs in ious.items()} for axis in (0, 1)]
    table = compare_roundings.deviation_table(ious, *spreads, "title")
    assert "runs diverged" not in table.headings
    assert table.rows[0] == ["adam 0.01", "0.8500", "0.0707", "0.0000", "0.8500 to 0.8500"]


def test_a_copy_is_named(paths, tmp_path):
    copy = write(tmp_path, "again", FIRST)
    document = execute(compare_roundings, "--results", *paths, copy, "--out", tmp_path / "out")
    assert document["warnings"] == [
        "again has every number of a rounding before: it is a copy, or changes nothing here."
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"iterations": 11}}, "has other options or runs than"),
        ({"reference": "sgd 1"}, "has other options or runs than"),
        ({"runs": []}, "has other options or runs than"),
        (
            {"experiment": "train_model"},
            "is not the results.json of experiments.compare_optimizers: Invalid enum value 'train_model'",
        ),
        (
            {"runs": [{"label": "a"}]},
            "is not the results.json of experiments.compare_optimizers: .* missing required field",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_named(paths, tmp_path, changes, message):
    other = write(tmp_path, "other", FIRST, **changes)
    with pytest.raises(ValueError, match=f"--results {other} {message}"):
        parse(compare_roundings, "--results", paths[0], other).check()


def test_moved_weights_differ_by_a_unit_in_the_last_place_at_the_first_step_alone(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "rounding")
    moved = importlib.import_module("moved")
    params, gradients = {"w": np.float32([1.0, -3.0, 0.1])}, {"w": np.float32([0.0, 0.0, 0.0])}

    def steps():
        optimizer, weights = moved.sgd(0.5), params
        state = optimizer.init(weights)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            yield np.asarray(weights["w"])

    for direction in (0, 1, -1):
        monkeypatch.setattr(moved, "DIRECTION", direction)
        expected = np.nextafter(params["w"], np.float32(direction * np.inf)) if direction else params["w"]
        for weights in steps():
            np.testing.assert_array_equal(weights, expected)


def test_one_file_is_no_comparison(paths):
    for words in ([], ["--results", paths[0]], ["--results", paths[0], paths[0]]):
        with pytest.raises(ValueError, match="--results must be at least two different files"):
            parse(compare_roundings, *words).check()
