"""Time the steps of a search: python experiments/benchmarks/bench.py [--what=...] [--peer=PATH]

Prints one JSON line for each program (weight step, first-order and second-order architecture step,
and whole search steps of either order, as users run them): milliseconds, examples a second, the
least time that the products of its parts could take on this machine (measured first), memory,
seconds to compile cold and from the persistent cache. --what=evaluate times the training step of
DARTS_V2 with its auxiliary head instead (drop path off, since the original's needs a GPU),
--what=algorithms whole steps of several search algorithms, as multiples of a first-order step,
--what=rnn and --what=rnn_evaluate search and training of a recurrent cell on random words. With a
checkout of quark0/darts as --peer, the same steps of that code under PyTorch follow, in its default
and, on images, its channels-last layout, and the ratios. Times on a shared machine mean little; the
ratios of one run are the result. --output keeps all lines, with command, commit, versions, device.
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
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

import floor
import jaxdarts as jd
import kernels
import peer as torch_peer
from jaxdarts import runs
from jaxdarts.commands import texts
from jaxdarts.data import text

Step = Literal[
    "weight_step", "first_order", "second_order", "first_order_search", "second_order_search"
]
STEPS = get_args(Step)


@dataclasses.dataclass(frozen=True)
class Config:
    """Time steps of the DARTS space on random images, beside the original code if it is there."""

    what: Literal["search", "evaluate", "algorithms", "rnn", "rnn_evaluate"] = "search"
    """Steps of a search, of the training of a found cell, of several search algorithms one after
    another; of a recurrent search at the published size, of the training of a recurrent cell.
    """
    batch_size: int | None = None
    """Images or columns of text in a batch; default 16, in a recurrent search 64."""
    init_channels: int | None = None
    """Channels of the first cells; default 16 in a search, 36 in an evaluation."""
    layers: int | None = None
    """Number of cells; default 8 in a search, 20 in an evaluation."""
    image_size: int = 32
    """Height and width of the images, in pixels."""
    steps: tuple[Step, ...] = STEPS
    """Which programs of a search to time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the supernet's computations."""
    repeats: int = 5
    """Timed runs of each program, after one that is not counted; medians are reported."""
    emsize: int | None = None
    """Units of a recurrent network; default 300 in a search, 850 in an evaluation."""
    bptt: int = 35
    """Rows of a window of text."""
    vocabulary: int = 10_000
    """Different words of a text."""
    unroll: int | None = None
    """Cells of a run that are compiled apart; default 2 in a search, 6 in an evaluation, as in the
    scripts.
    """
    peer: str | None = None
    """Checkout of quark0/darts to time under PyTorch in the same run."""
    profile: bool = False
    """Run each program once more under jax.profiler, and list the kinds of kernels that take the
    most time.
    """
    threads: int = os.cpu_count() or 1
    """PyTorch threads for the peer."""
    output: str | None = None
    """JSON file to write everything to."""


def image_search(
    config: Config, space: jd.Space | None = None
) -> tuple[dict[str, Callable], tuple]:
    """The steps of a search on images in a space, by default the whole space of DARTS; see
    `programs`.
    """
    space = space or jd.spaces.darts()
    net = space.supernet(
        width=config.init_channels,
        depth=config.layers,
        num_classes=10,
        dtype=jnp.dtype(config.dtype),
        unroll=config.unroll,
    )
    params_tx, arch_tx = optimizers()
    rng = np.random.default_rng(0)

    def batch():
        shape = (config.batch_size, config.image_size, config.image_size, 3)
        labels = rng.integers(0, 10, config.batch_size)
        return {
            "image": jnp.asarray(rng.normal(size=shape), jnp.float32),
            "label": jnp.asarray(labels),
        }

    params = net.init(jax.random.key(0), batch()["image"][:1], net.example_mix())["params"]
    return programs(
        space,
        jd.objectives.classification(net),
        params,
        (),
        (params_tx, arch_tx),
        (batch(), batch()),
    )


