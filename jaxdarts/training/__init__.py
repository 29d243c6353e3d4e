"""Training from scratch of what a search finds, and trained networks as functions and files."""

from jaxdarts.training import export as export
from jaxdarts.training import images as images
from jaxdarts.training import schedules as schedules
from jaxdarts.training import text as text
