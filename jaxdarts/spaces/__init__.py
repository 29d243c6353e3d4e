"""Search spaces, each a function that gives a `Space`."""

from jaxdarts.genotypes import AnyGenotype, Genotype, TopologyGenotype
from jaxdarts.space import Space
from jaxdarts.spaces.darts import PRIMITIVES as PRIMITIVES
from jaxdarts.spaces.darts import darts as darts
from jaxdarts.spaces.darts import of_cells as of_cells
from jaxdarts.spaces.darts_rnn import darts_rnn as darts_rnn
from jaxdarts.spaces.nasbench201 import nasbench201 as nasbench201
from jaxdarts.spaces.robust import s1 as s1
from jaxdarts.spaces.robust import s2 as s2
from jaxdarts.spaces.robust import s3 as s3
from jaxdarts.spaces.robust import s4 as s4
from jaxdarts.spaces.weight_sharing64 import weight_sharing64 as weight_sharing64


def of(genotype: AnyGenotype) -> Space:
    """The space whose `network` a genotype is trained as: DARTS' for any two convolutional cells, or NAS-Bench-201's.

    Raises:
        ValueError: if it is neither.

    >>> from jaxdarts import genotypes
    >>> len(of(genotypes.parse("|none~0|+|none~0|skip_connect~1|")).cells)
    1
    """
    if isinstance(genotype, Genotype):
        return darts()
    if isinstance(genotype, TopologyGenotype):
        return nasbench201()
    raise ValueError(f"a {type(genotype).__name__} has no convolutional network")
