"""NAS-Bench-1Shot1. Oracles: the counts of its spaces, its network written out in NumPy, rows by
hand.
"""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import algorithms, genotypes, relax
from jaxdarts.nn.benchmarks.nasbench1shot1 import padded_max_pool
from jaxdarts.nn.primitives.pooling import max_pool
from jaxdarts.spaces.nasbench1shot1 import OPS, _of_parents
from tests.genotypes.test_graphs import C1, C3, MP, graph
from tests.nn.benchmarks.test_nasbench201 import conv, norm, relu

S1, S2, S3 = (getattr(jd.spaces, f"nasbench1shot1_s{i}")() for i in (1, 2, 3))
TINY = _of_parents(
    1, 1, 2
)  # two blocks, the second of which chooses what it reads; the output reads two vertices of three


def matrices(space):
    """All graphs of a space without their operations."""
    cells, last = space.cells, len(space.cells["ops"].edges) + 1
    rows = [
        (edge[0], count)
        for name in ("inputs", "output")
        for edge, count in zip(cells[name].edges, cells[name].picks)
    ]
    for sources in itertools.product(
        *(itertools.combinations(range(v), count) for v, count in rows)
    ):
        matrix = [[int(i < j) for j in range(last + 1)] for i in range(last + 1)]
        for (v, _), chosen in zip(rows, sources):
            for i in range(v):
                matrix[i][v] = int(i in chosen)
        yield tuple(map(tuple, matrix))


@pytest.mark.parametrize(
    "space, raw, distinct",
    [
        (S1, 14_580, 2_685),
        (S2, 29_160, 7_773),
        pytest.param(S3, 1_312_200, 55_854, marks=pytest.mark.slow),
    ],
)
def test_counts(space, raw, distinct):
    blocks = len(space.cells["ops"].edges)
    total, cells = 0, set()
    for matrix in matrices(space):
        # Which vertices are pruned does not hang on the operations.
        marked = genotypes.pruned(
            genotypes.GraphGenotype(matrix, tuple(map(str, range(blocks + 2))))
        )
        kept = tuple(map(int, marked.ops))
        total += 3**blocks
        cells |= {(marked.matrix, ops) for ops in itertools.product(OPS, repeat=len(kept) - 2)}
    graphs = (genotypes.GraphGenotype(matrix, ("input", *ops, "output")) for matrix, ops in cells)
    assert (
        total == raw and len({genotypes.fingerprint(genotype) for genotype in graphs}) == distinct
    )


def generated(parents):
    """The graphs without loose ends that the authors' generator makes (automl/nasbench-1shot1,
    nasbench_analysis/search_spaces/search_space.py), as sets of edges.

    It goes from the output backwards, and into one source of a vertex after the other; what it has
    added before the one source is forgotten at the next. So it leaves out graphs in which two
    sources need vertices that the other does not reach.
    """
    last = len(parents)

    def complete(edges):
        into = [sum(target == v for _, target in edges) for v in range(last + 1)]
        leaving = {source for source, _ in edges}
        right = all(n in (0, wanted) for n, wanted in zip(into[1:], parents, strict=True))
        fed = sum(n > 0 for n in into) == len(leaving)
        return right and fed and 0 in leaving and len(leaving) > 1 and len(edges) <= 9

    def grown(edges, node):
        if complete(edges):
            yield edges
            return
        free = [source for source in range(node) if (source, node) not in edges]
        missing = (parents[node - 1] if node else 0) - sum(target == node for _, target in edges)
        for sources in [(0,)] if node == 1 else itertools.combinations(free, missing):
            more = edges
            for source in sources:
                more = more | {(source, node)}
                yield from grown(more, source)

    return list(grown(frozenset(), last))


