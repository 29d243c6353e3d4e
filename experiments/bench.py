"""Time the steps of a search: python experiments/bench.py --batch_size=16 [--peer=PATH]

Prints one JSON line for each program (weight step, first-order and second-order architecture step): milliseconds, images a
second, memory, seconds to compile cold and from the persistent cache. --what=evaluate times the training step of DARTS_V2
with its auxiliary head instead (drop path off, since the original's needs a GPU), --what=algorithms whole steps of several
search algorithms, as multiples of a first-order step. With a checkout of quark0/darts as --peer,
the same steps of that code under PyTorch follow, in its default and in its channels-last layout, and the ratios. Times on a
shared machine mean little; the ratios of one run are the result. --output keeps all lines, with command, commit, versions,
device.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxdarts as jd
import peer as torch_peer
import runs

STEPS = ("weight_step", "first_order", "second_order")


@dataclasses.dataclass(frozen=True)
class Config:
    """Time steps of the DARTS space on random images, beside the original code if it is there."""

    what: Literal["search", "evaluate", "algorithms"] = "search"
    """Steps of a search, of the training of a found cell, or of several search algorithms one after another."""
    batch_size: int = 16
    """Images in a batch."""
    init_channels: int | None = None
    """Channels of the first cells; default 16 in a search, 36 in an evaluation."""
    layers: int | None = None
    """Number of cells; default 8 in a search, 20 in an evaluation."""
    image_size: int = 32
    """Height and width of the images, in pixels."""
    steps: tuple[Literal["weight_step", "first_order", "second_order"], ...] = STEPS
    """Which programs of a search to time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the supernet's computations."""
    repeats: int = 5
    """Timed runs of each program, after one that is not counted; medians are reported."""
    unroll: int | None = None
    """Cells of a run that are compiled apart; default 1 in a search, 6 in an evaluation, as in the scripts."""
    peer: str | None = None
    """Checkout of quark0/darts to time under PyTorch in the same run."""
    threads: int = os.cpu_count() or 1
    """PyTorch threads for the peer."""
    output: str | None = None
    """JSON file to write everything to."""


def programs(config: Config) -> tuple[dict[str, Callable], tuple]:
    """The three steps as pure functions of (params, optimiser state, alpha, its optimiser state, batches), and arguments."""
    space = jd.spaces.darts()
    net = space.supernet(
        width=config.init_channels,
        depth=config.layers,
        num_classes=10,
        dtype=jnp.dtype(config.dtype),
        unroll=config.unroll,
    )
    relax = jd.relax.softmax(space.cells)
    objective = jax.jit(jd.objectives.classification(net))  # traced once, however many gradients a step takes
    params_tx = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.025, momentum=0.9))
    arch_tx = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5, b2=0.999))

    def loss(params, arch, batch):
        return objective(params, relax.apply(arch, None, 0), (), batch, None)[0]

    def update(gradient, params, params_opt):
        updates, params_opt = params_tx.update(gradient, params_opt, params)
        return optax.apply_updates(params, updates), params_opt

    def weight_step(params, params_opt, arch, arch_opt, train, val):
        params, params_opt = update(jax.grad(loss)(params, arch, train), params, params_opt)
        return params, params_opt, arch, arch_opt

    def arch_step(hypergradient):
        def step(params, params_opt, arch, arch_opt, train, val):
            gradient = hypergradient(
                lambda w, a: loss(w, a, train),
                lambda w, a: loss(w, a, val),
                params,
                arch,
                lambda g: update(g, params, params_opt)[0],
            )
            updates, arch_opt = arch_tx.update(gradient, arch_opt, arch)
            return params, params_opt, optax.apply_updates(arch, updates), arch_opt

        return step

    rng = np.random.default_rng(0)

    def batch():
        shape = (config.batch_size, config.image_size, config.image_size, 3)
        labels = rng.integers(0, 10, config.batch_size)
        return {"image": jnp.asarray(rng.normal(size=shape), jnp.float32), "label": jnp.asarray(labels)}

    params = net.init(jax.random.key(0), batch()["image"][:1], net.example_mix())["params"]
    arch = relax.init(jax.random.key(1))
    arguments = (params, params_tx.init(params), arch, arch_tx.init(arch), batch(), batch())
    steps = {
        "weight_step": weight_step,
        "first_order": arch_step(jd.hypergrad.first_order),
        "second_order": arch_step(jd.hypergrad.unrolled),
    }
    return steps, arguments


def training(config: Config) -> tuple[dict[str, Callable], tuple]:
    """The training step of DARTS_V2 from scratch, and its arguments."""
    net = (
        jd.spaces.darts()
        .network(jd.genotypes.DARTS_V2, config.init_channels, config.layers, 10, auxiliary=True, dtype=jnp.dtype(config.dtype))
        .clone(unroll=config.unroll)
    )
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.025, momentum=0.9))
    step = jd.train.from_scratch(net, tx)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(config.batch_size, config.image_size, config.image_size, 3)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(rng.integers(0, 10, config.batch_size), jnp.int32)}
    state = step.init(jax.random.key(0), net.init(jax.random.key(1), images[:1]))
    return {"train_step": lambda state, batch: (step.step(state, batch)[0],)}, (state, batch)


