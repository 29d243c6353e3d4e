"""What several devices cost a search: python experiments/benchmarks/scaling.py

Times a step of the supernet with the same global batch on 1, 2 and 4 simulated devices of this
machine's cores, where more of them cannot be faster: what it takes longer is the overhead. Counts
the all-reduces of the step and their bytes, at this size and, with --published, at that of the
paper (16 channels, 8 cells), which is traced only. --output keeps all lines.
"""

import dataclasses
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
)

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.extend import core

import bench
import floor
import jaxdarts as jd
from jaxdarts import runs


@dataclasses.dataclass(frozen=True)
class Config:
    """Time and count a search step on several simulated devices."""

    devices: tuple[int, ...] = (1, 2, 4)
    """Numbers of devices."""
    order: int = 1
    """Of the hypergradient."""
    batch_size: int = 32
    """Images in a batch, over all devices."""
    init_channels: int = 4
    """Channels of the first cells."""
    layers: int = 3
    """Number of cells."""
    nodes: int = 2
    """Intermediate nodes of a cell."""
    image_size: int = 16
    """Height and width of the images, in pixels."""
    repeats: int = 10
    """Timed steps of each program, in turns, after two that are not counted; medians are reported.
    """
    published: bool = False
    """Only count, for the paper's supernet, both orders."""
    output: str | None = None
    """JSON file to write everything to."""


def made(
    config: Config, number: int, cells: tuple[int, int, int], order: int
) -> tuple[jd.parallel.OnDevices, Callable, tuple]:
    """A mapped search step for (channels, cells, nodes), what makes its state on one device, and
    its arguments' shapes.
    """
    width, depth, nodes = cells
    space = jd.spaces.darts(nodes)
    net = space.supernet(width=width, depth=depth, num_classes=10, axis_name=jd.parallel.AXIS)
    objective = jax.jit(jd.objectives.classification(net))
    algorithm = jd.algorithms.darts(space, order)
    search = jd.bilevel_search(
        objective, algorithm, *bench.optimizers(), axis_name=jd.parallel.AXIS
    )
    alone = net.clone(axis_name=None)

    def init():
        image = jnp.zeros((1, config.image_size, config.image_size, 3))
        return search.init(
            jax.random.key(0), alone.init(jax.random.key(1), image, net.example_mix())["params"]
        )

    size = config.batch_size // number
    pixels = jax.ShapeDtypeStruct((size, config.image_size, config.image_size, 3), jnp.float32)
    batch = {"image": pixels, "label": jax.ShapeDtypeStruct((size,), jnp.int32)}
    step = jd.parallel.over_devices(search.step, jd.parallel.devices(number))
    shapes = (jax.eval_shape(init), batch, batch)
    leading = jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype), shapes)
    return step, init, leading


def all_reduces(program: core.ClosedJaxpr) -> dict[str, float]:
    """The all-reduces of a mapped program, one for every array, and the bytes of their operands on
    one device.
    """
    calls = [
        (v.aval, n)
        for equation, n in floor.equations(program.jaxpr)
        if "psum" in equation.primitive.name
        for v in equation.invars
    ]
    sizes = [value.size * value.dtype.itemsize for value, _ in calls]
    total = sum(size * times for size, (_, times) in zip(sizes, calls))
    return {
        "all_reduces": sum(times for _, times in calls),
        "bytes": total,
        "largest": max(sizes, default=0),
    }


def counted(config: Config) -> list[dict[str, Any]]:
    """The paper's supernet; the bytes do not depend on the number of devices."""
    lines = []
    for order in (1, 2):
        start = time.perf_counter()
        step, _, shapes = made(
            dataclasses.replace(config, image_size=32, batch_size=64), 2, (16, 8, 4), order
        )
        counts = all_reduces(jax.make_jaxpr(step.mapped)(*shapes))
        lines.append(
            {
                "what": f"published, order {order}",
                **counts,
                "tracing_seconds": time.perf_counter() - start,
            }
        )
    return lines


def timed(config: Config) -> list[dict[str, Any]]:
    """Steps on every number of devices, in turns."""
    programs, lines = {}, []
    for number in config.devices:
        step, init, shapes = made(
            config, number, (config.init_channels, config.layers, config.nodes), config.order
        )
        compiled = step.compile(*shapes)
        rng = np.random.default_rng(0)
        image = rng.standard_normal(
            (config.batch_size, config.image_size, config.image_size, 3)
        ).astype(np.float32)
        batch = {"image": image, "label": rng.integers(0, 10, config.batch_size).astype(np.int32)}
        batch = jax.tree.map(lambda x, number=number: jd.parallel.split(x, number), batch)
        state = jd.parallel.replicate(init(), jd.parallel.devices(number))
        programs[number] = compiled, state, batch
        after = len(re.findall(r" all-reduce(?:-start)?\(", compiled.as_text()))
        counts = all_reduces(jax.make_jaxpr(step.mapped)(*shapes))
        lines.append({"what": f"{number} devices", **counts, "all_reduces_compiled": after})
    times: dict[int, list[float]] = {number: [] for number in config.devices}
    for _ in range(config.repeats + 2):
        for number, (compiled, state, batch) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(state, batch, batch))
            times[number].append(1000 * (time.perf_counter() - start))
    first = statistics.median(times[config.devices[0]][2:])
    for line, (_, runs_ms) in zip(lines, times.items(), strict=True):
        median = statistics.median(runs_ms[2:])
        line |= {"ms": median, "runs_ms": runs_ms[2:], "of_the_first": median / first}
    return lines


def main(arguments: list[str]) -> None:
    config = tyro.cli(Config, args=arguments, description=__doc__)
    lines = counted(config) if config.published else timed(config)
    for line in lines:
        print(json.dumps(line))
    if config.output:
        kept = {
            name: value for name, value in dataclasses.asdict(config).items() if name != "output"
        }
        Path(config.output).write_text(
            json.dumps({**runs.versions(), "config": kept, "lines": lines}, indent=1) + "\n"
        )


if __name__ == "__main__":
    runs.start(main)
