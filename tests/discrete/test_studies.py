"""Studies: many searches on one executor. Oracles: the same searches one after the other, and the
definition of halving.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import random
import time

import jax
import pytest

import jaxdarts as jd
from jaxdarts import Trial, discrete
from jaxdarts.discrete import studies
from jaxdarts.discrete.studies import Here, conduct
from tests.deadly import deadly

SPACE = jd.spaces.nasbench201()
KEYS = jax.random.split(jax.random.key(5), 3)
ALGORITHMS = {
    "random": discrete.random_search,
    "rea": lambda key, space: discrete.regularized_evolution(key, space, 3, 2),
    "reinforce": discrete.reinforce,
    "na_rs": discrete.neighbourhood_search,
    "halving": lambda key, space: discrete.successive_halving(key, space, 5, (1, 2, 5)),
}


def evaluate(genotype, epochs=None):
    text = str(genotype)
    value = text.count("conv") + sum(ord(c) * (i % 7) for i, c in enumerate(text)) % 100 / 1000
    return Trial(genotype, value, value + 1, 1.0 + len(text) % 5, epochs)


def slowly(genotype, epochs=None):
    """The same, in an order that nobody knows."""
    time.sleep(random.random() / 500)
    return evaluate(genotype, epochs)


def never(genotype, epochs=None):
    raise AssertionError("this trial was recorded")


def schedules(name, **budget):
    return [discrete.schedule(ALGORITHMS[name](key, SPACE), **budget) for key in KEYS]


def here():
    return contextlib.nullcontext(Here())


def threads():
    return concurrent.futures.ThreadPoolExecutor(4)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("budget", [{"evaluations": 12}, {"seconds": 30.0}], ids=str)
def test_one_trial_at_a_time_is_the_sequential_search(name, budget):
    expected = [discrete.search(ALGORITHMS[name](key, SPACE), evaluate, **budget) for key in KEYS]
    for open_executor, slots, function in ((here, 1, evaluate), (threads, 4, slowly)):
        histories = conduct(schedules(name, **budget), function, open_executor, slots=slots)
        assert [list(history.values()) for history in histories] == expected
        assert all(list(history) == list(range(len(history))) for history in histories)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_interrupted_study_is_replayed(name):
    """With four trials in flight the result hangs on the order in which they finish, which the
    records keep.
    """
    budget, records = {"evaluations": 14, "concurrent": 4}, {0: [], 1: [], 2: []}

    def finished(run, number, trial):
        records[run].append((number, trial))

    uncut = conduct(schedules(name, **budget), slowly, threads, slots=4, finished=finished)
    assert [list(history.items()) for history in uncut] == list(records.values())
    assert [sorted(history) for history in uncut] == [list(range(14))] * 3
    assert conduct(schedules(name, **budget), never, here, recorded=records) == uncut
    new = []
    cut = {0: records[0], 1: records[1][:6]}
    again = conduct(
        schedules(name, **budget),
        slowly,
        threads,
        slots=4,
        recorded=cut,
        finished=lambda *trial: new.append(trial),
    )
    assert len(new) == 8 + 14 and [len(history) for history in again] == [14] * 3
    assert again[0] == uncut[0] and list(again[1].items())[:6] == records[1][:6]
    other = [
        (number, trial._replace(genotype=records[1][0][1].genotype)) for number, trial in records[0]
    ]
    with pytest.raises(
        ValueError, match="run 0: trial . of the records is not what the algorithm proposes: |"
    ):
        conduct(schedules(name, **budget), never, here, recorded={0: other})


def test_asynchronous_evolution_mutates_what_has_finished():
    [history] = conduct(
        schedules("rea", evaluations=30, concurrent=3)[:1], slowly, threads, slots=3
    )
    trials = list(history.items())
    for i, (number, trial) in enumerate(trials):
        if number >= 3:  # no founder
            parents = (other.genotype for _, other in trials[:i])
            assert any(
                sum(a != b for a, b in zip(trial.genotype.cell, other.cell)) == 1
                for other in parents
            )


@pytest.mark.parametrize("concurrent", [1, 3, 100])
def test_successive_halving(concurrent):
    steps = discrete.schedule(
        discrete.successive_halving(KEYS[0], SPACE, 10, (1, 2, 8)),
        evaluations=36,
        concurrent=concurrent,
    )
    [history] = conduct([steps], slowly, threads, slots=concurrent)
    trials = [history[number] for number in range(36)]
    assert [trial.epochs for trial in trials] == 2 * ([1] * 10 + [2] * 5 + [8]) + [1] * 4
    for bracket in (trials[:16], trials[16:32]):
        short, middle, last = bracket[:10], bracket[10:15], bracket[15]
        values = sorted((trial.value for trial in short), reverse=True)
        assert [trial.value for trial in middle] == values[:5] and last.value == values[0]
        assert {trial.genotype for trial in middle} <= {trial.genotype for trial in short}
    assert trials[0].genotype != trials[16].genotype
    assert discrete.best(trials).epochs == 8 == discrete.best_so_far(trials)[15].epochs
    for epochs in ((), (2, 1), (0, 3)):
        with pytest.raises(ValueError, match="must be positive, and rise"):
            discrete.successive_halving(KEYS[0], SPACE, 10, epochs)


def test_trials_in_flight_beyond_the_budget_do_not_count():
    [history] = conduct(
        schedules("random", seconds=30.0, concurrent=4)[:1], slowly, threads, slots=4
    )
    assert sum(trial.seconds for trial in history.values()) <= 30
    with pytest.raises(ValueError, match="concurrent is 0: it must be at least 1"):
        schedules("random", seconds=30.0, concurrent=0)


class Fragile(Here):
    """Breaks at every so-manieth trial, and takes no more."""

    count = itertools.count(1)

    def __init__(self, every):
        self.every, self.broken = every, False

    def submit(self, fn, /, *args, **kwargs):
        if self.broken:
            raise concurrent.futures.BrokenExecutor("has been broken")
        if next(Fragile.count) % self.every:
            return super().submit(fn, *args, **kwargs)
        self.broken, future = True, concurrent.futures.Future()
        future.set_exception(concurrent.futures.BrokenExecutor("a process died"))
        return future


def test_lost_trials_start_again():
    opened = []

    def fragile(every):
        opened.append(Fragile(every))
        return contextlib.nullcontext(opened[-1])

    expected = conduct(schedules("rea", evaluations=12), evaluate, here)
    reported = []
    flags = {"slots": 3, "finished": lambda *trial: reported.append(trial)}
    assert (
        conduct(schedules("rea", evaluations=12), evaluate, lambda: fragile(5), **flags) == expected
    )
    assert len(reported) == 36 and len(opened) > 5
    with pytest.raises(
        studies.Failure, match=r"run 0, trial 0 \(\|.*\): its worker was lost 3 times"
    ):
        conduct(schedules("rea", evaluations=12), evaluate, lambda: fragile(1))


def test_a_trial_that_fails_ends_the_study():
    def failing(genotype):
        if len(reported) == 7:
            raise KeyError("no such thing")
        return evaluate(genotype)

    reported = []
    with pytest.raises(
        studies.Failure, match=r"^run 0, trial 7 \(\|.*\): KeyError: 'no such thing'$"
    ):
        conduct(
            schedules("random", evaluations=12),
            failing,
            here,
            finished=lambda *trial: reported.append(trial),
        )
    assert len(reported) == 7


def test_what_finished_beside_a_failure_counts():
    def failing(genotype):
        if genotype == "a":
            raise ValueError("no such thing")
        return deadly(None, genotype)

    reported = []
    steps = discrete.schedule((letter for letter in "abz"), evaluations=3, concurrent=3)
    with pytest.raises(studies.Failure, match=r"^run 0, trial 0 \(a\): no such thing$"):
        conduct(
            [steps],
            failing,
            here,
            slots=3,
            finished=lambda run, number, trial: reported.append(number),
        )
    assert reported == [1, 2]


@pytest.mark.slow
def test_a_process_that_dies(tmp_path):
    def processes():
        return concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))

    schedule = discrete.schedule((letter for letter in "abcdefgh"), evaluations=9, concurrent=3)
    [history] = conduct([schedule], functools.partial(deadly, tmp_path), processes, slots=3)
    assert (tmp_path / "killed").exists()
    assert "".join(history[number].genotype for number in range(8)) == "abcdefgh"
