import json

import pytest

from experiments.bench import gpus


def write(path, **changes):
    facts = {**gpus.GPUS["h100"]._asdict(), **changes}
    path.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    return str(path)


@pytest.mark.parametrize(("name", "float32"), [("h100", 66.9e12), ("h200", 66.9e12), ("a100", 19.5e12)])
def test_rates_are_those_of_the_data_sheets(name, float32):
    gpu = gpus.find(name)
    assert gpu.float32 == pytest.approx(float32, rel=1e-2)
    assert gpu.limits["TF32"].flops > gpu.limits["float32"].flops
    assert gpu.limits["TF32"].bytes == gpu.memory_bandwidth


def test_facts_come_from_a_file_too(tmp_path):
    gpu = gpus.find(write(tmp_path / "mine.json", name="Mine", core_count=64))
    assert gpu == gpus.GPUS["h100"]._replace(name="Mine", core_count=64)
    assert 'device_description_str: "Mine"' in gpus.target(gpu)
    assert " core_count: 64 " in gpus.target(gpu)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"core_count": None}, "must hold: name, compute_capability, core_count"),
        ({"core_count": "many"}, "must hold a core_count such as 132, got 'many'"),
        ({"core_count": -1}, "must hold a core_count that is positive and finite, got -1"),
        ({"memory_bandwidth": 0}, "must hold a memory_bandwidth that is positive and finite, got 0"),
        ({"clock_rate_ghz": float("inf")}, "clock_rate_ghz that is positive and finite, got inf"),
        ({"core_count": True}, "must hold a core_count such as 132, got True"),
        ({"compute_capability": [9]}, r"must hold a compute_capability such as \(9, 0\), got \[9\]"),
        ({"name": 5}, "must hold a name such as NVIDIA"),
        ({"memory_bandwidth": float("nan")}, "memory_bandwidth that is positive and finite, got nan"),
    ],
)
def test_refuses_other_facts(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        gpus.find(write(tmp_path / "mine.json", **changes))


def test_refuses_what_is_no_file_of_facts(tmp_path):
    with pytest.raises(ValueError, match=r"--gpu must be one of: h100, h200, a100, or a JSON file of facts; got 'b9'"):
        gpus.find("b9")
    with pytest.raises(ValueError, match=r"missing.json cannot be read: No such file"):
        gpus.find(str(tmp_path / "missing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json cannot be read: Expecting"):
        gpus.find(str(tmp_path / "broken.json"))
