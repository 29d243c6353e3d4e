"""The weight-sharing network of NAS-Bench-1Shot1.

Its blocks choose what they read, what they compute and who reads them.

Zela, Siems & Hutter, `NAS-Bench-1Shot1 <https://arxiv.org/abs/2001.10422>`_, ICLR 2020; network as
in its code (optimizers/darts/model_search.py). Discrete cells are trained as networks of
NAS-Bench-101 (`nn.nasbench101`), whose channels depend on the graph, so the two do not share
weights.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdarts.nn.cnn import linear, norm_parameters, uniform
from jaxdarts.nn.inputs import OfMix
from jaxdarts.nn.network import ConvNorm
from jaxdarts.nn.ops import pointwise
from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.norm import batch_norm
from jaxdarts.nn.primitives.pooling import max_pool
from jaxdarts.space import Choices
from jaxdarts.types import Mix

Images = Float[Array, "batch height width channels"]
Out = Float[Array, "batch height width out_channels"]
KERNELS = {"conv3x3-bn-relu": (3, 3), "conv1x1-bn-relu": ()}
"""Leading axes of an operation's kernel, before its input and output channels; the pooling has
none.
"""


def one_shot_cell(
    weights: Mapping[str, Mapping[str, Array]],
    x: Images,
    mix: Mix,
    cells: Mapping[str, Choices],
    norm,
) -> Out:
    """A cell: blocks that sum what they read and mix their operations, and an output.

    A sum has weights where the block has a choice. The output weighs the blocks, concatenates them
    and adds its own projection of the cell's input.

    Args:
        weights: {"projection": those of the input for every block, then for the output, side by
            side; operation: [blocks, ...]}, each a kernel, scale and shift.
        x: the cell's input; zero channels may fill it up.
        mix: {"ops": [blocks, ops], "inputs": [blocks with a choice, sources], "output": [1, input
          and blocks]}.
        cells: the space's.
        norm: batch norm (x, scale, shift).
    """
    blocks, row_of = (
        len(cells["ops"].edges),
        {target: row for row, (_, target) in enumerate(cells["inputs"].edges)},
    )

    def normed(y, of_norm):
        return jax.nn.relu(
            norm(y, *(of_norm[name][None, None, None] for name in ("scale", "shift")))
        )

    projected = normed(pointwise(x, weights["projection"]["kernel"]), weights["projection"])
    *inputs, to_output = jnp.split(
        projected, [projected.shape[-1] // (2 * blocks) * i for i in range(1, blocks + 1)], axis=-1
    )
    states: list[Array] = []
    for block, ops in enumerate(cells["ops"].ops):
        read = [inputs[block], *states]
        if block + 1 in row_of:
            read = [
                weight * state
                for weight, state in zip(mix["inputs"][row_of[block + 1]], read, strict=False)
            ]
        # Read by every operation: computed once.
        y = once_on_cpu(functools.reduce(jnp.add, read).astype(x.dtype))
        terms = []
        for weight, op in zip(mix["ops"][block], ops, strict=True):
            if op not in KERNELS:
                terms.append(weight * max_pool(y, 1))
                continue
            of_block = {name: value[block] for name, value in weights[op].items()}
            apply = convolution if KERNELS[op] else pointwise
            terms.append(weight * normed(apply(y, of_block["kernel"]), of_block))
        states.append(functools.reduce(jnp.add, terms).astype(x.dtype))
    first, *rest = mix["output"][0]
    weighed = jnp.concatenate(
        [weight * state for weight, state in zip(rest, states, strict=True)], axis=-1
    )
    return (first * to_output + weighed).astype(x.dtype)


class Stage(nn.Module):
    """Consecutive cells of one width, compiled once however many.

    The inputs of the first are filled up with zero channels.
    """

    cells: Mapping[str, Choices]
    width: int
    depth: int
    dtype: DTypeLike
    axis_name: str | None
    remat: bool
    unroll: int

    @nn.compact
    def __call__(self, x: Images, mix: Mix) -> Out:
        blocks = len(self.cells["ops"].edges)
        out = blocks * self.width
        widths = [x.shape[-1], *[out] * (self.depth - 1)]
        wide = max(widths)
        projections = [
            self.param(f"projection{n}_kernel", uniform(before), (before, 2 * out))
            for n, before in enumerate(widths)
        ]
        padded = [jnp.pad(kernel, ((0, wide - kernel.shape[0]), (0, 0))) for kernel in projections]
        projection_norm = norm_parameters(self, "projection_", (self.depth, 2 * out))
        weights: dict[str, Any] = {"projection": {"kernel": jnp.stack(padded), **projection_norm}}
        for op, axes in KERNELS.items():
            shape = (self.depth, blocks, *axes, self.width, self.width)
            kernel = self.param(f"{op}_kernel", uniform(math.prod(axes) * self.width), shape)
            weights[op] = {
                "kernel": kernel,
                **norm_parameters(self, f"{op}_", (self.depth, blocks, self.width)),
            }
        weights = {
            op: {**of_op, "kernel": of_op["kernel"].astype(self.dtype)}
            for op, of_op in weights.items()
        }
        if self.is_initializing():  # Shapes are all that matters.
            return jnp.zeros((*x.shape[:-1], out), x.dtype)
        norm = functools.partial(batch_norm, axis_name=self.axis_name)

        def body(x, of_cell):
            y = one_shot_cell(of_cell, x, mix, self.cells, norm)
            return jnp.pad(
                y, [(0, 0)] * 3 + [(0, max(0, wide - out))]
            ), None  # a single cell may narrow its input or widen it

        body = jax.checkpoint(body) if self.remat else body
        x = jnp.pad(x, [(0, 0)] * 3 + [(0, wide - x.shape[-1])])
        if self.depth == 1:
            x, _ = body(x, jax.tree.map(lambda w: w[0], weights))
        else:
            x, _ = lax.scan(body, x, weights, unroll=min(self.unroll, self.depth))
        return x[..., :out]


class Supernet(OfMix, nn.Module):
    """The weight-sharing network: `apply(variables, images, mix, key=None) -> logits`.

    The mix is that of `one_shot_cell`. The key is not used; every supernet takes one. All norms use
    the moments of the batch, and all but the last have a scale and a shift. (The authors' keep
    running averages, which their momentum makes nearly the last batch's moments.)

    Attributes:
        cells: the space's.
        width: channels of the stem and of the first blocks, 16 in the paper; each of two poolings
          doubles them.
        depth: cells, 9 in the paper, 3 at least; the poolings come at a third and two thirds.
        num_classes: size of the output.
    """

    cells: Mapping[str, Choices]
    width: int = 16
    depth: int = 9
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self, images: Images, mix: Mix, key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch classes"]:
        if self.depth < 3:
            raise ValueError(
                f"depth is {self.depth}: NAS-Bench-1Shot1 has three stages of one cell or more"
            )
        stem = ConvNorm(
            self.width,
            3,
            padding=1,
            averages=False,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="stem",
        )
        x = jax.nn.relu(stem(images, True))
        options = (self.dtype, self.axis_name, self.remat, self.unroll)
        bounds = (0, self.depth // 3, 2 * self.depth // 3, self.depth)
        for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
            x = padded_max_pool(x) if i else x
            x = Stage(self.cells, self.width * 2**i, stop - start, *options, name=f"stage{i}")(
                x, mix
            )
        last = self.width * 4
        kernel = self.param("postprocess", uniform(x.shape[-1]), (x.shape[-1], last)).astype(
            self.dtype
        )
        x = batch_norm(pointwise(jax.nn.relu(x), kernel), axis_name=self.axis_name)
        features = jnp.mean(x.astype(jnp.promote_types(self.dtype, jnp.float32)), axis=(1, 2))
        return linear(self, features, self.num_classes)


def padded_max_pool(x: Images) -> Float[Array, "batch out_height out_width channels"]:
    """2x2 maxima with stride 2 and a border of one pixel: n pixels become n // 2 + 1.

    On a tie the gradient is shared.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // 2 + 1, width // 2 + 1
    borders = ((0, 0), (1, 2 * rows - 1 - height), (1, 2 * columns - 1 - width), (0, 0))
    padded = jnp.pad(x, borders, constant_values=-jnp.inf)
    return jnp.max(padded.reshape(batch, rows, 2, columns, 2, channels), axis=(2, 4))
