"""Time the operations of a search space on this device, for searches with a limit on latency.

    jaxdarts measure --init_channels=8 --layers=5 --image_size=32
    jaxdarts search --dataset=cifar10 --trained_channels=8 --trained_layers=5 \\
        --latency_table=latency.json --max_latency_ms=1.5

Every operation is timed at the shapes at which the network that will be trained has it, forward
only, and so are stem, preprocessing, reductions and head. The latency of a network is then their
sum, times a factor that random networks give, whose times are measured too. How well that holds is
printed: correlations, and the mean error.

Times are medians of a batch of --batch_size images. On a CPU they are of --cores cores.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import count, files, runs, spaces
from jaxdarts.commands import checks, command_line, flags, latencies, methods, timing
from jaxdarts.commands.latencies import Checked, Row, Table
from jaxdarts.nn import latency
from jaxdarts.runs import Stop, flag, jitted
from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE
from jaxdarts.space import Space

TWO_CELLS = tuple(
    name for name in methods.NAMED if sorted(spaces.BY_NAME[name]().cells) == ["normal", "reduce"]
)
"""Spaces whose networks are sums of parts, besides darts."""
NUMBER = POSITIVE._replace(most=10_000)
NODES = POSITIVE._replace(most=50)


@dataclasses.dataclass(frozen=True)
class Config(flags.Size, flags.Seed, flags.Cache):
    """Time the operations of a search space on this device."""

    COMMAND: ClassVar[str] = "measure"
    TOPIC: ClassVar[str] = "space"

    space: Literal["darts", *TWO_CELLS] = flag(  # type: ignore[valid-type]
        "darts", "Search space: darts (with --nodes and --ops), s1 to s4 (RobustDARTS)."
    )
    nodes: int = flag(4, "Number of intermediate nodes of a cell (--space=darts).", NODES)
    ops: tuple[str, ...] = flag(
        spaces.PRIMITIVES, "Candidate operations of every edge (--space=darts)."
    )
    init_channels: int = 36
    layers: int = 20
    image_size: tuple[int, ...] = flag(
        (32,), "Height and width of the images in pixels; one number for squares.", NUMBER
    )
    image_channels: int = flag(3, "Channels of the images.", NUMBER)
    num_classes: int = flag(10, "Number of classes.", POSITIVE._replace(most=1_000_000))
    imagenet: bool = flag(
        False, "The network has the stem for large images, as for --dataset=imagenet2012."
    )
    batch_size: int = flag(1, "Number of images of which the time is measured.", NUMBER)
    repeats: int = flag(
        100,
        "Number of rounds, each of which calls all programs; the median is taken.",
        NUMBER,
    )
    networks: int = flag(
        30,
        "Number of random networks whose times are compared with those that the table predicts; 0"
        " for none.",
        NOT_NEGATIVE._replace(most=10_000),
    )
    cores: int = flag(1, "Number of CPU cores to compute with.", NUMBER)
    output: str = flag("latency.json", "JSON file to write: the table of latencies.")


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    checks.check_flags(config)
    if len(config.image_size) not in (1, 2):
        shown = " ".join(map(str, config.image_size))
        raise Stop(f"--image_size={shown}: give one number, or the height and the width", 2)
    space, shape = space_of(config), shape_of(config)
    try:
        count.check_cells(space.cells, config.layers, shape, config.imagenet)
    except ValueError as error:
        raise Stop(f"--image_size={config.image_size[0]}: {error}", 2) from error
    try:
        with timing.on_cores(config.cores):
            measure(config, space)
    except ValueError as error:
        raise Stop(f"--cores={config.cores}: {error}", 2) from error


def space_of(config: Config) -> Space:
    """The space that the flags name."""
    try:
        if config.space == "darts":
            return methods.darts_of(config)
        return spaces.BY_NAME[config.space]()
    except ValueError as error:
        raise Stop(str(error), 2) from error


def shape_of(config: Config) -> tuple[int, int, int]:
    """Height, width and channels of the images."""
    return config.image_size[0], config.image_size[-1], config.image_channels


def measure(config: Config, space: Space) -> None:
    """Times all parts, compares their sums with networks, and writes the table."""
    # A program that was compiled for other cores is cut into other pieces.
    cache = f"{config.cache_dir}/{config.cores}-cores" if config.cache_dir else ""
    runs.use_cache(dataclasses.replace(config, cache_dir=cache))
    size = config.init_channels, config.layers, config.num_classes, shape_of(config)
    uses = list(latencies.uses_of(space, *size, config.imagenet))
    parts = list(dict.fromkeys(use.part for use in uses))
    genotypes = [
        space.sample(jax.random.fold_in(jax.random.key(config.seed), i))
        for i in range(max(config.networks, 1))
    ]
    rows = timed(config, space, parts, genotypes[0])
    table = Table(
        device=runs.versions()["device"],
        space=config.space,
        width=config.init_channels,
        depth=config.layers,
        image_shape=shape_of(config),
        num_classes=config.num_classes,
        imagenet=config.imagenet,
        batch_size=config.batch_size,
        scale=1.0,
        parts=rows,
    )
    for row in rows:
        print(f"{latencies.words_of(latencies.part_of(row)):44} {row['milliseconds']:9.4f} ms")
    result: dict[str, Any] = {
        **runs.versions(),
        "processor": runs.processor(),
        "cores_used": config.cores,
        **table,
    }
    files.replace_text(config.output, json.dumps(result, indent=1) + "\n")
    if config.networks:
        checked = compared(config, space, table, genotypes)
        scale, found = agreement(checked)
        result |= {"scale": scale, "networks": checked, "agreement": found}
        files.replace_text(config.output, json.dumps(result, indent=1) + "\n")
    print(f"wrote {config.output}", flush=True)


def timed(config: Config, space: Space, parts: Sequence[latency.Part], genotype: Any) -> list[Row]:
    """The median time of every part."""
    options = {"ops": space.ops} if space.ops else {}
    alone = [part for part in parts if part.name != latency.CALL]
    print(f"{len(alone)} parts: compiling and timing", flush=True)
    programs = [latency.program(part, config.batch_size, **options) for part in alone]
    seconds = np.median(timing.seconds_of_parts(programs, config.repeats), axis=0)
    milliseconds = dict(zip(alone, 1e3 * np.maximum(seconds, 0), strict=True))
    _, variables, images = network(config, space, genotype)
    empty = jitted(nothing(config), keep_unused=True)
    call = timing.seconds_of_calls([called(empty, variables, images)], config.repeats)
    return [
        Row(
            **part._asdict(),
            milliseconds=float(
                1e3 * np.median(call) if part.name == latency.CALL else milliseconds[part]
            ),
        )
        for part in parts
    ]


def nothing(config: Config) -> Callable[[Any, jax.Array], jax.Array]:
    """A program with the arguments and the result of a network, that computes nothing."""
    return lambda variables, images: jnp.zeros((len(images), config.num_classes))


def network(config: Config, space: Space, genotype: Any) -> tuple[Callable, Any, jax.Array]:
    """A network in evaluation, and random variables and images for it."""
    options = {"imagenet": True} if config.imagenet else {}
    size = config.init_channels, config.layers, config.num_classes
    net: Any = space.network(genotype, *size, **options)
    pixels = np.random.default_rng(0).normal(size=(config.batch_size, *shape_of(config)))
    images = jnp.asarray(pixels, jnp.float32)
    variables = latency.filled(jax.eval_shape(net.init, jax.random.key(0), images))

    def apply(variables, images):
        # One key for the noise of S4, as in what is exported.
        return net.apply(variables, images, key=jax.random.key(0))[0]

    return apply, variables, images


def called(function: Callable, *arguments: Any) -> Callable[[], Any]:
    """A call that waits for its result."""
    return lambda: jax.block_until_ready(function(*arguments))


def compared(config: Config, space: Space, table: Table, genotypes: Sequence[Any]) -> list[Checked]:
    """Times of whole networks beside the sums of the table."""
    calls = []
    for i, genotype in enumerate(genotypes, 1):
        apply, variables, images = network(config, space, genotype)
        calls.append(called(jitted(apply), variables, images))
        calls[-1]()
        print(f"network {i} of {len(genotypes)}: compiled", flush=True)
    measured = np.median(timing.seconds_of_calls(calls, config.repeats), axis=0)
    costs = latencies.of_table(table, space)
    size = config.init_channels, config.layers, config.num_classes
    return [
        Checked(
            genotype=str(genotype),
            multiply_adds=count.multiply_adds(
                genotype, *size, shape_of(config), config.imagenet, space
            ),
            summed_milliseconds=latencies.of_genotype(costs, space, genotype),
            measured_milliseconds=1e3 * float(seconds),
        )
        for genotype, seconds in zip(genotypes, measured, strict=True)
    ]


def agreement(checked: Sequence[Checked]) -> tuple[float, latencies.Agreement]:
    """The scale of a table, and how well it predicts; printed too."""
    summed = np.array([row["summed_milliseconds"] for row in checked])
    measured = np.array([row["measured_milliseconds"] for row in checked])
    adds = np.array([row["multiply_adds"] for row in checked])
    scale, found = latencies.agreement(summed, measured, adds)
    predicted = scale * summed
    print(f"random networks              {found['networks']}")
    print(f"measured                     {measured.min():.3f} to {measured.max():.3f} ms")
    print(f"predicted                    {predicted.min():.3f} to {predicted.max():.3f} ms")
    print(f"scale of the sums            {scale:.3f}")
    for name in ("pearson", "spearman", "kendall", "spearman_of_multiply_adds"):
        if (value := {**found}[name]) is not None:
            print(f"{name.replace('_', ' ').capitalize():28} {value:.3f}")
    print(f"mean error                   {100 * found['mean_error']:.1f} %")
    return scale, found
