"""Searches among discrete architectures.

Random, evolutionary, by a score, by a policy, by neighbourhoods, by halving.

`hyperband` has one more, halvings with a model of what is good.

An algorithm is a generator: it yields a genotype and is sent the `Trial` of it, for as long as
anybody asks. It is determined by its key and by what it is sent. `search` pays for the trials and
keeps all of them:

>>> import jax
>>> from jaxdarts import spaces
>>> def evaluate(genotype):  # here: how many convolutions; else a table, a supernet, or a training
...     return Trial(genotype, float(str(genotype).count("conv")), float("nan"), seconds=1.0)
>>> evolution = regularized_evolution(jax.random.key(0), spaces.nasbench201())
>>> history = search(evolution, evaluate, evaluations=60)
>>> len(history), best(history).value
(60, 6.0)

Several trials may run at a time (`schedule`, and `studies` on other processes and machines). An
algorithm that is asked for more before a trial is in is sent None instead; trials come one by one,
in the order in which they finish. So random search goes on as ever; evolution mutates the best of
those that live by then, as Real et al. did on many workers; REINFORCE takes its step for a trial
when it comes, at the probabilities of then. One that has to wait for the trials in flight yields
None.
"""

import collections
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdarts.analysis.flatness import shell
from jaxdarts.space import Space, seeded
from jaxdarts.types import Trial

Proposals = Generator[Any, Trial | None, None]
Score = Callable[[Any], float]
"""How promising a genotype is, without training; NaN is the worst."""


class Longer(NamedTuple):
    """A proposal that tells how long to train.

    To other proposals, plain genotypes, evaluations give a length of their own.
    """

    genotype: Any
    epochs: int


Starts = list[tuple[int, Any]]
"""What to evaluate: (number, proposal)."""

History = dict[int, Trial]
"""Trials by the numbers of their proposals, in the order in which they finished."""

Schedule = Generator[Starts, tuple[int, Trial], History]


def schedule(
    proposals: Proposals,
    *,
    evaluations: float = math.inf,
    seconds: float = math.inf,
    concurrent: int = 1,
) -> Schedule:
    """Schedule of evaluations, until the budget, or the proposals, end.

    Args:
        proposals: the algorithm.
        evaluations: how many trials at most.
        seconds: how much they may take together; the first trial that would take more ends the
            search and does not count, as in NAS-Bench-201's algorithms. (NATS-Bench's newer ones
            count it.) Nor do those that are in flight then.
        concurrent: how many are in flight at a time. With one, every trial is known before the next
          proposal.

    Returns:
        A generator: it yields what to start, [(number, proposal), ...], and is sent (number, trial)
          of one that has finished.
        Its own return value is {number: trial} in the order in which they finished. The numbers
        count the proposals.

    Raises:
        ValueError: if the budget is not positive, or not given.
    """
    if not (evaluations > 0 and seconds > 0) or evaluations == seconds == math.inf:
        raise ValueError(
            f"the budget is {evaluations} evaluations and {seconds} seconds: it must be positive,"
            " and finite"
        )
    _check("concurrent", concurrent)
    return _schedule(proposals, evaluations, seconds, concurrent)


def _schedule(
    proposals: Proposals, evaluations: float, seconds: float, concurrent: int
) -> Schedule:
    history: History = {}
    started, spent, news, ended = 0, 0.0, None, False
    while True:
        starts = []
        while not ended and started - len(history) < concurrent and started < evaluations:
            try:
                proposal, news = (
                    proposals.send(news),
                    None,
                )  # the first thing that a generator is sent is None
            except StopIteration:
                ended = True
                break
            if proposal is None:
                break
            starts.append((started, proposal))
            started += 1
        if started == len(history):
            break
        number, news = yield starts
        if math.isnan(news.seconds) and seconds < math.inf:
            raise ValueError(
                f"{news.genotype}: what its trial takes is not known; the budget must be one of"
                " evaluations"
            )
        spent += news.seconds
        if spent > seconds:
            break
        history[number] = news
    proposals.close()
    return history


def search(
    proposals: Proposals,
    evaluate: Callable[..., Trial],
    *,
    evaluations: float = math.inf,
    seconds: float = math.inf,
) -> list[Trial]:
    """Evaluates what is proposed, one after the other, until the budget or the proposals end.

    Args:
        proposals: the algorithm.
        evaluate: genotype -> trial; (genotype, epochs) -> trial for a `Longer` one.
        evaluations, seconds: the budget, as of `schedule`.

    Returns:
        All trials in order; empty if the first one does not fit into the budget.

    Raises:
        ValueError: if the budget is not positive, or not given, or is one of seconds that trials do
          not tell.
    """
    steps = schedule(proposals, evaluations=evaluations, seconds=seconds)
    starts, history = advance(steps)
    while history is None:
        [(number, proposal)] = starts
        starts, history = advance(steps, (number, evaluate(*arguments_of(proposal))))
    return list(history.values())


