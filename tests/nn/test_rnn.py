"""Recurrent cells and the language model. Oracles: the original implementation's arrays; the
formulas; counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdarts as jd
from jaxdarts.nn.rnn import Dropouts, LanguageModel, cell
from jaxdarts.space import of_genotype

SPACE = jd.spaces.darts_rnn()
CELLS = {
    "DARTS_V1": jd.genotypes.RNN_DARTS_V1,
    "DARTS_V2": jd.genotypes.RNN_DARTS_V2,
    "ENAS": jd.genotypes.RNN_ENAS,
}


def weights_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The original layout, one matrix a node, in ours."""
    count = sum("_Ws" in name for name in arrays)
    return {"first": arrays["_W0"], "nodes": np.stack([arrays[f"_Ws.{i}"] for i in range(count)])}


@pytest.mark.parametrize("name", [*CELLS, "search"])
def test_against_the_original(golden, name):
    arrays = golden("rnn").arrays
    saved = {
        key.removeprefix(f"{name}/"): value
        for key, value in arrays.items()
        if key.startswith(f"{name}/")
    }
    params = weights_of(
        {
            key.removeprefix("param/"): value
            for key, value in saved.items()
            if key.startswith("param/")
        }
    )
    searched = name == "search"
    choices = SPACE.cells["recurrent"] if searched else of_genotype(CELLS[name])["recurrent"]
    net = LanguageModel(choices, saved["x"].shape[2], 15, norm=searched)
    time, batch, width = saved["x"].shape

    def outputs(x, h0, params, alpha):
        # Every place of the batch gets a word of its own, so that the embedding is the input.
        variables = {
            "params": {**params, "embedding": x.reshape(-1, width), "bias": jnp.zeros(time * batch)}
        }
        mix = {"recurrent": jax.nn.softmax(alpha)} if searched else None
        predicted = net.apply(variables, jnp.arange(time * batch).reshape(time, batch), h0[0], mix)
        return predicted.outputs, predicted.hidden

    alpha = saved.get("alpha", np.zeros(()))
    (y, last), pullback = jax.vjp(
        jax.jit(outputs), *jax.tree.map(jnp.asarray, (saved["x"], saved["h0"], params, alpha))
    )
    np.testing.assert_allclose(y, saved["y"], atol=2e-6)
    np.testing.assert_allclose(last, saved["h_last"][0], atol=2e-6)
    dx, dh0, dparams, dalpha = pullback((jnp.asarray(saved["cotangent"]), jnp.zeros_like(last)))
    expected = weights_of(
        {
            key.removeprefix("dparam/"): value
            for key, value in saved.items()
            if key.startswith("dparam/")
        }
    )
    for actual, original in (
        (dx, saved["dx"]),
        (dh0, saved["dh0"]),
        *((dparams[key], expected[key]) for key in params),
    ):
        np.testing.assert_allclose(actual, original, atol=2e-5 * np.abs(original).max())
    if searched:
        np.testing.assert_allclose(
            dalpha, saved["dalpha"], atol=2e-5 * np.abs(saved["dalpha"]).max()
        )
        assert not np.any(np.isclose(saved["dalpha"], 0).all(axis=1))


@pytest.mark.parametrize("name", CELLS)
def test_a_one_hot_mix_is_the_discrete_cell(name):
    """Without batch norm, which a search alone has."""
    genotype = CELLS[name]
    space = jd.spaces.darts_rnn(len(genotype.recurrent))
    choices = space.cells["recurrent"]._replace(concat=genotype.concat)
    rng = np.random.default_rng(0)
    first, hidden, nodes = (
        jnp.asarray(rng.standard_normal(s), jnp.float32)
        for s in ((2, 6), (2, 3), (len(genotype.recurrent), 3, 6))
    )
    mix = jd.one_hot(space.cells, genotype)["recurrent"]
    cell_choices = of_genotype(genotype)["recurrent"]
    expected = jax.jit(lambda *a: cell(cell_choices, *a, np.ones(cell_choices.shape)))(
        first, nodes, hidden
    )
    np.testing.assert_allclose(
        jax.jit(lambda *a: cell(choices, *a))(first, nodes, hidden, mix), expected, atol=1e-6
    )


