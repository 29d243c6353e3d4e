"""One table of algorithms: every row passes the same tests. Oracle: the algorithm itself, run
another way.

Most of them run on a small smooth network that mixes operations as a supernet does; the last ones
on a supernet.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import parallel
from jaxdarts.runs import checkpoint
from tests.helpers import toy_batch, toy_cells, toy_logits, toy_objective, toy_params


def by_epoch(start, end):
    return jd.algorithms.by_epoch(start, end, epochs=10, steps_per_epoch=2)


def toy_operation(path):
    """The toy has one operation with weights on every edge."""
    return path[0].key if path[0].key in toy_cells() else None


ALGORITHMS = {
    "darts, first order": lambda space: jd.algorithms.darts(space, order=1),
    "darts, second order": lambda space: jd.algorithms.darts(space, order=2),
    "darts, finite difference": lambda space: jd.algorithms.finite_difference(space),
    "darts, annealed": lambda space: jd.Algorithm(
        jd.relax.annealed(jd.relax.softmax(space.cells), by_epoch(1.0, 0.1))
    ),
    "sdarts-rs": lambda space: jd.algorithms.sdarts_rs(space, by_epoch(0.03, 0.3)),
    "sdarts-adv": lambda space: jd.algorithms.sdarts_adv(space, by_epoch(0.03, 0.3)),
    "milenas, first order": lambda space: jd.algorithms.milenas(space),
    "milenas, second order": lambda space: jd.algorithms.milenas(space, order=2),
    "idarts": lambda space: jd.algorithms.idarts(space),
    "na-darts": lambda space: jd.algorithms.na_darts(space),
    "a2m": lambda space: jd.algorithms.a2m(space),
    "joint": lambda space: jd.algorithms.joint(space),
    "coordinate descent": lambda space: jd.algorithms.coordinate_descent(space),
    "random sharing": lambda space: jd.algorithms.random_sharing(space),
    "fixed alpha": lambda space: jd.algorithms.fixed_alpha(space),
    "pc-darts": lambda space: jd.algorithms.pc_darts(space),
    "gdas": lambda space: jd.algorithms.gdas(space, by_epoch(10.0, 0.1)),
    "straight-through": lambda space: jd.algorithms.straight_through(space, by_epoch(10.0, 0.1)),
    "reinmax": lambda space: jd.algorithms.reinmax(space, lambda step: 1.1),
    "snas": lambda space: jd.algorithms.snas(space, by_epoch(1.0, 0.03)),
    "drnas": lambda space: jd.algorithms.drnas(space),
    "fair darts": lambda space: jd.algorithms.fair_darts(space),
    "beta-darts": lambda space: jd.algorithms.beta_darts(space, by_epoch(0.0, 5.0)),
    "gaea": lambda space: jd.algorithms.gaea(space),
    "gaea, with edges": lambda space: jd.algorithms.gaea(space, edges=True),
    "da2s": lambda space: jd.algorithms.da2s(space, by_epoch(0.0, 2e-3), by_epoch(0.0, 8e-3)),
    "oles": lambda space: jd.Algorithm(
        jd.relax.softmax(space.cells), rule=jd.descent.early_stopping(toy_operation, 0.4, 2, 1)
    ),
    "lambda-darts": lambda space: jd.algorithms.lambda_darts(space, {}, by_epoch(0.0, 0.1)),
    "darts-": lambda space: jd.algorithms.darts_minus(space, by_epoch(1.0, 0.0)),
}
PARAMS_TX = optax.chain(
    optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.05, momentum=0.9)
)
ARCH_TX = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(1e-2, b1=0.5))

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
# One with the second derivative, one that perturbs, one that draws.
THREE_KINDS = ("darts, second order", "sdarts-adv", "gdas")


def space():
    return jd.spaces.darts()._replace(cells=toy_cells())


@functools.cache
def coupled(axis_name=None):
    """The toy with a moment of the batch, as a batch norm's, over all devices."""

    def objective(params, mix, carry, batch, key):
        logits = toy_logits(params, mix, batch["image"])
        square = jnp.mean(jnp.square(logits), axis=0, keepdims=True)
        if axis_name is not None:
            square = jax.lax.pmean(square, axis_name)
        logits = 3 * logits * jax.lax.rsqrt(square + 1e-5)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
        return loss, (carry, {"loss": loss})

    return objective


