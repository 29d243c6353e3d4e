"""The published search algorithms, each one expression over relaxations, hypergradients and perturbations."""

from jaxdarts import hypergrad, relax
from jaxdarts.search import Algorithm
from jaxdarts.space import Space


def darts(space: Space, order: int = 2) -> Algorithm:
    """Softmax over the operations of every edge; first-order or exact second-order hypergradient.

    Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search <https://arxiv.org/abs/1806.09055>`_, ICLR 2019.

    Raises:
        ValueError: if `order` is neither 1 nor 2.
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}: DARTS has a first-order (1) and a second-order (2) approximation")
    return Algorithm(relax.softmax(space.cells), hypergrad.unrolled if order == 2 else hypergrad.first_order)
