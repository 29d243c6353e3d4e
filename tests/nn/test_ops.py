"""Operations of the supernet. Oracle: arrays of the original implementation (tests/golden/ops.npz),
forward and gradients.

Its `eval/*` cases, with scale and shift in the batch norms and none after pooling, are those of the
discrete network.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts.nn.cell import cell
from jaxdarts.nn.ops import OPS, Norms, halved, halved_weights
from jaxdarts.nn.primitives.norm import Running, batch_norm, batch_norms, scaled
from jaxdarts.space import Choices
from tests.helpers import Golden

NORMS = Norms(batch_norms, batch_norms)
# tests/test_noise.py and tests/test_nasbench201.py are about the others.
DARTS_OPS = [op for op in OPS if op != "noise" and not op.startswith("nor_conv")]
CASES = sorted(
    {
        name.rsplit("/", 1)[0]
        for name in Golden("ops").arrays
        if name.startswith("search/") and "param" not in name
    }
)


def assert_close(actual, expected, tolerance=2e-5):
    """Within a fraction of the largest entry of every array: gradients of a batch norm cancel."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * (np.abs(b).max() + 1e-3)
        ),
        actual,
        expected,
    )


def one_edge(op, stride):
    """An operation as a cell of one node with one edge: with the batch norm that ends it, as the
    supernet sees it.
    """
    choices = Choices(((0, 2),), ((op,),), (2,))

    def apply(weights, x, gain):
        bundled = {op: {name: w[None] for name, w in weights.items()}}
        return cell(bundled, jnp.stack([x, x]), jnp.reshape(gain, (1, 1)), choices, stride, NORMS)

    return apply


def test_the_cases_are_all_there():
    assert len(CASES) == 20 and {case.split("/")[1] for case in CASES} >= set(DARTS_OPS)


@pytest.mark.parametrize("case", CASES)
def test_golden(case, golden):
    arrays, (_, op, stride) = golden("ops"), case.split("/")
    stride = int(stride.removeprefix("stride"))
    if op == "none":
        # The library never computes it; this pins what its absence stands for.
        assert not arrays[f"{case}/y"].any() and not arrays[f"{case}/dx"].any()
        return
    x, cotangent = arrays[f"{case}/x"], arrays[f"{case}/cotangent"]
    names = OPS[op].shapes(x.shape[-1], stride)
    weights, expected = (
        {name: arrays.weight(f"{case}/{kind}/", name) for name in names}
        for kind in ("param", "dparam")
    )
    assert {name: w.shape for name, w in weights.items()} == names

    @jax.jit
    def gradients(weights, x):
        y, vjp = jax.vjp(lambda *arguments: one_edge(op, stride)(*arguments), weights, x, 1.0)
        return y, vjp(cotangent)

    y, (dweights, dx, dgain) = gradients(weights, x)
    assert_close(y, arrays[f"{case}/y"])
    assert_close(dx, arrays[f"{case}/dx"])
    assert_close(dweights, expected)
    np.testing.assert_allclose(dgain, np.vdot(y, cotangent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", DARTS_OPS)
@pytest.mark.parametrize("stride", [1, 2])
def test_golden_of_the_discrete_network(op, stride, golden):
    arrays, case = golden("ops"), f"eval/{op}/stride{stride}"
    x, cotangent = (jnp.asarray(arrays[f"{case}/{name}"]) for name in ("x", "cotangent"))
    names = OPS[op].shapes(x.shape[-1], stride)
    modules = (
        {"sep": ["op.3", "op.7"], "dil": ["op.3"], "con": ["3"], "ski": ["bn"]}.get(op[:3], [])
        if names
        else []
    )
    saved = {
        kind: {name: jnp.asarray(arrays.weight(f"{case}/{kind}/", name)) for name in names}
        for kind in ("param", "dparam")
    }
    affines = {
        kind: [
            {
                "scale": arrays[f"{case}/{kind}/{m}.weight"],
                "shift": arrays[f"{case}/{kind}/{m}.bias"],
            }
            for m in modules
        ]
        for kind in ("param", "dparam")
    }

    def apply(weights, x, affines):
        still = {"mean": jnp.zeros((1, 1, x.shape[-1])), "variance": jnp.ones((1, 1, x.shape[-1]))}
        sites = [
            still | {name: jnp.asarray(value)[None, None] for name, value in site.items()}
            for site in affines
        ]
        choices = Choices(((0, 2),), ((op,),), (2,))
        bundled = {op: {name: w[None] for name, w in weights.items()}}
        return cell(
            bundled,
            jnp.stack([x, x]),
            jnp.ones((1, 1)),
            choices,
            stride,
            Norms(Running(sites, train=True), scaled),
        )

    y, back = jax.vjp(jax.jit(apply), saved["param"], x, affines["param"])
    dweights, dx, daffines = back(cotangent)
    assert_close(y, arrays[f"{case}/y"])
    assert_close(dx, arrays[f"{case}/dx"])
    assert_close((dweights, daffines), (saved["dparam"], affines["dparam"]), tolerance=5e-5)


@pytest.mark.parametrize("case", ["relu_conv_bn", "factorized_reduce"])
def test_golden_preprocessing(case, golden):
    arrays = golden("ops")
    parts = ["op.1.weight"] if case == "relu_conv_bn" else ["conv_1.weight", "conv_2.weight"]
    weights, expected = (
        arrays.matrix(*(f"{case}/{kind}/{part}" for part in parts)) for kind in ("param", "dparam")
    )

    def apply(x, w):
        x = jax.nn.relu(x)
        if case == "factorized_reduce":
            x, w = halved(x), halved_weights(w)
        return batch_norm(jnp.einsum("bhwc,cd->bhwd", x, w))

    y, vjp = jax.vjp(apply, jnp.asarray(arrays[f"{case}/x"]), jnp.asarray(weights))
    assert_close(y, arrays[f"{case}/y"])
    assert_close(vjp(jnp.asarray(arrays[f"{case}/cotangent"])), (arrays[f"{case}/dx"], expected))


def test_halved_needs_even_sizes():
    for shape in ((1, 5, 4, 2), (1, 4, 5, 2)):
        with pytest.raises(ValueError, match=f"{shape[1]}x{shape[2]} state"):
            halved(jnp.zeros(shape))


@pytest.mark.parametrize("op", DARTS_OPS)
def test_bfloat16(op):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 2)), jnp.bfloat16)
    weights = {name: jnp.ones(shape, jnp.bfloat16) for name, shape in OPS[op].shapes(2, 2).items()}
    y = one_edge(op, 2)(weights, x, 1.0)
    chex.assert_shape(y, (2, 2, 2, 2))
    assert y.dtype == jnp.bfloat16
    chex.assert_tree_all_finite(y)
