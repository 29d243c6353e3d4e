"""Searches in stages: P-DARTS and DrNAS, each stage a search of its own with fewer candidates.

The stages before the last one are in the folders stage1/, stage2/, ... of the run folder; what the
last one finds is in the run folder itself. A stage keeps the strongest operations of the one
before. It starts anew (P-DARTS), or goes on with its weights, alpha, optimisers and schedule of the
learning rate (DrNAS).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from jaxdarts import files, spaces
from jaxdarts.runs import Stop


class Stage(NamedTuple):
    """One stage of a search; a search without stages is a single one.

    number: from 1. count: of all stages.
    layers, partial, skip_dropout: the settings of that name in this stage.
    keep: operations that an edge keeps of the stage before.
    before: run folder of the stage before, None in the first.
    """

    number: int
    count: int
    layers: int
    partial: int
    skip_dropout: float
    keep: int | None
    before: Path | None


SETTINGS = ("layers", "partial", "skip_dropout")
"""Settings that may differ by stage: those of the flags stage_layers, ..."""


def of(config: Any) -> Stage:
    """The stage that a configuration of a search on images stands for."""
    count = len(config.stage_keep) + 1
    number = config.stage or count
    values = {}
    for name in SETTINGS:
        by_stage = getattr(config, f"stage_{name}")
        values[name] = by_stage[number - 1] if by_stage else getattr(config, name)
    before, keep = None, None
    if number > 1:
        keep = config.stage_keep[number - 2]
        folder = Path(config.run_dir or "")
        before = (folder.parent if config.stage else folder) / f"stage{number - 1}"
    return Stage(number, count, **values, keep=keep, before=before)


def check(config: Any) -> None:
    """Refuses stages that cannot work."""
    count = len(config.stage_keep) + 1
    for name in SETTINGS:
        values = getattr(config, f"stage_{name}")
        if values and len(values) != count:
            shown = " ".join(map(str, values))
            needed = (
                f"needed are {count} numbers, one a stage"
                if count > 1
                else "there is one stage only; --stage_keep makes more of them"
            )
            raise Stop(f"--stage_{name}={shown}: {needed}", 2)
    if config.stage > count - 1:
        raise Stop(
            f"--stage={config.stage}: must be at most {count - 1}, the number of --stage_keep", 2
        )
    if count == 1:
        return
    edges = [tuple(config.ops)] if config.space == "darts" else edges_of(config.space)
    most = max(map(len, edges))
    sizes = [most, *config.stage_keep]
    if sorted(sizes, reverse=True) != sizes:
        source = "--ops" if config.space == "darts" else f"--space={config.space}"
        raise Stop(
            f"--stage_keep={' '.join(map(str, config.stage_keep))}: no number may be above the one"
            f" before, or above the {most} operations of an edge ({source}); --stage_keep without"
            " numbers searches in one stage",
            2,
        )
    if any("none" in ops for ops in edges) and min(config.stage_keep) < 2:
        raise Stop(
            f"--stage_keep={' '.join(map(str, config.stage_keep))}: must be at least 2, since none"
            " is one of --ops, or of the space: an edge of none alone has no weights",
            2,
        )
    for name, without in (("num_seeds", 1), ("fork", None), ("candidates", None)):
        value = getattr(config, name)
        if value != without:
            raise Stop(
                f"--{name}={value}: not in a search of {count} stages; --stage_keep without"
                " numbers searches in one stage",
                2,
            )
    if config.adapt_weight_decay or config.coordinator:
        raise Stop(
            "--adapt_weight_decay, --coordinator: not in a search of several stages; --stage_keep"
            " without numbers searches in one stage",
            2,
        )
    if config.carry_weights:
        if len(set(config.stage_layers)) > 1:
            raise Stop(
                f"--stage_layers={' '.join(map(str, config.stage_layers))}: --carry_weights takes"
                " over the weights of every cell; use one number of cells, or --no_carry_weights",
                2,
            )
        partial = config.stage_partial
        if sorted(partial, reverse=True) != list(partial):
            raise Stop(
                f"--stage_partial={' '.join(map(str, partial))}: --carry_weights makes the"
                " operations wider, so no number may be above the one before",
                2,
            )


def edges_of(space: str) -> list[tuple[str, ...]]:
    """The operations of every edge of a space without flags of its own."""
    cells = spaces.BY_NAME[space]().cells
    return [tuple(map(str, ops)) for choices in cells.values() for ops in choices.ops]


def before_last(config: Any, folder: Path) -> Iterator[tuple[Stage, Any]]:
    """The stages before the last one of a run folder: each with its configuration."""
    for number in range(1, len(config.stage_keep) + 1):
        inner = folder / f"stage{number}"
        of_stage = dataclasses.replace(
            config,
            stage=number,
            run_dir=str(inner),
            resume=str(inner) if (inner / "config.json").exists() else None,
            derive="strongest",
            flatness=False,
            max_skips=None,
        )
        yield of(of_stage), of_stage


def is_finished(folder: Path) -> bool:
    """Whether a stage has written its last file."""
    return (folder / "report.html").exists()


def reports(config: Any) -> dict[str, str]:
    """The reports of the other stages, from the folder of this one; none without stages."""
    count, number = len(getattr(config, "stage_keep", ())) + 1, getattr(config, "stage", 0)
    return {
        f"stage {n} of {count}": ("../" if number else "")
        + ("report.html" if n == count else f"stage{n}/report.html")
        for n in range(1, count + 1)
        if n != (number or count)
    }


def seconds_before(config: Any) -> float:
    """The time that the stages before this one took; none where their records are lost."""
    stage = of(config)
    total = 0.0
    for number in range(1, stage.number):
        assert stage.before is not None
        folder = stage.before.parent / f"stage{number}"
        with contextlib.suppress(OSError, ValueError):
            records = files.read_json_lines(folder / "metrics.jsonl", _Timed)
            total += sum(record["seconds"] for record in records)
    return total


class _Timed(TypedDict):
    seconds: float
