"""Flax modules: cells, supernets and networks, on images and texts, and what operations cost."""

from jaxdarts.nn.choice import Choice as Choice
