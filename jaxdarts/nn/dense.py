"""Dense networks, the sub-architectures of SAEP's first generator."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dense(nn.Module):
    """Dense network: hidden layers with ReLU on the flattened image, and a linear classifier.

    It is called as `nn.network.Network` is.

    Attributes:
        width: units of a hidden layer.
        depth: number of hidden layers; 0 for a linear classifier.
        num_classes: size of the output.
    """

    width: int
    depth: int
    num_classes: int

    def example_inputs(self, image_shape: tuple[int, ...]) -> tuple[Array]:
        """Arguments that `init` takes, for images of [height, width, channels]."""
        return (jnp.zeros((1, *image_shape)),)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        train: bool = False,
        drop_path=None,
        key=None,
    ) -> tuple[Float[Array, "batch classes"], None]:
        x = images.reshape(len(images), -1)
        for _ in range(self.depth):
            x = jax.nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.num_classes)(x), None
