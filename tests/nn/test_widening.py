"""Weights that are carried over to fewer candidates and more channels. Oracles: the old supernet at
a mix without the operations that go; the copies of DrNAS' code, checked channel by channel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.nn import widening
from jaxdarts.nn.cell import edges_of

OPS = ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
OLD = jd.spaces.darts(2, OPS)
KEPT = [(0, 2), (1, 2), (1, 3), (2, 3), (0, 1)]  # the two columns that every edge keeps


def fewer(choices):
    ops = tuple(tuple(of_edge[i] for i in kept) for of_edge, kept in zip(choices.ops, KEPT))
    return choices._replace(ops=ops)


NEW = jd.spaces.of_cells(*(fewer(OLD.cells[name]) for name in ("normal", "reduce")))


def carried(old, new, seed=0):
    x, mix = jnp.zeros((1, 8, 8, 1)), old.example_mix()
    params = old.init(jax.random.key(1), x, mix)["params"]
    return params, widening.carried(params, old, new, np.random.default_rng(seed))


def test_what_stays_computes_what_it_did():
    old, new = (space.supernet(4, 1, 3, partial=2) for space in (OLD, NEW))
    params, fewer_params = carried(old, new)
    expected = jax.eval_shape(new.init, jax.random.key(0), *new.example_inputs((8, 8, 1)))
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.shape, b.shape), fewer_params, expected["params"]
    )
    x, rng = jax.random.normal(jax.random.key(2), (4, 8, 8, 1)), np.random.default_rng(0)
    small = {name: rng.random((5, 2)).astype(np.float32) for name in NEW.cells}
    wide = {name: np.zeros((5, 4), np.float32) for name in NEW.cells}
    for name, weights in small.items():
        np.put_along_axis(wide[name], np.array(KEPT), weights, axis=1)
    np.testing.assert_allclose(
        jax.jit(new.apply)({"params": fewer_params}, x, small),
        jax.jit(old.apply)({"params": params}, x, wide),
        atol=1e-5,
    )


def copied(old, new):
    """Which old channel each new one of the last axis is a copy of."""
    equal = [
        [np.array_equal(new[..., n], old[..., o]) for o in range(old.shape[-1])]
        for n in range(new.shape[-1])
    ]
    assert all(sum(row) == 1 for row in equal)
    return np.argmax(equal, axis=1)


def test_more_channels_are_copies():
    old, new = OLD.supernet(12, 3, 3, partial=6), NEW.supernet(12, 3, 3, partial=4)
    before, after = carried(old, new)
    drawn = set()
    for run, width in (("cells0_normal", 12), ("cells1_reduce", 24)):
        kind = run.partition("_")[2]
        few, many = width // 6, width // 4

        def weights(name, op, edge, run=run, kind=kind):
            rows = [edges_of(space.cells[kind], op).index(edge) for space in (OLD, NEW)]
            return (
                np.asarray(params[run][f"{op}_{name}"][0, row])
                for params, row in zip((before, after), rows)
            )

        for op, count in (("sep_conv_3x3", 2), ("dil_conv_5x5", 1)):
            for edge in edges_of(NEW.cells[kind], op):
                for i in range(count):
                    a, b = weights(f"depthwise{i}", op, edge)
                    of_depthwise = copied(a, b)
                    assert of_depthwise[:few].tolist() == list(range(few)) and b.shape[-1] == many
                    c, d = weights(f"pointwise{i}", op, edge)
                    # It reads each copy by a copy of the weights of the original.
                    of_pointwise = copied(c[of_depthwise], d)
                    assert of_pointwise[:few].tolist() == list(range(few))
                    drawn.add((*of_depthwise, *of_pointwise))
    assert len(drawn) > 5  # every convolution draws by itself
    # The first skip connection that is left enters node 3, as the second one of the old cell.
    a, b = (
        np.asarray(p["cells1_reduce"]["skip_connect_reduce"][0, row])
        for p, row in ((before, 1), (after, 0))
    )
    for half, larger in zip(np.split(a, 2, axis=-1), np.split(b, 2, axis=-1)):
        rows = [[np.array_equal(y[:2], x) for x in half] for y in larger]
        assert np.sum(rows, axis=1).tolist() == [1] * 6
        copied(half[np.argmax(rows, axis=1)], larger)
    for name in ("stem", "head"):
        np.testing.assert_array_equal(before[name], after[name])


def test_alpha_keeps_the_columns():
    alpha = jnp.arange(20.0).reshape(5, 4)
    kept = widening.carried_arch(
        {"ops": alpha, "edges": jnp.arange(5.0)}, OLD.cells["normal"], NEW.cells["normal"]
    )
    assert kept["ops"].tolist() == [[alpha[e, i] for i in row] for e, row in enumerate(KEPT)]
    assert kept["edges"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "sizes, partial", [((8, 3), 2), ((4, 4), 2), ((4, 3), 4)], ids=["width", "depth", "partial"]
)
def test_supernets_that_do_not_fit(sizes, partial):
    with pytest.raises(ValueError, match="has no weights for width"):
        carried(OLD.supernet(4, 3, 3, partial=2), NEW.supernet(*sizes, 3, partial=partial))
    with pytest.raises(ValueError, match="not among the old ones"):
        carried(NEW.supernet(4, 3, 3), OLD.supernet(4, 3, 3))


def test_cells_of_nasbench201():
    """DrNAS' second script there: what stays computes what it did; new channels are copies."""
    space = jd.spaces.nasbench201()
    ops = space.cells["cell"].ops[0]
    kept = [(0, 2, 3), (1, 3, 4), (2, 3, 4), (0, 1, 2), (0, 3, 4), (1, 2, 3)]
    narrow = jd.spaces.nasbench201([[ops[i] for i in columns] for columns in kept])
    assert narrow.num_genotypes == 3**6
    old, new = (one.supernet(8, 2, 3, partial=4) for one in (space, narrow))
    x, rng = jax.random.normal(jax.random.key(2), (4, 8, 8, 1)), np.random.default_rng(0)
    params = old.init(jax.random.key(1), x, old.example_mix())["params"]
    same = widening.carried(params, old, new, np.random.default_rng(0))
    small, wide = rng.random((6, 3)).astype(np.float32), np.zeros((6, 5), np.float32)
    np.put_along_axis(wide, np.array(kept), small, axis=1)
    np.testing.assert_allclose(
        jax.jit(new.apply)({"params": same}, x, {"cell": small}),
        jax.jit(old.apply)({"params": params}, x, {"cell": wide}),
        atol=1e-5,
    )

    wider = narrow.supernet(8, 2, 3, partial=2)
    expected = jax.eval_shape(wider.init, jax.random.key(0), *wider.example_inputs((8, 8, 1)))
    grown = widening.carried(params, old, wider, np.random.default_rng(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, expected["params"])
    for stage in range(3):
        before, after = (tree[f"stage{stage}"] for tree in (params, grown))
        for op in ("nor_conv_1x1", "nor_conv_3x3"):
            edges = edges_of(narrow.cells["cell"], op)
            rows = [edges_of(space.cells["cell"], op).index(edge) for edge in edges]
            kernel, width = np.asarray(before[f"{op}_kernel"])[:, rows], 2 * 2**stage
            new_kernel = np.asarray(after[f"{op}_kernel"])
            np.testing.assert_array_equal(new_kernel[..., :width, :width], kernel)
            for cell in range(2):
                for edge in range(len(edges)):
                    outputs = copied(kernel[cell, edge], new_kernel[cell, edge, ..., :width, :])
                    np.testing.assert_array_equal(outputs[:width], np.arange(width))


def test_candidates_of_nasbench201_that_make_no_space():
    names = jd.spaces.nasbench201().cells["cell"].ops
    for ops in (names[:5], [names[0][:2], *names[1:]], [("noise",)] * 6, [()] * 6):
        with pytest.raises(ValueError, match="candidates"):
            jd.spaces.nasbench201(ops)
