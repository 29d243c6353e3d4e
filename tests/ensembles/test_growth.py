"""Growing ensembles: which candidate is added, when members are pruned, the dense networks."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import ensembles
from jaxdarts.ensembles import growth
from jaxdarts.nn.dense import Dense

LABELS = np.array([0, 1, 0, 1, 1])


def member(depth: int, strength: float) -> growth.Member:
    logits = strength * np.eye(2, dtype=np.float32)[LABELS]
    return growth.Member(depth, logits, logits)


def grown_steps(train, iterations, **options):
    return list(
        itertools.islice(
            growth.grow(jax.random.key(0), train, LABELS, LABELS, **options), iterations
        )
    )


def test_the_next_is_deeper_while_that_pays():
    calls = []

    def train(iteration, depth):
        calls.append((iteration, depth))
        return member(depth, min(depth, 2))  # more than two layers are no better

    last = grown_steps(train, 4)[-1]
    assert calls == [
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 3),
        (3, 2),
        (3, 3),
    ]  # of equals the shallower one
    assert [one.depth for one in last.members] == [1, 2, 2, 2]
    assert last.kept == (0, 1, 2, 3) and last.weights == pytest.approx([0.25] * 4)
    mean = (1 + 2 + 2 + 2) / 4  # of the right class's logit
    assert last.value == pytest.approx(math.log(1 + math.exp(-mean)), rel=1e-6)


def test_complexity_holds_depth_back():
    train = lambda iteration, depth: member(depth, min(depth, 2))  # noqa: E731
    assert [one.depth for one in grown_steps(train, 3, strength=5.0)[-1].members] == [0, 0, 0]
    assert [one.depth for one in grown_steps(train, 1, start=4, strength=5.0)[-1].members] == [4]
    # The constant is the same for all, so it changes the value and no choice.
    free, taxed = grown_steps(train, 3), grown_steps(train, 3, constant=0.5)
    assert [one.depth for one in taxed[-1].members] == [one.depth for one in free[-1].members]
    assert taxed[-1].value == pytest.approx(free[-1].value + 0.5, rel=1e-6)


def test_pruning_comes_before_the_candidate_and_not_below_three():
    seen = []

    def drop_first(key, probabilities, labels, weights):
        seen.append((len(probabilities), probabilities[:, 0, 0].tolist()))
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
        assert len(weights) == len(probabilities)
        return tuple(range(1, len(probabilities)))

    steps = grown_steps(
        lambda iteration, depth: member(depth, iteration + 1 if depth == 0 else 0),
        6,
        criterion=drop_first,
    )
    assert [size for size, _ in seen] == [3, 3, 3]
    assert [step.kept for step in steps] == [
        (0,),
        (0, 1),
        (0, 1, 2),
        (1, 2, 3),
        (2, 3, 4),
        (3, 4, 5),
    ]
    assert len(steps[-1].members) == 6  # what is pruned stays on the list


def test_learned_weights_while_growing():
    noise = np.random.default_rng(0).standard_normal((4, 5, 2)).astype(np.float32)

    def train(iteration, depth):
        if iteration == 1 and depth == 0:
            return member(0, 1.0)
        return growth.Member(depth, noise[2 * (iteration > 0) + depth], noise[0])

    options = {
        "weigh": jax.jit(ensembles.pruning.learned_weights),
        "strength": 0.1,
        "constant": 0.05,
    }
    last = grown_steps(train, 2, **options)[-1]
    logits = jnp.stack([one.fit for one in last.members])
    penalties = jnp.array([0.1 * math.sqrt(one.depth) + 0.05 for one in last.members])
    assert last.members[1].depth == 0
    np.testing.assert_allclose(
        last.weights, ensembles.pruning.learned_weights(logits, LABELS, penalties), atol=1e-5
    )


def test_a_dense_network_trains_as_a_cell_does():
    net = Dense(width=8, depth=2, num_classes=3)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((30, 2, 2, 1)), jnp.float32)
    batch = {
        "image": image,
        "label": jnp.argmax(image[:, :, 0, 0] @ jnp.ones((2, 3)) + image[:, 0, 1], -1) % 3,
    }
    assert jd.count_params(net, (2, 2, 1)) == 4 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    assert jd.count_params(Dense(8, 0, 3), (2, 2, 1)) == 4 * 3 + 3
    training = jd.training.images.from_scratch(net, optax.rmsprop(0.01))
    state = training.init(jax.random.key(0), net.init(jax.random.key(1), image))
    step, losses = jax.jit(training.step), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] / 2 and state.averages == {}
    sums = training.evaluate(state, batch, jnp.ones(30))
    assert float(sums["loss"]) / 30 < losses[0] / 2
