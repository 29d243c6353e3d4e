"""The convolutional supernet. Oracles: its published parameter count, and itself without scan and
rematerialisation.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.nn.cnn import Run, Supernet, drop_edges, runs
from jaxdarts.space import Choices


def net_and_params(net, shape=(2, 8, 8, 1), seed=0):
    return net, net.init(jax.random.key(seed), jnp.zeros(shape), net.example_mix())["params"]


def uniform_mix(net):
    return {
        name: jnp.full(choices.shape, 1 / choices.shape[1]) for name, choices in net.cells.items()
    }


SMALL = jd.spaces.darts(num_nodes=1, ops=("none", "max_pool_3x3", "skip_connect"))


def test_published_size():
    assert (
        jd.count_params(jd.spaces.darts().supernet(width=16, depth=8, num_classes=10), (32, 32, 3))
        == 1_930_618
    )


@pytest.mark.parametrize(
    "width, depth, shape, classes", [(16, 8, (2, 32, 32, 3), 10), (4, 5, (3, 8, 8, 1), 7)]
)
def test_output_shape(width, depth, shape, classes):
    net = jd.spaces.darts(num_nodes=2).supernet(width=width, depth=depth, num_classes=classes)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits, _ = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, net.example_mix()), images
    )
    chex.assert_shape(logits, (shape[0], classes))


def test_runs():
    assert runs(16, 8) == [
        Run("normal", 2, 16),
        Run("reduce", 1, 32),
        Run("normal", 2, 32),
        Run("reduce", 1, 64),
        Run("normal", 2, 64),
    ]
    for depth, reductions in ((20, (6, 13)), (14, (4, 9)), (3, (1, 2)), (1, (0,)), (2, (0, 1))):
        kinds = [run.kind for run in runs(4, depth) for _ in range(run.repeats)]
        assert (
            len(kinds) == depth
            and tuple(i for i, kind in enumerate(kinds) if kind == "reduce") == reductions
        )
        assert runs(4, depth)[-1].width == 4 * 2 ** len(reductions)


def test_same_function_scanned_unrolled_and_rematerialised(x64):
    # Convolutions in the normal cells, two of which a scan runs over; the reductions are there for
    # the joints.
    edges = ((0, 2), (1, 2))
    cells = {
        "normal": Choices(edges, (("dil_conv_3x3",), ("skip_connect",)), (2,)),
        "reduce": Choices(edges, (("max_pool_3x3",),) * 2, (2,)),
    }
    options = {"cells": cells, "width": 2, "depth": 6, "num_classes": 3, "dtype": jnp.float64}
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    _, params = net_and_params(Supernet(**options))
    assert params["cells0_normal"]["dil_conv_3x3_pointwise0"].shape[0] == 2
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    results = []
    for how in ({"unroll": 1}, {"unroll": 2}, {"unroll": 1, "remat": True}):
        net = Supernet(**options, **how)

        def loss(params, mix, net=net):
            return jnp.sum(net.apply({"params": params}, x, mix) ** 2)

        results.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, uniform_mix(net)))
    chex.assert_tree_all_finite(results[0])
    assert float(jnp.abs(results[0][1][1]["normal"]).min()) > 1e-6
    for other in results[1:]:
        chex.assert_trees_all_close(results[0], other, rtol=1e-5, atol=1e-8)


def test_dropped_edges():
    mix = jnp.asarray([[0.25, 0.5], [0.75, 1.0], [0.1, 0.2]])
    full = (
        np.asarray(drop_edges(jax.random.key(0), 0.25, mix, 2, 4000))
        * 0.75
        / np.asarray(mix)[None, :, :, None]
    )
    chex.assert_shape(full, (2, 3, 2, 4000))
    kept = np.round(full[:, :, 0])
    np.testing.assert_allclose(
        full, np.stack([kept, kept], axis=2), atol=1e-6
    )  # an edge's operations fall together
    assert set(np.unique(kept)) == {0, 1}
    np.testing.assert_allclose(kept.mean(-1), 0.75, atol=0.03)
    assert (
        np.abs(np.corrcoef(kept.reshape(6, -1)) - np.eye(6)) < 0.07
    ).all()  # every edge of every cell by itself


def test_drop_path_of_a_supernet():
    # One cell of one node: an example's logits are those of the whole batch at that example's mix.
    net, params = net_and_params(SMALL.supernet(4, 1, 3))
    x, key, mix = (
        jax.random.normal(jax.random.key(1), (4, 8, 8, 1)),
        jax.random.key(2),
        uniform_mix(net),
    )
    apply = jax.jit(lambda mix, *options: net.apply({"params": params}, x, mix, *options))
    masked = drop_edges(jax.random.fold_in(key, 0), 0.5, mix["reduce"], 1, 4)
    assert len(np.unique(masked[0, :, 0], axis=1).T) > 1
    logits = apply(mix, key, 0.5)
    for b in range(4):
        np.testing.assert_allclose(
            logits[b], apply(mix | {"reduce": masked[0, :, :, b]})[b], atol=1e-5
        )
    np.testing.assert_allclose(apply(mix, key, 0.0), apply(mix), atol=1e-5)
    with pytest.raises(ValueError, match="^drop_path is given without a key"):
        net.apply({"params": params}, x, mix, None, 0.5)


def test_drop_path_differs_by_device():
    space = jd.spaces.darts(1, ("max_pool_3x3",))
    _, params = net_and_params(space.supernet(2, 1, 3))
    net = space.supernet(2, 1, 3, axis_name="devices")
    x = jax.random.normal(jax.random.key(1), (1, 16, 4, 4, 1))
    apply = jax.vmap(
        lambda x: net.apply({"params": params}, x, uniform_mix(net), jax.random.key(0), 0.5),
        axis_name="devices",
    )
    one, other = jax.jit(apply)(jnp.concatenate([x, x]))
    assert not np.allclose(one, other)


def test_bfloat16_is_close_to_float32():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    exact, params = net_and_params(SMALL.supernet(4, 1, 3))
    low = SMALL.supernet(4, 1, 3, dtype=jnp.bfloat16)
    a, b = (jax.jit(net.apply)({"params": params}, x, uniform_mix(net)) for net in (exact, low))
    chex.assert_tree_all_finite(b)
    np.testing.assert_allclose(a, b.astype(jnp.float32), atol=0.1 * float(jnp.abs(a).max()) + 0.02)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(net_and_params(low)[1]))


def test_odd_maps_are_refused_before_a_reduction():
    net, params = net_and_params(SMALL.supernet(2, 3, 3), (2, 10, 10, 1))
    with pytest.raises(ValueError, match="5x5 state: height and width must be even"):
        jax.eval_shape(
            lambda params: net.apply(
                {"params": params}, jnp.zeros((2, 10, 10, 1)), uniform_mix(net)
            ),
            params,
        )


def test_init_depends_on_the_seed_alone():
    net, params = net_and_params(SMALL.supernet(2, 3, 3))
    chex.assert_trees_all_equal(params, net_and_params(net)[1])
    for a, b in zip(
        jax.tree.leaves(params), jax.tree.leaves(net_and_params(net, seed=1)[1]), strict=True
    ):
        assert (a == b).all() == ((a == 0) | (a == 1)).all()  # all but the stem's scale and shift


def test_init_is_the_framework_default_of_the_original():
    net, params = net_and_params(jd.spaces.darts(1, ("dil_conv_5x5",)).supernet(8, 3, 3))
    cell_params = params["cells0_normal"]
    for name, fan_in in (
        ("dil_conv_5x5_depthwise0", 25),
        ("dil_conv_5x5_pointwise0", 8),
        ("preprocess0_0", 24),
    ):
        bound = fan_in**-0.5
        assert 0.9 * bound < float(jnp.abs(cell_params[name]).max()) <= bound
        assert abs(float(cell_params[name].std()) / (bound / 3**0.5) - 1) < 0.15
