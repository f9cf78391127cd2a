"""What results.json tells of the making of a result, and which of it keeps results of other kinds apart."""

import os
import shutil
import subprocess
from types import SimpleNamespace

import jax
import plain
import pytest
from small_runs import execute

from experiments.lab import provenance
from experiments.lab.report import Report
from experiments.lab.stops import UsageError

# A question without training.
NOTHING = SimpleNamespace(**{**vars(plain), "answer": lambda options, lab: Report([], [], {})})


def test_numerics_are_what_jax_is_set_to(x64, monkeypatch):
    # XLA reads the flags once, and would not know these.
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_b --xla_force_host_platform_device_count=2 --xla_a=1")
    numerics = provenance.numerics()
    assert numerics["enable_x64"] is True
    assert numerics["platform"] == jax.devices()[0].platform
    assert numerics["default_matmul_precision"] is None
    # In one order; the number of devices changes no number.
    assert numerics["xla_flags"] == "--xla_a=1 --xla_b"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert provenance.numerics()["xla_flags"] == "--xla_a=1 --xla_b NVIDIA_TF32_OVERRIDE=0"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    with jax.threefry_partitionable(not numerics["threefry_partitionable"]):
        assert provenance.numerics() == {**numerics, "threefry_partitionable": not numerics["threefry_partitionable"]}


def test_results_tell_how_a_gpu_was_told_to_compute(tmp_path, monkeypatch):
    # XLA reads its flags once, and would not know this one.
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    document = execute(NOTHING, "--precision", "high", "--deterministic", "--out", tmp_path)
    assert (document["options"]["precision"], document["options"]["deterministic"]) == ("high", True)
    assert document["numerics"]["default_matmul_precision"] == "high"
    assert document["numerics"]["xla_flags"] == "--mine --xla_gpu_exclude_nondeterministic_ops=true"
    with pytest.raises(UsageError, match="holds the results with precision high, not highest"):
        execute(NOTHING, "--precision", "highest", "--deterministic", "--out", tmp_path)


def test_numerics_tell_which_convolution_a_cpu_computes(monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    assert provenance.numerics()["convolution"] == "xla"
    monkeypatch.delenv("SEGJAX_NATIVE")
    monkeypatch.setattr(provenance, "cpu_backend", lambda: "native")
    monkeypatch.setattr(provenance, "_version", lambda package: f"{package} 0")
    native = "segjax-native segjax-native 0" if jax.default_backend() == "cpu" else "xla"
    assert provenance.numerics()["convolution"] == native


def test_a_run_is_not_resumed_by_another_convolution(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    assert execute(NOTHING, "--out", tmp_path)["numerics"]["convolution"] == "xla"
    monkeypatch.setattr(provenance, "_convolution", lambda platform: "segjax-native 0.1.0")
    with pytest.raises(UsageError, match="holds the results with convolution xla, not segjax-native"):
        execute(NOTHING, "--out", tmp_path)


@pytest.mark.parametrize("value", ["2", ""])
def test_a_bad_switch_is_one_line(value, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", value)
    with pytest.raises(UsageError, match=f"SEGJAX_NATIVE must be 0 or 1, got '{value}'"):
        execute(plain, "--out", tmp_path)


def test_versions_are_those_that_are_installed():
    versions = provenance.versions()
    assert versions["jax"] == jax.__version__
    assert set(versions) == {"segjax", "jax", "jaxlib", "flax", "optax", "numpy"}


def test_circumstances_name_the_processor():
    assert 1 <= provenance.circumstances()["device"]["cpu_cores"] <= os.cpu_count()
    assert provenance.circumstances()["device"]["cpu"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux keeps a process to some cores")
def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert provenance.circumstances()["device"]["cpu_cores"] == 1


def test_runs_of_one_table_on_different_cores_carry_a_warning():
    rows = [{"cores": 2}, {"cores": 16}, {"cores": None}, {"label": "of no run"}, {"cores": 2}]
    assert provenance.warnings(rows[:1] + rows[2:]) == []
    assert provenance.warnings(rows) == [
        "Runs were trained on 2 and 16 cores: rounding differs between them, which changes single runs."
    ]


def test_a_command_warns_of_runs_on_different_cores(tmp_path, monkeypatch):
    for cores, seeds, warnings in ((2, 1, 0), (3, 2, 1)):
        monkeypatch.setattr(provenance, "cores", lambda cores=cores: cores)
        document = execute(plain, "--seeds", seeds, "--out", tmp_path)
        assert [run["cores"] for run in document["runs"]] == [2, 3][:seeds]
        assert sum("Runs were trained on 2 and 3 cores" in warning for warning in document["warnings"]) == warnings


def test_without_leave_to_ask_for_its_cores_a_process_has_all(monkeypatch):
    def refused(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refused)
    assert provenance.cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("jax_disable_jit", True, "disable_jit=True"),
        ("jax_disable_most_optimizations", True, "disable_most_optimizations=True"),
        ("jax_use_simplified_jaxpr_constants", True, "use_simplified_jaxpr_constants=True"),
        # These change no number, measured bit for bit.
        ("jax_log_compiles", True, None),
        ("jax_debug_nans", True, None),
        ("jax_compilation_cache_max_size", 10**9, None),
        ("jax_numpy_rank_promotion", "warn", None),
    ],
)
def test_results_under_another_flag_of_jax_are_not_resumed(name, value, text, tmp_path):
    execute(NOTHING, "--out", tmp_path)
    was = jax.config.values[name]
    jax.config.update(name, value)
    try:
        assert provenance.numerics()["jax_flags"] == text
        if text:
            with pytest.raises(UsageError, match=f"holds the results with jax_flags None, not {text}"):
                execute(NOTHING, "--seeds", "3", "--out", tmp_path)
    finally:
        jax.config.update(name, was)
    assert provenance.numerics()["jax_flags"] is None


def test_a_flag_in_a_variable_is_recorded(monkeypatch):
    """Also with the value of its default, which jax does not tell."""
    monkeypatch.setenv("JAX_DISABLE_JIT", "0")
    monkeypatch.setenv("JAX_LOG_COMPILES", "0")
    assert provenance.numerics()["jax_flags"] == "disable_jit=False"


def git(folder, *words):
    settings = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *settings, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_results_tell_the_commit_that_made_them(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    # Whatever may be above the folder of the tests.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    unknown, checkout = {"commit": None, "clean": None}, tmp_path / "checkout"
    (checkout / "inside").mkdir(parents=True)

    def source(root):
        # The checkout is the one that the module stands in.
        monkeypatch.setattr(provenance, "__file__", str(root / "experiments" / "lab" / "provenance.py"))
        return provenance.circumstances()["source"]

    assert source(checkout) == unknown
    git(checkout, "init", "--quiet")
    # There is no commit yet.
    assert source(checkout) == unknown
    (checkout / "a.py").write_text("a = 1\n")
    git(checkout, "add", "a.py")
    git(checkout, "commit", "--quiet", "--message", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert source(checkout) == {"commit": commit, "clean": True}
    # A folder inside of another project's checkout is of no commit.
    assert source(checkout / "inside") == unknown
    (checkout / "a.py").write_text("a = 2\n")
    assert source(checkout) == {"commit": commit, "clean": False}
    git(checkout, "checkout", "--quiet", "a.py")
    (checkout / "b.py").touch()
    assert source(checkout) == {"commit": commit, "clean": False}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source(checkout) == unknown