@functools.cache
def search_of(name, axis_name=None):
    algorithm = ALGORITHMS[name](space())
    return jd.bilevel_search(coupled(axis_name), algorithm, PARAMS_TX, ARCH_TX, axis_name=axis_name)


@functools.cache
def step_of(name):
    """The jitted step on one device, which most tests take: compiled once."""
    return jax.jit(search_of(name).step)


def start_of(name, seed=0):
    """On a device of its choice, as a restored state is: the step is compiled once for both."""
    state = search_of(name).init(jax.random.key(seed), toy_params(seed))
    return jax.device_put(state, jax.local_devices()[0])


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
    start = start_of(name)
    state, metrics = advance(step_of(name), start, 0, 3)
    chex.assert_tree_all_finite((without_keys(state), metrics))
    for before, after in zip(
        *map(jax.tree.leaves, ((start.params, start.arch), (state.params, state.arch))), strict=True
    ):
        assert float(jnp.abs(before - after).max()) > 1e-5
    assert {"train_loss", "valid_loss", "arch_gradient_norm"} <= set(metrics)
    chex.assert_trees_all_equal_shapes_and_dtypes(without_keys(start), without_keys(state))


@every_algorithm
def test_learns(name):
    """The training loss at the derived mix: what some algorithms train at is drawn anew, or the
    worst, in every step.
    """
    search, state = search_of(name), start_of(name)

    def loss(state):
        return float(coupled()(state.params, search.derive(state), (), batches(0)[0], None)[0])

    first, step = loss(state), step_of(name)
    for _ in range(200):
        state, _ = step(state, *batches(0))
    assert loss(state) < 0.9 * first


@every_algorithm
def test_a_penalty_is_descended_once(name):
    """By plain descent of rate 1: with a penalty alpha ends where it ended without, less the
    penalty's gradient by alpha, be it of the mix, of alpha itself, or of the step.
    """
    algorithm = ALGORITHMS[name](space())
    weights = {n: np.random.default_rng(7).random(c.shape) for n, c in space().cells.items()}

    def price(arch, mix, step):
        of_mix = sum(jnp.sum(weights[n] * mix[n] ** 2) for n in mix)
        return 1000 * of_mix + (step + 1) * optax.tree.norm(arch, squared=True), {"price": of_mix}

    both = jd.penalty.both(algorithm.penalty, price)
    plain, priced = (
        jd.bilevel_search(toy_objective, a, PARAMS_TX, optax.sgd(1.0))
        for a in (algorithm, algorithm._replace(penalty=both))
    )
    state = plain.init(jax.random.key(0), toy_params())

    def away(a):
        return a + 0.3 * jnp.cos(jnp.arange(a.size)).reshape(a.shape)

    state = dataclasses.replace(state, arch=jax.tree.map(away, state.arch), step=jnp.int32(3))
    slope = jax.grad(lambda arch: price(arch, algorithm.relax.derive(arch, 3), 3)[0])(state.arch)
    without, (new, metrics) = plain.step(state, *batches(0))[0], priced.step(state, *batches(0))
    expected = jax.tree.map(lambda a, g: a - g, without.arch, slope)
    chex.assert_trees_all_close(new.arch, expected, rtol=1e-4, atol=1e-3)
    assert not slope or float(optax.tree.norm(slope)) > 10
    assert "valid_price" in metrics


@pytest.mark.parametrize("name", THREE_KINDS)
def test_jit_or_not(name):
    """`test_a_penalty_is_descended_once` steps every algorithm without jit."""
    search, start = search_of(name), start_of(name)
    assert_close(advance(step_of(name), start, 0, 2)[0], advance(search.step, start, 0, 2)[0])


@pytest.mark.parametrize("name", THREE_KINDS)
def test_seeds_are_their_single_runs(name):
    """On one device; `test_seeds_on_devices` has every algorithm."""
    search = search_of(name)
    starts = [start_of(name, seed) for seed in range(3)]
    mapped = jax.jit(parallel.over_seeds(search.step, (0, None, None)))
    together, metrics = advance(mapped, parallel.stack(starts), 0, 3)
    chex.assert_shape(metrics["train_loss"], (3,))
    for i, start in enumerate(starts):
        assert_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], together),
            advance(step_of(name), start, 0, 3)[0],
        )


