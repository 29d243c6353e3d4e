"""The step of a bilevel search. Oracles: the same step by hand with optax, and spies in the places
of the algorithm.

A step is traced whole, so spies tell what they see by `jax.debug.callback`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import hypergrad, relax
from tests.helpers import toy_batch, toy_cells, toy_objective, toy_params

PARAMS_TX = optax.chain(
    optax.clip_by_global_norm(0.5), optax.add_decayed_weights(3e-4), optax.sgd(0.1, momentum=0.9)
)
ARCH_TX = optax.adam(1e-2, b1=0.5)


def started(algorithm, objective=toy_objective, arch_tx=ARCH_TX, carry=((), ())):
    search = jd.bilevel_search(objective, algorithm, PARAMS_TX, arch_tx)
    return search, search.init(jax.random.key(3), toy_params(), carry)


@pytest.mark.parametrize("function", [hypergrad.first_order, hypergrad.unrolled])
def test_a_step_by_hand(function):
    softmax = relax.softmax(toy_cells())
    search, state = started(jd.Algorithm(softmax, function))
    step = jax.jit(search.step)
    for number in range(2):
        train, val = toy_batch(2 * number), toy_batch(2 * number + 1)
        new, metrics = step(state, train, val)

        def loss(params, arch, batch):
            mix = {name: jax.nn.softmax(a) for name, a in arch.items()}
            return toy_objective(params, mix, (), batch, None)[0]

        def weights_after(arch, state=state, train=train):
            gradient = jax.grad(loss)(state.params, arch, train)
            updates, params_opt = PARAMS_TX.update(gradient, state.params_opt, state.params)
            return optax.apply_updates(state.params, updates), params_opt

        def outer(arch, state=state, val=val):
            weights = state.params if function is hypergrad.first_order else weights_after(arch)[0]
            return loss(weights, arch, val)

        gradient = jax.grad(outer)(state.arch)
        updates, arch_opt = ARCH_TX.update(gradient, state.arch_opt, state.arch)
        arch = optax.apply_updates(state.arch, updates)
        params, params_opt = weights_after(arch)
        expected = {"params": params, "arch": arch, "params_opt": params_opt, "arch_opt": arch_opt}
        for name, value in expected.items():
            actual = getattr(new, name)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, value
            )
        np.testing.assert_allclose(
            metrics["arch_gradient_norm"], optax.tree.norm(gradient), rtol=1e-4
        )
        np.testing.assert_allclose(
            metrics["train_loss"], loss(state.params, arch, train), rtol=1e-5
        )
        at = state.params if function is hypergrad.first_order else weights_after(state.arch)[0]
        np.testing.assert_allclose(metrics["valid_loss"], loss(at, state.arch, val), rtol=1e-5)
        assert new.step == number + 1
        state = new


def test_the_unrolled_step_is_the_step_that_follows():
    seen = []

    def spy(train, val, params, arch, weight_step, *, key=None, has_aux=False):
        jax.debug.callback(seen.append, weight_step(jax.grad(train, has_aux=True)(params, arch)[0]))
        return hypergrad.first_order(train, val, params, arch, weight_step, has_aux=has_aux)

    # With an architecture that stands still both take the same gradient, and agree but for the
    # rounding of the optimiser, which is compiled in two places.
    search, state = started(
        jd.Algorithm(relax.softmax(toy_cells()), spy), arch_tx=optax.set_to_zero()
    )
    for number in range(3):
        state, _ = search.step(state, toy_batch(number), toy_batch(number + 9))
        jax.effects_barrier()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
            seen[-1],
            state.params,
        )
    assert len(seen) == 3


def test_keys_are_not_reused():
    """The two mixes, the two losses and the perturbation draw from keys of their own, new in every
    step.
    """
    used = {}

    def note(name, key):
        add = used.setdefault(name, []).append
        jax.debug.callback(
            lambda bits: add(tuple(np.asarray(bits).tolist())), jax.random.key_data(key)
        )

    def apply(arch, key, step):
        note("mix", key)
        return {name: jax.nn.softmax(a) for name, a in arch.items()}

    def objective(params, mix, carry, batch, key):
        note("loss", key)
        return toy_objective(params, mix, carry, batch, key)

    def perturb(mix, loss, key, step):
        note("perturb", key)
        return mix

    softmax = relax.softmax(toy_cells())
    algorithm = jd.Algorithm(softmax._replace(apply=apply), hypergrad.unrolled, perturb)
    search, state = started(algorithm, objective)
    for number in range(2):
        state, _ = search.step(state, toy_batch(number), toy_batch(number + 9))
    jax.effects_barrier()
    sets = {name: set(keys) for name, keys in used.items()}
    assert {name: len(keys) for name, keys in sets.items()} == {"mix": 4, "loss": 4, "perturb": 2}
    assert len(set.union(*sets.values())) == 10


def test_perturbation_moves_the_weight_step_alone():
    seen = []

    def perturb(mix, loss, key, step):
        jax.debug.callback(lambda *values: seen.append(values), mix, loss(mix), step)
        return jax.tree.map(lambda m: jnp.ones_like(m), mix)

    softmax = relax.softmax(toy_cells())
    (plain, state), (moved, _) = (
        started(jd.Algorithm(softmax)),
        started(jd.Algorithm(softmax, perturb=perturb)),
    )
    a, _ = plain.step(state, toy_batch(0), toy_batch(1))
    b, _ = moved.step(state, toy_batch(0), toy_batch(1))
    jax.tree.map(np.testing.assert_array_equal, a.arch, b.arch)
    assert float(optax.tree.norm(optax.tree.sub(a.params, b.params))) > 1e-4
    jax.effects_barrier()
    ((mix, loss, step),) = seen
    jax.tree.map(
        lambda m, alpha: np.testing.assert_allclose(m, jax.nn.softmax(alpha), rtol=1e-6),
        mix,
        dict(a.arch),
    )
    np.testing.assert_allclose(
        loss, toy_objective(state.params, mix, (), toy_batch(0), None)[0], rtol=1e-6
    )
    assert step == 0


def test_carries_of_the_two_streams_stay_apart():
    def objective(params, mix, carry, batch, key):
        loss, (_, metrics) = toy_objective(params, mix, (), batch, key)
        return loss, (carry + jnp.sum(batch["label"]), metrics)

    search, state = started(
        jd.Algorithm(relax.softmax(toy_cells()), hypergrad.unrolled),
        objective,
        carry=(jnp.float32(0), jnp.float32(100)),
    )
    batches = [toy_batch(seed) for seed in range(4)]
    for train, val in (batches[:2], batches[2:]):
        state, _ = search.step(state, train, val)
    sums = [float(batch["label"].sum()) for batch in batches]
    # Once a step each, although the unrolled hypergradient evaluates the training loss too.
    assert [float(c) for c in state.carry] == [sums[0] + sums[2], 100 + sums[1] + sums[3]]


def test_init_is_the_relaxations_and_depends_on_the_key():
    search, state = started(jd.Algorithm(relax.softmax(toy_cells(), scale=1e-3)))
    other = search.init(jax.random.key(4), toy_params())
    flat = np.concatenate([np.ravel(a) for a in jax.tree.leaves(state.arch)])
    assert 0 < np.abs(flat).max() < 1e-2
    assert not np.array_equal(
        flat, np.concatenate([np.ravel(a) for a in jax.tree.leaves(other.arch)])
    )
    assert {name: a.shape for name, a in state.arch.items()} == {
        name: c.shape for name, c in toy_cells().items()
    }


def test_order_of_darts():
    with pytest.raises(ValueError, match="order is 3"):
        jd.algorithms.darts(jd.spaces.darts(), order=3)
    assert jd.algorithms.darts(jd.spaces.darts()).hypergrad is hypergrad.unrolled
    assert jd.algorithms.darts(jd.spaces.darts(), order=1).hypergrad is hypergrad.first_order
