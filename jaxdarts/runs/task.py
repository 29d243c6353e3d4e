"""A training, as the loop sees it.

It has everything that differs between images and texts, searching and training from scratch.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from jaxdarts.types import Metrics

State = TypeVar("State")
Result = TypeVar("Result")

Means = Mapping[str, np.ndarray]
"""Mean metrics by name."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Training(Generic[State]):
    """Everything that a training goes on from.

    Attributes:
        state: of the weights, the optimiser and whatever else a step changes; it has a `step`.
        sums: metrics, added up since the epoch began.
    """

    state: State
    sums: Metrics


class Epoch(NamedTuple):
    """An epoch whose steps have been taken.

    number: counted from 0.
    step: steps taken since the run began.
    complete: False where --max_steps cut the epoch short.
    seconds: duration of the epoch.
    means: mean metrics of its steps.
    """

    number: int
    step: int
    complete: bool
    seconds: float
    means: Means


class Records(Protocol):
    """A file, or several, that a run writes its epochs to; `steps` are those that it holds."""

    @property
    def steps(self) -> Collection[int]: ...

    def close(self) -> None: ...


Book = TypeVar("Book", bound=Records)


def no_reset(state: State) -> State:
    """Every epoch goes on with the state that the one before left."""
    return state


def never(records: Sequence[Any]) -> None:
    """No reason to stop."""
    return None


def nothing_shown(means: Means) -> tuple[str, dict[str, float]]:
    """A log line without metrics."""
    return "", {}


class Task(NamedTuple, Generic[State, Book, Result]):
    """A training, for `loop.run`.

    In a program over devices, every array of a `Training` has a leading axis of devices, but in
    `init`, `about` and `checked`.

    init: () -> what a new run starts from.
    lengths: number of steps of every epoch.
    steps: epoch -> ((training, number of the step in the epoch) -> training after the step).
    averages: (sums, number of steps that they are over, step of the run) -> means; it stops the run
        where one is not finite.
    checked: state -> arrays by name that must be finite to be saved.
    lower: flags to lower where an array is not finite.
    end: (training, epoch, records) -> training; evaluates after an epoch, and writes it down.
    finish: (training, records) -> the result of the run, written down too.
    open_records: step -> the records of the run, without those of later steps.
    devices: those that the program is compiled for; none for a program without an axis of devices.
    about: training -> lines at the beginning of the log.
    rate: epoch -> learning rate, for the log; None for no such line.
    shown: means -> the text of a log line, and the numbers beside the bar.
    reset: state -> state at the head of an epoch.
    stopped: records -> why no further epoch is needed, or None.
    """

    init: Callable[[], Training[State]]
    lengths: np.ndarray
    steps: Callable[[int], Callable[[Training[State], int], Training[State]]]
    averages: Callable[[Metrics, int, int], Means]
    checked: Callable[[State], Mapping[str, Any]]
    lower: str
    end: Callable[[Training[State], Epoch, Sequence[Book]], Training[State]]
    finish: Callable[[Training[State], Sequence[Book]], Result]
    open_records: Callable[[int], Sequence[Book]]
    devices: Sequence[jax.Device] = ()
    about: Callable[[Training[State]], Sequence[str]] = lambda training: ()
    rate: Callable[[int], float] | None = None
    shown: Callable[[Means], tuple[str, dict[str, float]]] = nothing_shown
    reset: Callable[[State], State] = no_reset
    stopped: Callable[[Sequence[Book]], str | None] = never
