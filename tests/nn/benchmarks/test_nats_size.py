"""The size space of NATS-Bench. Oracles: the benchmark's parameter counts, the network written out
in NumPy.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.genotypes import SIZES, SizeGenotype, parse
from jaxdarts.nn.benchmarks.nats_size import CELL, Network
from tests.nn.benchmarks.test_nasbench201 import conv, norm, relu

SPACE = jd.spaces.nats_size()


# The benchmark's own figures in millions, to six digits.
@pytest.mark.parametrize(
    "text, parameters",
    [
        ("8:8:8:8:8", 11_714),
        ("8:8:8:16:32", 49_202),
        ("8:8:40:32:40", 144_834),
        ("64:64:64:64:64", 713_674),
    ],
)
def test_parameters_are_the_benchmarks(text, parameters):
    genotype = parse(text)
    assert jd.count_params(SPACE.network(genotype), (32, 32, 3)) == parameters
    assert jd.network_cost(genotype, None, None, 10, (32, 32, 3))[0] == parameters


def test_multiply_adds():
    a, b, c, d, e = 8, 16, 24, 32, 40
    cells = 5 * 9 * a * a, 9 * (2 * b * c + 3 * c * c) + b * c, 9 * (2 * d * e + 3 * e * e) + d * e
    blocks = 9 * (a * b + b * b) + a * b, 9 * (c * d + d * d) + c * d
    adds = (
        1024 * (27 * a + cells[0])
        + 256 * (blocks[0] + cells[1])
        + 64 * (blocks[1] + cells[2])
        + 10 * e
    )
    assert jd.multiply_adds(SizeGenotype((a, b, c, d, e)), None, None, 10, (32, 32, 3)) == adds


def test_the_cell_is_the_benchmarks():
    text = (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
        "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    assert str(CELL) == text


def reference(variables, images, channels, train):
    params, stats = variables["params"], variables["batch_stats"]

    def normed(x, *path):
        layer, averages = params, stats
        for name in path:
            layer, averages = layer[name], averages[name]
        still = () if train else (averages["mean"], averages["variance"])
        return norm(x, *(still or (None, None)), layer["scale"], layer["shift"])

    def layer(x, *path, stride=1):
        return normed(conv(x, params[path[0]][path[1]]["kernel"], stride), *path)

    x = normed(conv(images, params["stem"]["kernel"]), "stem")
    for i, after in enumerate(channels):
        name = f"layer{i}"
        if i in (1, 3):
            y = layer(relu(layer(relu(x), name, "first", stride=2)), name, "second")
            half = sum(x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)) / 4
            x = y + conv(half, params[name]["shortcut"]["kernel"])
        else:
            one = layer(relu(x), name, "edge01")
            two = layer(relu(x), name, "edge02") + layer(relu(one), name, "edge12")
            skip = x if x.shape[-1] == after else layer(x, name, "edge03")  # no relu
            x = skip + layer(relu(one), name, "edge13") + layer(relu(two), name, "edge23")
    return relu(normed(x, "last_norm")).mean((1, 2)) @ params["head"] + params["head_bias"]


def test_network_equals_its_definition(x64):
    """Cells that keep their width and cells that change it; training and running averages."""
    channels = (2, 3, 4, 5, 5)
    net, rng = Network(channels, 3, dtype=jnp.float64), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 2)))
    variables = net.init(jax.random.key(0), images)
    variables = jax.tree.map(
        lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape)) * (v if v.ndim > 1 else 1), variables
    )
    still, (trained, _) = jax.jit(
        lambda v: (net.apply(v, images)[0], net.apply(v, images, True, mutable=["batch_stats"])[0])
    )(variables)
    numbers = jax.tree.map(np.asarray, variables)
    np.testing.assert_allclose(
        still, reference(numbers, np.asarray(images), channels, False), rtol=1e-9
    )
    np.testing.assert_allclose(
        trained, reference(numbers, np.asarray(images), channels, True), rtol=1e-9
    )
    with pytest.raises(ValueError, match="drops nothing"):
        net.apply(variables, images, True, 0.1)


# -------------------------------------------------------------------------------------------- space


def test_one_hot_round_trip():
    for seed in range(20):
        genotype = SPACE.sample(jax.random.key(seed))
        jd.genotypes.check(genotype)
        assert (
            genotype
            == SPACE.sample(jax.random.key(seed))
            == SPACE.discretize(jd.one_hot(SPACE.cells, genotype))
        )
    assert jd.spaces.of(genotype).cells == SPACE.cells and len(SIZES) ** 5 == 32_768
    assert len(jd.analysis.flatness.shell(SPACE.cells, genotype, 2)) == 10 * 7 * 7


def test_sample_is_uniform_and_mutants_differ_in_one_layer():
    counts, layers = collections.Counter(), collections.Counter()
    for seed in range(400):
        genotype = SPACE.sample(jax.random.key(seed))
        counts.update(enumerate(genotype.channels))
        mutant = SPACE.mutate(jax.random.key(seed), genotype)
        changed = [
            i
            for i, (a, b) in enumerate(zip(genotype.channels, mutant.channels, strict=True))
            if a != b
        ]
        assert len(changed) == 1 and set(mutant.channels) <= set(SIZES)
        layers.update(changed)
    assert len(counts) == 40 and all(abs(n - 50) < 5 * np.sqrt(50 * 7 / 8) for n in counts.values())
    assert all(abs(n - 80) < 5 * np.sqrt(80 * 0.8) for n in layers.values())


def test_evolution_and_reinforce_search_it():
    """Wider is better, to any algorithm of mixes of one candidate a row."""

    def evaluate(genotype):
        return jd.Trial(genotype, float(sum(genotype.channels)), 0.0, 1.0)

    for proposals in (
        jd.discrete.regularized_evolution(jax.random.key(0), SPACE),
        jd.discrete.reinforce(jax.random.key(0), SPACE, learning_rate=0.1),
    ):
        history = jd.discrete.search(proposals, evaluate, evaluations=60)
        assert jd.discrete.best(history).value > 200


def test_what_does_not_fit():
    with pytest.raises(
        ValueError, match=r"width is 16, depth 5: leave them out, the genotype 8:8:8:8:8 says both"
    ):
        SPACE.network(parse("8:8:8:8:8"), 16, 5)
    with pytest.raises(ValueError, match="no weight-sharing network"):
        SPACE.supernet(16, 5, 10)
    with pytest.raises(
        ValueError, match="the space has the cells channels, a TopologyGenotype has cell"
    ):
        SPACE.mutate(jax.random.key(0), CELL)
    with pytest.raises(ValueError, match=r"channels\[1\] = 9: the choice is among"):
        SPACE.network(SizeGenotype((8, 9, 8, 8, 8)))
    with pytest.raises(ValueError, match="must have a height and width that 4 divides"):
        SPACE.network(parse("8:8:8:8:8")).init(jax.random.key(0), jnp.ones((1, 6, 6, 1)))
