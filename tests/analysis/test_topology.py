"""Topology of cells. Oracles: what Shu et al. (2020) show and list, paths enumerated one by one."""

import collections
import itertools

import numpy as np
import pytest

from jaxdarts import genotypes
from jaxdarts.analysis import topology as tp

# The figure of the paper for normal cells; those of its list of genotypes computed by hand from the
# definition for reductions.
PUBLISHED = {
    "NASNet": ((5, 2), (3.5, 3)),
    "AmoebaNet": ((4, 4), (4, 3)),
    "DARTS_V1": ((3.5, 3), (2.5, 3)),
    "DARTS_V2": ((3.5, 3), (2.5, 3)),
    "SNAS": ((4, 2), (2.5, 3)),
}
# ENAS as that list has it; only the sources matter.
ENAS = ((1, 1, 1, 0, 0, 1, 0, 1, 1, 0), (5, 2)), ((0, 1, 1, 1, 1, 1, 4, 1, 5, 0), (4, 4))


def cell(sources):
    return tuple(("skip_connect", source) for source in sources)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells(name):
    genotype = getattr(genotypes, name)
    assert (tp.topology(genotype.normal), tp.topology(genotype.reduce)) == PUBLISHED[name]


def test_enas():
    for sources, shape in ENAS:
        assert tp.topology(cell(sources)) == shape


