"""Dense networks, the sub-architectures of SAEP's first generator."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxdarts.nn.inputs import OfImages


class Dense(OfImages, nn.Module):
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
