"""Search spaces, each a function that gives a `Space`."""

from jaxdarts.spaces.darts import PRIMITIVES as PRIMITIVES
from jaxdarts.spaces.darts import darts as darts
from jaxdarts.spaces.darts import of_cells as of_cells
from jaxdarts.spaces.darts_rnn import darts_rnn as darts_rnn
from jaxdarts.spaces.robust import s1 as s1
from jaxdarts.spaces.robust import s2 as s2
from jaxdarts.spaces.robust import s3 as s3
from jaxdarts.spaces.robust import s4 as s4