def by_paths(sources):
    """The definitions word by word: every path from an input is walked."""
    nodes = len(sources) // 2
    leaving = collections.defaultdict(list)
    for i, source in enumerate(sources):
        leaving[source].append(2 + i // 2)
    output = 2 + nodes
    for node in range(2, output):
        leaving[node].append(output)

    def longest(state):
        return (
            0
            if state == output
            else max((1 + longest(target) for target in leaving[state]), default=-99)
        )

    shares = [sum(s in (0, 1) for s in sources[2 * n : 2 * n + 2]) / 2 for n in range(nodes)]
    return sum(shares), max(longest(0), longest(1))


def test_against_walking_every_path():
    rng = np.random.default_rng(0)
    for _ in range(200):
        nodes = int(rng.integers(1, 7))
        sources = [int(rng.integers(0, 2 + i // 2)) for i in range(2 * nodes)]
        assert tp.topology(cell(sources)) == by_paths(sources)


def test_all_connections_of_four_nodes():
    assert {tuple(shape): count for shape, count in tp.counts().items()} == {
        (1.5, 4): 2,
        (1.5, 5): 4,
        (2, 3): 1,
        (2, 4): 26,
        (2, 5): 12,
        (2.5, 3): 18,
        (2.5, 4): 48,
        (2.5, 5): 8,
        (3, 3): 32,
        (3, 4): 16,
        (3.5, 3): 12,
        (4, 2): 1,
    }
    assert sum(tp.counts().values()) == 180 and sum(tp.counts(5).values()) == 2700


def test_no_cell():
    for pairs in ((), cell([0, 1, 0])):
        with pytest.raises(
            ValueError, match=f"{len(pairs)} pairs; a cell with two inputs has two for each node"
        ):
            tp.topology(pairs)


def test_the_authors_variants():
    """Width and depth of DARTS_CONN1 to DARTS_CONN10, from their seeds."""
    variants = [
        tp.topology(tp.reconnected(genotypes.DARTS_V2, np.random.RandomState(seed)).normal)
        for seed in range(1, 11)
    ]
    expected = [
        (2.5, 4),
        (2, 5),
        (3, 3),
        (3.5, 3),
        (2.5, 4),
        (2.5, 3),
        (3, 3),
        (2.5, 4),
        (3, 3),
        (3.5, 3),
    ]
    assert variants == expected


def test_reconnection_keeps_operations_and_draws_every_source():
    rng, seen = np.random.default_rng(0), collections.Counter()
    for _ in range(2000):
        other = tp.reconnected(genotypes.DARTS_V2, rng)
        genotypes.check(other)
        for name in ("normal", "reduce"):
            assert [op for op, _ in getattr(other, name)] == [
                op for op, _ in getattr(genotypes.DARTS_V2, name)
            ]
        seen.update((i, source) for i, (_, source) in enumerate(other.normal))
    assert other.normal_concat == genotypes.DARTS_V2.normal_concat
    for i in range(8):
        shares = [seen[i, source] / 2000 for source in range(2 + i // 2)]
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.05)


def test_shares_of_widths():
    """Of uniform draws, from the probability of an input for every edge: 1, 1, 2/3, 2/3, 1/2, 1/2,
    2/5, 2/5.
    """
    exact = collections.Counter()
    probabilities = [2 / (2 + i // 2) for i in range(8)]
    for hits in itertools.product((0, 1), repeat=8):
        exact[sum(hits) / 2] += np.prod(
            [p if hit else 1 - p for p, hit in zip(probabilities, hits)]
        )
    rng, draws = np.random.default_rng(1), 4000
    counts = collections.Counter(
        tp.topology(tp.reconnected(genotypes.DARTS_V2, rng).normal).width for _ in range(draws)
    )
    for width, probability in exact.items():
        assert abs(counts[width] / draws - probability) < 0.03
    # The published hit rates, of which the last is rounded from less.
    np.testing.assert_allclose(
        [exact[w] for w in (2, 2.5, 3, 3.5, 4)], [0.21, 0.32, 0.26, 0.11, 0.018], atol=0.006
    )


def test_reoperation_keeps_connections():
    rng, seen = np.random.default_rng(0), collections.Counter()
    for _ in range(700):
        other = tp.reoperated(genotypes.DARTS_V2, rng)
        genotypes.check(other)
        assert [s for _, s in other.normal + other.reduce] == [
            s for _, s in genotypes.DARTS_V2.normal + genotypes.DARTS_V2.reduce
        ]
        seen.update(op for op, _ in other.normal)
    assert len(seen) == 7 and "none" not in seen
    np.testing.assert_allclose([count / 5600 for count in seen.values()], 1 / 7, atol=0.02)
    assert {op for op, _ in tp.reoperated(genotypes.DARTS_V2, rng, ("skip_connect",)).normal} == {
        "skip_connect"
    }


def test_adaptation_is_the_widest_and_shallowest():
    for name, genotype in genotypes.PUBLISHED.items():
        if isinstance(genotype, genotypes.Genotype):
            adapted = tp.adapted(genotype)
            genotypes.check(adapted)
            for cell_name in ("normal", "reduce"):
                nodes = len(getattr(genotype, cell_name)) // 2
                assert tp.topology(getattr(adapted, cell_name)) == (nodes, 2), name
                assert [op for op, _ in getattr(adapted, cell_name)] == [
                    op for op, _ in getattr(genotype, cell_name)
                ]
            assert tp.adapted(adapted) == adapted
    # A node that reads both inputs stays as it is; one that reads an input keeps it.
    assert tp.adapted(genotypes.SNAS).normal == genotypes.SNAS.normal
    assert [s for _, s in tp.adapted(genotypes.SNAS).reduce] == [0, 1, 1, 0, 0, 1, 0, 1]


def test_variants():
    variants = tp.variants(genotypes.DARTS_V2, np.random.default_rng(0))
    shapes = [tp.topology(other.normal) for other in variants]
    assert [shape.width for shape in shapes] == [2] * 3 + [2.5] * 3 + [3] * 3 + [3.5] * 3
    assert shapes == sorted(shapes, key=lambda shape: (shape.width, -shape.depth))
    assert len(set(variants)) == 12 and genotypes.DARTS_V2 not in variants
    with pytest.raises(ValueError, match="50 draws gave 0 different cells of width 4.5, not 3"):
        tp.variants(genotypes.DARTS_V2, np.random.default_rng(0), [4.5], draws=50)


def test_pattern():
    rows = {
        (row["name"], row["cell"]): row
        for row in tp.pattern({"NASNet": genotypes.NASNet, "DARTS": genotypes.DARTS_V2})
    }
    assert rows["NASNet", "normal"] == {
        "name": "NASNet",
        "cell": "normal",
        "nodes": 5,
        "width": 5,
        "depth": 2,
        "wider": 0,
        "shallower": 0,
        "extreme": True,
    }
    darts = rows["DARTS", "normal"]
    assert (darts["wider"], darts["shallower"], darts["extreme"]) == (1 / 180, 1 / 180, False)
    reduction = rows["DARTS", "reduce"]  # (2.5, 3)
    assert reduction["wider"] == (32 + 16 + 12 + 1) / 180 and reduction["shallower"] == 1 / 180
