"""Hypergradients. Oracles: a bilevel problem with a closed form, and central differences of the
whole map

arch -> val(weights after the optimiser's steps on train(., arch), arch), in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import hypergrad
from jaxdarts.space import fully_connected

EXACT = {"unrolled": hypergrad.unrolled, "unrolled_by_grad": hypergrad.unrolled_by_grad}


# -------------------------------------------------------------------------------------- closed form


def closed_form_train(w, a):
    return w**2 - 2 * a * w + a**2


def closed_form_val(w, a):
    return a * w - 2 * a + 1


@pytest.mark.parametrize("rate, expected", [(0.0, -4.0), (0.1, -2.8), (0.5, 2.0), (1.0, 8.0)])
@pytest.mark.parametrize(
    "function", [*EXACT.values(), hypergrad.finite_difference], ids=[*EXACT, "finite_difference"]
)
def test_closed_form(x64, function, rate, expected):
    """Figure 2 of the paper: from (2, -2), d val / d a = (w' - 2) + 2 rate a with w' = w - rate (2
    w - 2 a).
    """
    w, a = jnp.float64(-2), jnp.float64(2)
    result = function(
        closed_form_train, closed_form_val, w, a, lambda gradient: w - rate * gradient
    )
    np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_closed_form_first_order(x64):
    w, a = jnp.float64(-2), jnp.float64(2)
    assert (
        hypergrad.first_order(
            closed_form_train, closed_form_val, w, a, lambda gradient: w - gradient
        )
        == -4
    )


def test_closed_form_two_steps(x64):
    """w'' - a = (1 - 2 rate)^2 (w - a), so d val / d a = w'' - 2 + a (1 - (1 - 2 rate)^2)."""
    w, a, rate = jnp.float64(-2), jnp.float64(2), 0.1
    shrink = (1 - 2 * rate) ** 2
    expected = a + shrink * (w - a) - 2 + a * (1 - shrink)

    def step(*gradients):
        return w - rate * sum(gradients)

    result = hypergrad.unrolled_steps(2)(closed_form_train, closed_form_val, w, a, step)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


# ----------------------------------------------------------------------------------- small networks


def network(activation):
    """Two layers that mix an activation and a linear map, and their losses on a training and a
    validation batch.
    """
    rng = np.random.default_rng(0)
    params = {"in": rng.standard_normal((3, 6)), "out": rng.standard_normal((6, 2))}
    arch = {"normal": rng.standard_normal((1, 2)), "reduce": rng.standard_normal((2, 2))}

    def loss(x, y, sign):
        def evaluate(params, arch):
            first, second = jax.nn.softmax(arch["normal"])[0], jax.nn.softmax(arch["reduce"])
            h = x @ params["in"]
            h = first[0] * activation(h) + first[1] * h
            h = second[0, 0] * activation(h @ params["out"]) + second[1, 0] * (h @ params["out"])
            return sign * jnp.mean((h - y) ** 2) + 0.01 * sum(jnp.sum(a**2) for a in arch.values())

        return evaluate

    train, val = (
        loss(rng.standard_normal((16, 3)), rng.standard_normal((16, 2)), 1.0) for _ in range(2)
    )
    return train, val, *jax.tree.map(jnp.asarray, (params, arch))


OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "clip, decay, momentum": optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.add_decayed_weights(3e-2),
        optax.sgd(0.1, momentum=0.9),
    ),
    "clip, decay, Nesterov": optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.add_decayed_weights(3e-2),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "adam": optax.adam(0.05),
}


def real_step(tx, params):
    """The step of an optimiser that has been running: its moments are not zero."""
    state = tx.init(params)
    rng = np.random.default_rng(1)
    for _ in range(3):
        gradient = jax.tree.map(lambda p: jnp.asarray(0.1 * rng.standard_normal(p.shape)), params)
        _, state = tx.update(gradient, state, params)

    def weight_step(*gradients):
        stepped, opt_state = params, state
        for gradient in gradients:
            updates, opt_state = tx.update(gradient, opt_state, stepped)
            stepped = optax.apply_updates(stepped, updates)
        return stepped

    return weight_step


def central_differences(train, val, params, arch, weight_step, num_steps=1, epsilon=1e-5):
    flat, unravel = jax.flatten_util.ravel_pytree(arch)

    @jax.jit
    def after(flat):
        weights, gradients = params, []
        for _ in range(num_steps):
            gradients.append(jax.grad(train)(weights, unravel(flat)))
            weights = weight_step(*gradients)
        return val(weights, unravel(flat))

    steps = epsilon * jnp.eye(flat.size)
    return unravel(
        jnp.stack([(after(flat + step) - after(flat - step)) / (2 * epsilon) for step in steps])
    )


def assert_close(a, b, tolerance):
    a, b = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (a, b))
    assert a.dtype == jnp.float64
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_exact_for_every_optimiser(x64, name):
    train, val, params, arch = network(jnp.tanh)
    weight_step = real_step(OPTIMISERS[name], params)
    if "clip" in name:
        assert optax.tree.norm(jax.grad(train)(params, arch)) > 0.2  # the clip cuts
    expected = central_differences(train, val, params, arch, weight_step)
    results = [
        jax.jit(lambda p, a, f=f: f(train, val, p, a, weight_step))(params, arch)
        for f in EXACT.values()
    ]
    for result in results:
        assert_close(result, expected, 1e-8)
    assert_close(*results, 1e-12)
    first = hypergrad.first_order(train, val, params, arch, weight_step)
    gap = optax.tree.norm(optax.tree.sub(first, expected)) / optax.tree.norm(expected)
    assert gap > 1e-3  # else this test could not tell them apart


@pytest.mark.parametrize("name", OPTIMISERS)
def test_two_steps(x64, name):
    train, val, params, arch = network(jnp.tanh)
    weight_step = real_step(OPTIMISERS[name], params)
    actual = jax.jit(lambda p, a: hypergrad.unrolled_steps(2)(train, val, p, a, weight_step))(
        params, arch
    )
    assert_close(actual, central_differences(train, val, params, arch, weight_step, 2), 1e-8)


def relative_error(activation):
    train, val, params, arch = network(activation)
    weight_step = real_step(optax.sgd(0.1), params)
    exact = hypergrad.unrolled(train, val, params, arch, weight_step)
    assert_close(exact, central_differences(train, val, params, arch, weight_step), 1e-8)
    direct = hypergrad.first_order(
        train, jax.tree_util.Partial(val), weight_step(jax.grad(train)(params, arch)), arch, None
    )
    close = hypergrad.finite_difference(train, val, params, arch, weight_step)
    term = optax.tree.sub(exact, direct)  # what the difference approximates
    return optax.tree.norm(optax.tree.sub(close, exact)) / optax.tree.norm(term)


def test_finite_difference_needs_a_smooth_network(x64):
    """On a relu network the two points lie across kinks, and the error is no longer of second order
    in their distance.
    """
    smooth, kinked = relative_error(jnp.tanh), relative_error(jax.nn.relu)
    assert smooth < 1e-3
    assert kinked > 10 * smooth


@pytest.mark.parametrize(
    "function",
    [
        hypergrad.first_order,
        *EXACT.values(),
        hypergrad.finite_difference,
        hypergrad.unrolled_steps(2),
    ],
)
def test_auxiliary_output_is_that_of_val(x64, function):
    train, val, params, arch = network(jnp.tanh)
    weight_step = real_step(optax.sgd(0.1), params)
    seen = {}

    def with_aux(loss, name):
        def evaluate(params, arch):
            return (
                loss(params, arch),
                {
                    "name": name,
                    "params": params["in"],
                    "value": loss(params, arch),
                }[seen["field"]],
            )

        return evaluate

    plain = function(train, val, params, arch, weight_step)
    seen["field"] = "value"
    result, value = function(
        with_aux(train, "train"), with_aux(val, "val"), params, arch, weight_step, has_aux=True
    )
    assert_close(result, plain, 1e-12)
    seen["field"] = "params"
    _, at = function(
        with_aux(train, "train"), with_aux(val, "val"), params, arch, weight_step, has_aux=True
    )
    np.testing.assert_allclose(
        value,
        val({**params, "in": at} | _out(function, train, params, arch, weight_step), arch),
        rtol=1e-12,
    )


def _out(function, train, params, arch, weight_step):
    """The output layer where the hypergradient evaluates the validation loss."""
    steps = {hypergrad.first_order: 0}.get(
        function, 2 if function not in (*EXACT.values(), hypergrad.finite_difference) else 1
    )
    weights, gradients = params, []
    for _ in range(steps):
        gradients.append(jax.grad(train)(weights, arch))
        weights = weight_step(*gradients)
    return {"out": weights["out"]}


def test_errors():
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"num_steps is {steps}"):
            hypergrad.unrolled_steps(steps)


def test_supernet(x64):
    space = jd.spaces.darts(num_nodes=1, ops=("none", "max_pool_3x3", "dil_conv_3x3"))
    net = space.supernet(width=2, depth=1, num_classes=3, dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 4, 1))
    y = jnp.array([0, 1, 2, 0])
    params = net.init(jax.random.key(0), x[0], net.example_mix())["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    arch = {
        name: jax.random.normal(jax.random.key(2), m.shape) for name, m in net.example_mix().items()
    }

    def loss(images):
        def evaluate(params, arch):
            logits = net.apply({"params": params}, images, jax.tree.map(jax.nn.softmax, arch))
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

        return evaluate

    train, val = loss(x[0]), loss(x[1])

    def evaluated(function):
        def apply(params, arch):
            return function(
                train, val, params, arch, real_step(OPTIMISERS["clip, decay, momentum"], params)
            )

        return jax.jit(apply)(params, arch)

    exact, definition, first = map(evaluated, (*EXACT.values(), hypergrad.first_order))
    assert_close(exact, definition, 1e-9)
    assert float(jnp.abs(exact["reduce"] - first["reduce"]).max()) > 1e-6


# ---------------------------------------------------------------------------------- losses that the
# architecture descends


CELLS = {
    "normal": fully_connected(1, ("skip_connect", "sep_conv_3x3")),
    "reduce": fully_connected(1, ("skip_connect",)),
}
ARCH = {"normal": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "reduce": jnp.array([[5.0], [6.0]])}


def test_mixed_level_between_its_limits(x64):
    w, a, step = jnp.float64(-2), jnp.float64(2), lambda gradient: -2 - 0.1 * gradient
    losses = (closed_form_train, closed_form_val, w, a, step)
    of_train, of_val = hypergrad.single_level(*losses), hypergrad.first_order(*losses)
    assert (of_train, of_val) == (8, -4)
    assert hypergrad.mixed_level(0.0)(*losses) == of_train
    assert hypergrad.mixed_level(2.0)(*losses) == of_train + 2 * of_val
    np.testing.assert_allclose(hypergrad.mixed_level(1e9)(*losses) / 1e9, of_val, rtol=1e-8)


def test_mixed_level_second_order_is_linear_in_its_losses(x64):
    """By hand: w' = w - r (2 w - 2 a), d/da train(w', a) = (2 w' - 2 a) 2 r + 2 a - 2 w'."""
    w, a, rate = jnp.float64(-2), jnp.float64(2), 0.1
    losses = (closed_form_train, closed_form_val, w, a, lambda gradient: w - rate * gradient)
    stepped = w - rate * (2 * w - 2 * a)
    of_train = (2 * stepped - 2 * a) * 2 * rate + 2 * a - 2 * stepped
    result = hypergrad.mixed_level(3.0, hypergrad.unrolled)(*losses)
    np.testing.assert_allclose(result, of_train + 3 * hypergrad.unrolled(*losses), rtol=1e-12)


def test_single_level_looks_at_the_validation_loss(x64):
    def train(w, a):
        return closed_form_train(w, a), "of train"

    def val(w, a):
        return closed_form_val(w, a), "of val"

    assert hypergrad.single_level(train, val, -2.0, 2.0, None, has_aux=True) == (8, "of val")


def test_flat_minimum_of_a_quadratic(x64):
    """val = a H a / 2 + b a: raised k times, a' = a + r (H a + b), and the gradient is (I + r H)
    (H a' + b).
    """
    rng = np.random.default_rng(0)
    h, b, a = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    h = h + h.T

    def val(w, a):
        return w * (a @ jnp.asarray(h) @ a / 2 + jnp.asarray(b) @ a)

    for num_steps in (1, 3):
        raised = a
        for _ in range(num_steps):
            raised = raised + 0.1 * (h @ raised + b)
        expected = (np.eye(3) + 0.1 * h) @ (h @ raised + b)
        result = hypergrad.flat_minimum(0.1, num_steps)(None, val, 1.0, jnp.asarray(a), None)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    np.testing.assert_allclose(
        hypergrad.flat_minimum(0.0)(None, val, 1.0, jnp.asarray(a), None), h @ a + b, rtol=1e-12
    )


@pytest.mark.parametrize("num_steps", [1, 2])
def test_flat_minimum_takes_its_hessian_at_the_raised_point(x64, num_steps):
    """val = sum a^4 / 4, of gradient a^3 and Hessian 3 a^2: the published formula in NumPy, its
    central difference and all.
    """
    a, radius, width = np.array([0.3, -1.1, 0.7]), 0.2, 1e-5
    raised = a
    for _ in range(num_steps):
        raised = raised + radius * raised**3
    gradient = raised**3
    ends = [(raised + sign * width * gradient) ** 3 for sign in (1, -1)]
    expected = gradient + radius * (ends[0] - ends[1]) / (2 * width)
    result = hypergrad.flat_minimum(radius, num_steps)(
        None, lambda w, a: w * jnp.sum(a**4) / 4, 1.0, jnp.asarray(a), None
    )
    np.testing.assert_allclose(result, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "aggregate", [jnp.mean, jnp.median, jnp.min, lambda f: jnp.mean(f) - 0.5 * jnp.std(f)]
)
@pytest.mark.parametrize("inner", [hypergrad.first_order, hypergrad.unrolled])
def test_neighbourhood_against_central_differences(x64, aggregate, inner):
    rng = np.random.default_rng(1)
    shifts = jnp.asarray(rng.standard_normal((4, 3)))
    weights = jnp.asarray(rng.standard_normal(3))

    def neighbours(key, arch):
        return jnp.concatenate([arch[None], arch[None] * (1 + shifts)])

    def train(w, a):
        return jnp.sum((w - jnp.tanh(a)) ** 2)

    def val(w, a):
        return jnp.sum(jnp.sin(a * w) ** 2), {"own": jnp.sum(a)}

    def step(gradient):
        return weights - 0.1 * gradient

    def outer(a):
        at = weights if inner is hypergrad.first_order else step(jax.grad(train)(weights, a))
        return -aggregate(-jnp.stack([val(at, one)[0] for one in neighbours(None, a)]))

    arch = jnp.array([0.3, -0.7, 1.1])
    method = hypergrad.neighbourhood(neighbours, aggregate, inner)
    result, aux = method(
        lambda w, a: (train(w, a), {}),
        val,
        weights,
        arch,
        step,
        key=jax.random.key(0),
        has_aux=True,
    )
    np.testing.assert_allclose(aux["own"], 0.7, rtol=1e-6)
    for i in range(3):
        h = 1e-6 * jnp.eye(3)[i]
        np.testing.assert_allclose(
            result[i], (outer(arch + h) - outer(arch - h)) / 2e-6, rtol=1e-6, atol=1e-9
        )


def test_permuted_edges_change_as_many_rows_as_they_say():
    for distance in range(3):
        neighbours = hypergrad.permuted_edges(CELLS, num_neighbours=20, distance=distance)(
            jax.random.key(0), ARCH
        )
        assert {name: a.shape for name, a in neighbours.items()} == {
            "normal": (21, 2, 2),
            "reduce": (21, 2, 1),
        }
        for name in ARCH:
            np.testing.assert_array_equal(neighbours[name][0], ARCH[name])
        # An edge with one operation may be drawn, but has nothing to change to.
        np.testing.assert_array_equal(
            neighbours["reduce"], np.broadcast_to(ARCH["reduce"], (21, 2, 1))
        )
        moved = [
            int(np.sum(np.any(one != ARCH["normal"], axis=1)))
            for one in np.asarray(neighbours["normal"])
        ]
        assert max(moved) == distance and set(np.ravel(neighbours["normal"])) == {
            1.0,
            2.0,
            3.0,
            4.0,
        }
        for one in np.asarray(neighbours["normal"]):
            np.testing.assert_array_equal(np.sort(one, axis=1), ARCH["normal"])
    unchanged = hypergrad.permuted_edges(CELLS, 0, 1)(jax.random.key(0), ARCH)
    np.testing.assert_array_equal(unchanged["normal"], ARCH["normal"][None])
    with pytest.raises(ValueError, match="distance 5"):
        hypergrad.permuted_edges(CELLS, 1, 5)


def test_mean_minus_deviation_of_equal_performances():
    f = jnp.array([0.1, 0.7, -0.3])
    np.testing.assert_allclose(hypergrad.mean_minus_deviation(f), np.mean(f) - np.std(f), rtol=1e-6)
    same = jnp.full(3, 0.7)
    np.testing.assert_allclose(hypergrad.mean_minus_deviation(same), 0.7, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(hypergrad.mean_minus_deviation)(same), np.full(3, 1 / 3))