def optimizers() -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Optimisers of the published search on images: of weights
    (`commands.optimizers.weights_optimizer`) and of alpha.
    """
    weights = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(0.025, momentum=0.9),
    )
    return optax.flatten(weights), optax.chain(
        optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5, b2=0.999)
    )


def text_search(config: Config) -> tuple[dict[str, Callable], tuple]:
    """The steps of a search on text, see `programs`; the hidden state stays zero, which costs the
    same.
    """
    space = jd.spaces.darts_rnn()
    settings = texts.Settings(bptt=config.bptt)
    net = space.supernet(
        config.emsize, config.vocabulary, dropouts=settings.dropouts, dtype=jnp.dtype(config.dtype)
    )
    txs = texts.optimizer(settings), optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-3))
    params = net.init(jax.random.key(0), *net.example_inputs())["params"]
    objective = jd.objectives.language_model(net, temporal=1e-3)
    return programs(
        space,
        objective,
        params,
        net.start(config.batch_size),
        txs,
        (words(config, 0), words(config, 1)),
    )


def words(config: Config, seed: int) -> dict[str, Any]:
    """A window of random words."""
    stream = np.random.default_rng(seed).integers(
        config.vocabulary, size=(config.bptt + 1, config.batch_size)
    )
    return text.window(jnp.asarray(stream, jnp.int32), 0, config.bptt, config.bptt)


def programs(space, objective, params, carry, txs, batches) -> tuple[dict[str, Callable], tuple]:
    """The steps as pure functions of (params, optimiser state, alpha, its optimiser state,
    batches), and arguments.
    """
    relax = jd.relax.softmax(space.cells)
    params_tx, arch_tx = txs
    with_gradients = jd.once.with_gradients(objective)

    def loss(params, arch, batch):
        return with_gradients(params, relax.apply(arch, None, 0), carry, batch, jax.random.key(2))[
            0
        ]

    def update(gradient, params, params_opt, batch):
        updates, params_opt = optax.with_extra_args_support(params_tx).update(
            gradient, params_opt, params, batch=batch
        )
        return optax.apply_updates(params, updates), params_opt

    def weight_step(params, params_opt, arch, arch_opt, train, val):
        params, params_opt = update(jax.grad(loss)(params, arch, train), params, params_opt, train)
        return params, params_opt, arch, arch_opt

    def arch_step(hypergradient):
        def step(params, params_opt, arch, arch_opt, train, val):
            gradient = hypergradient(
                lambda w, a: loss(w, a, train),
                lambda w, a: loss(w, a, val),
                params,
                arch,
                lambda g: update(g, params, params_opt, train)[0],
            )
            updates, arch_opt = arch_tx.update(gradient, arch_opt, arch)
            return params, params_opt, optax.apply_updates(arch, updates), arch_opt

        return jd.once.folded(step)

    def search_step(hypergradient):
        search = jd.bilevel_search(
            objective, jd.Algorithm(relax, hypergradient), params_tx, arch_tx
        )

        def step(params, params_opt, arch, arch_opt, train, val):
            before = jd.SearchState(
                jnp.int32(0), jax.random.key(2), params, (carry, carry), arch, params_opt, arch_opt
            )
            after, _ = search.step(before, train, val)
            return after.params, after.params_opt, after.arch, after.arch_opt

        return step

    arch = relax.init(jax.random.key(1))
    arguments = (params, params_tx.init(params), arch, arch_tx.init(arch), *batches)
    steps = {
        "weight_step": weight_step,
        "first_order": arch_step(jd.hypergrad.first_order),
        "second_order": arch_step(jd.hypergrad.unrolled),
        "first_order_search": search_step(jd.hypergrad.first_order),
        "second_order_search": search_step(jd.hypergrad.unrolled),
    }
    return steps, arguments


def training(config: Config) -> tuple[dict[str, Callable], tuple]:
    """The training step of DARTS_V2 from scratch, and its arguments."""
    net = (
        jd.spaces.darts()
        .network(
            jd.genotypes.DARTS_V2,
            config.init_channels,
            config.layers,
            10,
            auxiliary=True,
            dtype=jnp.dtype(config.dtype),
        )
        .clone(unroll=config.unroll)
    )
    tx, _ = optimizers()
    step = jd.training.images.from_scratch(net, tx)
    rng = np.random.default_rng(0)
    images = jnp.asarray(
        rng.normal(size=(config.batch_size, config.image_size, config.image_size, 3)), jnp.float32
    )
    batch = {
        "image": images,
        "label": jnp.asarray(rng.integers(0, 10, config.batch_size), jnp.int32),
    }
    state = step.init(jax.random.key(0), net.init(jax.random.key(1), images[:1]))
    return {"train_step": lambda state, batch: (step.step(state, batch)[0],)}, (state, batch)


def text_training(config: Config) -> tuple[dict[str, Callable], tuple]:
    """The training step of DARTS_V2's recurrent cell from scratch, and its arguments."""
    settings = texts.Settings(bptt=config.bptt, weight_decay=8e-7)
    options = {"dropouts": settings.dropouts, "dtype": jnp.dtype(config.dtype)}
    net = jd.spaces.darts_rnn().network(
        jd.genotypes.RNN_DARTS_V2, config.emsize, config.vocabulary, **options
    )
    training = jd.training.text.from_scratch(
        jd.objectives.language_model(net, temporal=1e-3), texts.optimizer(settings)
    )
    params = net.init(jax.random.key(1), *net.example_inputs())["params"]
    state = training.init(jax.random.key(0), params, net.start(config.batch_size))
    return {"train_step": lambda state, batch: (training.step(state, batch)[0],)}, (
        state,
        words(config, 0),
    )


