"""Draws the figures of README.md: python experiments/benchmarks/figures.py

Reads `search_digits_cpu.json` and `hypergradient_digits_cpu.json` in experiments/results and writes
docs/images/. With --run and --trained, the folders of `jaxdarts search` and of `jaxdarts evaluate
--arch=RUN`, both on digits, it makes the first file from them.
"""

import argparse
import json
import math
from pathlib import Path

from jaxdarts import genotypes, runs
from jaxdarts.report import cells, charts

ROOT = Path(__file__).resolve().parents[2]
RESULTS, IMAGES = ROOT / "experiments" / "results", ROOT / "docs" / "images"


def of_runs(folder: Path, trained: Path) -> dict:
    """The numbers of a search and of the training of its cell."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    names = ("train_accuracy", "valid_accuracy", "train_loss", "valid_loss", "seconds")
    test = json.loads((trained / "test.json").read_text("utf-8"))
    return {
        **runs.versions(),
        "command": "jaxdarts search",
        "then": "jaxdarts evaluate --arch=RUN",
        "test_error": [1 - accuracy for accuracy in test["accuracy"]],
        "facts": json.loads((folder / "facts.json").read_text("utf-8")),
        "genotype": str(genotypes.from_json((folder / "genotype.json").read_text("utf-8"))),
        "epochs": [{name: record[name] for name in names} for record in records],
    }


def search_curve(result: dict) -> str:
    """Accuracy of the supernet after each epoch."""
    series = {
        label: [(i, 100 * epoch[name]) for i, epoch in enumerate(result["epochs"], 1)]
        for label, name in (("training", "train_accuracy"), ("validation", "valid_accuracy"))
    }
    title = "jaxdarts search, digits"
    return charts.curves(series, title=title, xlabel="epoch", ylabel="accuracy, %")


def hypergradient_errors(result: dict) -> str:
    """Error of the second-order term by distance, both axes logarithmic."""
    errors = result["errors"]

    def points(values):
        return [
            (math.log10(x), math.log10(y)) for x, y in zip(errors["distances"], values, strict=True)
        ]

    same = len(errors["distances"])
    series = {
        "finite difference, float32": points(errors["finite_difference_float32"]),
        "finite difference, float64": points(errors["finite_difference_float64"]),
        "exact, float32": points([errors["unrolled_float32"]] * same),
        "term left out (first order)": points([errors["first_order"]] * same),
    }
    return charts.curves(
        series,
        title="Error of the second-order term",
        xlabel="log10 of the distance in weight space (published: \N{MINUS SIGN}2)",
        ylabel="log10 of the relative error",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="Folder of a finished search on digits.")
    parser.add_argument("--trained", type=Path, help="Folder of the training of its cell.")
    flags = parser.parse_args()
    path = RESULTS / "search_digits_cpu.json"
    if flags.run:
        path.write_text(json.dumps(of_runs(flags.run, flags.trained), indent=1) + "\n", "utf-8")
    result = json.loads(path.read_text("utf-8"))
    hypergradient = json.loads((RESULTS / "hypergradient_digits_cpu.json").read_text("utf-8"))
    figures = {
        "darts_v2_normal": cells.cell(genotypes.DARTS_V2)["normal"],
        "search_curve": search_curve(result),
        "hypergradient": hypergradient_errors(hypergradient),
    }
    for name, drawing in figures.items():
        (IMAGES / f"{name}.svg").write_text(drawing, "utf-8")


if __name__ == "__main__":
    main()
