"""Learning rates against the loops of the published training scripts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdarts import hypergrad
from jaxdarts.training import schedules


def test_cosine_falls_from_the_peak_towards_zero():
    rates = schedules.cosine(0.025, 600)
    assert rates.shape == (600,) and rates[0] == 0.025 and rates[300] == pytest.approx(0.0125)
    assert (np.diff(rates) < 0).all() and 0 < rates[-1] < 1e-6


def test_exponential_decays_every_epoch():
    rates = schedules.exponential(0.1, 250, 0.97)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 0.97)
    assert rates[0] == 0.1 and rates.shape == (250,)


@pytest.mark.parametrize("warmup", [0, 5])
def test_linear_is_the_later_papers_loop(warmup):
    peak, epochs, expected = 0.5, 250, []
    for epoch in range(epochs):
        if epochs - epoch > 5:
            rate = peak * (epochs - 5 - epoch) / (epochs - 5)
        else:
            rate = peak * (epochs - epoch) / ((epochs - 5) * 5)
        expected.append(rate * (epoch + 1) / 5 if epoch < warmup else rate)
    np.testing.assert_allclose(schedules.linear(peak, epochs, warmup), expected)


@pytest.mark.parametrize("epochs", [1, 5])
def test_linear_needs_more_than_five_epochs(epochs):
    with pytest.raises(ValueError, match=f"{epochs} epochs"):
        schedules.linear(0.5, epochs)


def test_clipping_is_that_of_optax():
    clip, optax_clip = schedules.clip_by_global_norm(5.0), optax.clip_by_global_norm(5.0)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 3.0, 1e3):
        g = {"a": jnp.asarray(scale * rng.standard_normal(7), jnp.float32), "b": jnp.ones(2)}
        pairs = [tx.update(g, tx.init(g))[0] for tx in (clip, optax_clip)]
        jax.tree.map(np.testing.assert_array_equal, *pairs)
        slopes = [
            jax.grad(lambda g, tx=tx: jnp.sum(jnp.sin(tx.update(g, tx.init(g))[0]["a"])))(g)
            for tx in (clip, optax_clip)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *slopes)


def test_an_unrolled_step_of_zero_gradients_is_finite():
    """Of a training loss at its minimum: the step moves by the gradient itself, as without
    clipping.
    """
    tx = optax.chain(schedules.clip_by_global_norm(5.0), optax.sgd(0.1))

    def train(w, a):
        return jnp.sum((w - a) ** 2)

    def val(w, a):
        return jnp.sum(jnp.sin(w) * a)

    w = a = jnp.array([1.0, -2.0])
    result = hypergrad.unrolled(
        train, val, w, a, lambda g: optax.apply_updates(w, tx.update(g, tx.init(w), w)[0])
    )
    # w' = w - 0.1 * 2 (w - a), so dw'/da = 0.2.
    np.testing.assert_allclose(result, np.sin(w) + 0.2 * np.cos(w) * a, rtol=1e-5)