@pytest.mark.parametrize("name", THREE_KINDS)
def test_devices_are_one_device(name, devices):
    """Of one seed; `test_seeds_on_devices` has every algorithm."""
    mapped, start = search_of(name, parallel.AXIS), start_of(name)
    expected, expected_metrics = advance(step_of(name), start, 0, 3)
    step = parallel.over_devices(mapped.step, devices)
    state = parallel.replicate(start, devices)
    for number in range(3):
        state, metrics = step(state, *jax.tree.map(lambda a: parallel.split(a, 4), batches(number)))
    assert_close(parallel.first(state), expected)
    chex.assert_trees_all_close(parallel.first(metrics), expected_metrics, rtol=1e-5, atol=1e-5)


@every_algorithm
def test_seeds_on_devices(name, devices):
    """The images of a batch are coupled across devices, in every derivative; every seed is its
    single run on one device.
    """
    mapped = search_of(name, parallel.AXIS)
    starts = [start_of(name, seed) for seed in range(2)]
    step = parallel.over_devices(parallel.over_seeds(mapped.step, (0, None, None)), devices)
    state = parallel.replicate(parallel.stack(starts), devices)
    for number in range(3):
        state, metrics = step(state, *jax.tree.map(lambda a: parallel.split(a, 4), batches(number)))
    for leaf in jax.tree.leaves(without_keys(state)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    for i, start in enumerate(starts):
        one, one_metrics = jax.tree.map(
            lambda leaf, i=i: leaf[i], (parallel.first(state), parallel.first(metrics))
        )
        expected, expected_metrics = advance(step_of(name), start, 0, 3)
        # One of its gradients cancels to nearly zero, and Adam divides by its size: in float64 the
        # two are within 5e-15.
        assert_close(one, expected, 1e-4 if name == "reinmax" else 1e-5)
        chex.assert_trees_all_close(one_metrics, expected_metrics, rtol=1e-5, atol=1e-5)


@every_algorithm
def test_resumes_bit_for_bit(name, tmp_path):
    search = search_of(name)
    step, config = step_of(name), {"algorithm": name}
    start = start_of(name)
    uncut, metrics = advance(step, start, 0, 4)
    half, _ = advance(step, start, 0, 2)
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 2, half, config)
    with checkpoint.open_folder(tmp_path) as manager:
        restored = checkpoint.restore(
            manager, search.init(jax.random.key(9), toy_params(9)), config
        )
    assert_equal(restored, half)
    resumed, resumed_metrics = advance(step, restored, 2, 4)
    assert_equal(resumed, uncut)
    chex.assert_trees_all_equal(resumed_metrics, metrics)


# ---------------------------------------------------------------------------------------------- one
# step worked out by hand

# One edge with two operations, one weight: the network gives w p + q at the mix (p, q). Both losses
# are half the square of its distance to a target, 1 in training and 3 in validation. From w = 2 and
# alpha = (0, 0) with plain SGD of rate 1 on both:
#
#   training    w p + q - 1 = 0.5, so d/dmix = 0.5 (2, 1), d/dalpha = (0.125, -0.125), d/dw = 0.5 p
# = 0.25
#   validation  w p + q - 3 = -1.5, so d/dmix = -1.5 (2, 1), d/dalpha = (-0.375, 0.375)
#   unrolled    w' = 1.75 leaves -1.625: direct -1.625 (1.75, 1) gives d/dalpha = (-0.3046875,
# 0.3046875); d/dw' = -0.8125, and
#               d/dw train = (w - 1) p^2 falls with alpha by 0.25: the step adds 0.8125 * 0.25 =
# 0.203125
#
# The weight then descends (w - 1) p^2 at the new p = 1 / (1 + exp(alpha_2 - alpha_1)).
HAND = jd.Choices(((0, 2),), (("skip_connect", "sep_conv_3x3"),), (2,))
SLOPES = {
    "darts, first order": -0.375,
    "darts, second order": -0.3046875 + 0.203125,
    "milenas, first order": 0.125 - 0.375,
    "coordinate descent": 0.125,
    "joint": 0.125,
}


