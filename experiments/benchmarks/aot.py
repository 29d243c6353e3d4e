"""Compile this library's main programs for an accelerator that is not there, and count what the
compiler made of them:

    pip install 'jax[cuda13]'      # for GPUs: 5 GB, no GPU and no driver needed
    pip install 'jax[tpu]'         # for TPUs: 1.3 GB
    python experiments/benchmarks/aot.py --platform=h100 --size=small
    python experiments/benchmarks/aot.py --platform=v5e --size=small --dtype=bfloat16
    --against=before.json

One JSON line a program: seconds to trace and compile on this machine, memory, kernels and launches,
calls of libraries, bytes that are read and written, the least bytes and operations of its products
(floor.py) and the ratio. `jaxdarts.aot.figures` says what each figure means. --against puts the
ratios to an earlier file's lines behind them.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import bench
import floor
import jaxdarts as jd
from jaxdarts import aot, runs
from jaxdarts.commands import score_definitions
from jaxdarts.nn import ops
from jaxdarts.nn.benchmarks import nasbench201

Program = Literal[
    "bundle",
    "weight_step",
    "first_order_search",
    "second_order_search",
    "train_step",
    "recurrent_search",
    "naswot",
    "devices",
]
SIZES = {
    "toy": {"init_channels": 4, "layers": 3, "batch_size": 8},
    "small": {"init_channels": 16, "layers": 3, "batch_size": 64},
    "published": {"init_channels": 16, "layers": 8, "batch_size": 64},
}
TRAINING = {
    "toy": {"init_channels": 4, "layers": 3, "batch_size": 8},
    "small": {"init_channels": 36, "layers": 3, "batch_size": 96},
    "published": {"init_channels": 36, "layers": 20, "batch_size": 96},
}
TEXTS = {
    "toy": {"emsize": 8, "vocabulary": 50, "batch_size": 4, "bptt": 5},
    "small": {"emsize": 300, "vocabulary": 1_000, "batch_size": 64, "bptt": 35},
    "published": {"emsize": 300, "vocabulary": 10_000, "batch_size": 256, "bptt": 35},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile programs for an accelerator that is not there."""

    platform: Literal[aot.NAMES] = "h100"  # pyrefly: ignore
    """Device to compile for."""
    programs: tuple[Program, ...] = ("bundle", "weight_step", "second_order_search")
    """Programs to compile. `bundle`: five separable 5x5 convolutions of one state with their
    gradients (16 channels, batch 64). `devices`: a second-order search step on the four chips of a
    TPU host.
    """
    size: Literal["toy", "small", "published"] = "toy"
    """Size of the networks: toy (4 channels, 3 cells, batch 8), small (16 channels, 3 cells, batch
    64), published.
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the networks' computations."""
    unroll: int | None = None
    """Cells of a run that are compiled apart; default 2 in a search, 6 in a training, as in the
    scripts.
    """
    effort: float | None = None
    """Effort of XLA for the speed of the program, from -1 (compiles soonest) to 1; default XLA's
    own, 0.
    """
    against: str | None = None
    """JSON file of an earlier call, to compare with."""
    output: str | None = None
    """JSON file to write everything to."""


def sized(config: Config, sizes: dict[str, dict[str, int]], unroll: int = 2) -> bench.Config:
    return bench.Config(dtype=config.dtype, unroll=config.unroll or unroll, **sizes[config.size])


def search_program(name: str) -> Callable[[Config], tuple[Callable, tuple]]:
    def make(config):
        steps, arguments = bench.image_search(sized(config, SIZES))
        return steps[name], arguments

    return make


def train_step(config: Config) -> tuple[Callable, tuple]:
    steps, arguments = bench.training(sized(config, TRAINING, 6))
    return steps["train_step"], arguments


def recurrent_search(config: Config) -> tuple[Callable, tuple]:
    steps, arguments = bench.text_search(sized(config, TEXTS))
    return steps["second_order_search"], arguments


def bundle(config: Config) -> tuple[Callable, tuple]:
    """Five 5x5 separable convolutions of one state: results, and gradients of a cotangent."""
    dtype = jnp.dtype(config.dtype)
    shapes = (1, 64, 32, 32, 16), (1, 5, 5, 5, 16), (1, 5, 16, 16), (1, 5, 64, 32, 32, 16)

    def gradients(x, kernels, weights, cotangent):
        y, back = jax.vjp(ops.separable, x, kernels, weights)
        return y, back(cotangent)

    return gradients, tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)


