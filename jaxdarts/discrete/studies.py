"""Many searches at once, with all their trials on one executor.

The executor is this process, local processes, or a cluster.

Every search asks for as many trials at a time as its `discrete.schedule` allows. With one, each is
determined by its key alone, wherever and in whatever order its trials run, since it knows all
earlier ones before it proposes the next:

>>> import jax
>>> from jaxdarts import discrete, spaces
>>> space, keys = spaces.nasbench201(), jax.random.split(jax.random.key(0), 3)
>>> def evaluate(genotype):
...     return Trial(genotype, float(str(genotype).count("conv")), float("nan"), seconds=1.0)
>>> searches = [discrete.random_search(key, space) for key in keys]
>>> schedules = [discrete.schedule(search, evaluations=20) for search in searches]
>>> with Here() as executor:
...     histories = conduct(schedules, evaluate, lambda: contextlib.nullcontext(executor))
>>> [len(history) for history in histories]
[20, 20, 20]
"""

import collections
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from typing import Any, NamedTuple

from jaxdarts.discrete.algorithms import History, Schedule, Starts, advance, arguments_of
from jaxdarts.types import Trial


class Failure(RuntimeError):
    """A trial could not be evaluated; the message is one line that names it.

    Its cause, if any, is what was raised.
    """


class Here(Executor):
    """Evaluates at once, in the thread that asks."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Job(NamedTuple):
    run: int
    number: int
    proposal: Any
    lost: int = 0


def conduct(
    schedules: Iterable[Schedule],
    evaluate: Callable[..., Trial],
    open_executor: Callable[[], contextlib.AbstractContextManager[Executor]],
    *,
    slots: float = 1,
    recorded: Mapping[int, Sequence[tuple[int, Trial]]] | None = None,
    finished: Callable[[int, int, Trial], None] = lambda run, number, trial: None,
    retries: int = 2,
) -> list[History]:
    """Runs searches to their ends.

    Args:
        schedules: the searches (runs), see `discrete.schedule`. One more starts when there is
          nothing else to do.
        evaluate: genotype -> trial, or (genotype, epochs) -> trial; what goes to other processes
          must be importable there.
        open_executor: a context that gives an executor. When that breaks, because a process has
          died, another one is opened.
        slots: trials to hand out at a time, over all runs; infinite for an executor that queues
          what it cannot take.
        recorded: {run: [(number, trial), ...]} of an interrupted study, in the order in which they
            finished. They are not evaluated again: the algorithm is told of them as it was then,
            and goes on.
        finished: called with (run, number, trial) for every trial that is not in `recorded`, before
            anything else happens; also for one that exceeds a budget of seconds.
        retries: how often a trial may be lost with its worker and start again.

    Returns:
        The runs' histories, {number: trial} in the order in which they finished.

    Raises:
        Failure: if a trial raises an exception, or is lost once too often.
        ValueError: if an algorithm refuses its arguments, or the records are not what it proposes.
    """
    histories: dict[int, History] = {}
    opened: dict[int, Schedule] = {}
    waiting: collections.deque[_Job] = collections.deque()
    flying: dict[Future, _Job] = {}
    coming = enumerate(schedules)

    def take(run: int, starts: Starts, history: History | None) -> None:
        waiting.extend(_Job(run, number, proposal) for number, proposal in starts)
        if (
            history is not None
        ):  # the run is over, and what it still has to do or in flight does not count
            histories[run] = history
            del opened[run]
            others = [job for job in waiting if job.run != run]
            waiting.clear()
            waiting.extend(others)
            for future in [future for future, job in flying.items() if job.run == run]:
                future.cancel()
                del flying[future]

    def lose(job: _Job) -> None:
        if job.lost >= retries:
            raise Failure(f"{_named(job)}: its worker was lost {job.lost + 1} times")
        waiting.appendleft(job._replace(lost=job.lost + 1))

    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(open_executor())
        while True:
            while len(waiting) + len(flying) < slots and (new := next(coming, None)):
                run, opened[new[0]] = new
                with _of(run):
                    take(run, *_replayed(opened[run], (recorded or {}).get(run, ())))
            if not waiting and not flying:
                return [histories[run] for run in sorted(histories)]
            broken = False
            while waiting and len(flying) < slots and not broken:
                job = waiting.popleft()
                try:
                    flying[executor.submit(evaluate, *arguments_of(job.proposal))] = job
                except BrokenExecutor:
                    lose(job)
                    broken = True
            if not broken:
                wait(flying, return_when=FIRST_COMPLETED)
            # What has gone well comes first: nothing of it is lost if something else ends the
            # study.
            done = [(_error(future), future) for future in flying if future.done()]
            for error, future in sorted(
                done, key=lambda pair: (pair[0] is not None, flying[pair[1]][:2])
            ):
                job = flying.pop(future, None)
                if job is None:  # its run has just ended
                    continue
                if isinstance(error, (BrokenExecutor, CancelledError)):
                    lose(job)
                    broken = True
                elif error is not None:
                    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                    raise Failure(f"{_named(job)}: {kind}{error}") from error
                else:
                    finished(job.run, job.number, future.result())
                    with _of(job.run):
                        take(job.run, *advance(opened[job.run], (job.number, future.result())))
            if broken:
                # Whatever else was in flight is lost too, but for what has finished in the
                # meantime.
                for future, job in [*flying.items()]:
                    if not future.done() or isinstance(
                        _error(future), (BrokenExecutor, CancelledError)
                    ):
                        lose(flying.pop(future))
                stack.close()
                executor = stack.enter_context(open_executor())


def _named(job: _Job) -> str:
    return f"run {job.run}, trial {job.number} ({arguments_of(job.proposal)[0]})"


def _error(future: Future) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


@contextlib.contextmanager
def _of(run: int):
    try:
        yield
    except ValueError as error:
        raise ValueError(f"run {run}: {error}") from error


def _replayed(
    steps: Schedule, records: Sequence[tuple[int, Trial]]
) -> tuple[Starts, History | None]:
    """Replays the recorded trials of a search.

    Returns what it has to start after them, and its history if they are all there are.
    """
    pending: dict[int, Any] = {}
    starts, history = advance(steps)
    for number, trial in records:
        pending.update(starts)
        genotype, *epochs = arguments_of(pending.pop(number, None))
        if history is not None or (genotype, *epochs) != (
            trial.genotype,
            *([trial.epochs] if trial.epochs else []),
        ):
            raise ValueError(
                f"trial {number} of the records is not what the algorithm proposes:"
                f" {trial.genotype}"
            )
        starts, history = advance(steps, (number, trial))
    pending.update(starts)
    return ([] if history is not None else list(pending.items())), history
