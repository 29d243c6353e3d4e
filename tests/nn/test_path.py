"""Cells that compute one operation an edge.

Oracle: the cell that computes all of them, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import parallel
from jaxdarts.nn.cell import cell, weight_shapes
from jaxdarts.nn.ops import Norms
from jaxdarts.nn.path import path_cell
from jaxdarts.nn.primitives.norm import batch_norms
from jaxdarts.space import fully_connected

OPS = ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3", "noise")
NORMS = Norms(batch_norms, batch_norms)
ALIKE = fully_connected(2, OPS)
CELLS = {
    "alike": ALIKE,
    "other operations on every edge": ALIKE._replace(
        ops=tuple(OPS[1 + e % 3 :][:2] for e in range(len(ALIKE.edges)))
    ),
}


def program(function, choices, stride):
    """(mix, weights, inputs) -> a number that depends on all of the cell's output."""

    def loss(mix, weights, inputs):
        out = function(weights, inputs, mix, choices, stride, NORMS, key=jax.random.key(3))
        return jnp.vdot(out, jax.random.normal(jax.random.key(4), out.shape))

    return loss


def arguments(choices, stride):
    weights = {
        op: {name: jax.random.normal(jax.random.key(len(op)), shape) for name, shape in of.items()}
        for op, of in weight_shapes(choices, 4, stride).items()
    }
    return weights, jax.random.normal(jax.random.key(1), (2, 2, 6, 6, 4))


@pytest.mark.parametrize("name, stride", [("alike", 1), ("alike", 2), (list(CELLS)[1], 2)])
def test_value_and_gradients_are_those_of_all_operations(x64, name, stride):
    choices = CELLS[name]
    relaxations = (
        jd.relax.drawn({"cell": choices}, lambda step: 0.7),
        jd.relax.uniform_path({"cell": choices}),
    )
    arch = {"cell": jax.random.normal(jax.random.key(2), choices.shape)}
    weights, inputs = arguments(choices, stride)

    def gradients(function):
        @jax.jit
        def of_mix(mix, weights, inputs):
            return jax.value_and_grad(program(function, choices, stride), (0, 1, 2))(
                mix, weights, inputs
            )

        return of_mix

    path, full = gradients(path_cell), gradients(cell)
    drawn = set()
    for relaxation in relaxations:
        for seed in range(5):
            mix = relaxation.apply(arch, jax.random.key(seed), 0)["cell"]
            mix = jnp.pad(mix, ((0, 0), (0, choices.shape[1] + 1 - mix.shape[1])))
            of_path, of_full = path(mix, weights, inputs), full(mix, weights, inputs)
            # The weights of operations that are not drawn have a gradient in the full mix alone.
            seen = (mix != 0).at[:, -1].set(True)
            of_full = (of_full[0], (jnp.where(seen, of_full[1][0], 0), *of_full[1][1:]))
            of_path = (of_path[0], (jnp.where(seen, of_path[1][0], 0), *of_path[1][1:]))
            for a, b in zip(jax.tree.leaves(of_path), jax.tree.leaves(of_full), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
            drawn.add(float(of_path[0]))
    assert len(drawn) > 5


def test_the_second_order(x64):
    """A product with the Hessian of weights and inputs, along a random direction."""
    at = arguments(ALIKE, 1)
    mix = jd.relax.uniform_path({"cell": ALIKE}).apply({}, jax.random.key(1), 0)["cell"]
    direction = jax.tree.map(lambda a: jax.random.normal(jax.random.key(5), a.shape), at)

    def product(function):
        slope = jax.grad(program(function, ALIKE, 1), (1, 2))
        return jax.jit(lambda *at: jax.jvp(lambda *at: slope(mix, *at), at, direction)[1])(*at)

    path, full = product(path_cell), product(cell)
    for a, b in zip(*map(jax.tree.leaves, (path, full)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    assert optax.tree.norm(path) > 1


@pytest.mark.parametrize("stride", [1, 2])
def test_edges_without_operation(x64, stride):
    weights, inputs = arguments(ALIKE, stride)
    mix, key = jnp.zeros(ALIKE.shape), jax.random.key(0)
    out = path_cell(weights, inputs, mix, ALIKE, stride, NORMS, key)
    np.testing.assert_array_equal(out, np.zeros((2, 6 // stride, 6 // stride, 8)))


def test_memory_is_less_than_half():
    """Of the temporary arrays that XLA's compiler plans for the gradient of a cell of DARTS."""
    choices, sizes = jd.spaces.darts(3).cells["normal"], []
    shapes = jax.eval_shape(
        lambda: (
            jnp.zeros(choices.shape),
            {
                op: {name: jnp.zeros(shape) for name, shape in of.items()}
                for op, of in weight_shapes(choices, 4, 1).items()
            },
            jnp.zeros((2, 16, 16, 16, 4)),
        )
    )
    for function in (path_cell, cell):

        def loss(mix, weights, inputs, function=function):
            return jnp.sum(function(weights, inputs, mix, choices, 1, NORMS) ** 2)

        options = parallel.compiler_options("cpu")
        gradient = jax.jit(jax.grad(loss, argnums=1), compiler_options=options)
        sizes.append(gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes)
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_a_supernet(name, x64):
    """The logits of a network with `one_path` are the others', for a mix with one operation."""
    space = jd.spaces.darts(1, OPS[:-1]) if name == "darts" else jd.spaces.nasbench201()
    depth = 3 if name == "darts" else 1
    net = space.supernet(width=2, depth=depth, num_classes=3).clone(dtype=jnp.float64)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = net.init(jax.random.key(0), images, net.example_mix())
    mix = jd.relax.uniform_path(space.cells).apply({}, jax.random.key(1), 0)
    logits = [
        jax.jit(net.clone(one_path=one).apply)(variables, images, mix) for one in (True, False)
    ]
    np.testing.assert_allclose(*logits, rtol=1e-9)
    with pytest.raises(ValueError, match="partial is 2: must be 1 in a network with one path"):
        halves = net.clone(one_path=True, partial=2)
        jax.eval_shape(halves.init, jax.random.key(0), images, net.example_mix())


def test_no_drop_path():
    net = jd.spaces.darts().supernet(width=4, depth=1, num_classes=3).clone(one_path=True)
    with pytest.raises(ValueError, match="drop_path is given: not in a network with one path"):
        jax.eval_shape(
            lambda key: net.init(key, jnp.zeros((1, 8, 8, 1)), net.example_mix(), key, 0.1),
            jax.random.key(0),
        )
