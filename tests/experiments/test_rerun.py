import importlib
import json
import os
from pathlib import Path

import plain
import pytest
from small_runs import ROOT, SHORT, Command, execute

from experiments import compare_losses, rerun
from experiments.lab import cli, question, report
from experiments.lab.question import questions
from experiments.lab.stops import Finished, UsageError
from experiments.rerun import Options, from_flat

WORDS = [*SHORT, "--losses", "mse", "dice"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("losses")
    execute(compare_losses, *WORDS, "--out", out)
    return out / "results.json"


@pytest.mark.slow
def test_the_same_numbers_come_out(results, tmp_path, capsys):
    rerun.main(Options(results, str(tmp_path)))
    document = json.loads((tmp_path / "rerun.json").read_text())
    assert document["differences"] == document["other"] == []
    assert document["compared"] > 100
    sentence = f"All {document['compared']} values are the same, bit for bit."
    assert sentence in capsys.readouterr().out
    # Typed again, also after a kill behind the last number, it says so once more, and has nothing left to do.
    with pytest.raises(Finished, match="nothing is left to do"):
        rerun.main(Options(results, str(tmp_path)))
    assert sentence in capsys.readouterr().out


def test_an_interrupted_command_says_what_its_folder_keeps(tmp_path):
    (runs := tmp_path / "theirs-rerun" / "runs").mkdir(parents=True)
    (runs / "adam-seed0.safetensors").touch()
    # The folder beside that of the results is the default.
    options = cli.parse(Options, {}, [str(tmp_path / "theirs" / "results.json")])
    assert cli.interruption_message(options).endswith(f"resumes from {runs.parent}: 1 finished runs")


@pytest.mark.slow
def test_other_numbers_are_named(results, tmp_path, capsys):
    document = json.loads(results.read_text())
    document["runs"][1]["curves"]["loss"][2] += 1e-16
    document["runs"][0]["seconds"] += 1
    document["versions"]["jax"] = "0"
    document["source"]["commit"] = "0123abc"
    changed = tmp_path / "results.json"
    changed.write_text(json.dumps(document))
    with pytest.raises(SystemExit) as end:
        rerun.main(Options(changed, str(tmp_path / "again")))
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "1 of" in said
    assert "runs[1].curves.loss[2]: " in said
    assert "Provenance differs: versions jax: 0, now" in said
    # Another commit is said, and is no difference.
    written = json.loads((tmp_path / "again" / "rerun.json").read_text())
    assert [difference["place"] for difference in written["differences"]] == ["runs[1].curves.loss[2]"]
    assert any(words.startswith("source commit: 0123abc, now ") for words in written["other"])


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ({"a": [1, 2]}, {"a": [1]}, "a[1]"),
        ({}, {"b": None}, "b"),
        ({}, {"b": []}, "b"),
        ({"b": True}, {"b": 1}, "b"),
        ({"b": 0.0}, {"b": -0.0}, "b"),
        # A label may have any name.
        ({"best_rates": {"cores": 0.1}}, {"best_rates": {"cores": 0.2}}, "best_rates.cores"),
        ({"summary": {"seconds": {"iou": 1}}}, {"summary": {"seconds": {"iou": 2}}}, "summary.seconds.iou"),
        ({"summary": {"10 seconds": {"iou": 1}}}, {"summary": {"10 seconds": {"iou": 2}}}, "summary.10 seconds.iou"),
    ],
)
def test_what_differs_is_named(before, after, place):
    assert [difference.place for difference in rerun.differences(before, after)] == [place]


def test_times_and_provenance_may_differ():
    summary = {"adam": {"seconds": {"mean": 1}}}
    document = {"source": 1, "date": 1, "runs": [{"seconds": 1, "cores": 1}], "summary": summary}
    assert rerun.differences(document, {}) == []


