"""The size of compiled programs: every search waits for its compilation, which takes longer the
more instructions there are.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxdarts as jd

INSTRUCTIONS = {1: 10_218, 2: 18_663}
"""Of a search step, first- and second-order, as jaxlib 0.10.2 compiles it for a CPU. Lower them
when they fall.
"""


@functools.cache
def compiled(order: int) -> str:
    """The text of a whole search step of a supernet with one node, three operations and three
    cells.
    """
    space = jd.spaces.darts(1, ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"))
    net = space.supernet(width=2, depth=3, num_classes=3)
    tx = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(0.1, momentum=0.9),
    )
    search = jd.bilevel_search(
        jax.jit(jd.objectives.classification(net)),
        jd.algorithms.darts(space, order),
        optax.flatten(tx),
        optax.adam(3e-4),
    )
    batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, jnp.int32)}
    state = search.init(
        jax.random.key(0), net.init(jax.random.key(1), *net.example_inputs((8, 8, 3)))["params"]
    )
    options = jd.parallel.compiler_options(jax.default_backend())
    options |= {"xla_cpu_use_fusion_emitters": True}  # as users compile; the suite does not
    return (
        jax.jit(search.step, compiler_options=options)
        .lower(state, batch, batch)
        .compile()
        .as_text()
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counted on a CPU")
@pytest.mark.parametrize("order", INSTRUCTIONS)
def test_a_search_step_has_not_grown_by_a_fifth(order):
    count = compiled(order).count(" = ")
    assert count < 1.2 * INSTRUCTIONS[order]
    assert count > 0.8 * INSTRUCTIONS[order], (
        f"{count} instructions: lower the number above, so that growth shows"
    )
