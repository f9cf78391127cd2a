import json

import pytest
from msgspec.structs import asdict, replace

from experiments.bench import gpus


def write(path, **changes):
    facts = {**asdict(gpus.GPUS["h100"]), **changes}
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
    assert gpu == replace(gpus.GPUS["h100"], name="Mine", core_count=64)
    assert 'device_description_str: "Mine"' in gpus.target(gpu)
    assert " core_count: 64 " in gpus.target(gpu)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"core_count": None}, "missing required field `core_count`"),
        ({"cores": 132}, "unknown field `cores`"),
        ({"core_count": "many"}, r"Expected `int`, got `str` - at `\$.core_count`"),
        ({"core_count": -1}, r"Expected `int` >= 1 - at `\$.core_count`"),
        ({"core_count": True}, r"Expected `int`, got `bool` - at `\$.core_count`"),
        ({"core_count": 10**30}, r"Expected `int` <= 4611686018427387903 - at `\$.core_count`"),
        ({"memory_bandwidth": 0}, r"Expected `float` > 0.0 - at `\$.memory_bandwidth`"),
        ({"memory_bandwidth": 1e30}, r"Expected `float` < 1e\+30 - at `\$.memory_bandwidth`"),
        # JSON has no such numbers.
        ({"memory_bandwidth": float("nan")}, "JSON is malformed"),
        ({"clock_rate_ghz": float("inf")}, "JSON is malformed"),
        ({"compute_capability": [9]}, r"Expected `array` of length 2 - at `\$.compute_capability`"),
        ({"compute_capability": [9, -1]}, r"Expected `int` >= 0 - at `\$.compute_capability\[1\]`"),
        ({"name": 5}, r"Expected `str`, got `int` - at `\$.name`"),
    ],
)
def test_refuses_other_facts(changes, message, tmp_path):
    with pytest.raises(ValueError, match=f"--gpu .*mine.json must hold the facts of a GPU, as .*: .*{message}"):
        gpus.find(write(tmp_path / "mine.json", **changes))


def test_refuses_what_is_no_file_of_facts(tmp_path):
    with pytest.raises(ValueError, match=r"--gpu must be one of: h100, h200, a100, or a JSON file of facts; got 'b9'"):
        gpus.find("b9")
    with pytest.raises(ValueError, match=r"missing.json cannot be read: No such file"):
        gpus.find(str(tmp_path / "missing.json"))
    for content in (b"", b"{", b"[]", b"\xff"):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken.json must hold the facts of a GPU") as error:
            gpus.find(str(tmp_path / "broken.json"))
        assert "\n" not in str(error.value)
