"""What GPUs and TPUs are given, run on a CPU in float64: the same numbers as the definitions, for
every order of derivative.

A function is lowered for another platform and its program, which is free of that platform's own
calls, runs here.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import jaxdarts as jd
from jaxdarts.nn import ops
from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.depthwise import depthwise
from jaxdarts.nn.primitives.norm import affine, batch_norms
from jaxdarts.nn.primitives.platforms import every_platform
from jaxdarts.nn.primitives.pooling import max_pool
from tests.nn.primitives.test_depthwise import reference


def lowered(function, platform, arguments):
    unchecked = [export.DisabledSafetyCheck.platform()]
    exported = export.export(
        jax.jit(lambda *x: function(*x)), platforms=[platform], disabled_checks=unchecked
    )
    with every_platform():
        return exported(*arguments)


def elsewhere(function, arguments):
    """The results of a function as it is lowered for TPUs and for GPUs, once for each program that
    differs from the others.
    """
    programs = {}
    for platform in ("tpu", "cuda", "rocm"):
        program = lowered(function, platform, arguments)
        programs.setdefault(program.mlir_module().replace(f'"{platform}"', ""), program)
    assert len(programs) <= 2  # GPUs are given the same
    options = {"xla_backend_optimization_level": "0"}
    return [
        jax.jit(program.call, compiler_options=options)(*arguments) for program in programs.values()
    ]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def orders(function):
    """Value, gradients, the gradients' derivative along a direction by both modes, and a mapped
    gradient.
    """

    def everything(arguments, tangents):
        by = tuple(range(len(arguments)))

        def loss(*arguments):
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(function(*arguments)))

        def gradient(*arguments):
            return jax.grad(loss, by)(*arguments)

        def along(*arguments):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(*arguments), tangents, strict=True))

        gradients, forward = jax.jvp(gradient, arguments, tangents)
        mapped = jax.vmap(gradient)(
            *(jnp.stack([a, t]) for a, t in zip(arguments, tangents, strict=True))
        )
        return function(*arguments), gradients, forward, jax.grad(along, by)(*arguments), mapped

    return everything


def assert_equal(function, definition, *shapes):
    arguments = tuple(draw(*shape, seed=i) for i, shape in enumerate(shapes))
    tangents = tuple(draw(*shape, seed=10 + i) for i, shape in enumerate(shapes))
    # Not under jit: most operations of the definitions are compiled once for all tests then.
    expected = orders(definition)(arguments, tangents)
    for results in elsewhere(orders(function), (arguments, tangents)):
        chex.assert_trees_all_close(results, expected, rtol=1e-9, atol=1e-10)


def one_after_the_other(x, kernels, weights, **geometry):
    y = reference(x, kernels, **geometry)
    return jnp.einsum("gkbhwc,gkcd->gkbhwd", y, weights)


@pytest.mark.parametrize(
    "size, stride, dilation", [(3, 1, 1), (5, 2, 1), (5, 1, 2), (3, 2, 2), (3, 1, 3)]
)
def test_depthwise(x64, size, stride, dilation):
    geometry = {"stride": stride, "dilation": dilation}
    shapes = (2, 2, 7, 8, 3), (2, 2, size, size, 3)
    lowered, definition = (functools.partial(f, **geometry) for f in (depthwise, reference))
    assert_equal(lowered, definition, *shapes)


@pytest.mark.parametrize(
    "states, edges, size, stride, dilation",
    [
        (1, 3, 3, 1, 1),
        (3, 1, 5, 1, 1),
        (2, 2, 5, 2, 1),
        (3, 1, 3, 2, 1),
        (1, 3, 5, 1, 2),
        (2, 2, 3, 2, 2),
        (3, 1, 3, 2, 2),
    ],
)
def test_separable(x64, states, edges, size, stride, dilation):
    """An odd height, an even width; one state and several, one edge and several."""
    geometry = {"stride": stride, "dilation": dilation}
    shapes = (states, 2, 7, 8, 3), (states, edges, size, size, 3), (states, edges, 3, 4)
    lowered, definition = (
        functools.partial(f, **geometry) for f in (ops.separable, one_after_the_other)
    )
    assert_equal(lowered, definition, *shapes)


def test_norms(x64):
    def plain(x, gain):
        mean, square = (jnp.mean(z, (-4, -3, -2), keepdims=True) for z in (x, x * x))
        return gain * (x - mean) / jnp.sqrt(square - mean**2 + 1e-5)

    def normed(x, y, gain, other):
        return batch_norms([x, y], [gain, other])

    def definition(x, y, gain, other):
        return [plain(x, gain), plain(y, other)]

    assert_equal(
        normed,
        definition,
        (2, 3, 3, 4, 4, 2),
        (2, 1, 3, 4, 4, 2),
        (2, 3, 1, 1, 1, 1),
        (2, 1, 1, 1, 1, 1),
    )
    assert_equal(
        affine, lambda x, scale, shift: scale * x + shift, (2, 3, 4, 5, 3), *[(2, 1, 1, 1, 3)] * 2
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool(x64, stride):
    def definition(x):
        padding = [(0, 0), (1, 1), (1, 1), (0, 0)]
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding
        )

    assert_equal(functools.partial(max_pool, stride=stride), definition, (2, 7, 8, 3))


@pytest.mark.parametrize(
    "rows, columns, strides", [(3, 3, (1, 1)), (1, 7, (1, 2)), (7, 1, (2, 1)), (1, 1, (1, 1))]
)
def test_convolution(x64, rows, columns, strides):
    def definition(x, kernel):
        padding = [((n - 1) // 2, (n - 1) // 2) for n in (rows, columns)]
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    lowered = functools.partial(convolution, strides=strides)
    assert_equal(lowered, definition, (2, 7, 8, 3), (rows, columns, 3, 2))


def test_a_barrier_is_the_identity(x64):
    assert_equal(once_on_cpu, lambda x: x, (2, 3))
    assert "optimization_barrier" in jax.jit(once_on_cpu).lower(1.0).as_text()
    assert (
        "optimization_barrier"
        not in jax.jit(once_on_cpu).trace(1.0).lower(lowering_platforms=("cuda",)).as_text()
    )


def tiny_search():
    """A second-order search step of one reduction cell with all operations of DARTS, and its
    arguments.
    """
    space = jd.spaces.darts(1)
    net = space.supernet(width=2, depth=1, num_classes=3, dtype=jnp.float64)
    tx = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(0.1, momentum=0.9),
    )
    search = jd.bilevel_search(
        jd.objectives.classification(net), jd.algorithms.darts(space, 2), tx, optax.adam(3e-4)
    )
    params = net.init(jax.random.key(1), *net.example_inputs((4, 4, 3)))["params"]
    state = search.init(jax.random.key(0), jax.tree.map(lambda w: w.astype(jnp.float64), params))
    train, val = ({"image": draw(4, 4, 4, 3, seed=i), "label": jnp.arange(4) % 3} for i in range(2))

    def step(params, arch, train, val):
        after, metrics = search.step(
            dataclasses.replace(state, params=params, arch=arch), train, val
        )
        return after.params, after.arch, metrics

    return step, (state.params, state.arch, train, val)


def test_a_search_step(x64):
    step, arguments = tiny_search()
    options = {"xla_backend_optimization_level": "0"}
    on_cpu = jax.jit(step, compiler_options=options)(*arguments)
    results = elsewhere(step, arguments)
    assert len(results) == 2
    for result in results:
        chex.assert_trees_all_close(result, on_cpu, rtol=1e-8, atol=1e-10)


def test_only_what_this_process_runs_on_is_traced():
    """The dense form is a TPU's: it is in a program for one, and is not even traced for a CPU."""

    def separable(x, kernels, weights):
        return ops.separable(x, kernels, weights)

    arguments = draw(1, 2, 8, 8, 4), draw(1, 3, 3, 3, 4), draw(1, 3, 4, 4)
    here = jax.make_jaxpr(separable)(*arguments)
    assert "depthwise" in str(here) and "branches" not in str(here)
    assert "conv_general_dilated" not in str(here)
    with every_platform():
        both = jax.make_jaxpr(lambda *x: separable(*x))(*arguments)
    assert "branches_platforms" in str(both) and "conv_general_dilated" in str(both)
    tpu = lowered(separable, "tpu", arguments).mlir_module()
    assert tpu.count("stablehlo.convolution") == 1 and "feature_group_count = 1 " in tpu
