"""NAS-Bench-201 as a table: every cell's accuracies, so that a search costs no training.

A file has one line a cell, CSV with a header, compressed by gzip or not. Of its columns, for the data set `cifar10`:

| column | what |
| --- | --- |
| `arch_str` | the benchmark's string |
| `cifar10_valid_12` | validation accuracy after a whole training of 12 epochs, which is what the benchmark's searches see |
| `cifar10_valid_200`, `cifar10_test_200` | validation and test accuracy after 200 epochs, which is what they report |
| `train_seconds_200` | seconds of training for 200 epochs on the images that a search trains on, for CIFAR-10 half of the set |

All accuracies are percentages. Other columns are left alone; `column` reads one of them.

Dong & Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020.
"""

import csv
import gzip
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdarts import genotypes
from jaxdarts.genotypes import TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.types import Trial

EPOCHS = 12
"""Length of the trainings that a search pays for."""


class Row(NamedTuple):
    """One cell: accuracies in percent, and the simulated seconds of an evaluation.

    The seconds are `train_seconds_200 * 12 / 200`: the two schedules differ in their learning rates, not in their epochs. The
    benchmark's own searches also pay for one pass over the validation images, a third of an epoch or 3 % more, which the
    table does not tell.
    """

    valid_12: float
    valid_200: float
    test_200: float
    seconds: float


def read(path: str | os.PathLike, dataset: str = "cifar10") -> dict[TopologyGenotype, Row]:
    """Reads a table.

    Args:
        path: the file, see above.
        dataset: which columns of accuracies to take.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a table; the message names the line and what is wrong with it.
    """
    names = [f"{dataset}_valid_{EPOCHS}", f"{dataset}_valid_200", f"{dataset}_test_200", "train_seconds_200"]
    table = {}
    for where, genotype, values in _lines(path, names):
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{where}: {name} is {value}, which no training gives")
        table[genotype] = Row(*values[:3], seconds=values[3] * EPOCHS / 200)
    return table


def column(path: str | os.PathLike, name: str) -> dict[TopologyGenotype, float]:
    """One column of numbers of such a table, NaN included: parameters, or a score that somebody has computed.

    Raises:
        OSError, ValueError: as `read`.
    """
    return {genotype: value for _, genotype, (value,) in _lines(path, [name])}


def evaluate(table: Mapping[TopologyGenotype, Row], genotype: Any, epochs: int | None = None) -> Trial:
    """What the table knows about a cell: the search sees its validation accuracy, and the test accuracy is for the report.

    Args:
        table: from `read`.
        genotype: the cell.
        epochs: length of the training, 12 or 200; None for 12 where a search uses one length only.

    Raises:
        ValueError: if the table lacks the cell, or the length.
    """
    if epochs not in (None, EPOCHS, 200):
        raise ValueError(f"the table has trainings of {EPOCHS} and of 200 epochs, none of {epochs}")
    if genotype not in table:
        raise ValueError(f"the table has {len(table)} cells, and {genotype} is none of them")
    row = table[genotype]
    if epochs == 200:
        return Trial(genotype, row.valid_200, row.test_200, row.seconds * 200 / EPOCHS, epochs)
    return Trial(genotype, row.valid_12, row.test_200, row.seconds, epochs)


def _lines(path: str | os.PathLike, names: Sequence[str]) -> Iterator[tuple[str, TopologyGenotype, list[float]]]:
    """(place for messages, cell, the named numbers) of every line."""
    path = Path(path)
    seen: dict[TopologyGenotype, int] = {}
    try:
        # Not by the file's name: the first two bytes tell, and a renamed file would be read as garbage.
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            for name in ("arch_str", *names):
                if name not in (reader.fieldnames or ()):
                    raise ValueError(f"{path} has no column {name!r}; there are {', '.join(reader.fieldnames or ())}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                genotype = _cell(where, row["arch_str"])
                if genotype in seen:
                    raise ValueError(f"{where}: {genotype} is in line {seen[genotype]} too")
                seen[genotype] = reader.line_num
                yield where, genotype, [_number(where, name, row[name]) for name in names]
    except (EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged, or no table: {error}") from error
    if not seen:
        raise ValueError(f"{path} has a header and no cells")


def _cell(where: str, text: str | None) -> TopologyGenotype:
    try:
        genotype = genotypes.parse(text or "")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(genotype, TopologyGenotype) or len(genotype.cell) != 6:
        raise ValueError(f"{where}: {genotype} is no cell of NAS-Bench-201, which has three nodes and six edges")
    return genotype


def _number(where: str, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{where}: {name} is {text!r}, not a number") from None


def canonical(genotype: TopologyGenotype) -> str:
    """A text that is the same for cells which the benchmark's authors count as one: 6,466 of the 15,625 are left.

    It writes the output as a sum of nested operations, where a skip connection stands for its source, and `none`, or any
    operation on `none`, for `#`; terms are sorted. This is their form to the letter (`to_unique_str` of NATS-Bench's and
    AutoDL-Projects' code), because their count hangs on it: a skip connection's sum is sorted as one term and `#` is kept,
    so that some equal functions have two texts. Sums that are flat and without `#` leave 4,930.

    >>> a = genotypes.parse("|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|nor_conv_1x1~0|none~1|none~2|")
    >>> b = genotypes.parse("|none~0|+|avg_pool_3x3~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|")
    >>> canonical(a), canonical(b)
    ('#+#+(0)@nor_conv_1x1', '#+#+(0)@nor_conv_1x1')
    """
    sums: dict[int, str] = {0: "0"}
    terms: dict[int, list[str]] = {}
    for (op, source), (_, target) in zip(genotype.cell, all_edges()):
        if op == "none" or sums[source] == "#":
            term = "#"
        else:
            term = sums[source] if op == "skip_connect" else f"({sums[source]})@{op}"
        terms.setdefault(target, []).append(term)
        sums[target] = "+".join(sorted(terms[target]))
    return sums[max(sums)]
