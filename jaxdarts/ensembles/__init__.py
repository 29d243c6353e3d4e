"""Ensembles of cells: pruning them, and growing them while a search runs."""

from jaxdarts.ensembles import growth as growth
from jaxdarts.ensembles import pruning as pruning
