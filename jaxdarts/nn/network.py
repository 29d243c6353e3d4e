"""The network that a genotype is evaluated as.

The skeletons for small images and for ImageNet, auxiliary head, drop path.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdarts.nn.cell import stride_of
from jaxdarts.nn.cnn import (
    Cells,
    Run,
    computed,
    linear,
    noise_keys,
    norm_parameters,
    norm_variables,
    runs,
    uniform,
)
from jaxdarts.nn.inputs import OfImages
from jaxdarts.nn.ops import OPS, Op
from jaxdarts.nn.primitives.norm import Running, batch_norm, moments
from jaxdarts.nn.taps import layer, tell
from jaxdarts.space import Choices


class ConvNorm(nn.Module):
    """A convolution and a `scaled_norm`."""

    width: int
    size: int
    stride: int = 1
    padding: int = 0
    norm: bool = True
    averages: bool = True
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x, train: bool):
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", uniform(self.size**2 * x.shape[-1]), shape)

        def convolved(x, kernel):
            return lax.conv_general_dilated(
                x.astype(self.dtype),
                kernel.astype(self.dtype),
                (self.stride, self.stride),
                [(self.padding, self.padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        x = layer(self, computed(self, convolved, x, kernel), math.prod(shape[:-1]))
        return (
            scaled_norm(self, x, train, self.axis_name, self.averages, self.momentum)
            if self.norm
            else x
        )


def scaled_norm(
    module: nn.Module,
    x: Array,
    train: bool,
    axis_name: str | None,
    averages: bool = True,
    momentum: float = 0.1,
) -> Array:
    """A batch norm with scale, shift and running averages, its variables those of `module`.

    Without `averages` it keeps none and always normalises with the moments of the batch, as
    supernets do.
    """
    shape = (x.shape[-1],)
    if not averages:
        scale, shift = norm_parameters(module, "", shape).values()
        if module.is_initializing():
            return x
        if module.is_mutable_collection("variances"):
            tell(module, "variances", moments(x, axis_name)[1].reshape(-1))
        return batch_norm(x, scale[None, None, None], shift[None, None, None], axis_name=axis_name)
    variables = norm_variables(module, "", shape)
    if module.is_initializing():
        return x
    norm = Running([variables], train, axis_name, momentum)
    (y,) = norm([x])
    if train and module.is_mutable_collection("batch_stats"):
        for name, value in norm.averages[0].items():
            module.put_variable("batch_stats", name, value)
    return y


class TooSmall(ValueError):
    """The images are too small for the auxiliary head."""


class AuxiliaryHead(nn.Module):
    """A second classifier on the state after the last reduction; used in training only.

    For ImageNet the pooling strides by 2 and the last batch norm is missing: a slip in the authors'
    code that they kept, and so do we, since published numbers have it.
    """

    num_classes: int
    imagenet: bool
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        stride = 2 if self.imagenet else 3
        least = 5 + stride  # two poolings of 5x5 a side
        if min(x.shape[1:3]) < least:
            raise TooSmall(
                f"the auxiliary head needs a state of {least}x{least} pixels after the last"
                f" reduction and has {x.shape[1]}x{x.shape[2]}: leave it out, or take larger images"
            )
        wide = jnp.promote_types(self.dtype, jnp.float32)
        x = nn.avg_pool(jax.nn.relu(x).astype(wide), (5, 5), (stride, stride))
        x = jax.nn.relu(
            ConvNorm(128, 1, dtype=self.dtype, axis_name=self.axis_name, name="narrow")(x, train)
        )
        last = ConvNorm(
            768, 2, norm=not self.imagenet, dtype=self.dtype, axis_name=self.axis_name, name="wide"
        )
        x = jax.nn.relu(last(x, train))
        return linear(self, x.reshape(x.shape[0], -1).astype(wide), self.num_classes)


class Network(OfImages, nn.Module):
    """A discrete network of convolutional cells.

    It is `apply(variables, images, train=False, drop_path=None, key=None) -> (logits, auxiliary
    logits)`.

    Variables are `params` and `batch_stats`, the running averages of the batch norms (momentum 0.1
    in PyTorch's sense: the share of the new batch). Auxiliary logits are None unless `auxiliary`
    and `train`. The key is for drop path, of which there is none without it, and for the noise of
    cells that have any, in training or not.

    Attributes:
        cells: the choices of each cell type, one operation an edge (`space.of_genotype`).
        width: channels of the first cells.
        depth: number of cells; reductions at a third and two thirds.
        num_classes: size of the output.
        auxiliary: with the auxiliary head, for images whose state after the last reduction has at
          least 8x8 pixels (7x7 for ImageNet).
        imagenet: the stem of three strided convolutions instead of one convolution.
        ops: declarations of the operations that the cells name.
    """

    cells: Mapping[str, Choices]
    width: int
    depth: int
    num_classes: int
    auxiliary: bool = False
    imagenet: bool = False
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 1
    ops: Mapping[str, Op] = OPS

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        train: bool = False,
        drop_path: Float[Array, ""] | float | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"] | None]:
        def conv(name, width, stride):
            return ConvNorm(
                width, 3, stride, 1, dtype=self.dtype, axis_name=self.axis_name, name=name
            )

        if self.imagenet:
            x = computed(self, jax.nn.relu, conv("stem0_0", self.width // 2, 2)(images, train))
            s0 = conv("stem0_1", self.width, 2)(x, train)
            s1 = conv("stem1", self.width, 2)(computed(self, jax.nn.relu, s0), train)
        else:
            s0 = s1 = conv("stem", 3 * self.width, 1)(images, train)
        if self.is_initializing() and key is None:
            key = jax.random.key(0)  # nothing is drawn from it
        auxiliary, index = None, 0
        for i, run in enumerate(runs(self.width, self.depth)):
            choices = self.cells[run.kind]
            cells = Cells(
                choices,
                run,
                self.dtype,
                self.axis_name,
                self.remat,
                self.unroll,
                discrete=True,
                ops=self.ops,
                name=f"cells{i}_{run.kind}",
            )
            mix = jnp.ones(choices.shape)
            if train and drop_path is not None and key is not None:
                mix = drop_paths(
                    jax.random.fold_in(key, i), drop_path, choices, run, images.shape[0]
                )
            keys = noise_keys(key, choices, run, i, self.axis_name, self.ops)
            s0, s1 = cells(s0, s1, mix, train, keys)
            index += run.repeats
            if (
                self.auxiliary
                and (train or self.is_initializing())
                and index - 1 == 2 * self.depth // 3
            ):
                head = AuxiliaryHead(
                    self.num_classes,
                    self.imagenet,
                    self.dtype,
                    self.axis_name,
                    name="auxiliary_head",
                )
                auxiliary = head(s1, train)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        features = computed(self, lambda x: jnp.mean(x.astype(wide), axis=(1, 2)), s1)
        return linear(self, features, self.num_classes), auxiliary


def drop_paths(
    key: Key[Array, ""], rate: Float[Array, ""] | float, choices: Choices, run: Run, batch_size: int
) -> Float[Array, "cells edges one batch"]:
    """Drop path: a mix that leaves out every operation of every example with probability `rate`.

    Scales what stays by 1 / (1 - rate).

    Identities are never dropped; a skip connection that strides is none (Larsson et al.,
    FractalNet, 2017, as in quark0/darts).
    """
    stride = 2 if run.kind == "reduce" else 1
    kept = [
        op == "skip_connect" and stride_of(choices, e, stride) == 1
        for e, (op,) in enumerate(choices.ops)
    ]
    draws = jax.random.bernoulli(key, 1 - rate, (run.repeats, len(kept), 1, batch_size)) / (
        1 - rate
    )
    return jnp.where(jnp.array(kept)[None, :, None, None], 1.0, draws)
