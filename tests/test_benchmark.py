import json

import pytest

from experiments import benchmark, command


def run(*arguments):
    benchmark.main(command.parse(benchmark.Options, benchmark.PRESETS, ["--preset", "quick", *arguments]))


def test_measures_every_ratio(tmp_path):
    run("--out", str(tmp_path), "--image-size", "8", "--repeats", "1", "--steps", "1")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["ratios"].keys() == benchmark.RATIOS.keys()
    assert all(value > 0 for values in document["seconds"].values() for value in values)
    names = {"times.png", "runs.csv", "tables.tex", "report.html", "results.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("name", ["repeats", "steps", "batch-size"])
def test_bad_input_is_one_line(name, tmp_path):
    with pytest.raises(command.UsageError, match=f"--{name} must be an integer >= 1"):
        run("--out", str(tmp_path / "out"), f"--{name}", "0")
    assert not any(tmp_path.iterdir())
