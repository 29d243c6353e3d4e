"""Rules for the weights' gradient. Oracles: their definitions in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from tests.helpers import toy_batch, toy_cells, toy_objective, toy_params


def toy_operation(path):
    return path[0].key if path[0].key in toy_cells() else None


def mean_cosine(g, v):
    """Of every edge: between g and g + v along the last axis, then the mean over places."""
    g, v = np.asarray(g, np.float64), np.asarray(v, np.float64)
    cosines = (g * (g + v)).sum(-1) / np.linalg.norm(g, axis=-1) / np.linalg.norm(g + v, axis=-1)
    return cosines.mean(-1)


@pytest.mark.parametrize("number", [3, 4])
def test_operations_stop_where_the_mean_cosine_of_some_steps_is_low(number):
    """By plain SGD: what has stopped stands still for good, and the rest descends as before."""
    threshold = 0.6
    space = jd.spaces.darts()._replace(cells=toy_cells())
    rule = jd.descent.early_stopping(toy_operation, threshold, number, axes=1)
    algorithm = jd.Algorithm(jd.relax.softmax(space.cells), rule=rule)
    search = jd.bilevel_search(toy_objective, algorithm, optax.sgd(0.3), optax.sgd(0.3))
    state, step = search.init(jax.random.key(0), toy_params()), jax.jit(search.step)
    gradient = jax.jit(jax.grad(lambda w, mix, batch: toy_objective(w, mix, (), batch, None)[0]))
    sums = {name: np.zeros(c.shape[0]) for name, c in space.cells.items()}
    going = {name: np.ones(c.shape[0], bool) for name, c in space.cells.items()}
    for i in range(4 * number):
        train, val = toy_batch(2 * i), toy_batch(2 * i + 1)
        new, _ = step(state, train, val)
        # The weight step comes after the architecture's.
        g = gradient(state.params, search.derive(new), train)
        v = gradient(state.params, search.derive(state), val)
        for name in sums:
            sums[name] += mean_cosine(g[name], v[name])
            if (i + 1) % number == 0:
                assert np.abs(sums[name] / number - threshold).min() > 1e-4  # no tie
                going[name] &= sums[name] >= threshold * number
                sums[name][:] = 0
            moved = state.params[name] - 0.3 * g[name] * going[name][:, None, None]
            np.testing.assert_allclose(new.params[name], moved, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            new.params["head"], state.params["head"] - 0.3 * g["head"], rtol=1e-4, atol=1e-6
        )
        state = new
    counts = [int(g.sum()) for g in going.values()]
    assert 0 < sum(counts) < sum(len(g) for g in going.values())


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_every_weight_of_an_operation_in_a_supernet_is_told_apart(name):
    """By the shapes: an operation's weights lead with cells and edges, and all others have none."""
    space = getattr(jd.spaces, name)()
    net = space.supernet(width=4, depth=3 if name == "darts" else 2, num_classes=3)
    params = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs((8, 8, 3)))["params"]
    rule = jd.descent.early_stopping(jd.descent.of_cells(space.cells))
    going = jax.eval_shape(rule.init, params)["going"]
    edges = {len(choices.edges) for choices in space.cells.values()}
    convolutions = [op for op in going if "conv" in op]
    assert len(convolutions) == {"darts": 3 * 4, "nasbench201": 3 * 2}[name]
    for op in convolutions:
        assert going[op].shape == ({"darts": 1, "nasbench201": 2}[name], *edges)
    weights = {
        "/".join(entry.key for entry in path)
        for path, _ in jax.tree.leaves_with_path(params)
        if not jd.descent.of_cells(space.cells)(path)
    }
    assert not [weight for weight in weights if "conv" in weight or "skip" in weight]


def test_oles_searches_with_a_supernet():
    """One step of a small supernet with a threshold that nothing reaches: operations rest from the
    first decision on, and all else is trained.
    """
    space = jd.spaces.darts(1, ("none", "skip_connect", "dil_conv_3x3"))
    net = space.supernet(width=2, depth=1, num_classes=3)
    objective = jd.objectives.classification(net)
    images = jax.random.normal(jax.random.key(1), (2, 8, 4, 4, 1))
    labels = jnp.array([0, 1, 2, 0, 2, 1, 1, 0])
    train, val = ({"image": one, "label": labels} for one in images)
    algorithm = jd.algorithms.oles(space, threshold=2.0, num_batches=2)
    search = jd.bilevel_search(objective, algorithm, optax.sgd(0.1), optax.sgd(0.1))
    params = net.init(jax.random.key(0), images[0], net.example_mix())["params"]
    states, step = [search.init(jax.random.key(0), params)], jax.jit(search.step)
    for _ in range(3):
        states.append(step(states[-1], train, val)[0])
    operation_of = jd.descent.of_cells(space.cells)
    for path, weights in jax.tree.leaves_with_path(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state.params for state in states))
    ):
        moved = np.abs(np.diff(np.asarray(weights), axis=0)).reshape(3, -1).max(1) > 0
        assert moved.tolist() == ([True, False, False] if operation_of(path) else [True] * 3)


