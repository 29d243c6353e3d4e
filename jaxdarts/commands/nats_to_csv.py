"""Turn the files of NATS-Bench into a table: jaxdarts nats_to_csv NATS-tss-v1_0-3ffb9-simple
table.csv

The benchmark comes as pickles, which may run anything when they are read; this script leaves that
to the authors' package (pip install nats_bench) and to whoever trusts the files. jaxdarts convert
does the same, and reads other benchmarks. The folder is one
whose name ends in `-simple`, of the topology (`tss`) or the size space (`sss`). All else here reads
the CSV file that comes of it: `jaxdarts.data.benchmarks.tabular` tells its columns.
"""

import csv
import dataclasses
import importlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxdarts import files, genotypes
from jaxdarts.commands import checks, command_line
from jaxdarts.runs import Stop, flag

DATASETS = ("cifar10", "cifar100", "ImageNet16-120")
EPOCHS = {"tss": 200, "sss": 90}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which files, and which accuracies."""

    COMMAND: ClassVar[str] = "nats_to_csv"
    TOPIC: ClassVar[str] = "subject"

    folder: str = flag(
        "", "Folder of the benchmark: NATS-tss-...-simple or NATS-sss-...-simple.", positional=True
    )
    output: str = flag("", "CSV file to write.", positional=True)
    dataset: Literal[DATASETS] = flag(  # type: ignore[valid-type]
        "cifar10", "Data set of the accuracies."
    )


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    checks.check_flags(config)
    if not config.folder or not config.output:
        raise Stop("name the folder of the benchmark and the CSV file to write", 2)
    write(Path(config.output), read(config.folder, config.dataset))


def read(folder: str, dataset: str) -> Iterator[dict[str, Any]]:
    """The rows of a folder of the benchmark.

    Raises:
        Stop: if it cannot be read.
    """
    space = next((space for space in EPOCHS if f"-{space}-" in Path(folder).name), None)
    if space is None or not Path(folder).is_dir():
        raise Stop(
            f"{folder}: not a folder named like NATS-tss-v1_0-3ffb9-simple or"
            " NATS-sss-v1_0-50262-simple",
            2,
        )
    try:
        package = importlib.import_module("nats_bench")
    except ImportError as error:
        raise Stop(
            "the files are read by the authors' package: pip install nats_bench", 2
        ) from error
    try:
        api = package.create(folder, space, fast_mode=True, verbose=False)
        if not len(api):
            raise ValueError("no architectures")
    except Exception as error:  # the authors' package and its pickles raise anything
        raise Stop(
            f"{folder}: the authors' package cannot read it: {type(error).__name__}: {error}",
            2,
        ) from error
    return rows(api, EPOCHS[space], dataset, range(len(api)))


def rows(api: Any, epochs: int, dataset: str, indices: range) -> Iterator[dict[str, Any]]:
    """One row an architecture: means over its trainings.

    A search on CIFAR-10 trains on one half of the training images and validates on the other; the
    test accuracy that the benchmark reports is of a training on both halves. The other data sets
    have a validation and a test set of their own.
    """
    searched = "cifar10-valid" if dataset == "cifar10" else dataset
    for index in indices:
        try:
            short = api.get_more_info(index, searched, hp="12", is_random=False)
            long = api.get_more_info(index, searched, hp=str(epochs), is_random=False)
            tested = api.get_more_info(index, dataset, hp=str(epochs), is_random=False)
            cost = api.get_cost_info(index, dataset, hp=str(epochs))
        except Exception as error:  # a folder that is empty, or a file of it that is damaged
            raise Stop(
                f"architecture {index}: the authors' package cannot read it, is its file in the"
                f" folder? {type(error).__name__}: {error}",
                2,
            ) from error
        row = {
            "index": index,
            "arch_str": str(genotypes.parse(api.arch(index))),
            f"{dataset}_valid_{epochs}": long["valid-accuracy"],
            f"{dataset}_test_{epochs}": tested["test-accuracy"],
            f"{dataset}_valid_12": short["valid-accuracy"],
            "params_millions": cost["params"],
            f"train_seconds_{epochs}": long["train-all-time"],
        }
        bad = [
            name
            for name, value in row.items()
            if not isinstance(value, str) and not math.isfinite(value)
        ]
        if bad:
            raise Stop(f"architecture {index}: {', '.join(bad)} is no number")
        yield row


def write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes the rows; the file is there when all of them are."""
    first = next(rows, None)
    if first is None:
        raise Stop(f"{path}: not written, there are no architectures", 2)
    try:
        with (
            files.replaced(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(first), lineterminator="\n")
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)
    except OSError as error:
        raise Stop(f"{path}: {error.strerror or error}") from error
