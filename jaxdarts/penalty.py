"""Penalties: what is added to the loss that the architecture descends, and metrics about it.

A penalty is a function (architecture parameters, the mix that they stand for, step) -> (value,
metrics), so it can be of the mix (`cost`, `zero_one`), of the parameters themselves, or grow with
the step. `bilevel_search` adds its gradient once, whatever else an algorithm descends. An entropy
whose weight rises over 1,000 steps:

>>> import jax
>>> def entropy(arch, mix, step):
...     values = [-jnp.sum(jax.scipy.special.xlogy(rows, rows)) for rows in mix.values()]
...     return jnp.minimum(step / 1000, 1) * sum(values), {"entropy": sum(values)}
>>> arch = {"normal": jnp.zeros((1, 2))}
>>> mix = {"normal": jnp.array([[0.5, 0.5]])}
>>> float(entropy(arch, mix, 500)[0]) == 0.5 * float(jnp.log(2))
True
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import logsumexp
from jaxtyping import Array, Float

from jaxdarts.count import Costs
from jaxdarts.space import Choices
from jaxdarts.types import Arch, Metrics, Mix, Penalty, Schedule, Step

SMALLEST = 1e-30
"""A weight below it counts as none: its inverse times a cost is no number in single precision."""


def none(arch: Arch, mix: Mix, step: Step) -> tuple[Float[Array, ""], Metrics]:
    """No penalty: always zero."""
    return jnp.float32(0), {}


def zero_one(cells: Mapping[str, Choices], weight: float = 10.0) -> Penalty:
    """FairDARTS' L0-1: drives every weight of a `relax.sigmoid` away from one half.

    The penalty is -weight * mean((mix - 0.5)^2).

    Chu, Zhou, Zhang & Li, `Fair DARTS <https://arxiv.org/abs/1911.12126>`_, ECCV 2020, Eq. 4.
    """

    def penalty(arch, mix, step):
        used = {name: cells[name].where() for name in cells}
        squares = sum(jnp.sum(jnp.where(used[name], (mix[name] - 0.5) ** 2, 0)) for name in cells)
        return -weight * jnp.asarray(squares) / sum(int(kept.sum()) for kept in used.values()), {}

    return penalty


def cost(cells: Mapping[str, Choices], costs: Costs, target: float, weight: float = 1.0) -> Penalty:
    """Price of networks above a size: weight * max(0, expected cost / target - 1).

    The expected cost is reported as a metric.

    Args:
        cells: the space's cells.
        costs: `jaxdarts.operation_costs`: what every operation costs on every edge.
        target: the cost that is free, in the units of `costs`.
        weight: of an excess of 100 %, in units of the loss.

    Raises:
        ValueError: if `target` is not positive.
    """
    if not target > 0:
        raise ValueError(f"target is {target}: a cost to aim at is positive")

    def penalty(arch, mix, step):
        expected = expected_cost(cells, costs, mix)
        return weight * jnp.maximum(0, expected / target - 1), {"expected_cost": expected}

    return penalty


def log_cost(cells: Mapping[str, Choices], costs: Costs, weight: float = 1.5e-3) -> Penalty:
    """SNAS' price of every network: weight * log(expected cost).

    The expected cost is reported as a metric.

    Xie et al., `SNAS <https://arxiv.org/abs/1812.09926>`_, ICLR 2019, section 2.3. The logarithm
    and the weight are those of the authors' published command; a factor of all costs has no effect.

    Args:
        cells: the space's cells.
        costs: `jaxdarts.operation_costs`: what every operation costs on every edge.
        weight: in units of the loss.
    """

    def penalty(arch, mix, step):
        expected = expected_cost(cells, costs, mix)
        positive = jnp.maximum(expected, jnp.finfo(expected.dtype).tiny)
        return weight * jnp.log(positive), {"expected_cost": expected}

    return penalty


def beta_decay(cells: Mapping[str, Choices], weight: Schedule) -> Penalty:
    """beta-DARTS' penalty of large parameters: weight(step) * mean of logsumexp over the edges.

    The mean is over the edges of all cells. Its gradient takes more from a parameter the larger its
    softmax, so the differences between operations shrink. With edge normalisation it is of the
    operations' parameters.

    Ye et al., `beta-DARTS <https://arxiv.org/abs/2203.01665>`_, CVPR 2022; `mlc_loss` in its code.
    """
    count = sum(len(choices.edges) for choices in cells.values())

    def penalty(arch, mix, step):
        total = jnp.float32(0)
        for name, choices in cells.items():
            alpha = arch[name]["ops"] if isinstance(arch[name], Mapping) else arch[name]
            total += jnp.sum(logsumexp(jnp.where(choices.where(), alpha, -jnp.inf), axis=1))
        return weight(step) * total / count, {}

    return penalty


def entropy(cells: Mapping[str, Choices], operations: Schedule, edges: Schedule) -> Penalty:
    """Price of undecided mixes: weighted entropies of the operations and of the edges.

    `operations` weighs the sum of the entropies of the operations on every edge, `edges` that of
    the entropies of the edges that enter a node, for nodes that have more than a genotype keeps. An
    edge's weight is the sum of its row. The sum of both entropies is reported as a metric.

    Tian et al., `Discretization-Aware Architecture Search <https://arxiv.org/abs/2007.03154>`_,
    Pattern Recognition 2021.
    """

    def of(weights):
        total = jnp.sum(weights, axis=-1, keepdims=True)
        shares = weights / jnp.where(total > 0, total, 1)
        return -jnp.sum(shares * jnp.log(jnp.maximum(shares, SMALLEST)))

    def penalty(arch, mix, step):
        rows = sum(of(mix[name]) for name in cells)
        nodes = jnp.float32(0)
        for name, choices in cells.items():
            for entering in choices.entering().values():
                if choices.kept is not None and len(entering) > choices.kept:
                    nodes += of(jnp.sum(mix[name][np.array(entering)], axis=1))
        return operations(step) * rows + edges(step) * nodes, {"mix_entropy": rows + nodes}

    return penalty


def both(first: Penalty, second: Penalty) -> Penalty:
    """The sum of two penalties."""

    def penalty(arch, mix, step):
        (a, about_a), (b, about_b) = first(arch, mix, step), second(arch, mix, step)
        return a + b, about_a | about_b

    return penalty


def expected_cost(cells: Mapping[str, Choices], costs: Costs, mix: Mix) -> Float[Array, ""]:
    """Expected cost of the network whose nodes keep `kept` entering edges each.

    Edges are drawn like their operations in proportion to the mix.

    What is never kept has no part in it. At the one-hot mix of a genotype this is the genotype's
    own cost, exactly. Where nothing that may be kept has any weight, all of it counts alike.
    """
    total = jnp.float32(costs.fixed)
    for name, choices in cells.items():
        weights = jnp.where(choices.derivable(), mix[name], 0)
        for edges in choices.entering().values():
            rows = np.array(edges)
            if not choices.derivable()[rows].any():
                continue
            kept = len(edges) if choices.kept is None else choices.kept
            # Divided by the largest first: the weights of a cold mix may be too small for squares.
            largest = lax.stop_gradient(jnp.max(weights[rows]))
            known = largest > SMALLEST
            shares = jnp.where(
                known,
                weights[rows] / jnp.where(known, largest, 1),
                choices.derivable()[rows].astype(weights.dtype),
            )
            total += kept * jnp.sum(shares * costs.operations[name][rows]) / jnp.sum(shares)
    return total
