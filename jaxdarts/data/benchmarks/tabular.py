"""Benchmarks as tables: every architecture's accuracies, so that a search costs no training.

NAS-Bench-201, which is NATS-Bench's topology space, and NATS-Bench's size space are read from CSV
files with a header and one line an architecture, compressed by gzip or not. Of their columns, for
the data set `cifar10`:

| column | what |
| --- | --- |
| `arch_str` | the benchmark's string |
| `cifar10_valid_12` | validation accuracy after a whole training of 12 epochs, which is what the
benchmark's searches see |
| `cifar10_valid_200`, `cifar10_test_200` | validation and test accuracy after 200 epochs, which is
what they report |
| `train_seconds_200` | seconds of training for 200 epochs on the images that a search trains on,
for CIFAR-10 half of the set |

The size space has 90 epochs where this has 200. A table of TransNAS-Bench-101's micro space has
`TASK_valid`, `TASK_test` and `TASK_seconds`. All accuracies are percentages. Other columns are
left alone; `column` reads one of them. The benchmark's own files are pickles, which are programs:
nothing here reads them. `jaxdarts convert` makes a CSV file of them with the authors' package.

NAS-Bench-101's record file is read by `data.nasbench101`, the trainings of the network design
spaces by `data.nds`; `evaluate` takes any of these tables.

Dong & Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020; Dong, Liu, Musial &
Gabrys, `NATS-Bench <https://arxiv.org/abs/2009.00437>`_, TPAMI 2021.
"""

import csv
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxdarts import files, genotypes
from jaxdarts.genotypes import SizeGenotype, TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.types import Trial

EPOCHS = 12
"""Length of the trainings that a search pays for."""
LONG = 200
"""Length of NAS-Bench-201's trainings that are reported."""


@runtime_checkable
class Known(Protocol):
    """Fields that the rows of every table have, as in `Trial`."""

    @property
    def value(self) -> float: ...

    @property
    def final(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        """Validation accuracy and seconds by epochs, where a search may choose the length."""
        ...


class Row(NamedTuple):
    """One cell: accuracies in percent, and the simulated seconds of an evaluation.

    The seconds are `train_seconds_200 * 12 / 200`: the two schedules differ in their learning
    rates, not in their epochs. The benchmark's own searches also pay for one pass over the
    validation images, a third of an epoch or 3 % more, which the table does not tell.
    """

    valid_12: float
    valid_200: float
    test_200: float
    seconds: float

    @property
    def value(self) -> float:
        return self.valid_12

    @property
    def final(self) -> float:
        return self.test_200

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        return {
            EPOCHS: (self.valid_12, self.seconds),
            LONG: (self.valid_200, self.seconds * LONG / EPOCHS),
        }


class SizeRow(NamedTuple):
    """One network of the size space, likewise; the seconds are `train_seconds_90 * 12 / 90`."""

    valid_12: float
    valid_90: float
    test_90: float
    seconds: float

    @property
    def value(self) -> float:
        return self.valid_12

    @property
    def final(self) -> float:
        return self.test_90

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        return {
            EPOCHS: (self.valid_12, self.seconds),
            90: (self.valid_90, self.seconds * 90 / EPOCHS),
        }


class TaskRow(NamedTuple):
    """One cell of TransNAS-Bench-101 on one task.

    valid, test: its metrics after the last epoch, larger is better, not all of them percentages.
    seconds: of the whole training, which a search pays for.
    """

    valid: float
    test: float
    seconds: float

    @property
    def value(self) -> float:
        return self.valid

    @property
    def final(self) -> float:
        return self.test

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        return {}


def read(path: str | os.PathLike, dataset: str = "cifar10") -> dict[TopologyGenotype, Row]:
    """Reads a table of NAS-Bench-201.

    Args:
        path: the file, see above.
        dataset: which columns of accuracies to take.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a table; the message names the line and what is wrong with it.
    """
    return _read(path, dataset, LONG, TopologyGenotype, Row)


def read_sizes(path: str | os.PathLike, dataset: str = "cifar10") -> dict[SizeGenotype, SizeRow]:
    """Reads a table of the size space; arguments and errors are those of `read`."""
    return _read(path, dataset, 90, SizeGenotype, SizeRow)


def read_transnas(path: str | os.PathLike, task: str) -> dict[TopologyGenotype, TaskRow]:
    """Reads a table of TransNAS-Bench-101's micro space, as `jaxdarts convert` writes it.

    Its columns are `arch_str`, `TASK_valid`, `TASK_test` and `TASK_seconds`.

    Args:
        path: the file.
        task: such as class_object.

    Raises:
        OSError, ValueError: as `read`.
    """
    names = [f"{task}_{name}" for name in TaskRow._fields]
    table = {}
    for where, genotype, values in _lines(path, names, (TopologyGenotype,)):
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value) or (name.endswith("_seconds") and value < 0):
                raise files.Damaged(f"{where}: {name} is {value}, which no training gives")
        table[genotype] = TaskRow(*values)
    return table


def _read(
    path: str | os.PathLike, dataset: str, epochs: int, kind: type, row: Callable[..., Any]
) -> dict[Any, Any]:
    names = [
        f"{dataset}_valid_{EPOCHS}",
        f"{dataset}_valid_{epochs}",
        f"{dataset}_test_{epochs}",
        f"train_seconds_{epochs}",
    ]
    table = {}
    for where, genotype, values in _lines(path, names, (kind,)):
        for name, value in zip(names, values, strict=True):
            is_time = name.startswith("train_seconds")
            if not 0 <= value < math.inf or value > 100 and not is_time:
                raise files.Damaged(f"{where}: {name} is {value}, which no training gives")
        table[genotype] = row(*values[:3], seconds=values[3] * EPOCHS / epochs)
    return table


