"""Scores of untrained networks against their definitions in NumPy."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import proxies
from jaxdarts.nn import ops
from jaxdarts.nn.benchmarks.nasbench201 import Picked
from jaxdarts.nn.primitives.norm import batch_norm


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def reference_agreements(*units):
    """K of codes [batch, units], one array a layer."""
    codes = np.concatenate([np.asarray(x).reshape(len(x), -1) > 0 for x in units], axis=1)
    return (codes[:, None] == codes[None]).sum(-1)


# ---------------------------------------------------------------------------------- rectified units


def test_the_example_of_the_paper():
    images = jnp.array([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])

    def apply(params, x):
        return jax.nn.relu(x) @ params

    params = jnp.ones((3, 2))
    np.testing.assert_array_equal(proxies.agreements(apply, params, images), [[3, 1], [1, 3]])
    np.testing.assert_allclose(proxies.naswot(apply, params, images), math.log(8), rtol=1e-6)
    assert proxies.linear_regions(apply, params, images) == 2
    assert proxies.linear_regions(apply, params, images[jnp.array([0, 1, 0, 0])]) == 2
    assert proxies.naswot(apply, params, images[jnp.array([0, 0])]) == -jnp.inf
    assert proxies.naswot(apply, params, images * jnp.nan) == -jnp.inf


MLP = {"first": normal(5, 7, seed=1), "second": normal(7, 6, seed=2), "head": normal(6, 3, seed=3)}


def mlp(rectifier):
    return lambda params, x: (
        rectifier(rectifier(x @ params["first"]) @ params["second"]) @ params["head"]
    )


@jax.custom_vjp
def relu_with_derivative(x):
    return jax.nn.relu(x)


relu_with_derivative.defvjp(lambda x: (relu_with_derivative(x), x), lambda x, g: (g * (x > 0),))


@pytest.mark.parametrize(
    "rectifier",
    [
        jax.nn.relu,
        jax.nn.relu6,
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.maximum(0.0, x),
        jax.jit(jax.nn.relu),
        jax.jit(lambda x: 2 * jax.nn.relu(x) - x * 0),
        jax.checkpoint(lambda x: jax.nn.relu(jnp.sin(x) + x - jnp.sin(x))),
        relu_with_derivative,
        ops.relu,
        jax.vmap(ops.relu),
        jax.checkpoint(ops.relu),
    ],
)
def test_layers_are_found_in_functions_of_the_user(rectifier):
    images = normal(4, 5)
    first = np.asarray(images @ MLP["first"])
    hidden = np.asarray(rectifier(jnp.asarray(first))) @ np.asarray(MLP["second"])
    expected = reference_agreements(first, hidden)
    np.testing.assert_array_equal(proxies.agreements(mlp(rectifier), MLP, images), expected)
    score = jax.jit(functools.partial(proxies.naswot, mlp(rectifier)))(MLP, images)
    np.testing.assert_allclose(score, np.linalg.slogdet(expected)[1], rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_convolutional_network_with_norms_and_a_scan(reverse):
    # As many steps, entries of the bundle and pixels as images: the axis of the batch is not to be
    # told by its length.
    images, kernels, head = normal(3, 3, 3, 2), normal(3, 3, 3, 2, 2, seed=1), normal(2, 2, seed=2)

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(params, x):
        kernels, head = params

        def step(x, kernel):
            y = jax.nn.relu(x)
            return x + batch_norm(convolved(y, kernel)), jnp.mean(y)

        x, means = jax.lax.scan(step, x, kernels, reverse=reverse)
        return jnp.mean(x, axis=(1, 2)) @ head + jnp.sum(means * jnp.arange(3.0))

    units, x = [], np.asarray(images, np.float64)
    for kernel in np.asarray(kernels)[:: -1 if reverse else 1]:
        units.append(x)
        padded = np.pad(np.maximum(x, 0), ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = sum(padded[:, i : i + 3, j : j + 3] @ kernel[i, j] for i in range(3) for j in range(3))
        x = x + (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
    expected = reference_agreements(*units)
    np.testing.assert_array_equal(proxies.agreements(apply, (kernels, head), images), expected)
    np.testing.assert_allclose(
        proxies.naswot(apply, (kernels, head), images), np.linalg.slogdet(expected)[1], rtol=1e-5
    )


def test_layers_count_that_reach_the_output_entry_by_entry():
    images, params = normal(4, 5), {"bundle": normal(3, 5, 6, seed=1), "head": normal(6, 2, seed=2)}

    @functools.partial(jax.jit, static_argnames="padding")
    def k(mix, padding=0):
        def apply(params, x):
            jax.nn.relu(x - 1)  # nobody reads it
            rows = jnp.pad(
                jnp.einsum("bi,kio->kbo", x, params["bundle"]), ((0, 0), (0, 0), (0, padding))
            )
            bundle = jax.nn.relu(rows)[:, :, :6]
            return jnp.einsum("k,kbo->bo", mix, bundle) @ params["head"]

        return proxies.agreements(apply, params, images)

    units = np.einsum("bi,kio->kbo", images, params["bundle"])
    for mix in np.eye(3, dtype=np.float32), np.array([[1, 0, 1], [0.2, 0.3, 0.5]], np.float32):
        for row in mix:
            expected = reference_agreements(*units[row != 0])
            np.testing.assert_array_equal(k(row), expected)
            np.testing.assert_array_equal(k(row, padding=3), expected)
    assert k._cache_size() == 2  # one for each padding


def test_a_layer_counts_though_the_sum_of_the_logits_does_not_depend_on_it():
    images, head = normal(4, 2, 2, 3), normal(3, 2)
    k = proxies.agreements(
        lambda head, x: jnp.mean(batch_norm(jax.nn.relu(x)), (1, 2)) @ head, head, images
    )
    np.testing.assert_array_equal(k, reference_agreements(images))


def test_units_that_cannot_be_followed():
    images = normal(3, 4)
    for apply, message in (
        (lambda params, x: jnp.tanh(x) @ params, "no rectified units"),
        (lambda params, x: (jax.nn.relu(x) @ params, x), "returns 2 arrays"),
        (
            lambda params, x: jax.nn.relu(x.reshape(-1, 2)).reshape(-1, 4) @ params,
            "no axis of their own",
        ),
        (
            lambda params, x: jax.lax.fori_loop(
                0, jnp.int32(params[0, 0]), lambda i, y: jax.nn.relu(y), x
            ),
            "in a while",
        ),
        (lambda params, x: jax.lax.cond(params[0, 0] > 0, jax.nn.relu, jnp.sin, x), "in a cond"),
    ):
        with pytest.raises(ValueError, match=message):
            proxies.naswot(apply, jnp.ones((4, 2)), images)


def test_a_supernet_has_the_units_of_the_picked_cell():
    space, images = jd.spaces.nasbench201(), normal(4, 8, 8, 3)
    # One convolution reads a state: the network of one path has a rectifier for each edge.
    cell = jd.genotypes.parse(
        "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    )
    net = space.supernet(width=2, depth=1, num_classes=3)
    mix = jd.one_hot(space.cells, cell)
    params = net.init(jax.random.key(0), images[:1], mix)
    picks = jnp.argmax(mix["cell"], axis=1)
    picked = Picked(space.cells, 2, 1, 3)

    @jax.jit
    def both(params):
        k = proxies.agreements(lambda params, x: net.apply(params, x, mix), params, images)
        recorded = functools.partial(picked.apply, mutable=["units"])
        return k, proxies.declared(lambda params, x: recorded(params, x, picks), params, images)

    np.testing.assert_array_equal(*both(params))


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(2)(jnp.mean(x, axis=(1, 2)))


def test_a_flax_module_of_the_users_own():
    net, images = Own(), normal(4, 4, 4, 2)
    variables = net.init(jax.random.key(0), images)

    def apply(params, x):
        return net.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    params = variables["params"]
    y = np.asarray(nn.Conv(3, (3, 3)).apply({"params": params["Conv_0"]}, images), np.float64)
    units = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
    # The norm rectifies a variance, which is no unit.
    np.testing.assert_array_equal(
        proxies.agreements(apply, params, images), reference_agreements(units)
    )
    assert proxies.parameters(params) == 9 * 2 * 3 + 3 + 6 + 3 * 2 + 2
    assert [matrix.shape for matrix in proxies.layers(params)] == [(1, 54), (1, 6)]
    batch = {"image": images, "label": jnp.array([0, 1, 0, 1])}
    for score in (
        proxies.grad_norm,
        proxies.snip,
        proxies.grasp,
        proxies.plain,
        proxies.l2_norm,
        proxies.epe_nas,
    ):
        assert jnp.isfinite(score(apply, params, batch))


# --------------------------------------------------------------------------- cells of NAS-Bench-201

GENOTYPES = [
    "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
]


def inherited(cells, params, variables):
    """The discrete network's weights, those of the supernet where it has them; scales and shifts
    stay 1 and 0.
    """
    weights = jax.tree.map(jnp.asarray, variables)
    flat = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def take(path, leaf):
        if path not in flat:
            return leaf
        source, name = flat[path], path[-1].key
        if not name.startswith("nor_conv"):
            return source
        op = name.rsplit("_", 1)[0]
        # Every edge has every operation in the supernet; rows are ordered by source and edge in
        # both.
        order = sorted(range(6), key=lambda e: (cells.edges[e][0], e))
        rows = [i for i, e in enumerate(order) if cells.ops[e] == (op,)]
        return source[:, np.array(rows)]

    return jax.tree_util.tree_map_with_path(take, weights)


@pytest.mark.parametrize("name, depth", [("agreements", 2), ("grad_norm", 1)])
def test_one_compilation_scores_all_cells_as_their_networks(name, depth):
    space, images = jd.spaces.nasbench201(), normal(5, 8, 8, 1, seed=4)
    data = (
        images if name == "agreements" else {"image": images, "label": jnp.array([0, 1, 1, 0, 1])}
    )
    score = getattr(proxies, name)
    net = space.supernet(width=2, depth=depth, num_classes=2)
    params = net.init(jax.random.key(0), *net.example_inputs((8, 8, 1)))["params"]
    together = jax.jit(
        lambda mix: score(lambda params, x: net.apply({"params": params}, x, mix), params, data)
    )
    scores = []
    for text in GENOTYPES:
        genotype = jd.genotypes.parse(text)
        scores.append(together(jd.one_hot(space.cells, genotype)))
        alone = space.network(genotype, width=2, depth=depth, num_classes=2)
        variables = alone.init(jax.random.key(1), *alone.example_inputs((8, 8, 1)))
        weights = inherited(alone.cells["cell"], params, variables["params"])

        def apply(params, x):
            return alone.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )[0][0]

        np.testing.assert_allclose(
            scores[-1], jax.jit(lambda weights: score(apply, weights, data))(weights), rtol=1e-3
        )
    assert np.any(scores[0] != scores[1])
    assert together._cache_size() == 1


# ---------------------------------------------------------------------------------------- gradients


def linear_case():
    """Weights, images, labels and the gradient of the loss of a linear classifier, by hand."""
    x, w, labels = (
        np.asarray(normal(6, 4), np.float64),
        np.asarray(normal(4, 3, seed=1), np.float64),
        np.arange(6) % 3,
    )
    logits = x @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return x, w, labels, p, x.T @ (p - np.eye(3)[labels]) / 6


def test_scores_by_weights_of_a_linear_model(x64):
    x, w, labels, p, g = linear_case()
    batch = {"image": jnp.asarray(x), "label": jnp.asarray(labels)}
    params = {"kernel": jnp.asarray(w), "bias": jnp.zeros(3)}

    def apply(params, x):
        return x @ params["kernel"] + params["bias"][None]

    # H g: how the gradient changes along itself, from the derivative of the softmax.
    logits = x @ g
    hg = x.T @ (p * logits - p * (p * logits).sum(1, keepdims=True)) / 6
    expected = {
        "grad_norm": np.sqrt((g**2).sum()),
        "l2_norm": np.sqrt((w**2).sum()),
        "plain": (w * g).sum(),
        "snip": np.abs(w * g).sum(),
        "grasp": -(w * hg).sum(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(proxies, name)(apply, params, batch), value, rtol=1e-9)
    np.testing.assert_allclose(
        proxies.synflow(apply, params, batch["image"]), np.abs(w).sum(), rtol=1e-12
    )
    # The gradient of an example's summed logits is its image, once for each class.
    values = np.linalg.eigvalsh(3 * x[:3] @ x[:3].T)
    condition = proxies.ntk_condition(apply, params, batch["image"][:3])
    np.testing.assert_allclose(condition, -values[-1] / values[0], rtol=1e-9)
    assert proxies.ntk_condition(apply, params, jnp.zeros((3, 4))) == -jnp.inf


def test_layers_of_a_bundle_have_a_norm_each():
    params = {
        "stage0": {"nor_conv_1x1_kernel": normal(2, 3, 1, 1, 4, 4), "norm0_scale": normal(2, 3, 4)}
    }
    (rows,) = proxies.layers(params)
    assert rows.shape == (6, 16)
    expected = np.linalg.norm(np.asarray(rows), axis=1).sum()
    np.testing.assert_allclose(
        proxies.l2_norm(lambda params, x: x, params, {}), expected, rtol=1e-6
    )


def test_an_overflow_is_not_the_best_score():
    params = [jnp.full((4, 4), 1e20)] * 3
    score = proxies.synflow(
        lambda params, x: functools.reduce(jnp.matmul, params, x), params, jnp.ones((2, 4))
    )
    assert jnp.isnan(score)


def test_scores_by_jacobians(x64):
    images, w = (
        jnp.asarray(normal(6, 5), jnp.float64),
        jnp.asarray(normal(5, 3, seed=1), jnp.float64),
    )
    labels = np.array([0, 1, 0, 2, 1, 0])

    def apply(params, x):
        return jnp.sin(x @ params)

    slopes = np.cos(np.asarray(images @ w)) @ np.asarray(w).T
    c = np.corrcoef(slopes)
    values = np.linalg.eigvalsh(c)
    expected = -np.sum(np.log(values + 1e-5) + 1 / (values + 1e-5))
    np.testing.assert_allclose(proxies.jacob_cov(apply, w, images), expected, rtol=1e-6)
    classes = [
        np.log(np.abs(np.atleast_2d(np.corrcoef(slopes[labels == i]))) + 1e-5).sum()
        for i in range(3)
    ]
    batch = {"image": images, "label": jnp.asarray(labels)}
    np.testing.assert_allclose(proxies.epe_nas(apply, w, batch), np.abs(classes).sum(), rtol=1e-9)
    with pytest.raises(ValueError, match="101 classes"):
        proxies.epe_nas(lambda params, x: x[:, :1] * jnp.ones((1, 101)), w, batch)
    assert jnp.isnan(
        proxies.jacob_cov(lambda params, x: jnp.sum(0 * x, 1, keepdims=True), w, images)
    )
