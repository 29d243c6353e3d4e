"""Equal gradients of a program as one loop. Oracle: the program as it is written."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxdarts as jd
from jaxdarts import hypergrad, once, relax
from tests.helpers import toy_batch, toy_cells, toy_objective, toy_params


def mix_of(arch):
    return {name: jax.nn.softmax(a) for name, a in arch.items()}


def arch():
    return {
        name: jnp.linspace(-1, 1, c.shape[0] * c.shape[1]).reshape(c.shape)
        for name, c in toy_cells().items()
    }


def gradients_in(function, *arguments):
    """Calls of gradients in a program, loops' bodies counted once."""
    return str(jax.make_jaxpr(function)(*arguments)).count("name=loss_and_gradients")


@pytest.mark.parametrize("by", [0, 1, (0, 1)])
def test_derivatives_of_first_and_second_order_are_those_of_the_objective(by):
    def of(objective):
        def loss(params, arch):
            return objective(params, mix_of(arch), (), toy_batch(0), None)[0]

        gradient = jax.grad(loss, argnums=by)
        at = (toy_params(), arch())
        tangents = jax.tree.map(jnp.cos, at)
        return (
            loss(*at),
            jax.jvp(gradient, at, tangents),
            jax.grad(lambda *at: optax.tree.norm(gradient(*at)), argnums=by)(*at),
        )

    chex.assert_trees_all_close(
        of(once.with_gradients(toy_objective)), of(toy_objective), rtol=1e-5, atol=1e-6
    )


def test_nothing_else_is_differentiated():
    loss = once.with_gradients(toy_objective)
    batch = toy_batch(0)
    with pytest.raises(TypeError, match="weights and its mix only"):
        jax.grad(
            lambda image: loss(toy_params(), mix_of(arch()), (), {**batch, "image": image}, None)[0]
        )(batch["image"])


def program(objective):
    """Three gradients, one after the other, whose inputs and results go to and fro between them."""

    def run(params, arch, scale):
        def gradient(params, arch, seed):
            batch = toy_batch(seed)
            (loss, _), gradients = jax.value_and_grad(
                lambda params, arch: objective(params, mix_of(arch), (), batch, None),
                argnums=(0, 1),
                has_aux=True,
            )(params, arch)
            return loss, gradients

        first, (by_params, by_arch) = gradient(params, arch, 0)
        second, (others, _) = gradient(optax.tree.add_scale(params, -scale, by_params), arch, 1)
        moved = optax.tree.add_scale(arch, optax.tree.vdot(others, by_params), by_arch)
        third, (last, unmoved) = gradient(optax.tree.add_scale(params, scale**2, others), moved, 2)
        return {
            "losses": [first, second, third],
            "first": by_params,
            "last": (last, unmoved, moved),
            "given": scale,
        }

    return run


@pytest.mark.parametrize("jitted", [False, True])
def test_a_program_of_three_gradients_as_a_loop(jitted):
    plain, looped = program(toy_objective), once.folded(program(once.with_gradients(toy_objective)))
    arguments = (toy_params(), arch(), jnp.float32(0.1))
    assert gradients_in(program(once.with_gradients(toy_objective)), *arguments) == 3
    assert gradients_in(looped, *arguments) <= 1  # its body stands in the loop
    result = (jax.jit(looped) if jitted else looped)(*arguments)
    chex.assert_trees_all_close(result, plain(*arguments), rtol=1e-5, atol=1e-6)


def test_under_vmap():
    plain, looped = program(toy_objective), once.folded(program(once.with_gradients(toy_objective)))
    arguments = (toy_params(), arch(), jnp.array([0.1, 0.2, 0.3]))
    result = jax.jit(jax.vmap(looped, in_axes=(None, None, 0)))(*arguments)
    for i in range(3):
        expected = plain(*arguments[:2], arguments[2][i])
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], result), expected, rtol=1e-5, atol=1e-6
        )


def test_a_program_without_equal_gradients_stays_as_it_is():
    def run(x):
        return {"y": jnp.sin(x), "x": x}

    chex.assert_trees_all_equal(once.folded(run)(jnp.arange(3.0)), run(jnp.arange(3.0)))
    assert "scan" not in str(jax.make_jaxpr(once.folded(run))(jnp.arange(3.0)))


@pytest.mark.parametrize(
    "gradient, loops, left",
    [
        (
            hypergrad.first_order,
            0,
            2,
        ),  # the validation gradient by the mix alone is another program than the training gradient
        (hypergrad.unrolled, 1, 2),  # and the derivative of one by the mix
        (hypergrad.finite_difference, 1, 3),  # and those by the mix at two points
        (hypergrad.mixed_level(), 1, 2),
    ],
)
def test_what_is_left_of_the_gradients_of_a_step(gradient, loops, left):
    search = jd.bilevel_search(
        toy_objective,
        jd.Algorithm(relax.softmax(toy_cells()), gradient),
        optax.sgd(0.1),
        optax.sgd(0.1),
    )
    state = search.init(jax.random.key(0), toy_params())
    text = str(jax.make_jaxpr(search.step)(state, toy_batch(0), toy_batch(1)))
    assert (text.count("= scan["), text.count("name=loss_and_gradients")) == (loops, left)
