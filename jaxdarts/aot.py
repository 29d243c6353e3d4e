"""Compiles programs for a device that is not there: a GPU or a TPU, from any machine with a CPU.

XLA needs a description of a device, not the device. So a program can be compiled for it, and its memory, kernels and traffic
counted, before anyone rents one. GPUs need `jax[cuda13]`, TPUs `jax[tpu]`; both may stand in one environment.

What XLA measures on a real GPU before it chooses (autotuning) is left out here: kernels are those of its defaults.
"""

import collections
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdarts import parallel


class Gpu(NamedTuple):
    """What XLA asks of an NVIDIA GPU. Figures are those of NVIDIA's data sheets and of CUDA's table of compute capabilities."""

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
"""Accelerator type, and bytes of memory of a chip (Google's pages of each version). Four chips, two by two."""

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
        options = {"platform": "cuda", "topology_name": name, "target_config": _description(name), "topology": "1x1x1"}
        extra, memory = "cuda13", GPUS[name].memory
    else:
        kind, memory = TPUS[name]
        # libtpu would ask Google's metadata server, which only a TPU's host reaches.
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", kind)
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        options, extra = {"platform": "tpu", "topology_name": f"{name}:2x2"}, "tpu"
    try:
        devices = topologies.get_topology_desc(**options).devices
    except Exception as error:  # whatever a missing or broken plugin raises
        version = jax.__version__
        raise RuntimeError(f"to compile for {name}, pip install 'jax[{extra}]=={version}' ({_first_line(error)})") from error
    return Target(name, options["platform"], tuple(devices), memory)


def compiled(function: Callable, *arguments: Any, target: Target, donate: tuple[int, ...] = ()) -> Any:
    """Compiles a pure function for the first device of a target, for arguments of the shapes of these.

    Returns:
        `jax.stages.Compiled`, which cannot run here.
    """
    return lowered(function, *arguments, target=target, donate=donate).compile(parallel.compiler_options(target.platform))


def lowered(function: Callable, *arguments: Any, target: Target, donate: tuple[int, ...] = ()) -> Any:
    """The same before XLA compiles it, `jax.stages.Lowered`."""
    there = NamedSharding(Mesh(np.array(target.devices[:1]), ("device",)), PartitionSpec())
    return jax.jit(function, out_shardings=there, donate_argnums=donate).lower(*_shapes(arguments, there))


def over_devices(function: Callable, *arguments: Any, target: Target) -> Any:
    """Compiles a function of one device's part, which names the axis `parallel.AXIS`, for all devices of a target.

    Every argument has a leading axis of devices, as those of `parallel.over_devices`.
    """
    mesh, split = Mesh(np.array(target.devices), (parallel.AXIS,)), PartitionSpec(parallel.AXIS)

    def part(*arguments):
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))

    mapped = jax.shard_map(part, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    shapes = _shapes(arguments, NamedSharding(mesh, split))
    return jax.jit(mapped).lower(*shapes).compile(parallel.compiler_options(target.platform))


def _shapes(arguments: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)


def figures(compiled: Any) -> dict[str, Any]:
    """What can be counted in a program that cannot be run: memory, kernels, calls of libraries, traffic.

    Returns:
        `argument_mb`, `temporary_mb` (megabytes of one device), `kernels` (what a GPU launches), `library_calls`, `instructions`
        (of the optimised program, what is inside of kernels left out), the `kinds` of these with their counts, `collectives`
        with their bytes, and, where XLA estimates it (TPU), `gigabytes` that are read and written.
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    kinds = collections.Counter(kind for _, kind, _ in _instructions(text))
    calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    libraries = {name: n for name, n in calls.items() if name.startswith("__cu") or "triton" in name}
    plain = sum(kinds[kind] for kind in ("fusion", "copy", "reduce", "transpose", "concatenate", "sort", "reduce-window", "pad"))
    found = {
        "argument_mb": memory.argument_size_in_bytes / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "kernels": plain + sum(libraries.values()),
        "library_calls": sum(libraries.values()),
        "instructions": text.count(" = "),
        "outer_instructions": sum(kinds.values()),
        "kinds": dict(kinds.most_common(12)) | {name: n for name, n in calls.most_common(6)},
        **collectives(text),
    }
    costs = compiled.cost_analysis() or {}
    if "bytes accessed" in costs:
        found["gigabytes"] = costs["bytes accessed"] / 1e9
    return found


def _instructions(text: str) -> list[tuple[str, str, str]]:
    """(name, opcode, line) of what a program does itself: not what is inside of its fusions, reducers and comparators."""
    inner = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", text))
    found, skipped = [], False
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY", "fused", "region")) or (line and not line.startswith((" ", "}"))):
            name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)
            skipped = bool(name) and name[1] in inner and not line.startswith("ENTRY")
        elif not skipped and (match := _INSTRUCTION.match(line)):
            found.append((match[1], match[2], line))
    return found


_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\(")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


def collectives(text: str) -> dict[str, Any]:
    """The all-reduces of a compiled program after XLA has combined them: their number and the bytes of their operands."""
    total, count = 0, 0
    for _, kind, line in _instructions(text):
        if kind in ("all-reduce", "all-reduce-start"):
            count += 1
            shape = line.split(" = ", 1)[1].split(f" {kind}(")[0]
            for name, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape):
                total += _SIZES.get(name, 0) * int(np.prod([int(n) for n in sizes.split(",") if n], initial=1))
    return {"all_reduces": count, "all_reduce_bytes": total} if count else {}


@functools.cache
def _description(name: str) -> str:
    """What XLA reads: a `GpuTargetConfigProto` as text."""
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
