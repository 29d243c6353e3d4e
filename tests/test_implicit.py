"""Implicit hypergradients. Oracles: closed forms, dense matrices, and central differences.

The differences are those of arch -> val(argmin train(., arch), arch). All is in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdarts import hypergrad, implicit
from tests.test_hypergrad import closed_form_train, closed_form_val, network


@pytest.mark.parametrize("num_terms", [1, 2, 7])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.7])
def test_closed_form_of_the_series(x64, num_terms, rate):
    """H = 2, so the series of (1 - 2 rate)^k rate has the sum (1 - (1 - 2 rate)^n) / 2."""
    w, a = jnp.float64(-2), jnp.float64(2)
    expected = (w - 2) + a * (1 - (1 - 2 * rate) ** num_terms)
    result = implicit.neumann(num_terms)(
        closed_form_train, closed_form_val, w, a, lambda gradient: w - rate * gradient
    )
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_closed_form_of_the_solver(x64, damping):
    """d grad_w train / d a = -2 and H + damping = 2 + damping."""
    w, a = jnp.float64(-2), jnp.float64(2)
    result = implicit.conjugate_gradient(1, damping)(closed_form_train, closed_form_val, w, a, None)
    np.testing.assert_allclose(result, (w - 2) + a * 2 / (2 + damping), rtol=1e-12)


def problem():
    """Ridge regression of two mixed features: losses, weights of the minimum, an architecture."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 12, 5), (2, 12, 3)))

    def features(batch, arch):
        first, second = jax.nn.softmax(arch["normal"])[0]
        return first * x[batch] + second * jnp.tanh(x[batch])

    def loss(batch, decay):
        def evaluate(params, arch):
            error = features(batch, arch) @ params["w"] - y[batch]
            return jnp.mean(error**2) + decay * jnp.sum(params["w"] ** 2)

        return evaluate

    def minimum(arch):
        f = features(0, arch)
        scale = f.shape[0] * 3  # of the mean over rows and columns
        hessian = f.T @ f / scale + 0.1 * jnp.eye(5)
        return {"w": jnp.linalg.solve(hessian, f.T @ y[0] / scale)}

    return loss(0, 0.1), loss(1, 0.0), minimum, {"normal": jnp.asarray([[0.3, -0.4]])}


