"""The studies of how well shared weights rank models: all their trainings, in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxdarts.analysis import sharing
from jaxdarts.commands.analyze.agreement import TRUTH
from jaxdarts.commands.analyze.ranking_flags import Config
from jaxdarts.spaces.weight_sharing64 import NAMES


class PlannedTraining(NamedTuple):
    """A training of the studies: what shares weights in it, and for how long.

    study: name of the study.
    instance: its number there.
    group: number of the group in the instance.
    members: numbers of the children that share weights.
    seed: of weights and mini-batches.
    rule, order: which child each mini-batch trains, of `RULES`, and its seed.
    prefix: how many cells are shared, where every child has the rest for itself; None for all and
    the classifier.
    """

    study: str
    instance: int
    group: int
    members: tuple[int, ...]
    seed: int
    rule: str = "fixed"
    order: int = 0
    prefix: int | None = None


RULES: Mapping[str, Callable[[Sequence[int], int, int], np.ndarray]] = {
    "fixed": lambda members, steps, seed: sharing.in_turn(members, steps),
    "one": sharing.in_one_order,
    "every": sharing.in_new_orders,
}
GROUPS = {"random": sharing.random_groups, "similar": sharing.similar_groups}


def trainings(config: Config) -> list[PlannedTraining]:
    """All trainings of all studies, in the order in which they are run."""
    every, planned = tuple(range(len(NAMES))), []
    for i in range(config.instances):
        planned.append(PlannedTraining("seeds", i, 0, every, config.seed + i))
        planned.append(PlannedTraining("orders", i, 0, every, config.seed, "one", i))
        planned.append(PlannedTraining("shuffled orders", i, 0, every, config.seed, "every", i))
    for i in range(config.truth_instances):
        planned += [PlannedTraining(TRUTH, i, child, (child,), config.seed + i) for child in every]
    for i in range(config.instances):
        for kind, groups in GROUPS.items():
            for number in config.groups:
                for group, members in enumerate(groups(number, len(NAMES))):
                    planned.append(
                        PlannedTraining(
                            f"{number} {kind} groups", i, group, tuple(members), config.seed + i
                        )
                    )
        for cells in config.prefixes:
            planned.append(
                PlannedTraining(f"{cells} shared cells", i, 0, every, config.seed + i, prefix=cells)
            )
    return planned


def epochs_of(config: Config, training: PlannedTraining) -> int:
    """How long a training is."""
    if training.study == TRUTH:
        return config.truth_epochs or config.epochs
    return config.epochs if training.prefix is None else config.prefix_epochs