@pytest.mark.parametrize(
    "space, parents, number",
    [
        (S1, (1, 2, 2, 2, 2), 2_487),
        (S2, (1, 1, 2, 2, 3), 3_609),
        (S3, (1, 1, 1, 2, 2, 2), 24_066),
    ],
)
def test_counts_of_the_authors_generator(space, parents, number):
    """Every graph that it makes is one of the space; the space has more."""
    last = len(parents)

    def without_loose_ends(matrix):
        back = {last}
        for v in reversed(range(last)):
            back |= {v} if any(matrix[v][w] for w in back) else set()
        return frozenset((v, w) for w in back for v in range(w) if matrix[v][w])

    graphs = generated(parents)
    of_space = {without_loose_ends(matrix) for matrix in matrices(space)}
    assert sum(3 ** len({source for source, _ in edges} - {0}) for edges in graphs) == number
    assert set(graphs) < of_space and len(set(graphs)) == len(graphs)


def test_descriptions_of_all_spaces():
    for space, raw in ((S1, 14_580), (S2, 29_160), (S3, 1_312_200)):
        sources = [space.cells[name] for name in ("inputs", "output")]
        ways = math.prod(
            math.comb(len(ops), count)
            for choices in sources
            for ops, count in zip(choices.ops, choices.picks)
        )
        assert ways * 3 ** len(space.cells["ops"].edges) == raw
    # Two blocks read all before them in the first space, one in the others.
    assert [len(space.cells["inputs"].edges) for space in (S1, S2, S3)] == [2, 3, 4]


@pytest.mark.parametrize("space", [S1, S2, S3, TINY])
def test_samples_and_mutants_are_of_the_space(space):
    rows = set()
    for seed in range(40):
        genotype = space.sample(jax.random.key(seed))
        jd.genotypes.check(genotype)
        mix = jd.one_hot(space.cells, genotype)
        assert genotype == space.sample(jax.random.key(seed)) == space.discretize(mix)
        assert {name: int(m.sum()) for name, m in mix.items()} == {
            name: sum(choices.picks or [1] * len(choices.edges))
            for name, choices in space.cells.items()
        }
        mutant = jd.one_hot(space.cells, space.mutate(jax.random.key(seed), genotype))
        changed = {
            (name, int(e))
            for name in mix
            for e in np.flatnonzero(np.any(mix[name] != mutant[name], axis=1))
        }
        assert (
            len(changed) == 1
            and sum(float(jnp.abs(mix[name] - mutant[name]).sum()) for name in mix) == 2
        )
        rows |= changed
    assert rows == {
        (name, e) for name, choices in space.cells.items() for e in range(len(choices.edges))
    }


def test_sample_is_uniform():
    draws = [TINY.sample(jax.random.key(seed)) for seed in range(900)]
    counts = {genotype: draws.count(genotype) for genotype in set(draws)}
    assert len(counts) == 9 * 2 * 3 and all(
        abs(n - 900 / 54) < 5 * np.sqrt(900 / 54) for n in counts.values()
    )


def test_the_strongest_of_every_row_are_kept():
    ops = np.full((4, 3), 0.1)
    ops[0, 1], ops[1, [1, 2]], ops[3, 2] = 0.5, 0.5, 0.9
    inputs = np.array(
        [[0.1, 0.5, 0.4, 9.0], [0.3, 0.3, 0.1, 0.3]]
    )  # nothing lies behind the three candidates of the first row
    genotype = S1.discretize(
        {"ops": ops, "inputs": inputs, "output": np.array([[0.1, 0.2, 0.0, 0.4, 0.3]])}
    )
    assert genotype == graph("011010 001110 000100 000001 000001 000000", C3, C3, MP, C1)
    assert S1.discretize(S1.supernet().example_mix()) == graph(
        "011111 001111 000000 000000 000000 000000", *[MP] * 4
    )


