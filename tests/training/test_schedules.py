"""Learning rates against the loops of the published training scripts."""

import numpy as np
import pytest

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
