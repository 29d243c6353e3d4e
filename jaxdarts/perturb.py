"""Perturbations of the mix before a weight step."""

from collections.abc import Callable

from jaxtyping import Array, Key

from jaxdarts.types import Mix, Step


def none(mix: Mix, loss: Callable, key: Key[Array, ""], step: Step) -> Mix:
    """Leaves the mix as it is."""
    return mix
