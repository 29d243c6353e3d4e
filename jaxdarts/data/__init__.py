"""Data sets, as arrays in memory, and the random transformations of their examples."""

from jaxdarts.data import augment as augment
from jaxdarts.data import images as images