def test_derivation_sampling_and_drawing():
    for name, genotype in CELLS.items():
        if name != "ENAS":
            assert SPACE.discretize(jd.one_hot(SPACE.cells, genotype)) == genotype
    assert SPACE.cells["recurrent"].shape == (36, 5) and SPACE.cells["recurrent"].num_nodes == 8
    ties = SPACE.discretize({"recurrent": np.full((36, 5), 0.2, np.float32)})
    assert ties.recurrent == (("tanh", 0),) * 8 and ties.concat == tuple(range(1, 9))
    mix = np.full((36, 5), 0.2)
    mix[4, 0], mix[4, 3], mix[5, 4] = (
        0.9,
        0.3,
        0.3,
    )  # edges 3 to 5 enter node 3; none does not count, the first of equals wins
    assert SPACE.discretize({"recurrent": mix}).recurrent[2] == ("sigmoid", 1)
    drawn = {SPACE.sample(jax.random.key(seed)) for seed in range(5)}
    assert len(drawn) == 5
    for genotype in drawn:
        jd.genotypes.check(genotype)
        assert jd.genotypes.parse(str(genotype)) == genotype
        assert jd.report.cells.cell(genotype)["recurrent"].startswith("<svg")
    with pytest.raises(
        ValueError, match="the space has the cells recurrent, a Genotype has normal, reduce"
    ):
        jd.one_hot(SPACE.cells, jd.genotypes.DARTS_V2)
    with pytest.raises(
        ValueError, match=r"recurrent\[10\] = .*no such operation on edge \(8, 11\)"
    ):
        jd.one_hot({"recurrent": jd.spaces.darts_rnn(10).cells["recurrent"]}, jd.genotypes.RNN_ENAS)
    with pytest.raises(ValueError, match="a Genotype is no recurrent cell"):
        SPACE.network(jd.genotypes.DARTS_V2, 4, 4)
    for num_nodes, ops in (
        (0, ("tanh",)),
        (1, ("none",)),
        (1, ("tanh", "tanh")),
        (1, ("tanh", "gelu")),
    ):
        with pytest.raises(ValueError, match="num_nodes is 0" if num_nodes == 0 else "ops are"):
            jd.spaces.darts_rnn(num_nodes, ops)


def test_published_sizes():
    net = SPACE.network(jd.genotypes.RNN_ENAS, 850, 10_000)
    assert jd.count_params(net) == 10_000 * 851 + 1700**2 + 11 * 850 * 1700
    assert jd.count_params(SPACE.supernet(300, 10_000)) == 4_810_000


def tiny(**options):
    net = jd.spaces.darts_rnn(2).supernet(4, 7, **options)
    params = net.init(jax.random.key(0), *net.example_inputs())["params"]
    mix = {"recurrent": jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 5)))}
    tokens = jax.random.randint(jax.random.key(2), (5, 8), 0, 7)
    hidden = jax.random.normal(jax.random.key(3), (8, 4))
    return net, {"params": jax.tree.map(lambda w: 10 * w, params)}, tokens, hidden, mix


def test_the_weights_start_within_their_bounds():
    _, variables, *_ = tiny()
    for name, weight in variables["params"].items():
        assert float(jnp.abs(weight).max()) <= 0.4 and bool(jnp.any(weight)) == (name != "bias")


def test_padding_changes_nothing():
    net, variables, tokens, hidden, mix = tiny(dropouts=Dropouts(0.2, 0.2, 0.2, 0.2, 0.2))
    key = jax.random.key(4)
    short = jax.jit(net.apply)(variables, tokens[:3], hidden, mix, key)
    padded = jax.jit(net.apply)(variables, tokens, hidden, mix, key, 3)
    np.testing.assert_allclose(padded.hidden, short.hidden, atol=1e-6)
    np.testing.assert_allclose(padded.logits[:3], short.logits, atol=1e-6)


