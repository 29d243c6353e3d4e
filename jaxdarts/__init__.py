"""Differentiable architecture search in JAX, with the exact second-order hypergradient.

A module is imported when its name is first used, so that `import jaxdarts` is quick.

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; __getattr__ imports the same at run time
    from jaxdarts import algorithms as algorithms
    from jaxdarts import analysis as analysis
    from jaxdarts import data as data
    from jaxdarts import derive as derive
    from jaxdarts import descent as descent
    from jaxdarts import discrete as discrete
    from jaxdarts import ensembles as ensembles
    from jaxdarts import files as files
    from jaxdarts import genotypes as genotypes
    from jaxdarts import hypergrad as hypergrad
    from jaxdarts import implicit as implicit
    from jaxdarts import nn as nn
    from jaxdarts import objectives as objectives
    from jaxdarts import once as once
    from jaxdarts import parallel as parallel
    from jaxdarts import penalty as penalty
    from jaxdarts import perturb as perturb
    from jaxdarts import proxies as proxies
    from jaxdarts import relax as relax
    from jaxdarts import report as report
    from jaxdarts import runs as runs
    from jaxdarts import spaces as spaces
    from jaxdarts import training as training
    from jaxdarts.bilevel import Algorithm as Algorithm
    from jaxdarts.bilevel import Search as Search
    from jaxdarts.bilevel import SearchState as SearchState
    from jaxdarts.bilevel import bilevel_search as bilevel_search
    from jaxdarts.commands.arrays import search as search
    from jaxdarts.commands.arrays import train as train
    from jaxdarts.count import count_params as count_params
    from jaxdarts.count import multiply_adds as multiply_adds
    from jaxdarts.count import network_cost as network_cost
    from jaxdarts.count import operation_costs as operation_costs
    from jaxdarts.genotypes import Genotype as Genotype
    from jaxdarts.genotypes import GraphGenotype as GraphGenotype
    from jaxdarts.genotypes import SizeGenotype as SizeGenotype
    from jaxdarts.genotypes import TopologyGenotype as TopologyGenotype
    from jaxdarts.space import Choices as Choices
    from jaxdarts.space import Space as Space
    from jaxdarts.space import one_hot as one_hot
    from jaxdarts.training.export import export as export
    from jaxdarts.training.export import load as load
    from jaxdarts.training.export import read_exported as read_exported
    from jaxdarts.types import Trial as Trial

    __version__: str

_MODULES = frozenset(
    """
    algorithms analysis data derive descent discrete ensembles files genotypes hypergrad implicit nn
    objectives once parallel penalty perturb proxies relax report runs spaces training
    """.split()
)
_MODULE_OF = {
    "count_params": "count",
    "multiply_adds": "count",
    "network_cost": "count",
    "operation_costs": "count",
    "Genotype": "genotypes",
    "GraphGenotype": "genotypes",
    "SizeGenotype": "genotypes",
    "TopologyGenotype": "genotypes",
    "Algorithm": "bilevel",
    "Search": "bilevel",
    "SearchState": "bilevel",
    "bilevel_search": "bilevel",
    "Choices": "space",
    "Space": "space",
    "one_hot": "space",
    "export": "training.export",
    "load": "training.export",
    "read_exported": "training.export",
    "search": "commands.arrays",
    "train": "commands.arrays",
    "Trial": "types",
}
"""The module in which each exported function or class lies."""


def __getattr__(name: str) -> Any:
    """Imports a name of this package when it is first used."""
    if name == "__version__":
        value: Any = _version()
    elif name in _MODULES:
        value = importlib.import_module(f"jaxdarts.{name}")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"jaxdarts.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'jaxdarts' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names of this package, those included that are not imported yet."""
    return sorted({*globals(), *_MODULES, *_MODULE_OF, "__version__"})


def _version() -> str:
    """The installed version, or "0+checkout" where the package is used without being installed."""
    from importlib import metadata

    try:
        return metadata.version("jaxdarts")
    except metadata.PackageNotFoundError:
        return "0+checkout"
