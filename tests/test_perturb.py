"""Perturbations of the mix. Oracles: the projection worked out by hand, and the set that an attack
may not leave.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts import perturb
from jaxdarts.space import Choices, fully_connected

CELLS = {"normal": fully_connected(2, ("none", "skip_connect", "sep_conv_3x3"))}
RAGGED = {
    "normal": Choices(
        CELLS["normal"].edges,
        (("skip_connect", "sep_conv_3x3"), *[("none", "max_pool_3x3", "skip_connect")] * 4),
        (2, 3),
    )
}
KEY, STEP = jax.random.key(3), jnp.int32(0)


def mix_of(cells, seed=0):
    logits = np.where(
        cells["normal"].where(),
        np.random.default_rng(seed).standard_normal(cells["normal"].shape),
        -np.inf,
    )
    return {
        "normal": jnp.asarray(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), jnp.float32)
    }


def loss(mix):
    return jnp.sum(jnp.sin(3 * mix["normal"]) * jnp.arange(15.0).reshape(5, 3))


def constant(value):
    return lambda step: value


METHODS = {"random": perturb.random_noise, "adversarial": perturb.adversarial}


def test_projection_by_hand():
    rows = jnp.array([[0.2, 0.3, 0.5], [1.4, 0.2, -0.3], [-0.1, -0.3, -0.2], [0.0, 0.0, 0.0]])
    expected = [[0.2, 0.3, 0.5], [1 / 1.2, 0.2 / 1.2, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(perturb.project(rows), expected, rtol=1e-6)


@pytest.mark.parametrize("cells", [CELLS, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("method", METHODS)
def test_stays_in_its_set(method, cells):
    """On the simplex, and before the last projection at most epsilon from the clean mix."""
    mix, epsilon = mix_of(cells), 0.3
    moved = jax.jit(lambda key: METHODS[method](cells, constant(epsilon))(mix, loss, key, STEP))
    for seed in range(5):
        weights = np.asarray(moved(jax.random.key(seed))["normal"])
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
        assert np.all(weights >= 0) and not weights[~cells["normal"].where()].any()
        # Dividing by a row's sum, which lies within 1 - 3 eps and 1 + 3 eps, is all that may lead
        # out of the box.
        low = np.clip(np.asarray(mix["normal"]) - epsilon, 0, 1) / (1 + 3 * epsilon)
        assert np.all(weights >= low - 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_moves_without_epsilon(method):
    mix = mix_of(CELLS)
    moved = METHODS[method](CELLS, constant(0.0))(mix, loss, KEY, STEP)
    np.testing.assert_allclose(moved["normal"], mix["normal"], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_edges_own_weight_stays(method):
    mix = {"normal": mix_of(CELLS)["normal"] * jnp.array([0.4, 0.6, 0.2, 0.3, 0.5])[:, None]}
    moved = METHODS[method](CELLS, constant(0.2))(mix, loss, KEY, STEP)
    np.testing.assert_allclose(moved["normal"].sum(1), [0.4, 0.6, 0.2, 0.3, 0.5], rtol=1e-5)
    assert float(jnp.abs(moved["normal"] - mix["normal"]).max()) > 0.01


def test_random_noise_is_uniform():
    """Small enough that nothing is clipped: row i of noise n becomes (p + n) / (1 + sum n)."""
    mix = {"normal": jnp.full((5, 3), 1 / 3)}
    keys = jax.random.split(KEY, 4000)
    moved = jax.vmap(
        lambda key: perturb.random_noise(CELLS, constant(0.01))(mix, loss, key, STEP)["normal"]
    )(keys)
    # To first order p + n - sum(n) / 3, of variance 2/3 of the noise's epsilon^2 / 3.
    np.testing.assert_allclose(moved.mean(0), 1 / 3, atol=3e-4)
    np.testing.assert_allclose(moved.std(0), np.sqrt(2 / 9) * 0.01, rtol=0.05)


def test_attack_by_hand():
    """A loss whose gradient has the signs (+, -) everywhere: the worst mix in the box is (p + eps,
    q - eps).
    """
    cells = {"normal": fully_connected(1, ("skip_connect", "sep_conv_3x3"))}
    mix = {"normal": jnp.array([[0.5, 0.5], [0.25, 0.75]])}
    moved = perturb.adversarial(cells, constant(0.1))(
        mix, lambda m: jnp.sum(m["normal"] @ jnp.array([1.0, -1.0])), KEY, STEP
    )
    np.testing.assert_allclose(moved["normal"], [[0.6, 0.4], [0.35, 0.65]], rtol=1e-5)


def test_attack_reverts_where_the_loss_fell():
    """A maximum at the clean mix: every other point is lower."""
    mix = mix_of(CELLS)

    def peak(m):
        return -jnp.sum((m["normal"] - mix["normal"]) ** 2)

    moved = perturb.adversarial(CELLS, constant(0.2))(mix, peak, KEY, STEP)
    np.testing.assert_array_equal(moved["normal"], mix["normal"])


def test_attack_is_worse_than_noise():
    mix = mix_of(CELLS)
    keys = jax.random.split(KEY, 50)
    random, worst = (
        jax.jit(
            jax.vmap(lambda key, make=make: loss(make(CELLS, constant(0.1))(mix, loss, key, STEP)))
        )(keys)
        for make in METHODS.values()
    )
    assert float(jnp.mean(worst)) > float(jnp.max(random)) > float(loss(mix))


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_weight_stay_without(method):
    """A cold softmax over edges, or a drawn cell, leaves edges without any weight."""
    mix = {"normal": mix_of(CELLS)["normal"] * jnp.array([1.0, 0.0, 1e-40, 0.5, 0.5])[:, None]}
    moved = METHODS[method](CELLS, constant(0.2))(mix, loss, KEY, STEP)
    assert np.all(np.isfinite(moved["normal"]))
    np.testing.assert_allclose(moved["normal"].sum(1), [1, 0, 0, 0.5, 0.5], rtol=1e-5, atol=1e-30)


def test_an_attack_on_a_flat_loss_is_finite():
    """Zero gradients have no direction; constant losses are not lower anywhere."""
    mix = mix_of(CELLS)
    for flat in (lambda m: jnp.float32(1), lambda m: 0.0 * jnp.sum(m["normal"])):
        moved = perturb.adversarial(CELLS, constant(0.2))(mix, flat, KEY, STEP)
        assert np.all(np.isfinite(moved["normal"]))
        np.testing.assert_allclose(moved["normal"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_hot_mixes_are_perturbed_finitely(method):
    """What alphas of 1e4 come to."""
    mix = {"normal": jnp.eye(3)[jnp.array([0, 1, 2, 1, 0])]}
    moved = METHODS[method](CELLS, constant(0.3))(mix, loss, KEY, STEP)
    assert np.all(np.isfinite(moved["normal"]))
    np.testing.assert_allclose(moved["normal"].sum(1), 1, rtol=1e-5)
