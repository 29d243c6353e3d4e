"""The discrete network. Oracles: the original code's parameters and multiply-adds; the supernet at
one hot.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.nn.cell import edges_of
from jaxdarts.nn.cnn import Run, Supernet
from jaxdarts.nn.network import drop_paths
from jaxdarts.space import Choices, fully_connected, of_genotype

SPACE = jd.spaces.darts()
# spec: quark0's NetworkCIFAR(36, 10, 20) and NetworkImageNet(48, 1000, 14), auxiliary head
# excluded; millions.
TABLE = {
    "DARTS_V1": (3.169414, 501.0, 4.510432, 505.9),
    "DARTS_V2": (3.349342, 528.4, 4.718752, 529.9),
    "NASNet": (3.830950, 603.5, 5.564320, 604.0),
    "AmoebaNet": (3.145078, 488.9, 4.627360, 526.7),
    "PC_DARTS_cifar": (3.634678, 556.7, 5.270560, 571.1),
    "PC_DARTS_image": (3.721510, 570.5, 5.342464, 581.6),
    "PDARTS": (3.433798, 532.2, 4.944352, 542.8),
    "DrNAS_cifar10": (4.099294, 635.1, 5.738464, 633.8),
    "DrNAS_imagenet": (4.048750, 617.9, 5.726368, 624.4),
}
TINY = jd.Genotype(
    (("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_5x5", 2)),
    (2, 3),
    (("avg_pool_3x3", 0), ("skip_connect", 1), ("sep_conv_5x5", 1), ("skip_connect", 2)),
    (2, 3),
)


@pytest.mark.parametrize("name", TABLE)
def test_the_published_table(name):
    genotype = getattr(jd.genotypes, name)
    params, adds, imagenet_params, imagenet_adds = TABLE[name]
    for imagenet, shape, width, depth, classes, expected in (
        (False, (32, 32, 3), 36, 20, 10, (params, adds)),
        (True, (224, 224, 3), 48, 14, 1000, (imagenet_params, imagenet_adds)),
    ):
        counted, added = jd.network_cost(genotype, width, depth, classes, shape, imagenet)
        assert (counted / 1e6, round(added / 1e6, 1)) == expected
        net = SPACE.network(genotype, width, depth, classes, auxiliary=True, imagenet=imagenet)
        assert jd.count_params(net, shape) == counted


@functools.cache
def tiny():
    net = SPACE.network(TINY, 4, 4, 5)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 16, 16, 3)), jnp.float32)
    return net, net.init(jax.random.key(0), x), x


@functools.cache
def training():
    """A jitted pass in training, without drop path."""
    net, _, x = tiny()
    return jax.jit(lambda variables: net.apply(variables, x, True, mutable=["batch_stats"]))


def test_shapes_and_running_averages():
    net, variables, x = tiny()
    (logits, auxiliary), new = training()(variables)
    chex.assert_shape(logits, (6, 5))
    assert auxiliary is None
    chex.assert_trees_all_equal_shapes(new["batch_stats"], variables["batch_stats"])
    # The stem's: momentum 0.1 from (0, 1), the variance unbiased.
    y = jax.lax.conv_general_dilated(
        x,
        variables["params"]["stem"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    flat = np.asarray(y, np.float64).reshape(-1, y.shape[-1])
    np.testing.assert_allclose(new["batch_stats"]["stem"]["mean"], 0.1 * flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(
        new["batch_stats"]["stem"]["variance"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5
    )


def test_converged_averages_evaluate_like_the_batch():
    """With the batch's own moments as averages, evaluation is training without its randomness."""
    net, variables, x = tiny()
    for _ in range(150):
        (of_batch, _), new = training()(variables)
        variables = {**variables, **new}
    # The averages are of the unbiased variance, which differs most where the last cells have few
    # pixels.
    evaluated, _ = jax.jit(net.apply)(variables, x)
    np.testing.assert_allclose(evaluated, of_batch, atol=0.03 * float(jnp.abs(of_batch).max()))


# Every edge has its own candidates, TINY's among them.
RAGGED = jd.spaces.of_cells(
    Choices(
        fully_connected(2, ()).edges,
        (
            ("none", "sep_conv_3x3"),
            ("skip_connect",),
            ("avg_pool_3x3", "sep_conv_3x3", "max_pool_3x3"),
            ("none", "dil_conv_3x3"),
            ("skip_connect", "dil_conv_5x5"),
        ),
        (2, 3),
    ),
    Choices(
        fully_connected(2, ()).edges,
        (
            ("avg_pool_3x3",),
            ("dil_conv_3x3", "skip_connect"),
            ("none", "sep_conv_3x3", "skip_connect"),
            ("sep_conv_3x3", "sep_conv_5x5"),
            ("skip_connect", "none"),
        ),
        (2, 3),
    ),
)


