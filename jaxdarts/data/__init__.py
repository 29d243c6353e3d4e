"""Data sets, as arrays in memory or as batches from a disk, and random transformations."""

from jaxdarts.data import augment as augment
from jaxdarts.data import benchmarks as benchmarks
from jaxdarts.data import feed as feed
from jaxdarts.data import images as images
from jaxdarts.data import pictures as pictures
from jaxdarts.data import stream as stream
from jaxdarts.data import text as text
from jaxdarts.data.benchmarks import nasbench101 as nasbench101
from jaxdarts.data.benchmarks import nds as nds
from jaxdarts.data.benchmarks import tabular as tabular
