"""The files of other benchmarks as rows of a CSV table: {column: number}, by genotype.

All are JSON. Two benchmarks come as pickles, which may run anything when they are read: whoever
trusts them writes their value as JSON (docs/benchmarks.md has the line).

| file | what its columns are | form |
| --- | --- | --- |
| `zc_nasbench201.json`, `zc_transbench101_micro.json` | NAS-Bench-Suite-Zero: scores of untrained
networks, and the validation accuracy | {data set: {"(4, 0, 3, 1, 4, 3)": {score: {"score": number,
"time": number}, "val_accuracy": number}}} |
| `HW-NAS-Bench-v1_0.pickle`, as JSON | HW-NAS-Bench: latencies (ms), energies (mJ) on six devices |
{"nasbench201": {data set: {"config": {"arch_str": text} of each cell, metric: numbers}}} |
| `transnas-bench_v10141024.pth`, as JSON | TransNAS-Bench-101: metrics of each task's last epoch |
{"data": {"micro": {"64-41414-1_02_333": {task: {"metrics": {metric: a number for each epoch}}}}}} |

The forms are those that the public code of the benchmarks reads; the files themselves were not at
hand.

Krishnakumar et al., `NAS-Bench-Suite-Zero <https://arxiv.org/abs/2210.03230>`_, NeurIPS 2022; Li et
al., `HW-NAS-Bench <https://arxiv.org/abs/2103.10584>`_, ICLR 2021; Duan et al., `TransNAS-Bench-101
<https://arxiv.org/abs/2105.11871>`_, CVPR 2021.
"""

import ast
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxdarts import files, genotypes
from jaxdarts.genotypes import TRANSNAS_OPS, TopologyGenotype, from_transnas, to_transnas
from jaxdarts.genotypes.cells import all_edges

Row = tuple[TopologyGenotype, dict[str, float]]
EDGES = tuple(itertools.islice(all_edges(), 6))
ZERO_COST_OPS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""The operations of NAS-Bench-201 in the order of NASLib, which NAS-Bench-Suite-Zero's keys number.
"""
METRICS = ("top1", "neg_loss", "acc", "ssim")
"""What TransNAS-Bench-101's tasks are judged by, larger is better; each task has one of them."""
MAX_JSON = 1 << 30


def read(path: str | os.PathLike, dataset: str) -> tuple[str, Iterator[Row]]:
    """(the benchmark's name, its rows) of any of the files; which one it is stands in the file.

    Args:
        path: the file.
        dataset: the data set, or the task of TransNAS-Bench-101.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is none of them, or lacks the data set; also while the rows are read.
    """
    with files.open_regular(path) as file:
        start = file.read(2)
    if start[:1] == b"\x80" or start == b"PK":
        raise files.Damaged(
            f"{path} is a pickle, which may run anything when it is read: write its value as JSON,"
            " if you trust it (docs/benchmarks.md has the line)"
        )
    place = _Place(files.parse_json(files.read_text(path, MAX_JSON), str(path)), str(path))
    if place.has("nasbench201"):
        return "HW-NAS-Bench", _hardware(place["nasbench201"], dataset)
    if place.has("data"):
        return "TransNAS-Bench-101", _transnas(place["data"]["micro"], dataset)
    return "NAS-Bench-Suite-Zero", _zero_cost(place, dataset)


class _Place:
    """A value in a file, and where it is, for messages."""

    def __init__(self, value: Any, where: str):
        self.value, self.where = value, where

    def has(self, key: Any) -> bool:
        return isinstance(self.value, Mapping) and key in self.value

    def listed(self) -> str:
        return files.listed(self.value) if isinstance(self.value, Mapping) else "no keys"

    def __getitem__(self, key: Any) -> "_Place":
        if not self.has(key):
            raise files.Damaged(f"{self.where} has no {key!r}; there are {self.listed()}")
        return _Place(self.value[key], f"{self.where}, {key}")

    def items(self) -> Iterator[tuple[Any, "_Place"]]:
        """What a mapping or a sequence has, by key or number."""
        if isinstance(self.value, Mapping):
            pairs = self.value.items()
        elif hasattr(self.value, "__len__") and not isinstance(self.value, str | bytes):
            pairs = enumerate(self.value)
        else:
            raise files.Damaged(f"{self.where} is no collection")
        for key, value in pairs:
            yield key, _Place(value, f"{self.where}, {key}")

    def number(self) -> float:
        try:
            if isinstance(self.value, str | bytes):
                raise TypeError("a text")
            return float(self.value)
        except (TypeError, ValueError):
            raise files.Damaged(f"{self.where} is not a number") from None


