"""Search spaces, each a function that gives a `Space`."""

from jaxdarts.spaces.darts import PRIMITIVES as PRIMITIVES
from jaxdarts.spaces.darts import darts as darts