def column(path: str | os.PathLike, name: str) -> dict[Any, float]:
    """One column of numbers of a table, NaN included.

    Such a column holds parameters, or a score that somebody has computed.

    Raises:
        OSError, ValueError: as `read`.
    """
    return {genotype: value for _, genotype, (value,) in _lines(path, [name], tuple(_WHAT))}


def test_accuracies(path: str | os.PathLike) -> dict[str, dict[TopologyGenotype, float]]:
    """Test accuracies after 200 epochs on every data set that a table of NAS-Bench-201 has.

    {data set: {cell: accuracy in percent}}, of the columns DATASET_test_200.

    Raises:
        OSError, ValueError: as `read`; also if there is no such column.
    """
    ending = f"_test_{LONG}"
    with files.open_lines(Path(path)) as file:
        header = next(csv.reader(file), [])
    names = [name for name in header if name.endswith(ending)]
    if not names:
        raise files.Damaged(
            f"{path} has no column DATASET{ending}; there are {files.listed(header)}"
        )
    accuracies: dict[str, dict[TopologyGenotype, float]] = {
        name.removesuffix(ending): {} for name in names
    }
    for _, genotype, values in _lines(path, names, (TopologyGenotype,)):
        for of_dataset, value in zip(accuracies.values(), values, strict=True):
            of_dataset[genotype] = value
    return accuracies


def evaluate(table: Mapping[Any, Known], genotype: Any, epochs: int | None = None) -> Trial:
    """A trial of an architecture from a table.

    It has what a search sees and pays for, and what is for the report.

    Args:
        table: of `read`, `read_sizes`, `data.nasbench101.read` or `data.nds.read`.
        genotype: of its kind.
        epochs: length of the training; None for the one that a search with a single length pays
          for.

    Raises:
        ValueError: if the table lacks the architecture, or the length.
    """
    known = next(iter(table.values())).trainings if epochs is not None and table else {}
    if epochs is not None and epochs not in known:
        lengths = f"of {' and of '.join(map(str, known))} epochs" if known else "of one length"
        raise ValueError(f"the table has trainings {lengths}, none of {epochs}")
    if genotype not in table:
        raise ValueError(f"the table has {len(table)} cells, and {genotype} is none of them")
    row = table[genotype]
    value, seconds = (row.value, row.seconds) if epochs is None else row.trainings[epochs]
    return Trial(genotype, value, row.final, seconds, epochs)


_WHAT: Mapping[type, str] = {
    TopologyGenotype: "cell of NAS-Bench-201, which has three nodes and six edges",
    SizeGenotype: "network of NATS-Bench's size space",
}


def _lines(
    path: str | os.PathLike, names: Sequence[str], kinds: tuple[type, ...]
) -> Iterator[tuple[str, Any, list[float]]]:
    """(place for messages, genotype of one of these kinds, the named numbers) of every line."""
    path = Path(path)
    seen: dict[Any, int] = {}
    with files.open_lines(path) as file:
        reader = csv.DictReader(file)
        for name in ("arch_str", *names):
            if name not in (reader.fieldnames or ()):
                raise files.Damaged(
                    f"{path} has no column {name!r}; there are"
                    f" {files.listed(reader.fieldnames or ())}"
                )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            genotype = _genotype(where, row["arch_str"], kinds)
            if genotype in seen:
                raise files.Damaged(f"{where}: {genotype} is in line {seen[genotype]} too")
            seen[genotype] = reader.line_num
            yield where, genotype, [_number(where, name, row[name]) for name in names]
    if not seen:
        raise files.Damaged(f"{path} has a header and no cells")


def _genotype(where: str, text: str | None, kinds: tuple[type, ...]) -> Any:
    try:
        genotype = genotypes.parse(text or "")
    except ValueError as error:
        raise files.Damaged(f"{where}: {error}") from error
    if (
        not isinstance(genotype, kinds)
        or isinstance(genotype, TopologyGenotype)
        and len(genotype.cell) != 6
    ):
        raise files.Damaged(
            f"{where}: {genotype} is no {', and no '.join(_WHAT[kind] for kind in kinds)}"
        )
    return genotype


def _number(where: str, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise files.Damaged(f"{where}: {name} is {text!r}, not a number") from None


def canonical(genotype: TopologyGenotype) -> str:
    """A text that is the same for cells which the benchmark's authors count as one.

    6,466 of the 15,625 are left.

    It writes the output as a sum of nested operations, where a skip connection stands for its
    source, and `none`, or any operation on `none`, for `#`; terms are sorted. This is their form to
    the letter (`to_unique_str` of NATS-Bench's and AutoDL-Projects' code), because their count
    hangs on it: a skip connection's sum is sorted as one term and `#` is kept, so that some equal
    functions have two texts. Sums that are flat and without `#` leave 4,930.

    >>> a = "|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|nor_conv_1x1~0|none~1|none~2|"
    >>> b = "|none~0|+|avg_pool_3x3~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|"
    >>> canonical(genotypes.parse(a)), canonical(genotypes.parse(b))
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
