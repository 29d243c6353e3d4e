"""BOHB: Hyperband's brackets of short and long trainings, filled by a model.

The model tells which operations good genotypes have.

Falkner, Klein & Hutter, `BOHB: Robust and Efficient Hyperparameter Optimization at Scale
<https://arxiv.org/abs/1807.01774>`_, ICML 2018, and its code (automl/HpBandSter), whose defaults
are taken. It is a generator as those of `discrete`.

The densities differ, since all choices here are among categories: rows are independent, with the
smoothed frequencies of their operations, as in the tree-structured Parzen estimator that BOHB goes
back to (Bergstra, Bardenet, Bengio & Kegl, Algorithms for Hyper-Parameter Optimization, NeurIPS
2011). HpBandSter has one kernel density over all rows, whose bandwidths come from the deviation of
the operations' numbers by a rule for real numbers; with five operations and a dozen trials they
often exceed one.
"""

import collections
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdarts.discrete.algorithms import Longer, Proposals, bracket, check_lengths
from jaxdarts.space import Space, locate, seeded
from jaxdarts.types import Trial


def bohb(
    key: Key[Array, ""],
    space: Space,
    epochs: Sequence[int] = (12,),
    *,
    good: float = 0.15,
    candidates: int = 64,
    random_fraction: float = 1 / 3,
) -> Proposals:
    """BOHB: brackets of successive halving, filled by a model of the best trials.

    Genotypes have operations that are frequent among the best trials.

    The trials of the longest length that has enough of them are split into good and bad ones, at
    least one more than the space has rows on either side; before that, genotypes are random. Then
    the candidate with the largest ratio of the two densities is taken, of `draws` draws from
    the good ones'. As soon as a bracket waits for trials in flight the next one begins.

    Args:
        key: what is random.
        space: one whose genotypes keep every edge, such as NAS-Bench-201.
        epochs: lengths of training, rising; with a single one there is no halving, just the model.
            Published are powers of three times the shortest.
        good: fraction of the trials that are good.
        candidates: draws.
        random_fraction: how many genotypes are uniformly random in spite of the model.

    Raises:
        ValueError: if the lengths do not rise, an argument is out of range, or genotypes of the
          space keep some edges only.
    """
    check_lengths(epochs)
    if candidates < 1:
        raise ValueError(f"candidates is {candidates}: it must be at least 1")
    for name, value in (("good", good), ("random_fraction", random_fraction)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: it must be between 0 and 1")
    if not space.cells or any(
        choices.kept is not None or choices.picks for choices in space.cells.values()
    ):
        raise ValueError(
            "BOHB models one candidate a row; genotypes of this space are no list of such rows"
        )
    return _bohb(key, space, epochs, good, candidates, random_fraction)


def brackets(epochs: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
    """Hyperband's round of brackets: (how many start, lengths of training).

    They go from the bracket of all lengths to that of the last alone.

    >>> brackets((4, 12, 36))
    [(9, (4, 12, 36)), (3, (12, 36)), (3, (36,))]
    """
    schedules = []
    for first in range(len(epochs)):
        rounds = len(epochs) - first
        schedules.append(
            (math.ceil(len(epochs) // rounds * epochs[-1] / epochs[first]), epochs[first:])
        )
    return schedules


def log_probabilities(
    picks: Int[np.ndarray, "models rows"], levels: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows ops"]:
    """Logarithms of smoothed frequencies of the operations in each row of some models.

    Every count is one larger than it is.

    Args:
        picks: numbers of the models' operations.
        levels: how many operations each row offers; the others have probability zero.
    """
    ops = np.arange(levels.max())
    counts = 1 + np.sum(picks[:, :, None] == ops, axis=0)
    with np.errstate(divide="ignore"):
        return np.log(counts * (ops < levels[:, None]) / (len(picks) + levels[:, None]))


def _bohb(
    key: Key[Array, ""],
    space: Space,
    epochs: Sequence[int],
    good: float,
    candidates: int,
    random_fraction: float,
) -> Proposals:
    seen: dict[int, list[Trial]] = {length: [] for length in epochs}
    starters = _starters(key, space, seen, good, candidates, random_fraction)
    rounds = itertools.cycle(brackets(epochs))
    active: list[Proposals] = []
    owners: dict[Any, collections.deque[Proposals]] = {}  # of what is in flight

    def ask(one: Proposals, trial: Trial | None) -> Any:
        """The next proposal of a bracket; None if it waits, or is at its end."""
        try:
            proposal = one.send(trial)
        except StopIteration:
            active.remove(one)
            return None
        if proposal is not None:
            owners.setdefault(proposal, collections.deque()).append(one)
        return proposal

    trial = None
    while True:
        proposal = None
        if trial:
            longer = Longer(trial.genotype, trial.epochs or 0)
            if not owners.get(longer):
                raise ValueError(
                    f"{trial.genotype}: a trial of {trial.epochs} epochs, which was not asked for"
                )
            seen[longer.epochs].append(trial)
            proposal = ask(owners[longer].popleft(), trial)
        for one in active.copy():
            proposal = ask(one, None) if proposal is None else proposal
        if proposal is None:
            active.append(bracket(starters, *next(rounds)))
            proposal = ask(active[-1], None)
        trial = yield proposal


def _starters(
    key: Key[Array, ""],
    space: Space,
    seen: Mapping[int, list[Trial]],
    good: float,
    candidates: int,
    random_fraction: float,
) -> Iterator[Any]:
    uniform, draws = jax.random.split(key)
    rng = seeded(draws)
    levels = np.array([len(ops) for choices in space.cells.values() for ops in choices.ops])
    fewest = len(levels) + 1
    for n in itertools.count():
        enough = [
            trials for trials in seen.values() if len(trials) >= 2 * fewest
        ]  # the longest is last
        if not enough or rng.random() < random_fraction:
            yield space.sample(jax.random.fold_in(uniform, n))
            continue
        best_first = sorted(
            enough[-1], key=lambda trial: math.inf if math.isnan(trial.value) else -trial.value
        )
        picks = np.array([_picks(space, trial.genotype) for trial in best_first])
        number = min(max(fewest, int(good * len(picks))), len(picks) - fewest)
        of_good, of_bad = (
            log_probabilities(picks[:number], levels),
            log_probabilities(picks[number:], levels),
        )
        # The largest of log-probabilities with Gumbel noise is a draw from the probabilities.
        drawn = np.argmax(of_good + rng.gumbel(size=(candidates, *of_good.shape)), axis=2)
        rows = np.arange(len(levels))
        ratios = np.sum(of_good[rows, drawn] - of_bad[rows, drawn], axis=1)
        yield _genotype(space, drawn[np.argmax(ratios)])


def _picks(space: Space, genotype: Any) -> list[int]:
    """The number of the operation in each row, all cells in order."""
    return [
        op for decisions in locate(space.cells, genotype).values() for _, op in sorted(decisions)
    ]


def _genotype(space: Space, picks: Int[np.ndarray, " rows"]) -> Any:
    mix: dict[str, Any] = {}
    for name, choices in space.cells.items():
        cell_picks, picks = picks[: len(choices.ops)], picks[len(choices.ops) :]
        mix[name] = np.eye(choices.shape[1], dtype=np.float32)[cell_picks]
    return space.discretize(mix)
