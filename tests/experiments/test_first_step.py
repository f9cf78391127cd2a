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
    monkeypatch.setattr(first_step, "ours", lambda *sizes: [1.5, *sizes])
    monkeypatch.setattr(first_step, "pytorch", lambda *arguments: [2.5, *arguments])
    for name, expected in (
        ("ours", [1.5, 8, 128, 5]),
        ("notebook", [2.5, False, 8, 128, 5]),
        ("tuned", [2.5, True, 8, 128, 5]),
    ):
        first_step.main(name, "8", "128", "5")
        (line,) = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        assert result.pop("peak_bytes") > 0
        assert result == {"moment": expected}


def test_jax_leaves_the_gpu_to_pytorch(monkeypatch):
    ran = []
    peers = SimpleNamespace(
        dense_batch=lambda *sizes: ran.append(os.environ["JAX_PLATFORMS"]),
        Training=lambda **options: None,
        iterations=lambda training, draw, number: SimpleNamespace(run=lambda: ran.append(number)),
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setattr(bench, "peers", peers, raising=False)
    assert first_step.pytorch(False, 8, 128, 5) > 0
    assert ran == ["cpu", 1, 5]
