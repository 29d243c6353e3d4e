"""Moving trees to devices and back. Oracle: NumPy's reshape, and the values that went in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts import parallel


def tree():
    return {
        "a": jnp.arange(6.0).reshape(2, 3),
        "n": jnp.int32(7),
        "key": jax.random.key(5),
        "empty": (),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_replicate_and_first(devices):
    everywhere = parallel.replicate(tree(), devices)
    assert all(
        leaf.shape[0] == 4 and len(leaf.addressable_shards) == 4
        for leaf in jax.tree.leaves(everywhere)
    )
    assert {shard.device for shard in everywhere["a"].addressable_shards} == set(devices)
    np.testing.assert_array_equal(everywhere["a"], np.broadcast_to(tree()["a"], (4, 2, 3)))
    assert_same(parallel.first(everywhere), tree())
    assert jax.random.uniform(parallel.first(everywhere)["key"]) == jax.random.uniform(
        jax.random.key(5)
    )


def test_devices_and_the_entries_of_this_host(devices):
    assert parallel.devices() == jax.local_devices() and parallel.devices(2) == devices[:2]
    parts = np.arange(6).reshape(3, 2)
    assert parallel.here(parts, devices[:3]) is parts and parallel.of_first_host(parts) is parts


def test_replicate_on_some_devices(devices):
    assert_same(parallel.first(parallel.replicate(tree(), devices[1:3])), tree())


def test_over_devices_averages(devices):
    total = parallel.over_devices(lambda x: jax.lax.pmean(x, parallel.AXIS), devices)(
        jnp.arange(4.0)
    )
    np.testing.assert_array_equal(total, [1.5] * 4)


def test_donation_gives_the_memory_away(devices):
    x = parallel.replicate(jnp.ones(8), devices)
    y = parallel.over_devices(lambda x: x + 1, devices, donate=(0,))(x)
    assert x.is_deleted() and float(y.sum()) == 64


def test_stack_and_over_seeds():
    trees = [tree(), {**tree(), "n": jnp.int32(8), "key": jax.random.key(6)}]
    stacked = parallel.stack(trees)
    assert stacked["a"].shape == (2, 2, 3) and stacked["key"].shape == (2,)
    for i, one in enumerate(trees):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), one)
    drawn = parallel.over_seeds(lambda tree: jax.random.uniform(tree["key"]) + tree["n"])(stacked)
    np.testing.assert_allclose(drawn, [jax.random.uniform(t["key"]) + t["n"] for t in trees])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_split(axis):
    x = np.arange(2 * 4 * 6).reshape(2, 4, 6)
    parts = parallel.split(jnp.asarray(x), 2, axis)
    np.testing.assert_array_equal(parts, np.stack(np.split(x, 2, axis)))


def test_split_keeps_keys():
    keys = jax.random.split(jax.random.key(0), 4)
    parts = parallel.split(keys, 2)
    assert parts.shape == (2, 2)
    np.testing.assert_array_equal(jax.random.key_data(parts[1, 0]), jax.random.key_data(keys[2]))


def test_split_refuses_uneven_parts():
    with pytest.raises(ValueError, match="a batch of 6 does not divide over 4 devices"):
        parallel.split(jnp.zeros((6, 2)), 4)
    with pytest.raises(ValueError, match="a batch of 5 "):
        parallel.split(jnp.zeros((4, 5)), 4, axis=1)
