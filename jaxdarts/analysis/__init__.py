"""Analyses that tell whether the result of a search is sound."""

from jaxdarts.analysis import curvature as curvature
from jaxdarts.analysis import flatness as flatness
from jaxdarts.analysis import ranking as ranking
