import json
import os
import subprocess
import sys
from types import SimpleNamespace

from small_runs import ROOT

from experiments import bench
from experiments.bench import first_step


def test_peak_memory_does_not_forget():
    # In a process of its own, since this one may have had more before.
    code = "from experiments.bench.first_step import peak_bytes as peak\n"
    code += "before = peak(); block = b'1' * 10**8; del block\n"
    done = subprocess.run([sys.executable, "-c", code + "print(peak() - before)"], capture_output=True, cwd=ROOT)
    assert int(done.stdout) >= 9e7


def test_it_prints_one_line_that_the_benchmark_reads(monkeypatch, capsys):
    monkeypatch.setattr(first_step, "ours", lambda *sizes: {"moment": 1.5, "sizes": sizes})
    monkeypatch.setattr(first_step, "pytorch", lambda *arguments: {"moment": 2.5, "arguments": arguments})
    for name, expected in (
        ("ours", {"moment": 1.5, "sizes": [8, 128, 5]}),
        ("notebook", {"moment": 2.5, "arguments": [False, 8, 128, 5]}),
        ("tuned", {"moment": 2.5, "arguments": [True, 8, 128, 5]}),
    ):
        first_step.main(name, "8", "128", "5")
        (line,) = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        assert result.pop("peak_bytes") > 0
        assert result == expected


def test_jax_leaves_the_gpu_to_pytorch(monkeypatch):
    ran = []
    peers = SimpleNamespace(
        dense_batch=lambda *sizes: ran.append(os.environ["JAX_PLATFORMS"]),
        Training=lambda **options: None,
        iterations=lambda training, draw, number: SimpleNamespace(run=lambda: ran.append(number)),
        platform=lambda: "gpu",
        peak_device_bytes=lambda: 7,
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setattr(bench, "peers", peers, raising=False)
    result = first_step.pytorch(False, 8, 128, 5)
    assert ran == ["cpu", 1, 5]
    assert result.pop("moment") > 0
    assert result == {"platform": "gpu", "device_peak_bytes": 7}