def document(**changes):
    sections = {"options": {}, "versions": {}, "numerics": {}, "device": {}, "source": {}}
    return json.dumps({"experiment": "compare_losses", **sections, **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not the results.json of an experiment"),
        (document(source=None), "is not the results.json of an experiment"),
        (document(summary={"a": [float("nan")]}), "is not the results.json of .*: its summary.a.0. is nan"),
        (document(summary=float("inf")), "is not the results.json of .*: its summary is inf"),
        (document(experiment=None), "there is no experiment 'None' to repeat"),
        (document(options={"speed": 1}), "another version of compare_losses: its options differ by .*speed"),
        (None, "cannot be read: No such file"),
    ],
)
def test_refuses_what_is_no_result(content, message, tmp_path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        rerun.main(Options(path))


@pytest.mark.slow
def test_refuses_to_write_over_the_results(results):
    with pytest.raises(UsageError, match="is the folder of the results themselves"):
        rerun.main(Options(results, str(results.parent), overwrite=True))


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        ({"optimizers": ("adam", "optax:lion=1e-4,1e-3")}, ["optax"]),
        ({"optimizers": {"evil:factory": ["another:factory"]}}, ["evil", "another"]),
        ({"optimizers": ("évil:factory=\n1",)}, ["évil"]),
        ({"optimizers": ("sgd=0.1",), "nested": {"a": ("other.module:factory",)}}, ["other.module"]),
        (
            {"optimizers": ("label=evil:factory", ":x:=worse.one:factory(a=1)=0.1", "a b=optax:sgd=1")},
            ["evil", "worse.one", "optax"],
        ),
        ({"out": Path("a:b"), "loss": "mse", "cluster": ""}, []),
        ({"first": [["wall.tif:0,0,400,300"]]}, []),
    ],
)
def test_finds_what_options_would_import(options, modules):
    assert rerun.imported(options) == modules


def test_a_module_may_be_imported_by_its_name_or_beside_the_results(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "results"
    assert not rerun.allowed("stranger", folder, [])
    assert rerun.allowed("stranger", folder, ["stranger"])
    assert rerun.allowed("stranger", tmp_path, [])
    assert rerun.allowed("optax.contrib", folder, [])
    assert not rerun.allowed("no_such_module", folder, [])


@pytest.mark.slow
def test_deterministic_results_are_repeated_so(results, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--given")
    document = json.loads(results.read_text())
    document["options"]["deterministic"] = True
    changed = tmp_path / "results.json"
    changed.write_text(json.dumps(document))
    flags = []
    monkeypatch.setattr(question.Folder, "claimed", lambda *_: flags.append(os.environ["XLA_FLAGS"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rerun.main(Options(changed, str(tmp_path / "again")))
    assert flags == ["--given --xla_gpu_exclude_nondeterministic_ops=true"]


@pytest.mark.slow
def test_the_command_takes_a_file():
    ended = Command("rerun", "nowhere").finish()
    assert ended == (2, "", "error: nowhere cannot be read: No such file or directory\n")


QUESTIONS = list(questions(ROOT / "experiments"))


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_options_of_every_preset_are_read_from_a_file_as_they_were(name):
    script = importlib.import_module(f"experiments.{name}")
    for preset in script.PRESETS.values():
        flat = json.loads(json.dumps(report.plain(preset.flat)))
        again = from_flat(script.Options, flat)
        # A file has the value of sigma where the preset leaves it to the image size.
        assert again.flat == preset.flat
        assert [type(group) for group in again.groups] == [type(group) for group in preset.groups]


FLAT = report.plain(plain.PRESETS["quick"].flat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": "many"}, "int"),
        ({"iterations": 1.5}, "int"),
        ({"seeds": None}, "int"),
        ({"sigma": [1]}, "float"),
        ({"overwrite": "yes"}, "bool"),
        ({"schedule": None}, "str"),
        ({"out": 3}, "out"),
        ({"sead": 1}, "its options differ by sead"),
        ({"data": {"image_size": 16}}, "its options differ by data"),
    ],
)
def test_options_of_another_type_or_name_are_refused(changes, message):
    assert from_flat(plain.Options, FLAT).flat == plain.PRESETS["quick"].flat
    with pytest.raises(ValueError, match=message) as error:
        from_flat(plain.Options, {**FLAT, **changes})
    assert "\n" not in str(error.value)


def test_an_option_that_a_file_lacks_is_named():
    with pytest.raises(ValueError, match="its options differ by image_size, seeds"):
        from_flat(plain.Options, {name: value for name, value in FLAT.items() if name not in ("seeds", "image_size")})


def test_options_that_change_no_result_may_be_missing_or_left_over():
    """A file may be older or newer than such an option."""
    without = {name: value for name, value in FLAT.items() if name not in ("log", "workers")}
    assert from_flat(plain.Options, without) == from_flat(plain.Options, {**FLAT, "log": "", "workers": 0})


def test_numbers_of_json_are_numbers_of_any_option():
    """1.0 is written as 1 by others than Python."""
    sigma1 = from_flat(plain.Options, {**FLAT, "sigma1": 1}).data.sigma1
    assert (sigma1, type(sigma1)) == (1.0, float)
