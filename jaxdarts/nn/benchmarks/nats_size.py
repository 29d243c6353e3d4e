"""The networks of NATS-Bench's size space: one cell in five layers of any width.

The cell is the best of the topology space.

Dong, Liu, Musial & Gabrys, `NATS-Bench <https://arxiv.org/abs/2009.00437>`_, TPAMI 2021; layers as
in its code (AutoDL-Projects, xautodl/models/shape_infers). The cell is the one with the best
validation accuracy on CIFAR-100. Where it changes the width, its skip connection is a 1x1
convolution and a batch norm without relu.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdarts.genotypes import TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.nn.benchmarks.nasbench201 import LastNorm, averaged_pairs
from jaxdarts.nn.cnn import linear
from jaxdarts.nn.inputs import OfImages
from jaxdarts.nn.network import ConvNorm

_CONV, _SKIP = "nor_conv_3x3", "skip_connect"
CELL = TopologyGenotype(((_CONV, 0), (_CONV, 0), (_CONV, 1), (_SKIP, 0), (_CONV, 1), (_CONV, 2)))
REDUCTIONS = (1, 3)
"""The layers that halve the map: residual blocks."""

Images = Float[Array, "batch height width channels"]


def convolutions(before: int, after: int) -> list[tuple[str, int, int, int]]:
    """The convolutions of a cell: (operation, size, source state, target state).

    A skip is one where the width changes.
    """
    edges = [(op, source, target) for (op, _), (source, target) in zip(CELL.cell, all_edges())]
    return [
        (op, 1 if op == _SKIP else 3, source, target)
        for op, source, target in edges
        if op == _CONV or before != after
    ]


class Network(OfImages, nn.Module):
    """A network of NATS-Bench's size space by its widths.

    It is `apply(variables, images, train=False, drop_path=None, key=None) -> (logits, None)`.

    Variables are `params` and `batch_stats`, the running averages of the batch norms (momentum
    0.1). There is no auxiliary head and nothing is dropped.

    Attributes:
        channels: of the five layers, cell, reduction, cell, reduction, cell; the stem has those of
          the first.
        num_classes: size of the output.
    """

    channels: tuple[int, ...]
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        images: Images,
        train: bool = False,
        drop_path: Float[Array, ""] | float | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch classes"], None]:
        if drop_path is not None:
            raise ValueError("drop_path is given: a network of the size space drops nothing")
        Layer = nn.remat(_Layer, static_argnums=(2,)) if self.remat else _Layer
        stem = ConvNorm(
            self.channels[0], 3, padding=1, dtype=self.dtype, axis_name=self.axis_name, name="stem"
        )
        x = stem(images, train)
        for i, width in enumerate(self.channels):
            x = Layer(width, i in REDUCTIONS, self.dtype, self.axis_name, name=f"layer{i}")(
                x, train
            )
        x = jax.nn.relu(LastNorm(True, self.axis_name, name="last_norm")(x, train))
        features = jnp.mean(x.astype(jnp.promote_types(self.dtype, jnp.float32)), axis=(1, 2))
        return linear(self, features, self.num_classes), None


class _Layer(nn.Module):
    """One cell, or a residual block that halves the map."""

    width: int
    reduction: bool
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(
        self, x: Images, train: bool
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        def conv(name, x, size, stride=1, norm=True):
            options = {"norm": norm, "dtype": self.dtype, "axis_name": self.axis_name}
            return ConvNorm(self.width, size, stride, size // 2, **options, name=name)(x, train)

        if self.reduction:
            y = conv("first", jax.nn.relu(x), 3, stride=2)
            y = conv("second", jax.nn.relu(y), 3)
            return y + conv("shortcut", averaged_pairs(x), 1, norm=False)
        made = {
            (source, target): (op, size)
            for op, size, source, target in convolutions(x.shape[-1], self.width)
        }
        states = {0: x}
        for (source, target), _ in zip(all_edges(), CELL.cell):
            y = states[source]
            if (source, target) in made:
                op, size = made[source, target]
                y = conv(f"edge{source}{target}", y if op == _SKIP else jax.nn.relu(y), size)
            states[target] = states[target] + y if target in states else y
        return states[max(states)]
