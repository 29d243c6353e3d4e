"""Compiles programs for a device that is not there: a GPU or a TPU, from any machine with a CPU.

XLA needs a description of a device, not the device. So a program can be compiled for it, and its
memory, kernels and traffic counted, before anyone rents one. GPUs need `jax[cuda13]`, TPUs
`jax[tpu]`; both may stand in one environment.

What XLA measures on a real GPU before it chooses (autotuning) is left out here: kernels are those
of its defaults.
"""

import collections
import contextlib
import functools
import importlib
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdarts import parallel
from jaxdarts.nn.primitives.platforms import every_platform


class Gpu(NamedTuple):
    """Data of an NVIDIA GPU that XLA asks for.

    Figures are those of NVIDIA's data sheets and of CUDA's table of compute capabilities.
    """

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    units: int  # float32 units of each
    threads: int  # resident threads of each
    shared: int  # bytes of shared memory of each
    cache: int  # bytes, level 2
    bandwidth: float  # bytes a second
    clock: float  # GHz
    memory: int  # bytes


GPUS = {
    "t4": Gpu((7, 5), 40, 64, 1024, 64 << 10, 4 << 20, 320e9, 1.59, 15 << 30),
    "l4": Gpu((8, 9), 58, 128, 1536, 100 << 10, 48 << 20, 300e9, 2.04, 22 << 30),
    "rtx4090": Gpu((8, 9), 128, 128, 1536, 100 << 10, 72 << 20, 1008e9, 2.52, 24 << 30),
    "a100": Gpu((8, 0), 108, 64, 2048, 164 << 10, 40 << 20, 1555e9, 1.41, 40 << 30),
    "h100": Gpu((9, 0), 132, 128, 2048, 228 << 10, 50 << 20, 3352e9, 1.98, 79 << 30),
    "h200": Gpu((9, 0), 132, 128, 2048, 228 << 10, 50 << 20, 4800e9, 1.98, 139 << 30),
}
TPUS = {"v5e": ("v5litepod-4", 16 << 30), "v6e": ("v6e-4", 32 << 30)}
"""Accelerator type, and bytes of memory of a chip (Google's pages of each version). Four chips, two
by two.
"""

NAMES = (*GPUS, *TPUS)


class Target(NamedTuple):
    """A device that is not there, or several."""

    name: str
    platform: str  # "cuda" or "tpu"
    devices: tuple[Any, ...]
    memory: int  # bytes of one device


