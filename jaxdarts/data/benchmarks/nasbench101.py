"""NAS-Bench-101 as a table, from its record file.

The file is `nasbench_only108.tfrecord` or `nasbench_full.tfrecord`.

A record is one training: JSON of [fingerprint, epochs, adjacency as a row of digits, operations
with commas, base64 of a message of the benchmark's protocol buffers]. Accuracies in it are
fractions; here they are percent.

Ying, Klein, Christiansen, Real, Murphy & Hutter, `NAS-Bench-101
<https://arxiv.org/abs/1902.09635>`_, ICML 2019; records and messages as its code reads them
(nasbench/api.py, nasbench/lib/model_metrics.proto).
"""

import base64
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from jaxdarts import files, genotypes
from jaxdarts.data.tfds import tfrecord
from jaxdarts.genotypes import GraphGenotype

EPOCHS = (4, 12, 36, 108)
"""Lengths of the benchmark's trainings; the smaller file has the last one only."""


class Row(NamedTuple):
    """One cell: means over its trainings, of which the benchmark has three of each length.

    value: validation accuracy after as many epochs as a search pays for, in percent.
    final: test accuracy after 108 epochs, in percent.
    seconds: of the training that the search pays for, as the benchmark recorded them, without
    evaluations. parameters: of the network.
    """

    value: float
    final: float
    seconds: float
    parameters: int

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        """None that a search may choose among."""
        return {}


class Table(Mapping[GraphGenotype, Row]):
    """Rows of NAS-Bench-101 by cell.

    Any graph that is the same cell finds the row; iteration gives the graph that the file has.
    """

    def __init__(self, rows: Mapping[str, tuple[str, str, Row]]):
        """Makes the table from fingerprint -> (adjacency, operations, row).

        Graphs are as the file writes them, which takes less memory.
        """
        self._rows = rows

    def __getitem__(self, genotype: Any) -> Row:
        try:
            genotypes.check(genotype)
            if isinstance(genotype, GraphGenotype):
                return self._rows[genotypes.fingerprint(genotype)][2]
        except ValueError:  # what is no cell has no row
            pass
        raise KeyError(genotype)

    def __iter__(self) -> Iterator[GraphGenotype]:
        return (_graph(adjacency, operations) for adjacency, operations, _ in self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)


def read(path: str | os.PathLike, epochs: int = 108) -> Table:
    """Reads a record file; minutes for a whole one.

    Args:
        path: the file.
        epochs: length of the trainings that a search pays for.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or no such file, or lacks trainings of that length, or of 108
            epochs, for a cell; the message names the record.
    """
    if epochs not in EPOCHS:
        raise ValueError(
            f"epochs is {epochs}: the benchmark has trainings of {', '.join(map(str, EPOCHS))}"
        )
    files.open_regular(path).close()
    graphs: dict[str, tuple[str, str, int]] = {}
    searched: dict[str, list[tuple[float, float]]] = {}
    tested: dict[str, list[float]] = {}
    for number, record in enumerate(tfrecord.read(path)):
        where = f"{path}, record {number}"
        fingerprint, length, adjacency, operations, metrics = _fields(where, record)
        if length not in (epochs, 108):
            continue
        after = metrics.evaluation_data[2]  # the first two are at the start and half way
        numbers = (after.validation_accuracy, after.test_accuracy, after.training_time)
        if not all(0 <= n < math.inf for n in numbers) or max(numbers[:2]) > 1:
            raise files.Damaged(
                f"{where}: accuracies and seconds are {numbers}, which no training gives"
            )
        if fingerprint not in graphs:
            _checked(where, adjacency, operations)
            graphs[fingerprint] = (
                sys.intern(adjacency),
                sys.intern(operations),
                metrics.trainable_parameters,
            )
        if length == epochs:
            searched.setdefault(fingerprint, []).append(
                (after.validation_accuracy, after.training_time)
            )
        if length == 108:
            tested.setdefault(fingerprint, []).append(after.test_accuracy)
    rows = {}
    for fingerprint, (adjacency, operations, parameters) in graphs.items():
        for length, records in ((epochs, searched), (108, tested)):
            if fingerprint not in records:
                raise files.Damaged(
                    f"{path} has no training of {length} epochs of {_graph(adjacency, operations)}"
                )
        value, seconds = (math.fsum(column) / len(column) for column in zip(*searched[fingerprint]))
        final = math.fsum(tested[fingerprint]) / len(tested[fingerprint])
        rows[fingerprint] = (
            adjacency,
            operations,
            Row(100 * value, 100 * final, seconds, parameters),
        )
    if not rows:
        raise files.Damaged(f"{path} has no trainings of {epochs} epochs")
    return Table(rows)


def _fields(where: str, record: bytes) -> tuple[str, int, str, str, Any]:
    try:
        fingerprint, epochs, adjacency, operations, packed = json.loads(record)
        metrics = _Metrics.FromString(base64.b64decode(packed, validate=True))
        if not all(isinstance(text, str) for text in (fingerprint, adjacency, operations)):
            raise ValueError("fingerprint, adjacency and operations must be texts")
        if len(metrics.evaluation_data) < 3:
            raise ValueError(f"{len(metrics.evaluation_data)} evaluations, not 3")
    except (ValueError, TypeError, RecursionError, DecodeError) as error:
        raise files.Damaged(f"{where} is no training of NAS-Bench-101: {error}") from error
    return fingerprint, epochs, adjacency, operations, metrics


def _graph(adjacency: str, operations: str) -> GraphGenotype:
    size = math.isqrt(len(adjacency))
    rows = (adjacency[i * size : (i + 1) * size] for i in range(size))
    return GraphGenotype(tuple(tuple(map(int, row)) for row in rows), tuple(operations.split(",")))


def _checked(where: str, adjacency: str, operations: str) -> None:
    try:
        genotypes.check(_graph(adjacency, operations))
    except ValueError as error:
        raise files.Damaged(f"{where}: {error}") from error


def _metrics_class() -> Any:
    """The class of the benchmark's messages, from their description."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="model_metrics.proto", package="nasbench", syntax="proto2"
    )

    def message(name: str, *fields: tuple[str, int, bool, str | None]) -> None:
        descriptor = file.message_type.add(name=name)
        for number, (field_name, kind, repeated, of) in enumerate(fields, 1):
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            descriptor.field.add(
                name=field_name, number=number, type=kind, label=label, type_name=of
            )

    numbers = (
        "current_epoch",
        "training_time",
        "train_accuracy",
        "validation_accuracy",
        "test_accuracy",
    )
    message(
        "EvaluationData",
        *((name, field.TYPE_DOUBLE, False, None) for name in numbers),
        ("checkpoint_path", field.TYPE_STRING, False, None),
    )
    message(
        "ModelMetrics",
        ("evaluation_data", field.TYPE_MESSAGE, True, ".nasbench.EvaluationData"),
        ("trainable_parameters", field.TYPE_INT32, False, None),
        ("total_time", field.TYPE_DOUBLE, False, None),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


_Metrics = _metrics_class()
