"""docs/extend.md: an operation of a user's own, known to every part of the library after one
declaration. Oracle: the built network's variables, a count by hand, NumPy.
"""

import functools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.nn import costs
from jaxdarts.nn.cell import cell
from jaxdarts.nn.ops import OPS, Norms, Op, per_edge
from jaxdarts.nn.primitives.norm import scaled
from jaxdarts.space import Choices

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
TWICE = (("se_conv_3x3", 0), ("se_conv_3x3", 1))
SE = jd.Genotype(TWICE, (2,), (("skip_connect", 0), ("se_conv_3x3", 1)), (2,))


@functools.cache
def page():
    """The names that the page's code defines."""
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "extend.md", "exec"), names)
    return names


def test_the_operation_takes_under_25_lines():
    start = BLOCKS[0].index("def shapes")
    assert sum(bool(line.strip()) for line in BLOCKS[0][start:].splitlines()) < 25


def test_a_search_step_and_its_cell():
    space = page()["space"]
    net = space.supernet(width=4, depth=3, num_classes=3)
    search = jd.bilevel_search(
        jd.objectives.classification(net),
        jd.algorithms.darts(space, 1),
        optax.sgd(0.1),
        optax.adam(0.1),
    )
    params = net.init(jax.random.key(0), *net.example_inputs((8, 8, 3)))["params"]
    state = search.init(jax.random.key(1), params)
    key = jax.random.key(2)
    batch = {"image": jax.random.normal(key, (4, 8, 8, 3)), "label": jnp.arange(4) % 3}
    new, metrics = jax.jit(search.step)(state, batch, batch)
    assert jnp.isfinite(metrics["train_loss"])
    for name in ("kernel", "squeeze", "excite"):
        weights = [
            [tree[run][f"se_conv_3x3_{name}"] for run in tree if run.startswith("cells")]
            for tree in (params, new.params)
        ]
        assert len(weights[0]) == 3 and any(np.any(a != b) for a, b in zip(*weights))
    mix = {name: jnp.zeros(c.shape).at[:, 2].set(1.0) for name, c in space.cells.items()}
    assert space.discretize(mix).normal == TWICE


def test_the_counts_are_those_of_the_built_network():
    space = page()["space"]
    net = space.network(SE, width=4, depth=3, num_classes=10)
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs((8, 8, 3)))
    built = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    params, adds = jd.network_cost(SE, 4, 3, 10, (8, 8, 3), space=space)
    assert params == built
    # By hand: stem, head; then for each cell two 1x1 convolutions and its two edges. The first
    # cell is a normal one, the others reduce; they read 12, 12; 12, 4; 4, 8 channels.
    by_hand = 9 * 3 * 12 * 64 + 16 * 10
    by_hand += 2 * 12 * 4 * 64 + 2 * (9 * 4**2 * 64 + 2 * 4 * 2)
    for before, c, pixels in ((12 + 4, 8, 64), (4 + 8, 16, 16)):
        by_hand += before * c * pixels + c**2 * pixels // 4  # the skip's factorised reduction
        by_hand += 9 * c**2 * pixels // 4 + 2 * c * c // 2
    assert adds == jd.multiply_adds(SE, 4, 3, 10, (8, 8, 3), space=space) == by_hand


def test_the_network_computes_it():
    net = page()["space"].network(SE, width=4, depth=3, num_classes=10)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = net.init(jax.random.key(1), images)
    apply = jax.jit(net.apply)
    logits, _ = apply(variables, images)
    assert logits.shape == (2, 10) and jnp.all(jnp.isfinite(logits))
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + ("squeeze" in str(path[-1])), variables
    )
    assert not np.allclose(apply(changed, images)[0], logits)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_is_the_function(stride):
    """Every edge of a cell gets the function's value with its own weights."""
    rng = np.random.default_rng(0)
    choices = Choices(((0, 2), (1, 2), (0, 3), (1, 3)), (("se_conv_3x3",),) * 4, (2, 3))
    shapes = page()["shapes"](4, stride)
    weights = {name: jnp.asarray(rng.normal(size=(4, *shape))) for name, shape in shapes.items()}
    inputs = jnp.asarray(rng.normal(size=(2, 2, 6, 6, 4)))
    out = cell(
        {"se_conv_3x3": weights},
        inputs,
        jnp.ones((4, 1)),
        choices,
        stride,
        Norms(scaled, scaled),
        ops=page()["space"].ops,
    )
    rows = [0, 2, 1, 3]  # edges are ordered by source
    for node, edges in enumerate(((0, 1), (2, 3))):
        expected = sum(
            page()["se_convolution"](
                {name: w[rows.index(e)] for name, w in weights.items()},
                inputs[choices.edges[e][0]],
                stride,
            )
            for e in edges
        )
        np.testing.assert_allclose(out[..., 4 * node : 4 * node + 4], expected, rtol=1e-4)


def test_the_drawing_shows_it():
    root = ET.fromstring(jd.report.cells.cell(SE, page()["space"].ops)["reduce"])
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("SE conv 3x3") == 1 and "se_conv_3x3" not in texts
    fills = [rect.get("fill") for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert fills.count("#7a5c00") == 1 and fills.count("#99477c") == 1


def test_genotypes_with_it_are_read_and_written():
    ops = page()["space"].ops
    assert jd.genotypes.parse(str(SE), ops) == SE
    assert jd.genotypes.from_json(jd.genotypes.to_json(SE, ops), ops) == SE
    for read in (jd.genotypes.check, lambda genotype: jd.genotypes.parse(str(genotype))):
        with pytest.raises(ValueError, match="unknown operation.*se_conv_3x3|se_conv_3x3.*unknown"):
            read(SE)
    with pytest.raises(ValueError, match="unknown operation"):
        jd.spaces.darts().network(SE, 4, 3, 10)


def test_a_name_is_given_once():
    taken = page()["se_conv"]._replace(name="skip_connect")
    with pytest.raises(ValueError, match="there is an operation 'skip_connect' already"):
        jd.spaces.darts(1, (taken, "max_pool_3x3"))
    with pytest.raises(ValueError, match="'none' already"):
        jd.spaces.darts(1, (taken._replace(name="none"), "max_pool_3x3"))


def test_steps_have_norms_between_and_draw_at_random():
    """Two steps have two norms in the count; a random operation gets a key of its own an edge."""

    def shapes(channels, stride):
        return {"kernel": (channels, channels)}

    def first(weights, x, stride):
        return x[:, ::stride, ::stride] @ weights["kernel"]

    def second(weights, x, stride):
        return x * jax.random.bernoulli(weights["key"], 0.5, x.shape)

    op = Op("thinned", shapes, per_edge(first, second), random=True)
    assert costs.parameters(op, 6, 2) == 6 * 6 + 2 * (6 + 6)
    assert costs.multiply_adds(op, 6, 2, 5) == 6 * 6 * 5
    space = jd.spaces.darts(1, (op, "noise"))
    net = space.supernet(2, 1, 3)
    images, mix = jnp.ones((1, 8, 8, 1)), jax.tree.map(jnp.ones_like, net.example_mix())
    variables = net.init(jax.random.key(0), images, mix)
    apply = jax.jit(net.apply)
    a, b, c = (apply(variables, images, mix, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    with pytest.raises(ValueError, match="thinned"):
        net.apply(variables, images, mix)


def test_the_library_names_and_declares_the_same_operations():
    assert set(OPS) == set(jd.genotypes.OPS) and all(OPS[name].name == name for name in OPS)