def advance(
    steps: Schedule, finished: tuple[int, Trial] | None = None
) -> tuple[list[tuple[int, Any]], dict[int, Trial] | None]:
    """Advances a schedule: the trials to start next, and its history once it is at an end.

    It goes on from its beginning or after a trial.
    """
    try:
        return (next(steps) if finished is None else steps.send(finished)), None
    except StopIteration as stop:
        return [], stop.value


def arguments_of(proposal: Any) -> tuple:
    """The arguments of `evaluate` for a proposal."""
    return tuple(proposal) if isinstance(proposal, Longer) else (proposal,)


def best(history: Iterable[Trial]) -> Trial:
    """The trial of the largest value among the longest trained, the first of equals.

    Raises:
        ValueError: if there is none.
    """
    best_trial = max(history, key=_rank, default=None)
    if best_trial is None:
        raise ValueError("not one trial fits into the budget")
    return best_trial


def best_so_far(history: Iterable[Trial]) -> list[Trial]:
    """The best trial so far, for every trial of a history."""
    return list(
        itertools.accumulate(history, lambda old, new: new if _rank(new) > _rank(old) else old)
    )


def _rank(trial: Trial) -> tuple[int, float]:
    return trial.epochs or 0, _worth(trial.value)


def _worth(value: float) -> float:
    return -math.inf if math.isnan(value) else float(value)


# ------------------------------------------------------------------------------------------- random


def random_search(key: Key[Array, ""], space: Space) -> Proposals:
    """Independent uniform genotypes, with repetitions."""
    for n in itertools.count():
        yield space.sample(jax.random.fold_in(key, n))


def samples(key: Key[Array, ""], space: Space, count: int) -> list[Any]:
    """Independent uniform genotypes, with repetitions.

    They are the first ones of `random_search` with the same key.
    """
    return list(itertools.islice(random_search(key, space), count))


def ranked(candidates: Iterable[Any], score: Score) -> list[Any]:
    """Candidates from the largest score to the smallest, equal ones in order, NaN last."""
    return sorted(candidates, key=lambda genotype: -_worth(score(genotype)))


def best_of(key: Key[Array, ""], space: Space, score: Score, candidates: int = 100) -> Proposals:
    """Evaluates one genotype: the random candidate with the best score.

    With the overlap of ReLU patterns as the score: Mellor, Turner, Storkey & Crowley, `Neural
    Architecture Search without Training <https://arxiv.org/abs/2006.04647>`_, ICML 2021.
    """
    _check("candidates", candidates)
    yield ranked(samples(key, space, candidates), score)[0]


def neighbourhood_search(
    key: Key[Array, ""], space: Space, neighbours: int = 4, radius: int = 1
) -> Proposals:
    """Random genotypes, each followed by some of its neighbours; `flattest` chooses among them.

    A reconstruction of the NA-RS of Wang, Cao, Li & Kitani, `Neighborhood-Aware Neural Architecture
    Search <https://arxiv.org/abs/2105.06369>`_, BMVC 2021, of which only the abstract was at hand:
    radius, number and choice of the neighbours are ours.

    Args:
        key: what is random.
        space: where to search.
        neighbours: drawn without repetition among all that differ in the operations of `radius`
          edges.
        radius: see there, and `analysis.flatness.shell`.
    """
    _check("neighbours", neighbours)
    centres, others = jax.random.split(key)
    rng = seeded(others)
    for n in itertools.count():
        centre = space.sample(jax.random.fold_in(centres, n))
        around = shell(space.cells, centre, radius)
        if neighbours > len(around):
            raise ValueError(
                f"neighbours is {neighbours}: {centre} has {len(around)} at distance {radius}"
            )
        yield centre
        for i in rng.permutation(len(around))[:neighbours]:
            yield around[i]


def flattest(
    history: Sequence[Trial], neighbours: int, aggregate: Callable[[np.ndarray], Any] = np.mean
) -> Trial:
    """The centre of the best neighbourhood in a history of `neighbourhood_search`.

    Args:
        history: groups of a centre and its neighbours, in the order of the proposals; a last one
            that the budget has cut off does not take part.
        neighbours: their number there.
        aggregate: the values of a centre and its neighbours -> how good the neighbourhood is.

    Raises:
        ValueError: if not one neighbourhood is complete.
    """
    size = 1 + neighbours
    groups = [history[i : i + size] for i in range(0, len(history) - neighbours, size)]
    if not groups:
        raise ValueError(
            f"the budget ends after {len(history)} trials, before one neighbourhood of {size} is"
            " complete"
        )
    return max(
        groups, key=lambda group: _worth(aggregate(np.array([trial.value for trial in group])))
    )[0]


# ---------------------------------------------------------------------------------------- evolution