def target(name: str) -> Target:
    """The device of that name, one of `NAMES`; of a TPU the four chips of one host.

    Raises:
        ValueError: if there is no device of that name.
        RuntimeError: if the plugin that compiles for it is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"no device is called {name!r}: there are {', '.join(NAMES)}")
    if name in GPUS:
        options = {
            "platform": "cuda",
            "topology_name": name,
            "target_config": _description(name),
            "topology": "1x1x1",
        }
        extra, memory = "cuda13", GPUS[name].memory
        # Without a GPU the plugin does not register itself, unless it leaves out a check of the
        # driver.
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    else:
        kind, memory = TPUS[name]
        # libtpu would ask Google's metadata server, which only a TPU's host reaches.
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", kind)
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault(
            "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
        )  # no chip is taken: several processes may compile
        options, extra = {"platform": "tpu", "topology_name": f"{name}:2x2"}, "tpu"
    try:
        try:
            devices = topologies.get_topology_desc(**options).devices
        except NotImplementedError:  # plugins were looked for before the check was left out
            importlib.import_module(f"jax_plugins.xla_{extra}").initialize()
            devices = topologies.get_topology_desc(**options).devices
    except Exception as error:  # whatever a missing or broken plugin raises
        version = jax.__version__
        raise RuntimeError(
            f"to compile for {name}, pip install 'jax[{extra}]=={version}' ({_first_line(error)})"
        ) from error
    return Target(name, options["platform"], tuple(devices), memory)


def compiled(
    function: Callable, *arguments: Any, target: Target, donate: tuple[int, ...] = ()
) -> Any:
    """Compiles a pure function for the first device of a target.

    Arguments have the shapes of these.

    Returns:
        `jax.stages.Compiled`, which cannot run here.
    """
    return compile_lowered(lowered(function, *arguments, target=target, donate=donate), target)


def compile_lowered(lowered: Any, target: Target, **options: Any) -> Any:
    """Compiles what `lowered` or `over_devices` returns.

    It uses `parallel.compiler_options` and further options of XLA's.
    """
    with without_cache():  # a program that cannot run here cannot be read back from there either
        return lowered.compile(parallel.compiler_options(target.platform) | options)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compiles anew, whatever JAX's cache of compiled programs holds."""
    before = jax.config.jax_enable_compilation_cache  # pyrefly: ignore

    def enable(value: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", value)
        compilation_cache.reset_cache()  # JAX looks at the setting once

    enable(False)
    try:
        yield
    finally:
        enable(before)


def lowered(
    function: Callable, *arguments: Any, target: Target, donate: tuple[int, ...] = ()
) -> Any:
    """A pure function lowered for the first device of a target, not compiled.

    It is a `jax.stages.Lowered`.
    """
    there = NamedSharding(Mesh(np.array(target.devices[:1]), ("device",)), PartitionSpec())
    jitted = jax.jit(function, out_shardings=there, donate_argnums=donate)
    with every_platform():
        return jitted.lower(*_shapes(arguments, there))


def over_devices(function: Callable, *arguments: Any, target: Target) -> Any:
    """Lowers a function of one device's part for all devices of a target.

    The function names the axis `parallel.AXIS`.

    Every argument has a leading axis of devices, as those of `parallel.over_devices`.
    """
    mesh, split = Mesh(np.array(target.devices), (parallel.AXIS,)), PartitionSpec(parallel.AXIS)

    def part(*arguments):
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))

    mapped = jax.shard_map(part, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    shapes = _shapes(arguments, NamedSharding(mesh, split))
    with every_platform():
        return jax.jit(mapped).lower(*shapes)


def _shapes(arguments: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )


def figures(compiled: Any) -> dict[str, Any]:
    """Figures of a compiled program that need no run.

    They are memory, kernels, calls of libraries and traffic.

    Returns:
        `argument_mb` and `temporary_mb`: megabytes of memory of one device.
        `kernels`: what a device starts one after the other, be it fusions, copies or calls of
        libraries. `launches`: the same, but those in loops as often as they run. `library_calls`:
        those kernels that are calls of cuDNN or cuBLAS. `instructions`: of the optimised program,
        those inside of fusions too. `kinds`: the operations of the kernels and their numbers.
        `gigabytes`: read and written by one run. Where XLA has no figure (GPU), operands and
        results of all kernels are summed, which is too much where a kernel reads a part of an
        operand. `megacycles`: of one run, as the compiler for TPUs estimates them for fusions and
        convolutions. `all_reduces`, `all_reduce_mb`: of one run, after XLA has combined them, where
        there are any.
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    kinds, libraries = collections.Counter(), 0
    launches = moved = cycles = reduces = reduced = 0.0
    for instruction, times in _executed(parse(text)):
        if instruction.opcode not in _FREE:
            kinds[instruction.opcode] += 1
            libraries += 'custom_call_target="__cu' in instruction.attributes
            launches += times
            moved += times * (instruction.bytes + instruction.operand_bytes)
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes):
            cycles += times * int(estimate[1])
        if instruction.opcode in ("all-reduce", "all-reduce-start"):
            reduces += times
            reduced += times * instruction.operand_bytes
    numbers = {
        "argument_mb": memory.argument_size_in_bytes / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "kernels": sum(kinds.values()),
        "launches": launches,
        "library_calls": libraries,
        "instructions": text.count(" = "),
        "kinds": dict(kinds.most_common(10)),
        "gigabytes": (compiled.cost_analysis() or {}).get("bytes accessed", moved) / 1e9,
    }
    if cycles:
        numbers["megacycles"] = cycles / 1e6
    if reduces:
        numbers |= {"all_reduces": reduces, "all_reduce_mb": reduced / 1e6}
    return numbers


class Instruction(NamedTuple):
    """One line of a compiled program's text."""

    name: str
    opcode: str
    bytes: int  # of the result
    operand_bytes: int
    attributes: str  # the line after the operands


# Bookkeeping, and starts of what is counted where it ends.
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "iota",
    "after-all",
}
_FREE |= {
    "copy-start",
    "slice-start",
    "all-reduce-start",
    "async-start",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


def parse(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation of a compiled program, by its name.

    The entry's name is `ENTRY`.
    """
    computations: dict[str, list[Instruction]] = {}
    instructions: list[Instruction] = []
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        if line and not line[0].isspace():
            if line.endswith("{") and (header := re.match(r"(ENTRY )?%?([\w.\-]+)", line)):
                instructions = computations.setdefault("ENTRY" if header[1] else header[2], [])
                sizes = {}
        elif match := _LINE.match(line):
            name, shape, opcode, rest = match.groups()
            operands, _, attributes = rest.partition(")")
            sizes[name] = _bytes(shape)
            known = sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", operands))
            instructions.append(Instruction(name, opcode, sizes[name], known, attributes))
    return computations


def _bytes(shape: str) -> int:
    return sum(
        _SIZES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n)
        for kind, sizes in _SHAPE.findall(shape)
    )


def _executed(
    computations: dict[str, list[Instruction]], name: str = "ENTRY", times: float = 1
) -> Iterator[tuple[Any, float]]:
    """The instructions that a program runs, and how often.

    All branches of a condition count alike.
    """
    for instruction in computations.get(name, []):
        yield instruction, times
        attributes = instruction.attributes
        if instruction.opcode == "while":
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
            (body,) = re.findall(r"body=%?([\w.\-]+)", attributes)
            yield from _executed(computations, body, times * (int(count[1]) if count else 1))
        elif instruction.opcode == "call":
            (called,) = re.findall(r"to_apply=%?([\w.\-]+)", attributes)
            yield from _executed(computations, called, times)
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
            names = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
            names += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)
            for branch in names:
                yield from _executed(computations, branch, times / len(names))


@functools.cache
def _description(name: str) -> str:
    """Text of the `GpuTargetConfigProto` that XLA reads."""
    gpu = GPUS[name]
    shared = min(gpu.shared - (1 << 10), 227 << 10) if gpu.capability != (7, 5) else gpu.shared
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 << 10}
  shared_memory_per_core: {gpu.shared}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(gpu.bandwidth)}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  shared_memory_per_block_optin: {shared}
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "NVIDIA {name.upper()}"
"""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
