"""Parameters and multiply-adds, from shapes alone: nothing is computed or allocated."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxdarts.genotypes import AnyGenotype, Genotype, GraphGenotype, SizeGenotype, pruned
from jaxdarts.nn.benchmarks import nasbench101, nats_size
from jaxdarts.nn.benchmarks.nasbench201 import STAGES
from jaxdarts.nn.cell import stride_of
from jaxdarts.nn.cnn import runs
from jaxdarts.nn.ops import OPS
from jaxdarts.space import Choices, of_genotype
from jaxdarts.types import Module


def count_params(net: Module, image_shape: tuple[int, ...] = ()) -> int:
    """Number of weights of a network for images of [height, width, channels], an auxiliary head not
    counted.

    A language model has no images: leave the shape out.

    >>> from jaxdarts import genotypes, spaces
    >>> net = spaces.darts().network(genotypes.DARTS_V2, width=36, depth=20, num_classes=10)
    >>> count_params(net, (32, 32, 3))
    3349342
    """
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs(image_shape))
    params = {name: own for name, own in variables["params"].items() if name != "auxiliary_head"}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


class Costs(NamedTuple):
    """What a network costs: `fixed` for stem, preprocessing and head; `operations[cell][edge, op]`
    for an operation on an edge, in all cells of that type together.
    """

    fixed: int
    operations: Mapping[str, Int[np.ndarray, "edges ops"]]


def operation_costs(
    cells: Mapping[str, Choices],
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[Costs, Costs]:
    """Parameters and multiply-adds of everything that a discrete network of these cells may be made
    of (no auxiliary head).

    Its batch norms have a scale and a shift each, and none follows a pooling. Multiply-adds are
    those of convolutions and the linear head for one image, as quark0/darts' figures are usually
    recounted. The depth is the number of cells, or of cells a stage for cells of NAS-Bench-201.

    Raises:
        ValueError: if `imagenet` is asked for of a cell of NAS-Bench-201, which has one stem only,
            or if what an operation costs depends on the others, as in the spaces of NAS-Bench-101
            and of sizes.
    """
    if not cells.keys() & {"cell", "normal"}:
        raise ValueError(
            "in this space the cost of an operation depends on the other choices: it has no table"
            " of costs"
        )
    if "cell" in cells:
        if imagenet:
            raise ValueError("a network of NAS-Bench-201 has no stem for ImageNet")
        return _topology_costs(cells["cell"], width, depth, num_classes, image_shape)
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
        {name: np.zeros(own.shape, np.int64) for name, own in cells.items()} for _ in range(2)
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
            for e, o in np.argwhere(choices.where(lambda op: op in OPS)).tolist():
                own = stride_of(choices, e, stride)
                for name, shape in OPS[choices.ops[e][o]].shapes(c, own).items():
                    op_params[run.kind][e, o] += math.prod(shape) + (
                        0 if name.startswith(("depthwise", "row")) else 2 * c
                    )
                    # A row of a stacked pair of lines strides one way only.
                    op_adds[run.kind][e, o] += (
                        math.prod(shape) * out * (own if name.startswith("row") else 1)
                    )
            area = out
            before, last = last, len(choices.concat) * c
    return Costs(params + (last + 1) * num_classes, op_params), Costs(
        adds + last * num_classes, op_adds
    )


def check_image_shape(
    genotype: AnyGenotype, depth: int | None, image_shape: tuple[int, int, int], imagenet: bool
) -> None:
    """Refuses images whose height or width is odd before a reduction, where it cannot be halved.

    Raises:
        ValueError: if so; tells the next size that can.
    """
    height, width, _ = image_shape
    kinds = ["reduce"] * 2  # in the benchmarks' networks, where each needs an even state
    strided = True
    if isinstance(genotype, Genotype):
        kinds = [run.kind for run in runs(1, depth or 1) for _ in range(run.repeats)]
        strided = any(op == "skip_connect" and source < 2 for op, source in genotype.reduce)

    def fits(side: int) -> bool:
        before, last = (-(-side // 4), -(-side // 8)) if imagenet else (side, side)
        for kind in kinds:
            if before != last and before % 2 or kind == "reduce" and strided and last % 2:
                return False
            before, last = last, -(-last // 2) if kind == "reduce" else last
        return True

    if not (fits(height) and fits(width)):
        next_height, next_width = (
            next(size for size in itertools.count(side) if fits(size)) for side in (height, width)
        )
        raise ValueError(
            f"images of {height}x{width}: height and width must be even before every reduction of"
            f" the network; the next size is {next_height}x{next_width}"
            f" (--image_size={max(next_height, next_width)})"
        )


def network_cost(
    genotype: AnyGenotype,
    width: int | None,
    depth: int | None,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds of the network that a genotype is evaluated as; see
    `operation_costs`.

    Width and depth are what they are for the space's `network`; of sizes, which are the genotype's
    own, nothing.

    >>> from jaxdarts import genotypes
    >>> network_cost(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3))[0]
    3349342

    Raises:
        ValueError: if `imagenet` is asked for of a benchmark's network, which has one stem only; or
          if no such network can be built for images of that size, as of `check_image_shape`.
    """
    check_image_shape(genotype, depth, image_shape, imagenet)
    if type(genotype) in _WHOLE:
        if imagenet:
            raise ValueError(f"the network of a {type(genotype).__name__} has no stem for ImageNet")
        return _WHOLE[type(genotype)](genotype, width, depth, num_classes, image_shape)
    if width is None or depth is None:
        raise ValueError(
            f"width is {width}, depth {depth}: the network of a {type(genotype).__name__} has both"
        )
    both = operation_costs(of_genotype(genotype), width, depth, num_classes, image_shape, imagenet)
    params, adds = (
        costs.fixed + sum(int(own.sum()) for own in costs.operations.values()) for costs in both
    )
    return params, adds


