"""Parameters and multiply-adds of discrete networks, from shapes alone.

Batch norms have a scale and a shift each, and none follows a pooling. Multiply-adds are those of
convolutions and the linear head for one image, as quark0/darts' figures are usually recounted. An
auxiliary head is not counted.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxdarts.genotypes import AnyGenotype, GraphGenotype, SizeGenotype, pruned
from jaxdarts.nn.benchmarks import nasbench101, nats_size
from jaxdarts.nn.benchmarks.nasbench201 import STAGES
from jaxdarts.nn.cell import stride_of
from jaxdarts.nn.cnn import runs
from jaxdarts.nn.ops import OPS, Norms, Op
from jaxdarts.nn.primitives.norm import scaled
from jaxdarts.space import of_genotype
from jaxdarts.types import Choices


class Costs(NamedTuple):
    """Costs of the parts of a network.

    `fixed` for stem, preprocessing and head; `operations[cell][edge, op]` for an operation on an
    edge, in all cells of that type together.
    """

    fixed: int
    operations: Mapping[str, Int[np.ndarray, "edges ops"]]


@functools.cache
def parameters(op: Op, channels: int, stride: int) -> int:
    """Weights of an operation on one edge of a discrete network.

    Scales and shifts of its batch norms are included.
    """
    norms = []

    def count(bundles, gains=None):
        norms.extend(2 * math.prod(x.shape[:-4]) * x.shape[-1] for x in bundles)
        return bundles

    def run():
        # One state with one edge. The size of the image does not matter; it must be even.
        x = jnp.zeros((1, 1, 16, 16, channels))
        shapes = op.shapes(channels, stride).items()
        weights: dict[str, Any] = {name: jnp.zeros((1, 1, *shape)) for name, shape in shapes}
        if op.random:
            weights["key"] = jax.random.split(jax.random.key(0), (1, 1))
        bundle, last = op.family([weights], x, stride, Norms(count, scaled))
        return last([bundle])

    jax.eval_shape(run)
    return _weights(op, channels, stride) + sum(norms)


def multiply_adds(op: Op, channels: int, stride: int, pixels: int) -> int:
    """Multiply-adds of an operation on one edge for one image that has `pixels` pixels after it."""
    if op.multiply_adds is not None:
        return op.multiply_adds(channels, stride, pixels)
    return _weights(op, channels, stride) * pixels


def _weights(op: Op, channels: int, stride: int) -> int:
    return sum(map(math.prod, op.shapes(channels, stride).values()))


def two_cells(
    cells: Mapping[str, Choices],
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
    ops: Mapping[str, Op] = OPS,
) -> tuple[Costs, Costs]:
    """Parameters and multiply-adds of all that a network of two cells, as DARTS', may have."""
    height, image_width, channels = image_shape
    params = adds = 0

    def convolution(size: int, before: int, after: int, area: int) -> None:
        nonlocal params, adds
        params += size**2 * before * after + 2 * after
        adds += size**2 * before * after * area

    area = height * image_width
    if imagenet:
        for before, after, factor in (
            (channels, width // 2, 4),
            (width // 2, width, 16),
            (width, width, 64),
        ):
            convolution(3, before, after, area // factor)
        area //= 64
        before = last = width  # channels of the two cells before
    else:
        convolution(3, channels, 3 * width, area)
        before = last = 3 * width
    op_params, op_adds = (
        {name: np.zeros(choices.shape, np.int64) for name, choices in cells.items()}
        for _ in range(2)
    )
    for run in runs(width, depth):
        choices, c = cells[run.kind], run.width
        stride = 2 if run.kind == "reduce" else 1
        for _ in range(run.repeats):
            # Halved by the factorised reduction that follows a reduction cell, the older input has
            # this cell's area too.
            convolution(1, before, c, area)
            convolution(1, last, c, area)
            out = math.ceil(area / stride**2)
            for e, o in np.argwhere(choices.where(lambda op: op in ops)).tolist():
                op, edge_stride = ops[choices.ops[e][o]], stride_of(choices, e, stride)
                op_params[run.kind][e, o] += parameters(op, c, edge_stride)
                op_adds[run.kind][e, o] += multiply_adds(op, c, edge_stride, out)
            area = out
            before, last = last, len(choices.concat) * c
    return Costs(params + (last + 1) * num_classes, op_params), Costs(
        adds + last * num_classes, op_adds
    )


def one_cell(
    cells: Mapping[str, Choices],
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[Costs, Costs]:
    """Parameters and multiply-adds of all that a network of NAS-Bench-201 may have.

    Raises:
        ValueError: if `imagenet` is asked for: the network has one stem only.
    """
    _one_stem("NAS-Bench-201", imagenet)
    choices = cells["cell"]
    height, image_width, channels = image_shape
    area, last = height * image_width, width * 2 ** (STAGES - 1)
    convolutions = [(3, channels, width, area)]  # size, channels before and after, pixels
    norms = width + last  # channels of all norms
    op_params, op_adds = np.zeros(choices.shape, np.int64), np.zeros(choices.shape, np.int64)
    for i in range(STAGES):
        c = width * 2**i
        if i:
            area //= 4
            convolutions += [(3, c // 2, c, area), (3, c, c, area), (1, c // 2, c, area)]
            norms += 2 * c
        for e, o in np.argwhere(choices.where(lambda op: op in OPS)).tolist():
            op = OPS[choices.ops[e][o]]
            op_params[e, o] += depth * parameters(op, c, 1)
            op_adds[e, o] += depth * multiply_adds(op, c, 1, area)
    params = sum(size**2 * before * after for size, before, after, _ in convolutions) + 2 * norms
    adds = sum(size**2 * before * after * area for size, before, after, area in convolutions)
    return Costs(params + (last + 1) * num_classes, {"cell": op_params}), Costs(
        adds + last * num_classes, {"cell": op_adds}
    )


def _one_stem(benchmark: str, imagenet: bool) -> None:
    if imagenet:
        raise ValueError(f"a network of {benchmark} has no stem for ImageNet")


def of_sum(
    costs: Callable[..., tuple[Costs, Costs]],
    genotype: AnyGenotype,
    width: int | None,
    depth: int | None,
    *sizes: Any,
    **options: Any,
) -> tuple[int, int]:
    """Parameters and multiply-adds of a network whose cost is a sum over its operations.

    Operations cost the same whatever the others are.

    Args:
        costs: `two_cells` or `one_cell`.
        genotype, width, depth: the network.
        sizes, options: further arguments of `costs`.
    """
    if width is None or depth is None:
        raise ValueError(
            f"width is {width}, depth {depth}: the network of a {type(genotype).__name__} has both"
        )
    params, adds = (
        count.fixed + sum(int(cost.sum()) for cost in count.operations.values())
        for count in costs(of_genotype(genotype), width, depth, *sizes, **options)
    )
    return params, adds


class _Tally:
    """Sums up the costs of convolutions without bias, and of a linear head.

    Each convolution has the scale and shift of a norm or not.
    """

    def __init__(self):
        self.params = self.adds = 0

    def convolution(self, size: int, before: int, after: int, area: int, norm: bool = True) -> None:
        self.params += size**2 * before * after + (2 * after if norm else 0)
        self.adds += size**2 * before * after * area

    def head(self, before: int, num_classes: int) -> tuple[int, int]:
        return self.params + (before + 1) * num_classes, self.adds + before * num_classes


def graph(
    genotype: GraphGenotype,
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds of a network of NAS-Bench-101."""
    _one_stem("NAS-Bench-101", imagenet)
    height, image_width, channels = image_shape
    core, tally = pruned(genotype), _Tally()
    tally.convolution(3, channels, width, height * image_width)
    before = width
    for i in range(nasbench101.STACKS):
        for _ in range(depth):
            after = width * 2**i
            for size, _, read, made in nasbench101.weight_shapes(core, before, after).values():
                tally.convolution(size, read, made, (height >> i) * (image_width >> i))
            before = after
    return tally.head(before, num_classes)


def channels(
    genotype: SizeGenotype,
    width: Any,
    depth: Any,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds of a network of NATS-Bench's size space.

    Its width and depth are the genotype's.
    """
    _one_stem("NATS-Bench", imagenet)
    height, image_width, before = image_shape
    tally, area = _Tally(), height * image_width
    tally.convolution(3, before, genotype.channels[0], area)
    before = genotype.channels[0]
    for i, after in enumerate(genotype.channels):
        if i in nats_size.REDUCTIONS:
            area //= 4
            tally.convolution(1, before, after, area, norm=False)
            sizes = [(3, before), (3, after)]
        else:
            sizes = [
                (size, after if source else before)
                for _, size, source, _ in nats_size.convolutions(before, after)
            ]
        for size, read in sizes:
            tally.convolution(size, read, after, area)
        before = after
    tally.params += 2 * before  # the last norm
    return tally.head(before, num_classes)
