"""The folder of a run: its configuration, log, records and checkpoints, opened by one run at a
time.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shlex
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdarts import files
from jaxdarts.data import stream
from jaxdarts.report import sections
from jaxdarts.runs import checkpoint, locks, signals, trackers, writers
from jaxdarts.runs.flags import free
from jaxdarts.runs.process import Stop
from jaxdarts.runs.signals import Interruption
from jaxdarts.runs.writers import Writer

OF_A_START = frozenset(("resume", "run_dir", "coordinator", "num_hosts", "host"))
"""Settings that a run folder does not keep."""


def origin(settings: Mapping[str, Any]) -> tuple[str, str]:
    """The command and the kind of task (images, text, ensemble) that wrote a config.json.

    Folders written before config.json named them are told apart by flags that only one has.
    """
    if not isinstance(settings, Mapping):
        raise TypeError("no JSON object")
    if "command" in settings and "kind" in settings:
        return str(settings["command"]), str(settings["kind"])
    kind = "text" if "bptt" in settings else "images"
    for flag, command in (
        ("arch_learning_rate", "search"),
        ("policy_steps", "enas"),
        ("truth_instances", "analyze ranking"),
        ("budget_evaluations", "discrete"),
        ("accuracies", "score"),
    ):
        if flag in settings:
            return command, kind
    if "arch" not in settings and "ensemble" not in settings:
        raise ValueError("it names no command")
    return "evaluate", "ensemble" if "ensemble" in settings else kind


def origin_of(kind: type) -> tuple[str, str]:
    """The command and the kind of task that a class of configurations belongs to."""
    return getattr(kind, "COMMAND", ""), getattr(kind, "KIND", "images")


def frozen(config: Any) -> dict[str, Any]:
    """The settings that a checkpoint belongs to, as JSON reads them back."""
    dropped = free(type(config))
    return {
        name: value
        for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items()
        if name not in dropped
    }


def defaults(config: Any) -> dict[str, Any]:
    """The default of every setting that has one, as JSON reads it back.

    A run whose checkpoints are older than a setting was made with its default.
    """
    missing = dataclasses.MISSING
    return json.loads(
        json.dumps({f.name: f.default for f in dataclasses.fields(config) if f.default != missing})
    )


class Frontend(NamedTuple):
    """How a run meets its user; by default as a program in a terminal.

    messages: whether the log is repeated on standard output.
    signals: whether signals ask to save and leave. Where not, what they do is up to the process: a
        KeyboardInterrupt goes through the run, as through any function.
    progress: number of steps -> the bar.
    """

    messages: bool = True
    signals: bool = True
    progress: Callable[[int], Writer] = writers.console


class Run(NamedTuple):
    """An open run: its folder, its log, its checkpoints, what was asked of it, how to continue it,
    and its bar.
    """

    folder: Path
    log: logging.Logger
    checkpoints: Any
    interruption: Interruption
    way: str
    progress: Callable[[int], Writer] = writers.console

    def leave(self, number: int, step: int, total: int) -> Stop:
        """The end that a signal asked for, once everything is saved."""
        name = signal.Signals(number).name
        return Stop(
            f"{name} at step {step} of {total}: saved; {self.way}",
            128 + number,
        )


def folder_of(config: Any, kind: str) -> Path:
    """The run's folder, named after the script, the data set and the time unless --run_dir names
    it.
    """
    return Path(
        config.run_dir
        or f"runs/{kind}-{config.dataset.partition(':')[0]}-{time.strftime('%Y%m%d-%H%M%S')}"
    )


def open_folder(config: Any, kind: str) -> tuple[Path, logging.Logger]:
    """Makes or opens the run folder, with its configuration and its log; nobody else may while the
    log is open.
    """
    folder = folder_of(config, kind)
    if not config.resume and any(
        (folder / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints")
    ):
        raise Stop(
            f"--run_dir={folder}: holds a run; continue it with"
            f" --resume={shlex.quote(str(folder))} or name another",
            2,
        )
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise Stop(
            f"--run_dir={folder}: the name is not UTF-8, which checkpoints need; choose another", 2
        ) from error
    try:
        log = locks.logger(folder)
        remove_leftovers(folder)
        if not config.resume:
            command, task = origin_of(type(config))
            saved = {"command": command, "kind": task} | {
                name: value
                for name, value in dataclasses.asdict(config).items()
                if name not in OF_A_START
            }
            files.replace_text(folder / "config.json", json.dumps(saved, indent=2) + "\n")
        return folder, log
    except locks.Locked as error:
        raise Stop(
            f"--run_dir={folder}: another run is writing there; wait for its end, or name another"
            " folder",
            2,
        ) from error
    except OSError as error:
        raise Stop(f"--run_dir={folder}: cannot write there: {error}") from error


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of `jaxdarts.files` that killed processes have left."""
    for path in folder.rglob(".*.tmp"):
        process = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if process and not _runs(int(process[1])):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def again(folder: str | Path) -> str:
    """How to continue a run, as the end of a message."""
    return f"continue with --resume={shlex.quote(str(folder))}"


