"""Spaces. Oracles: the published derivation rules (ties!) worked out by hand, and the way back from
a one-hot mix.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.space import Choices
from jaxdarts.spaces import PRIMITIVES

FULL = jd.spaces.darts()
RAGGED = Choices(
    ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)),
    (
        ("none", "sep_conv_3x3"),
        ("skip_connect",),
        ("max_pool_3x3", "avg_pool_3x3", "none", "noise"),
        ("none", "dil_conv_3x3"),
        ("dil_conv_5x5", "skip_connect"),
    ),
    (2, 3),
)
SPACES = {
    "darts": FULL,
    "three nodes, no none": jd.spaces.darts(3, PRIMITIVES[1:]),
    "none last": jd.spaces.darts(2, ("skip_connect", "sep_conv_3x3", "none")),
    "one op": jd.spaces.darts(1, ("skip_connect",)),
    "s1": jd.spaces.s1(),
    "ragged": jd.spaces.of_cells(RAGGED, RAGGED),
}


def mix_of(values):
    return {"normal": jnp.asarray(values), "reduce": jnp.asarray(values)}


def sorted_nodes(genotype):
    """The same genotype, each node's two edges ordered by source: equal strengths are listed in
    that order.
    """

    def order(pairs):
        nodes = [pairs[i : i + 2] for i in range(0, len(pairs), 2)]
        return tuple(pair for node in nodes for pair in sorted(node, key=lambda pair: pair[1]))

    return genotype._replace(normal=order(genotype.normal), reduce=order(genotype.reduce))


def test_equal_weights_take_the_first():
    genotype = FULL.discretize(mix_of(np.full((14, 8), 1 / 8, np.float32)))
    assert genotype.normal == genotype.reduce == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)


def test_edges_are_listed_from_strong_to_weak():
    mix = np.full((14, 8), 0.1, np.float32)
    mix[1, 4], mix[0, 3] = 0.9, 0.5  # node 2
    mix[4, 7], mix[3, 6] = 0.7, 0.8  # node 3: sources 2 and 1
    mix[8, 2], mix[6, 5], mix[5, 5] = 0.6, 0.6, 0.6  # node 4: sources 3, 1 and 0 tie
    mix[10, [4, 5]] = (
        0.3  # node 5: two operations of source 1 tie, then every other edge ties with source 0
    )
    assert FULL.discretize(mix_of(mix)).normal == (
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("dil_conv_3x3", 1),
        ("dil_conv_5x5", 2),
        ("sep_conv_5x5", 0),
        ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 1),
        ("max_pool_3x3", 0),
    )


def test_none_weakens_an_edge_but_is_never_chosen():
    alpha = np.zeros((2, 3), np.float32)
    alpha[0, 2] = 9.0  # none, last of three
    space = jd.spaces.darts(1, ("skip_connect", "sep_conv_3x3", "none"))
    genotype = space.discretize(
        {name: jax.nn.softmax(jnp.asarray(alpha)) for name in ("normal", "reduce")}
    )
    assert genotype.normal == (("skip_connect", 1), ("skip_connect", 0))


def test_cells_are_told_apart():
    mix = mix_of(np.full((14, 8), 0.1, np.float32))
    mix["reduce"] = mix["reduce"].at[:, 3].set(0.2)
    genotype = FULL.discretize(mix)
    assert {op for op, _ in genotype.normal} == {"max_pool_3x3"} and {
        op for op, _ in genotype.reduce
    } == {"skip_connect"}


@pytest.mark.parametrize("name", SPACES)
def test_one_hot_round_trip(name):
    space = SPACES[name]
    for seed in range(20):
        genotype = space.sample(jax.random.key(seed))
        mix = jd.one_hot(space.cells, genotype)
        for cell, weights in mix.items():
            assert weights.shape == space.cells[cell].shape and set(np.unique(weights)) <= {
                0.0,
                1.0,
            }
            assert weights.sum() == len(getattr(genotype, cell))
        assert space.discretize(mix) == sorted_nodes(genotype)


def test_one_hot_of_a_published_genotype():
    mix = jd.one_hot(FULL.cells, jd.genotypes.DARTS_V2)
    hot = np.argwhere(np.asarray(mix["normal"])).tolist()
    # Nodes 2 to 5 own the edges from 0, 2, 5 and 9 on.
    assert hot == [[0, 4], [1, 4], [2, 4], [3, 4], [5, 3], [6, 4], [9, 3], [11, 6]]
    assert FULL.discretize(mix) == sorted_nodes(jd.genotypes.DARTS_V2)


def test_one_hot_refuses_what_the_space_lacks():
    with pytest.raises(ValueError, match=r"normal\[0\] = \('sep_conv_5x5', 1\).*on edge \(1, 2\)"):
        jd.one_hot(SPACES["none last"].cells, jd.genotypes.NASNet)
    with pytest.raises(ValueError, match=r"reduce\[3\].*on edge \(2, 3\)"):
        genotype = SPACES["none last"].sample(jax.random.key(0))
        cells = dict(SPACES["none last"].cells)
        cells["reduce"] = cells["reduce"]._replace(edges=((0, 2), (1, 2), (0, 3), (1, 3), (9, 3)))
        pairs = (("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 0), ("skip_connect", 2))
        jd.one_hot(cells, genotype._replace(reduce=pairs))


@pytest.mark.parametrize("name", SPACES)
def test_sample_is_valid_and_repeatable(name):
    space = SPACES[name]
    for seed in range(10):
        genotype = space.sample(jax.random.key(seed))
        assert genotype == space.sample(jax.random.key(seed))
        jd.genotypes.check(genotype)  # no `none`, no state that a node cannot read
        for pairs, choices in (
            (getattr(genotype, cell), space.cells[cell]) for cell in ("normal", "reduce")
        ):
            assert len(pairs) == 2 * choices.num_nodes
            assert all(a[1] != b[1] for a, b in zip(pairs[::2], pairs[1::2], strict=True))


def differing(a, b):
    """The pairs in which two genotypes differ."""
    pairs = [zip(getattr(a, cell), getattr(b, cell), strict=True) for cell in ("normal", "reduce")]
    return [(old, new) for both in pairs for old, new in both if old != new]


@pytest.mark.parametrize("name", [name for name in SPACES if name != "one op"])
def test_mutation_stays_in_the_space_and_changes_one_place(name):
    space = SPACES[name]
    for seed in range(40):
        genotype = space.sample(jax.random.key(seed))
        mutant = space.mutate(jax.random.key(seed), genotype)
        assert mutant == space.mutate(jax.random.key(seed), genotype)
        jd.one_hot(space.cells, mutant)  # refuses what the space lacks
        jd.genotypes.check(mutant)
        assert mutant[1::2] == genotype[1::2]
        [((old_op, old_source), (op, source))] = differing(genotype, mutant)
        if name not in ("s1", "ragged"):  # every edge offers the same
            assert (op == old_op) != (source == old_source)
        for pairs in (mutant.normal, mutant.reduce):
            assert all(a[1] != b[1] for a, b in zip(pairs[::2], pairs[1::2], strict=True))


def test_mutation_reaches_every_neighbour():
    space = SPACES["three nodes, no none"]
    genotype = space.sample(jax.random.key(0))
    reached = {space.mutate(jax.random.key(seed), genotype) for seed in range(1000)}
    # Of 12 pairs each has 6 other operations; a node with n sources leaves n - 2 to each of its two
    # pairs: 0, 1 and 2.
    assert len(reached) == 12 * 6 + 2 * 2 * (0 + 1 + 2)


@pytest.mark.parametrize("name", ["ragged", "s1"])
def test_mutations_connect_a_space_with_candidates_of_their_own(name):
    space = SPACES[name]
    seen, genotype = set(), space.sample(jax.random.key(0))
    for seed in range(600):
        genotype = space.mutate(jax.random.key(seed), genotype)
        seen |= {
            (cell, i // 2, pair)
            for cell in ("normal", "reduce")
            for i, pair in enumerate(getattr(genotype, cell))
        }
    everything = {
        (cell, target - 2, (op, source))
        for cell, choices in space.cells.items()
        for (source, target), ops in zip(choices.edges, choices.ops, strict=True)
        for op in ops
        if op != "none"
    }
    assert seen == everything


def test_mutation_draws_both_kinds_equally():
    genotype = FULL.sample(jax.random.key(0))
    changes = [
        differing(genotype, FULL.mutate(jax.random.key(seed), genotype))[0] for seed in range(400)
    ]
    # 14 of 16 pairs have other sources; the two of the first node in each cell have operations
    # only: 4 of 16 draws halve.
    sources = sum(old[1] != new[1] for old, new in changes) / 400
    assert abs(sources - (12 / 16 / 2) / (12 / 16 + 4 / 16 / 2)) < 0.1


def test_mutation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="one genotype only"):
        SPACES["one op"].mutate(jax.random.key(0), SPACES["one op"].sample(jax.random.key(0)))
    with pytest.raises(ValueError, match="the space has no such operation"):
        SPACES["none last"].mutate(jax.random.key(0), jd.genotypes.NASNet)


def test_sample_is_uniform():
    space = jd.spaces.darts(2, ("none", "max_pool_3x3", "skip_connect"))
    draws = [space.sample(jax.random.key(seed)) for seed in range(400)]
    assert len(set(draws)) > 300
    for cell in ("normal", "reduce"):
        pairs = [
            pair for draw in draws for pair in getattr(draw, cell)[2:]
        ]  # node 3: two of three sources, two operations
        counts = collections.Counter(pairs)
        assert len(counts) == 6
        assert all(abs(n - 800 / 6) < 4 * np.sqrt(800 / 6) for n in counts.values())


@pytest.mark.parametrize(
    "num_nodes, ops",
    [(0, PRIMITIVES), (1, ("none",)), (1, ()), (1, ("skip_connect",) * 2), (1, ("conv",))],
)
def test_impossible_spaces(num_nodes, ops):
    with pytest.raises(ValueError, match="num_nodes is 0" if num_nodes == 0 else "ops are"):
        jd.spaces.darts(num_nodes, ops)
