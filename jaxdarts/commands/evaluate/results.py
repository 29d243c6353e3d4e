"""Results of trainings from scratch, on images and on texts, and comparisons of several of them."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdarts import files, genotypes, report, runs, spaces
from jaxdarts.commands import degenerate, reproduce
from jaxdarts.data import images
from jaxdarts.report.page import Confusion, Summary

LOWER = "--learning_rate"
"""The flag to lower where a number is not finite."""


def records_of(config: Any, run: runs.Run, genotype: Any) -> Callable[[int], tuple[runs.Records]]:
    """Step -> the records of a training up to there; writes down which cell is trained."""

    def open_records(step: int) -> tuple[runs.Records]:
        records = runs.Records(run.folder, step, config.tracker, dataclasses.asdict(config))
        files.replace_text(run.folder / "genotype.json", genotypes.to_json(genotype))
        return (records,)

    return open_records


def write_result(
    config: Any,
    run: runs.Run,
    records: list,
    genotype: Any,
    part: str,
    results: Mapping[str, Any],
    facts: Mapping[str, Any],
    class_names: Sequence[str] = (),
) -> None:
    """Writes `<part>.json`, `confusion.json` and the report of a training.

    `<part>` is the part of the data that the network was tested on.

    Args:
        config: the configuration of the training.
        run: its run.
        records: of its epochs.
        genotype: what was trained.
        part: "test" or "valid".
        results: numbers for the JSON file, and `confusion` [seeds, classes, classes] where it was
            counted.
        facts: for the report.
        class_names: of images.
    """
    results, confusion = dict(results), None
    counts = results.pop("confusion", None)
    if 0 < len(class_names) <= 5:
        results.pop("top5", None)  # the label is always among five of five
    files.replace_text(run.folder / f"{part}.json", json.dumps(results, indent=1) + "\n")
    if counts is not None:
        confusion = Confusion(np.sum(counts, axis=0).astype(int), class_names)
        saved = {"class_names": class_names, "counts": np.asarray(counts, int).tolist()}
        files.replace_text(run.folder / "confusion.json", json.dumps(saved) + "\n")
    wrong = warnings(genotype, part, confusion)
    for warning in wrong:
        run.log.info("warning: %s", warning)
    start = config.start()
    report.page.write(
        run.folder / "report.html",
        title=f"Evaluation on {config.dataset}",
        config=dataclasses.asdict(config),
        records=records,
        genotype=genotype,
        mixes={},
        edges={},
        ops={},
        facts={
            "dataset": config.dataset,
            **facts,
            "wall_time": sum(record["seconds"] for record in records),
        },
        sections=runs.analyses(run.folder),
        summary=Summary(
            figures=figures(config, part, results, facts),
            warnings=wrong,
            next_command=after(config, run.folder),
            command=reproduce.command("evaluate", config, start),
            changed=reproduce.changed(config, start),
        ),
        confusion=confusion,
    )
    run.log.info("report %s", run.folder / "report.html")


def after(config: Any, folder: Path) -> str:
    """What may follow a training: a command, or a call where the images were given in Python."""
    if config.dataset.startswith(images.ARRAYS):
        return 'model.save("network")'
    return f"jaxdarts draw {shlex.quote(str(folder))} --output=cell.pdf"


def figures(
    config: Any, part: str, results: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, str | float]:
    """Figures at the head of the report of a training."""
    name = {"test": "Test", "valid": "Validation"}[part]
    shown: dict[str, str | float] = {}
    if "accuracy" in results:
        accuracies = 100 * np.asarray(results["accuracy"])
        over = f", mean of {len(accuracies)} seeds" if len(accuracies) > 1 else ""
        shown[f"{name} accuracy{over}"] = f"{accuracies.mean():.2f} %"
    if "largest_class" in facts:
        shown["Share of the largest class"] = facts["largest_class"]
    if f"{part}_perplexity" in results:
        shown[f"{name} perplexity"] = results[f"{part}_perplexity"]
    size = ""
    if hasattr(config, "init_channels"):
        size = f" at {config.init_channels} channels and {config.layers} cells"
    shown[f"Parameters of the network{size}"] = facts["parameters"]
    return shown


def warnings(genotype: Any, part: str, confusion: Confusion | None) -> list[str]:
    """Warnings about a cell and its trained network."""
    text = degenerate.warning(degenerate.operations(spaces.of(genotype), genotype))
    wrong = [f"{text}: search anew with another algorithm, or stop earlier."] if text else []
    if confusion is None:
        return wrong
    counts = confusion.counts
    largest, right = counts.sum(1), np.trace(counts)
    if right > largest.max():
        return wrong
    share, accuracy = largest.max() / counts.sum(), right / counts.sum()
    return [
        *wrong,
        f"The {part} accuracy, {accuracy:.2%}, does not beat the share of the largest class"
        f" ({confusion.class_names[int(largest.argmax())]}), {share:.2%}.",
    ]


def same_command(folder: Path) -> str:
    """How to go on with the short trainings of --select, which come before the run."""
    return f"continue with the same command and --run_dir={shlex.quote(str(folder))}"


def random_cells(config: Any, like: Any) -> dict[str, Any]:
    """Random cells of the space that a genotype is of, by name; --random_cells of them.

    More of them leave the first ones as they are.
    """
    space, key = spaces.of(like), jax.random.fold_in(jax.random.key(config.seed), 4)
    return {
        f"random-{i}": space.sample(jax.random.fold_in(key, i)) for i in range(config.random_cells)
    }


def trained(
    config: Any,
    folder: Path,
    kind: str,
    cells: Mapping[str, Any],
    train: Callable[[Any, Any, runs.Run], Any],
    way: str,
) -> dict[str, Any]:
    """Trains cells one after the other, each in a folder of its own: <kind>-0, <kind>-1, ...

    Goes on with those that are there.

    Args:
        config: the settings of all of them.
        folder: that of the run which they belong to.
        cells: genotypes by name.
        train: (configuration, genotype, open run) -> its result.
        way: how to go on with them, for messages.
    """
    results = {}
    for i, (name, genotype) in enumerate(cells.items()):
        run_dir = str(folder / f"{kind}-{i}")
        run_config = dataclasses.replace(config, arch=str(genotype), run_dir=run_dir, resume=None)
        if (folder / f"{kind}-{i}" / "config.json").exists():
            run_config = dataclasses.replace(run_config, resume=run_dir)
        with runs.open_run(run_config, "eval", way) as opened:
            opened.log.info("candidate %s", name)
            results[name] = train(run_config, genotype, opened)
    return results


def selected(
    folder: Path,
    scores: Mapping[str, float],
    among: Iterable[str],
    best: Callable[..., Any],
    show: Callable[[float], str],
) -> str:
    """Prints the results of all cells, best first, and returns the best one of `among`.

    Best is by `max` or `min`; selection.json is written.
    """
    for name, score in sorted(scores.items(), key=lambda item: item[1], reverse=best is max):
        print(f"{show(score)}  {name}", flush=True)
    chosen = best(among, key=lambda name: scores[name])
    print(f"selected {chosen}", flush=True)
    content = {"scores": dict(scores), "selected": chosen}
    files.replace_text(folder / "selection.json", json.dumps(content, indent=1) + "\n")
    return chosen