def test_graphs_of_other_kinds():
    with pytest.raises(ValueError, match=r"inputs, edge \(3, 3\): the genotype does not keep 2"):
        jd.one_hot(S1.cells, graph("011100 001100 000110 000011 000001 000000", C3, C3, MP, C1))
    with pytest.raises(
        ValueError,
        match=r"inputs\[0\] = \('1', 2\): the space has no such operation on edge \(2, 2\)",
    ):
        jd.one_hot(S1.cells, graph("010100 001110 000001 000010 000001 000000", C3, C3, MP, C1))
    with pytest.raises(ValueError, match=r"ops, edge \(2, 2\): the genotype does not keep 1"):
        jd.one_hot(S1.cells, graph("010 001 000", C3))
    with pytest.raises(ValueError, match="cells ops, inputs, output, a TopologyGenotype has cell"):
        jd.one_hot(S1.cells, jd.spaces.nasbench201().sample(jax.random.key(0)))
    with pytest.raises(ValueError, match="REINFORCE draws one candidate a row"):
        jd.discrete.reinforce(jax.random.key(0), S1)
    with pytest.raises(ValueError, match="a row of this space keeps several"):
        jd.derive.by_perturbation(S1.cells, {}, lambda mixes: np.zeros(1), jax.random.key(0))
    with pytest.raises(ValueError, match="depth is 2"):
        S1.supernet(2, 2, 3).init(
            jax.random.key(0), jnp.ones((1, 8, 8, 1)), S1.supernet().example_mix()
        )


def test_neighbours_have_other_operations():
    shell = jd.analysis.flatness.shell(S1.cells, S1.sample(jax.random.key(0)))
    assert len(set(shell)) == 8 and {genotype.matrix for genotype in shell} == {
        S1.sample(jax.random.key(0)).matrix
    }


# ---------------------------------------------------------------------------------------- searching


def test_relaxations_of_rows():
    cells, step = S2.cells, jnp.int32(0)
    used = {name: choices.where() for name, choices in cells.items()}
    key = jax.random.key(0)
    soft = relax.softmax(cells, scale=1.0)
    arch = soft.init(key)
    noisy = jd.perturb.random_noise(cells, lambda step: 0.3)(
        soft.derive(arch), lambda mix: 0.0, key, step
    )
    drawn = relax.gumbel(cells, lambda step: 0.5, hard=True).apply(arch, key, step)
    for mix in (soft.derive(arch), noisy, drawn):
        for name in cells:
            np.testing.assert_allclose(jnp.sum(mix[name], axis=1), 1, rtol=1e-6)
            assert not np.any(np.asarray(mix[name])[~used[name]])
    one_hot = {name: bool(jnp.all(jnp.max(drawn[name], axis=1) > 0.999)) for name in cells}
    assert one_hot["ops"] and not (one_hot["inputs"] or one_hot["output"])
    # One path is the mix of a random genotype.
    path = relax.uniform_path(cells)
    counts = np.zeros(cells["inputs"].shape)
    for seed in range(300):
        mix = path.apply({}, jax.random.key(seed), step)
        counts += np.asarray(mix["inputs"])
        if seed < 5:
            again = jd.one_hot(cells, S2.discretize(mix))
            chex.assert_trees_all_equal(dict(mix), dict(again))
    expected = (
        300 * np.array(cells["inputs"].picks)[:, None] / np.array([[2], [3], [4]]) * used["inputs"]
    )
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(75) * used["inputs"] + 1e-9)


@pytest.mark.parametrize(
    "algorithm",
    [
        algorithms.darts(TINY, order=2),
        algorithms.sdarts_rs(TINY, lambda step: 0.1),
        algorithms.gdas(TINY, lambda step: 1.0),
        algorithms.random_sharing(TINY),
    ],
)
def test_algorithms_search_rows(algorithm):
    """The one search step on a loss of the mix alone: alpha of every row learns to weigh its first
    candidate most.
    """

    def objective(params, mix, carry, batch, key):
        loss = sum(jnp.sum((mix[name][:, 0] * params["w"] - 1) ** 2) for name in mix)
        return loss, (carry, {"loss": loss})

    search = jd.bilevel_search(objective, algorithm, optax.sgd(0.01), optax.adam(0.1))
    state = search.init(jax.random.key(0), {"w": jnp.ones(())})
    state, metrics = jax.lax.scan(lambda state, _: search.step(state, {}, {}), state, None, 30)
    chex.assert_tree_all_finite((state.params, state.arch, metrics))
    genotype = TINY.discretize(algorithm.relax.derive(state.arch))
    jd.one_hot(TINY.cells, genotype)
    if jax.tree.leaves(state.arch):
        assert genotype.ops[1:3] == (MP, MP) and genotype.matrix[0] == (0, 1, 1, 1)


