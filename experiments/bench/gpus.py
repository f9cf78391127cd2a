"""GPUs that XLA can compile for without having one: the facts that its compiler needs, and their peak rates."""

import json
from typing import NamedTuple

from experiments.bench.limits import Limits


class Gpu(NamedTuple):
    """The facts of a GPU, from its maker's data sheet and CUDA's device properties.

    Attributes:
        name: the one that CUDA reports.
        compute_capability: major and minor.
        tensor_float32: FLOP per second of dense products in TF32, the default of convolutions.
        facts: fields of XLA's `GpuDeviceInfoProto`; sizes in bytes, the bandwidth in bytes per second.
    """

    name: str
    compute_capability: tuple[int, int]
    tensor_float32: float
    facts: dict[str, float]

    @property
    def limits(self) -> dict[str, Limits]:
        """Precision -> peak rates."""
        bandwidth = self.facts["memory_bandwidth"]
        # In float32 one product and one sum per unit and cycle.
        float32 = 2e9 * self.facts["core_count"] * self.facts["fpus_per_core"] * self.facts["clock_rate_ghz"]
        return {"TF32": Limits(self.tensor_float32, bandwidth), "float32": Limits(float32, bandwidth)}


# The same for all data center GPUs since P100; threads_per_core_limit is 1024 for T4, and 1536 for A10 and L4.
_COMMON = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "shared_memory_per_block": 49152,
}
_HOPPER = {
    **_COMMON,
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "l2_cache_size": 52428800,
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
}
_A100 = {
    **_COMMON,
    "core_count": 108,
    "fpus_per_core": 64,
    "clock_rate_ghz": 1.41,
    "memory_bandwidth": 2_039_000_000_000,
    "device_memory_size": 85097971712,
    "l2_cache_size": 41943040,
    "shared_memory_per_core": 167936,
    "shared_memory_per_block_optin": 166912,
}
_H100 = {**_HOPPER, "memory_bandwidth": 3_352_000_000_000, "device_memory_size": 84929347584}
_H200 = {**_HOPPER, "memory_bandwidth": 4_800_000_000_000, "device_memory_size": 150121545728}
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 494.7e12, _H100),
    "h200": Gpu("NVIDIA H200", (9, 0), 494.7e12, _H200),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 156e12, _A100),
}


def target(gpu: Gpu) -> str:
    """The GPU as XLA's compiler takes it: a `GpuTargetConfigProto` in text format."""
    major, minor = gpu.compute_capability
    facts = " ".join(f"{name}: {value}" for name, value in gpu.facts.items())
    return (
        f"gpu_device_info {{ {facts} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f"device_description_str: {json.dumps(gpu.name)}"
    )
