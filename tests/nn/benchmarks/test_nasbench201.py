"""NAS-Bench-201. Oracles: the networks written out in NumPy from their definition, and the
benchmark's parameter counts.
"""

import collections
import csv
import functools
import gzip

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.data.benchmarks.tabular import canonical
from jaxdarts.nn.benchmarks.nasbench201 import Network, Supernet
from jaxdarts.nn.cell import edges_of
from jaxdarts.space import of_genotype

SPACE = jd.spaces.nasbench201()
CHOICES = SPACE.cells["cell"]
# Every operation; a node that only `none` enters; nothing at all.
CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|none~2|",
]
# params_millions and index of NATS-Bench-tss / NAS-Bench-201 on CIFAR-10.
PARAMETERS = {
    # 0
    (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
        "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    ): (0.129306),
    # 1
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
        "+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    ): (0.802426),
    # 2
    (
        "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
        "+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|"
    ): (0.559386),
}


# -------------------------------------------------------------------------------- reference (NumPy)


def conv(x, kernel, stride=1):
    """kernel: [size, size, in, out]; padding size // 2."""
    size, p = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    height, width = (n // stride for n in x.shape[1:3])
    y = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            y += (
                padded[:, i : i + stride * height : stride, j : j + stride * width : stride][
                    :, :height, :width
                ]
                @ kernel[i, j]
            )
    return y


def norm(x, mean=None, variance=None, scale=1.0, shift=0.0):
    if mean is None:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def average(x):
    """3x3, stride 1, over the pixels that exist."""
    padded = np.pad(np.concatenate([x, np.ones_like(x)], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = sum(
        padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i in range(3) for j in range(3)
    )
    return total[..., : x.shape[-1]] / total[..., x.shape[-1] :]


def relu(x):
    return np.maximum(x, 0)


def reference(variables, images, choices, mix, width, depth, discrete, train, partial=1):
    """The logits; one_of(op, edge) finds what our layout keeps for one operation of one edge.

    partial: the operations of an edge see so small a part of the channels; the others go around
    them with the edge's weight, and the channels are interleaved (PC-DARTS).
    """
    params, stats = variables["params"], variables.get("batch_stats", {})

    def normed(name, x):
        layer = params[name]
        still = () if train else (stats[name]["mean"], stats[name]["variance"])
        return norm(x, *(still or (None, None)), layer["scale"], layer["shift"])

    def cell(stage, n, x):
        stage_params, averages = params[stage], stats.get(stage, {})
        states, few = [x, 0 * x, 0 * x, 0 * x], x.shape[-1] // partial
        site = 0
        for source in range(3):
            leaving = [e for e, edge in enumerate(choices.edges) if edge[0] == source]
            seen = list(dict.fromkeys(op for e in leaving for op in choices.ops[e]))
            normed_here = [
                (e, op)
                for op in seen
                for e in leaving
                if op in choices.ops[e] and op.startswith("nor_conv")
            ]
            for e in leaving:
                total = 0 * states[source][..., :few]
                for k, op in enumerate(choices.ops[e]):
                    if op == "none":
                        continue
                    y = states[source][..., :few]
                    if op == "avg_pool_3x3":
                        y = average(y)
                    if op.startswith("nor_conv"):
                        y = conv(
                            relu(y), stage_params[f"{op}_kernel"][n, edges_of(choices, op).index(e)]
                        )
                        index = (n, 0, normed_here.index((e, op)))
                        affine = (
                            [
                                stage_params[f"norm{site}_{name}"][index]
                                for name in ("scale", "shift")
                            ]
                            if discrete
                            else []
                        )
                        still = (
                            [None] * 2
                            if train
                            else [
                                averages[f"norm{site}_{name}"][index]
                                for name in ("mean", "variance")
                            ]
                        )
                        y = norm(y, *still, *affine)
                    total = total + mix[e, k] * y
                around = mix[e].sum() * states[source][..., few:]
                carried = np.concatenate([total, around], axis=-1)
                grouped = carried.reshape(*carried.shape[:-1], partial, few)
                target = choices.edges[e][1]
                states[target] = states[target] + grouped.swapaxes(-1, -2).reshape(carried.shape)
            site += bool(normed_here)
        return states[3]

    x = normed("stem", conv(images, params["stem"]["kernel"]))
    for i in range(3):
        if i:
            names = [f"reduction{i}_{part}" for part in ("first", "second", "shortcut")]
            y = normed(names[0], conv(relu(x), params[names[0]]["kernel"], stride=2))
            y = normed(names[1], conv(relu(y), params[names[1]]["kernel"]))
            half = sum(x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)) / 4
            x = y + conv(half, params[names[2]]["kernel"])
        assert x.shape[-1] == width * 2**i
        for n in range(depth):
            x = cell(f"stage{i}", n, x)
    return relu(normed("last_norm", x)).mean((1, 2)) @ params["head"] + params["head_bias"]


def randomised(variables, seed=0):
    """Scales, shifts and averages that are not where they start, so that nothing hides behind a one
    or a zero.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        return (
            np.exp(0.3 * noise)
            if name.endswith(("scale", "variance"))
            else np.asarray(leaf, float) + 0.3 * noise
        )

    return jax.tree_util.tree_map_with_path(draw, variables)


IMAGES = np.random.default_rng(1).standard_normal((3, 8, 8, 2))


def test_mutation_changes_one_edge_as_the_benchmark_does():
    genotype = jd.genotypes.parse(CELLS[0])
    mutants = [SPACE.mutate(jax.random.key(seed), genotype) for seed in range(900)]
    assert mutants[7] == SPACE.mutate(jax.random.key(7), genotype)
    assert set(mutants) == set(jd.analysis.flatness.shell(SPACE.cells, genotype))
    changed = [e for m in mutants for e in range(6) if m.cell[e] != genotype.cell[e]]
    counts, expected = (
        collections.Counter(changed),
        np.array([1 / 3, 1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9]) * 900,
    )
    assert len(changed) == 900
    assert all(abs(counts[e] - n) < 4 * np.sqrt(n) for e, n in enumerate(expected))
    with pytest.raises(ValueError, match="the space has the cells cell"):
        SPACE.mutate(jax.random.key(0), jd.genotypes.DARTS_V2)


@pytest.mark.parametrize("text", CELLS)
def test_network_is_what_the_definition_says(text, x64):
    genotype = jd.genotypes.parse(text)
    net = SPACE.network(genotype, width=2, depth=2, num_classes=3, dtype=jnp.float64)
    images = jnp.asarray(IMAGES)
    variables = randomised(net.init(jax.random.key(0), images))
    choices = of_genotype(genotype)["cell"]
    arguments = (IMAGES, choices, np.ones((6, 1)), 2, 2, True)
    evaluated, auxiliary = jax.jit(net.apply)(variables, images)
    assert auxiliary is None
    np.testing.assert_allclose(evaluated, reference(variables, *arguments, False), atol=1e-6)
    (trained, _), new = jax.jit(lambda v: net.apply(v, images, True, mutable=["batch_stats"]))(
        variables
    )
    np.testing.assert_allclose(trained, reference(variables, *arguments, True), atol=1e-6)
    chex.assert_trees_all_equal_shapes(new["batch_stats"], variables["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), new["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("width, partial", [(2, 1), (4, 2)])
def test_supernet_is_what_the_definition_says(width, partial, x64):
    """Logits, and the derivative along a random direction of weights and mix, which central
    differences give.
    """
    options = {"num_classes": 3, "dtype": jnp.float64, "partial": partial}
    net = SPACE.supernet(width=width, depth=2, **options)
    rng, images = np.random.default_rng(2), jnp.asarray(IMAGES)
    mix = {"cell": jnp.asarray(rng.random((6, 5)))}
    params = randomised(net.init(jax.random.key(0), images, mix)["params"])
    cotangent = rng.standard_normal((3, 3))
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), (params, mix))

    def expected(t):
        params_t, mix_t = jax.tree.map(lambda a, d: np.asarray(a) + t * d, (params, mix), direction)
        size = (width, 2, False, True, partial)
        return reference({"params": params_t}, IMAGES, CHOICES, mix_t["cell"], *size)

    @jax.jit
    def projected(params, mix):
        logits = net.apply({"params": params}, images, mix)
        return jnp.vdot(logits, cotangent), logits

    gradient, logits = jax.grad(projected, (0, 1), has_aux=True)(params, mix)
    np.testing.assert_allclose(logits, expected(0.0), atol=1e-6)
    slope = sum(
        np.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    step = 1e-7  # small enough that hardly any relu changes sides
    np.testing.assert_allclose(
        slope, np.vdot(expected(step) - expected(-step), cotangent) / (2 * step), rtol=1e-4
    )


@pytest.mark.parametrize("text", CELLS)
def test_one_hot_supernet_is_the_discrete_one(text):
    """In the search's normalisation, with the weights of the kept operations."""
    genotype = jd.genotypes.parse(text)
    options = {"width": 2, "depth": 2, "num_classes": 3}
    net, few = SPACE.supernet(**options), of_genotype(genotype)
    discrete = Supernet(few, **options)
    images, mix = jnp.asarray(IMAGES, jnp.float32), jd.one_hot(SPACE.cells, genotype)
    params = net.init(jax.random.key(0), images, mix)["params"]

    def kept(stage):
        rows = {
            op: [edges_of(CHOICES, op).index(e) for e in edges_of(few["cell"], op)]
            for op in jd.genotypes.TOPOLOGY_OPS
        }
        pairs = ((name, rows[name.removesuffix("_kernel")]) for name in stage)
        return {name: stage[name][:, np.array(edges)] for name, edges in pairs if edges}

    shared = {
        name: kept(weights) if name.startswith("stage") else weights
        for name, weights in params.items()
    }
    expected = jax.jit(net.apply)({"params": params}, images, mix)
    actual = jax.jit(discrete.apply)({"params": shared}, images, {"cell": jnp.ones((6, 1))})
    np.testing.assert_allclose(actual, expected, atol=1e-5)


# ------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("text", PARAMETERS)
def test_parameters_of_the_benchmark(text):
    genotype = jd.genotypes.parse(text)
    assert jd.count_params(SPACE.network(genotype), (32, 32, 3)) / 1e6 == PARAMETERS[text]
    assert jd.network_cost(genotype, 16, 5, 10, (32, 32, 3))[0] / 1e6 == PARAMETERS[text]


def test_parameters_of_all_cells(shared):
    """Of 150 cells the benchmark's column has one convolution more or less than the string says,
    and than we count: it has the count of another cell that its authors count as the same one, for
    two equal convolutions of one input against one whose output is read twice.
    """
    with gzip.open(shared / "data" / "nasbench201" / "cifar10.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15625
    # Every operation has its price: summed, it is the cost of a network, at a thousandth of the
    # time. `network_cost` itself counts the odd cells and a sample of the others.
    price = jd.operation_costs(SPACE.cells, 16, 5, 10, (32, 32, 3))[0]
    cells = [jd.genotypes.parse(row["arch_str"]) for row in rows]
    counts = [
        price.fixed
        + sum(
            price.operations["cell"][e, CHOICES.ops[e].index(op)]
            for e, (op, _) in enumerate(genotype.cell)
        )
        for genotype in cells
    ]

    def rounded(count):  # six digits are given
        return float(f"{count / 1e6:.6g}")

    published = [float(row["params_millions"]) for row in rows]
    odd = [i for i, count in enumerate(counts) if rounded(count) != published[i]]
    off = collections.Counter(round(abs(counts[i] - 1e6 * published[i]), -1) for i in odd)
    # Five cells a stage: one nor_conv_1x1, one nor_conv_3x3.
    assert off == {28_000: 73, 243_040: 77}
    for i in {*odd, *range(0, 15625, 100)}:
        assert jd.network_cost(cells[i], 16, 5, 10, (32, 32, 3))[0] == counts[i]
    twins = collections.defaultdict(set)
    for genotype, count in zip(cells, counts, strict=True):
        twins[canonical(genotype)].add(rounded(count))
    assert all(published[i] in twins[canonical(cells[i])] for i in odd)


def test_cost_of_other_shapes():
    genotype = jd.genotypes.parse(CELLS[0])
    net = SPACE.network(genotype, width=4, depth=3, num_classes=7)
    assert jd.network_cost(genotype, 4, 3, 7, (8, 8, 1))[0] == jd.count_params(net, (8, 8, 1))
    # One 3x3 and one 1x1 convolution more on every one of 32^2, 16^2, 8^2 pixels: the work of a
    # stage is that of the others.
    one, more = (
        jd.multiply_adds(jd.genotypes.parse(text), 16, 5, 10, (32, 32, 3))
        for text in (
            "|none~0|+|none~0|nor_conv_1x1~1|",
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_1x1~1|",
        )
    )
    assert more - one == 3 * 5 * (9 + 1) * 16 * 16 * 32 * 32
    with pytest.raises(ValueError, match="no stem for ImageNet"):
        jd.network_cost(genotype, 16, 5, 10, (224, 224, 3), imagenet=True)


# ------------------------------------------------------------------------------------ how it is run


@functools.cache
def tiny(**options):
    genotype = jd.genotypes.parse(
        "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
    )
    net = Network(of_genotype(genotype), 2, 3, 3, **options)
    images = jnp.asarray(np.random.default_rng(3).standard_normal((4, 8, 8, 1)), jnp.float32)
    return net, net.init(jax.random.key(0), images), images


def test_scanned_unrolled_and_rematerialised():
    net, variables, images = tiny()
    assert variables["params"]["stage0"]["nor_conv_3x3_kernel"].shape == (3, 1, 3, 3, 2, 2)

    def loss(net):
        def of(params):
            (logits, _), new = net.apply(
                {**variables, "params": params},
                images,
                True,
                0.2,
                jax.random.key(3),
                mutable=["batch_stats"],
            )
            return jnp.sum(logits**2), new

        return jax.jit(jax.value_and_grad(of, has_aux=True))(variables["params"])

    plain = loss(net)
    for other in (net.clone(unroll=3), net.clone(remat=True)):
        chex.assert_trees_all_close(loss(other), plain, rtol=2e-3, atol=2e-3)


def test_the_program_does_not_grow_with_the_depth():
    def equations(depth):
        net = SPACE.supernet(width=2, depth=depth)
        inputs = net.example_inputs((8, 8, 3))
        variables = jax.eval_shape(net.init, jax.random.key(0), *inputs)
        return str(jax.make_jaxpr(net.apply)(variables, *inputs)).count("\n")

    assert equations(2) == equations(9)


def test_bfloat16():
    exact, variables, images = tiny()
    low = exact.clone(dtype=jnp.bfloat16)
    a, b = (jax.jit(net.apply)(variables, images)[0] for net in (exact, low))
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.1 * float(jnp.abs(a).max()) + 0.02)
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(low.init(jax.random.key(0), images))
    )


def test_four_devices_are_one(devices):
    """Norms average their moments over the devices: a global batch gives one result however it is
    split.
    """
    net, variables, images = tiny(axis_name="devices")

    def train(net, images):
        (logits, _), new = net.apply(variables, images, True, mutable=["batch_stats"])
        return logits, new

    on_one, averages = jax.jit(lambda images: train(net.clone(axis_name=None), images))(images)
    parts, new = jax.pmap(lambda images: train(net, images), axis_name="devices", devices=devices)(
        images[:, None]
    )
    np.testing.assert_allclose(parts[:, 0], on_one, atol=1e-4)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], new), averages, atol=1e-5)