def test_the_past_is_all_in_the_hidden_state():
    net, variables, tokens, hidden, mix = tiny(remat=True)
    at_once = jax.jit(net.apply)(variables, tokens, hidden, mix)
    first = jax.jit(net.apply)(variables, tokens[:2], hidden, mix)
    rest = jax.jit(net.apply)(variables, tokens[2:], first.hidden, mix)
    np.testing.assert_allclose(
        jnp.concatenate([first.logits, rest.logits]), at_once.logits, atol=1e-5
    )
    assert not np.allclose(
        rest.logits, jax.jit(net.apply)(variables, tokens[2:], hidden, mix).logits, atol=1e-3
    )


def test_dropout_is_locked_in_time(x64):
    """Masks by their definition, from a cell that hands its input through: outputs are what the
    masks leave of it.
    """
    genotype = jd.genotypes.RecurrentGenotype((("identity", 0),), (1,))
    tokens = jnp.zeros((3, 2000), jnp.int32)
    key, rates = (
        jax.random.key(0),
        {"embedded": 0.2, "cell": 0.5, "hidden": 0.25, "output": 0.75, "words": 0.4},
    )
    for name, rate in rates.items():
        net = SPACE.network(genotype, 2, 4, dropouts=Dropouts(**{name: rate}), dtype=jnp.float64)
        params = {
            "embedding": jnp.ones((4, 2)),
            "bias": jnp.zeros(4),
            # Gates stand open (the word is one): the first state is tanh(3 x), the node's is twice
            # its source.
            "first": jnp.zeros((4, 4))
            .at[:2, :2]
            .set(1000.0)
            .at[jnp.arange(2), jnp.arange(2, 4)]
            .set(3.0),
            "nodes": jnp.concatenate([1000 * jnp.ones((2, 2)), 2 * jnp.eye(2)], axis=1)[None],
        }
        out = jax.jit(net.apply)({"params": params}, tokens, net.start(2000), None, key)
        values = out.dropped
        np.testing.assert_array_equal(values[0], values[2])
        if name == "words":
            assert len(np.unique(values)) == 1  # one word, one row
        elif name == "output":
            np.testing.assert_allclose(np.unique(values), [0, 4 * 2 * np.tanh(3)], rtol=1e-6)
            assert abs(float(jnp.mean(values == 0)) - rate) < 0.03
        elif name == "hidden":
            assert len(np.unique(values[0].round(6))) > 1
        assert bool(jnp.all(out.dropped == out.outputs)) == (name != "output")
        plain = jax.jit(net.apply)({"params": params}, tokens, net.start(2000), None)
        np.testing.assert_allclose(plain.dropped, 2 * np.tanh(3), rtol=1e-6)
    with pytest.raises(ValueError, match="dropouts.cell is 1.0"):
        SPACE.network(genotype, 2, 4, dropouts=Dropouts(cell=1.0)).apply(
            {"params": params}, tokens, net.start(2000), None, key
        )


def test_devices_compute_what_one_does(devices):
    net, variables, tokens, hidden, mix = tiny(dropouts=Dropouts(0.2, 0.2, 0.2, 0.2, 0.2))
    many, key = net.clone(axis_name="devices"), jax.random.key(5)

    def apply(variables, tokens, hidden):
        return many.apply(variables, tokens, hidden, mix, key).logits

    def part(x, axis):
        return jnp.asarray(jd.parallel.split(x, 4, axis=axis))

    parts = jax.pmap(apply, "devices", in_axes=(None, 0, 0), devices=devices)(
        variables, part(tokens, 1), part(hidden, 0)
    )
    expected = jax.jit(net.apply)(variables, tokens, hidden, mix, key).logits
    np.testing.assert_allclose(lax.collapse(parts.transpose(1, 0, 2, 3), 1, 3), expected, atol=1e-5)