class _Tally:
    """Sums up convolutions without bias, each with the scale and shift of a norm or without, and a
    linear head.
    """

    def __init__(self):
        self.params = self.adds = 0

    def convolution(self, size: int, before: int, after: int, area: int, norm: bool = True) -> None:
        self.params += size**2 * before * after + (2 * after if norm else 0)
        self.adds += size**2 * before * after * area

    def head(self, before: int, num_classes: int) -> tuple[int, int]:
        return self.params + (before + 1) * num_classes, self.adds + before * num_classes


def _graph_cost(
    genotype: GraphGenotype,
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> tuple[int, int]:
    height, image_width, channels = image_shape
    graph, tally = pruned(genotype), _Tally()
    tally.convolution(3, channels, width, height * image_width)
    before = width
    for i in range(nasbench101.STACKS):
        for _ in range(depth):
            after = width * 2**i
            for size, _, read, made in nasbench101.weight_shapes(graph, before, after).values():
                tally.convolution(size, read, made, (height >> i) * (image_width >> i))
            before = after
    return tally.head(before, num_classes)


def _size_cost(
    genotype: SizeGenotype,
    width: Any,
    depth: Any,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> tuple[int, int]:
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


_WHOLE: Mapping[type, Callable[..., tuple[int, int]]] = {
    GraphGenotype: _graph_cost,
    SizeGenotype: _size_cost,
}
"""Networks whose cost is no sum over edges: what an operation costs depends on the other choices.
"""


def _topology_costs(
    choices: Choices, width: int, depth: int, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[Costs, Costs]:
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
            for size, *_ in OPS[choices.ops[e][o]].shapes(c, 1).values():
                op_params[e, o] += depth * (size**2 * c * c + 2 * c)
                op_adds[e, o] += depth * size**2 * c * c * area
    params = sum(size**2 * before * after for size, before, after, _ in convolutions) + 2 * norms
    adds = sum(size**2 * before * after * area for size, before, after, area in convolutions)
    return Costs(params + (last + 1) * num_classes, {"cell": op_params}), Costs(
        adds + last * num_classes, {"cell": op_adds}
    )


def multiply_adds(
    genotype: AnyGenotype,
    width: int | None,
    depth: int | None,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> int:
    """Multiply-adds for one image; the second part of `network_cost`.

    >>> from jaxdarts import genotypes
    >>> round(multiply_adds(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3)) / 1e6, 1)
    528.4
    """
    return network_cost(genotype, width, depth, num_classes, image_shape, imagenet)[1]
