"""Flatness of a cell: the accuracy that it loses when one of its operations changes.

NA-DARTS and NA-RS look at this neighbourhood.

Wang, Cao, Li & Kitani, `Neighborhood-Aware Neural Architecture Search
<https://arxiv.org/abs/2105.06369>`_, BMVC 2021, call an architecture flat if its neighbours do as
well as it does. Of the paper only the abstract was at hand: that neighbours differ in the
operations of a given number of edges, and what is reported of them, is a reconstruction.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdarts.space import Choices, locate, of_genotype, with_operation


def shell(cells: Mapping[str, Choices], genotype: Any, radius: int = 1) -> list[Any]:
    """All genotypes that differ from one in the operations of exactly `radius` of its edges.

    The edges stay as they are.

    >>> from jaxdarts import genotypes, spaces
    >>> cell = genotypes.parse("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    >>> [len(shell(spaces.nasbench201().cells, cell, radius)) for radius in (1, 2, 3)]
    [24, 240, 1280]

    Raises:
        ValueError: if `radius` is not between 1 and the number of edges, or the genotype is not of
          this space.
    """
    locate(cells, genotype)
    slots = [
        (name, i, edge, op)
        for name, choices in of_genotype(genotype).items()
        if choices.picks is None  # other rows choose no operations
        for i, (edge, (op,)) in enumerate(zip(choices.keys, choices.ops))
    ]
    if not 1 <= radius <= len(slots):
        raise ValueError(f"radius is {radius}: the cells have {len(slots)} edges")

    def others(name: str, i: int, edge: Any, current: str) -> list[str]:
        choices = cells[name]
        allowed = choices.derivable()[choices.keys.index(edge)]
        return [
            op
            for op, use in zip(choices.ops[choices.keys.index(edge)], allowed)
            if use and op != current
        ]

    neighbours = []
    for chosen in itertools.combinations(slots, radius):
        for ops in itertools.product(*(others(*slot) for slot in chosen)):
            changed = genotype
            for (name, i, _, _), op in zip(chosen, ops, strict=True):
                changed = with_operation(changed, name, i, op)
            neighbours.append(changed)
    return neighbours


def flatness(accuracy: float, of_neighbours: Sequence[float]) -> dict[str, float]:
    """Statistics of the neighbours' accuracies, and the gap to the accuracy of the cell.

    Mean, deviation and minimum of the neighbours' accuracies, and the gap between the cell's own
    and their mean.

    Empty for a cell without neighbours, where no edge has another candidate.
    """
    if not of_neighbours:
        return {}
    values = np.asarray(of_neighbours, float)
    mean = float(values.mean())
    return {
        "neighbours_mean_accuracy": mean,
        "neighbours_deviation": float(values.std()),
        "neighbours_minimum_accuracy": float(values.min()),
        "flatness_gap_accuracy": accuracy - mean,
    }
