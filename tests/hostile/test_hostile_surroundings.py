"""Real commands in odd places: a terminal that nobody reads, variables that mean something else."""

import os
import subprocess
import sys

import pytest
from conftest import DATA
from tries import write_model

from tests.experiments.small_runs import ROOT

pytestmark = pytest.mark.deep

PYTHON = sys.executable
WORDS = f"-m experiments.segment_image MODEL {DATA / 'grain.png'} --out OUT"
RUN = f"{PYTHON} {WORDS}"


# name -> a line for a shell, its code, and the beginning of the one line on stderr, or nothing.
LINES = {
    "nobody reads": (f"{RUN} | true", 0, ""),
    "nobody reads on": (f"{RUN} | head -1", 0, ""),
    "nobody reads that it is done": (f"{RUN} && {RUN} | true", 0, ""),
    "no stdout": (f"{RUN} >&-", 0, ""),
    "no stderr": (f"{RUN} 2>&-", 0, ""),
    "a mistake, and no stderr": (f"{RUN} --tile-size 0 2>&-", 2, ""),
    "a mistake, and a full stderr": (f"{RUN} --tile-size 0 2> /dev/full", 2, ""),
    "no UTF-8": (f"LANG=C PYTHONIOENCODING=ascii COLUMNS=1 TERM=dumb {RUN}", 0, ""),
    "warnings as errors": (f"PYTHONWARNINGS=error {RUN}", 0, ""),
    "no docstrings": (f"{PYTHON} -OO {WORDS}", 0, ""),
    "no such platform": (f"JAX_PLATFORMS=nonsense {RUN}", 2, "error: "),
    "no transfers": (f"JAX_TRANSFER_GUARD=disallow {RUN}", 2, "error: Disallowed host-to-device transfer"),
    "a folder that is gone": (
        f"mkdir OUT && cd OUT && rmdir OUT && {RUN.replace('OUT', 'out')}",
        2,
        "error: --out out",
    ),
}


@pytest.mark.parametrize(("line", "code", "err"), LINES.values(), ids=LINES)
def test_a_line(line, code, err, tmp_path):
    write_model(model := tmp_path / "model.safetensors")
    words = ["bash", "-o", "pipefail", "-c", line.replace("MODEL", str(model)).replace("OUT", str(tmp_path / "out"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(err)
    assert done.stderr.startswith(err)
    assert (tmp_path / "out" / "results.json").exists() == (code == 0)
