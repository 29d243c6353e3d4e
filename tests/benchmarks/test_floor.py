"""The least work of a program, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import floor
import jaxdarts as jd
import scaling
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.depthwise import depthwise
from jaxdarts.nn.primitives.pooling import max_pool

X = jnp.zeros((2, 3, 8, 8, 4))  # group, batch, height, width, channels


def work(function, *arguments):
    return floor.work(jax.make_jaxpr(function)(*arguments))


def product(a, b):
    return a @ b


PRODUCTS = {
    "matrix product": (
        product,
        (jnp.zeros((8, 16)), jnp.zeros((16, 4))),
        2 * 8 * 16 * 4,
        4 * (8 * 16 + 16 * 4 + 8 * 4),
    ),
    "depthwise": (
        lambda x, w: depthwise(x, w, stride=2),
        (X, jnp.zeros((2, 5, 3, 3, 4))),
        2 * 9 * (2 * 5 * 3 * 4 * 4 * 4),
        4 * (X.size + 2 * 5 * 9 * 4 + 2 * 5 * 3 * 4 * 4 * 4),
    ),
    "convolution": (
        convolution,
        (X[0], jnp.zeros((3, 3, 4, 6))),
        2 * 9 * 4 * 6 * 3 * 64,
        4 * (768 + 216 + 3 * 64 * 6),
    ),
    "convolution of XLA": (
        lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (X[0], jnp.zeros((3, 3, 4, 6))),
        2 * 9 * 4 * 6 * 3 * 64,
        4 * (768 + 216 + 3 * 64 * 6),
    ),
    # The position of each window's maximum is read too, a byte each.
    "max pooling": (lambda x: max_pool(x, 1), (X,), 9 * X.size, 9 * X.size),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    function, arguments, flops, moved = PRODUCTS[name]
    assert work(function, *arguments) == (flops, moved)


@pytest.mark.parametrize(
    "function, arguments",
    [(convolution, (X[0], jnp.zeros((3, 3, 4, 4)))), (depthwise, (X, jnp.zeros((2, 5, 3, 3, 4))))],
)
def test_a_gradient_is_two_more_products(function, arguments):
    forward = work(function, *arguments)
    both = work(jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), argnums=(0, 1)), *arguments)
    assert both == (3 * forward.flops, 3 * forward.bytes)


def test_loops_and_calls_are_counted():
    a = jnp.zeros((8, 8))
    once = work(product, a, a)

    def loop(a):
        return lax.scan(
            lambda carry, _: (jax.jit(jax.checkpoint(product))(carry, a), None), a, None, length=5
        )[0]

    assert work(loop, a) == (5 * once.flops, 5 * once.bytes)
    assert work(lambda a: a + 1, a) == (0, 0)


def test_the_least_time_is_the_longer_of_computing_and_moving():
    assert (
        floor.milliseconds(floor.Work(flops=100, bytes=10), floor.Rates(flops=1000, bytes=50))
        == 200
    )
    assert (
        floor.milliseconds(floor.Work(flops=500, bytes=10), floor.Rates(flops=1000, bytes=50))
        == 500
    )


def test_rates_are_of_this_machine():
    rates = floor.rates(size=64, megabytes=1)
    assert 1e6 < rates.flops < 1e16 and 1e6 < rates.bytes < 1e14


def test_a_step_has_the_products_of_its_program_as_it_is_written():
    """Of gradients in a loop of `once` none is lost, and what is between them is counted once."""

    def program(x, w):
        def gradient(w):
            return jax.grad(lambda w, mix: loss(w, mix, (), x, None)[0])(w, {})

        return gradient(w - 0.1 * (gradient(w) @ gradient(w + 1.0)))

    loss = jd.once.with_gradients(lambda w, mix, carry, x, key: (jnp.sum((x @ w) ** 2), ()))
    x, w = jnp.ones((8, 8)), jnp.ones((8, 8))
    assert (
        work(jd.once.folded(program), x, w) == work(program, x, w) == (7 * 2 * 8**3, 7 * 4 * 3 * 64)
    )


def test_all_reduces_are_counted_as_often_as_they_run():
    """Four bytes once, and a pair of four and twelve bytes three times."""

    def step(x):
        def body(total, _):
            return tuple(lax.psum((total[0], total[1]), jd.parallel.AXIS)), None

        return lax.scan(body, (lax.psum(x, jd.parallel.AXIS), jnp.ones(3)), None, length=3)[0]

    mapped = jd.parallel.over_devices(step, jd.parallel.devices(2)).mapped
    assert scaling.all_reduces(jax.make_jaxpr(mapped)(jnp.ones(2))) == {
        "all_reduces": 7,
        "bytes": 4 + 3 * 16,
        "largest": 12,
    }
