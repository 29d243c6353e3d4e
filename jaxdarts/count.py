"""Parameters and multiply-adds, from shapes alone: nothing is computed or allocated."""

import math

import jax
import jax.numpy as jnp

from jaxdarts.genotypes import Genotype
from jaxdarts.nn.cell import stride_of
from jaxdarts.nn.cnn import runs
from jaxdarts.nn.ops import OPS
from jaxdarts.space import of_genotype
from jaxdarts.types import Module


def count_params(net: Module, image_shape: tuple[int, int, int]) -> int:
    """Number of weights of a supernet for images of [height, width, channels]."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *image_shape)), net.example_mix())
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def network_cost(
    genotype: Genotype, width: int, depth: int, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[int, int]:
    """Parameters and multiply-adds of the network that a genotype is evaluated as (auxiliary head excluded).

    Its batch norms have a scale and a shift each, and none follows a pooling. Multiply-adds are those of convolutions and the
    linear head for one image, as quark0/darts' figures are usually recounted.

    >>> from jaxdarts import genotypes
    >>> network_cost(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3))[0]
    3349342
    """
    height, image_width, channels = image_shape
    area = height * image_width
    stem = 3 * width
    params, adds = 9 * channels * stem + 2 * stem, 9 * channels * stem * area
    cells = of_genotype(genotype)
    before, last = stem, stem  # channels of the two cells before
    for run in runs(width, depth):
        choices, c = cells[run.kind], run.width
        stride = 2 if run.kind == "reduce" else 1
        for _ in range(run.repeats):
            # Halved by the factorised reduction that follows a reduction cell, the older input has this cell's area too.
            params += (before + last + 4) * c
            adds += (before + last) * c * area
            out = math.ceil(area / stride**2)
            for e, (op,) in enumerate(choices.ops):
                for name, shape in OPS[op].shapes(c, stride_of(choices, e, stride)).items():
                    params += math.prod(shape) + (0 if name.startswith("depthwise") else 2 * c)
                    adds += math.prod(shape) * out
            area = out
            before, last = last, len(choices.concat) * c
    return params + (last + 1) * num_classes, adds + last * num_classes
