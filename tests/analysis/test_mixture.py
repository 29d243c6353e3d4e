"""Mixture weights. Oracles: scipy's entropy, genotypes themselves, ranks written down by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdarts as jd
from jaxdarts.analysis import mixture
from jaxdarts.space import Choices

CELL = jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3")).cells["normal"]  # 5 edges
UNEVEN = Choices(((0, 2), (1, 2)), (("none", "skip_connect"), ("sep_conv_3x3",)), (2,))


def random(seed=0, shape=CELL.shape):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[1]), shape[0])


def test_entropy():
    mix = np.stack([random(seed) for seed in range(4)])
    expected = stats.entropy(mix, axis=-1) / np.log(3)
    np.testing.assert_allclose(mixture.entropy(mix, CELL), expected, rtol=1e-12)
    np.testing.assert_allclose(
        mixture.entropy(7 * mix, CELL), expected, rtol=1e-12
    )  # sigmoids need not sum to one
    np.testing.assert_allclose(mixture.entropy(np.full(CELL.shape, 1 / 3), CELL), 1)
    np.testing.assert_array_equal(mixture.entropy(np.eye(3)[[0, 1, 2, 0, 1]], CELL), 0)
    np.testing.assert_allclose(mixture.entropy(np.zeros(CELL.shape), CELL), 1)
    # One candidate leaves nothing open, and the unused end of a row does not count.
    np.testing.assert_allclose(mixture.entropy(np.array([[0.5, 0.5], [0.7, 9.0]]), UNEVEN), [1, 0])


def test_kept_share():
    space = jd.spaces.darts(2, CELL.ops[0])
    for seed in range(5):
        mix = random(seed)
        kept = jd.one_hot(space.cells, space.discretize({"normal": mix, "reduce": mix}))["normal"]
        np.testing.assert_allclose(mixture.kept_share(mix, CELL), np.sum(mix * kept) / 5, rtol=1e-6)
        assert mixture.kept_share(np.asarray(kept), CELL) == 1
    cells = jd.spaces.nasbench201().cells["cell"]
    mix = random(1, cells.shape)
    np.testing.assert_allclose(mixture.kept_share(mix, cells), mix.max(-1).mean())


def test_agreement():
    one = np.array([[0.1, 0.2, 0.7]] * 5)
    other = one.copy()
    other[0] = [0.7, 0.2, 0.1]  # reversed: -1
    other[1] = [0.2, 0.1, 0.7]  # one pair of three swapped: 1/3
    other[2] = [0.3, 0.3, 0.3]  # no order
    result = mixture.agreement(one, other, CELL)
    np.testing.assert_allclose(result["tau"], (-1 + 1 / 3 + 1 + 1) / 4)
    assert result["same"] == 3 / 5
    assert mixture.agreement(one, one, CELL) == {"tau": 1.0, "same": 1.0}
    assert np.isnan(mixture.agreement(one, np.ones(CELL.shape), CELL)["tau"])


def test_mean_agreement():
    mixes = [random(seed) for seed in range(3)]
    pairs = [
        mixture.agreement(mixes[i], mixes[j], CELL)["tau"] for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    np.testing.assert_allclose(mixture.mean_agreement(mixes, CELL)["tau"], np.mean(pairs))
    with pytest.raises(ValueError, match="1 mix"):
        mixture.mean_agreement(mixes[:1], CELL)


def test_arrays_of_jax_will_do():
    mix = jnp.asarray(random())
    assert 0 < mixture.kept_share(np.asarray(mix), CELL) < 1
