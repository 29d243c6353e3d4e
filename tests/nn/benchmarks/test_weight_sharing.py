"""The 64-model space, its networks, and training with one child a mini-batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.analysis import sharing
from jaxdarts.nn.benchmarks.weight_sharing import (
    MOMENTUM,
    Network,
    SinglePath,
    Supernet,
    prefix,
    used,
)
from jaxdarts.space import Choices
from jaxdarts.spaces.weight_sharing64 import (
    CELLS,
    CHILD_OPS,
    NAMES,
    all_picks,
    name_of,
    of_name,
    picks_of,
)

SPACE = jd.spaces.weight_sharing64()
# Two operations are enough for what is shared and what is not.
SMALL = {
    "cell": Choices(
        CELLS["cell"].edges,
        (("max_pool_3x3", "sep_conv_3x3"),) * 3,
        (1, 2),
        num_inputs=1,
        kept=None,
    )
}

TX = optax.chain(
    optax.add_decayed_weights(0.01), optax.sgd(optax.constant_schedule(0.1), momentum=0.9)
)


def batch(seed=0, size=6, side=5):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.standard_normal((size, side, side, 1)), jnp.float32)
    return {"image": image, "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32)}


@functools.cache
def small():
    """The network, its variables, the training and its compiled step and gradient."""
    net = SinglePath(SMALL, width=2, depth=2, num_classes=3)
    variables = net.init(jax.random.key(0), *net.example_inputs((5, 5, 1)))
    shared = sharing.one_child(net, TX)
    return net, variables, shared, jax.jit(shared.step)


def test_names_and_numbers():
    assert len(set(map(of_name, NAMES))) == 64
    for i, name in enumerate(NAMES):
        a, b, c = map(int, name)
        assert i == 16 * (a - 1) + 4 * (b - 1) + c - 1
        genotype = of_name(name)
        assert name_of(genotype) == name and (picks_of(genotype) == all_picks()[i]).all()
        assert SPACE.discretize(jd.one_hot(SPACE.cells, genotype)) == genotype
    assert of_name("124").cell == ((CHILD_OPS[0], 0), (CHILD_OPS[1], 0), (CHILD_OPS[3], 1))
    with pytest.raises(ValueError, match="'505' is no cell"):
        of_name("505")
    with pytest.raises(ValueError, match="unknown operation"):
        SPACE.network(jd.genotypes.parse("|none~0|+|none~0|skip_connect~1|"))


def test_sample_and_mutate():
    genotype = SPACE.sample(jax.random.key(0))
    assert len({SPACE.sample(jax.random.key(i)) for i in range(1000)}) == 64
    mutants = {SPACE.mutate(jax.random.key(i), genotype) for i in range(200)}
    assert mutants == set(jd.analysis.flatness.shell(SPACE.cells, genotype))


def test_parameters():
    """Of the paper's network, counted by hand."""
    width, stem = 16, 48
    separable = {
        "sep_conv_3x3": 2 * (9 + width),
        "sep_conv_5x5": 2 * (25 + width),
        "dil_conv_5x5": 25 + width,
    }
    fixed = (
        9 * 3 * stem
        + 9 * stem * stem
        + 4 * stem
        + stem * width
        + 3 * 2 * width * width
        + 2 * width * 10
        + 10
    )
    assert jd.count_params(SPACE.supernet(), (32, 32, 3)) == fixed + 4 * 3 * width * sum(
        separable.values()
    )
    of_cell = width * (2 * (9 + width) + 25 + width)  # no weights in a pooling
    assert jd.count_params(SPACE.network(of_name("124")), (32, 32, 3)) == fixed + 4 * of_cell


def test_one_path_is_the_supernet_at_a_corner():
    """Logits and gradients, for a child of each kind of operation, from the same weights."""
    ops = tuple(CHILD_OPS[i] for i in (0, 1, 3))
    cells = {"cell": CELLS["cell"]._replace(ops=(ops,) * 3)}
    net, path = (kind(cells, 2, 2, 3) for kind in (Supernet, SinglePath))
    images = batch()["image"]
    variables = path.init(jax.random.key(1), *path.example_inputs((5, 5, 1)))
    other = net.init(jax.random.key(1), *net.example_inputs((5, 5, 1)))["params"]
    jax.tree.map(np.testing.assert_array_equal, variables["params"], other)

    @jax.jit
    def of_path(params, picks):
        apply = functools.partial(path.apply, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(apply({**variables, "params": params}, images, picks, True)[0]))

    of_mix = jax.jit(
        lambda params, mix: jnp.sum(jnp.sin(net.apply({"params": params}, images, mix)))
    )
    for picks in ((0, 1, 2), (2, 1, 0)):
        mix = {"cell": jnp.eye(3)[np.array(picks)]}
        values = [
            jax.value_and_grad(f)(other, x) for f, x in ((of_path, jnp.array(picks)), (of_mix, mix))
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *values)