def test_drop_path():
    net, variables, images = tiny()

    @jax.jit
    def train(*drop_path):
        return net.apply(variables, images, True, *drop_path, mutable=["batch_stats"])[0][0]

    keys = [jax.random.key(i) for i in range(2)]
    np.testing.assert_allclose(train(0.0, keys[0]), train(), atol=1e-4)
    assert not np.allclose(train(0.5, keys[0]), train(0.5, keys[1]))


@pytest.mark.parametrize("shape", [(10, 8), (8, 6)])
def test_maps_that_do_not_halve_are_refused(shape):
    net, _, _ = tiny()
    with pytest.raises(ValueError, match="height and width that 4 divides"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape, 1)))


def test_searching_and_training():
    """A search step, then a step from scratch on what it found."""
    rng = np.random.default_rng(4)
    batch = {
        "image": jnp.asarray(rng.standard_normal((4, 4, 4, 1)), jnp.float32),
        "label": jnp.array([0, 1, 2, 0]),
    }
    net, algorithm = SPACE.supernet(2, 1, 3), jd.algorithms.darts(SPACE, order=1)
    search = jd.bilevel_search(
        jax.jit(jd.objectives.classification(net)), algorithm, optax.sgd(0.1), optax.adam(0.01)
    )
    state = search.init(
        jax.random.key(0), net.init(jax.random.key(1), batch["image"], net.example_mix())["params"]
    )
    after, metrics = jax.jit(search.step)(state, batch, batch)
    chex.assert_tree_all_finite((after.params, after.arch, metrics))
    assert after.arch["cell"].shape == (6, 5) and bool(
        jnp.any(after.arch["cell"] != state.arch["cell"])
    )
    genotype = SPACE.discretize(algorithm.relax.apply(after.arch, after.key, after.step))
    net = SPACE.network(genotype, 2, 1, 3)
    training = jd.training.images.from_scratch(net, optax.sgd(0.1), drop_path=lambda step: 0.1)
    state = training.init(jax.random.key(0), net.init(jax.random.key(1), batch["image"]))
    state, metrics = jax.jit(training.step)(state, batch)
    chex.assert_tree_all_finite((state.params, state.averages, metrics))


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
        assert jd.spaces.of(genotype).cells == SPACE.cells