@pytest.mark.parametrize("space", [jd.spaces.darts(2), RAGGED], ids=["darts", "ragged"])
def test_the_discrete_network_is_the_supernet_at_one_hot(space):
    """In the search's normalisation, with shared weights."""
    genotype = TINY
    net = space.supernet(width=4, depth=3, num_classes=5)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 3)), jnp.float32)
    variables = net.init(jax.random.key(0), x, net.example_mix())
    discrete = Supernet(of_genotype(genotype), 4, 3, 5)
    params = {}
    for name, weights in variables["params"].items():
        if not name.startswith("cells"):
            params[name] = weights
            continue
        kind = name.split("_")[1]
        full, few = space.cells[kind], of_genotype(genotype)[kind]
        params[name] = {}
        for key, value in weights.items():
            op = next((op for op in jd.spaces.PRIMITIVES if key.startswith(op)), None)
            if op is None:
                params[name][key] = value
                continue
            rows = [full.edges.index(few.edges[e]) for e in edges_of(few, op)]
            rows = [
                edges_of(full, op).index(row)
                for row in rows
                if edges_of(full, op).index(row) < value.shape[1]
            ]
            if rows:
                params[name][key] = value[:, np.array(rows)]
    mix = {name: jnp.ones(choices.shape) for name, choices in discrete.cells.items()}
    expected = jax.jit(net.apply)(variables, x, jd.one_hot(space.cells, genotype))
    actual = jax.jit(discrete.apply)({"params": params}, x, mix)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_auxiliary_head():
    net = SPACE.network(TINY, 4, 3, 5, auxiliary=True)
    x = jnp.ones((2, 32, 32, 3))
    variables = net.init(jax.random.key(0), x)
    train, evaluate = (
        jax.eval_shape(lambda v, t=t: net.apply(v, x, t, mutable=["batch_stats"])[0], variables)
        for t in (True, False)
    )
    chex.assert_shape(train, (2, 5))
    assert evaluate[1] is None
    with pytest.raises(ValueError, match="2x2: leave it out"):
        net.init(jax.random.key(0), x[:, :8, :8])


def test_parameters_of_the_auxiliary_head():
    def count(net, shape):
        variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["auxiliary_head"]))

    assert (
        count(SPACE.network(jd.genotypes.DARTS_V2, 36, 20, 10, auxiliary=True), (32, 32, 3))
        == 476426
    )
    assert (
        count(SPACE.network(jd.genotypes.AmoebaNet, 36, 20, 10, auxiliary=True), (32, 32, 3))
        == 457994
    )


def test_drop_path():
    choices = of_genotype(TINY)["reduce"]
    mix = drop_paths(jax.random.key(0), 0.25, choices, Run("reduce", 3, 4), 4000)
    chex.assert_shape(mix, (3, 4, 1, 4000))
    # The second edge's skip connection strides and is dropped; the last one's does not.
    np.testing.assert_allclose(mix[:, :3].mean(-1), 1, atol=0.05)
    assert set(np.unique(mix[:, :3])) == {0, np.float32(1 / 0.75)}
    assert (mix[:, 3] == 1).all()
    net, variables, x = tiny()
    train = jax.jit(
        lambda rate, key: net.apply(variables, x, True, rate, key, mutable=["batch_stats"])[0][0]
    )
    keys = [jax.random.key(i) for i in range(2)]
    np.testing.assert_allclose(train(0.0, keys[0]), training()(variables)[0][0], atol=1e-4)
    assert not np.allclose(train(0.5, keys[0]), train(0.5, keys[1]))


def test_scanned_unrolled_and_rematerialised():
    """Six cells: two of a kind in a row, which are scanned, and four alone."""
    normal = (("dil_conv_3x3", 0), ("skip_connect", 1))
    reduce = (("max_pool_3x3", 0), ("max_pool_3x3", 1))  # for the joints
    net = SPACE.network(jd.Genotype(normal, (2,), reduce, (2,)), 2, 6, 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8, 8, 3)), jnp.float32)
    variables = net.init(jax.random.key(0), x)

    def loss(net):
        def of(params):
            (logits, _), new = net.apply(
                {**variables, "params": params},
                x,
                True,
                0.2,
                jax.random.key(3),
                mutable=["batch_stats"],
            )
            return jnp.sum(logits**2), new

        return jax.jit(jax.value_and_grad(of, has_aux=True))(variables["params"])

    plain = loss(net)
    for other in (net.clone(unroll=4), net.clone(remat=True)):
        chex.assert_trees_all_close(loss(other), plain, rtol=2e-3, atol=2e-3)


def test_unsound_genotypes_are_refused():
    with pytest.raises(ValueError, match="reduce"):
        SPACE.network(TINY._replace(reduce=(("sep_conv_3x3", 0), ("sep_conv_3x3", 4))), 4, 3, 5)