def algorithms(config: Config) -> list[dict[str, Any]]:
    """Whole search steps of several algorithms and the dominant eigenvalue, in turns, as multiples of a first-order step."""
    space = jd.spaces.darts()
    net = space.supernet(config.init_channels, config.layers, 10, dtype=jnp.dtype(config.dtype), unroll=config.unroll)
    objective = jax.jit(jd.objectives.classification(net))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(config.batch_size, config.image_size, config.image_size, 3)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(rng.integers(0, 10, config.batch_size), jnp.int32)}
    params = net.init(jax.random.key(0), images[:1], net.example_mix())["params"]
    params_tx = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.025, momentum=0.9))
    arch_tx = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5, b2=0.999))
    made = {
        "darts": jd.algorithms.darts(space, 1),
        "sdarts_rs": jd.algorithms.sdarts_rs(space, lambda step: 0.3),
        "sdarts_adv": jd.algorithms.sdarts_adv(space, lambda step: 0.3),
        "milenas": jd.algorithms.milenas(space),
        "a2m": jd.algorithms.a2m(space),
        "na_darts": jd.algorithms.na_darts(space),
    }
    calls: dict[str, tuple[Callable, tuple]] = {}
    for name, algorithm in made.items():
        search = jd.bilevel_search(objective, algorithm, params_tx, arch_tx)
        calls[name] = search.step, (search.init(jax.random.key(0), params), batch, batch)
    relax, arch = made["darts"].relax, made["darts"].relax.init(jax.random.key(1))

    def loss(arch, params, batch):
        return objective(params, relax.derive(arch), (), batch, None)[0]

    def eigenvalue(arch, params, batch, key):
        return jd.analysis.curvature.dominant_eigenvalue(lambda arch: loss(arch, params, batch), arch, key)

    calls["alpha_gradient"] = jax.grad(loss), (arch, params, batch)
    calls["eigenvalue"] = eigenvalue, (arch, params, batch, jax.random.key(2))
    options = jd.parallel.compiler_options(jax.default_backend())
    compiled, compile_seconds = {}, {}
    for name, (function, arguments) in calls.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function, compiler_options=options).lower(*arguments).compile()
        compile_seconds[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(config.repeats + 1):
        for name, (_, arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled[name](*arguments))
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(runs[1:]) for name, runs in times.items()}
    return [
        {
            "what": name,
            "ms": medians[name],
            "runs_ms": times[name][1:],
            "first_order_steps": medians[name] / medians["darts"],
            "alpha_gradients": medians[name] / medians["alpha_gradient"],
            "compile_seconds": compile_seconds[name],
        }
        for name in calls
    ]


def measure(name: str, config: Config) -> dict[str, Any]:
    """Compiles one step twice, cold and from the cache, and times it."""
    steps, arguments = (training if config.what == "evaluate" else programs)(config)
    function = jax.jit(steps[name], compiler_options=jd.parallel.compiler_options(jax.default_backend()))
    seconds = []
    for _ in range(2):
        jax.clear_caches()
        start = time.perf_counter()
        lowered = function.lower(*arguments)
        traced = time.perf_counter() - start
        compiled = lowered.compile()
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis()
    runs = []
    kept = 1 if config.what == "evaluate" else 4  # what a step returns, to be given to the next
    state = arguments[:kept]
    for _ in range(config.repeats + 1):
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(*state, *arguments[kept:]))
        runs.append(1000 * (time.perf_counter() - start))
    median = statistics.median(runs[1:])
    return {
        "what": name,
        "ms": median,
        "runs_ms": runs[1:],
        "images_per_second": 1000 * config.batch_size / median,
        "temporary_memory_mb": memory.temp_size_in_bytes / 1e6,
        "compile_seconds_cold": seconds[0],
        "compile_seconds_cached": seconds[1],
        "of_which_tracing_seconds": traced,
        "instructions": compiled.as_text().count(" = "),
    }


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    width, depth, unroll = (36, 20, 6) if config.what == "evaluate" else (16, 8, 1)
    config = dataclasses.replace(
        config,
        init_channels=config.init_channels or width,
        layers=config.layers or depth,
        unroll=config.unroll or unroll,
    )
    lines: list[dict[str, Any]] = []

    def emit(line: dict[str, Any]) -> None:
        lines.append(line)
        print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        if config.what == "algorithms":
            for line in algorithms(config):
                emit(line)
        else:
            for name in ("train_step",) if config.what == "evaluate" else config.steps:
                emit(measure(name, config))
    if config.peer and config.what != "algorithms":
        ours = {line["what"]: line["ms"] for line in lines}
        options = {
            "what": config.what,
            "batch": config.batch_size,
            "width": config.init_channels,
            "depth": config.layers,
            "size": config.image_size,
            "repeats": config.repeats,
            "threads": config.threads,
            "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        }
        for channels_last in (False, True):
            try:
                theirs = torch_peer.measure(config.peer, channels_last=channels_last, **options)
            except RuntimeError as error:
                sys.exit(f"bench.py: {error}")
            emit(theirs)
            emit(
                {
                    "what": "ratio",
                    "layout": theirs["layout"],
                    **{f"{n}_speedup": theirs[f"{n}_ms"] / ours[n] for n in ours},
                }
            )
    if config.output:
        result = {**runs.versions(), "config": dataclasses.asdict(config), "lines": lines}
        for place in ("peer", "output"):  # where files lie on this machine is no part of a result
            result["config"].pop(place)
        Path(config.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
