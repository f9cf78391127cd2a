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


class Loop(NamedTuple):
    """One turn of a program's loop on a GPU.

    Attributes:
        launches: kind -> number of kernels and library calls.
        convolutions: convolution -> number of calls.
        trips: number of turns; None if the compiler does not know it, so that each turn waits for the host.
    """

    launches: Counter[str]
    convolutions: Counter[Convolution]
    trips: int | None


class Compiled(NamedTuple):
    """A program for a GPU: its text, the loop with most launches, and the bytes besides arguments and results."""

    text: str
    loop: Loop
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
    text = compiled.as_text()
    memory = compiled.memory_analysis()
    return Compiled(text, main_loop(text), memory.temp_size_in_bytes)


def lowered_convolutions(function: Callable[..., Any], *arguments: Any) -> Counter[Convolution]:
    """The convolutions of a whole program as XLA receives them for a GPU; this needs no CUDA plugin."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    pattern = (
        r"stablehlo\.convolution.*?x\[(.*?)\].*?batch_group_count = (\d+).*?feature_group_count = (\d+)"
        r".*?, tensor<([\dx]+)x\w+>\) ->"
    )
    convolutions: Counter[Convolution] = Counter()
    for labels, batch_groups, feature_groups, shape in re.findall(pattern, text):
        sizes = zip(labels.split(", "), shape.split("x"), strict=True)
        window = "x".join(size for label, size in sizes if label.isdecimal())
        # The gradient with respect to a kernel has batch groups, and a window as large as the image.
        convolutions[Convolution("convolution", window, max(int(batch_groups), int(feature_groups)))] += 1
    return convolutions


def main_loop(text: str) -> Loop:
    """The loop with most launches in a compiled program: of nested loops, the one over the steps."""
    blocks, name = {}, ""
    for line in text.splitlines():
        if heading := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = heading[1]
            blocks[name] = list[str]()
        elif line.startswith("}"):
            name = ""
        elif name:
            blocks[name].append(line.strip())
    loops = []
    for line in re.findall(r".* while\(.*", text):
        (body,) = re.findall(r"body=%?([\w.-]+)", line)
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        loops.append(Loop(*_launches(blocks[body]), int(trips[1]) if trips else None))

    # cuDNN's calls come first: a loop over runs has many small launches around its loop over the steps.
    def work(loop: Loop) -> tuple[int, int]:
        return loop.launches["cuDNN"], loop.launches.total()

    return max(loops, key=work, default=Loop(Counter(), Counter(), None))


def _launches(block: list[str]) -> tuple[Counter[str], Counter[Convolution]]:
    """Kind -> number of launches, and convolution -> number of calls, in one turn of a loop."""
    launches: Counter[str] = Counter()
    convolutions: Counter[Convolution] = Counter()
    for line in block:
        instruction = _INSTRUCTION.match(line)
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
