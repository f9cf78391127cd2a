"""Compiles programs for a GPU that need not be present, and counts the launches in their text."""

import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Set before jax looks for devices. Without a GPU nothing can be tuned, and CUDA must not search for one.
ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": "-1"}
FLAGS = "--xla_gpu_autotune_level=0"
# Instructions without a launch.
_FREE = {"get-tuple-element", "parameter", "tuple", "bitcast", "constant"}
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\(")


class Convolution(NamedTuple):
    """How a convolution runs: the name of cuDNN's call or of the instruction, the window, the number of groups."""

    call: str
    window: str
    groups: int


class Compiled(NamedTuple):
    """A program for a GPU: one turn of its loop with most launches, and its memory.

    Attributes:
        launches: kind -> number of kernels and library calls.
        convolutions: convolution -> number of calls.
        turns: of the loop; None if the compiler does not know their number, so that each turn waits for the host.
        temporary_bytes: memory besides arguments and results.
    """

    launches: Counter[str]
    convolutions: Counter[Convolution]
    turns: int | None
    temporary_bytes: int


def plugin_is_installed() -> bool:
    return find_spec("jax_cuda12_plugin") is not None or find_spec("jax_cuda13_plugin") is not None


def compile_for(target: str, function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compiles a function for the GPU that `gpus.target` describes; only shapes and dtypes of the arguments matter."""
    topology = topologies.get_topology_desc("gpu", "cuda", target_config=target, topology="1x1x1")
    sharding = NamedSharding(Mesh(topology.devices, ("device",)), PartitionSpec())
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda *arguments: arguments, *arguments),
    )
    compiled = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()
    return Compiled(*main_loop(compiled.as_text()), compiled.memory_analysis().temp_size_in_bytes)


def main_loop(text: str) -> tuple[Counter[str], Counter[Convolution], int | None]:
    """Launches, convolutions and turns of the loop with most launches: of nested loops, the one over the steps."""
    # Each computation: its heading, its instructions, and a brace alone.
    blocks = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\n((?:.+\n)*?)\}", text, re.MULTILINE))
    loops = []
    for line in re.findall(r".* while\(.*", text):
        (body,) = re.findall(r"body=%?([\w.-]+)", line)
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        loops.append((*_launches(blocks[body]), int(trips[1]) if trips else None))
    # cuDNN's calls come first: a loop over runs has many small launches around its loop over the steps.
    return max(loops, key=lambda loop: (loop[0]["cuDNN"], loop[0].total()), default=(Counter(), Counter(), None))


def _launches(block: str) -> tuple[Counter[str], Counter[Convolution]]:
    """Kind -> number of launches, and convolution -> number of calls, in one turn of a loop."""
    launches: Counter[str] = Counter()
    convolutions: Counter[Convolution] = Counter()
    for line in block.splitlines():
        instruction = _INSTRUCTION.match(line.strip())
        if not instruction or instruction[2] in _FREE:
            continue
        name, operation = instruction.groups()
        if operation == "custom-call":
            (operation,) = re.findall(r'custom_call_target="([^"]+)"', line)
        if window := re.search(r"window=\{size=([\dx]+)", line):
            groups = re.search(r"(?:feature|batch)_group_count=(\d+)", line)
            call = operation.removeprefix("__cudnn$")
            convolutions[Convolution(call, window[1], int(groups[1]) if groups else 1)] += 1
        launches[_kind(name, operation)] += 1
    return launches, convolutions


def _kind(name: str, operation: str) -> str:
    if operation.startswith("__cudnn"):
        return "cuDNN"
    # By Triton, or by cuBLAS.
    if name.startswith("gemm_fusion") or operation.startswith("__cublas"):
        return "products"
    return {"fusion": "fusions", "copy": "copies"}.get(operation, "others")
