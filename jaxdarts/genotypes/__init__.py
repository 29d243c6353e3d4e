"""Discrete architectures: six types, readers, writers, and the published ones by name.

The readers and writers know the dialects of the field.

>>> parse(
...     "genotype = Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], "
...     "normal_concat=range(2, 3), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], "
...     "reduce_concat=range(2, 3))"
... ).normal
(('skip_connect', 0), ('sep_conv_3x3', 1))
>>> print(RNN_DARTS_V1)  # doctest: +ELLIPSIS
Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ...], concat=[1, 2, 3, 4, 5, 6, 7, 8])
>>> print(parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|"))
|nor_conv_3x3~0|+|none~0|skip_connect~1|
>>> parse("8:16:24:32:64")
SizeGenotype(channels=(8, 16, 24, 32, 64))
"""

from jaxdarts.genotypes.cells import ACTIVATIONS as ACTIVATIONS
from jaxdarts.genotypes.cells import GRAPH_OPS as GRAPH_OPS
from jaxdarts.genotypes.cells import OPS as OPS
from jaxdarts.genotypes.cells import SIZES as SIZES
from jaxdarts.genotypes.cells import TOPOLOGY_OPS as TOPOLOGY_OPS
from jaxdarts.genotypes.cells import AnyGenotype as AnyGenotype
from jaxdarts.genotypes.cells import ChoiceGenotype as ChoiceGenotype
from jaxdarts.genotypes.cells import Genotype as Genotype
from jaxdarts.genotypes.cells import GraphGenotype as GraphGenotype
from jaxdarts.genotypes.cells import RecurrentGenotype as RecurrentGenotype
from jaxdarts.genotypes.cells import SizeGenotype as SizeGenotype
from jaxdarts.genotypes.cells import TopologyGenotype as TopologyGenotype
from jaxdarts.genotypes.dialects import from_json as from_json
from jaxdarts.genotypes.dialects import parse as parse
from jaxdarts.genotypes.dialects import to_json as to_json
from jaxdarts.genotypes.dialects import to_nested as to_nested
from jaxdarts.genotypes.dialects import to_nni as to_nni
from jaxdarts.genotypes.graphs import fingerprint as fingerprint
from jaxdarts.genotypes.graphs import pruned as pruned
from jaxdarts.genotypes.kinds import KINDS as KINDS
from jaxdarts.genotypes.kinds import check as check
from jaxdarts.genotypes.published import *  # noqa: F403  every name of it is a published genotype
from jaxdarts.genotypes.published import PUBLISHED as PUBLISHED
from jaxdarts.genotypes.transnas import TRANSNAS_OPS as TRANSNAS_OPS
from jaxdarts.genotypes.transnas import from_transnas as from_transnas
from jaxdarts.genotypes.transnas import to_transnas as to_transnas
