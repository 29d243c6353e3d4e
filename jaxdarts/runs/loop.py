"""The loop of every training: steps, log lines, a record and a checkpoint after each epoch,
signals.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxdarts import parallel
from jaxdarts.runs import checkpoint, writers
from jaxdarts.runs.folder import Run, frozen
from jaxdarts.runs.process import Stop


def ends(config: Any, length: int | np.ndarray) -> np.ndarray:
    """The step at which each epoch ends; `length` is the steps an epoch, one number for all or one
    for each.
    """
    return np.cumsum(np.broadcast_to(length, config.epochs))


def place(config: Any, step: int, length: int | np.ndarray) -> tuple[int, int]:
    """The epoch that a step belongs to, and its place in it."""
    epoch = int(np.searchsorted(ends(config, length), step, side="right"))
    return epoch, step - int(ends(config, length)[epoch - 1] if epoch else 0)


def kept_step(config: Any, step: int, length: int | np.ndarray) -> int:
    """The records to keep on resuming: that of an epoch which --max_steps cut short goes when that
    epoch goes on.
    """
    return step if step >= total_steps(config, length) else step - place(config, step, length)[1]


def total_steps(config: Any, length: int | np.ndarray) -> int:
    """The step to stop after."""
    total = int(ends(config, length)[-1])
    return min(total, config.max_steps or total)


def shown_of_images(means: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    """What a log line and the bar tell of a classifier."""
    loss, accuracy, top5 = (
        float(np.mean(means[f"train_{name}"])) for name in ("loss", "accuracy", "top5")
    )
    return f"{loss:e} {100 * accuracy:f} {100 * top5:f}", {"loss": loss, "accuracy": accuracy}


def finite(step: int, flags: str, **values: Any) -> None:
    """Ends the run where a number is none, so that nothing bad is ever saved; `flags` are those to
    lower.
    """
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise Stop(
                f"{name} is not finite at step {step}: start again with a lower {flags}; what was"
                " saved before is intact"
            )


def epochs(
    config: Any,
    run: Run,
    training: Any,
    seconds: float,
    length: int | np.ndarray,
    *,
    begin: Callable[[int], Callable[[Any, int], Any]],
    averages: Callable[[Any, int, int], dict[str, np.ndarray]],
    check: Callable[[Any, int], None],
    end: Callable[[Any, dict[str, np.ndarray], int, int, float], str | None],
    shown: Callable[[Mapping[str, np.ndarray]], tuple[str, dict[str, float]]] = shown_of_images,
) -> Any:
    """The loop of every training: steps with their log lines, a record and a checkpoint after each
    epoch, signals heeded.

    Args:
        config, run: the settings and the open run.
        training: {"state", "sums"}, replicated over the devices: the state, and sums of metrics
          since the epoch began.
        seconds: that the epoch took before.
        length: steps an epoch, one number for all or one for each.
        begin: epoch -> (training, place in the epoch) -> training after the step.
        averages: (sums, their number, step) -> means, by names that `shown` knows; NaN ends the
          run.
        check: (training of one device, step); refuses to save what is not finite.
        end: (training, means, epoch, step, seconds): writes the epoch down, and may change
            training["state"], which is saved after it; returns why to stop here, or None.
        shown: means -> a log line's text and the bar's numbers.

    Returns:
        The training at the end.
    """
    log, asked = run.log, run.asked
    step, total = (
        int(np.ravel(parallel.first(training["state"].step))[0]),
        total_steps(config, length),
    )
    bar = writers.console(total)
    means: dict[str, np.ndarray] = {}

    def save() -> None:
        tree = parallel.first(training)
        check(tree, step)
        checkpoint.save(
            run.checkpoints, step, {**tree, "seconds": jnp.float32(seconds)}, frozen(config)
        )
        multihost_utils.sync_global_devices(
            f"checkpoint {step}"
        )  # the others leave when it is there

    try:
        while step < total:
            epoch, position = place(config, step, length)
            start = told = time.monotonic() - seconds
            take = begin(epoch)
            if position == 0:
                training["sums"] = jax.tree.map(jnp.zeros_like, training["sums"])
            last = min(int(ends(config, length)[epoch]), total) - (step - position) - 1
            for i in range(position, last + 1):
                if not asked.stepped.is_set():
                    where = f"; the next start reads {config.cache_dir}" if config.cache_dir else ""
                    log.info("compiling the step, which can take minutes%s", where)
                training = take(training, i)
                step += 1
                if not asked.stepped.is_set():
                    jax.block_until_ready(training)
                    log.info("the first step took %.1f s", time.monotonic() - start - seconds)
                    asked.stepped.set()
                reported = step % config.report_freq == 0 or i == last
                leaving, now = asked.leaving(reported), time.monotonic()
                if reported or leaving or now - told > 1:
                    means, told = averages(training["sums"], i + 1, step), now
                    line, numbers = shown(means)
                    if reported:
                        log.info("train %03d %s", i, line)
                    bar.write(step, {"epoch": epoch, **numbers})
                # The last step's checkpoint waits for the epoch's record, which could not be made
                # up for later.
                if i < last and (
                    leaving or (config.checkpoint_freq and step % config.checkpoint_freq == 0)
                ):
                    seconds = time.monotonic() - start
                    save()
                    if leaving:
                        raise run.leave(leaving, step, total)
            seconds = time.monotonic() - start
            reason = end(training, means, epoch, step, seconds)
            if step == ends(config, length)[epoch]:
                seconds = 0.0
            save()
            if leaving := asked.leaving(True):
                raise run.leave(leaving, step, total)
            if reason:
                log.info("the search stops: %s", reason)
                return training
        if step < ends(config, length)[-1]:
            log.info(
                "--max_steps=%d of %d steps are done", config.max_steps, ends(config, length)[-1]
            )
        return training
    finally:
        bar.close()
