"""Records: who holds them, which entries are refused, and what records.json has, from small files."""

import json
import re

import msgspec
import numpy as np
import pytest

from experiments.optimizers.records import read, standings

SECTIONS = {"experiment": "compare_optimizers", "command": "python", "versions": {}, "numerics": {}, "source": {}}
TEXTURE = {"batch_size": 1, "image_size": 8, "sigma1": 0.2, "sigma2": 1.2, "sigma": 1.6}
OPTIONS = {**TEXTURE, "iterations": 1, "schedule": "constant", "seed": 2, "tuning_seed": 0, "tuning_seeds": 2}
DEVICE = {"cpu": "a CPU", "cpu_cores": 1, "kind": "cpu"}
# IoU of seeds 2 to 9: momentum is better than sgd, adam is not told apart from momentum, and lion is worse.
SGD = [0.50, 0.54, 0.47, 0.51, 0.49, 0.53, 0.50, 0.52]
MOMENTUM = [0.60, 0.65, 0.56, 0.62, 0.58, 0.64, 0.60, 0.61]
ADAM = [0.61, 0.62, 0.58, 0.60, 0.60, 0.63, 0.61, 0.60]
LION = [0.20, 0.24, 0.17, 0.23, 0.19]


def runs(label, ious):
    fields = {"optimizer": label.split()[0], "learning_rate": 0.1, "curves": {"loss": [0.5]}}
    return [
        {"label": label, "seed": seed, "accuracy": iou, "iou": iou, "diverged_at": None if iou else 1, **fields}
        for seed, iou in enumerate(ious, 2)
    ]


def write(folder, day, label, ious, record=None, **changes):
    """results.json of an entry; `record` is the label and the IoU of its rival."""
    contenders = runs(label, ious) + (runs(f"{record[0]} (stored)", record[1][: len(ious)]) if record else [])
    document = {**SECTIONS, "options": OPTIONS, "device": DEVICE, "date": f"2026-11-{day}T00:00:00+00:00"}
    document |= {"runs": contenders, "reference": contenders[-1]["label"], **changes}
    path = folder / f"{label}-{day}.json"
    path.write_text(json.dumps({"tuning_steps": {row["label"]: 16 for row in contenders}, **document}))
    return path


@pytest.fixture
def paths(tmp_path):
    """Four entries, not in the order of their dates."""
    return [
        write(tmp_path, 13, "adam 0.1", ADAM, ("momentum 0.1", MOMENTUM)),
        write(tmp_path, 14, "lion 0.1", LION, ("momentum 0.1", MOMENTUM)),
        write(tmp_path, 12, "momentum 0.1", MOMENTUM, ("sgd 0.1", SGD)),
        write(tmp_path, 11, "sgd 0.1", SGD),
    ]


@pytest.fixture
def records(paths, tmp_path):
    """records.json of the first two entries."""
    path = tmp_path / "records.json"
    path.write_bytes(msgspec.json.encode(read(None, paths[2:])))
    return path


def test_an_entry_is_the_record_if_it_is_decided_to_be_better(paths):
    sgd, momentum, adam, lion = standings(read(None, paths).entries)
    assert [each.entry.label for each in (sgd, momentum, adam, lion)] == [
        "sgd 0.1",
        "momentum 0.1",
        "adam 0.1",
        "lion 0.1",
    ]
    assert [each.record.label for each in (sgd, momentum, adam, lion)] == ["sgd 0.1", *["momentum 0.1"] * 3]
    assert sgd.decision is None
    assert (momentum.decision.verdict, adam.decision.verdict, lion.decision.verdict) == (
        "better",
        "not told apart",
        "worse",
    )
    assert momentum.decision.difference.value == pytest.approx(np.mean(MOMENTUM) - np.mean(SGD))
    # On the seeds of the entry.
    assert lion.decision.difference.value == pytest.approx(np.mean(LION) - np.mean(MOMENTUM[:5]))
    np.testing.assert_allclose(adam.entry.errors, 1 - np.array(ADAM))


def test_entries_are_added_to_a_file_of_records(paths, records):
    assert read(records, paths[:2]) == read(None, paths)
    document = json.loads(records.read_text())
    # The record alone, with its curves, for --baseline.
    assert document["runs"] == runs("momentum 0.1", MOMENTUM)
    assert document["tuning_steps"] == {"momentum 0.1": 16}
    assert [len(entry["runs"]) for entry in document["entries"]] == [8, 8]
    assert "curves" not in document["entries"][0]["runs"][0]


def test_a_run_that_diverged_loses_its_seed(paths, records, tmp_path):
    half = [0.9, None, None, None, None, None, None, None]
    path = write(tmp_path, 15, "half 0.1", half, ("momentum 0.1", MOMENTUM))
    last = standings(read(records, [path]).entries)[-1]
    assert (last.decision.verdict, last.decision.decided_after) == ("not told apart", None)
    assert last.entry.errors == pytest.approx([0.1])


RECORD = ("momentum 0.1", MOMENTUM)


@pytest.mark.parametrize(
    ("ious", "rival", "changes", "message"),
    [
        (ADAM, ("sgd 0.1", SGD), {}, "was compared with sgd 0.1 (stored), not with the runs of the record, momentum"),
        (ADAM, ("momentum 0.1", ADAM), {}, "was compared with momentum 0.1 (stored), not with the runs of the record"),
        (ADAM, None, {}, "has 0 optimizers beside its reference, adam 0.1: an entry is one"),
        ([0.9] * 7, RECORD, {}, "is better than the record; as the next it needs as many seeds: --seeds 8"),
        (ADAM, RECORD, {"options": {**OPTIONS, "tuning_seed": 2}}, "has --tuning-seed 2, not 0: the protocol"),
        (ADAM, RECORD, {"options": TEXTURE}, "is not the results.json of experiments.compare_optimizers: it has no"),
        (ADAM, RECORD, {"tuning_steps": {}}, "is not the results.json of experiments.compare_optimizers: it has no"),
        (ADAM, RECORD, {"runs": []}, "is not the results.json of experiments.compare_optimizers: Expected `array`"),
    ],
)
def test_what_is_no_entry_is_one_line(records, tmp_path, ious, rival, changes, message):
    path = write(tmp_path, 15, "adam 0.1", ious, rival, **changes)
    with pytest.raises(ValueError, match=re.escape(f"--results {path} {message}")) as error:
        read(records, [path])
    assert "\n" not in str(error.value)


def test_an_entry_counts_once(paths, records):
    with pytest.raises(ValueError, match="is entry 2 already"):
        read(records, paths[2:3])


def test_the_first_entry_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="has no run to begin with: all diverged"):
        read(None, [write(tmp_path, 11, "sgd 0.1", [None, None])])
    with pytest.raises(ValueError, match="--results must have the first entry"):
        read(None, [])


def test_records_of_other_runs_are_refused(records):
    document = json.loads(records.read_text())
    document["runs"][0]["iou"] = 0.9
    records.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="its runs are not those of its record"):
        read(records, [])
