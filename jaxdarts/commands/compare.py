"""Compare algorithms: jaxdarts compare darts sdarts_rs "milenas --lambda_valid=999" --
--num_seeds=3

Every quoted argument is an algorithm of search.py with flags of its own; what follows -- goes to
all of them. Each is searched with all its seeds in one program, and the table tells, as mean +-
deviation over the seeds: validation loss and accuracy of the supernet; accuracy of the derived cell
with the same weights, and the gap between the two; the mean loss of random cells; how much better
the cell is than its neighbours (with --flatness); skip connections; the dominant eigenvalue of the
validation loss in alpha (with --eigenvalue_freq); milliseconds a step. For one page of runs that
are finished, whatever they are, see `analyze.py compare`.
"""

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import files, genotypes, runs
from jaxdarts.commands import methods
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import Stop
from jaxdarts.space import of_genotype

COLUMNS = {
    "valid_loss": "valid loss",
    "valid_accuracy": "valid acc.",
    "found_cell_supernet_accuracy": "cell acc.",
    "discretisation_gap_accuracy": "gap",
    "found_cell_supernet_loss": "cell loss",
    "random_cells_supernet_loss": "random loss",
    "flatness_gap_accuracy": "flatness gap",
    "skips": "skips",
    "eigenvalue": "eigenvalue",
}


def main(arguments: list[str]) -> None:
    before, _, shared = " ".join(map(shlex.quote, arguments)).partition(" -- ")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "algorithms",
        nargs="+",
        help=f"of {', '.join(methods.METHODS)}; with flags of its own in quotes",
    )
    parser.add_argument("--output", help="JSON file for the table")
    parser.add_argument("--run_dir", help="folder for the runs; default a temporary one")
    asked = parser.parse_args(shlex.split(before))
    for text in asked.algorithms:
        if text.split()[0] not in methods.METHODS:
            raise Stop(
                f"{text.split()[0]}: no algorithm of search.py; there are"
                f" {', '.join(methods.METHODS)}",
                2,
            )
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(asked.run_dir or temporary)
        rows = {
            text: row_of(text, shlex.split(shared), root / text.replace(" ", ""))
            for text in asked.algorithms
        }
    print(table(rows))
    if asked.output:
        result = {**runs.versions(), "rows": rows}
        Path(asked.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def row_of(text: str, shared: list[str], folder: Path) -> dict[str, Any]:
    """Searches with one algorithm, or takes the finished run that is there; {column: one number a
    seed}.
    """
    name, *own = shlex.split(text)
    seeds = folder.glob("seed-*/facts.json")
    if not (folder / "facts.json").exists() and not any(seeds):
        flags = (
            [f"--resume={folder}"] if (folder / "checkpoints").exists() else [f"--run_dir={folder}"]
        )
        image_search.main(
            [f"--algorithm={name}", *shared, *own, *flags] if "--run_dir" in flags[0] else flags
        )
    row: dict[str, list[float]] = {}
    records: list[dict[str, Any]] = []
    for facts in sorted(folder.glob("seed-*/facts.json")) or [folder / "facts.json"]:
        records = files.read_json_lines(facts.parent / "metrics.jsonl")
        values = {**records[-1], **json.loads(facts.read_text(encoding="utf-8"))}
        found = genotypes.from_json((facts.parent / "genotype.json").read_text(encoding="utf-8"))
        values["skips"] = next(iter(of_genotype(found).values())).ops.count(("skip_connect",))
        for column in COLUMNS:
            if values.get(column) is not None:
                row.setdefault(column, []).append(float(values[column]))
    # The first epoch compiles. Seeds are one program: its step counts once.
    steps = np.diff([0, *(record["step"] for record in records)])
    timed = [1000 * record["seconds"] / n for record, n in zip(records, steps)][1:] or [
        float("nan")
    ]
    return {**row, "step_ms": float(np.min(timed))}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["algorithm", *COLUMNS.values(), "ms/step"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, row in rows.items():
        cells = [
            runs.mean_and_deviation(row[column]) if column in row else "" for column in COLUMNS
        ]
        lines.append("| " + " | ".join([name, *cells, f"{row['step_ms']:.0f}"]) + " |")
    return "\n".join(lines)
