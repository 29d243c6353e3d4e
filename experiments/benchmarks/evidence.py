"""Measures what papers claim of their methods, on searches of three seeds.

    python experiments/benchmarks/evidence.py smoothing
    python experiments/benchmarks/evidence.py levels --name=cifar10 -- --dataset=cifar10 ...

The searches are those of `jaxdarts compare`, by default on scikit-learn's digits; what follows --
replaces their flags. --run_dir keeps them, and the same command takes finished ones as they are.
Numbers go to experiments/results/evidence_CLAIM_NAME.json, charts to docs/images/.

    smoothing       SmoothDARTS: the eigenvalue of alpha's Hessian, accuracy at a perturbed mix
    levels          MiLeNAS: validation loss of one, two and mixed levels
    neighbourhoods  NA-DARTS: accuracy that the found cell loses when one operation changes
    shapes          "wide and shallow": shapes of the cells that every method finds
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdarts import files, genotypes, runs
from jaxdarts.analysis import topology
from jaxdarts.commands import compare, compare_page
from jaxdarts.commands.analyze import command as analyze
from jaxdarts.commands.compare_page import chart, mean
from jaxdarts.report import charts, page

ROOT = Path(__file__).resolve().parents[2]
RESULTS, IMAGES = ROOT / "experiments" / "results", ROOT / "docs" / "images"
FIRST_ORDER = "darts --no_unrolled"
Folders = Mapping[str, Sequence[Path]]
"""Of every method, those of its seeds."""


class Measured(NamedTuple):
    """Numbers of every method, a list with one for each seed, and charts by name."""

    rows: dict[str, dict[str, Any]]
    pictures: dict[str, str]


class Claim(NamedTuple):
    """methods: what is searched with. flags: of all searches. measure: folders -> results."""

    methods: tuple[str, ...]
    flags: tuple[str, ...]
    measure: Callable[[Folders], Measured]


def analysis(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """The numbers of an analysis of a run."""
    analyze.main([name, str(folder), *arguments])
    return files.read_json(folder / "analysis" / f"{name}.json", dict[str, Any])["numbers"]


def records_of(folders: Folders) -> dict[str, list[list[dict[str, Any]]]]:
    """What every epoch recorded."""
    return {
        name: [files.read_json_lines(seed / "metrics.jsonl") for seed in seeds]
        for name, seeds in folders.items()
    }


def facts_of(folders: Folders, *names: str) -> dict[str, dict[str, Any]]:
    """Facts about the found cells."""
    facts = {
        method: [files.read_json(seed / "facts.json", dict[str, Any]) for seed in seeds]
        for method, seeds in folders.items()
    }
    return {
        method: {name: [one[name] for one in of_seeds] for name in names}
        for method, of_seeds in facts.items()
    }


def means(records: Mapping[str, Sequence[Any]], key: str) -> dict[str, compare_page.Line]:
    """The mean of the seeds over the epochs."""
    return {name: mean([page.points(one, key, 1.0) for one in r]) for name, r in records.items()}


def smoothing(folders: Folders) -> Measured:
    """Eigenvalues along the search, and accuracies at a perturbed mix."""
    records = records_of(folders)
    rows = facts_of(folders, "found_cell_supernet_accuracy", "discretisation_gap_accuracy")
    lines: dict[str, dict[str, compare_page.Line]] = {"random": {}, "worst": {}}
    for name, seeds in folders.items():
        rows[name]["eigenvalue"] = [
            [r["eigenvalue"] for r in one if r.get("eigenvalue") is not None][-1]
            for one in records[name]
        ]
        moved = [analysis(seed, "perturbation") for seed in seeds]
        rows[name]["epsilons"] = moved[0]["epsilons"]
        for kind in lines:
            accuracies = [one[kind]["accuracy"] for one in moved]
            rows[name][f"{kind}_accuracy"] = accuracies
            lost = 100 * (np.array(accuracies)[:, :1] - np.array(accuracies)).mean(0)
            lines[kind][name] = list(zip(moved[0]["epsilons"], lost.tolist(), strict=True))
    eigenvalues = chart(means(records, "eigenvalue"), "Eigenvalue, mean of the seeds", "")
    pictures = {"eigenvalue": eigenvalues}
    for kind, words in (("random", "Random noise"), ("worst", "The worst mix nearby")):
        pictures[kind] = charts.curves(
            lines[kind],
            title=f"{words}: loss of accuracy",
            xlabel="largest change of a weight of the mix",
            ylabel="percent",
        )
    return Measured(rows, pictures)


def levels(folders: Folders) -> Measured:
    """Validation losses over the epochs."""
    records = records_of(folders)
    rows = {
        name: {key: [one[-1][key] for one in of_seeds] for key in ("train_loss", "valid_loss")}
        for name, of_seeds in records.items()
    }
    for name, line in means(records, "valid_loss").items():
        rows[name]["valid_loss_of_epochs"] = [value for _, value in line]
    title = "Validation loss of the supernet, mean of the seeds"
    return Measured(rows, {"valid_loss": chart(means(records, "valid_loss"), title, "")})


def neighbourhoods(folders: Folders) -> Measured:
    """How much accuracy a cell loses when one operation changes."""
    names = ("flatness_gap_accuracy", "found_cell_supernet_accuracy", "discretisation_gap_accuracy")
    rows = facts_of(folders, *names)
    points = {
        name: list(
            zip(
                [100 * x for x in row["flatness_gap_accuracy"]],
                [100 * x for x in row["found_cell_supernet_accuracy"]],
                strict=True,
            )
        )
        for name, row in rows.items()
    }
    picture = charts.scatter(
        points,
        title="Found cells, with the supernet's weights",
        xlabel="accuracy lost when one operation changes, mean of all changes, percent",
        ylabel="accuracy of the cell, percent",
    )
    return Measured(rows, {"flatness": picture})


def shapes(folders: Folders) -> Measured:
    """Width and depth of the found normal cells, beside all connections there are."""
    rows: dict[str, dict[str, Any]] = {}
    for name, seeds in folders.items():
        cells = [genotypes.from_json(files.read_text(seed / "genotype.json")) for seed in seeds]
        found = [topology.topology(cell.normal) for cell in cells]
        rows[name] = {"width": [s.width for s in found], "depth": [s.depth for s in found]}
    number = len(cells[0].normal) // 2
    every = [s for s, count in topology.counts(number).items() for _ in range(count)]
    rows["all connections"] = {
        "width_mean": statistics.mean(s.width for s in every),
        "depth_mean": statistics.mean(s.depth for s in every),
    }
    points = {
        name: list(zip(row["width"], row["depth"], strict=True))
        for name, row in rows.items()
        if "width" in row
    }
    picture = charts.scatter(
        points,
        title="Normal cells that were found",
        xlabel="width, in channels of a node",
        ylabel="depth, in edges",
    )
    return Measured(rows, {"topology": picture})


CLAIMS = {
    "smoothing": Claim(
        (FIRST_ORDER, "sdarts_rs", "sdarts_adv"),
        ("--space=s1", "--epochs=20", "--arch_learning_rate=0.05", "--eigenvalue_freq=2"),
        smoothing,
    ),
    # One level would learn from all images; here each method has the same half to validate on.
    "levels": Claim(
        ("joint --train_portion=0.5", FIRST_ORDER, "milenas"), ("--epochs=20",), levels
    ),
    "neighbourhoods": Claim((FIRST_ORDER, "na_darts", "a2m"), ("--flatness",), neighbourhoods),
    "shapes": Claim(
        (
            FIRST_ORDER,
            "sdarts_rs",
            "milenas",
            "na_darts",
            "gdas",
            "drnas --stage_keep --stage_partial --no_carry_weights",
            "random_sharing",
        ),
        ("--nodes=4",),
        shapes,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--name", default="digits", help="Last word of the files' names.")
    parser.add_argument("--run_dir", help="Folder of the searches; default runs/evidence-CLAIM.")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:split])
    claim = CLAIMS[given.claim]
    run_dir = given.run_dir or f"runs/evidence-{given.claim}"
    shared = sys.argv[split + 1 :] or ["--num_seeds=3", "--num_devices=1", *claim.flags]
    compare.main([*claim.methods, f"--run_dir={run_dir}", "--", *shared])
    rows = {text: compare.row_of(text, shared, Path(run_dir)) for text in claim.methods}
    folders = {text: compare.seed_folders(row.folder) for text, row in rows.items()}
    measured = claim.measure(folders)
    result = {**runs.versions(), "searches": [*claim.methods, *shared], "rows": measured.rows}
    path = RESULTS / f"evidence_{given.claim}_{given.name}.json"
    files.replace_text(path, json.dumps(result, indent=1) + "\n")
    print(f"numbers {path}")
    for name, picture in measured.pictures.items():
        path = IMAGES / f"evidence_{given.claim}_{given.name}_{name}.svg"
        files.replace_text(path, picture)
        print(f"chart {path}")


if __name__ == "__main__":
    main()
