"""The least time that a step can take on this machine: its floating-point operations and bytes over
measured rates.

Counted are convolutions, matrix products and poolings: each reads its operands once and writes its
result once, and all that lies between them (batch norms, relus, sums) is taken to be part of them,
at no cost. No program made of these products, one after the other, can do with less traffic, unless
two of them become one or fit into a cache together.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core


class Work(NamedTuple):
    """Floating-point operations, and bytes read and written."""

    flops: float
    bytes: float


def work(program: core.ClosedJaxpr, platform: str = "cpu") -> Work:
    """Cost of all products of a traced program, lowered for a platform: "cpu", "cuda" or "tpu"."""
    all_equations = equations(program.jaxpr, 1, platform)
    products = [
        _product(equation, times)
        for equation, times in all_equations
        if equation.primitive.name in FLOPS
    ]
    return Work(
        sum(product.flops for product in products), sum(product.bytes for product in products)
    )


def equations(
    jaxpr: core.Jaxpr, times: float = 1, platform: str = "cpu"
) -> Iterator[tuple[core.JaxprEqn, float]]:
    """Every equation of a program, calls and loops included, and how often it runs.

    Of several branches each counts as run as often as any other, which is how the loops of
    `jaxdarts.once` take them; but of what is written for each platform (`lax.platform_dependent`)
    the platform's branch counts alone.
    """
    for equation in jaxpr.eqns:
        yield equation, times
        name, params = equation.primitive.name, equation.params
        if platforms := params.get("branches_platforms"):
            branch, *_ = (
                b
                for b, names in zip(params["branches"], platforms)
                if names is None or platform in names
            )
            yield from equations(branch.jaxpr, times, platform)
            continue
        inner = (
            times * params["length"]
            if name == "scan"
            else times / len(params["branches"])
            if name == "cond"
            else times
        )
        for value in jax.tree.leaves(tuple(params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from equations(getattr(value, "jaxpr", value), inner, platform)


def _product(equation: core.JaxprEqn, times: float) -> Work:
    moved = sum(v.aval.size * v.aval.dtype.itemsize for v in (*equation.invars, *equation.outvars))  # pyrefly: ignore
    return Work(times * FLOPS[equation.primitive.name](equation), times * moved)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _dot(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _xla_convolution(equation) -> float:
    kernel = equation.invars[1].aval
    out = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * equation.outvars[0].aval.size * kernel.size / out


def _roles(equation) -> dict[str, Any]:
    """What stands for x, w and y of one of the library's trilinear forms, whichever of them is the
    result.
    """
    missing = equation.params["missing"]
    known = {"y": "xw", "w": "xy", "x": "wy"}[missing]
    return {
        missing: equation.outvars[0].aval,
        **{role: v.aval for role, v in zip(known, equation.invars)},
    }


def _depthwise(equation) -> float:
    return 2.0 * _roles(equation)["y"].size * equation.params["geometry"].size ** 2


def _convolution(equation) -> float:
    roles = _roles(equation)
    return 2.0 * roles["y"].size * roles["w"].size / roles["w"].shape[-1]


FLOPS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _xla_convolution,
    "depthwise": _depthwise,
    "convolution": _convolution,
    "max_pool_choose": lambda equation: 9.0 * equation.outvars[0].aval.size,
}
"""Operations of a product, by the name of its primitive."""


class Rates(NamedTuple):
    """What the machine does at best: floating-point operations, and bytes read and written, a
    second.
    """

    flops: float
    bytes: float


def rates(size: int = 2048, megabytes: int = 256) -> Rates:
    """Measures a large matrix product and a large copy; each is the median of five after one that
    is not counted.
    """
    matrix = jnp.ones((size, size), jnp.float32)
    vector = jnp.ones(megabytes * 250_000, jnp.float32)
    return Rates(
        2.0 * size**3 / _seconds(lambda x: x @ x, matrix),
        2.0 * vector.nbytes / _seconds(lambda x: x + 1, vector),
    )


def _seconds(function: Callable, x: jax.Array) -> float:
    compiled = jax.jit(function).lower(x).compile()
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(compiled(x))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def milliseconds(work: Work, rates: Rates) -> float:
    """The longer of computing and moving, each at its best rate."""
    return 1000 * max(work.flops / rates.flops, work.bytes / rates.bytes)