class Task(NamedTuple):
    """What --what stands for."""

    # configuration -> programs and their arguments, the first of which they return anew
    make: Callable
    kept: int = 4  # how many
    defaults: dict[str, int] = {}


TASKS = {
    "search": Task(
        image_search, 4, {"init_channels": 16, "layers": 8, "unroll": 2, "batch_size": 16}
    ),
    "algorithms": Task(
        image_search, 4, {"init_channels": 16, "layers": 8, "unroll": 2, "batch_size": 16}
    ),
    "evaluate": Task(
        training, 1, {"init_channels": 36, "layers": 20, "unroll": 6, "batch_size": 16}
    ),
    "rnn": Task(text_search, 4, {"emsize": 300, "batch_size": 64}),
    "rnn_evaluate": Task(text_training, 1, {"emsize": 850, "batch_size": 16}),
}


def algorithms(config: Config) -> list[dict[str, Any]]:
    """Whole search steps of several algorithms and the dominant eigenvalue, in turns, as multiples
    of a first-order step.
    """
    space = jd.spaces.darts()
    net = space.supernet(
        config.init_channels, config.layers, 10, dtype=jnp.dtype(config.dtype), unroll=config.unroll
    )
    objective = jax.jit(jd.objectives.classification(net))
    of_path = jax.jit(jd.objectives.classification(net.clone(one_path=True)))
    rng = np.random.default_rng(0)
    images = jnp.asarray(
        rng.normal(size=(config.batch_size, config.image_size, config.image_size, 3)), jnp.float32
    )
    batch = {
        "image": images,
        "label": jnp.asarray(rng.integers(0, 10, config.batch_size), jnp.int32),
    }
    params = net.init(jax.random.key(0), images[:1], net.example_mix())["params"]
    params_tx, arch_tx = optimizers()
    made = {
        "darts": jd.algorithms.darts(space, 1),
        "sdarts_rs": jd.algorithms.sdarts_rs(space, lambda step: 0.3),
        "sdarts_adv": jd.algorithms.sdarts_adv(space, lambda step: 0.3),
        "milenas": jd.algorithms.milenas(space),
        "a2m": jd.algorithms.a2m(space),
        "na_darts": jd.algorithms.na_darts(space),
        "idarts": jd.algorithms.idarts(space),
        "gdas": jd.algorithms.gdas(space, lambda step: 1.0),
        "random_sharing": jd.algorithms.random_sharing(space),
    }
    # Methods that draw one operation an edge: the drawn one alone, and beside it all of them.
    searches = {
        name: (algorithm, of_path if algorithm.relax.one_path else objective)
        for name, algorithm in made.items()
    }
    searches["gdas_of_all_operations"] = made["gdas"], objective
    calls: dict[str, tuple[Callable, tuple]] = {}
    for name, (algorithm, of_net) in searches.items():
        search = jd.bilevel_search(of_net, algorithm, params_tx, arch_tx)
        calls[name] = search.step, (search.init(jax.random.key(0), params), batch, batch)
    relax, arch = made["darts"].relax, made["darts"].relax.init(jax.random.key(1))

    def loss(arch, params, batch):
        return objective(params, relax.derive(arch), (), batch, None)[0]

    def eigenvalue(arch, params, batch, key):
        return jd.analysis.curvature.dominant_eigenvalue(
            lambda arch: loss(arch, params, batch), arch, key
        )

    calls["alpha_gradient"] = jax.grad(loss), (arch, params, batch)
    calls["eigenvalue"] = eigenvalue, (arch, params, batch, jax.random.key(2))
    compiled, compile_seconds = {}, {}
    for name, (function, arguments) in calls.items():
        start = time.perf_counter()
        compiled[name] = runs.jitted(function).lower(*arguments).compile()
        compile_seconds[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(config.repeats + 1):
        for name, (_, arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled[name](*arguments))
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(runs_ms[1:]) for name, runs_ms in times.items()}
    return [
        {
            "what": name,
            "ms": medians[name],
            "runs_ms": times[name][1:],
            "first_order_steps": medians[name] / medians["darts"],
            "alpha_gradients": medians[name] / medians["alpha_gradient"],
            "temporary_memory_mb": compiled[name].memory_analysis().temp_size_in_bytes / 1e6,
            "compile_seconds": compile_seconds[name],
        }
        for name in calls
    ]


