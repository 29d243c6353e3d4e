"""The networks of NAS-Bench-101: three stacks of modules.

Each module is the graph that a genotype is.

Ying, Klein, Christiansen, Real, Murphy & Hutter, `NAS-Bench-101
<https://arxiv.org/abs/1902.09635>`_, ICML 2019; module, channels and skeleton as in its code
(nasbench/lib/model_builder.py).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdarts.genotypes import GraphGenotype
from jaxdarts.nn.cnn import linear, norm_sites, over_cells, uniform
from jaxdarts.nn.inputs import OfImages
from jaxdarts.nn.network import ConvNorm
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.pooling import max_pool, max_pool_2x2

STACKS = 3
MOMENTUM = 0.003
"""Share of the new moments in the running averages; the benchmark's code says 0.997, the share of
the old ones.
"""
KERNELS = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}

Images = Float[Array, "batch height width channels"]
Out = Float[Array, "batch height width out_channels"]


def vertex_channels(graph: GraphGenotype, before: int, after: int) -> tuple[int, ...]:
    """Output channels of every vertex of a pruned graph.

    The graph is a module that makes `after` channels of `before`.

    Those that the output reads share its channels evenly, and the first ones take one more each
    where that leaves a rest; the others have as many as the widest vertex that reads them.

    Raises:
        ValueError: if there are fewer channels than vertices that share them.

    >>> from jaxdarts.genotypes import parse
    >>> graph = parse("ModelSpec(matrix=[[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], "
    ...               "ops=['input', 'maxpool3x3', 'conv3x3-bn-relu', 'output'])")
    >>> vertex_channels(graph, 3, 9)
    (3, 5, 4, 9)
    """
    matrix, last = graph.matrix, len(graph.ops) - 1
    feeding = [v for v in range(1, last) if matrix[v][last]]
    if after < len(feeding):
        raise ValueError(
            f"{after} channels are shared by {len(feeding)} vertices: the network must be wider"
        )
    channels = [before, *[0] * (last - 1), after]
    for i, v in enumerate(feeding):
        channels[v] = after // len(feeding) + (i < after % len(feeding))
    for v in reversed(range(1, last)):
        if not matrix[v][last]:
            channels[v] = max(channels[w] for w in range(v + 1, last) if matrix[v][w])
    return tuple(channels)


def weight_shapes(
    graph: GraphGenotype, before: int, after: int
) -> dict[str, tuple[int, int, int, int]]:
    """Shapes of the kernels of a module.

    They are `projection<v>` of its input for vertex v, `convolution<v>` of vertex v itself.
    """
    channels, last = vertex_channels(graph, before, after), len(graph.ops) - 1
    shapes = {}
    for v in range(1, last + 1):
        if graph.matrix[0][v]:
            shapes[f"projection{v}"] = (1, 1, before, channels[v])
        if size := KERNELS.get(graph.ops[v]):
            shapes[f"convolution{v}"] = (size, size, channels[v], channels[v])
    return shapes


def module(weights, x: Images, graph: GraphGenotype, channels: tuple[int, ...], norm) -> Out:
    """One module: every vertex sums what it reads, the output concatenates it.

    The input is projected for each reader.

    Args:
        weights: of `weight_shapes`, one module's.
        x: what comes in.
        graph: pruned.
        channels: of `vertex_channels`; a vertex drops what a wider one has more.
        norm: batch norm, called in the order of the vertices.
    """

    def conv(name, x):
        return jax.nn.relu(norm(convolution(x, weights[name])))

    last = len(graph.ops) - 1
    states = {}
    for v in range(1, last):
        read = [states[w][..., : channels[v]] for w in range(1, v) if graph.matrix[w][v]]
        if graph.matrix[0][v]:
            read.append(conv(f"projection{v}", x))
        y = functools.reduce(jnp.add, read)
        states[v] = conv(f"convolution{v}", y) if graph.ops[v] in KERNELS else max_pool(y, 1)
    parts = [states[v] for v in range(1, last) if graph.matrix[v][last]]
    out = [jnp.concatenate(parts, axis=-1)] if parts else []
    if graph.matrix[0][last]:
        out.append(conv(f"projection{last}", x))
    return functools.reduce(jnp.add, out)


class Modules(nn.Module):
    """Consecutive modules of one width and with inputs of one width.

    They are compiled once however many, as `nasbench201.Stage`.
    """

    graph: GraphGenotype
    width: int
    depth: int
    dtype: DTypeLike
    axis_name: str | None
    remat: bool
    unroll: int
    discrete: bool = True

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Out:
        before = x.shape[-1]
        channels = vertex_channels(self.graph, before, self.width)
        weights = {}
        for name, shape in weight_shapes(self.graph, before, self.width).items():
            init = uniform(shape[0] * shape[1] * shape[2])
            weights[name] = self.param(name, init, (self.depth, *shape)).astype(self.dtype)

        def one(x, of_cell, mix, norms):
            return module(of_cell, x, self.graph, channels, lambda x: norms.conv([x])[0])

        none = jnp.zeros(())  # a mix is for cells with choices
        sites = norm_sites(self, self.depth, one, x, weights, none)
        if self.is_initializing():  # Shapes are all that matters.
            return jnp.zeros((*x.shape[:-1], self.width), x.dtype)
        return over_cells(self, one, x, weights, sites, none, train, self.depth, MOMENTUM)


class Network(OfImages, nn.Module):
    """The network of a graph of NAS-Bench-101.

    It is `apply(variables, images, train=False, drop_path=None, key=None) -> (logits, None)`.

    Variables are `params` and `batch_stats`, the running averages of the batch norms. There is no
    auxiliary head and nothing is dropped. Weights start as in all networks here, not from the
    benchmark's truncated normal; a batch norm follows each convolution.

    Attributes:
        graph: pruned.
        width: channels of the stem and the first stack; each of the other two has twice as many as
            the one before. 128 in the benchmark.
        depth: modules a stack, 3 in the benchmark.
        num_classes: size of the output.
    """

    graph: GraphGenotype
    width: int = 128
    depth: int = 3
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        images: Images,
        train: bool = False,
        drop_path: Float[Array, ""] | float | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch classes"], None]:
        if drop_path is not None:
            raise ValueError("drop_path is given: a network of NAS-Bench-101 drops nothing")
        stem = ConvNorm(
            self.width,
            3,
            padding=1,
            dtype=self.dtype,
            axis_name=self.axis_name,
            momentum=MOMENTUM,
            name="stem",
        )
        x = jax.nn.relu(stem(images, train))
        for i in range(STACKS):
            x = max_pool_2x2(x) if i else x
            # The first module of a stack has an input of another width.
            for name, depth in ((f"stack{i}_first", 1), (f"stack{i}", self.depth - 1)):
                if depth:
                    options = (self.dtype, self.axis_name, self.remat, self.unroll)
                    x = Modules(self.graph, self.width * 2**i, depth, *options, name=name)(x, train)
        features = jnp.mean(x.astype(jnp.promote_types(self.dtype, jnp.float32)), axis=(1, 2))
        return linear(self, features, self.num_classes), None