def naswot(config: Config) -> tuple[Callable, tuple]:
    """NASWOT of one cell of NAS-Bench-201, as score.py compiles it: the cell is an argument."""
    space, batch_size = jd.spaces.nasbench201(), 8 if config.size == "toy" else 128
    width, depth = (4, 1) if config.size == "toy" else (16, 5)
    net = nasbench201.Picked(
        space.cells, width, depth, num_classes=1, dtype=jnp.dtype(config.dtype)
    )
    images, picks, *rest = net.example_inputs((32, 32, 3))
    params = net.init(jax.random.key(0), images, picks, *rest)["params"]

    def program(params, picks, images):
        params = nasbench201.picked(space.cells, params, picks)
        return score_definitions.by_units(net, picks, {"params": params}, {"image": images}, None)

    return program, (params, picks, jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32))


def devices(config: Config) -> tuple[Callable, tuple]:
    """A second-order search step of one device's part of the batch, and its arguments with an axis
    of four devices.
    """
    sizes = SIZES[config.size]
    space, axis, dtype = jd.spaces.darts(), jd.parallel.AXIS, jnp.dtype(config.dtype)
    net = space.supernet(
        sizes["init_channels"],
        sizes["layers"],
        10,
        axis_name=axis,
        dtype=dtype,
        unroll=config.unroll or 2,
    )
    objective, algorithm = jd.objectives.classification(net), jd.algorithms.darts(space, order=2)
    search = jd.bilevel_search(objective, algorithm, *bench.optimizers(), axis_name=axis)
    params = net.clone(axis_name=None).init(
        jax.random.key(1), jnp.zeros((1, 32, 32, 3)), net.example_mix()
    )["params"]
    state = jax.eval_shape(search.init, jax.random.key(0), params)
    part = sizes["batch_size"] // 4
    batch = {
        "image": jax.ShapeDtypeStruct((part, 32, 32, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((part,), jnp.int32),
    }

    def with_axis(x):
        return jax.ShapeDtypeStruct((4, *x.shape), x.dtype)

    return search.step, jax.tree.map(with_axis, (state, batch, batch))


PROGRAMS: dict[str, Callable[[Config], tuple[Callable, tuple]]] = {
    "bundle": bundle,
    "weight_step": search_program("weight_step"),
    "first_order_search": search_program("first_order_search"),
    "second_order_search": search_program("second_order_search"),
    "train_step": train_step,
    "recurrent_search": recurrent_search,
    "naswot": naswot,
    "devices": devices,
}
assert tuple(PROGRAMS) == get_args(Program)


def measure(name: str, config: Config, target: aot.Target) -> dict[str, Any]:
    """Compiles one program and counts it."""
    function, arguments = PROGRAMS[name](config)
    start, before = time.perf_counter(), time.process_time()
    if name == "devices":
        lowered = aot.over_devices(function, *arguments, target=target)
    else:
        lowered = aot.lowered(function, *arguments, target=target)
    traced = time.perf_counter()
    options = {} if config.effort is None else {"exec_time_optimization_effort": config.effort}
    compiled = aot.compile_lowered(lowered, target, **options)
    line = {
        "what": name,
        "platform": target.name,
        "size": config.size,
        "dtype": config.dtype,
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "processor_seconds": time.process_time() - before,
        **aot.figures(compiled),
    }
    if name != "devices":
        least = floor.work(jax.make_jaxpr(function)(*arguments), target.platform)
        line |= {"least_gigabytes": least.bytes / 1e9, "gigaflops": least.flops / 1e9}
        line |= {"times_least": line["gigabytes"] / line["least_gigabytes"]} if least.bytes else {}
    return line


COMPARED = (
    "processor_seconds",
    "temporary_mb",
    "kernels",
    "instructions",
    "gigabytes",
    "megacycles",
)


def compared(line: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, float]:
    """Ratios of a line's figures to those of the same program in earlier lines; empty if it is not
    among them.
    """
    same = [
        old
        for old in earlier
        if all(old[name] == line[name] for name in ("what", "platform", "size", "dtype"))
    ]
    return {
        name: line[name] / same[-1][name]
        for name in COMPARED
        if same and line.get(name) and same[-1].get(name)
    }


def main(arguments: list[str]) -> None:
    import tyro

    config = tyro.cli(Config, args=arguments, description=__doc__)
    earlier = (
        json.loads(Path(config.against).read_text(encoding="utf-8"))["lines"]
        if config.against
        else []
    )
    try:
        target = aot.target(config.platform)
    except RuntimeError as error:
        raise runs.Stop(str(error), 2) from error
    lines = []
    for name in config.programs:
        line = measure(name, config, target)
        lines.append(line)
        print(
            json.dumps(line | ({"against": compared(line, earlier)} if earlier else {})), flush=True
        )
        if config.output:
            kept = {
                name: value
                for name, value in dataclasses.asdict(config).items()
                if name not in ("output", "against")
            }
            result = {**runs.versions(), "config": kept, "lines": lines}
            Path(config.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    runs.start(main)