def hand_search(algorithm):
    def objective(params, mix, carry, batch, key):
        loss = 0.5 * (mix["normal"] @ jnp.stack([params, jnp.ones(())]) - batch)[0] ** 2
        return loss, (carry, {"loss": loss})

    relaxation = algorithm.relax._replace(init=lambda key: {"normal": jnp.zeros((1, 2))})
    search = jd.bilevel_search(
        objective, algorithm._replace(relax=relaxation), optax.sgd(1.0), optax.sgd(1.0)
    )
    return search.step(
        search.init(jax.random.key(0), jnp.float32(2)), jnp.ones(1), jnp.full(1, 3.0)
    )[0]


@pytest.mark.parametrize("name", SLOPES)
def test_a_step_by_hand(name):
    state = hand_search(ALGORITHMS[name](space()._replace(cells={"normal": HAND})))
    slope = SLOPES[name]
    np.testing.assert_allclose(state.arch["normal"], [[-slope, slope]], rtol=1e-5)
    p = 0.5 if name == "joint" else 1 / (1 + np.exp(2 * slope))
    np.testing.assert_allclose(state.params, 2 - p**2, rtol=1e-5)


def test_a_perturbed_weight_step_by_hand():
    """The training loss at (p, q) grows with both, so an attack on both would undo itself; a target
    of 3 turns the first sign.

    With w = -2: -2 p + q - 1 < 0 has the slopes (+, -) in the mix, so the worst p within 0.1 of its
    own is p + 0.1.
    """
    adversarial = jd.algorithms.sdarts_adv(
        space()._replace(cells={"normal": HAND}), lambda step: 0.1
    )

    def objective(params, mix, carry, batch, key):
        loss = 0.5 * (mix["normal"] @ jnp.stack([params, jnp.ones(())]) - batch)[0] ** 2
        return loss, (carry, {"loss": loss})

    search = jd.bilevel_search(objective, adversarial, optax.sgd(1.0), optax.set_to_zero())
    start = search.init(jax.random.key(0), jnp.float32(-2))
    p = float(adversarial.relax.derive(start.arch)["normal"][0, 0]) + 0.1
    state, _ = search.step(start, jnp.ones(1), jnp.full(1, 3.0))
    np.testing.assert_allclose(state.params, -2 - (-2 * p + (1 - p) - 1) * p, rtol=1e-4)


