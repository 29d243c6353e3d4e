"""The loop of every training: steps with their log lines, a record and a checkpoint after each
epoch, signals, the end.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxdarts import parallel
from jaxdarts.runs import checkpoint, patience, writers
from jaxdarts.runs.folder import Run, defaults, frozen
from jaxdarts.runs.process import Stop
from jaxdarts.runs.signals import Interruption
from jaxdarts.runs.task import Book, Epoch, Result, State, Task, Training


class Settings(Protocol):
    """The flags that the loop reads."""

    @property
    def max_steps(self) -> int: ...

    @property
    def report_freq(self) -> int: ...

    @property
    def checkpoint_freq(self) -> int: ...

    @property
    def cache_dir(self) -> str: ...


class Unattended(NamedTuple):
    """Settings of a training that is part of a larger program: to the end, without log lines."""

    max_steps: int = 0
    report_freq: int = sys.maxsize
    checkpoint_freq: int = 0
    cache_dir: str = ""


def ends(lengths: np.ndarray) -> np.ndarray:
    """The step at which each epoch ends, from the number of steps of each."""
    return np.cumsum(lengths)


def epoch_and_position(step: int, lengths: np.ndarray) -> tuple[int, int]:
    """The epoch that a step belongs to, and its number in it."""
    epoch = int(np.searchsorted(ends(lengths), step, side="right"))
    return epoch, step - int(ends(lengths)[epoch - 1] if epoch else 0)


def total_steps(lengths: np.ndarray, max_steps: int) -> int:
    """The step to stop after."""
    total = int(ends(lengths)[-1])
    return min(total, max_steps or total)


def kept_step(step: int, lengths: np.ndarray, max_steps: int) -> int:
    """The step up to which a resumed run keeps its records.

    The record of an epoch that --max_steps cut short goes when that epoch goes on.
    """
    if step >= total_steps(lengths, max_steps):
        return step
    return step - epoch_and_position(step, lengths)[1]


def finite(step: int, lower: str, **values: Any) -> None:
    """Stops the run if a value is NaN or infinite, before it is saved; `lower` names the flags to
    lower. Values may be trees of arrays.
    """
    for name, tree in values.items():
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree)):
            raise Stop(
                f"{name} is not finite at step {step}: start again with a lower {lower}; what was"
                " saved before is intact"
            )


def saved_form(training: Training[Any], seconds: Any) -> dict[str, Any]:
    """A training as its checkpoint holds it, with the seconds that its epoch took so far."""
    return {"state": training.state, "sums": training.sums, "seconds": seconds}


def checkpoint_form(init: Callable[[], Training[Any]]) -> dict[str, Any]:
    """Shapes and types that a checkpoint of a program with this `init` is restored as; computes
    nothing.
    """
    # It is read onto this device, wherever it was written.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    form = saved_form(jax.eval_shape(init), jax.ShapeDtypeStruct((), jnp.float32))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), form
    )


def restored(config: Any, run: Run, new: Training[State]) -> tuple[Training[State], float]:
    """The newest intact checkpoint of a resumed run, or what a new run starts from; and the seconds
    that its epoch took so far.
    """
    saved = saved_form(new, jnp.float32(0))
    if config.resume and run.checkpoints.latest_step() is not None:
        newest = checkpoint.restore_newest(run.checkpoints, saved, frozen(config), defaults(config))
        saved = newest.tree
        for step, reason in newest.unusable.items():
            line = f"{reason}; the run goes on from step {newest.step}"
            if jax.process_index() == 0:
                line += f", the damaged one is now {checkpoint.set_aside(run.checkpoints, step)}"
            run.log.info("warning: %s", line)
    saved = parallel.of_first_host(saved)
    return Training(saved["state"], saved["sums"]), float(saved["seconds"])


def train(config: Any, run: Run, task: Task[State, Book, Result]) -> Result:
    """Runs a task to its end in a run folder, or goes on from the newest checkpoint there.

    Args:
        config: the settings of the run.
        run: its open folder.
        task: what is trained.

    Returns:
        The result of the task's `finish`.
    """
    log = run.log
    training, seconds = restored(config, run, task.init())
    step, total = _step(training), total_steps(task.lengths, config.max_steps)
    with _closed(task.open_records(kept_step(step, task.lengths, config.max_steps))) as records:
        log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
        for line in task.about(training):
            log.info("%s", line)
        log.info("run folder %s", run.folder)
        if config.resume:
            left = f" of {total}" if step < total else ": nothing is left to do but the report"
            log.info("resumed at step %d%s", step, left)
        training = _on_devices(task, training)
        _write_lost_record(task, training, records, step, total, log)
        if step == 0 or not task.stopped(records):
            bar = run.progress(total) if step < total else writers.combine()
            try:
                training = _epochs(config, run, task, training, records, step, seconds, bar)
            finally:
                bar.close()
        return task.finish(training, records)


def _write_lost_record(
    task: Task[State, Book, Result],
    training: Training[State],
    records: Sequence[Book],
    step: int,
    total: int,
    log: logging.Logger,
) -> None:
    """Writes the record of the last epoch again where a damaged file has lost it: everything that
    it tells, but for the seconds, follows from the checkpoint. The rest of the run needs it.
    """
    written = [set(one.steps) for one in records]
    done = [int(end) for end in ends(task.lengths) if end <= step]
    if step == total and step not in done:
        done.append(step)
    lost = [end for end in done if any(end not in steps for steps in written)]
    if not lost:
        return
    log.info("warning: records of %d of %d epochs are lost", len(lost), len(done))
    if step not in lost:  # a later epoch has a record, or will have one
        return
    epoch, count = epoch_and_position(step - 1, task.lengths)
    means = task.averages(training.sums, count + 1, step)
    complete = step in ends(task.lengths)
    task.end(training, Epoch(epoch, step, complete, 0.0, means), records)
    log.info("the record of step %d is made again from its checkpoint, without its seconds", step)


def train_unattended(task: Task[State, Book, Result]) -> Result:
    """Runs a task from its beginning to its end as a part of a larger program: no folder, no log,
    no checkpoints.
    """
    stepped = threading.Event()
    stepped.set()
    nowhere = Run(Path(), logging.Logger("jaxdarts"), None, Interruption([], stepped), "")
    with _closed(task.open_records(0)) as records:
        training, bar = _on_devices(task, task.init()), writers.combine()
        training = _epochs(Unattended(), nowhere, task, training, records, 0, 0.0, bar)
        return task.finish(training, records)


def _epochs(
    config: Settings,
    run: Run,
    task: Task[State, Book, Result],
    training: Training[State],
    records: Sequence[Book],
    step: int,
    seconds: float,
    bar: writers.Writer,
) -> Training[State]:
    """Takes the steps of all epochs that are left; `seconds` is what the first of them took so
    far.
    """
    log, interruption, every_end = run.log, run.interruption, ends(task.lengths)
    total = total_steps(task.lengths, config.max_steps)
    means = {}

    def save() -> None:
        one = _of_one_device(task, training)
        finite(step, task.lower, **task.checked(one.state))
        if run.checkpoints is None:
            return
        tree = saved_form(one, jnp.float32(seconds))
        checkpoint.save(run.checkpoints, step, tree, frozen(config))
        # The other hosts leave when it is there.
        multihost_utils.sync_global_devices(f"checkpoint {step}")

    while step < total:
        epoch, position = epoch_and_position(step, task.lengths)
        start = last_report = time.monotonic() - seconds
        if task.rate is not None:
            log.info("epoch %d lr %e", epoch, task.rate(epoch))
        take = task.steps(epoch)
        if position == 0:
            zeros = jax.tree.map(jnp.zeros_like, training.sums)
            training = Training(task.reset(training.state), zeros)
        last = min(int(every_end[epoch]), total) - (step - position) - 1
        for i in range(position, last + 1):
            if interruption.stepped.is_set():
                training = take(training, i)
            else:
                training = _first_step(config, log, lambda: take(training, i))
                interruption.stepped.set()
            step += 1
            reported = step % config.report_freq == 0 or i == last
            leaving, now = interruption.leaving(reported), time.monotonic()
            if reported or leaving or now - last_report > 1:
                means, last_report = task.averages(training.sums, i + 1, step), now
                line, numbers = task.shown(means)
                if reported:
                    log.info("train %03d %s", i, line)
                bar.write(step, {"epoch": epoch, **numbers})
            # The last step's checkpoint waits for the epoch's record, which could not be made up
            # for later.
            if i < last and (
                leaving or (config.checkpoint_freq and step % config.checkpoint_freq == 0)
            ):
                seconds = time.monotonic() - start
                save()
                if leaving:
                    raise run.leave(leaving, step, total)
        seconds = time.monotonic() - start
        complete = step == every_end[epoch]
        training = task.end(training, Epoch(epoch, step, complete, seconds, means), records)
        reason = task.stopped(records)
        if complete:
            seconds = 0.0
        save()
        if leaving := interruption.leaving(True):
            raise run.leave(leaving, step, total)
        if reason:
            log.info("the search stops: %s", reason)
            return training
    if step < every_end[-1]:
        log.info("--max_steps=%d of %d steps are done", config.max_steps, every_end[-1])
    return training


def _first_step(
    config: Settings, log: logging.Logger, take: Callable[[], Training[State]]
) -> Training[State]:
    """The training after the first step of a process, which has to be compiled."""
    clock, start = patience.Clock(config), time.monotonic()
    where = f"; the next start reads {config.cache_dir}" if config.cache_dir else ""
    log.info("compiling the step, which can take minutes%s", where)
    with patience.patience(log, "compiling the step", clock.last()):
        training = jax.block_until_ready(take())
    seconds = time.monotonic() - start
    log.info("the first step took %.1f s", seconds)
    clock.keep(seconds)
    return training


def _step(training: Training[Any]) -> int:
    return int(np.ravel(training.state.step)[0])


def _on_devices(task: Task[State, Any, Any], training: Training[State]) -> Training[State]:
    return parallel.replicate(training, task.devices) if task.devices else training


def _of_one_device(task: Task[State, Any, Any], training: Training[State]) -> Training[State]:
    return parallel.first(training) if task.devices else training


@contextlib.contextmanager
def _closed(records: Sequence[Book]) -> Iterator[Sequence[Book]]:
    """Closes the records in the end. Where a run stops, the reason was told already, such as a full
    disk, and another error says nothing new.
    """
    try:
        yield records
        for one in records:
            one.close()
    finally:
        for one in records:
            with contextlib.suppress(OSError):
                one.close()
