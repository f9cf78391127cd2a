"""GPUs that XLA can compile for without one: what its compiler must know of them, and their peak rates."""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.bench.limits import Limits


class Gpu(NamedTuple):
    """The facts of a GPU, from its maker's data sheet and CUDA's device properties.

    Attributes:
        name: as CUDA calls it.
        compute_capability: major and minor.
        core_count: multiprocessors.
        fpus_per_core: float32 units of each.
        clock_rate_ghz: boosted.
        memory_bandwidth: bytes a second.
        device_memory_size, l2_cache_size: bytes.
        shared_memory_per_core, shared_memory_per_block_optin: bytes.
        tensor_float32: FLOP a second of dense products in TF32, the default of convolutions.
    """

    name: str
    compute_capability: tuple[int, int]
    core_count: int
    fpus_per_core: int
    clock_rate_ghz: float
    memory_bandwidth: float
    device_memory_size: int
    l2_cache_size: int
    shared_memory_per_core: int
    shared_memory_per_block_optin: int
    tensor_float32: float

    @property
    def float32(self) -> float:
        """FLOP a second in float32, one product and one sum a unit and cycle."""
        return 2e9 * self.core_count * self.fpus_per_core * self.clock_rate_ghz

    @property
    def limits(self) -> dict[str, Limits]:
        """precision -> its rates."""
        bandwidth = self.memory_bandwidth
        return {"TF32": Limits(self.tensor_float32, bandwidth), "float32": Limits(self.float32, bandwidth)}


_H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    compute_capability=(9, 0),
    core_count=132,
    fpus_per_core=128,
    clock_rate_ghz=1.98,
    memory_bandwidth=3.352e12,
    device_memory_size=84929347584,
    l2_cache_size=52428800,
    shared_memory_per_core=233472,
    shared_memory_per_block_optin=232448,
    tensor_float32=494.7e12,
)
GPUS = {
    "h100": _H100,
    # The H100's chip with a larger and faster memory.
    "h200": _H100._replace(name="NVIDIA H200", memory_bandwidth=4.8e12, device_memory_size=150121545728),
    "a100": Gpu(
        name="NVIDIA A100-SXM4-80GB",
        compute_capability=(8, 0),
        core_count=108,
        fpus_per_core=64,
        clock_rate_ghz=1.41,
        memory_bandwidth=2.039e12,
        device_memory_size=85097971712,
        l2_cache_size=41943040,
        shared_memory_per_core=167936,
        shared_memory_per_block_optin=166912,
        tensor_float32=156e12,
    ),
}


def find(name: str) -> Gpu:
    """A GPU of `GPUS`, or of a JSON file that has the fields of `Gpu`.

    Raises:
        ValueError: naming what is wrong, and what is allowed.
    """
    if name in GPUS:
        return GPUS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise ValueError(f"--gpu must be one of: {', '.join(GPUS)}, or a JSON file of facts; got {name!r}")
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--gpu {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    example = _H100._asdict()
    if not isinstance(facts, dict) or facts.keys() != example.keys():
        raise ValueError(f"--gpu {name} must hold: {', '.join(example)}")
    for field, value in example.items():
        given = facts[field]
        numbers = given if isinstance(value, tuple) else [given]
        sizes = isinstance(numbers, list) and len(numbers) == (2 if isinstance(value, tuple) else 1)
        kind = str if isinstance(value, str) else int if isinstance(value, int | tuple) else (int, float)
        if not sizes or not all(isinstance(number, kind) and not isinstance(number, bool) for number in numbers):
            raise ValueError(f"--gpu {name} must hold a {field} such as {value}, got {given!r:.60}")
        # The second number of the capability may be 0.
        least = 0 if isinstance(value, tuple) else 1e-9
        if not isinstance(value, str) and not all(least <= number < 1e30 for number in numbers):
            raise ValueError(f"--gpu {name} must hold a {field} that is positive and finite, got {given!r:.60}")
    return Gpu(**{**facts, "compute_capability": tuple(facts["compute_capability"])})


def target(gpu: Gpu) -> str:
    """What XLA's compiler asks of a device: its `GpuTargetConfigProto`, as text."""
    major, minor = gpu.compute_capability
    device = {
        # The same for P100, V100, A100, H100 and H200; threads_per_core_limit is 1024 for T4, and 1536 for A10 and L4.
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "shared_memory_per_block": 49152,
        # Of this one.
        "core_count": gpu.core_count,
        "fpus_per_core": gpu.fpus_per_core,
        "clock_rate_ghz": gpu.clock_rate_ghz,
        "memory_bandwidth": int(gpu.memory_bandwidth),
        "device_memory_size": gpu.device_memory_size,
        "l2_cache_size": gpu.l2_cache_size,
        "shared_memory_per_core": gpu.shared_memory_per_core,
        "shared_memory_per_block_optin": gpu.shared_memory_per_block_optin,
    }
    facts = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
        f"gpu_device_info {{ {facts} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f"device_description_str: {json.dumps(gpu.name)}"
    )