def test_the_gradient_at_the_minimum(x64):
    """Twenty products are enough for five eigenvalues (the solver), the series needs more."""
    train, val, minimum, arch = problem()
    params = minimum(arch)
    assert optax.tree.norm(jax.grad(train)(params, arch)) < 1e-12

    def least(change):
        moved = {"normal": arch["normal"] + change}
        return val(minimum(moved), moved)

    steps = 1e-6 * np.eye(2)[:, None]
    expected = [(least(step) - least(-step)) / 2e-6 for step in steps]
    assert abs(expected[0] - jax.grad(val, 1)(params, arch)["normal"][0, 0]) > 1e-3
    solved = implicit.conjugate_gradient(20)(train, val, params, arch, None)
    np.testing.assert_allclose(solved["normal"][0], expected, rtol=1e-7)
    series = implicit.neumann(2000)(
        train, val, params, arch, lambda g: jax.tree.map(lambda w, g: w - 0.1 * g, params, g)
    )
    np.testing.assert_allclose(series["normal"][0], expected, rtol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_term_is_the_unrolled_gradient_where_the_step_does_not_move(x64, nesterov):
    """At the minimum, with momentum at rest, the weights after the step are those before it."""
    train, val, minimum, arch = problem()
    params = minimum(arch)
    tx = optax.chain(
        optax.clip_by_global_norm(5.0), optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    )

    def weight_step(gradient):
        updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.apply_updates(params, updates)

    one = implicit.neumann(1)(train, val, params, arch, weight_step)
    unrolled = hypergrad.unrolled(train, val, params, arch, weight_step)
    np.testing.assert_allclose(one["normal"], unrolled["normal"], rtol=1e-9)
    first = hypergrad.first_order(train, val, params, arch, weight_step)
    assert np.abs(one["normal"] - first["normal"]).max() > 1e-4


def test_a_network_far_from_its_minimum(x64):
    """The Hessian of a small network as a matrix: series and solution with NumPy."""
    plain_train, plain_val, params, arch = network(jnp.tanh)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    flat_arch, unravel_arch = jax.flatten_util.ravel_pytree(arch)

    def with_aux(loss):
        return lambda params, arch: (loss(params, arch), {"out": params["out"]})

    train, val = with_aux(plain_train), with_aux(plain_val)

    @jax.jit
    def matrices(flat, flat_arch):
        def train_slope(flat, flat_arch):
            return jax.grad(lambda w: train(unravel(w), unravel_arch(flat_arch))[0])(flat)

        slopes = jax.grad(lambda w, a: val(unravel(w), unravel_arch(a))[0], argnums=(0, 1))(
            flat, flat_arch
        )
        return *jax.jacobian(train_slope, argnums=(0, 1))(flat, flat_arch), *slopes

    hessian, mixed, v, direct = (np.asarray(m) for m in matrices(flat, flat_arch))
    lowest = np.linalg.eigvalsh(hessian)[0]
    assert lowest < -1e-3  # else the damping would have nothing to do

    def result_of(function):
        result, aux = jax.jit(
            lambda p, a: function(
                train,
                val,
                p,
                a,
                lambda g: jax.tree.map(lambda w, g: w - 0.05 * g, p, g),
                has_aux=True,
            )
        )(params, arch)
        np.testing.assert_array_equal(aux["out"], params["out"])
        return jax.flatten_util.ravel_pytree(result)[0]

    total, term = 0, 0.05 * v
    for _ in range(3):
        total, term = total + term, term - 0.05 * hessian @ term
    np.testing.assert_allclose(
        result_of(implicit.neumann(3)), direct - mixed.T @ total, atol=1e-9, rtol=1e-7
    )
    damping = 2 * abs(lowest)
    solution = np.linalg.solve(hessian + damping * np.eye(flat.size), v)
    np.testing.assert_allclose(
        result_of(implicit.conjugate_gradient(400, damping)),
        direct - mixed.T @ solution,
        atol=1e-7,
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["neumann", "conjugate_gradient"])
def test_devices_are_one_device(x64, name):
    """Each device has other rows of the data; the hypergradient is that of all of them."""
    devices = jax.devices()[:2]
    assert len(devices) == 2
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 2, 6, 5), (2, 2, 6)))
    params, arch = jnp.asarray(rng.standard_normal(5)), jnp.asarray([0.3])

    def hypergradient(x, y, axis_name):
        def mean(value):
            return value if axis_name is None else jax.lax.pmean(value, axis_name)

        def loss(level):
            def evaluate(params, arch):
                error = jnp.tanh(x[level] @ params) * mean(arch) - y[level]
                return mean(jnp.mean(error**2))

            return evaluate

        function = {
            "neumann": implicit.neumann(3),
            "conjugate_gradient": implicit.conjugate_gradient(3, 0.5, axis_name),
        }[name]
        return function(
            loss(0), loss(1), params, arch, lambda gradient: params - 0.1 * mean(gradient)
        )

    alone = hypergradient(
        *(jnp.concatenate([part[0], part[1]], axis=1) for part in (x, y)), axis_name=None
    )
    mapped = jax.pmap(lambda x, y: hypergradient(x, y, "devices"), "devices", devices=devices)
    np.testing.assert_allclose(mapped(x, y), [alone, alone], rtol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: implicit.neumann(0), "num_terms is 0"),
        (lambda: implicit.conjugate_gradient(0), "0 steps with damping 0.0"),
        (lambda: implicit.conjugate_gradient(2, -1.0), "2 steps with damping -1.0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
