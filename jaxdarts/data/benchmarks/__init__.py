"""Readers of tabular benchmarks: architectures with their measured accuracies."""

from jaxdarts.data.benchmarks import nasbench101 as nasbench101
from jaxdarts.data.benchmarks import nds as nds
from jaxdarts.data.benchmarks import tabular as tabular
