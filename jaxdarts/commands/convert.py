"""Turn the file of a benchmark into a table: jaxdarts convert zc_nasbench201.json scores.csv

    jaxdarts convert hw_nas_bench.json all.csv --dataset=cifar10 --table=table.csv
    jaxdarts convert transnas_bench.json objects.csv --dataset=class_object

It reads NAS-Bench-Suite-Zero's JSON files of scores (NAS-Bench-201 and TransNAS-Bench-101's micro
space), HW-NAS-Bench and TransNAS-Bench-101 as JSON, and the folders of NATS-Bench. The table has a
line for each cell: arch_str, and a column for each number. Pickles may run anything when they are
read: docs/benchmarks.md has the line that writes their value as JSON, and NATS-Bench's are left to
its authors' package.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxdarts import files, genotypes
from jaxdarts.commands import checks, command_line, nats_to_csv
from jaxdarts.data.benchmarks import foreign
from jaxdarts.runs import Stop, flag


@dataclasses.dataclass(frozen=True)
class Config:
    """Which file, and which of its numbers."""

    COMMAND: ClassVar[str] = "convert"
    TOPIC: ClassVar[str] = "subject"

    source: str = flag("", "File of a benchmark, or folder of NATS-Bench.", positional=True)
    output: str = flag("", "CSV file to write.", positional=True)
    dataset: str = flag(
        "cifar10", "Data set of the numbers; task for TransNAS-Bench-101, such as class_object."
    )
    prefix: str = flag("", "Text before the name of each column; default none.")
    table: str = flag(
        "",
        "CSV file whose columns come first: the output has the cells that it and the source share;"
        " default none.",
    )


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    checks.check_flags(config)
    if not config.source or not config.output:
        raise Stop("name the file of the benchmark and the CSV file to write", 2)
    try:
        benchmark, rows = source(config)
        rows = [
            {
                name if name == "arch_str" else config.prefix + name: value
                for name, value in row.items()
            }
            for row in rows
        ]
        read = len(rows)
        if config.table:
            rows = joined(rows, config.table)
        check_columns(config.source, rows)
    except OSError as error:
        name = error.filename or config.source
        raise Stop(f"{name}: {error.strerror or error}", 2) from error
    except ValueError as error:
        raise Stop(str(error), 2) from error
    nats_to_csv.write(Path(config.output), iter(rows))
    columns = files.listed(name for name in rows[0] if name != "arch_str")
    print(f"{benchmark}: {len(rows)} of {read} cells in {config.output}; columns {columns}")


def source(config: Config) -> tuple[str, Iterator[dict[str, Any]]]:
    """(name of the benchmark, a row of the table for each cell)."""
    if Path(config.source).is_dir():
        if config.dataset not in nats_to_csv.DATASETS:
            raise Stop(
                f"--dataset={config.dataset}: NATS-Bench has {', '.join(nats_to_csv.DATASETS)}", 2
            )
        return "NATS-Bench", nats_to_csv.read(config.source, config.dataset)
    benchmark, rows = foreign.read(config.source, config.dataset)
    return benchmark, (
        {"arch_str": foreign.text_of(benchmark, genotype), **columns} for genotype, columns in rows
    )


def joined(rows: Sequence[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """The lines of a table, with the columns of the rows of the same cells behind theirs.

    Raises:
        OSError, ValueError: if the table cannot be read, or has one of the columns.
    """
    by_cell = {genotypes.parse(row["arch_str"]): row for row in rows}
    both = []
    with files.open_lines(Path(table)) as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        if "arch_str" not in names:
            raise files.Damaged(
                f"--table={table} has no column 'arch_str'; there are {files.listed(names)}"
            )
        twice = [name for name in (rows[0] if rows else {}) if name in {*names} - {"arch_str"}]
        if twice:
            raise files.Damaged(
                f"--table={table} has the columns {files.listed(twice)} already; give --prefix"
            )
        for line in reader:
            where = f"--table={table}, line {reader.line_num}"
            if None in line or None in line.values():
                raise files.Damaged(f"{where}: must have {len(names)} values")
            try:
                row = by_cell.get(genotypes.parse(line["arch_str"]))
            except ValueError as error:
                raise files.Damaged(f"{where}: {error}") from error
            if row is not None:
                both.append(row | line)
    if not both:
        raise files.Damaged(f"--table={table}: has none of the {len(rows)} cells")
    return [{name: row[name] for name in (*names, *row) if name} for row in both]


def check_columns(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Refuses rows of different columns, and none at all."""
    if not rows:
        raise files.Damaged(f"{path} has no cells")
    for row in rows:
        if row.keys() != rows[0].keys():
            other = files.listed(row.keys() ^ rows[0].keys())
            raise files.Damaged(
                f"{path}: {row['arch_str']} and {rows[0]['arch_str']} differ in the columns {other}"
            )
