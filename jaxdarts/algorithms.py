"""Published search algorithms as combinations of the library's parts.

Each one is one expression over relaxations, hypergradients, perturbations, penalties, and rules for
the weights' gradient.

Defaults are the papers'; `order` 1 takes the weights as they are, 2 unrolls the optimiser's step.
What belongs to a network or an optimiser (partial channels, warm-up, learning rates) is not here:
`jaxdarts search --algorithm=NAME` sets it together with the algorithm. Schedules are functions of
the step; `by_epoch` makes them.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array

from jaxdarts import descent, hypergrad, implicit, penalty, perturb, relax
from jaxdarts.bilevel import Algorithm
from jaxdarts.count import Costs
from jaxdarts.space import Space
from jaxdarts.types import Schedule


def by_epoch(start: float, end: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """Schedule that moves in equal steps from `start` in the first epoch towards `end`.

    The epochs after the last one have `end`.

    >>> float(by_epoch(0.0, 1.0, epochs=4, steps_per_epoch=10)(19))
    0.25
    """
    return lambda step: (
        start + (end - start) * jnp.minimum(step // steps_per_epoch, epochs) / epochs
    )


def fading_dropout(start: float, epochs: int, warm_up: int, steps_per_epoch: int) -> Schedule:
    """P-DARTS' rate of dropout after skip connections, in one stage.

    In epoch e it is start (epochs - e - 1) / epochs during the warm-up, whose epochs train weights
    alone, and start exp(-0.2 (e - warm_up)) after it.

    Chen, Xie, Wu & Tian, `Progressive DARTS <https://arxiv.org/abs/1904.12760>`_, ICCV 2019; the
    numbers are those of its code.

    >>> rate = fading_dropout(0.5, epochs=25, warm_up=10, steps_per_epoch=2)
    >>> [round(float(rate(2 * epoch)), 3) for epoch in (0, 9, 10, 15)]
    [0.48, 0.3, 0.5, 0.184]
    """

    def rate(step):
        epoch = step // steps_per_epoch
        before, after = (epochs - epoch - 1) / epochs, jnp.exp(-0.2 * (epoch - warm_up))
        return start * jnp.where(epoch < warm_up, before, after)

    return rate


def slow_start(last: float, epoch: Schedule, epochs: int, warm_up: int = 0) -> Schedule:
    """DA2S' weight of the operations' entropy: a line times a logarithm, zero in the warm-up.

    It is about `last` in the last epoch. `epoch` is the number of a step's epoch, from 0.

    Tian et al., `Discretization-Aware Architecture Search <https://arxiv.org/abs/2007.03154>`_,
    2021; the numbers are those of its code, with 50 epochs and a warm-up of 7.

    >>> weight = slow_start(0.1, lambda step: step // 2, epochs=50, warm_up=7)
    >>> [round(float(weight(2 * epoch)), 4) for epoch in (0, 7, 20, 48)]
    [0.0, 0.0, 0.0288, 0.098]
    """

    def weight(step):
        line = epoch(step) / max(epochs - 1, 1)
        since = jnp.maximum(epoch(step) - warm_up + 1, 1)
        return last * line * jnp.log(since) / jnp.log(max(epochs - warm_up - 1, 2))

    return weight


def darts(space: Space, order: int = 2) -> Algorithm:
    """Softmax over the operations of every edge; first-order or exact second-order hypergradient.

    Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search
    <https://arxiv.org/abs/1806.09055>`_, ICLR 2019.

    Raises:
        ValueError: if `order` is neither 1 nor 2.
    """
    return Algorithm(relax.softmax(space.cells), _of_order(order))


def finite_difference(space: Space) -> Algorithm:
    """DARTS as its authors' code has it: the second order by a finite difference.

    A baseline for `darts`, whose second order is exact (`hypergrad.finite_difference`).

    Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search
    <https://arxiv.org/abs/1806.09055>`_, ICLR 2019, Eq. 8.
    """
    return Algorithm(relax.softmax(space.cells), hypergrad.finite_difference)


def sdarts_rs(space: Space, epsilon: Schedule, order: int = 1) -> Algorithm:
    """SmoothDARTS with random smoothing: weights are trained at a mix with noise.

    The noise is at most `epsilon`, published 0.03 to 0.3.

    Chen & Hsieh, `SmoothDARTS <https://arxiv.org/abs/2002.05283>`_, ICML 2020.
    """
    return Algorithm(
        relax.softmax(space.cells), _of_order(order), perturb.random_noise(space.cells, epsilon)
    )


def sdarts_adv(space: Space, epsilon: Schedule, num_steps: int = 7, order: int = 1) -> Algorithm:
    """SmoothDARTS with adversarial perturbation: weights are trained at the worst mix nearby.

    It lies within `epsilon`, published 0.03 to 0.3.

    Chen & Hsieh, `SmoothDARTS <https://arxiv.org/abs/2002.05283>`_, ICML 2020.
    """
    return Algorithm(
        relax.softmax(space.cells),
        _of_order(order),
        perturb.adversarial(space.cells, epsilon, num_steps),
    )


def idarts(space: Space, num_terms: int = 3) -> Algorithm:
    """iDARTS: the hypergradient of the implicit function theorem, by a Neumann series.

    `num_terms` is that of the authors' code on NAS-Bench-201 (its K = 2 counts from zero). The code
    takes four steps of the weights before the series; here the weights are as they are
    (`implicit.neumann`).

    Zhang et al., `iDARTS <https://arxiv.org/abs/2106.10784>`_, ICML 2021.
    """
    return Algorithm(relax.softmax(space.cells), implicit.neumann(num_terms))


def milenas(space: Space, order: int = 1, weight: float = 1.0) -> Algorithm:
    """MiLeNAS: the architecture descends a sum of the training loss and the validation loss.

    The validation loss counts `weight` times, the paper's lambda.

    He, Ye, Shen & Zhang, `MiLeNAS <https://arxiv.org/abs/2003.12238>`_, CVPR 2020. Its code updates
    the architecture first, as here; Algorithm 1 of the paper the weights.

    Raises:
        ValueError: if `order` is neither 1 nor 2.
    """
    return Algorithm(relax.softmax(space.cells), hypergrad.mixed_level(weight, _of_order(order)))


def na_darts(
    space: Space,
    num_neighbours: int = 4,
    distance: int = 1,
    aggregate: Callable[[Array], Array] = jnp.mean,
    order: int = 1,
) -> Algorithm:
    """NA-DARTS: the architecture ascends the performance of itself and of similar architectures.

    The performance of itself and of `num_neighbours` similar ones is aggregated.

    Wang, Cao, Li & Kitani, `Neighborhood-Aware NAS <https://arxiv.org/abs/2105.06369>`_, BMVC 2021.
    A reconstruction: the neighbourhood (`hypergrad.permuted_edges`) and all numbers are ours.

    Raises:
        ValueError: if a number is out of range.
    """
    neighbours = hypergrad.permuted_edges(space.cells, num_neighbours, distance)
    return Algorithm(
        relax.softmax(space.cells), hypergrad.neighbourhood(neighbours, aggregate, _of_order(order))
    )


def a2m(space: Space, radius: float = 1e-2, num_steps: int = 1, order: int = 1) -> Algorithm:
    """FlatDARTS: the architecture descends the validation loss at a worse point nearby.

    That point is a step uphill from itself; see `hypergrad.flat_minimum`.

    `arXiv 2503.10404 <https://arxiv.org/abs/2503.10404>`_.
    """
    return Algorithm(
        relax.softmax(space.cells), hypergrad.flat_minimum(radius, num_steps, _of_order(order))
    )


def joint(space: Space) -> Algorithm:
    """One-level search: weights and architecture take their steps together on the training loss.

    The ablation of section 3.3 of DARTS.
    """
    return Algorithm(relax.softmax(space.cells), hypergrad.single_level, simultaneous=True)


def coordinate_descent(space: Space) -> Algorithm:
    """One-level search: architecture and weights take turns on the training loss.

    The ablation of section 3.3 of DARTS.
    """
    return Algorithm(relax.softmax(space.cells), hypergrad.single_level)


def random_sharing(space: Space) -> Algorithm:
    """Random search with weight sharing: every weight step trains a random cell.

    One cell is chosen by validation in the end.

    Li & Talwalkar, `Random Search and Reproducibility for NAS <https://arxiv.org/abs/1902.07638>`_,
    UAI 2019.
    """
    return Algorithm(relax.uniform_path(space.cells))


def fixed_alpha(space: Space) -> Algorithm:
    """DARTS+PT with fixed alpha: weights alone are trained, at a mix of equal operations.

    The cell is chosen by validation in the end (`derive.by_perturbation`, `derive.by_shapley`).
    Theirs has the first alpha of DARTS, near zero; here it is zero.

    Wang, Cheng, Chen, Tang & Hsieh, `Rethinking Architecture Selection in Differentiable NAS
    <https://arxiv.org/abs/2108.04392>`_, ICLR 2021.
    """
    return Algorithm(relax.uniform(space.cells))


def pc_darts(space: Space, order: int = 1) -> Algorithm:
    """PC-DARTS' edge normalisation; its partial channels are the supernet's (`partial=4`).

    Xu et al., `PC-DARTS <https://arxiv.org/abs/1907.05737>`_, ICLR 2020.
    """
    return Algorithm(relax.edge_softmax(space.cells), _of_order(order))


def gdas(space: Space, temperature: Schedule, order: int = 1) -> Algorithm:
    """GDAS: one drawn operation an edge in each step, published temperature 10 to 0.1.

    The gradient is the authors': of the drawn operation alone (`relax.drawn`). In a space that
    draws sources as well it is that of `straight_through`. The weight step follows the
    architecture's, each with a draw of its own; the authors' code has them the other way round. A
    supernet with `one_path` computes the drawn operations alone. A genotype is DARTS' (two edges a
    node); the authors' may keep two operations of one edge.

    Dong & Yang, `GDAS <https://arxiv.org/abs/1910.04465>`_, CVPR 2019.
    """
    if any(choices.picks is not None for choices in space.cells.values()):
        return straight_through(space, temperature, order)
    return Algorithm(relax.drawn(space.cells, temperature), _of_order(order))


def straight_through(space: Space, temperature: Schedule, order: int = 1) -> Algorithm:
    """One drawn operation an edge, with the gradient of the soft draw by all operations.

    These are the equations of the GDAS paper; the code of its authors is `gdas`.
    """
    return Algorithm(relax.gumbel(space.cells, temperature, hard=True), _of_order(order))


def reinmax(space: Space, temperature: Schedule) -> Algorithm:
    """ReinMax in place of straight-through: one drawn operation an edge, a better gradient.

    The published temperature is 1 or above. Besides the gradient it is `straight_through`, first
    order; the draw is that of the softmax, at no temperature.

    Liu, Dong, Liu, Yu & Gao, `Bridging Discrete and Backpropagation
    <https://arxiv.org/abs/2304.08612>`_, NeurIPS 2023. Their code has no search; settings are
    GDAS'.
    """
    return Algorithm(relax.reinmax(space.cells, temperature))


def snas(
    space: Space, temperature: Schedule, costs: Costs | None = None, weight: float = 1.5e-3
) -> Algorithm:
    """SNAS: one-level search with relaxed draws of the operations.

    The published temperature goes from 1 to 0.03. A genotype is DARTS' (two edges a node).

    With `costs` (`jaxdarts.operation_costs`) the loss has the paper's second term: `weight`,
    published 1.5e-3, times the logarithm of the expected cost.

    Xie et al., `SNAS <https://arxiv.org/abs/1812.09926>`_, ICLR 2019.
    """
    relaxation = relax.gumbel(space.cells, temperature, scale=1e-2)
    price = penalty.none if costs is None else penalty.log_cost(space.cells, costs, weight)
    return Algorithm(relaxation, hypergrad.single_level, penalty=price, simultaneous=True)


def drnas(space: Space) -> Algorithm:
    """DrNAS: mixing weights drawn from learnt Dirichlet distributions, first order.

    The pull towards the uniform distribution is the weight decay of the architecture's optimiser,
    as in the authors' code. Its two stages are those of `jaxdarts search --algorithm=drnas`.

    Chen et al., `DrNAS <https://arxiv.org/abs/2006.10355>`_, ICLR 2021.
    """
    return Algorithm(relax.dirichlet(space.cells))


def fair_darts(space: Space, weight: float = 10.0, order: int = 1) -> Algorithm:
    """FairDARTS: independent sigmoids, driven to zero or one by `weight` times the L0-1 loss.

    A genotype keeps two edges a node; the authors' leaves out those whose weight is below 0.85.

    Chu, Zhou, Zhang & Li, `Fair DARTS <https://arxiv.org/abs/1911.12126>`_, ECCV 2020.
    """
    return Algorithm(
        relax.sigmoid(space.cells), _of_order(order), penalty=penalty.zero_one(space.cells, weight)
    )


def darts_minus(space: Space, amount: Schedule, order: int = 1) -> Algorithm:
    """DARTS-: an auxiliary skip connection beside every edge, its weight `amount` published 1 to 0.

    Chu et al., `DARTS- <https://arxiv.org/abs/2009.01027>`_, ICLR 2021.

    Raises:
        ValueError: if an edge has no skip connection.
    """
    return Algorithm(
        relax.auxiliary_skip(relax.softmax(space.cells), space.cells, amount), _of_order(order)
    )


def beta_darts(space: Space, weight: Schedule, order: int = 1) -> Algorithm:
    """beta-DARTS: the parameters of an edge pay for their logsumexp, so they stay near each other.

    The published `weight` rises from 0 to 50. Theirs is 50 epoch / 100, for any number of epochs;
    here it ends at its last value. The authors' script has one cell (NAS-Bench-201); with two, the
    mean is over the edges of both.

    Ye et al., `beta-DARTS <https://arxiv.org/abs/2203.01665>`_, CVPR 2022.
    """
    return Algorithm(
        relax.softmax(space.cells),
        _of_order(order),
        penalty=penalty.beta_decay(space.cells, weight),
    )


def gaea(space: Space, edges: bool = False, order: int = 1) -> Algorithm:
    """GAEA: exponentiated gradient on the simplex, if the architecture's optimiser is plain SGD.

    `optax.sgd(0.1)` is the published one, without weight decay. With `edges` the weights of edges
    descend so too: GAEA PC-DARTS, with `partial=4` in the supernet. All weights start equal. Theirs
    lifts a weight below 1e-5 to that; here it stays as small as it is.

    Li, Khodak, Balcan & Talwalkar, `Geometry-Aware Gradient Algorithms for Neural Architecture
    Search <https://arxiv.org/abs/2004.07802>`_, ICLR 2021.
    """
    make = relax.edge_softmax if edges else relax.softmax
    return Algorithm(make(space.cells, scale=0.0, mirrored=True), _of_order(order))


def da2s(space: Space, operations: Schedule, edges: Schedule, order: int = 1) -> Algorithm:
    """DA2S: the entropy of operations and edges has a price that rises, so the mix becomes a cell.

    The published weights are `slow_start(0.1, ...)` for the operations, and for the edges a line
    from 0 to 0.4. Edges have the softmax of PC-DARTS, without its partial channels. The authors
    also stretch alpha, multiply a node's edges by their number, and bound the sum of their
    parameters.

    Tian et al., `Discretization-Aware Architecture Search <https://arxiv.org/abs/2007.03154>`_,
    Pattern Recognition 2021.
    """
    return Algorithm(
        relax.edge_softmax(space.cells),
        _of_order(order),
        penalty=penalty.entropy(space.cells, operations, edges),
    )


def oles(space: Space, threshold: float = 0.4, num_batches: int = 20) -> Algorithm:
    """OLES: the weights of an operation stop for good when its gradients disagree, first order.

    The two gradients, of the training and the validation loss, are of one step and the same
    weights; in the authors' code the training gradient is that of the step before, clipped. What
    stops has a gradient of zero: momentum and weight decay go on, as in that code under a PyTorch
    before 2. `threshold` and `num_batches` are published.

    Jiang, Ji, Zhu, Yuan & Huang, `Operation-Level Early Stopping
    <https://openreview.net/forum?id=yAOwkf4FyL>`_, NeurIPS 2023.
    """
    rule = descent.early_stopping(descent.of_cells(space.cells), threshold, num_batches)
    return Algorithm(relax.softmax(space.cells), rule=rule)


def lambda_darts(space: Space, num_cells: Mapping[str, int], weight: Schedule) -> Algorithm:
    """Lambda-DARTS: the weights align the cells' gradients by the mix, first order.

    `num_cells` says how many cells of the aligned kinds the supernet has (`net.num_cells()`); the
    authors align normal cells only. The published `weight` rises from 0 to 0.125 on CIFAR-10.

    Movahedi et al., `Lambda-DARTS <https://arxiv.org/abs/2210.07998>`_, ICLR 2023.
    """
    return Algorithm(relax.softmax(space.cells), rule=descent.aligned(num_cells, weight))


def _of_order(order: int):
    if order not in (1, 2):
        raise ValueError(
            f"order is {order}: there is a first-order (1) and a second-order (2) approximation"
        )
    return hypergrad.unrolled if order == 2 else hypergrad.first_order
