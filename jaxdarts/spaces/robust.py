"""S1 to S4, the small spaces on which DARTS is known to fail: its cells with fewer candidates.

Zela, Elsken, Saikia, Marrakchi, Brox & Hutter, `Understanding and Robustifying Differentiable
Architecture Search <https://arxiv.org/abs/1909.09656>`_, ICLR 2020, section 3; candidates in the
order of its code (automl/RobustDARTS, src/spaces.py), which is that of the columns of alpha and
decides ties.
"""

from jaxdarts.space import Choices, Space, fully_connected
from jaxdarts.spaces.darts import darts, of_cells

_NAMES = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
# One line a node, one pair of candidates for each of its sources.
_S1_NORMAL = """
skip,dil3 skip,dil5
skip,dil5 skip,sep3 skip,dil3
max,skip skip,sep3 skip,sep3 skip,dil3
skip,sep3 max,skip skip,dil3 dil3,dil5 dil3,dil5
"""
_S1_REDUCE = """
max,avg max,dil3
max,avg max,avg skip,dil5
max,avg max,sep3 skip,dil3 skip,dil5
max,avg max,avg skip,dil5 skip,dil5 skip,dil5
"""


def s1() -> Space:
    """Two candidates on every edge, others on every edge: the two that DARTS ranked best there.

    >>> space = s1()
    >>> space.cells["normal"].shape, space.cells["normal"].ops[5]
    ((14, 2), ('max_pool_3x3', 'skip_connect'))
    """

    def choices(table: str) -> Choices:
        ops = tuple(tuple(_NAMES[op] for op in edge.split(",")) for edge in table.split())
        return fully_connected(4, ())._replace(ops=ops)

    return _named("s1", of_cells(choices(_S1_NORMAL), choices(_S1_REDUCE)))


def s2() -> Space:
    """A skip connection or a separable convolution on every edge."""
    return _named("s2", darts(ops=("skip_connect", "sep_conv_3x3")))


def s3() -> Space:
    """S2 and `none`: nothing, a skip connection or a separable convolution on every edge."""
    return _named("s3", darts(ops=("none", "skip_connect", "sep_conv_3x3")))


def s4() -> Space:
    """Space S4: noise or a separable convolution on every edge.

    The networks need a random key, trained ones too (`nn.ops`).
    """
    return _named("s4", darts(ops=("noise", "sep_conv_3x3")))


def _named(name: str, space: Space) -> Space:
    return space._replace(name=name, title=f"RobustDARTS' {name.upper()}")
