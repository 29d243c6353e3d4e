"""Analyses that tell whether the result of a search is sound."""

from jaxdarts.analysis import curvature as curvature
from jaxdarts.analysis import flatness as flatness
from jaxdarts.analysis import landscape as landscape
from jaxdarts.analysis import mixture as mixture
from jaxdarts.analysis import ranking as ranking
from jaxdarts.analysis import sharing as sharing
from jaxdarts.analysis import topology as topology
from jaxdarts.analysis import variance as variance
