"""Neighbourhoods of cells. Oracle: counting."""

import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.analysis import flatness


def differences(a, b):
    return sum(
        p != q
        for name in ("normal", "reduce")
        for p, q in zip(getattr(a, name), getattr(b, name), strict=True)
    )


@pytest.mark.parametrize("radius", [1, 2])
def test_shell_of_a_darts_cell(radius):
    """16 edges with six other operations each."""
    space, genotype = jd.spaces.darts(), jd.genotypes.DARTS_V2
    neighbours = flatness.shell(space.cells, genotype, radius)
    assert len(neighbours) == len(set(neighbours)) == {1: 16 * 6, 2: 120 * 36}[radius]
    assert all(differences(other, genotype) == radius for other in neighbours)
    for other in neighbours[:20]:
        jd.one_hot(space.cells, jd.genotypes.parse(str(other)))  # in the space, without `none`


def test_shell_where_edges_differ():
    space = jd.spaces.s1()
    mix = space.supernet(width=1, depth=1, num_classes=1).example_mix()
    genotype = space.discretize(mix)
    assert len(flatness.shell(space.cells, genotype)) == 16  # every edge has two candidates
    with pytest.raises(ValueError, match="radius is 17: the cells have 16 edges"):
        flatness.shell(space.cells, genotype, 17)


def test_flatness_by_hand():
    facts = flatness.flatness(0.9, [0.9, 0.7, 0.8, 0.8])
    expected = {"mean_accuracy": 0.8, "deviation": np.sqrt(0.005), "minimum_accuracy": 0.7}
    for name, value in expected.items():
        np.testing.assert_allclose(facts[f"neighbours_{name}"], value)
    np.testing.assert_allclose(facts["flatness_gap_accuracy"], 0.1)
