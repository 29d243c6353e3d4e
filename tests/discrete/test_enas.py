"""ENAS: probabilities against enumeration, the policy's gradient against that of the expected
reward, learning, resuming.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.discrete import enas
from jaxdarts.space import Choices
from tests.helpers import toy_objective

TOPOLOGY = {
    "cell": Choices(
        ((0, 1), (0, 2), (1, 2)), (("none", "skip_connect"),) * 3, (2,), num_inputs=1, kept=None
    )
}
# Two edges of three are kept; the edges have different candidates, none among them or not.
NODES = Choices(
    ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)),
    (
        ("none", "skip_connect"),
        ("skip_connect",),
        ("skip_connect", "none", "max_pool_3x3"),
        ("skip_connect",),
        ("skip_connect",),
    ),
    (2, 3),
)


@functools.cache
def tiny(name):
    """A policy, its parameters, all sequences of its actions and whether each is possible."""
    cells = {"topology": TOPOLOGY, "nodes": {"normal": NODES}}[name]
    policy = enas.lstm_policy(cells, hidden=5, temperature=2.0)
    params = jax.tree.map(lambda p: 5 * p, policy.init(jax.random.key(3)))  # far from uniform
    options = [2] * 3 if name == "topology" else [2, 2, 3, 3, 3, 3, 3, 3]
    actions = jnp.array(list(itertools.product(*map(range, options))))
    log_prob = jax.jit(jax.vmap(lambda sampled: policy.replay(params, sampled).log_prob))(actions)
    return cells, policy, params, actions[np.asarray(log_prob) > -1e6]


@pytest.mark.parametrize("name", ["topology", "nodes"])
def test_probabilities_sum_to_one(name):
    cells, policy, params, actions = tiny(name)
    drawn = jax.jit(jax.vmap(functools.partial(policy.replay, params)))(actions)
    assert float(jnp.sum(jnp.exp(drawn.log_prob))) == pytest.approx(1, abs=1e-5)
    p = np.exp(np.asarray(drawn.log_prob))
    # Of the whole sequence, by the chain rule: the mean over sequences of the entropies on their
    # way.
    assert float(np.sum(p * np.asarray(drawn.entropy))) == pytest.approx(
        -np.sum(p * np.log(p)), abs=1e-4
    )
    assert p.max() > 1.1 * p.min()
    for cell, choices in cells.items():
        mixes = np.asarray(drawn.mix[cell])
        assert not mixes[:, ~choices.derivable()].any()
        per_node = [mixes[:, edges].sum(axis=(1, 2)) for edges in choices.entering().values()]
        kept = [choices.kept or len(edges) for edges in choices.entering().values()]
        assert all((number == k).all() for number, k in zip(per_node, kept, strict=True))
        assert set(np.unique(mixes.sum(axis=2))) <= {0, 1}
    if name == "topology":
        assert len(actions) == 8 and (mixes.argmax(axis=2) == np.asarray(actions)).all()
    else:
        # Two orders for either node, of 1 and of 3 pairs of edges; two operations on edge (0, 3).
        assert len(actions) == 2 * 2 * (2 + 2 + 1)


def test_samples_are_drawn_with_their_probabilities():
    _, policy, params, actions = tiny("topology")
    drawn = jax.jit(jax.vmap(functools.partial(policy.sample, params)))(
        jax.random.split(jax.random.key(0), 4000)
    )
    numbers = np.asarray(drawn.actions) @ [4, 2, 1]
    replayed = jax.jit(jax.vmap(functools.partial(policy.replay, params)))(actions)
    p = np.exp(np.asarray(replayed.log_prob))
    np.testing.assert_allclose(np.exp(np.asarray(drawn.log_prob)), p[numbers], rtol=1e-4)
    shares = np.bincount(numbers, minlength=8) / 4000
    assert np.abs(shares - p).max() < 4 * np.sqrt(p * (1 - p) / 4000).max()


def test_policy_gradient_is_that_of_the_expected_reward():
    _, policy, params, actions = tiny("topology")
    rewards = jnp.asarray(np.random.default_rng(0).random(len(actions)), jnp.float32)
    probabilities = jax.jit(
        lambda params: jnp.exp(jax.vmap(lambda a: policy.replay(params, a).log_prob)(actions))
    )
    exact = jax.grad(lambda params: jnp.sum(probabilities(params) * rewards))(params)
    for baseline in (0.0, 0.7):
        # The estimator's mean, every sequence as often as the policy draws it.
        weights = len(actions) * probabilities(params) * (rewards - baseline)
        mean = jax.jit(functools.partial(enas.policy_gradient, policy))(params, actions, weights)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), mean, exact)


def test_step_of_the_policy_by_hand():
    """Baseline with and without history, entropy in the reward, one optimiser step; every cell has
    a batch of its own.
    """
    cells = TOPOLOGY
    policy = enas.lstm_policy(cells, hidden=3)

    def objective(
        params, mix, carry, batch, key
    ):  # the reward counts identities, half of them when the batch says so
        return params, (carry, {"accuracy": batch * jnp.sum(mix["cell"][:, 1])})

    search = enas.enas(
        objective, policy, optax.sgd(0.1), optax.sgd(0.5), samples=4, decay=0.9, entropy_weight=0.3
    )
    state, control, sample = (
        search.init(jax.random.key(0), jnp.float32(1)),
        jax.jit(search.control),
        jax.jit(policy.sample),
    )
    slope = jax.jit(jax.grad(lambda p, actions: policy.replay(p, actions).log_prob))
    average = weight = 0.0
    for n, scales in enumerate(([1.0, 0.2, 3.0, 0.7], [0.5, 1.5, 0.1, 2.0])):
        draw_key, _ = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, 1), n))
        drawn = [sample(state.policy, key) for key in jax.random.split(draw_key, 4)]
        rewards = np.array(
            [
                scale * float(d.mix["cell"][:, 1].sum()) + 0.3 * float(d.entropy)
                for scale, d in zip(scales, drawn, strict=True)
            ]
        )
        average, weight = 0.9 * average + 0.1 * rewards.mean(), 0.9 * weight + 0.1
        gradients = [slope(state.policy, d.actions) for d in drawn]
        expected = jax.tree.map(
            lambda p, *g: (
                p + 0.5 * sum((r - average / weight) * slope for r, slope in zip(rewards, g)) / 4
            ),
            state.policy,
            *gradients,
        )
        state, metrics = control(state, jnp.asarray(scales))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.policy, expected
        )
        assert float(metrics["baseline"]) == pytest.approx(average / weight, rel=1e-5)
    assert (int(state.step), int(state.updates)) == (0, 2)


def test_learns_a_toy_reward():
    """The best of 5^6 cells by a table of its operations."""
    space = jd.spaces.nasbench201()
    policy = enas.lstm_policy(space.cells, hidden=16)
    table = jnp.asarray(
        np.random.default_rng(1).permuted(np.tile(np.linspace(0, 1, 5), (6, 1)), axis=1),
        jnp.float32,
    )

    def objective(params, mix, carry, batch, key):
        return params, (carry, {"accuracy": jnp.sum(table * mix["cell"]) / 6})

    search = enas.enas(objective, policy, optax.sgd(0.1), optax.adam(0.02), decay=0.9)
    state = search.init(jax.random.key(0), jnp.float32(1))
    state, metrics = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: search.control(s, ()), s, length=250)
    )(state)
    reward = np.asarray(metrics["reward"])
    assert reward[:5].mean() < 0.65 and reward[-5:].mean() > 0.85
    mix, score = enas.best_of(
        policy, state.policy, jax.random.key(1), 64, lambda mix: float(jnp.sum(table * mix["cell"]))
    )
    assert score > 5.4 and score == pytest.approx(float(jnp.sum(table * mix["cell"])))


def test_alternation_resumes_exactly():
    """From any state on, as a run that went on; the weights of a drawn cell descend, and only
    `train` moves weights.
    """

    def objective(
        params, mix, carry, batch, key
    ):  # least squares with one weight for every operation of every edge
        loss = jnp.sum(mix["cell"] * (params - batch) ** 2)
        return loss, (carry, {"loss": loss, "accuracy": jnp.exp(-loss)})

    policy = enas.lstm_policy(TOPOLOGY, hidden=3)
    params_tx = optax.sgd(0.1, momentum=0.9)
    search = enas.enas(objective, policy, params_tx, optax.adam(0.01), samples=2)
    train, control = jax.jit(search.train), jax.jit(search.control)

    def epoch(state, n):
        for i in range(3):
            state, _ = train(state, jnp.float32(n + i))
        for i in range(2):
            state, _ = control(state, jnp.full(2, n - i, jnp.float32))
        return state

    start = search.init(jax.random.key(0), jnp.zeros((3, 2)))
    state, _ = train(start, jnp.float32(1))
    assert (
        float(state.params.sum()) == pytest.approx(0.1 * 2 * 3)
        and int((state.params != 0).sum()) == 3
    )
    assert control(state, jnp.ones(2))[0].params.tolist() == state.params.tolist()
    state = epoch(start, 0)
    saved = jax.tree.map(np.asarray, dataclass_without_key(state))
    uncut = epoch(state, 1)
    again = epoch(restored(saved, state), 1)
    jax.tree.map(
        np.testing.assert_array_equal, dataclass_without_key(uncut), dataclass_without_key(again)
    )
    assert (int(uncut.step), int(uncut.updates)) == (6, 4)
    no_accuracy = enas.enas(lambda *arguments: (0.0, ((), {})), policy, params_tx, params_tx)
    with pytest.raises(KeyError, match="accuracy"):
        no_accuracy.control(state, jnp.zeros(10))


def dataclass_without_key(state):
    return {**vars(state), "key": jax.random.key_data(state.key)}


def restored(saved, like):
    fields = jax.tree.map(jnp.asarray, saved)
    return type(like)(**{**fields, "key": jax.random.wrap_key_data(fields["key"])})


@pytest.mark.parametrize("name", ["darts", "nasbench201", "weight_sharing64"])
def test_draws_are_of_the_space(name):
    space = getattr(jd.spaces, name)()
    policy = enas.lstm_policy(space.cells, hidden=4)
    params = policy.init(jax.random.key(0))
    drawn = jax.eval_shape(policy.sample, params, jax.random.key(0))
    assert drawn.actions.shape == ({"darts": 32, "nasbench201": 6, "weight_sharing64": 3}[name],)
    if name != "nasbench201":
        genotypes, sample = set(), jax.jit(policy.sample)
        for i in range(3):
            mix = sample(params, jax.random.key(i)).mix
            genotype = space.discretize(mix)
            jax.tree.map(
                np.testing.assert_array_equal, dict(jd.one_hot(space.cells, genotype)), dict(mix)
            )
            genotypes.add(genotype)
        assert len(genotypes) > 1


def test_bad_numbers():
    with pytest.raises(ValueError, match="hidden=0"):
        enas.lstm_policy(TOPOLOGY, hidden=0)
    with pytest.raises(ValueError, match="samples is 0"):
        enas.enas(toy_objective, tiny("topology")[1], optax.sgd(1.0), optax.sgd(1.0), samples=0)
    with pytest.raises(ValueError, match="count is 0"):
        enas.best_of(
            tiny("topology")[1], tiny("topology")[2], jax.random.key(0), 0, lambda mix: 0.0
        )