@contextlib.contextmanager
def open_study(config: Any, kind: str) -> Iterator[tuple[Path, logging.Logger]]:
    """Opens the folder of a run that writes down every finished part of it instead of checkpoints,
    and turns what can go wrong into one line.
    """
    folder, log = open_folder(config, kind)
    way = again(folder)
    try:
        with signals.interrupting(way, log):
            yield folder, log
    except OSError as error:
        raise Stop(f"cannot write: {error}; {way}") from error
    except KeyboardInterrupt as interrupt:
        name, code = signals.named(interrupt)
        raise Stop(f"{name}: what is finished is saved; {way}", code) from None
    finally:
        writers.close_logger(log)


@contextlib.contextmanager
def open_run(
    config: Any, kind: str, way: str = "", frontend: Frontend = Frontend()
) -> Iterator[Run]:
    """Opens the run, and turns what can go wrong in it into one line; `way` tells how to continue
    the run that it is a part of.
    """
    folder, log = open_folder(config, kind)
    way = way or again(folder)
    if not frontend.messages:
        writers.mute(log)
    try:
        with (
            checkpoint.open_folder(
                folder / "checkpoints", config.keep_checkpoints or None
            ) as checkpoints,
            signals.interruptible(way, log)
            if frontend.signals
            else contextlib.nullcontext(Interruption([], threading.Event())) as interruption,
        ):
            yield Run(folder, log, checkpoints, interruption, way, frontend.progress)
    except checkpoint.Unusable as error:
        raise Stop(f"{error}; start anew with another --run_dir", 2) from error
    except checkpoint.CheckpointError as error:
        raise Stop(f"{error}; {way}") from error
    except stream.Unreadable as error:
        raise Stop(f"{error}; with the image restored, {way}") from error
    except KeyboardInterrupt as interrupt:  # before or after the time in which signals are asked
        if not frontend.signals:
            raise
        name, code = signals.named(interrupt)
        raise Stop(f"{name}: what is finished is saved; {way}", code) from None
    except OSError as error:
        raise Stop(f"cannot write into {folder}: {error}; {way}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Stop(
            "out of memory: try --remat or a smaller --batch_size; --estimate tells what a step"
            " takes"
        ) from error
    finally:
        writers.close_logger(log)


class Records:
    """metrics.jsonl and what a tracker gets of it; a resumed run drops what was written after
    `resume_step`, its checkpoint.

    Args:
        folder: of the run.
        resume_step: step of the checkpoint that it goes on from, 0 for a new run.
        tracker: name of one of `trackers`.
        settings: of the run, for the tracker.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int,
        tracker: str = "tensorboard",
        settings: Mapping[str, Any] = types.MappingProxyType({}),
    ):
        self.path = folder / "metrics.jsonl"
        try:
            lines = writers.json_lines(self.path, resume_step)
            self.all = files.read_json_lines(self.path, writers.METRICS)
        except ValueError as error:
            raise Stop(f"{error}; remove the file to continue without it", 2) from error
        try:
            events = trackers.open_tracker(tracker, folder, settings)
        except Stop:
            lines.close()
            raise
        for record in self.all:
            values = {
                name: value
                for name, value in record.items()
                if name != "step" and value is not None
            }
            events.write(record["step"], values)
        self.writer = writers.combine(lines, events)

    @property
    def steps(self) -> set[int]:
        """The steps that have a record."""
        return {record["step"] for record in self.all}

    def write(self, step: int, record: Mapping[str, float]) -> None:
        self.writer.write(step, record)
        self.all = files.read_json_lines(self.path, writers.METRICS)

    def close(self) -> None:
        self.writer.close()


def analyses(folder: Path) -> list[sections.Section]:
    """What analyze.py has found out about a run, for its report."""
    try:
        return sections.gather(folder)
    except ValueError as error:
        raise Stop(str(error)) from error