def test_network_of_a_child_is_the_path():
    picks = np.array([1, 0, 1])
    net, variables, _, _ = small()
    cells = {
        "cell": Choices(
            SMALL["cell"].edges, tuple((SMALL["cell"].ops[0][k],) for k in picks), (1, 2), 1, None
        )
    }
    alone = Network(cells, 2, 2, 3)
    alone_variables = alone.init(jax.random.key(0), *alone.example_inputs((5, 5, 1)))
    rows = np.flatnonzero(picks == 1)
    params = {
        name: w[:, rows] if name.startswith("sep_conv") else w
        for name, w in variables["params"].items()
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, alone_variables["params"])
    images = batch()["image"]
    for train in (False, True):
        both = jax.jit(
            lambda few, full, train=train: (
                alone.apply(few, images, train, mutable=["batch_stats"])[0][0],
                net.apply(full, images, picks, train, mutable=["batch_stats"])[0],
            )
        )
        actual, expected = both({**alone_variables, "params": params}, variables)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_only_the_childs_weights_move():
    """Weights, momentum and averages of other children stay, those of the child move."""
    _, variables, shared, step = small()
    state = shared.init(variables)
    state, _ = step(state, batch(1), jnp.array([1, 1, 1]))  # all have momentum now
    new, metrics = step(state, batch(2), jnp.array([0, 1, 0]))
    assert np.isfinite(metrics["loss"])
    mask = used(SMALL["cell"], variables["params"], jnp.array([0, 1, 0]))
    for before, after in ((state.params, new.params), (state.opt[1][0].trace, new.opt[1][0].trace)):
        for name in before:
            moved = jax.tree.map(lambda a, b: np.asarray(a != b), before[name], after[name])
            if name.startswith("sep_conv"):
                used_here = np.broadcast_to(mask[name], before[name].shape)
                assert used_here[:, 1].all() and not used_here[:, [0, 2]].any()
                assert moved[used_here].mean() > 0.9 and not moved[~used_here].any()
            else:
                assert all(np.mean(m) > 0.9 for m in jax.tree.leaves(moved))
    moved = np.asarray(
        new.averages["cell_mean"] != state.averages["cell_mean"]
    )  # [cells, edges, ops, norms, channels]
    expected = np.zeros(moved.shape, bool)
    for e, k in enumerate((0, 1, 0)):
        expected[:, e, k, : k + 1] = True  # a pooling has one norm
    np.testing.assert_array_equal(moved, expected)


def test_step_is_the_optimisers_on_the_childs_weights():
    """Against the definition: gradient, decay and momentum by hand."""
    net, variables, shared, step = small()
    picks, data = jnp.array([1, 0, 1]), batch(3)

    @jax.jit
    def gradient(params, averages):
        def loss(params):
            logits, _ = net.apply(
                {"params": params, "batch_stats": averages},
                data["image"],
                picks,
                True,
                mutable=["batch_stats"],
            )
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data["label"]))

        return jax.grad(loss)(params)

    state = shared.init(variables)
    momentum = jax.tree.map(jnp.zeros_like, state.params)
    for _ in range(2):
        g = jax.tree.map(
            lambda g, w: g + 0.01 * w, gradient(state.params, state.averages), state.params
        )
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, g)
        expected = jax.tree.map(lambda w, m: w - 0.1 * m, state.params, momentum)
        state, _ = step(state, data, picks)
        for name, mask in used(SMALL["cell"], variables["params"], picks).items():
            for got, want, leaf_mask in zip(
                *(jax.tree.leaves(t) for t in (state.params[name], expected[name], mask)),
                strict=True,
            ):
                leaf_mask = np.broadcast_to(leaf_mask, got.shape)
                np.testing.assert_allclose(
                    np.where(leaf_mask, got, 0), np.where(leaf_mask, want, 0), atol=1e-6
                )


def test_running_averages_and_evaluation():
    """The first norm of the cells, against moments that NumPy takes; evaluation looks at each image
    alone.
    """
    net, variables, shared, step = small()
    data, picks = batch(4), jnp.array([1, 1, 0])
    state, _ = step(shared.init(variables), data, picks)
    kernel, norm = (
        np.asarray(variables["params"]["stem0"]["kernel"]),
        variables["batch_stats"]["stem0"],
    )
    x = np.pad(np.asarray(data["image"]), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i : i + 5, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3))
    count = y[..., 0].size
    expected = (1 - MOMENTUM) * np.asarray(norm["variance"]) + MOMENTUM * y.var(
        axis=(0, 1, 2)
    ) * count / (count - 1)
    np.testing.assert_allclose(state.averages["stem0"]["variance"], expected, rtol=1e-4)
    evaluate = jax.jit(shared.evaluate)
    weights = jnp.array([1.0, 1, 0, 1, 1, 1])
    together = evaluate(state, data, weights, picks)["accuracy"]
    repeated = [jax.tree.map(lambda x: x[np.full(6, i)], data) for i in (0, 1, 3, 4, 5)]
    alone = [evaluate(state, repeat, weights, picks)["accuracy"] / 5 for repeat in repeated]
    assert float(together) == pytest.approx(sum(map(float, alone)))


