"""What trainings from scratch leave behind, and how several of them compare; on images and on
texts.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdarts import files, genotypes, report, runs, spaces

LOWER = "--learning_rate"
"""The flag to lower where a number is not finite."""


def records_of(run: runs.Run, genotype: Any) -> Callable[[int], tuple[runs.Records]]:
    """Step -> the records of a training up to there; writes down which cell is trained."""

    def open_records(step: int) -> tuple[runs.Records]:
        records = runs.Records(run.folder, step)
        files.replace_text(run.folder / "genotype.json", genotypes.to_json(genotype))
        return (records,)

    return open_records


def write_result(
    config: Any,
    run: runs.Run,
    records: list,
    genotype: Any,
    judged: str,
    results: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Writes `<judged>.json`, after the part of the data that the training was judged by, and the
    report.
    """
    files.replace_text(run.folder / f"{judged}.json", json.dumps(dict(results), indent=1) + "\n")
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
    )
    run.log.info("report %s", run.folder / "report.html")


def random_cells(config: Any, like: Any) -> dict[str, Any]:
    """--random_cells cells of the space that a genotype is of, by name; more of them leave the
    first ones as they are.
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
) -> dict[str, Any]:
    """Trains cells one after the other in folders of their own, <kind>-0, <kind>-1, ...; goes on
    with those that are there.

    Args:
        config: the settings of all of them.
        folder: that of the run which they belong to.
        cells: genotypes by name.
        train: (configuration, genotype, open run) -> its result.
    """
    results = {}
    for i, (name, genotype) in enumerate(cells.items()):
        place = str(folder / f"{kind}-{i}")
        own = dataclasses.replace(config, arch=str(genotype), run_dir=place, resume=None)
        if (folder / f"{kind}-{i}" / "config.json").exists():
            own = dataclasses.replace(own, resume=place)
        with runs.open_run(own, "eval") as opened:
            opened.log.info("candidate %s", name)
            results[name] = train(own, genotype, opened)
    return results


def selected(
    folder: Path,
    scores: Mapping[str, float],
    among: Iterable[str],
    best: Callable[..., Any],
    show: Callable[[float], str],
) -> str:
    """Prints how everyone did, best first, and which of `among` is the best (by `max` or `min`);
    writes selection.json.
    """
    for name, score in sorted(scores.items(), key=lambda item: item[1], reverse=best is max):
        print(f"{show(score)}  {name}", flush=True)
    chosen = best(among, key=lambda name: scores[name])
    print(f"selected {chosen}", flush=True)
    content = {"scores": dict(scores), "selected": chosen}
    files.replace_text(folder / "selection.json", json.dumps(content, indent=1) + "\n")
    return chosen
