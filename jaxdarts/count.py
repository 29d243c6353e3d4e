"""Parameters and multiply-adds, from shapes alone: nothing is computed or allocated."""

import math

import jax

from jaxdarts.genotypes import Genotype, TopologyGenotype
from jaxdarts.nn.cell import stride_of
from jaxdarts.nn.cnn import runs
from jaxdarts.nn.nasbench201 import STAGES
from jaxdarts.nn.ops import OPS
from jaxdarts.space import of_genotype
from jaxdarts.types import Module


def count_params(net: Module, image_shape: tuple[int, int, int]) -> int:
    """Number of weights of a network for images of [height, width, channels], an auxiliary head not counted.

    >>> from jaxdarts import genotypes, spaces
    >>> count_params(spaces.darts().network(genotypes.DARTS_V2, width=36, depth=20, num_classes=10), (32, 32, 3))
    3349342
    """
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs(image_shape))
    params = {name: own for name, own in variables["params"].items() if name != "auxiliary_head"}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def network_cost(
    genotype: Genotype | TopologyGenotype,
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[int, int]:
    """Parameters and multiply-adds of the network that a genotype is evaluated as (auxiliary head excluded).

    Its batch norms have a scale and a shift each, and none follows a pooling. Multiply-adds are those of convolutions and the
    linear head for one image, as quark0/darts' figures are usually recounted. The depth is the number of cells, or of cells a
    stage for a cell of NAS-Bench-201.

    Raises:
        ValueError: if `imagenet` is asked for of a cell of NAS-Bench-201, which has one stem only.

    >>> from jaxdarts import genotypes
    >>> network_cost(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3))[0]
    3349342
    """
    if isinstance(genotype, TopologyGenotype):
        if imagenet:
            raise ValueError("a network of NAS-Bench-201 has no stem for ImageNet")
        return _topology_cost(genotype, width, depth, num_classes, image_shape)
    height, image_width, channels = image_shape
    params = adds = 0

    def convolution(size: int, before: int, after: int, area: int) -> None:
        nonlocal params, adds
        params += size**2 * before * after + 2 * after
        adds += size**2 * before * after * area

    area = height * image_width
    if imagenet:
        for before, after, factor in ((channels, width // 2, 4), (width // 2, width, 16), (width, width, 64)):
            convolution(3, before, after, area // factor)
        area //= 64
        before = last = width  # channels of the two cells before
    else:
        convolution(3, channels, 3 * width, area)
        before = last = 3 * width
    cells = of_genotype(genotype)
    for run in runs(width, depth):
        choices, c = cells[run.kind], run.width
        stride = 2 if run.kind == "reduce" else 1
        for _ in range(run.repeats):
            # Halved by the factorised reduction that follows a reduction cell, the older input has this cell's area too.
            convolution(1, before, c, area)
            convolution(1, last, c, area)
            out = math.ceil(area / stride**2)
            for e, (op,) in enumerate(choices.ops):
                own = stride_of(choices, e, stride)
                for name, shape in OPS[op].shapes(c, own).items():
                    params += math.prod(shape) + (0 if name.startswith(("depthwise", "row")) else 2 * c)
                    adds += math.prod(shape) * out * (own if name.startswith("row") else 1)  # it strides one way only
            area = out
            before, last = last, len(choices.concat) * c
    return params + (last + 1) * num_classes, adds + last * num_classes


def _topology_cost(
    genotype: TopologyGenotype, width: int, depth: int, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[int, int]:
    height, image_width, channels = image_shape
    area, last = height * image_width, width * 2 ** (STAGES - 1)
    convolutions = [(3, channels, width, area)]  # size, channels before and after, pixels
    norms = [width, last]  # channels of each
    for i in range(STAGES):
        c = width * 2**i
        if i:
            area //= 4
            convolutions += [(3, c // 2, c, area), (3, c, c, area), (1, c // 2, c, area)]
            norms += [c, c]
        for op, _ in genotype.cell * depth:
            for size, *_ in OPS[op].shapes(c, 1).values() if op in OPS else ():
                convolutions.append((size, c, c, area))
                norms.append(c)
    params = sum(size**2 * before * after for size, before, after, _ in convolutions) + 2 * sum(norms)
    adds = sum(size**2 * before * after * area for size, before, after, area in convolutions)
    return params + (last + 1) * num_classes, adds + last * num_classes


def multiply_adds(
    genotype: Genotype | TopologyGenotype,
    width: int,
    depth: int,
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
