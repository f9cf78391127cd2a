import pytest

from experiments.bench.gpus import GPUS, target


@pytest.mark.parametrize(("name", "float32"), [("h100", 66.9e12), ("h200", 66.9e12), ("a100", 19.5e12)])
def test_rates_are_those_of_the_data_sheets(name, float32):
    rates = GPUS[name].limits
    assert rates["float32"].flops == pytest.approx(float32, rel=1e-2)
    assert rates["TF32"].flops > rates["float32"].flops
    assert rates["TF32"].bytes == rates["float32"].bytes > 2e12


def test_xla_gets_every_fact():
    text = target(GPUS["a100"])
    assert text.startswith("gpu_device_info { threads_per_block_limit: 1024 ")
    assert " core_count: 108 " in text
    assert " memory_bandwidth: 2039000000000 " in text
    assert "cuda_compute_capability { major: 8 minor: 0 } }" in text
    assert 'device_description_str: "NVIDIA A100-SXM4-80GB"' in text
