"""Relaxations: from architecture parameters to a mix, the weights of the operations on every edge."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Key

from jaxdarts.space import Choices
from jaxdarts.types import Arch, Mix, Step


class Relaxation(NamedTuple):
    """init: key -> architecture parameters. apply: (architecture parameters, key, step) -> mix."""

    init: Callable[[Key[Array, ""]], Arch]
    apply: Callable[[Arch, Key[Array, ""], Step], Mix]


def softmax(cells: Mapping[str, Choices], scale: float = 1e-3) -> Relaxation:
    """A softmax over the operations of every edge (Eq. 2 of Liu, Simonyan & Yang, DARTS, 2019).

    Args:
        cells: the space's `Space.cells`; every edge of a cell must offer the same number of operations.
        scale: deviation of the initial parameters. The paper starts at zero, the official code (followed here) at 1e-3 times
            a standard normal, which also decides the ties of an untrained cell.
    """

    def init(key):
        keys = jax.random.split(key, len(cells))
        return {name: scale * jax.random.normal(k, cells[name].shape) for k, name in zip(keys, sorted(cells))}

    def apply(arch, key, step):
        return {name: jax.nn.softmax(alpha) for name, alpha in arch.items()}

    return Relaxation(init, apply)