def smoothly_mixed(space, depth):
    """A supernet, its loss in float64, weights, and a mix that differs from edge to edge."""
    net = space.supernet(width=2, depth=depth, num_classes=3)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float64)
    labels = jnp.array([0, 1, 2, 0])
    params = net.init(jax.random.key(0), images, net.example_mix())["params"]
    params = jax.tree.map(jnp.float64, params)
    rng = np.random.default_rng(0)
    mix = {
        name: jnp.asarray(rng.dirichlet(np.ones(c.shape[1]), c.shape[0]))
        for name, c in space.cells.items()
    }

    def loss(params, mix):
        logits = net.clone(dtype=jnp.float64).apply({"params": params}, images, mix)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    return net, loss, params, mix


def in_every_cell(net, mix, kind):
    """The mix with one copy for every cell of a kind."""
    return {**mix, kind: jnp.tile(mix[kind], (net.num_cells()[kind], 1, 1))}


@pytest.mark.parametrize(
    "space, depth, kind, number",
    [
        (jd.spaces.darts(1, ("skip_connect", "max_pool_3x3")), 6, "normal", 4),
        (jd.spaces.nasbench201(), 1, "cell", 3),
    ],
    ids=["darts", "nasbench201"],
)
def test_a_supernet_takes_one_mix_a_cell(space, depth, kind, number, x64):
    """With equal mixes the logits are those of the mix that the cells share, and the gradients by
    the cells' mixes sum up to that by the shared one.
    """
    net, loss, params, mix = smoothly_mixed(space, depth)
    assert net.num_cells()[kind] == number
    by_mix = jax.jit(jax.grad(loss, argnums=1, has_aux=True))
    slopes, logits = by_mix(params, in_every_cell(net, mix, kind))
    shared, expected = by_mix(params, mix)
    np.testing.assert_allclose(logits, expected, rtol=1e-9)
    np.testing.assert_allclose(slopes[kind].sum(0), shared[kind], rtol=1e-7, atol=1e-12)
    assert np.ptp(np.asarray(slopes[kind]), axis=0).max() > 1e-3  # cells differ


def test_weights_ascend_the_alignment_of_the_cells(x64):
    """Oracle: the formulas of the authors' get_perturbations and get_reg_grads (Lambda-DARTS,
    sota/cnn/model_search.py) in NumPy, with their central difference.
    """
    net, loss, params, mix = smoothly_mixed(jd.spaces.darts(1, ("skip_connect", "max_pool_3x3")), 6)
    tiled, number = in_every_cell(net, mix, "normal"), net.num_cells()["normal"]
    by = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (plain, slopes), _ = by(params, tiled)
    g = np.asarray(slopes["normal"]).reshape(number, -1)
    norms = np.linalg.norm(g, axis=1, keepdims=True)
    units, pairs = g / norms, number * (number - 1) / 2
    cosines = (units @ units.T)[np.triu_indices(number, 1)]
    np.testing.assert_allclose(jd.descent.alignment(slopes["normal"]), cosines.mean(), rtol=1e-9)
    up = (units.sum(0) - units * (units @ units.sum(0))[:, None]) / norms / pairs
    up = up.reshape(tiled["normal"].shape)
    epsilon = 1e-5 / np.linalg.norm(up)
    ends = [
        by(params, {**tiled, "normal": tiled["normal"] + sign * epsilon * up})[0][0]
        for sign in (1, -1)
    ]
    ascent = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), *ends)

    rule = jd.descent.aligned({"normal": number}, lambda step: 0.1 * step)
    found = jax.jit(
        lambda params, mix: rule.gradient(loss, None, params, mix, None, 3, lambda tree: tree)[0][0]
    )(params, mix)
    expected = jax.tree.map(lambda g, a: g - 0.3 * a, plain, ascent)
    size = float(optax.tree.norm(ascent))
    assert size > 1e-3
    assert float(optax.tree.norm(optax.tree.sub(found, expected))) < 1e-4 * size
