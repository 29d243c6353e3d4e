"""Scores of untrained networks against numbers of their authors' public code.

`golden/scores.json` has them, in float64 under PyTorch 2.13, for the weights, images and labels
that are drawn here: six cells of NAS-Bench-201, 4 channels, two cells a stage, three classes.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxdarts as jd
from jaxdarts import proxies
from jaxdarts.commands import score_definitions
from jaxdarts.count import network_cost
from jaxdarts.nn.benchmarks.nasbench201 import Picked, picked
from jaxdarts.space import locate

AUTHORS = json.loads((Path(__file__).parents[1] / "golden" / "scores.json").read_text("utf-8"))
SPACE = jd.spaces.nasbench201()
OPTIONS = {"width": 4, "depth": 2, "num_classes": 3, "dtype": jnp.float64}
NET = Picked(SPACE.cells, **OPTIONS)
_rng = np.random.default_rng(0)
IMAGES = _rng.standard_normal((12, 16, 16, 3))
LABELS = _rng.integers(0, 3, 12)
PICKS = [
    np.array([op for _, op in locate(SPACE.cells, jd.genotypes.parse(text))["cell"]])
    for text in AUTHORS["cells"]
]


@functools.cache
def weights():
    """Every kernel and bias 0.3 times normal numbers, scales 1, shifts 0."""
    inputs = NET.example_inputs((16, 16, 3))
    shapes = jax.eval_shape(NET.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name.endswith(("scale", "shift")):
            return np.full(leaf.shape, float(name.endswith("scale")))
        return 0.3 * rng.standard_normal(leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def directions(i, shape):
    """The signs that take the place of random ones in AZ-NAS."""
    return np.random.default_rng([7, i]).choice([-1.0, 1.0], shape)


def batch():
    """All twelve images."""
    return {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}


def values(score):
    """The score of every cell, by one program."""

    @jax.jit
    def program(params, picks):
        return score({"params": picked(SPACE.cells, params, picks)}, picks)

    params = jax.tree.map(jnp.asarray, weights())
    return [jax.tree.map(float, program(params, picks)) for picks in PICKS]


def authors(name):
    return [float(value) for value in AUTHORS["scores"][name]]


def test_az_nas(x64, monkeypatch):
    """cvlab-yonsei/AZ-NAS, NB201/ZeroShotProxy/compute_az_nas_score.py, with the weights and the
    signs given. Relative error at most 2e-14.
    """

    def az_nas(params, picks):
        count = iter(range(6))
        monkeypatch.setattr(
            jax.random, "rademacher", lambda key, shape, dtype: directions(next(count), shape)
        )
        blocks, images = score_definitions.blocks(NET, picks), jnp.asarray(IMAGES[:6])
        return proxies.az_nas(blocks, params, images, jax.random.key(0))

    scores = values(az_nas)
    for name in proxies.Assembled._fields:
        actual = [getattr(score, name) for score in scores]
        np.testing.assert_allclose(actual, authors(name), rtol=1e-10, atol=1e-12, err_msg=name)
    # A cell that passes its input on changes nothing; one that returns zeros has no entropy.
    assert scores[4].trainability == -np.inf and scores[5].expressivity == -np.inf


def test_zico(x64):
    """SLDGroup/ZiCo, ZeroShotProxy/compute_zico.py, two batches of six. Relative error at most
    8e-13.
    """

    def zico(params, picks):
        return score_definitions.zico(NET, picks, params, batch(), None)

    np.testing.assert_allclose(values(zico), authors("zico"), rtol=1e-10)


def test_gradsign(x64):
    """cmu-catalyst/GradSign, zero-cost-nas-code/foresight/pruners/measures/grad_conflict.py: the
    sum, equal to the last digit. The mean is that of AZ-NAS' copy of it, over the weights of the
    network's layers.
    """

    def gradsign(params, picks):
        half = {name: leaf[:6] for name, leaf in batch().items()}
        score = proxies.gradsign(lambda params, x: NET.apply(params, x, picks), params, half)
        return score, score / score_definitions.used_weights(params)

    sums, means = zip(*values(gradsign))
    np.testing.assert_array_equal(sums, authors("gradsign"))
    np.testing.assert_allclose(means, authors("gradsign_mean"), rtol=1e-12)


def test_swap(x64):
    """pym1024/SWAP, src/metrics/swap.py, of twelve images: equal to the last digit; regularised
    with mu 10 and sigma 40 within 1e-12.
    """

    def swap(params, picks):
        told = score_definitions.told_units(NET, picks)
        return proxies.swap(told, params, batch()["image"], signs=proxies.declared_signs)

    scores = values(swap)
    np.testing.assert_array_equal(scores, authors("swap"))
    sizes = [
        network_cost(jd.genotypes.parse(text), 4, 2, 3, (16, 16, 3))[0] for text in AUTHORS["cells"]
    ]
    assert sizes == authors("parameters")
    for score, size, expected in zip(scores, sizes, authors("swap_regularised")):
        regularised = proxies.regularised_swap(jnp.float64(score), jnp.float64(size), 10, 40)
        np.testing.assert_allclose(regularised, expected, rtol=1e-12)


# --------------------------------------------------------------------------- functions of the users


@pytest.mark.parametrize("batch", [5, 16, 17, 33])
def test_swap_counts_patterns_of_any_function(batch):
    """By sorting too, where there are more than 16 images; oracle: rows of zeros and ones."""
    rng = np.random.default_rng(2)
    images, weights = rng.standard_normal((batch, 4)), rng.standard_normal((4, 300))
    # Units that are on for nobody, whose pattern is one more; half of them twice.
    weights[0, :40], images[:, 0] = -50, 1
    weights[:, 100:150] = weights[:, 50:100]
    apply = lambda params, x: jax.nn.relu(x @ params) @ jnp.ones((300, 2))  # noqa: E731
    on = np.float32(images) @ np.float32(weights) > 0
    actual = proxies.swap(apply, jnp.float32(weights), jnp.float32(images))
    assert actual == len(np.unique(on.T, axis=0))
    # Without these units, and with units that do not count.
    weights[0, :40], weights[:, 150:] = weights[0, 50:90], 0
    rest = np.ones((300, 2))
    rest[150:] = 0
    apply = lambda params, x: jax.nn.relu(x @ params) @ jnp.asarray(rest)  # noqa: E731
    on = (np.float32(images) @ np.float32(weights) > 0)[:, :150]
    actual = proxies.swap(apply, jnp.float32(weights), jnp.float32(images))
    assert actual == len(np.unique(on.T, axis=0))


def test_az_nas_of_functions(x64):
    """Three linear maps; oracle: the definitions in NumPy."""
    rng = np.random.default_rng(3)
    params = [rng.standard_normal((6, 6)) / 2 for _ in range(3)]
    images, key = rng.standard_normal((8, 6)), jax.random.key(4)
    blocks = proxies.in_blocks([lambda params, x, i=i: x @ params[i] for i in range(3)])
    score = proxies.az_nas(blocks, params, jnp.asarray(images), key)
    maps, entropies = images, []
    for matrix in params:
        maps = maps @ matrix
        variances = np.linalg.eigvalsh(np.cov(maps.T, bias=True))
        shares = variances / variances.sum()
        entropies.append(-np.sum(shares * np.log(shares + 1e-8)))
    passed = []
    for i in (1, 2):
        signs = jax.random.rademacher(jax.random.split(key, 3)[i], (1, 8, 6), np.float64)[0]
        s = np.linalg.svd((signs @ params[i].T).T @ signs / 8, compute_uv=False)[0]
        passed.append(2 - s - 1 / (s + 1e-6))
    expected = sum(entropies), np.diff(entropies).min(), np.mean(passed)
    np.testing.assert_allclose(score, expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"a map of \(5,\) pixels into \(2,\)"):
        halved = proxies.in_blocks([lambda params, x: x, lambda params, x: x[:, :4:2]])
        proxies.az_nas(halved, params, jnp.ones((8, 5, 3)), key)


def test_sums_of_ranks():
    columns = {
        "first": [3.0, 1.0, np.nan, 2.0, -np.inf],
        "second": [0.0, 5.0, 5.0, 1.0, 2.0],
    }
    ranks = [
        scipy.stats.rankdata([3.0, 1.0, -np.inf, 2.0, -np.inf]) / 5,
        scipy.stats.rankdata(columns["second"]) / 5,
    ]
    np.testing.assert_allclose(proxies.rank_sum(columns), ranks[0] + ranks[1])
    np.testing.assert_allclose(proxies.log_rank_sum(columns), np.log(ranks[0]) + np.log(ranks[1]))


def test_weights_of_az_nas():
    params = {
        "stage0": {"nor_conv_3x3_kernel": jnp.ones((2, 3, 3, 3, 16, 64))},
        "head": jnp.ones((64, 1000)),
        "head_bias": jnp.ones(1000),
    }
    drawn = proxies.kaiming(jax.random.key(0), params)
    np.testing.assert_allclose(
        np.std(drawn["stage0"]["nor_conv_3x3_kernel"]), np.sqrt(2 / (9 * 16)), rtol=0.02
    )
    np.testing.assert_allclose(np.std(drawn["head"]), np.sqrt(2 / 64), rtol=0.02)
    assert not np.any(drawn["head_bias"])
