"""One table of algorithms: every row passes the same tests. Oracle: the algorithm itself, run another way.

Most of them run on a small smooth network that mixes operations as a supernet does; the last ones on a supernet.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import toy_batch, toy_cells, toy_objective, toy_params

import jaxdarts as jd
from jaxdarts import checkpoint, parallel

ALGORITHMS = {
    "darts, first order": lambda space: jd.algorithms.darts(space, order=1),
    "darts, second order": lambda space: jd.algorithms.darts(space, order=2),
}
PARAMS_TX = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.05, momentum=0.9))
ARCH_TX = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(1e-2, b1=0.5))

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def space():
    return jd.spaces.darts()._replace(cells=toy_cells())


def search_of(name, axis_name=None, arch_tx=ARCH_TX):
    return jd.bilevel_search(toy_objective, ALGORITHMS[name](space()), PARAMS_TX, arch_tx, axis_name=axis_name)


def batches(step):
    return toy_batch(2 * step), toy_batch(2 * step + 1)


def advance(step, state, start, stop):
    for number in range(start, stop):
        state, metrics = step(state, *batches(number))
    return state, metrics


def without_keys(state):
    return {name: value for name, value in vars(state).items() if name != "key"}


def assert_equal(a, b):
    chex.assert_trees_all_equal(without_keys(a), without_keys(b))
    np.testing.assert_array_equal(jax.random.key_data(a.key), jax.random.key_data(b.key))


def assert_close(a, b, tolerance=1e-5):
    chex.assert_trees_all_close(without_keys(a), without_keys(b), rtol=tolerance, atol=tolerance)


@every_algorithm
def test_finite_and_moves(name):
    search = search_of(name)
    start = search.init(jax.random.key(0), toy_params())
    state, metrics = advance(jax.jit(search.step), start, 0, 3)
    chex.assert_tree_all_finite((without_keys(state), metrics))
    for before, after in zip(*map(jax.tree.leaves, ((start.params, start.arch), (state.params, state.arch))), strict=True):
        assert float(jnp.abs(before - after).max()) > 1e-5
    assert {"train_loss", "valid_loss", "arch_gradient_norm"} <= set(metrics)
    chex.assert_trees_all_equal_shapes_and_dtypes(without_keys(start), without_keys(state))


@every_algorithm
def test_learns(name):
    search = search_of(name)
    state = search.init(jax.random.key(0), toy_params())
    step = jax.jit(search.step)
    state, first = step(state, *batches(0))
    for _ in range(60):
        state, last = step(state, *batches(0))
    assert float(last["train_loss"]) < 0.5 * float(first["train_loss"])


@every_algorithm
def test_jit_or_not(name):
    search = search_of(name)
    start = search.init(jax.random.key(0), toy_params())
    assert_close(advance(jax.jit(search.step), start, 0, 2)[0], advance(search.step, start, 0, 2)[0])


@every_algorithm
def test_seeds_are_their_single_runs(name):
    search = search_of(name)
    starts = [search.init(jax.random.key(seed), toy_params(seed)) for seed in range(3)]
    mapped = jax.jit(parallel.over_seeds(search.step, (0, None, None)))
    together, metrics = advance(mapped, parallel.stack(starts), 0, 3)
    chex.assert_shape(metrics["train_loss"], (3,))
    for i, start in enumerate(starts):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), advance(jax.jit(search.step), start, 0, 3)[0])


@every_algorithm
def test_devices_are_one_device(name, devices):
    single, mapped = search_of(name), search_of(name, parallel.AXIS)
    start = single.init(jax.random.key(0), toy_params())
    expected, expected_metrics = advance(jax.jit(single.step), start, 0, 3)
    step = parallel.over_devices(mapped.step, devices)
    state = parallel.replicate(start, devices)
    for number in range(3):
        state, metrics = step(state, *jax.tree.map(lambda a: parallel.split(a, 4), batches(number)))
    assert_close(parallel.first(state), expected)
    chex.assert_trees_all_close(parallel.first(metrics), expected_metrics, rtol=1e-5, atol=1e-5)
    for leaf in jax.tree.leaves(without_keys(state)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


@every_algorithm
def test_seeds_on_devices(name, devices):
    single, mapped = search_of(name), search_of(name, parallel.AXIS)
    starts = [single.init(jax.random.key(seed), toy_params(seed)) for seed in range(2)]
    step = parallel.over_devices(parallel.over_seeds(mapped.step, (0, None, None)), devices)
    state, _ = step(
        parallel.replicate(parallel.stack(starts), devices), *jax.tree.map(lambda a: parallel.split(a, 4), batches(0))
    )
    for i, start in enumerate(starts):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], parallel.first(state))
        assert_close(one, jax.jit(single.step)(start, *batches(0))[0])


@every_algorithm
def test_resumes_bit_for_bit(name, tmp_path):
    search = search_of(name)
    step, config = jax.jit(search.step), {"algorithm": name}
    start = search.init(jax.random.key(0), toy_params())
    whole, metrics = advance(step, start, 0, 4)
    half, _ = advance(step, start, 0, 2)
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 2, half, config)
    with checkpoint.open_folder(tmp_path) as manager:
        restored = checkpoint.restore(manager, search.init(jax.random.key(9), toy_params(9)), config)
    assert_equal(restored, half)
    resumed, resumed_metrics = advance(step, restored, 2, 4)
    assert_equal(resumed, whole)
    chex.assert_trees_all_equal(resumed_metrics, metrics)


# ----------------------------------------------------------------------------------------------------- a real supernet


@every_algorithm
def test_supernet_on_devices(name, devices):
    """Batch norm couples the images of a batch across devices, in every derivative."""
    cells = jd.spaces.darts(num_nodes=1, ops=("none", "max_pool_3x3", "dil_conv_3x3"))
    x = jax.random.normal(jax.random.key(1), (2, 8, 4, 4, 1))
    y = jnp.array([0, 1, 2, 0, 2, 1, 1, 0])
    train, val = ({"image": images, "label": y} for images in x)

    def search_on(axis_name):
        net = cells.supernet(width=2, depth=1, num_classes=3, axis_name=axis_name)
        objective, algorithm = jd.objectives.classification(net), ALGORITHMS[name](cells)
        return net, jd.bilevel_search(objective, algorithm, PARAMS_TX, optax.sgd(1.0), axis_name=axis_name)

    net, single = search_on(None)
    start = single.init(jax.random.key(0), net.init(jax.random.key(0), x[0], net.example_mix())["params"])
    expected, expected_metrics = jax.jit(single.step)(start, train, val)
    step = parallel.over_devices(search_on(parallel.AXIS)[1].step, devices)
    state, metrics = step(parallel.replicate(start, devices), *jax.tree.map(lambda a: parallel.split(a, 4), (train, val)))
    assert_close(parallel.first(state), expected)
    chex.assert_trees_all_close(parallel.first(metrics), expected_metrics, rtol=1e-5, atol=1e-5)
    chex.assert_tree_all_finite(without_keys(expected))
    assert float(jnp.abs(expected.arch["reduce"] - start.arch["reduce"]).max()) > 1e-3
    assert float(optax.tree.norm(optax.tree.sub(expected.params, start.params))) > 1e-3