def measure(name: str, config: Config, rates: floor.Rates) -> dict[str, Any]:
    """Compiles one step twice, cold and from the cache, times it, and tells how far it is from the
    least time (`floor`).
    """
    task = TASKS[config.what]
    steps, arguments = task.make(config)
    function = runs.jitted(steps[name])
    seconds, processor = [], []
    for _ in range(2):
        jax.clear_caches()
        start, before = time.perf_counter(), time.process_time()
        program = function.trace(*arguments)
        lowered = program.lower()
        traced = time.perf_counter() - start
        compiled = lowered.compile()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - before)
    least, memory = floor.work(program.jaxpr), compiled.memory_analysis()
    times = []
    kept = task.kept  # what a step returns, to be given to the next
    state = arguments[:kept]
    for _ in range(config.repeats + 1):
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(*state, *arguments[kept:]))
        times.append(1000 * (time.perf_counter() - start))
    median = statistics.median(times[1:])
    profile = (
        {"kernels": kernels.by_kind(compiled, lambda: compiled(*state, *arguments[kept:]))}
        if config.profile
        else {}
    )
    return {
        "what": name,
        "ms": median,
        "runs_ms": times[1:],
        "examples_per_second": 1000 * config.batch_size / median,
        "floor_ms": floor.milliseconds(least, rates),
        "times_floor": median / floor.milliseconds(least, rates),
        "gigaflops": least.flops / 1e9,
        "least_gigabytes": least.bytes / 1e9,
        "temporary_memory_mb": memory.temp_size_in_bytes / 1e6,
        "compile_processor_seconds": processor[0],
        "compile_seconds_cold": seconds[0],
        "compile_seconds_cached": seconds[1],
        "of_which_tracing_seconds": traced,
        "instructions": compiled.as_text().count(" = "),
        **profile,
    }


def main() -> None:
    # here, so that device.py can take the programs of this module where it is not installed
    import tyro

    runs.set_up()
    config = tyro.cli(Config, description=__doc__)
    defaults = TASKS[config.what].defaults
    config = dataclasses.replace(
        config, **{name: getattr(config, name) or value for name, value in defaults.items()}
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
            rates = floor.rates()
            emit(
                {
                    "what": "machine",
                    "gigaflops_a_second": rates.flops / 1e9,
                    "gigabytes_a_second": rates.bytes / 1e9,
                }
            )
            for name in ("train_step",) if config.what.endswith("evaluate") else config.steps:
                emit(measure(name, config, rates))
    if config.peer and config.what != "algorithms":
        jaxdarts_ms = {line["what"]: line["ms"] for line in lines if "ms" in line}
        sizes = {
            "batch": config.batch_size,
            "width": config.init_channels,
            "depth": config.layers,
            "size": config.image_size,
        }
        if config.what.startswith("rnn"):
            sizes = {
                "batch": config.batch_size,
                "width": config.emsize,
                "length": config.bptt,
                "vocabulary": config.vocabulary,
            }
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        options = {
            "what": config.what,
            **sizes,
            "repeats": config.repeats,
            "threads": config.threads,
            "device": device,
        }
        for channels_last in (False,) if config.what.startswith("rnn") else (False, True):
            try:
                peer_line = torch_peer.measure(config.peer, channels_last=channels_last, **options)
            except RuntimeError as error:
                sys.exit(f"bench.py: {error}")
            if "weight_step_ms" in peer_line:  # a whole search step is one of each
                peer_line |= {
                    f"{order}_search_ms": peer_line[f"{order}_ms"] + peer_line["weight_step_ms"]
                    for order in STEPS[1:3]
                }
            emit(peer_line)
            emit(
                {
                    "what": "ratio",
                    "layout": peer_line["layout"],
                    **{f"{n}_speedup": peer_line[f"{n}_ms"] / jaxdarts_ms[n] for n in jaxdarts_ms},
                }
            )
    if config.output:
        result = {**runs.versions(), "config": dataclasses.asdict(config), "lines": lines}
        for flag in ("peer", "output"):  # where files lie on this machine is no part of a result
            result["config"].pop(flag)
        Path(config.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
