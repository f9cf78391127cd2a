import html
import re
import shlex
from functools import partial
from types import SimpleNamespace

import pytest
from rich.progress import Progress
from small_runs import SMALL, execute, parse, ticking

import segjax
from experiments import train_best_model
from experiments.lab.names import ARCHITECTURES
from experiments.pictures import saved_models
from experiments.timed import clock

pytestmark = pytest.mark.slow

WORDS = [*SMALL, "--seconds", "4", "--held-out", "16", "--architecture", "shallow"]
DRAWN = {"image_size": 16, "sigma": 3.2, "sigma1": 0.2, "sigma2": 1.2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of results, whose name a shell would take for two, and what results.json holds."""
    out = tmp_path_factory.mktemp("best") / "best model"
    with ticking(0.5):
        return out, execute(train_best_model, *WORDS, "--out", out)


def test_the_best_model_is_the_last_and_tells_how_it_grew(trained):
    out, document = trained
    rows = document["snapshots"]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    network = saved_models.load(out / "model.safetensors")
    assert network.image_size == 16
    assert network.model == ARCHITECTURES["shallow"]
    last = clock.Snapshot(0.0, 1, 0.0, network.variables)
    timed = parse(train_best_model, *WORDS, "--out", out).timed
    lab = SimpleNamespace(progress=Progress)
    (row,) = clock.evaluate(timed, [last], partial(segjax.generate_data, **DRAWN), lab)
    assert row["iou"] == rows[-1]["iou"]


def test_it_says_what_was_reached_and_the_command_that_looks_inside(trained):
    out, document = trained
    last, page = document["snapshots"][-1], html.unescape((out / "report.html").read_text())
    assert (
        f"After {last['seconds']:.1f} s, {last['step']} steps: accuracy {last['accuracy']:.4f} (goal 0.993), " in page
    )
    (printed,) = re.findall("look inside it with: ([^<]*)", page)
    assert shlex.split(printed)[3:] == ["--model", str(out / "model.safetensors")]
