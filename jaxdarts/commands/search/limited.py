"""Limits of the network that is trained from the cell of a search, such as --max_parameters."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxdarts import limits, parallel
from jaxdarts.commands import command_line, latencies, sizes
from jaxdarts.count import Costs
from jaxdarts.data import images
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import DEPTH, NOT_NEGATIVE, POSITIVE
from jaxdarts.space import Space


@dataclasses.dataclass(frozen=True)
class Flags:
    """Limits of the network that will be trained."""

    TOPIC: ClassVar[str] = "derivation"

    max_parameters: float | None = flag(
        None,
        "Largest number of parameters, in millions, of the network that will be trained: the cell"
        " is the one with the strongest operations under it; default any.",
        POSITIVE,
        free=True,
    )
    max_multiply_adds: float | None = flag(
        None,
        "Largest number of multiply-adds, in millions for one image, of the network that will be"
        " trained; default any.",
        POSITIVE,
        free=True,
    )
    max_latency_ms: float | None = flag(
        None,
        "Longest time, in milliseconds for a batch of --latency_table, of the network that will be"
        " trained; default any.",
        POSITIVE,
        free=True,
    )
    latency_table: str | None = flag(
        None,
        "Table of latencies for --max_latency_ms, --front and --cost_of=latency, of jaxdarts"
        " measure; default none.",
        free=True,
    )
    front: int = flag(
        0,
        "Number of limits, of parameters, multiply-adds and latency each, whose best cells are"
        " validated with the shared weights and shown in the report; 0: none.",
        NOT_NEGATIVE._replace(most=1000),
        free=True,
    )
    trained_channels: int | None = flag(
        None,
        "Channels of the network that will be trained, its --init_channels; default those of"
        " jaxdarts evaluate.",
        POSITIVE._replace(most=100_000),
        free=True,
    )
    trained_layers: int | None = flag(
        None,
        "Cells (nasbench201: cells a stage) of the network that will be trained, its --layers;"
        " default those of jaxdarts evaluate.",
        DEPTH,
        free=True,
    )


FLAGS: Mapping[str, Callable[[float], str]] = {
    "max_parameters": "{:,.0f} parameters".format,
    "max_multiply_adds": "{:,.0f} multiply-adds".format,
    "max_latency_ms": lambda cost: f"a latency of {cost / latencies.NANOSECONDS:.4g} ms",
}
"""The flags of limits, and a cost in words. A flag is in millions of what is counted: latencies are
counted in nanoseconds.
"""


class Limit(NamedTuple):
    """One limit: its flag and value, what every operation costs, and the largest cost."""

    words: str
    costs: Costs
    most: float


def check(config: Any) -> None:
    """Refuses limits that cannot be kept, and a table that nothing reads."""
    for name in (*FLAGS, "front"):
        value = getattr(config, name)
        if value not in (None, 0) and config.derive != "strongest":
            raise Stop(
                f"--{name}={value} --derive={config.derive}: a limit needs the strengths of all"
                " operations; use --derive=strongest",
                2,
            )
    priced = config.cost_of == "latency"
    if priced and not (config.cost_weight or config.log_cost_weight):
        raise Stop("--cost_of=latency: only with --cost_weight or --log_cost_weight", 2)
    if config.latency_table is None:
        flag_of_it = "--cost_of=latency" if priced else f"--max_latency_ms={config.max_latency_ms}"
        if priced or config.max_latency_ms is not None:
            raise Stop(
                f"{flag_of_it}: needs --latency_table, the file that jaxdarts measure writes", 2
            )
    elif not priced and config.max_latency_ms is None and not config.front:
        raise Stop(
            f"--latency_table={config.latency_table}: only with --max_latency_ms, --front or"
            " --cost_of=latency",
            2,
        )
    elif priced and config.resume:
        trained = command_line.saved(config.resume, "--resume").settings.get("latency_table")
        if trained != config.latency_table:
            raise Stop(
                f"--resume={config.resume}: alpha was trained with --latency_table={trained}; leave"
                " --latency_table out",
                2,
            )


def limits_of(config: Any, space: Space, dataset: images.Dataset) -> list[Limit]:
    """The limits of a configuration; Stop if nothing of the space is under one."""
    given = {name: getattr(config, name) for name in FLAGS if getattr(config, name) is not None}
    words = [f"--{name}={value:g}" for name, value in given.items()]
    words += [f"--front={config.front}"] * bool(config.front)
    size, classes = sizes.trained(config, space), len(dataset.class_names)
    shape = dataset.train.images.shape[1:]
    if words and space.costs is None:
        raise Stop(f"{words[0]}: an operation has no cost of its own in {space.title}", 2)
    counted = {}
    if config.latency_table is not None:  # refused before the search if it is of another network
        counted["max_latency_ms"] = latencies.costs(config, space, classes, shape)
    if given and space.costs is not None:
        stem = sizes.has_imagenet_stem(space, config.dataset)
        counted |= dict(zip(FLAGS, space.costs(*size, classes, shape, stem)))
    found = []
    for name, value in given.items():
        least = limits.least(space.cells, counted[name])
        if least > 1e6 * value:
            raise Stop(
                f"--{name}={value:g}: the smallest network of {sizes.words(space, size)} has"
                f" {FLAGS[name](least)}; lower --trained_channels or --trained_layers",
                2,
            )
        found.append(Limit(f"--{name}={value:g}", counted[name], 1e6 * value))
    return found


def under_limits(
    config: Any,
    space: Space,
    dataset: images.Dataset,
    mixes: Mapping[str, np.ndarray],
    log: logging.Logger,
) -> Mapping[str, np.ndarray]:
    """The mixes of all seeds, [seeds, edges, ops] of each cell, with what is kept under the limits.

    They stay as they are where there are no limits.
    """
    found = limits_of(config, space, dataset)
    if not found:
        return mixes
    words = " ".join(limit.words for limit in found)
    chosen = []
    for seed in range(len(next(iter(mixes.values())))):
        mix = {name: weights[seed] for name, weights in mixes.items()}
        try:
            best = limits.under_limits(
                space.cells, mix, [one.costs for one in found], [one.most for one in found]
            )
        except ValueError as error:
            raise Stop(f"{words}: {error}; raise one of them and resume the run", 2) from error
        strongest, cell = space.discretize(mix), space.discretize(best)
        if strongest != cell:
            log.info("%s: the strongest cell is larger: %s", words, strongest)
        chosen.append(best)
    return {name: np.asarray(rows) for name, rows in parallel.stack(chosen).items()}
