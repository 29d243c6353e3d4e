"""Trackers of experiments: where the metrics of a run go besides metrics.jsonl.

Each is a `Writer`. A resumed run goes on in the run of the tracker that it had: tracker.json in its
folder names that run and the last step that was given to it.
"""

import contextvars
import functools
import importlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypedDict

from jaxdarts import files
from jaxdarts.runs import writers
from jaxdarts.runs.process import Stop
from jaxdarts.runs.writers import Writer

Name = Literal["tensorboard", "wandb", "trackio", "none"]
"""Trackers by name."""
INSTALL = {"wandb": "pip install wandb", "trackio": "pip install 'jaxdarts[trackio]'"}
"""How to install the packages that this one does not bring along."""
PROJECT = "jaxdarts"
"""Project of the runs in Weights & Biases, unless WANDB_PROJECT names another, and in Trackio."""


class Tracked(TypedDict):
    """A run of a tracker, as tracker.json keeps it.

    id: its identity in the tracker.
    step: the last step that was given to it, -1 before the first.
    """

    id: str
    step: int


class Label(NamedTuple):
    """Names that a tracker shows.

    name: of the run: its folder.
    group: of several runs that belong together, such as the seeds of a search; None for one alone.
    """

    name: str
    group: str | None


def check(name: str) -> None:
    """Refuses a tracker whose package is missing, before any work is done."""
    if name in INSTALL:
        _package(name)


def open_tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Writer:
    """The writer to a tracker.

    What is written again, because a run goes on from a checkpoint, is not given to the tracker
    twice.

    Args:
        name: "tensorboard", "wandb", "trackio" or "none".
        folder: of the run, which exists.
        settings: of the run, which the tracker shows with it.

    Raises:
        Stop: if the tracker cannot be used.
    """
    if name == "none":
        return writers.combine()
    if name == "tensorboard":
        return _tensorboard(folder)
    start = {"wandb": _wandb, "trackio": _trackio}[name]
    path = folder / "tracker.json"
    known = _known(path)
    first = name not in known
    tracked = known.setdefault(name, Tracked(id=uuid.uuid4().hex[:8], step=-1))
    log, finish = _started(name, lambda: start(folder, tracked["id"], first, settings))

    def write(step: int, values: Mapping[str, Any]) -> None:
        if step <= tracked["step"]:
            return
        log({key: writers.scalar(key, value) for key, value in values.items()}, int(step))
        tracked["step"] = int(step)
        files.replace_text(path, json.dumps(known) + "\n")

    @functools.cache  # a writer may be closed twice
    def close() -> None:
        finish()

    return Writer(write, close)


def label(folder: Path) -> Label:
    """What a run is called: as its folder; a run inside another one's folder belongs to that."""
    folder = folder.absolute()
    if (folder.parent / "config.json").exists():
        return Label(f"{folder.parent.name}-{folder.name}", folder.parent.name)
    return Label(folder.name, None)


def _tensorboard(folder: Path) -> Writer:
    """Events for TensorBoard; a run goes on without them where tensorboardX is missing."""
    events = folder / "tensorboard"
    # Events may have died in a buffer: a resumed run hides the old ones and writes all of them
    # again.
    try:
        return writers.tensorboard(events, 0 if events.exists() else None)
    except ImportError as error:
        print(f"{folder}: no events: {error}", file=sys.stderr)
        return writers.combine()


Log = Callable[[Mapping[str, Any], int], Any]


def _wandb(
    folder: Path, identity: str, first: bool, settings: Mapping[str, Any]
) -> tuple[Log, Callable[[], Any]]:
    """A run of Weights & Biases, whose files lie in the run folder.

    WANDB_MODE=offline keeps them there; each process writes files of its own then, with the steps
    that it took, and `wandb sync` puts them together.
    """
    wandb = _package("wandb")
    names = label(folder)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=identity,
        name=names.name,
        group=names.group,
        dir=str(folder),
        config=dict(settings),
        resume="allow",
        reinit="create_new",  # seeds have runs side by side; the user's own run stays as it is
    )
    return lambda values, step: run.log(values, step=step), run.finish


def _trackio(
    folder: Path, identity: str, first: bool, settings: Mapping[str, Any]
) -> tuple[Log, Callable[[], Any]]:
    """A run of Trackio, which it keeps on this machine unless its variables say otherwise."""
    trackio = _package("trackio")
    names = label(folder)
    # In a context of its own: `trackio.init` finishes the run that is the current one, such as
    # another seed's, or the user's.
    run = contextvars.Context().run(
        trackio.init,
        project=PROJECT,
        name=f"{names.name}-{identity}",  # Trackio finds a run by its name
        group=names.group,
        config=dict(settings),
        resume="never" if first else "allow",
        embed=False,
    )
    return lambda values, step: run.log(dict(values), step=step), run.finish


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Stop(f"--tracker={name}: needs {name}: {INSTALL[name]}", 2) from error


def _started(
    name: str, start: Callable[[], tuple[Log, Callable[[], Any]]]
) -> tuple[Log, Callable[[], Any]]:
    """A run of a tracker; whatever its package says against it is one line."""
    try:
        return start()
    except Stop:
        raise
    # Packages have classes of their own for a missing key, a refused name and a lost connection.
    except Exception as error:
        raise Stop(f"--tracker={name}: {error}; go on with --tracker=none") from error


def _known(path: Path) -> dict[str, Tracked]:
    """The runs that trackers have of this run."""
    if not path.exists():
        return {}
    try:
        return files.read_json(path, dict[str, Tracked], "remove it to begin a new run there")
    except (OSError, ValueError) as error:
        raise Stop(str(error), 2) from error
