"""Penalties: what is added to the validation loss for the mix itself, and metrics about it."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdarts.count import Costs
from jaxdarts.space import Choices
from jaxdarts.types import Metrics, Mix, Penalty


def none(mix: Mix) -> tuple[Float[Array, ""], Metrics]:
    """Nothing."""
    return jnp.float32(0), {}


def zero_one(cells: Mapping[str, Choices], weight: float = 10.0) -> Penalty:
    """FairDARTS' L0-1: drives every weight of a `relax.sigmoid` away from one half, -weight *
    mean((mix - 0.5)^2).

    Chu, Zhou, Zhang & Li, `Fair DARTS <https://arxiv.org/abs/1911.12126>`_, ECCV 2020, Eq. 4.
    """

    def penalty(mix):
        used = {name: cells[name].where() for name in cells}
        squares = sum(jnp.sum(jnp.where(used[name], (mix[name] - 0.5) ** 2, 0)) for name in cells)
        return -weight * jnp.asarray(squares) / sum(int(own.sum()) for own in used.values()), {}

    return penalty


def cost(cells: Mapping[str, Choices], costs: Costs, target: float, weight: float = 1.0) -> Penalty:
    """A price for networks above a size: weight * max(0, expected cost / target - 1), the expected
    cost reported as a metric.

    Args:
        cells: the space's cells.
        costs: `jaxdarts.operation_costs`: what every operation costs on every edge.
        target: the cost that is free, in the units of `costs`.
        weight: of an excess of 100 %, in units of the validation loss.

    Raises:
        ValueError: if `target` is not positive.
    """
    if not target > 0:
        raise ValueError(f"target is {target}: a cost to aim at is positive")

    def penalty(mix):
        expected = expected_cost(cells, costs, mix)
        return weight * jnp.maximum(0, expected / target - 1), {"expected_cost": expected}

    return penalty


def both(first: Penalty, second: Penalty) -> Penalty:
    """The sum of two penalties."""

    def penalty(mix):
        (a, about_a), (b, about_b) = first(mix), second(mix)
        return a + b, about_a | about_b

    return penalty


def expected_cost(cells: Mapping[str, Choices], costs: Costs, mix: Mix) -> Float[Array, ""]:
    """Cost of the network whose nodes keep `kept` entering edges each, drawn like their operations
    in proportion to the mix.

    What is never kept has no part in it. At the one-hot mix of a genotype this is the genotype's
    own cost, exactly.
    """
    total = jnp.float32(costs.fixed)
    for name, choices in cells.items():
        weights = jnp.where(choices.derivable(), mix[name], 0)
        for edges in choices.entering().values():
            rows = np.array(edges)
            kept = len(edges) if choices.kept is None else choices.kept
            total += (
                kept
                * jnp.sum(weights[rows] * costs.operations[name][rows])
                / jnp.sum(weights[rows])
            )
    return total