def regularized_evolution(
    key: Key[Array, ""], space: Space, population: int = 10, sample_size: int = 3
) -> Proposals:
    """Mutates the best of a random sample of the living, and lets the oldest die.

    Real, Aggarwal, Huang & Le, `Regularized Evolution for Image Classifier Architecture Search
    <https://arxiv.org/abs/1802.01548>`_, AAAI 2019, algorithm 1; the defaults are those of
    NAS-Bench-201.

    Args:
        key: what is random.
        space: where to search.
        population: how many live at a time; the first ones are random.
        sample_size: how many are drawn, with repetitions, to find a parent among.
    """
    _check("population", population)
    _check("sample_size", sample_size)
    first, rest = jax.random.split(key)
    return _evolve(rest, space, samples(first, space, population), sample_size)


def assisted_evolution(
    key: Key[Array, ""],
    space: Space,
    score: Score,
    pool: int = 20,
    population: int = 10,
    sample_size: int = 3,
) -> Proposals:
    """Regularised evolution that starts from the best of a random pool by a score.

    AREA of Mellor et al., see `best_of`.

    Args:
        key, space, population, sample_size: as in `regularized_evolution`.
        score: how promising a genotype is.
        pool: how many random genotypes are scored.
    """
    _check("population", population)
    _check("sample_size", sample_size)
    if pool < population:
        raise ValueError(f"pool is {pool}: fewer than the population, which is {population}")
    first, rest = jax.random.split(key)
    return _evolve(
        rest, space, ranked(samples(first, space, pool), score)[:population], sample_size
    )


def _evolve(
    key: Key[Array, ""], space: Space, founders: Sequence[Any], sample_size: int
) -> Proposals:
    mutations, tournaments = jax.random.split(key)
    rng = seeded(tournaments)
    alive: collections.deque[Trial] = collections.deque(maxlen=len(founders))  # drops the oldest
    for founder in founders:
        if trial := (yield founder):
            alive.append(trial)
    for n in itertools.count():
        while not alive:  # all founders are in flight
            if trial := (yield None):
                alive.append(trial)
        parent = best([alive[i] for i in rng.integers(len(alive), size=sample_size)])
        if trial := (yield space.mutate(jax.random.fold_in(mutations, n), parent.genotype)):
            alive.append(trial)


# ------------------------------------------------------------------------------------------ halving


def successive_halving(
    key: Key[Array, ""], space: Space, candidates: int = 32, epochs: Sequence[int] = (12, 200)
) -> Proposals:
    """Successive halving: trains many random genotypes shortly, the best of them longer, and so on.

    It then starts over, for as long as asked.

    Of n genotypes at one length, n times the ratio of that length to the next go on, rounded down,
    and one at least: every length gets about the same number of epochs. Trainings start from
    scratch. `best` finds the best of the longest trained.

    Jamieson & Talwalkar, `Non-stochastic Best Arm Identification and Hyperparameter Optimization
    <https://arxiv.org/abs/1502.07943>`_, AISTATS 2016, whose ratio is two; the lengths are free
    here, as tables have few.

    Args:
        key: what is random.
        space: where to search.
        candidates: random genotypes that start.
        epochs: lengths of training, rising.

    Raises:
        ValueError: if the lengths do not rise.
    """
    _check("candidates", candidates)
    check_lengths(epochs)
    return _halve(key, space, candidates, epochs)


def check_lengths(epochs: Sequence[int]) -> None:
    """Refuses lengths of training that do not rise, by a ValueError."""
    if not epochs or epochs[0] < 1 or any(b <= a for a, b in itertools.pairwise(epochs)):
        raise ValueError(
            f"epochs are {' '.join(map(str, epochs)) or 'none'}: they must be positive, and rise"
        )


def _halve(key: Key[Array, ""], space: Space, candidates: int, epochs: Sequence[int]) -> Proposals:
    for n in itertools.count():
        yield from bracket(random_search(jax.random.fold_in(key, n), space), candidates, epochs)


def bracket(starters: Iterator[Any], candidates: int, epochs: Sequence[int]) -> Proposals:
    """One round of successive halving.

    So many genotypes train for the first length, the best of them for the next, to the last.

    Args:
        starters: the genotypes; each is asked for when it is proposed, not before.
        candidates: how many of them start.
        epochs: lengths of training, rising.
    """
    waiting: collections.deque = collections.deque(range(candidates))
    left, starting = candidates, True
    for now, later in itertools.zip_longest(epochs, epochs[1:]):
        trials: list[Trial] = []
        while len(trials) < left:
            proposal = None
            if waiting:
                genotype = waiting.popleft()
                proposal = Longer(next(starters) if starting else genotype, now)
            if trial := (yield proposal):
                trials.append(trial)
        if later:
            left, starting = max(1, left * now // later), False
            best_first = sorted(trials, key=lambda trial: -_worth(trial.value))
            waiting = collections.deque(trial.genotype for trial in best_first[:left])


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be at least 1")
