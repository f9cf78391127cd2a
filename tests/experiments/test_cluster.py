"""docs/cluster.md: its commands run as they stand there."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT, SHORT


def page():
    """The commands of docs/cluster.md that run on one machine: local workers, a cluster, one with TLS, a Slurm job."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    local, cluster, tls = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (slurm,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    over_tls = tls + cluster.partition("\n")[2].replace("tcp://", "tls://")
    return [local, cluster, over_tls, 'srun() { shift; "$@"; }\n' + slurm]


@pytest.mark.parametrize("number", [0, 1, pytest.param(2, marks=pytest.mark.deep(20)), 3])
@pytest.mark.slow(15)
def test_the_commands_of_the_page_run(number, tmp_path):
    for name in ("experiments", "segjax"):
        (tmp_path / name).symlink_to(ROOT / name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    # Schedulers and workers have a terminal of their own.
    text = re.sub(r"^((PYTHONPATH=\. )?dask [^#\n]*[^#\n&])(#.*)?$", r"\1 &", page()[number], flags=re.MULTILINE)
    words = " ".join([*SHORT, "--seeds", "2", "--optimizers", "sgd"])
    text, commands = re.subn(r"(?<=compare_optimizers )(quick|fair)", words, text)
    assert commands == 1
    text = text.replace("HOST", "127.0.0.1").replace("8786", port)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    with (output := tmp_path / "output").open("w") as file:
        streams = {"stdout": file, "stderr": file, "start_new_session": True}
        process = subprocess.Popen(["bash", "-e", "-c", text], cwd=tmp_path, env=environment, **streams)
    try:
        assert process.wait(120) == 0, output.read_text()
    finally:
        # Schedulers and workers stay in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.glob("results/*/runs/*"))) == 2