def test_children_and_groups():
    members = list(range(64))
    in_turn = sharing.in_turn(members, 130)
    np.testing.assert_array_equal(in_turn, np.arange(130) % 64)
    one = sharing.in_one_order(members, 192, seed=3)
    np.testing.assert_array_equal(one[:64], one[64:128])
    assert sorted(one[:64]) == members and (one[:64] != in_turn[:64]).any()
    every = sharing.in_new_orders(members, 192, seed=3)
    # As the authors' code makes them: a list that is shuffled on in place.
    rng, order = np.random.RandomState(3), members.copy()
    for n in range(3):
        rng.shuffle(order)
        np.testing.assert_array_equal(every[64 * n : 64 * n + 64], order)
    np.testing.assert_array_equal(every[:64], one[:64])
    for rule in (sharing.in_turn, sharing.in_one_order, sharing.in_new_orders):
        assert rule([5, 9], 0).shape == (0,) and sorted(rule([5, 9], 5)[:4]) == [5, 5, 9, 9]
    assert sharing.similar_groups(16)[8] == [32, 33, 34, 35]
    assert sharing.similar_groups(64) == [[i] for i in members] and sharing.similar_groups(1) == [
        members
    ]
    assert sorted(sum(sharing.random_groups(4), [])) == members
    # A list of i mod m, shuffled in place.
    mapping = [i % 16 for i in range(64)]
    np.random.RandomState(42).shuffle(mapping)
    assert sharing.random_groups(16) == [
        [i for i in range(64) if mapping[i] == g] for g in range(16)
    ]
    for number in (0, 3, 65):
        for groups in (sharing.similar_groups, sharing.random_groups):
            with pytest.raises(ValueError, match=f"{number} groups"):
                groups(number)


def test_what_a_prefix_is():
    """Of a network of three cells: all of the stem, in the cells what belongs to the first ones,
    never the classifier.
    """
    net = SinglePath(SMALL, width=2, depth=3, num_classes=3)
    variables = net.init(jax.random.key(0), *net.example_inputs((5, 5, 1)))
    for cells in range(4):
        for collection, names in (("params", 2 * 1 + 1), ("batch_stats", 2)):
            tree = variables[collection]
            mask = prefix(tree, cells)
            share = jax.tree.map(lambda m, x: np.broadcast_to(m, x.shape), mask, dict(tree))
            assert all(leaf.all() for i in range(2) for leaf in jax.tree.leaves(share[f"stem{i}"]))
            stacked = [n for n in tree if not n.startswith(("stem", "head", "preprocess"))]
            assert len(stacked) >= names
            for name in stacked:
                assert share[name][:cells].all() and not share[name][cells:].any()
        assert [bool(prefix(variables["params"], cells)[f"preprocess{i}"]) for i in range(3)] == [
            i < cells for i in range(3)
        ]
        assert (
            not prefix(variables["params"], cells)["head"]
            and not prefix(variables["params"], cells)["head_bias"]
        )


def test_shared_prefix_is_trainings_that_hand_the_prefix_on():
    """By the definition: every child is a whole training of its own, into which the others' prefix
    is copied each step.
    """
    net, variables, one, step = small()
    picks = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1]])

    @jax.jit
    def partial_step(state, cells, data, child):
        return sharing.shared_prefix(net, TX, picks, cells).step(state, data, child)

    for cells in (0, 1, 2):
        partial = sharing.shared_prefix(net, TX, picks, cells)
        state, alone = partial.init(variables), [one.init(variables) for _ in picks]
        masks = prefix(variables["params"], cells)
        counts = optax.ScaleByScheduleState(True)
        opt = (optax.EmptyState(), (optax.TraceState(masks), counts))
        common = sharing.SharedState(True, masks, prefix(variables["batch_stats"], cells), opt)
        for n, child in enumerate((0, 1, 2, 1, 0)):
            state, metrics = partial_step(state, cells, batch(n), child)
            new, expected = step(alone[child], batch(n), picks[child])
            assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-6)
            alone = [
                new if i == child else jax.tree.map(jnp.where, common, new, old)
                for i, old in enumerate(alone)
            ]
        heads = np.asarray(state.params["own"]["head"])  # of every child, whatever else is shared
        np.testing.assert_allclose(
            heads, np.stack([child_state.params["head"] for child_state in alone]), atol=1e-6
        )
        assert all((heads[i] != heads[i - 1]).any() for i in range(3))
        assert (
            int(state.step)
            == int(state.opt["common"][1][1].count)
            == int(alone[0].opt[1][1].count)
            == 5
        )
    data, weights = batch(9), jnp.ones(6)
    for child in (0, 2):
        expected = one.evaluate(alone[child], data, weights, picks[child])["accuracy"]
        assert partial.evaluate(state, data, weights, child)["accuracy"] == expected