def test_the_strongest_operation_of_every_edge_is_kept():
    mix = np.full((6, 5), 0.1, np.float32)
    mix[0, 3], mix[1, [1, 4]], mix[4, 2], mix[5, 0] = 0.9, 0.5, 0.2, 0.3
    expected = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|nor_conv_1x1~1|none~2|"
    assert str(SPACE.discretize({"cell": mix})) == expected


def test_sample_is_uniform():
    draws = [SPACE.sample(jax.random.key(seed)) for seed in range(500)]
    counts = collections.Counter((i, op) for draw in draws for i, (op, _) in enumerate(draw.cell))
    assert len(counts) == 30 and all(abs(n - 100) < 5 * np.sqrt(80) for n in counts.values())


def test_genotypes_of_another_kind():
    with pytest.raises(
        ValueError, match="the space has the cells cell, a Genotype has normal, reduce"
    ):
        jd.one_hot(SPACE.cells, jd.genotypes.DARTS_V2)
    with pytest.raises(
        ValueError, match="the space has the cells normal, reduce, a TopologyGenotype has cell"
    ):
        jd.one_hot(jd.spaces.darts(1).cells, jd.genotypes.parse(CELLS[0]))
    assert jd.spaces.of(jd.genotypes.RNN_DARTS_V1).cells == jd.spaces.darts_rnn().cells
    assert jd.spaces.of(jd.genotypes.RNN_ENAS).cells["recurrent"].num_nodes == 11
    assert set(jd.spaces.of(jd.genotypes.DARTS_V2).cells) == {"normal", "reduce"}
    with pytest.raises(ValueError, match=r"cell\[1\] = \('none', 1\)"):
        SPACE.network(jd.TopologyGenotype((("none", 0), ("none", 1), ("none", 0))))
