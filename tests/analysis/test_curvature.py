"""Curvature of the validation loss. Oracles: all eigenvalues of the whole Hessian; the stopping
rule worked out by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.analysis.curvature import (
    density,
    dominant_eigenvalue,
    hessian,
    hessian_vector,
    lanczos,
    local_average,
    spectrum,
    stop_epoch,
)
from tests.helpers import toy_batch, toy_cells, toy_objective, toy_params

KEY = jax.random.key(0)


def symmetric(eigenvalues, seed=0):
    size = len(eigenvalues)
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return jnp.asarray(vectors * eigenvalues @ vectors.T)


def quadratic(eigenvalues, offset=0.0):
    matrix = symmetric(np.asarray(eigenvalues, float))
    return lambda arch: 0.5 * arch @ matrix @ arch + offset * jnp.sum(arch)


def smooth(arch):
    """Of two matrices that act on each other, its third derivatives not zero."""
    product = jnp.sin(arch["a"]) @ arch["b"]
    return jnp.sum(product**2) + jnp.sum(jnp.exp(arch["b"])) * jnp.sum(jnp.cos(arch["a"]))


def smooth_arch():
    rng = np.random.default_rng(1)
    return {
        "a": jnp.asarray(rng.standard_normal((3, 2))),
        "b": jnp.asarray(rng.standard_normal((2, 4))),
    }


def test_the_whole_hessian(x64):
    arch = smooth_arch()
    flat, unravel = jax.flatten_util.ravel_pytree(arch)
    expected = jax.hessian(lambda flat: smooth(unravel(flat)))(flat)
    np.testing.assert_allclose(hessian(smooth, arch), expected, rtol=1e-10, atol=1e-10)
    v = np.random.default_rng(2).standard_normal(14)
    product = jax.flatten_util.ravel_pytree(hessian_vector(smooth, arch, unravel(jnp.asarray(v))))[
        0
    ]
    np.testing.assert_allclose(product, expected @ v, rtol=1e-10)


@pytest.mark.parametrize("sign", [1, -1])
def test_every_step_makes_it_exact(sign, x64):
    arch = smooth_arch()
    values = np.linalg.eigvalsh(hessian(lambda arch: sign * smooth(arch), arch))
    dominant = values[np.abs(values).argmax()]
    estimate = jax.jit(
        lambda arch, key: dominant_eigenvalue(lambda arch: sign * smooth(arch), arch, key)
    )(arch, KEY)
    np.testing.assert_allclose(estimate, dominant, rtol=1e-10)


def test_the_sign_is_kept(x64):
    np.testing.assert_allclose(
        dominant_eigenvalue(quadratic([-5, 1, 2, 3.0]), jnp.ones(4), KEY), -5, rtol=1e-10
    )


@pytest.mark.parametrize(
    "eigenvalues, dominant",
    [
        ([2, 2, 2, 2.0], 2),
        ([0, 0, 0, 3.0], 3),
        ([0, 0, 0, 0.0], 0),
        ([7.0], 7),
        ([-1, 1, -1, 0.5], None),
    ],
)
def test_spaces_that_are_used_up_early(eigenvalues, dominant, x64):
    estimate = dominant_eigenvalue(
        quadratic(eigenvalues, offset=1.0), jnp.ones(len(eigenvalues)), KEY
    )
    np.testing.assert_allclose(
        estimate if dominant is not None else abs(estimate),
        1 if dominant is None else dominant,
        atol=1e-10,
    )


def test_twenty_steps_for_many_numbers():
    """Single precision, as many numbers as DARTS has, one eigenvalue apart from the others: their
    published size.
    """
    others = np.random.default_rng(0).uniform(-0.05, 0.1, 223)
    loss = quadratic(np.array([*others, 0.3], np.float32))
    keys = jax.random.split(KEY, 3)
    estimates = jax.vmap(lambda key: dominant_eigenvalue(loss, jnp.ones(224), key))(keys)
    np.testing.assert_allclose(estimates, 0.3, rtol=1e-4)
    crude = dominant_eigenvalue(loss, jnp.ones(224), KEY, num_steps=2)
    assert 0 < crude < 0.3


def test_weight_decay_is_the_callers(x64):
    loss = quadratic([0.1, 0.2, 0.4])
    decayed = dominant_eigenvalue(
        lambda arch: loss(arch) + 0.5e-3 * jnp.sum(arch**2), jnp.ones(3), KEY
    )
    np.testing.assert_allclose(decayed, 0.401, rtol=1e-10)


def test_of_a_search(x64):
    relax = jd.relax.softmax(toy_cells(), scale=0.5)
    params, arch = (
        jax.tree.map(lambda a: a.astype(jnp.float64), t)
        for t in (toy_params(), relax.init(jax.random.key(1)))
    )

    def loss(arch):
        return toy_objective(params, relax.apply(arch, KEY, jnp.int32(0)), (), toy_batch(0), KEY)[0]

    values = np.linalg.eigvalsh(jax.jit(lambda arch: hessian(loss, arch))(arch))
    estimate = jax.jit(lambda arch: dominant_eigenvalue(loss, arch, KEY))(arch)
    np.testing.assert_allclose(estimate, values[np.abs(values).argmax()], rtol=1e-8)


def test_of_a_supernet(x64):
    """Through the pooling, depthwise and batch-norm primitives."""
    space = jd.spaces.darts(1, ("max_pool_3x3", "dil_conv_3x3"))
    net = space.supernet(2, 1, 3, dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    params = net.init(KEY, x, net.example_mix())["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)

    def loss(alpha):
        mix = {"normal": jax.nn.softmax(alpha), "reduce": jax.nn.softmax(alpha)}
        return jnp.sum(jax.nn.log_softmax(net.apply({"params": params}, x, mix))[:, 0])

    alpha = jnp.asarray([[0.1, -0.3], [0.2, 0.5]])
    values = np.linalg.eigvalsh(jax.jit(lambda alpha: hessian(loss, alpha))(alpha))
    step, i = 1e-4, jnp.zeros((2, 2)).at[1, 0].set(1.0)
    gradient = jax.jit(jax.grad(loss))
    central = (gradient(alpha + step * i) - gradient(alpha - step * i)) / (2 * step)
    np.testing.assert_allclose(hessian_vector(loss, alpha, i), central, rtol=1e-4, atol=1e-7)
    estimate = dominant_eigenvalue(loss, alpha, KEY)
    np.testing.assert_allclose(estimate, values[np.abs(values).argmax()], rtol=1e-8)


def test_local_average():
    np.testing.assert_allclose(local_average([1, 2, 6, 3, 8, 10]), [3, 3, 4, 5.8, 6.75, 7])
    np.testing.assert_allclose(local_average([1, 2, 6], window=1), [1, 2, 6])
    np.testing.assert_allclose(local_average([1, 2], window=5), [1.5, 1.5])
    assert local_average([]).shape == (0,)
    with pytest.raises(ValueError, match="window is 4"):
        local_average([1, 2], window=4)


EPOCHS = [*range(0, 50, 2), 49]


def series(**jumps):
    """One, and from the given evaluation on (_n=value) another number."""
    values = np.ones(len(EPOCHS))
    for name, value in jumps.items():
        values[int(name[1:]) :] = value
    return values


@pytest.mark.parametrize(
    "values, expected",
    [
        (series(), None),
        # Evaluation 11, epoch 22, is the first that may stop: averages 9 (epoch 18) and 5 (epoch
        # 10), of 7-11 and of 3-7.
        (
            series(_11=2.5),
            12,
        ),  # (4 + 2.5) / 5 = 1.3 is not more; one evaluation on it is (3 + 5) / 5
        (series(_11=2.51), 10),
        (series(_10=2.51), 10),  # evaluation 10 would return to epoch 8, before `start`
        (series(_3=100), None),  # all grown by then: averages 5 and 9 are both 100
        (series(_6=2), 10),  # (3 + 2 * 2) / 5 = 1.4 at epoch 10, 2 at 18
        (series(_5=2), None),  # 1.6 at epoch 10, 2 at 18: 1.25
        (series(_24=2.51), 36),  # epoch 48, the last that counts
        (series(_25=1000.0), None),  # epoch 49, after the last epoch
        (series(_20=0.01), None),
        (np.geomspace(1, 1.3**6, 26), None),  # 1.3^(24/25) in 4 evaluations
        (np.geomspace(1, 1.3**6.5, 26), 10),  # 1.3^(26/25)
    ],
)
def test_stop_epoch(values, expected):
    assert stop_epoch(EPOCHS, values) == expected


def test_the_first_stop_is_the_same_as_it_comes():
    values = series(_14=3)
    seen = [stop_epoch(EPOCHS[:n], values[:n]) for n in range(len(EPOCHS) + 1)]
    # At evaluation 14 the newest average is (4 + 3) / 5 = 1.4, over that of evaluation 8, epoch 16.
    assert seen == [None] * 15 + [16] * 12


def test_other_settings():
    assert (
        stop_epoch(range(0, 20), np.r_[np.ones(10), 2 * np.ones(10)], start=0, delta=1, factor=1.15)
        == 7
    )
    assert (
        stop_epoch(range(0, 20), np.r_[np.ones(10), 2 * np.ones(10)], start=0, delta=1, factor=1.2)
        is None
    )
    # The oldest average is that of the first three values.
    assert stop_epoch(range(0, 8, 2), [1, 1, 1, 5], start=0, delta=1) == 0
    assert stop_epoch(range(0, 6, 2), [1, 1, 1], start=0, delta=1) is None
    assert (
        stop_epoch([0, 2, 4, 6], [0, 0, 0, 1], start=0, delta=1) == 0
    )  # from nothing to something
    assert stop_epoch([], []) is None


def test_bad_histories():
    with pytest.raises(ValueError, match="2 epochs and 1 eigenvalues"):
        stop_epoch([0, 2], [1.0])
    for epochs in ([0, 2, 3, 5], [0, 2, 5], [0, 2, 2, 4], [4, 2, 0]):
        with pytest.raises(ValueError, match="evenly spaced"):
            stop_epoch(epochs, [1.0] * len(epochs))


# ----------------------------------------------------------------------------------------- spectrum


def matrix_product(eigenvalues, seed=0):
    matrix = symmetric(np.asarray(eigenvalues, float), seed)
    return matrix, lambda v: matrix @ v


def test_lanczos_sees_what_a_vector_sees(x64):
    """v^T f(A) v / |v|^2 from as many steps as rows, whatever f is."""
    matrix, product = matrix_product([-3, -1, 0.5, 2, 7])
    v = jnp.asarray(np.random.default_rng(1).standard_normal(5))
    nodes, weights = jax.jit(lambda v: lanczos(product, v, v, 5))(v)
    values, vectors = np.linalg.eigh(matrix)
    np.testing.assert_allclose(nodes, values, rtol=1e-10)
    np.testing.assert_allclose(weights, (np.asarray(v) @ vectors) ** 2 / (v @ v), rtol=1e-8)


def test_few_steps_are_exact_for_polynomials(x64):
    """Gauss quadrature: k steps give the moments v^T A^p v up to p = 2k - 1."""
    matrix, product = matrix_product(np.random.default_rng(2).uniform(-2, 3, 12))
    v = jnp.asarray(np.random.default_rng(3).standard_normal(12))
    nodes, weights = lanczos(product, v, v, 4)
    for power in range(8):
        exact = v @ np.linalg.matrix_power(matrix, power) @ v / (v @ v)
        np.testing.assert_allclose(np.sum(weights * nodes**power), exact, rtol=1e-9)
    assert (
        abs(np.sum(weights * nodes**8) - v @ np.linalg.matrix_power(matrix, 8) @ v / (v @ v)) > 1e-6
    )


def test_a_spectrum_against_the_dense_hessian(x64):
    """Over the unit vectors the mean of the quadratures is the density itself; over random ones an
    estimate of it.
    """
    arch = smooth_arch()
    flat, unravel = jax.flatten_util.ravel_pytree(arch)
    values = np.linalg.eigvalsh(hessian(smooth, arch))
    points, deviation = np.linspace(values[0] - 1, values[-1] + 1, 50), 0.3

    def product(v):
        return hessian_vector(smooth, arch, v)

    exact = np.mean(np.exp(-(((points[:, None] - values) / deviation) ** 2) / 2), -1) / (
        deviation * np.sqrt(2 * np.pi)
    )
    nodes, weights = jax.jit(jax.vmap(lambda v: lanczos(product, arch, v, 14)))(jnp.eye(14))
    np.testing.assert_allclose(density(nodes, weights, points, deviation), exact, atol=1e-9)
    keys = jax.random.split(KEY, 400)
    nodes, weights = jax.jit(lambda keys: spectrum(product, arch, keys, 14))(keys)
    assert nodes.shape == weights.shape == (400, 14)
    estimate = density(nodes, weights, points, deviation)
    np.testing.assert_allclose(estimate, exact, atol=4 * np.max(exact) / np.sqrt(400))
    np.testing.assert_allclose(
        np.mean(np.sum(nodes * weights, -1)), values.mean(), atol=0.15 * np.abs(values).max()
    )
    np.testing.assert_allclose(
        np.trapezoid(
            density(nodes, weights, np.linspace(-200, 200, 9001), deviation), dx=400 / 9000
        ),
        1,
    )


def test_a_spectrum_of_one_eigenvalue(x64):
    _, product = matrix_product([2.0, 2.0, 2.0])
    nodes, weights = spectrum(product, jnp.ones(3), jax.random.split(KEY, 2), 3)
    np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.sum(weights * nodes, -1), 2, rtol=1e-12)
