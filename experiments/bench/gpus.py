"""GPUs that XLA can compile for without having one: the facts that its compiler needs, and their peak rates."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec.structs import asdict, replace

from experiments.bench.limits import Limits

_Integer = Annotated[int, msgspec.Meta(gt=0, lt=2**62)]
_Rate = Annotated[float, msgspec.Meta(gt=0, lt=1e30)]
_Version = Annotated[int, msgspec.Meta(ge=0)]
# The same for P100, V100, A100, H100 and H200; threads_per_core_limit is 1024 for T4, and 1536 for A10 and L4.
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


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts of a GPU, from its maker's data sheet and CUDA's device properties.

    Attributes:
        name: the one that CUDA reports.
        compute_capability: major and minor.
        core_count: multiprocessors.
        fpus_per_core: float32 units per multiprocessor.
        clock_rate_ghz: boost clock.
        memory_bandwidth: bytes per second.
        device_memory_size, l2_cache_size: bytes.
        shared_memory_per_core, shared_memory_per_block_optin: bytes.
        tensor_float32: FLOP per second of dense products in TF32, the default of convolutions.
    """

    name: str
    compute_capability: tuple[_Version, _Version]
    core_count: _Integer
    fpus_per_core: _Integer
    clock_rate_ghz: _Rate
    memory_bandwidth: _Rate
    device_memory_size: _Integer
    l2_cache_size: _Integer
    shared_memory_per_core: _Integer
    shared_memory_per_block_optin: _Integer
    tensor_float32: _Rate

    @property
    def float32(self) -> float:
        """FLOP per second in float32: one product and one sum per unit and cycle."""
        return 2e9 * self.core_count * self.fpus_per_core * self.clock_rate_ghz

    @property
    def limits(self) -> dict[str, Limits]:
        """precision -> peak rates."""
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
    "h200": replace(_H100, name="NVIDIA H200", memory_bandwidth=4.8e12, device_memory_size=150121545728),
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
    """A GPU of `GPUS`, or the one that a JSON file with the fields of `Gpu` describes.

    Raises:
        ValueError: with what is wrong and what is allowed.
    """
    if name in GPUS:
        return GPUS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise ValueError(f"--gpu must be one of: {', '.join(GPUS)}, or a JSON file of facts; got {name!r}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Gpu)
    except OSError as error:
        raise ValueError(f"--gpu {name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--gpu {name} must hold the facts of a GPU, as experiments/bench/gpus.py: {error}") from error


def target(gpu: Gpu) -> str:
    """The GPU as XLA's compiler takes it: a `GpuTargetConfigProto` in text format."""
    major, minor = gpu.compute_capability
    # The other fields of `Gpu` have the proto's names.
    not_in_device = ("name", "compute_capability", "tensor_float32")
    device = {name: value for name, value in asdict(gpu).items() if name not in not_in_device}
    device |= {**_COMMON, "memory_bandwidth": int(gpu.memory_bandwidth)}
    facts = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
        f"gpu_device_info {{ {facts} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f"device_description_str: {json.dumps(gpu.name)}"
    )
