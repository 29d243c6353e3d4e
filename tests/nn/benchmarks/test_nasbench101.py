"""NAS-Bench-101's networks and space. Oracles: the benchmark's parameter counts, a module written
out in NumPy.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.genotypes import GRAPH_OPS, fingerprint, pruned
from jaxdarts.nn.benchmarks.nasbench101 import MOMENTUM, vertex_channels
from jaxdarts.nn.primitives.pooling import max_pool
from tests.genotypes.test_graphs import ASKED, C1, C3, FIRST, MP, STORED, graph
from tests.nn.benchmarks.test_nasbench201 import conv, norm, relu

SPACE = jd.spaces.nasbench101()


@pytest.mark.parametrize(
    "genotype, after, channels",
    [
        (graph("01 00"), 8, (4, 8)),
        (graph("0110 0001 0001 0000", C3, C1), 9, (4, 5, 4, 9)),  # the first one more
        (graph("01110 00001 00001 00001 00000", C3, C1, MP), 8, (4, 3, 3, 2, 8)),  # the first two
        (graph("0101 0010 0001 0000", C3, C1), 8, (4, 8, 8, 8)),  # as many as who reads it
        (graph("011100 000010 000010 000001 000001 000000", C3, C1, MP, C3), 9, (4, 4, 4, 5, 4, 9)),
        (
            graph("010000 001100 000001 000011 000001 000000", C3, C1, MP, C3),
            8,
            (4, 3, 3, 3, 2, 8),
        ),  # of two, the widest
    ],
)
def test_channels_of_vertices(genotype, after, channels):
    assert vertex_channels(genotype, 4, after) == channels


def test_too_few_channels():
    with pytest.raises(ValueError, match="2 channels are shared by 3 vertices"):
        vertex_channels(graph("01110 00001 00001 00001 00000", C3, C1, MP), 2, 2)


@pytest.mark.parametrize(
    "genotype, parameters", [(FIRST, 8_555_530), (ASKED, 2_694_282), (STORED, 2_694_282)]
)
def test_parameters_are_the_benchmarks(genotype, parameters):
    assert jd.count_params(SPACE.network(genotype), (32, 32, 3)) == parameters
    assert jd.network_cost(genotype, 128, 3, 10, (32, 32, 3))[0] == parameters


def test_multiply_adds():
    """Input to output alone: three stacks of projections, on 32x32, 16x16 and 8x8 pixels."""
    net, area = graph("01 00"), 32 * 32
    stacks = [2 * 16 * 16 * area, (16 * 32 + 32 * 32) * area // 4, (32 * 64 + 64 * 64) * area // 16]
    assert jd.multiply_adds(net, 16, 2, 10, (32, 32, 3)) == 27 * 16 * area + sum(stacks) + 64 * 10
    with pytest.raises(ValueError, match="no stem for ImageNet"):
        jd.multiply_adds(net, 16, 2, 10, (32, 32, 3), imagenet=True)


def reference(variables, images, genotype, width, depth, train):
    """The logits, and the moments that every norm saw; each stack's first module is kept apart from
    the rest.
    """
    params, stats, moments = variables["params"], variables["batch_stats"], {}

    def normed(x, scope_params, index, prefix, scope):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        moments[scope, prefix, index] = (mean, variance * x[..., 0].size / (x[..., 0].size - 1))
        if not train:
            mean, variance = (
                stats[scope][f"{prefix}{name}"][index] for name in ("mean", "variance")
            )
        return relu(
            norm(
                x,
                mean,
                variance,
                *(scope_params[f"{prefix}{name}"][index] for name in ("scale", "shift")),
            )
        )

    x = normed(conv(images, params["stem"]["kernel"]), params["stem"], (), "", "stem")
    last = len(genotype.ops) - 1
    for stack in range(3):
        if stack:
            x = np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        after = width * 2**stack
        for number in range(depth):
            scope, index = (
                (f"stack{stack}", (number - 1,)) if number else (f"stack{stack}_first", (0,))
            )
            scope_params, site = params[scope], iter(range(99))

            def layer(name, x, scope_params=scope_params, site=site, scope=scope, index=index):
                return normed(
                    conv(x, scope_params[name][index]),
                    scope_params,
                    index,
                    f"norm{next(site)}_",
                    scope,
                )

            channels = vertex_channels(genotype, x.shape[-1], after)
            states = {}
            for v in range(1, last):
                total = sum(
                    states[w][..., : channels[v]] for w in range(1, v) if genotype.matrix[w][v]
                )
                if genotype.matrix[0][v]:
                    total = total + layer(f"projection{v}", x)
                pool = genotype.ops[v] == MP
                states[v] = (
                    np.asarray(max_pool(jnp.asarray(total), 1))
                    if pool
                    else layer(f"convolution{v}", total)
                )
            out = [states[v] for v in range(1, last) if genotype.matrix[v][last]]
            out = np.concatenate(out, -1) if out else 0
            x = out + layer(f"projection{last}", x) if genotype.matrix[0][last] else out
            assert x.shape[-1] == after
    return x.mean((1, 2)) @ params["head"] + params["head_bias"], moments


@pytest.mark.parametrize(
    "genotype", [graph("010101 001110 000001 000001 000000 000000", MP, C3, C1, C1)]
)
def test_network_equals_its_definition(genotype, x64):
    """An addition of wider and narrower states, loose vertices, an edge from input to output, and
    the running averages.
    """
    net = SPACE.network(genotype, 5, 2, 3, dtype=jnp.float64)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 2)))
    variables = net.init(jax.random.key(0), images)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape)) * (v if v.ndim > 2 else 1), variables
    )
    apply = jax.jit(
        lambda v, x: (net.apply(v, x)[0], net.apply(v, x, True, mutable=["batch_stats"]))
    )
    still, ((trained, auxiliary), updated) = apply(variables, images)
    assert auxiliary is None
    numbers = jax.tree.map(np.asarray, variables)
    expected, _ = reference(numbers, np.asarray(images), pruned(genotype), 5, 2, False)
    np.testing.assert_allclose(still, expected, rtol=1e-9)
    expected, moments = reference(numbers, np.asarray(images), pruned(genotype), 5, 2, True)
    np.testing.assert_allclose(trained, expected, rtol=1e-9)
    for (scope, prefix, index), pair in moments.items():
        for name, new in zip(("mean", "variance"), pair, strict=True):
            old, got = (
                tree[scope][f"{prefix}{name}"][index]
                for tree in (numbers["batch_stats"], updated["batch_stats"])
            )
            np.testing.assert_allclose(got, 0.997 * old + 0.003 * new, rtol=1e-9)
    assert MOMENTUM == 0.003
    with pytest.raises(ValueError, match="drops nothing"):
        net.apply(variables, images, True, 0.1)


def test_a_network_trains():
    net = SPACE.network(graph("010 001 000", C3), 2, 1, 3)
    batch = {"image": jnp.ones((2, 8, 8, 1)), "label": jnp.array([0, 2])}
    training = jd.training.images.from_scratch(net, optax.sgd(0.1))
    state = training.init(jax.random.key(0), net.init(jax.random.key(1), batch["image"]))
    state, metrics = jax.jit(training.step)(state, batch)
    chex.assert_tree_all_finite((state.params, state.averages, metrics))


# -------------------------------------------------------------------------------------------- space


def test_samples_are_sound_and_mutants_differ_in_one_place():
    kinds = set()
    for seed in range(60):
        genotype = SPACE.sample(jax.random.key(seed))
        assert genotype == SPACE.sample(jax.random.key(seed)) and len(genotype.ops) == 7
        jd.genotypes.check(genotype)
        mutant = SPACE.mutate(jax.random.key(seed), genotype)
        jd.genotypes.check(mutant)
        edges = int(np.sum(np.array(genotype.matrix) != np.array(mutant.matrix)))
        ops = sum(a != b for a, b in zip(genotype.ops, mutant.ops, strict=True))
        assert (edges, ops) in ((1, 0), (0, 1))
        kinds.add((edges, ops))
    assert len(kinds) == 2


def test_smaller_graphs_grow():
    sizes = set()
    genotype = graph("010 001 000", C3)
    for seed in range(300):
        mutant = SPACE.mutate(jax.random.key(seed), genotype)
        assert len(mutant.ops) == 7
        sizes.add(len(pruned(mutant).ops))
        genotype = mutant
    assert max(sizes) > 3
    wide = graph(
        "01000001 00100000 00010000 00001000 00000100 00000010 00000000 00000000", *[C1] * 6
    )
    assert len(SPACE.mutate(jax.random.key(0), wide).ops) == 7


def test_operations_are_drawn_uniformly():
    draws = [op for seed in range(200) for op in SPACE.sample(jax.random.key(seed)).ops[1:-1]]
    assert all(abs(draws.count(op) - 1000 / 3) < 5 * np.sqrt(1000 * 2 / 9) for op in GRAPH_OPS)
    assert len({fingerprint(SPACE.sample(jax.random.key(seed))) for seed in range(50)}) > 35


def test_what_the_space_does_not_have():
    assert jd.spaces.of(FIRST).cells == SPACE.cells == {}
    for refused in (
        SPACE.supernet,
        lambda: SPACE.discretize({}),
        lambda: jd.one_hot(SPACE.cells, FIRST),
    ):
        with pytest.raises(
            ValueError,
            match=(
                "nasbench1shot1|the space has the cells , a GraphGenotype has ops, inputs, output"
            ),
        ):
            refused()
    with pytest.raises(ValueError, match="REINFORCE draws one candidate a row"):
        jd.discrete.reinforce(jax.random.key(0), SPACE)
    with pytest.raises(ValueError, match="no table of costs"):
        jd.operation_costs(SPACE.cells, 128, 3, 10, (32, 32, 3))
