"""S1 to S4. Oracles: the list of S1's candidates, the cells that others found in these spaces,
weights counted by hand.
"""

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxdarts as jd
from jaxdarts.space import Choices, fully_connected

SPACES = {"s1": jd.spaces.s1(), "s2": jd.spaces.s2(), "s3": jd.spaces.s3(), "s4": jd.spaces.s4()}
SHORT = {
    "none": "none",
    "noise": "noise",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}


def long(ops):
    return tuple(SHORT[op] for op in ops.split(","))


def test_candidates_by_edge():
    # spec: {candidates: numbers of the edges that have them}
    normal = {
        "skip,dil3": (0, 4, 8, 11),
        "skip,dil5": (1, 2),
        "skip,sep3": (3, 6, 7, 9),
        "max,skip": (5, 10),
        "dil3,dil5": (12, 13),
    }
    reduce = {
        "max,avg": (0, 2, 3, 5, 9, 10),
        "max,dil3": (1,),
        "max,sep3": (6,),
        "skip,dil3": (7,),
        "skip,dil5": (4, 8, 11, 12, 13),
    }
    for cell, table in (("normal", normal), ("reduce", reduce)):
        choices = SPACES["s1"].cells[cell]
        assert choices.edges == fully_connected(4, ()).edges and choices.concat == (2, 3, 4, 5)
        assert sorted(e for edges in table.values() for e in edges) == list(range(14))
        assert all(choices.ops[e] == long(ops) for ops, edges in table.items() for e in edges)
    for name, ops in (("s2", "skip,sep3"), ("s3", "none,skip,sep3"), ("s4", "noise,sep3")):
        assert all(choices.ops == (long(ops),) * 14 for choices in SPACES[name].cells.values())


@pytest.mark.parametrize("name", SPACES)
def test_published_cells_lie_in_their_space(name):
    cells = {
        cell: genotype for cell, genotype in jd.genotypes.PUBLISHED.items() if f"_{name}_" in cell
    }
    assert len(cells) >= 6  # three data sets, random and adversarial
    for genotype in cells.values():
        again = SPACES[name].discretize(jd.one_hot(SPACES[name].cells, genotype))
        for cell in ("normal", "reduce"):
            assert sorted(getattr(again, cell)) == sorted(getattr(genotype, cell))


def test_a_cell_of_another_space_is_refused():
    with pytest.raises(ValueError, match=r"normal\[0\] = \('sep_conv_3x3', 0\)"):
        jd.one_hot(SPACES["s1"].cells, jd.genotypes.DARTS_V2)


def test_ties_of_a_space_without_none():
    genotype = SPACES["s4"].discretize(
        {name: jnp.full(c.shape, 0.5) for name, c in SPACES["s4"].cells.items()}
    )
    assert genotype.normal == genotype.reduce == (("noise", 0), ("noise", 1)) * 4


@pytest.mark.parametrize("name", SPACES)
def test_supernet_size(name):
    """At 16 channels and 8 cells, weights of every cell and edge added up one by one."""
    weights = {
        "sep3": lambda c, stride: 2 * (9 * c + c * c),
        "dil3": lambda c, stride: 9 * c + c * c,
        "dil5": lambda c, stride: 25 * c + c * c,
        "skip": lambda c, stride: c * c if stride == 2 else 0,
    }
    short = {op: name for name, op in SHORT.items()}
    total = 27 * 48 + 2 * 48 + 256 * 10 + 10  # stem and head
    before = last = 48
    for c, kind in zip((16, 16, 32, 32, 32, 64, 64, 64), "nnrnnrnn", strict=True):
        total += (before + last) * c
        choices = SPACES[name].cells["reduce" if kind == "r" else "normal"]
        for (source, _), ops in zip(choices.edges, choices.ops, strict=True):
            stride = 2 if kind == "r" and source < 2 else 1
            total += sum(weights[short[op]](c, stride) for op in ops if short[op] in weights)
        before, last = last, 4 * c
    assert jd.count_params(SPACES[name].supernet(16, 8, 10), (32, 32, 3)) == total


def test_a_softmax_of_s1_is_a_mix():
    relax = jd.relax.softmax(SPACES["s1"].cells)
    mix = relax.apply(relax.init(jax.random.key(0)), jax.random.key(1), 0)
    for name, choices in SPACES["s1"].cells.items():
        chex.assert_shape(mix[name], choices.shape)
    jd.genotypes.check(SPACES["s1"].discretize(mix))


GOOD = fully_connected(1, ("skip_connect",))


@pytest.mark.parametrize(
    "edges, ops, concat, match",
    [
        (((0, 2), (0, 2)), 2, (2,), "different pairs"),
        (((0, 3), (1, 3), (0, 2), (1, 2)), 4, (2,), "ordered by target"),
        (((0, 2), (2, 2)), 2, (2,), "later target"),
        (((0, 2), (1, 2)), 1, (2,), "a list of ops each"),
        (((0, 2), (1, 2), (0, 3)), 3, (2,), "two or more"),
        (((0, 1), (0, 2), (1, 2)), 3, (2,), "from 2 on"),
        (((0, 2), (1, 2), (0, 4), (1, 4)), 4, (2,), "two or more"),
        ((), 0, (2,), "two or more"),
        (((0, 2), (1, 2)), 2, (3,), "concat is"),
        (((0, 2), (1, 2)), 2, (), "concat is"),
    ],
)
def test_impossible_cells(edges, ops, concat, match):
    with pytest.raises(ValueError, match=f"reduce: .*{match}"):
        jd.spaces.of_cells(GOOD, Choices(edges, (("skip_connect",),) * ops, concat))


def test_every_edge_needs_a_candidate():
    bad = GOOD._replace(ops=(("skip_connect",), ("none",)))
    with pytest.raises(ValueError, match=r"normal, edge \(1, 2\): ops are \('none',\)"):
        jd.spaces.of_cells(bad, GOOD)