LIMITS = {
    "sdarts-rs, no noise": (
        lambda s: jd.algorithms.sdarts_rs(s, lambda step: 0.0),
        "darts, first order",
    ),
    "sdarts-adv, no noise": (
        lambda s: jd.algorithms.sdarts_adv(s, lambda step: 0.0),
        "darts, first order",
    ),
    "na-darts, distance 0": (
        lambda s: jd.algorithms.na_darts(s, 1, distance=0),
        "darts, first order",
    ),
    "na-darts, no neighbour": (lambda s: jd.algorithms.na_darts(s, 0), "darts, first order"),
    "a2m, radius 0": (lambda s: jd.algorithms.a2m(s, radius=0.0), "darts, first order"),
    "darts-, nothing added": (
        lambda s: jd.algorithms.darts_minus(s, lambda step: 0.0),
        "darts, first order",
    ),
    "beta-darts, weight 0": (
        lambda s: jd.algorithms.beta_darts(s, lambda step: 0.0),
        "darts, first order",
    ),
    "lambda-darts, no cells": (
        lambda s: jd.algorithms.lambda_darts(s, {}, lambda step: 1.0),
        "darts, first order",
    ),
    "milenas, lambda 0": (lambda s: jd.algorithms.milenas(s, weight=0.0), "coordinate descent"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    """What differs from another algorithm by one number is that algorithm at one value of it."""
    make, other = LIMITS[name]
    search = jd.bilevel_search(coupled(), make(space()), PARAMS_TX, ARCH_TX)
    start = search.init(jax.random.key(0), toy_params())
    state, _ = advance(jax.jit(search.step), start, 0, 3)
    expected, _ = advance(step_of(other), start_of(other), 0, 3)
    assert_close(state, expected)


def test_milenas_with_a_large_lambda_is_first_order_darts():
    """Adam sees the gradient's direction only."""
    large = jd.bilevel_search(
        toy_objective, jd.algorithms.milenas(space(), weight=1e6), PARAMS_TX, optax.adam(1e-2)
    )
    first = jd.bilevel_search(
        toy_objective, jd.algorithms.darts(space(), 1), PARAMS_TX, optax.adam(1e-2)
    )
    states = [
        advance(jax.jit(s.step), s.init(jax.random.key(0), toy_params()), 0, 3)[0]
        for s in (large, first)
    ]
    chex.assert_trees_all_close(states[0].arch, states[1].arch, rtol=1e-4, atol=1e-4)


def test_no_rule_for_the_weights_of_one_level():
    joint = ALGORITHMS["joint"](space())._replace(rule=ALGORITHMS["oles"](space()).rule)
    with pytest.raises(ValueError, match="no rule for one"):
        jd.bilevel_search(toy_objective, joint, PARAMS_TX, ARCH_TX)


@pytest.mark.parametrize("name", ["joint", "snas"])
def test_one_level_takes_one_backward_pass(name):
    """Of weights and alpha together: one program of gradients in the step, called once."""
    search = search_of(name)
    state = search.init(jax.random.key(0), toy_params())
    program = str(jax.make_jaxpr(search.step)(state, *batches(0)))
    assert program.count("name=loss_and_gradients") == 1
    other = search_of("darts, first order")
    program = str(
        jax.make_jaxpr(other.step)(other.init(jax.random.key(0), toy_params()), *batches(0))
    )
    assert program.count("name=loss_and_gradients") == 2


def test_slow_start_is_the_weight_of_da2s():
    """The numbers are linear(epoch) * log_(epoch) / 10 of sunsmarterjie/DAAS, cnn/dimension.py, for
    its epochs 1, 8, 9, 30 and 50, which count from 1.
    """
    schedule = jd.algorithms.slow_start(0.1, lambda step: step // 10, 50, warm_up=7)
    theirs = [0.1 * (e - 1) / 49 * (np.log(e - 7) / np.log(42) if e >= 8 else 0) for e in EPOCHS]
    np.testing.assert_allclose([schedule(10 * (e - 1)) for e in EPOCHS], theirs, rtol=1e-5)


EPOCHS = (1, 8, 9, 30, 50)


def test_by_epoch():
    schedule = jd.algorithms.by_epoch(0.03, 0.3, epochs=50, steps_per_epoch=390)
    # The last epoch's value of xiangning-chen/SmoothDARTS is 0.2946.
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 389, 390, 50 * 390 - 1)], [0.03, 0.03, 0.0354, 0.2946], rtol=1e-5
    )
    np.testing.assert_allclose(schedule(10**6), 0.3, rtol=1e-5)


# ---------------------------------------------------------------------------------- a real supernet


@pytest.mark.parametrize("name", ["darts, second order", "sdarts-adv"])
def test_supernet_on_devices(name, devices):
    """A supernet's batch norms do the same: through two derivatives, and under an attack on the
    mix.
    """
    cells = jd.spaces.darts(num_nodes=1, ops=("none", "max_pool_3x3", "dil_conv_3x3"))
    x = jax.random.normal(jax.random.key(1), (2, 8, 4, 4, 1))
    y = jnp.array([0, 1, 2, 0, 2, 1, 1, 0])
    train, val = ({"image": images, "label": y} for images in x)

    def net_on(axis_name):
        return cells.supernet(width=2, depth=1, num_classes=3, axis_name=axis_name)

    def search_on(axis_name):
        objective = jd.objectives.classification(net_on(axis_name))
        algorithm, tx = ALGORITHMS[name](cells), optax.sgd(1.0)
        return jd.bilevel_search(objective, algorithm, PARAMS_TX, tx, axis_name=axis_name)

    net = net_on(None)
    params = net.init(jax.random.key(0), x[0], net.example_mix())["params"]
    start = search_on(None).init(jax.random.key(0), params)
    expected, expected_metrics = jax.jit(search_on(None).step)(start, train, val)
    step = parallel.over_devices(search_on(parallel.AXIS).step, devices)
    state, metrics = step(
        parallel.replicate(start, devices),
        *jax.tree.map(lambda a: parallel.split(a, 4), (train, val)),
    )
    assert_close(parallel.first(state), expected)
    chex.assert_trees_all_close(parallel.first(metrics), expected_metrics, rtol=1e-5, atol=1e-5)
    chex.assert_tree_all_finite(without_keys(expected))
    assert float(optax.tree.norm(optax.tree.sub(expected.arch, start.arch))) > 1e-3
    assert float(optax.tree.norm(optax.tree.sub(expected.params, start.params))) > 1e-3
