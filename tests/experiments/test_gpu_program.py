import json
import os
from collections import Counter

import pytest
from small_runs import Command, execute, parse

from experiments import gpu_program
from experiments.bench import compiled
from experiments.bench.compiled import Compiled, Convolution
from experiments.bench.gpus import GPUS
from experiments.lab.stops import UsageError

SMALL = ["quick", "--image-size", "16", "--iterations", "10"]
PLUGIN = pytest.mark.skipif(not compiled.plugin_is_installed(), reason="needs jax's CUDA plugin")
FORWARD = Convolution("convForward", "5x5", 2)


def windows(program):
    return {(convolution["window"], convolution["groups"]) for convolution in program["convolutions"]}


@pytest.fixture
def with_plugin(monkeypatch):
    """As if the plugin were there: every program is compiled to the same loop."""
    binary = Compiled(Counter(fusions=60, cuDNN=11, products=4), Counter({FORWARD: 11}), 10, 8_000_000)
    monkeypatch.setattr(compiled, "plugin_is_installed", lambda: True)
    monkeypatch.setattr(compiled, "compile_for", lambda *_: binary)
    monkeypatch.setattr(compiled, "FLAGS", "")


def test_without_the_plugin_the_report_has_the_least_times(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "plugin_is_installed", lambda: False)
    document = execute(gpu_program, *SMALL, "--widths", "2", "--out", tmp_path)
    assert document["warnings"][0] == (
        "jax's CUDA plugin is missing, so nothing was compiled: "
        "pip install '.[experiments,gpu-program]' in an environment of its own."
    )
    train, vmapped, sweep, evaluate = document["programs"]
    assert train["launches"] is train["turns"] is train["convolutions"] is None
    assert vmapped["flops"] == sweep["flops"] == 2 * train["flops"]
    assert evaluate["flops"] < train["flops"] / 2


def test_with_the_plugin_the_report_has_the_compiled_programs(with_plugin, tmp_path):
    document = execute(gpu_program, *SMALL, "--widths", "1", "2", "--out", tmp_path)
    assert [program["name"] for program in document["programs"]] == [
        *("train", "vmap, 2 runs", "sweep, width 1", "sweep, width 2", "evaluate")
    ]
    program = document["programs"][1]
    assert program["launches"] == {"fusions": 60, "cuDNN": 11, "products": 4}
    assert program["turns"] == 10
    assert program["convolutions"] == [{**FORWARD._asdict(), "number": 11}]
    assert len(document["warnings"]) == 1
    assert (tmp_path / "launches.png").exists()
    assert (
        (tmp_path / "runs.csv")
        .read_text()
        .startswith("name,runs,turns,temporary_bytes,flops,bytes\ntrain,1,10,8000000,")
    )


def test_the_least_time_is_that_of_all_runs():
    one, two = (gpu_program.Program(len, (), runs, gpu_program.Work(495e9, 1.0), 1) for runs in (1, 2))
    gpu = GPUS["h100"]
    assert one.least_seconds(gpu)["TF32"] == pytest.approx(1e-3, rel=1e-2)
    assert two.least_seconds(gpu)["TF32"] == pytest.approx(2e-3, rel=1e-2)


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    options = parse(gpu_program, *SMALL)
    with options.prepared():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "voodoo"], "--gpu must be one of: h100, h200, a100; got 'voodoo'"),
        (["--widths", "2", "2"], "--widths must be different numbers"),
        (["--widths", "0"], "--widths must be an integer >= 1"),
        (["--runs", "0"], "--runs must be an integer >= 1"),
        (["--iterations", "0"], "--iterations must be an integer >= 1"),
        (["--architecture", "resnet"], "--architecture must be one of: notebook, .*; got 'resnet'"),
    ],
)
def test_refuses_other_options(words, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        execute(gpu_program, *SMALL, *words, "--out", tmp_path)


@PLUGIN
@pytest.mark.slow
def test_a_gpu_gets_cudnn_s_calls_in_a_loop_of_known_length(tmp_path):
    code, _, errors = Command("gpu_program", "--widths", "2", "--runs", "2", "--out", tmp_path).finish(600)
    assert code == 0, errors
    document = json.loads((tmp_path / "results.json").read_text())
    train, vmapped, sweep, _ = document["programs"]
    assert sum(train["launches"].values()) <= 75
    for program, groups in ((train, 1), (vmapped, 2), (sweep, 2)):
        assert program["turns"] == 1000
        assert sum(convolution["number"] for convolution in program["convolutions"]) == 11
        assert windows(program) == {("5x5", groups)}
        assert all(convolution["call"].startswith("conv") for convolution in program["convolutions"])
