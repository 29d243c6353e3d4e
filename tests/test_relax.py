"""Relaxations. Oracles: the papers' formulas in NumPy, and frequencies over many keys where a mix
is drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import relax
from jaxdarts.space import Choices, fully_connected

# Two nodes: edges (0, 2), (1, 2), (0, 3), (1, 3), (2, 3). The second space offers less on some
# edges.
CELLS = {"normal": fully_connected(2, ("none", "skip_connect", "sep_conv_3x3"))}
RAGGED = {
    "normal": Choices(
        CELLS["normal"].edges,
        (
            ("skip_connect",),
            ("none", "skip_connect"),
            ("skip_connect", "sep_conv_3x3", "dil_conv_3x3"),
            *[("max_pool_3x3",)] * 2,
        ),
        (2, 3),
    )
}
ALPHA = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), jnp.float32)
KEY, STEP = jax.random.key(1), jnp.int32(0)


def constant(value):
    return lambda step: value


def softmax(x):
    e = np.exp(np.asarray(x) - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def draws(relaxation, arch, number=4000):
    apply = jax.jit(jax.vmap(lambda key: relaxation.apply(arch, key, STEP)["normal"]))
    return np.asarray(apply(jax.random.split(KEY, number)))


EVERY = {
    "softmax": relax.softmax,
    "sigmoid": relax.sigmoid,
    "edge_softmax": relax.edge_softmax,
    "mirrored softmax": lambda cells: relax.softmax(cells, mirrored=True),
    "mirrored edge_softmax": lambda cells: relax.edge_softmax(cells, mirrored=True),
    "gumbel": lambda cells: relax.gumbel(cells, constant(1.0)),
    "hard gumbel": lambda cells: relax.gumbel(cells, constant(1.0), hard=True),
    "reinmax": lambda cells: relax.reinmax(cells, constant(1.1)),
    "dirichlet": relax.dirichlet,
    "uniform": relax.uniform,
    "uniform_path": relax.uniform_path,
    "annealed": lambda cells: relax.annealed(relax.softmax(cells), constant(0.5)),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("cells", [CELLS, RAGGED], ids=["full", "ragged"])
def test_mixes_have_the_cells_shape_and_nothing_outside_it(name, cells):
    relaxation = EVERY[name](cells)
    arch = relaxation.init(KEY)
    for mix in (relaxation.apply(arch, KEY, STEP), relaxation.derive(arch, STEP)):
        weights = np.asarray(mix["normal"])
        assert weights.shape == cells["normal"].shape
        assert np.all(weights >= -1e-6) and np.all(np.isfinite(weights))
        assert not weights[~cells["normal"].where()].any()
    gradient = jax.grad(lambda arch: jnp.sum(relaxation.apply(arch, KEY, STEP)["normal"] ** 2))(
        arch
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_softmax_and_annealed():
    plain = relax.softmax(CELLS)
    np.testing.assert_allclose(plain.derive({"normal": ALPHA})["normal"], softmax(ALPHA), rtol=1e-5)
    cold = relax.annealed(plain, lambda step: 1.0 / (1 + step))
    np.testing.assert_allclose(
        cold.apply({"normal": ALPHA}, KEY, 3)["normal"], softmax(4 * ALPHA), rtol=1e-5
    )
    np.testing.assert_allclose(
        cold.derive({"normal": ALPHA}, 3)["normal"], softmax(4 * ALPHA), rtol=1e-5
    )
    with pytest.raises(ValueError, match="depends on the step"):
        cold.derive({"normal": ALPHA})


def test_what_is_derived_is_what_is_trained():
    """Of every relaxation that draws nothing, at every step."""
    for make in (relax.softmax, relax.sigmoid, relax.edge_softmax):
        cold = relax.annealed(make(CELLS), lambda step: 1.0 / (1 + step))
        arch = jax.tree.map(lambda a: a + 0.3 * jnp.arange(a.size).reshape(a.shape), cold.init(KEY))
        for step in (0, 5):
            np.testing.assert_array_equal(
                cold.derive(arch, step)["normal"], cold.apply(arch, KEY, step)["normal"]
            )


def test_sigmoid_starts_at_one_half():
    relaxation = relax.sigmoid(CELLS)
    np.testing.assert_array_equal(
        relaxation.derive(relaxation.init(KEY))["normal"], np.full((5, 3), 0.5)
    )
    np.testing.assert_allclose(
        relaxation.derive({"normal": ALPHA})["normal"], 1 / (1 + np.exp(-ALPHA)), rtol=1e-5
    )


def test_edge_softmax_weighs_the_edges_of_a_node():
    edges = jnp.array([1.0, 0.0, 0.3, -0.2, 2.0])
    mix = relax.edge_softmax(CELLS).derive({"normal": {"ops": ALPHA, "edges": edges}})["normal"]
    betas = np.concatenate([softmax(edges[:2]), softmax(edges[2:])])
    np.testing.assert_allclose(mix, softmax(ALPHA) * betas[:, None], rtol=1e-5)


def test_plain_descent_of_a_mirrored_softmax_is_exponentiated_gradient():
    """Oracle: the update of the GAEA paper in NumPy, each weight times exp(-rate gradient), and a
    row, or the edges of a node, divided by their sum.
    """
    rng = np.random.default_rng(3)
    weights, rate = rng.standard_normal((5, 3)), 0.1
    plain = relax.softmax(CELLS, mirrored=True)
    full = relax.edge_softmax(CELLS, mirrored=True)
    edges = jnp.array([1.0, 0.0, 0.3, -0.2, 2.0])
    starts = {"normal": ALPHA}, {"normal": {"ops": ALPHA, "edges": edges}}

    def loss(mix):
        return jnp.sum(jnp.sin(3 * mix["normal"]) * weights)

    new = []
    for relaxation, arch in zip((plain, full), starts, strict=True):
        slope = jax.grad(lambda a, r=relaxation: loss(r.apply(a, KEY, STEP)))(arch)
        arch = jax.tree.map(lambda a, g: a - rate * g, arch, slope)
        new.append(relaxation.derive(arch)["normal"])

    def normed(values):
        return values / values.sum(-1, keepdims=True)

    def slope_at(mix):
        return 3 * np.cos(3 * mix) * weights

    ops = softmax(ALPHA)
    np.testing.assert_allclose(new[0], normed(ops * np.exp(-rate * slope_at(ops))), rtol=1e-5)
    betas = np.concatenate([softmax(edges[:2]), softmax(edges[2:])])
    slope = slope_at(ops * betas[:, None])
    ops_new = normed(ops * np.exp(-rate * slope * betas[:, None]))
    betas_new = betas * np.exp(-rate * (slope * ops).sum(1))
    betas_new = np.concatenate([normed(betas_new[:2]), normed(betas_new[2:])])
    np.testing.assert_allclose(new[1], ops_new * betas_new[:, None], rtol=1e-5)


def test_gumbel_draws_operations_as_often_as_the_softmax_says():
    drawn = draws(relax.gumbel(CELLS, constant(0.1), hard=True), {"normal": ALPHA})
    np.testing.assert_allclose(drawn.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(np.sort(drawn, -1)[..., :2], 0, atol=1e-6)
    np.testing.assert_allclose(
        drawn.mean(0), softmax(ALPHA), atol=0.04
    )  # five deviations of 4,000 draws


def test_gumbel_by_its_formula_and_the_gradient_of_a_hard_draw():
    soft, hard = (relax.gumbel(CELLS, constant(0.7), hard) for hard in (False, True))
    noise = jax.random.gumbel(jax.random.split(KEY, 1)[0], ALPHA.shape)
    expected = softmax((np.log(softmax(ALPHA)) + np.asarray(noise)) / 0.7)
    np.testing.assert_allclose(
        soft.apply({"normal": ALPHA}, KEY, STEP)["normal"], expected, rtol=1e-4
    )
    gradients = [
        jax.grad(
            lambda alpha, r=r: jnp.sum(r.apply({"normal": alpha}, KEY, STEP)["normal"] * ALPHA)
        )(ALPHA)
        for r in (soft, hard)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


def test_reinmax_draws_like_the_softmax_and_has_the_gradient_of_its_authors():
    """The gradient is Heun's, in NumPy; microsoft/ReinMax' ReinMaxCore.backward gives the same, up
    to the mean of a row, which is zero.
    """
    relaxation = relax.reinmax(CELLS, constant(1.3))
    drawn = draws(relaxation, {"normal": ALPHA})
    assert set(np.unique(drawn)) == {0.0, 1.0} and np.all(drawn.sum(-1) == 1)
    np.testing.assert_allclose(drawn.mean(0), softmax(ALPHA), atol=0.04)
    g = np.random.default_rng(4).standard_normal((5, 3))
    draw = np.asarray(relaxation.apply({"normal": ALPHA}, KEY, STEP)["normal"])
    gradient = jax.grad(
        lambda alpha: jnp.sum(relaxation.apply({"normal": alpha}, KEY, STEP)["normal"] * g)
    )(ALPHA)

    def jacobian(w):
        return w * (g - (w * g).sum(1, keepdims=True))

    q = (draw + softmax(ALPHA / 1.3)) / 2
    np.testing.assert_allclose(
        gradient, 2 * jacobian(q) - jacobian(softmax(ALPHA)) / 2, rtol=1e-4, atol=1e-6
    )


def test_the_mean_gradient_of_reinmax_is_nearer_the_exact_one_than_straight_through():
    """Of a square of the draw, whose mean has an exact gradient: a sum over all operations."""
    alpha = ALPHA[:1]
    cells = {"normal": Choices(((0, 2),), (("a", "b", "c"),), (2,))}
    target = jnp.array([[0.3, -0.2, 0.9]])
    values = np.sum((np.eye(3) - np.asarray(target)) ** 3, axis=1)
    p = softmax(alpha)
    exact = p * (values - (p * values).sum())

    def mean_gradient(relaxation):
        def loss(alpha, key):
            return jnp.sum((relaxation.apply({"normal": alpha}, key, STEP)["normal"] - target) ** 3)

        keys = jax.random.split(KEY, 20_000)
        return np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(alpha, keys)).mean(0)

    better = np.abs(mean_gradient(relax.reinmax(cells, constant(1.0))) - exact).max()
    other = relax.gumbel(cells, constant(1.0), hard=True)
    assert 2 * better < np.abs(mean_gradient(other) - exact).max()


def test_dirichlet_has_its_moments():
    """Mean c / C and variance m (1 - m) / (C + 1), with concentrations c = elu(alpha) + 1 and their
    sum C.
    """
    drawn = draws(relax.dirichlet(CELLS), {"normal": ALPHA})
    c = np.where(ALPHA > 0, ALPHA + 1, np.exp(ALPHA))
    mean = c / c.sum(1, keepdims=True)
    np.testing.assert_allclose(drawn.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(
        drawn.var(0), mean * (1 - mean) / (c.sum(1, keepdims=True) + 1), atol=0.015
    )


def test_dirichlet_is_differentiable_in_its_mean():
    relaxation = relax.dirichlet(CELLS)

    def mean(alpha):
        keys = jax.random.split(KEY, 20_000)
        return jnp.mean(
            jax.vmap(lambda key: relaxation.apply({"normal": alpha}, key, STEP)["normal"][0, 0])(
                keys
            )
        )

    alpha = ALPHA
    c = np.where(ALPHA > 0, ALPHA + 1, np.exp(ALPHA))[0]
    slope = np.where(ALPHA > 0, 1, np.exp(ALPHA))[0]
    expected = slope * np.array([c[1:].sum(), -c[0], -c[0]]) / c.sum() ** 2
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(alpha)[0], expected, atol=0.01)


def test_uniform_path_draws_sound_cells_uniformly():
    drawn = draws(relax.uniform_path(CELLS), {})
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert not drawn[..., 0].any()  # none
    kept = drawn.sum(-1)
    np.testing.assert_array_equal(kept[:, :2], 1)
    np.testing.assert_array_equal(kept[:, 2:].sum(1), 2)
    np.testing.assert_allclose(kept[:, 2:].mean(0), 2 / 3, atol=0.04)
    np.testing.assert_allclose(drawn[:, 0].mean(0), [0, 0.5, 0.5], atol=0.04)


def test_uniform_has_equal_operations_and_no_parameters():
    relaxation = relax.uniform(RAGGED)
    assert relaxation.init(KEY) == {}
    used = RAGGED["normal"].where()
    np.testing.assert_allclose(
        relaxation.apply({}, KEY, STEP)["normal"], used / used.sum(1, keepdims=True), rtol=1e-6
    )


def test_auxiliary_skip_adds_to_the_skip_connection():
    relaxation = relax.auxiliary_skip(relax.softmax(CELLS), CELLS, lambda step: 1.0 - 0.25 * step)
    expected = softmax(ALPHA)
    np.testing.assert_allclose(relaxation.derive({"normal": ALPHA})["normal"], expected, rtol=1e-5)
    expected[:, 1] += 0.25
    np.testing.assert_allclose(
        relaxation.apply({"normal": ALPHA}, KEY, 3)["normal"], expected, rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"normal: edge \(0, 3\) offers no skip_connect"):
        cells = {
            "normal": CELLS["normal"]._replace(
                ops=(("skip_connect", "none"),) * 2 + (("none", "max_pool_3x3"),) * 3
            )
        }
        relax.auxiliary_skip(relax.softmax(cells), cells, constant(1.0))


def test_derived_mixes_become_genotypes():
    space = jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3"))
    for name, make in EVERY.items():
        relaxation = make(space.cells)
        mix = relaxation.derive(relaxation.init(KEY), STEP)
        assert jd.genotypes.parse(str(space.discretize(mix))), name


COLD = EVERY | {
    "cold": lambda cells: relax.annealed(relax.softmax(cells), constant(1e-3)),
    "cold sigmoid": lambda cells: relax.annealed(relax.sigmoid(cells), constant(1e-3)),
    "cold edges": lambda cells: relax.annealed(relax.edge_softmax(cells), constant(1e-3)),
    "cold gumbel": lambda cells: relax.gumbel(cells, constant(1e-3)),
    "cold hard gumbel": lambda cells: relax.gumbel(cells, constant(1e-3), hard=True),
    "cold reinmax": lambda cells: relax.annealed(
        relax.reinmax(cells, constant(1.0)), constant(1e-3)
    ),
    "cold dirichlet": lambda cells: relax.annealed(relax.dirichlet(cells), constant(1e-3)),
    "auxiliary skip": lambda cells: relax.auxiliary_skip(
        relax.softmax(cells), cells, constant(1.0)
    ),
}
PATTERNS = {
    "low": lambda shape: np.full(shape, -1e4),
    "high": lambda shape: np.full(shape, 1e4),
    "one low": lambda shape: np.where(np.arange(shape[-1]) == 1, -1e4, 0.0) * np.ones(shape),
    "one high": lambda shape: np.where(np.arange(shape[-1]) == 1, 1e4, 0.0) * np.ones(shape),
    "spread": lambda shape: np.linspace(-1e4, 1e4, int(np.prod(shape))).reshape(shape),
    "moderate": lambda shape: np.linspace(-120, 20, int(np.prod(shape))).reshape(shape),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", COLD)
def test_every_finite_alpha_has_a_finite_mix_and_gradient(name, pattern):
    relaxation = COLD[name](CELLS)
    arch = jax.tree.map(
        lambda a: jnp.asarray(PATTERNS[pattern](a.shape), jnp.float32), relaxation.init(KEY)
    )

    def total(arch, function):
        return jnp.sum(jnp.sin(function(arch)["normal"] * jnp.arange(1.0, 16).reshape(5, 3)))

    for key in jax.random.split(KEY, 3):
        for function in (
            lambda arch, key=key: relaxation.apply(arch, key, STEP),
            lambda arch: relaxation.derive(arch, STEP),
        ):
            value, gradient = jax.value_and_grad(total)(arch, function)
            mix = np.asarray(function(arch)["normal"])
            for leaf in (value, mix, *jax.tree.leaves(gradient)):
                assert np.all(np.isfinite(leaf))
            if "skip" not in name and "sigmoid" not in name:
                assert np.all((mix >= -1e-6) & (mix <= 1 + 1e-6))


@pytest.mark.parametrize("alpha", [-3.0, -8.0, -30.0])
def test_small_concentrations_are_those_of_exp(alpha):
    """Mean and variance of a Dirichlet distribution; computed as elu(alpha) + 1, single precision
    would round small concentrations, and those below exp(-17) to zero.
    """
    cells = {"normal": Choices(((0, 2),), (("a", "b"),), (2,))}
    arch = {"normal": jnp.array([[alpha, alpha + 1.0]])}
    drawn = draws(relax.dirichlet(cells), arch)[:, 0]
    first, second = np.exp(alpha), np.exp(alpha + 1)
    np.testing.assert_allclose(drawn[:, 0].mean(), first / (first + second), atol=0.035)
    total = first + second
    m = first / total
    np.testing.assert_allclose(drawn[:, 0].var(), m * (1 - m) / (total + 1), atol=0.02)


@pytest.mark.parametrize("method", [relax.softmax, lambda cells: relax.drawn(cells, constant(1.0))])
def test_held_edges_have_fixed_weights_and_no_gradient(method):
    """Between the decisions of DARTS+PT. A drawn mix has a column more, zero where it is held."""
    plain = method(CELLS)
    mix = {"normal": jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])]}
    decided = {"normal": jnp.array([True, False, True, False, False])}
    held = relax.held(plain, mix, decided)
    arch, rows = {"normal": ALPHA}, np.array([0, 2])
    for new, free in (
        (held.apply(arch, KEY, STEP), plain.apply(arch, KEY, STEP)),
        (held.derive(arch, STEP), plain.derive(arch, STEP)),
    ):
        assert new["normal"].shape == free["normal"].shape
        np.testing.assert_array_equal(new["normal"][rows, :3], mix["normal"][rows])
        assert not new["normal"][rows, 3:].any()
        np.testing.assert_array_equal(
            np.delete(new["normal"], rows, axis=0), np.delete(free["normal"], rows, axis=0)
        )

    def weighted(arch):
        values = held.apply(arch, KEY, STEP)["normal"]
        return jnp.sum(values * jnp.arange(values.size).reshape(values.shape) ** 2)

    gradient = jax.grad(weighted)(arch)["normal"]
    assert not gradient[rows].any() and np.delete(gradient, rows, axis=0).any(axis=1).all()