def test_pooling_has_a_border():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)) - 9.0
    padded = np.full((2, 8, 8, 3), -np.inf)
    padded[:, 1:6, 1:5] = x
    expected = [[padded[:, i : i + 2, j : j + 2].max((1, 2)) for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_allclose(
        padded_max_pool(jnp.asarray(x, jnp.float32)), np.moveaxis(expected, 2, 0), rtol=1e-6
    )


def reference(params, images, mix, cells, width, depth):
    """The logits of the supernet; every cell projects its input once for each block and once for
    the output.
    """

    def normed(x, scale, shift):
        return relu(norm(x, scale=scale, shift=shift))

    blocks = len(cells["ops"].edges)
    row_of = {edge[0]: row for row, edge in enumerate(cells["inputs"].edges)}
    x = normed(
        conv(images, params["stem"]["kernel"]), params["stem"]["scale"], params["stem"]["shift"]
    )
    starts = {depth // 3: 1, 2 * depth // 3: 2}
    stage, number = 0, 0
    for index in range(depth):
        if index in starts:
            x = np.asarray(padded_max_pool(jnp.asarray(x)))
            stage, number = starts[index], 0
        stage_params, c = params[f"stage{stage}"], width * 2**stage
        kernel = stage_params[f"projection{number}_kernel"]

        def project(lower, upper, stage_params=stage_params, kernel=kernel, x=x, number=number):
            index = np.s_[number, lower:upper]
            return normed(
                x @ kernel[:, lower:upper],
                stage_params["projection_scale"][index],
                stage_params["projection_shift"][index],
            )

        states = []
        for block in range(blocks):
            read = [project(block * c, block * c + c), *states]
            weights = (
                mix["inputs"][row_of[block + 1]] if block + 1 in row_of else np.ones(len(read))
            )
            total = sum(weight * state for weight, state in zip(weights, read))
            terms = []
            for weight, op in zip(mix["ops"][block], OPS):
                if op == MP:
                    terms.append(weight * np.asarray(max_pool(jnp.asarray(total), 1)))
                else:
                    position = (number, block)
                    k = stage_params[f"{op}_kernel"][position]
                    y = conv(total, k if op == C3 else k[None, None])
                    terms.append(
                        weight
                        * normed(
                            y,
                            stage_params[f"{op}_scale"][position],
                            stage_params[f"{op}_shift"][position],
                        )
                    )
            states.append(sum(terms))
        first, *rest = mix["output"][0]
        x = first * project(blocks * c, 2 * blocks * c) + np.concatenate(
            [w * s for w, s in zip(rest, states)], -1
        )
        number += 1
    x = norm(relu(x) @ params["postprocess"])
    return x.mean((1, 2)) @ params["head"] + params["head_bias"]


def test_supernet_equals_its_definition(x64):
    """Stages of one, one and two cells, at a random mix; and its gradient, by a difference along a
    random direction.
    """
    net = TINY.supernet(2, 4, 3, dtype=jnp.float64)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 5, 5, 2)))
    params = net.init(jax.random.key(0), images, net.example_mix())["params"]
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    mix = {
        name: jnp.asarray(rng.uniform(0.1, 1, choices.shape))
        for name, choices in TINY.cells.items()
    }

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(params, mix):
        logits = net.apply({"params": params}, images, mix)
        return jnp.sum(jnp.sin(logits)), logits

    (_, logits), gradient = loss(params, mix)
    numbers = jax.tree.map(np.asarray, (params, mix))
    np.testing.assert_allclose(
        logits, reference(numbers[0], np.asarray(images), numbers[1], TINY.cells, 2, 4), rtol=1e-9
    )
    along = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), (params, mix))
    ahead, behind = (
        loss(*jax.tree.map(lambda p, a, sign=sign: p + sign * 1e-6 * a, (params, mix), along))[0][0]
        for sign in (1, -1)
    )
    exact = sum(
        jnp.vdot(g, a)
        for g, a in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
    )
    np.testing.assert_allclose(exact, (ahead - behind) / 2e-6, rtol=1e-5)
