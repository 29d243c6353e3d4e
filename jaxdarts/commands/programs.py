"""Parts that the programs of searches and trainings have in common.

They lead from pure functions of one seed on one device to functions of all seeds on all devices.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdarts import parallel, runs
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import executables
from jaxdarts.runs.task import State
from jaxdarts.types import Metrics


def seeds_of(config: Any) -> range:
    """The seeds that are trained in one program."""
    return range(config.seed, config.seed + config.num_seeds)


def start(
    seeds: Iterable[int], init: Callable[[Key[Array, ""]], State], metrics: Iterable[str]
) -> runs.Training[State]:
    """The training that all seeds start from; `init` makes the state of one from its key."""
    states = [init(jax.random.key(seed)) for seed in seeds]
    sums = {name: jnp.zeros(len(states)) for name in metrics}
    return runs.Training(parallel.stack(states), sums)


def adding_up(
    step: Callable[..., tuple[State, Metrics]],
) -> Callable[..., runs.Training[State]]:
    """(training, inputs of a step) -> training; adds the step's metrics to the sums."""

    def take(training: runs.Training[State], *inputs: Any) -> runs.Training[State]:
        state, metrics = step(training.state, *inputs)
        sums = {name: total + metrics[name] for name, total in training.sums.items()}
        return runs.Training(state, sums)

    return take


def compiled(
    step: Callable[..., tuple[State, Metrics]], devices: Sequence[jax.Device], in_axes: Any
) -> OnDevices:
    """Compiles a step that adds up its metrics, over seeds and devices.

    The training that it is given is used up.
    """
    over_seeds = parallel.over_seeds(adding_up(step), in_axes)
    return parallel.over_devices(over_seeds, devices, (0,), executables.obtained)


def evaluation(
    function: Callable[..., Any], devices: Sequence[jax.Device], in_axes: Any
) -> OnDevices:
    """A function over seeds and devices that changes nothing."""
    over_seeds = parallel.over_seeds(function, in_axes)
    return parallel.over_devices(over_seeds, devices, obtain=executables.obtained)


def trained_state(folder: Path, like: Any, config: Any, before: str = "", after: str = "") -> Any:
    """The newest state in a run folder; `like` is the form of its checkpoints.

    Args:
        folder: of the run.
        like: as `runs.checkpoint_form` gives it.
        config: that the checkpoints must have been written with; None for any.
        before, after: what the line of an unusable checkpoint says besides the error.
    """
    try:
        with runs.checkpoint.open_folder(folder / "checkpoints", keep=None) as checkpoints:
            if config is None:
                return runs.checkpoint.restore(checkpoints, like, None)["state"]
            frozen, defaults = runs.frozen(config), runs.defaults(config)
            return runs.checkpoint.restore(checkpoints, like, frozen, defaults=defaults)["state"]
    except runs.checkpoint.CheckpointError as error:
        raise runs.Stop(f"{before}{error}{after}", 2) from error


def means_of(sums: Metrics, count: int, prefix: str = "") -> dict[str, np.ndarray]:
    """Means of what was added up over `count` steps, [seeds] each."""
    return {
        f"{prefix}{name}": np.asarray(value) / count for name, value in parallel.first(sums).items()
    }


def shown_of_images(means: runs.Means) -> tuple[str, dict[str, float]]:
    """Log line and bar values of a classifier."""
    loss, accuracy, top5 = (
        float(np.mean(means[f"train_{name}"])) for name in ("loss", "accuracy", "top5")
    )
    return f"{loss:e} {100 * accuracy:f} {100 * top5:f}", {"loss": loss, "accuracy": accuracy}
