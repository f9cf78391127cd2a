import json
import subprocess
import sys

import pytest
from small_runs import ROOT

from tests import gpu

DEVICE = {"bounds": "NVIDIA H200"}
ROW = {"program": "adam: sweep, width 8", "runs": 8, "median": 2e-3, "least_seconds": {"TF32": 1e-3, "float32": 4e-3}}


def python(code, limit=60):
    return gpu.run("training", [sys.executable, "-c", code], limit)


@pytest.mark.deep(80)
def test_every_part_runs_without_a_gpu(tmp_path):
    command = [sys.executable, "-m", "tests.gpu", "--dry-run", "--out", tmp_path / "gpu.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {entry["part"]: entry for entry in json.loads((tmp_path / "gpu.json").read_text())}
    assert list(entries) == list(gpu.PARTS)
    assert "1 passed" in entries["parity_highest"]["status"]
    names = {part: [row.get("program") for row in entry["rows"]][1:] for part, entry in entries.items()}
    assert names["training"] == ["adam: train", "adam: vmap, 3 runs", "adam: sweep, width 2", "adam: evaluate"]
    assert names["loop"] == ["adam: vmap, 3 runs", "adam: sweep, width 2"]
    assert names["fair"] == [f"{name}: sweep, width 2" for name in ("sgd", "momentum", "rmsprop", "adam")]
    assert {"generation: ours", "step: ours", "iteration: ours"} <= set(names["one_run"])
    # One table: every line has the same cells.
    assert len({line.count("|") for line in done.stdout.splitlines()}) == 1


def test_a_part_that_fails_or_ends_late_keeps_its_rows():
    rows = f"print({json.dumps(DEVICE)!r}); print({json.dumps(ROW)!r}, flush=True)"
    failed = python(f"{rows}; exit(3)")
    late = python(f"{rows}; import time; time.sleep(60)", limit=1)
    assert failed["status"] == "failed with exit code 3"
    assert late["status"] == "stopped at its limit"
    for entry in (failed, late):
        assert entry["rows"] == [DEVICE, ROW]
        line, last = gpu.table(entry)
        assert line == "training | adam: sweep, width 8 | 8 | 2000 | 1000 | 4000 | 0.50"
        assert last.startswith(f"training | {entry['status']}, ")


def test_a_part_has_the_environment_of_users_and_its_own(monkeypatch):
    names = ("XLA_FLAGS", "SEGJAX_RUNS", "XLA_PYTHON_CLIENT_PREALLOCATE")
    monkeypatch.delenv("XLA_FLAGS")
    entry = python(f"import os; print([os.environ[name] for name in {names}])")
    assert entry["status"] == "ended: ['', 'groups', 'false']"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=folder")
    entry = python("import os; print(os.environ['XLA_FLAGS'])")
    assert entry["status"] == "ended: --xla_dump_to=folder"
