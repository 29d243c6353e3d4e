"""What a network is called with: bases that say which arguments `init` takes."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from jaxdarts.space import Choices
from jaxdarts.types import Mix


class OfImages:
    """A network of images alone: `apply(variables, images, ...)`."""

    def example_inputs(self, image_shape: tuple[int, ...]) -> tuple[Array]:
        """Arguments that `init` takes, for images of [height, width, channels]."""
        return (jnp.zeros((1, *image_shape)),)


class OfMix:
    """A weight-sharing network, which mixes operations: `apply(variables, images, mix, ...)`."""

    cells: Mapping[str, Choices]

    def example_mix(self) -> Mix:
        """A mix of the right shapes, all zero."""
        return {name: jnp.zeros(choices.shape) for name, choices in self.cells.items()}

    def example_inputs(self, image_shape: tuple[int, ...]) -> tuple[Array, Mix]:
        """Arguments that `init` takes, for images of [height, width, channels]."""
        return jnp.zeros((1, *image_shape)), self.example_mix()


class OfPicks:
    """A network of one operation an edge, by its number: `apply(variables, images, picks, ...)`."""

    cells: Mapping[str, Choices]

    def example_inputs(self, image_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Arguments that `init` takes, for images of [height, width, channels]."""
        return jnp.zeros((1, *image_shape)), jnp.zeros(len(self.cells["cell"].edges), jnp.int32)