def _zero_cost(file: _Place, dataset: str) -> Iterator[Row]:
    for key, cell in file[dataset].items():
        picks = _numbers(cell.where, key)
        genotype = _zero_cost_cell(cell.where, picks, micro="class_scene" in file.value)
        columns = {}
        for name, entry in cell.items():
            if name == "val_accuracy":
                columns[f"{dataset}_valid"] = entry.number()
            elif entry.has("score"):
                columns[name] = entry["score"].number()
        yield genotype, columns


def _numbers(where: str, key: Any) -> tuple[int, ...]:
    try:
        picks = ast.literal_eval(key) if isinstance(key, str) and len(key) < 1000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        picks = None
    if not isinstance(picks, tuple) or len(picks) != len(EDGES) or {*map(type, picks)} != {int}:
        raise files.Damaged(
            f"{where}: must be six numbers of operations, as in the files of NAS-Bench-201 and"
            " TransNAS-Bench-101's micro space; other spaces are not read"
        )
    return picks


def _zero_cost_cell(where: str, picks: Sequence[int], micro: bool) -> TopologyGenotype:
    """The cell of a key.

    Keys of NAS-Bench-201 list the edges by their sources, as NASLib does; keys of
    TransNAS-Bench-101 list the digits of the benchmark's own text.
    """
    ops = TRANSNAS_OPS if micro else ZERO_COST_OPS
    if not all(0 <= pick < len(ops) for pick in picks):
        raise files.Damaged(f"{where}: operations have the numbers 0 to {len(ops) - 1}")
    order = EDGES if micro else sorted(EDGES)
    by_edge = {edge: ops[pick] for edge, pick in zip(order, picks, strict=True)}
    return TopologyGenotype(tuple((by_edge[edge], edge[0]) for edge in EDGES))


def _hardware(file: _Place, dataset: str) -> Iterator[Row]:
    of_set = file[dataset]
    configs = dict(of_set["config"].items())
    metrics = {name: metric for name, metric in of_set.items() if name != "config"}
    values = {name: dict(metric.items()) for name, metric in metrics.items()}
    for name, numbers in values.items():
        if numbers.keys() != configs.keys():
            raise files.Damaged(
                f"{of_set.where}: {name} has {len(numbers)} numbers for {len(configs)} cells"
            )
    for index, config in configs.items():
        text = config["arch_str"].value
        genotype = _parsed(config.where, text, genotypes.parse)
        yield genotype, {name: numbers[index].number() for name, numbers in values.items()}


def _transnas(file: _Place, task: str) -> Iterator[Row]:
    for text, cell in file.items():
        genotype = _parsed(cell.where, text, from_transnas)
        metrics = cell[task]["metrics"]
        columns = {}
        for part in ("valid", "test"):
            name = next((name for name in METRICS if metrics.has(f"{part}_{name}")), None)
            if name is None:
                raise files.Damaged(
                    f"{metrics.where} has no {part}_{f', {part}_'.join(METRICS)}; there are"
                    f" {metrics.listed()}"
                )
            columns[f"{task}_{part}"] = _epochs(metrics[f"{part}_{name}"])[-1]
        columns[f"{task}_seconds"] = _total(_epochs(metrics["time_elapsed"]))
        yield genotype, columns


def _epochs(place: _Place) -> list[float]:
    numbers = [entry.number() for _, entry in place.items()]
    if not numbers:
        raise files.Damaged(f"{place.where} is empty")
    return numbers


def _total(seconds: Sequence[float]) -> float:
    """Seconds of a training: the last of the numbers if they rise all the way, or else their sum.

    The public code does not say whether the file has the seconds of each epoch or those so far.
    """
    rising = len(seconds) > 1 and all(a < b for a, b in itertools.pairwise(seconds))
    return seconds[-1] if rising else math.fsum(seconds)


def _parsed(where: str, text: Any, parse: Callable[[str], Any]) -> TopologyGenotype:
    try:
        genotype = parse(text if isinstance(text, str) else "")
    except ValueError as error:
        raise files.Damaged(f"{where}: {error}") from error
    if not isinstance(genotype, TopologyGenotype) or len(genotype.cell) != len(EDGES):
        raise files.Damaged(f"{where}: {json.dumps(text)} is no cell of three nodes")
    return genotype


def text_of(benchmark: str, genotype: TopologyGenotype) -> str:
    """The text of a cell in the benchmark's own dialect."""
    return to_transnas(genotype) if benchmark == "TransNAS-Bench-101" else str(genotype)
