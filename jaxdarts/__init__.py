"""Differentiable architecture search in JAX: cells, exact second-order hypergradients, and what
surrounds them.

>>> import jaxdarts as jd
>>> space = jd.spaces.darts()
>>> jd.count_params(space.supernet(width=16, depth=8, num_classes=10), (32, 32, 3))
1930618
>>> mix = space.supernet(width=1, depth=1, num_classes=1).example_mix()  # zeros: all ops tie
>>> genotype = space.discretize(mix)
>>> genotype.normal[:2]
(('max_pool_3x3', 0), ('max_pool_3x3', 1))
>>> jd.genotypes.parse(str(genotype)) == genotype
True
>>> net = space.network(jd.genotypes.DARTS_V2, width=36, depth=20, num_classes=10)
>>> jd.count_params(net, (32, 32, 3))
3349342
>>> round(jd.multiply_adds(jd.genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3)) / 1e6, 1)
528.4
>>> train = lambda w, a: w**2 - 2 * a * w + a**2
>>> val = lambda w, a: a * w - 2 * a + 1
>>> float(jd.hypergrad.unrolled(train, val, -2.0, 2.0, lambda gradient: -2.0 - 0.5 * gradient))
2.0
"""

import importlib
from importlib import metadata
from typing import Any

from jaxdarts import algorithms as algorithms
from jaxdarts import analysis as analysis
from jaxdarts import data as data
from jaxdarts import derive as derive
from jaxdarts import discrete as discrete
from jaxdarts import ensembles as ensembles
from jaxdarts import files as files
from jaxdarts import genotypes as genotypes
from jaxdarts import hypergrad as hypergrad
from jaxdarts import objectives as objectives
from jaxdarts import once as once
from jaxdarts import parallel as parallel
from jaxdarts import penalty as penalty
from jaxdarts import perturb as perturb
from jaxdarts import proxies as proxies
from jaxdarts import relax as relax
from jaxdarts import spaces as spaces
from jaxdarts import training as training
from jaxdarts.count import count_params as count_params
from jaxdarts.count import multiply_adds as multiply_adds
from jaxdarts.count import network_cost as network_cost
from jaxdarts.count import operation_costs as operation_costs
from jaxdarts.genotypes import Genotype as Genotype
from jaxdarts.genotypes import GraphGenotype as GraphGenotype
from jaxdarts.genotypes import SizeGenotype as SizeGenotype
from jaxdarts.genotypes import TopologyGenotype as TopologyGenotype
from jaxdarts.search import Algorithm as Algorithm
from jaxdarts.search import Search as Search
from jaxdarts.search import SearchState as SearchState
from jaxdarts.search import bilevel_search as bilevel_search
from jaxdarts.space import Choices as Choices
from jaxdarts.space import Space as Space
from jaxdarts.space import one_hot as one_hot
from jaxdarts.training.export import export as export
from jaxdarts.training.export import load as load
from jaxdarts.training.export import read_exported as read_exported
from jaxdarts.types import Trial as Trial

try:
    __version__ = metadata.version("jaxdarts")
except (
    metadata.PackageNotFoundError
):  # a checkout that is not installed, as on a machine without package registries
    __version__ = "0+checkout"


def __getattr__(name: str) -> Any:
    """`jaxdarts.report` and `jaxdarts.runs` are imported when somebody asks for them: a library's
    user needs neither.
    """
    if name in ("report", "runs"):
        return importlib.import_module(f"jaxdarts.{name}")
    raise AttributeError(f"module 'jaxdarts' has no attribute {name!r}")
