"""The optimiser of weights in a second-order search. Oracles: its definition written out in NumPy,
and central differences of the validation loss after that step, in float64.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdarts as jd
from jaxdarts.commands import optimizers

RATE, DECAY, MOMENTUM, CLIP = 0.1, 3e-2, 0.9, 0.5
CONFIG = types.SimpleNamespace(
    weight_decay=DECAY, momentum=MOMENTUM, grad_clip=CLIP, epochs=5, nesterov=True
)
CELLS = {"normal": jd.space.fully_connected(1, ("skip_connect", "sep_conv_3x3"))}
BATCHES = np.random.default_rng(0).standard_normal((6, 2))


def softmax(arch):
    exponents = np.exp(arch - arch.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def loss_at(weights, arch, batch):
    """0.5 |tanh(mix @ weights) - batch|^2 and its gradient by the weights."""
    mix = softmax(arch)
    hidden = np.tanh(mix @ weights)
    difference = hidden - batch
    return 0.5 * np.sum(difference**2), mix.T @ (difference * (1 - hidden**2))


def objective(params, mix, carry, batch, key):
    loss = 0.5 * jnp.sum((jnp.tanh(mix["normal"] @ params["w"]) - batch[None]) ** 2)
    return loss, (carry, {"loss": loss})


def stepped(weights, trace, arch, batch):
    """The weights and the momentum after PyTorch's SGD with nesterov=True on clipped gradients."""
    gradient = loss_at(weights, arch, batch)[1]
    gradient = gradient * min(1, CLIP / np.linalg.norm(gradient)) + DECAY * weights
    trace = MOMENTUM * trace + gradient
    return weights - RATE * (gradient + MOMENTUM * trace), trace


def test_nesterov_is_unrolled_exactly(x64):
    """Three search steps; alpha goes down its gradient by plain descent, so that it shows."""
    tx = optimizers.weights_optimizer(CONFIG, lambda epoch: RATE, 1)
    space = types.SimpleNamespace(cells=CELLS)
    search = jd.bilevel_search(objective, jd.algorithms.darts(space, 2), tx, optax.sgd(1.0))
    shape = CELLS["normal"].shape
    weights = np.random.default_rng(1).standard_normal((2, 2))
    state = search.init(jax.random.key(0), {"w": jnp.asarray(weights)})
    arch = np.asarray(state.arch["normal"], float)
    trace, clipped = np.zeros_like(weights), []
    for number in range(3):
        train, val = BATCHES[2 * number], BATCHES[2 * number + 1]
        clipped.append(np.linalg.norm(loss_at(weights, arch, train)[1]) > CLIP)

        def after(moved, weights=weights, trace=trace, train=train, val=val):
            return loss_at(stepped(weights, trace, moved, train)[0], moved, val)[0]

        slope = np.zeros(shape)
        for index in np.ndindex(shape):
            step = np.zeros(shape)
            step[index] = 1e-5
            slope[index] = (after(arch + step) - after(arch - step)) / 2e-5
        state, _ = search.step(state, jnp.asarray(train), jnp.asarray(val))
        np.testing.assert_allclose(state.arch["normal"], arch - slope, atol=1e-9)
        arch = np.asarray(state.arch["normal"])
        weights, trace = stepped(weights, trace, arch, train)
        np.testing.assert_allclose(state.params["w"], weights, atol=1e-12)
    assert set(clipped) == {True, False}  # both sides of the clip are passed
