"""Tables of latencies: what jaxdarts measure writes, and what a search with a limit reads."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from jaxdarts import files, limits
from jaxdarts.commands import sizes
from jaxdarts.nn import latency
from jaxdarts.nn.costs import Costs
from jaxdarts.runs import Stop
from jaxdarts.space import Space

NANOSECONDS = 1e6
"""In a millisecond. Costs are whole numbers, and a nanosecond is less than any clock tells."""


class Row(TypedDict):
    """The median time of a part of a network, which is told as by `nn.latency.Part`."""

    name: str
    reads: tuple[tuple[int, int, int], ...]
    channels: int
    stride: int
    repeats: int
    states: int
    milliseconds: float


class Checked(TypedDict):
    """A random network: the sum of its parts, not scaled, and its own median time."""

    genotype: str
    multiply_adds: int
    summed_milliseconds: float
    measured_milliseconds: float


class Table(TypedDict):
    """What jaxdarts measure writes, as far as it is read again.

    The network is told by the space, its width and depth, the images, and its stem; times are
    those of a batch on the device. A network takes `scale` times the sum of its parts: states are
    in a cache where the part before has just made them. It is 1 where no network was measured.
    """

    device: str
    space: str
    width: int
    depth: int
    image_shape: tuple[int, int, int]
    num_classes: int
    imagenet: bool
    batch_size: int
    scale: float
    parts: list[Row]


def read(path: str) -> Table:
    """A table of latencies; Stop if it is none."""
    try:
        table = files.read_json(path, Table, "jaxdarts measure writes it")
        if not 0 < table["scale"] < math.inf:
            raise files.Damaged(f"{path}: scale is {table['scale']}, no positive number")
        for i, row in enumerate(table["parts"]):
            if not 0 <= row["milliseconds"] < math.inf:
                raise files.Damaged(
                    f"{path}: parts[{i}].milliseconds is {row['milliseconds']}, no time"
                )
        return table
    except (OSError, ValueError) as error:
        text = str(error) if path in str(error) else f"{path}: {error}"
        raise Stop(f"--latency_table={path}: {text}", 2) from error


def costs(config: Any, space: Space, num_classes: int, image_shape: tuple[int, int, int]) -> Costs:
    """The latencies of the network that will be trained, in nanoseconds, from --latency_table.

    Stop if the table is of another network.
    """
    path = config.latency_table
    try:
        latency.check(space.cells)
    except ValueError as error:
        raise Stop(f"--latency_table={path} --space={config.space}: {error}", 2) from error
    table, size = read(path), sizes.trained(config, space)
    wanted: dict[str, tuple[str, Any]] = {
        "space": ("--space", config.space),
        "width": ("--init_channels", size[0]),
        "depth": ("--layers", size[1]),
        "image_shape": ("images of", tuple(image_shape)),
        "num_classes": ("--num_classes", num_classes),
        "imagenet": ("--imagenet", sizes.has_imagenet_stem(space, config.dataset)),
    }
    there: Mapping[str, Any] = table
    for name, (words, value) in wanted.items():
        if there[name] != value:
            shown = [_shown(words, one) for one in (there[name], value)]
            raise Stop(
                f"--latency_table={path}: measured for {shown[0]}, and the network that will be"
                f" trained has {shown[1]}; {command(wanted)} measures it",
                2,
            )
    return of_table(table, space, path)


def command(wanted: Mapping[str, tuple[str, Any]]) -> str:
    """The command that measures a network."""
    height, width, channels = wanted["image_shape"][1]
    words = [f"{flag}={wanted[name][1]}" for name, (flag, _) in wanted.items() if "--" in flag]
    words = [word for word in words if not word.startswith("--imagenet")]
    words += ["--imagenet"] * wanted["imagenet"][1]
    side = f"{height}" if height == width else f"{height} {width}"
    return " ".join(
        ["jaxdarts measure", *words, f"--image_channels={channels} --image_size {side}"]
    )


def _shown(words: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"{words} {'x'.join(map(str, value))}"
    if isinstance(value, bool):
        return words if value else words.replace("--", "--no_")
    return f"{words}={value}"


def of_table(table: Table, space: Space, path: str = "the table") -> Costs:
    """The latencies of a space from a table, in nanoseconds; Stop if one is missing."""
    nanoseconds = {
        part_of(row): round(NANOSECONDS * table["scale"] * row["milliseconds"])
        for row in table["parts"]
    }
    uses = uses_of(
        space,
        table["width"],
        table["depth"],
        table["num_classes"],
        table["image_shape"],
        table["imagenet"],
    )
    try:
        return latency.costs(space.cells, uses, nanoseconds)
    except KeyError as error:
        part = error.args[0]
        raise Stop(
            f"--latency_table={path}: has no time of {words_of(part)}; measure it with the --nodes"
            " and --ops of this search",
            2,
        ) from error


def part_of(row: Row) -> latency.Part:
    """The part that a row is about."""
    rest = row["channels"], row["stride"], row["repeats"], row["states"]
    return latency.Part(row["name"], tuple(row["reads"]), *rest)


def uses_of(space: Space, *sizes: Any) -> Any:
    """`nn.latency.uses` of a space, with the declarations of its operations."""
    return latency.uses(space.cells, *sizes, **({"ops": space.ops} if space.ops else {}))


def words_of(part: latency.Part) -> str:
    """A part in words."""
    height, width, channels = part.reads[-1]
    stride = f", stride {part.stride}" if part.stride > 1 else ""
    cells = f", {part.repeats} of {part.states} states" if part.name == latency.CELLS else ""
    return f"{part.name} at {height}x{width}x{channels}{stride}{cells}"


def of_genotype(costs: Costs, space: Space, genotype: Any) -> float:
    """The milliseconds of a network, from the latencies of its space in nanoseconds."""
    return limits.total(space.cells, costs, genotype) / NANOSECONDS


class Agreement(TypedDict):
    """How well sums of a table predict the times of whole networks.

    pearson, spearman, kendall: correlations; None where there are fewer than three networks, or
      all are alike.
    spearman_of_multiply_adds: what counting multiply-adds gives instead.
    mean_error_of_sums: mean of |sum / measured - 1|.
    mean_error: the same of predictions, which are sums times the scale.
    """

    networks: int
    pearson: float | None
    spearman: float | None
    kendall: float | None
    spearman_of_multiply_adds: float | None
    mean_error_of_sums: float
    mean_error: float


def agreement(
    summed: np.ndarray, measured: np.ndarray, multiply_adds: np.ndarray
) -> tuple[float, Agreement]:
    """Compares sums of a table with measured times, and multiply-adds too, [networks] each.

    Returns:
        The scale: the mean of the times over the mean of the sums. How well the sums and the
        predictions agree with the times.
    """
    from scipy import stats  # half a second, which few need

    def correlation(function: Any, values: np.ndarray) -> float | None:
        if len(values) < 3 or not (np.ptp(values) and np.ptp(measured)):
            return None
        return float(function(values, measured).statistic)

    scale = float(np.mean(measured) / np.mean(summed))
    return scale, Agreement(
        networks=len(summed),
        pearson=correlation(stats.pearsonr, summed),
        spearman=correlation(stats.spearmanr, summed),
        kendall=correlation(stats.kendalltau, summed),
        spearman_of_multiply_adds=correlation(stats.spearmanr, multiply_adds),
        mean_error_of_sums=float(np.mean(np.abs(summed / measured - 1))),
        mean_error=float(np.mean(np.abs(scale * summed / measured - 1))),
    )
