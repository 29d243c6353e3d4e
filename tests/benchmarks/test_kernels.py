"""Time by kind of kernel. Oracle: a program whose costly part is known."""

import jax
import jax.numpy as jnp
import pytest

import kernels


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="names of a CPU's kernels")
def test_the_costly_kind_comes_first_and_the_rest_is_summed():
    x = jnp.ones((600, 600))
    compiled = (
        jax.jit(lambda x: (jnp.sort(x @ x @ x @ x @ x, axis=1), jnp.cumsum(x[0])))
        .lower(x)
        .compile()
    )
    lines = kernels.by_kind(compiled, lambda: compiled(x), most=1)
    assert [line["kind"] for line in lines] in (["sort", "others"], ["dot_general", "others"])
    assert lines[0]["ms"] > lines[1]["ms"] / 10 > 0 and all(line["kernels"] >= 1 for line in lines)
    everything = kernels.by_kind(compiled, lambda: compiled(x), most=9)
    products = [line for line in everything if line["kind"] == "dot_general"]
    assert [line["kernels"] for line in products] == [4] and everything[-1] == {
        "kind": "others",
        "ms": 0,
        "kernels": 0,
    }


def test_a_kind_names_the_function_it_is_in():
    assert kernels._kind("jit(step)/while/body/jit(_apply)/add") == "jit(_apply)/add"
    assert kernels._kind("jit(step)/while/body/add") == "add" and kernels._kind("mul") == "mul"
