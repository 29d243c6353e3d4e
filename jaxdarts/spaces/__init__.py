"""Search spaces, each a function that gives a `Space`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jaxdarts.genotypes import (
    AnyGenotype,
    Genotype,
    GraphGenotype,
    RecurrentGenotype,
    SizeGenotype,
    TopologyGenotype,
)
from jaxdarts.genotypes.kinds import kind_of
from jaxdarts.space import Space
from jaxdarts.spaces.darts import PRIMITIVES as PRIMITIVES
from jaxdarts.spaces.darts import darts as darts
from jaxdarts.spaces.darts import of_cells as of_cells
from jaxdarts.spaces.darts_rnn import darts_rnn as darts_rnn
from jaxdarts.spaces.nasbench1shot1 import nasbench1shot1_s1 as nasbench1shot1_s1
from jaxdarts.spaces.nasbench1shot1 import nasbench1shot1_s2 as nasbench1shot1_s2
from jaxdarts.spaces.nasbench1shot1 import nasbench1shot1_s3 as nasbench1shot1_s3
from jaxdarts.spaces.nasbench101 import nasbench101 as nasbench101
from jaxdarts.spaces.nasbench201 import nasbench201 as nasbench201
from jaxdarts.spaces.nasbench201 import transnas_micro as transnas_micro
from jaxdarts.spaces.nats_size import nats_size as nats_size
from jaxdarts.spaces.of_network import of_network as of_network
from jaxdarts.spaces.robust import s1 as s1
from jaxdarts.spaces.robust import s2 as s2
from jaxdarts.spaces.robust import s3 as s3
from jaxdarts.spaces.robust import s4 as s4
from jaxdarts.spaces.weight_sharing64 import weight_sharing64 as weight_sharing64

BY_NAME: Mapping[str, Callable[..., Space]] = MappingProxyType(
    {
        "darts": darts,
        "s1": s1,
        "s2": s2,
        "s3": s3,
        "s4": s4,
        "nasbench201": nasbench201,
        "transnas_micro": transnas_micro,
        "nats_size": nats_size,
        "nasbench101": nasbench101,
        "nasbench1shot1_s1": nasbench1shot1_s1,
        "nasbench1shot1_s2": nasbench1shot1_s2,
        "nasbench1shot1_s3": nasbench1shot1_s3,
        "weight_sharing64": weight_sharing64,
        "darts_rnn": darts_rnn,
    }
)
"""All spaces by their names, as functions that give one."""

_TRAINED_AS: Mapping[type, Callable[[Any], Space]] = {
    Genotype: lambda genotype: darts(),
    TopologyGenotype: lambda genotype: nasbench201(),
    SizeGenotype: lambda genotype: nats_size(),
    GraphGenotype: lambda genotype: nasbench101(),
    RecurrentGenotype: lambda genotype: darts_rnn(len(genotype.recurrent)),
}


def of(genotype: AnyGenotype) -> Space:
    """The space whose `network` a genotype is trained as.

    DARTS' for any two convolutional cells, DARTS' recurrent one with as many nodes as the cell has,
    or its benchmark's.

    Raises:
        ValueError: if it is none of them, or of a network of your own (`of_network`).

    >>> from jaxdarts import genotypes
    >>> len(of(genotypes.parse("|none~0|+|none~0|skip_connect~1|")).cells)
    1
    """
    kind_of(genotype)
    if type(genotype) not in _TRAINED_AS:
        raise ValueError(
            f"{genotype} is of a network of your own: its space is that of_network(net, ...) gives"
        )
    return _TRAINED_AS[type(genotype)](genotype)
