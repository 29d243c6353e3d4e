"""Search in a network of a user's own. Oracle: central differences in float64, the network written
without choices, and definitions in NumPy.
"""

import ast
import functools
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxdarts as jd
from jaxdarts.genotypes import ChoiceGenotype

PAGE = (Path(__file__).parents[1] / "docs" / "own_network.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@functools.cache
def page():
    """The networks of the page, by name; nothing else of it is run."""
    names: dict = {}
    for block in BLOCKS:
        tree = ast.parse(block)
        tree.body = [
            n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom | ast.ClassDef)
        ]
        exec(compile(tree, "own_network.md", "exec"), names)
    return names


def test_an_example_takes_at_most_25_lines_beyond_its_network():
    seen = 0
    for block in BLOCKS:
        nodes = ast.parse(block).body
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        rest = [n for n in nodes if not isinstance(n, ast.ClassDef | ast.Import | ast.ImportFrom)]
        covered = {i for node in rest for i in range(node.lineno, (node.end_lineno or 0) + 1)}
        lines = block.splitlines()
        count = sum(bool(lines[i - 1].strip()) for i in covered)
        assert count <= 25, (classes[0].name, count)
        seen += bool(classes)
    assert seen == 5


def tokens(rows=4, time=5, letters=6):
    return jnp.asarray(np.random.default_rng(0).integers(0, letters, (2, rows, time + 1)))


def images(channels=1, number=4, size=8):
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, number, size, size, channels)))


def next_letter(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["next"]).mean()


def problem(name):
    """(space, objective, two batches) of a small network of the page."""
    if name == "Residual":
        batches = [{"image": x, "label": jnp.arange(4) % 3} for x in images()]
        space = jd.spaces.of_network(page()[name](depth=1, width=2), batches[0]["image"])
        loss, inputs = jd.objectives.cross_entropy, ["image"]
    else:
        batches = [{"tokens": x[:, :-1], "next": x[:, 1:]} for x in tokens()]
        space = jd.spaces.of_network(page()[name](6, depth=1, width=4), batches[0]["tokens"])
        loss, inputs = next_letter, ["tokens"]
    return space, jd.objectives.supervised(space.supernet(), loss, inputs=inputs), batches


@pytest.mark.parametrize("name", ["Residual", "Transformer"])
def test_the_second_order_gradient_is_that_of_central_differences(name, x64):
    space, objective, batches = problem(name)
    net = space.supernet()
    inputs = net.example_inputs()[:-1]
    variables = jax.tree.map(
        lambda w: jnp.asarray(w, jnp.float64), jax.jit(net.init)(jax.random.key(0), *inputs)
    )
    params, carry = variables.pop("params"), variables
    relaxation, key = jd.relax.softmax(space.cells, scale=1.0), jax.random.key(3)
    arch = jax.tree.map(lambda a: a.astype(jnp.float64), relaxation.init(jax.random.key(1)))

    def loss_on(batch):
        return lambda w, a: objective(w, relaxation.derive(a), carry, batch, key)[0]

    train, val = map(loss_on, batches)

    def step(gradient):
        return jax.tree.map(lambda w, g: w - 0.3 * g, params, gradient)

    @jax.jit
    def outer(a):
        return val(step(jax.grad(train)(params, a)), a)

    exact = jax.jit(lambda a: jd.hypergrad.unrolled(train, val, params, a, step))(arch)["choices"]
    first_order = jax.jit(jax.grad(val, argnums=1))(params, arch)["choices"]
    assert np.abs(exact - first_order).max() > 1e-3 * np.abs(exact).max()
    used = space.cells["choices"].where()
    for seed in range(4):
        direction = np.random.default_rng(seed).normal(size=exact.shape) * used
        ends = [outer({"choices": arch["choices"] + h * direction}) for h in (1e-5, -1e-5)]
        slope = (float(ends[0]) - float(ends[1])) / 2e-5
        np.testing.assert_allclose(np.sum(exact * direction), slope, rtol=1e-6, atol=1e-9)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jd.nn.Choice({"tanh": nn.tanh, "dense": nn.Dense(3)}, name="inner")(x)


class Mixed(nn.Module):
    """Normed, nested, shared and unequal choices, with dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(3, name="stem")(x)
        normed = [nn.Dense(3), nn.BatchNorm(use_running_average=not train)]
        dropout = nn.Dropout(0.5, deterministic=not train)
        candidates = {"normed": nn.Sequential(normed), "inner": Inner(), "dropout": dropout}
        x = jd.nn.Choice(candidates, name="outer")(x)
        for i in range(2):
            layers = [nn.Dense(3, name=f"shared{i}"), nn.relu]
            x = x + jd.nn.Choice(layers, decision="shared")(x)
        return x


X = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)), jnp.float32)


@functools.cache
def mixed():
    space = jd.spaces.of_network(Mixed(), X, train=True)
    net = space.supernet()
    variables = jax.jit(net.init)(jax.random.key(0), X)
    noise = np.random.default_rng(3)
    return space, jax.tree.map(
        lambda w: w + jnp.asarray(noise.normal(size=w.shape) ** 2), variables
    )


def genotype(outer, inner, shared):
    return ChoiceGenotype((("Inner_0/inner", inner), ("outer", outer), ("shared", shared)))


def test_the_space_has_a_row_a_decision():
    space, _ = mixed()
    choices = space.cells["choices"]
    rows = dict(zip(choices.names, choices.ops, strict=True))
    assert rows == {
        "Inner_0/inner": ("tanh", "dense"),
        "outer": ("normed", "inner", "dropout"),
        "shared": ("0", "1"),
    }
    assert choices.shape == (3, 3) and space.num_genotypes == 12
    assert jd.count_params(space.supernet()) == 4 * 12 + 12 + 6


def by_hand(weights, stats, choice, x):
    """The network without choices, in evaluation mode."""

    weights, stats, x = jax.tree.map(np.asarray, (weights, stats, x))

    def dense(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    x = dense("stem", x)
    if choice["outer"] == "normed":
        norm, moments = weights["BatchNorm_0"], stats["BatchNorm_0"]
        x = (dense("Dense_0", x) - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
        x = x * norm["scale"] + norm["bias"]
    elif choice["outer"] == "inner" and choice["Inner_0/inner"] == "tanh":
        x = np.tanh(x)
    elif choice["outer"] == "inner":
        x = x @ weights["Inner_0"]["Dense_0"]["kernel"] + weights["Inner_0"]["Dense_0"]["bias"]
    for i in range(2):
        x = x + (dense(f"shared{i}", x) if choice["shared"] == "0" else np.maximum(x, 0))
    return x


def test_a_one_hot_mix_is_the_plain_network_is_the_network_by_hand():
    space, variables = mixed()
    supernet = jax.jit(functools.partial(space.supernet().apply, train=False))
    for outer, inner in (
        ("normed", "tanh"),
        ("inner", "tanh"),
        ("inner", "dense"),
        ("dropout", "tanh"),
    ):
        for shared in "01":
            chosen = genotype(outer, inner, shared)
            plain = space.network(chosen)
            weights = plain.inherit(variables)
            once = supernet(variables, X, jd.one_hot(space.cells, chosen))
            np.testing.assert_allclose(plain.apply(weights, X), once, atol=1e-6, rtol=1e-6)
            expected = by_hand(
                variables["params"], variables["batch_stats"], dict(chosen.choices), X
            )
            np.testing.assert_allclose(once, expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_chosen_has_no_parameters():
    space, variables = mixed()
    dense = space.network(genotype("inner", "dense", "1"))
    assert dense.inherit(variables)["params"].keys() == {"stem", "Inner_0"}
    assert jd.count_params(dense) == 24
    tanh = space.network(genotype("dropout", "dense", "0"))
    assert tanh.inherit(variables).keys() == {"params"}
    assert tanh.init(jax.random.key(0), X)["params"].keys() == {"stem", "shared0", "shared1"}


def test_the_mix_is_a_weighted_sum():
    space, variables = mixed()
    weights = np.random.default_rng(5).uniform(size=3).astype(np.float32)

    def output(outer, added=()):
        rows = {"Inner_0/inner": [1, 0, 0], "outer": outer, "shared": [0, 0, 0]}
        row_length = 3 + len(added)
        more = {name: added if name == "outer" else [0] * len(added) for name in rows}
        mix = jnp.asarray([[*rows[n], *more[n]] for n in space.cells["choices"].names], jnp.float32)
        assert mix.shape == (3, row_length)
        return space.supernet().apply(variables, X, {"choices": mix}, train=False)

    apart = [np.asarray(output(row)) for row in np.eye(3)]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(apart, apart[1:]))
    sum_of_all = np.tensordot(weights, apart, 1)
    np.testing.assert_allclose(output(weights), sum_of_all, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output(weights, [0.25]), sum_of_all + 0.25, rtol=1e-4, atol=1e-5)


def test_dropout_and_norms_of_candidates_in_a_search():
    space, variables = mixed()
    net, mix = space.supernet(), {"choices": jnp.full((3, 3), 0.5)}
    objective = jax.jit(
        jd.objectives.supervised(
            net,
            lambda output, batch: jnp.mean(output**2),
            lambda output, batch: {"largest": jnp.max(output)},
            inputs=["x"],
        )
    )
    params, carry = variables["params"], {"batch_stats": variables["batch_stats"]}
    key = jax.random.key(0)
    loss, (moved, metrics) = objective(params, mix, carry, {"x": X}, key)
    assert metrics["loss"] == loss and metrics["largest"] > 0
    assert objective(params, mix, carry, {"x": X}, key)[0] == loss
    assert objective(params, mix, carry, {"x": X}, jax.random.key(1))[0] != loss
    weights = jax.tree.map(np.asarray, params)
    h = np.asarray(X) @ weights["stem"]["kernel"] + weights["stem"]["bias"]
    h = h @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"]
    before, after = (c["batch_stats"]["BatchNorm_0"]["mean"] for c in (carry, moved))
    np.testing.assert_allclose(after, 0.99 * before + 0.01 * h.mean(0), rtol=1e-4)


class Toy(nn.Module):
    @nn.compact
    def __call__(self, x):
        candidates = {"skip_connect": lambda x: x, "dense": nn.Dense(2), "tanh": nn.tanh}
        x = jd.nn.Choice(candidates, name="first")(x)
        x = jd.nn.Choice({"skip_connect": lambda x: x, "dense": nn.Dense(2)}, name="second")(x)
        return nn.Dense(1)(x)[:, 0]


def schedule(step):
    return 1.0


NEEDS = {
    "da2s": (schedule, schedule),
    "beta_darts": (schedule,),
    "darts_minus": (schedule,),
    "gdas": (schedule,),
    "reinmax": (schedule,),
    "sdarts_adv": (schedule,),
    "sdarts_rs": (schedule,),
    "snas": (schedule,),
    "straight_through": (schedule,),
    "lambda_darts": ({}, schedule),
}
ALGORITHMS = [
    name
    for name, make in vars(jd.algorithms).items()
    if getattr(make, "__module__", "") == "jaxdarts.algorithms"
    and getattr(make, "__annotations__", {}).get("space")
    and name != "oles"
]


@functools.cache
def toy():
    space = jd.spaces.of_network(Toy(), jnp.zeros((1, 2)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 2)), jnp.float32)
    batches = [{"x": rows, "y": rows[:, 0]} for rows in x]

    def loss(output, batch):
        return jnp.mean((output - batch["y"]) ** 2)

    objective = jd.objectives.supervised(space.supernet(), loss, inputs=["x"])
    return space, objective, batches, space.supernet().init(jax.random.key(0), x[0])["params"]


def test_all_algorithms_are_listed():
    assert len(ALGORITHMS) == 24 and {*NEEDS} <= {*ALGORITHMS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_a_step(name):
    space, objective, batches, params = toy()
    algorithm = getattr(jd.algorithms, name)(space, *NEEDS.get(name, ()))
    search = jd.bilevel_search(objective, algorithm, optax.sgd(0.1), optax.sgd(0.1))
    state = search.init(jax.random.key(0), params)
    new, metrics = jax.jit(search.step)(state, *batches)
    assert all(np.isfinite(value) for value in metrics.values())
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(new.params)))
    learns = name not in ("fixed_alpha", "random_sharing")
    assert bool(metrics["arch_gradient_norm"] > 0) == learns
    assert {*dict(space.discretize(search.derive(new)).choices)} == {"first", "second"}


def test_selections_decide_by_the_supernet():
    space, _, _, _ = toy()
    best = jd.one_hot(space.cells, ChoiceGenotype((("first", "tanh"), ("second", "dense"))))

    def score(mixes):
        return np.sum(np.asarray(mixes["choices"]) * np.asarray(best["choices"]), axis=(1, 2))

    start = {"choices": np.full((2, 2, 3), 0.3)}
    for select in (jd.derive.by_perturbation, jd.derive.by_validation, jd.derive.by_shapley):
        mixes = select(space.cells, start, score, jax.random.key(0))
        for weights in mixes["choices"]:
            assert dict(space.discretize({"choices": weights}).choices) == {
                "first": "tanh",
                "second": "dense",
            }


def test_searches_without_gradients():
    space, _, _, _ = toy()

    def evaluate(genotype):
        value = sum(pair in genotype.choices for pair in (("first", "tanh"), ("second", "dense")))
        return jd.Trial(genotype, float(value), float("nan"), 1.0)

    for make in (
        jd.discrete.random_search,
        jd.discrete.regularized_evolution,
        jd.discrete.reinforce,
    ):
        history = jd.discrete.search(make(jax.random.key(0), space), evaluate, evaluations=40)
        assert jd.discrete.best(history).value == 2
        assert {*(trial.genotype for trial in history)} <= {
            ChoiceGenotype((("first", a), ("second", b)))
            for a in ("skip_connect", "dense", "tanh")
            for b in ("skip_connect", "dense")
        }


def test_a_mutation_changes_one_decision():
    space, _, _, _ = toy()
    start = space.sample(jax.random.key(0))
    seen = {space.mutate(jax.random.key(seed), start) for seed in range(60)}
    assert seen == {*jd.analysis.flatness.shell(space.cells, start)} and len(seen) == 3


def test_a_score_is_that_of_the_network_without_choices():
    points = jnp.asarray([[-3.0], [0.2], [3.0]])
    space = jd.spaces.of_network(page()["Regression"](), points)
    plain = space.network(ChoiceGenotype((("activation", "relu"), ("width", "16"))))
    params = plain.init(jax.random.key(0), points)["params"]

    def by_hand(w, x):
        def dense(number, width, x):
            return nn.Dense(width).apply({"params": w[f"Dense_{number}"]}, x)

        return dense(4, 1, jax.nn.relu(dense(3, 8, jnp.tanh(dense(2, 16, x)))))

    assert params.keys() == {"Dense_2", "Dense_3", "Dense_4"}
    scores = [
        jd.proxies.naswot(apply, params, points)
        for apply in (lambda w, x: plain.apply({"params": w}, x), by_hand)
    ]
    assert scores[0] == scores[1] and np.isfinite(scores[0])


def test_a_layer_that_a_scan_repeats_is_one_decision():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jd.nn.Choice({"dense": nn.Dense(3), "tanh": nn.tanh}, name="layer")(x), None

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            repeated = nn.scan(
                nn.remat(Layer),
                variable_axes={"params": 0},
                variable_broadcast="mix",
                split_rngs={"params": True},
                length=2,
            )
            return repeated(name="layers")(x, None)[0]

    space = jd.spaces.of_network(Scanned(), X)
    (tanh, dense) = (ChoiceGenotype((("layers/layer", name),)) for name in ("tanh", "dense"))
    variables = space.supernet().init(jax.random.key(0), X)
    once = space.supernet().apply(variables, X, jd.one_hot(space.cells, tanh))
    np.testing.assert_allclose(once, np.tanh(np.tanh(X)), rtol=1e-6)
    plain = space.network(dense)
    once = space.supernet().apply(variables, X, jd.one_hot(space.cells, dense))
    np.testing.assert_allclose(plain.apply(plain.inherit(variables), X), once, rtol=1e-5)


def test_choices_of_an_nnx_network():
    space = jd.spaces.of_network(nnx.bridge.to_linen(page()["Mixer"]), X[:, :1])
    assert space.cells["choices"].ops == (("nnx", "linen", "none"),)
    net = space.supernet()
    variables = net.init(jax.random.key(0), X[:, :1])
    outputs = []
    for name in ("nnx", "linen", "none"):
        chosen = ChoiceGenotype((("layer", name),))
        plain = space.network(chosen)
        weights = plain.inherit(variables)
        outputs.append(net.apply(variables, X[:, :1], jd.one_hot(space.cells, chosen)))
        np.testing.assert_allclose(plain.apply(weights, X[:, :1]), outputs[-1], rtol=1e-6)
        # NNX makes the parameters of all candidates in the constructor; they stay, without use.
        assert len(jax.tree.leaves(weights)) == 8
    first, last = (jax.tree.map(np.asarray, variables["params"][n]) for n in ("first", "last"))
    h = np.sin(np.asarray(X[:, :1]) @ first["kernel"] + first["bias"])
    np.testing.assert_allclose(outputs[-1], (h @ last["kernel"] + last["bias"])[:, 0], rtol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


GENOTYPE = ChoiceGenotype((("block/kernel", "3x3"), ("heads", "4")))


def test_a_genotype_is_written_and_read():
    assert str(GENOTYPE) == "ChoiceGenotype(choices={'block/kernel': '3x3', 'heads': '4'})"
    text = jd.genotypes.to_json(GENOTYPE)
    assert text == '{\n  "choices": {"block/kernel": "3x3", "heads": "4"}\n}\n'
    for written in (str(GENOTYPE), text, f"best = {GENOTYPE}"):
        assert jd.genotypes.parse(written) == GENOTYPE
    assert jd.genotypes.from_json(text) == GENOTYPE and hash(GENOTYPE)
    svg = jd.report.cells.cell(GENOTYPE)["choices"]
    assert "block/kernel: 3x3" in svg and "heads: 4" in svg


@pytest.mark.parametrize(
    "text, message",
    [
        ("ChoiceGenotype(choices={})", "choices is empty"),
        ("ChoiceGenotype(choices={'a': 3})", r"choices\[0\] = \('a', 3\) must be a tuple"),
        ("ChoiceGenotype(choices=[('a', 'b'), ('a', 'c')])", "named only once"),
        ('{"choices": "abc"}', "must be a tuple"),
    ],
)
def test_an_unsound_genotype_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        jd.genotypes.parse(text)


def network(*candidates, **options):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for each in candidates:
                x = jd.nn.Choice(each, **options)(x)
            return x

    return Net()


def test_what_cannot_be_a_space():
    of = jd.spaces.of_network
    with pytest.raises(ValueError, match=r"'Choice_0' .* different shapes: a \(5, 2\), b \(5, 4\)"):
        of(network({"a": nn.Dense(2), "b": nn.Dense(4)}), X)
    with pytest.raises(ValueError, match="Dense has no choice"):
        of(nn.Dense(2), X)
    with pytest.raises(ValueError, match="Choice_0 has the candidates a, and Choice_1 has b"):
        of(network({"a": nn.tanh}, {"b": nn.tanh}, decision="same"), X)
    with pytest.raises(ValueError, match="'Choice_0' has no candidates"):
        of(network({}), X)
    with pytest.raises(ValueError, match="needs a name: decision="):
        of(jd.nn.Choice([nn.tanh, nn.relu]), X)
    for net in (lambda x: x, nn.Dense, nnx.Linear(3, 3, rngs=nnx.Rngs(0))):
        with pytest.raises(ValueError, match="a Flax linen module is needed"):
            of(net, X)
    with pytest.raises(ValueError, match="the input True: .* as a keyword argument"):
        of(network([nn.tanh]), True)


@pytest.mark.parametrize(
    "candidates, message",
    [
        ({"dense": nn.Dense(3), "none": None}, "'none' of the choice 'Choice_0' is a NoneType"),
        ({"dense": nn.Dense}, "is a class, Dense: write Dense"),
        ({"nnx": nnx.Linear(3, 3, rngs=nnx.Rngs(0))}, r"write flax.nnx.bridge.to_linen\(Linear"),
        ({3: nn.Dense(3)}, "the candidate 3: its name must be a text, '3'"),
        ("ab", "are a str: a dictionary or a list"),
        (nn.Dense(3), "are a Dense: a dictionary or a list"),
    ],
)
def test_what_is_no_candidate(candidates, message):
    with pytest.raises(ValueError, match=message) as caught:
        jd.spaces.of_network(network(candidates), X)
    assert "\n" not in str(caught.value)


def test_a_collection_of_the_choices_name():
    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("mix", "count", jnp.zeros, ())
            return jd.nn.Choice([nn.tanh, nn.relu])(x)

    with pytest.raises(ValueError, match="variable count in the collection 'mix'"):
        jd.spaces.of_network(Counted(), X)


def repeated(lift, **options):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            return jd.nn.Choice({"dense": nn.Dense(3), "tanh": nn.tanh}, name="layer")(x), None

    class Repeated(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = lift(Layer, split_rngs={"params": True}, **options)
            return layers(name="layers")(x, None)[0]

    return Repeated()


@pytest.mark.parametrize("axes", [{"params": 0}, {"params": 0, "mix": 0}])
@pytest.mark.parametrize("lift", [nn.scan, nn.vmap])
def test_a_choice_that_is_repeated_without_its_row(lift, axes):
    options = {"length": 2} if lift is nn.scan else {"in_axes": (0, None)}
    with pytest.raises(ValueError, match="'layers/layer' lies in a module that is repeated"):
        jd.spaces.of_network(repeated(lift, variable_axes=axes, **options), X)


def test_a_choice_under_vmap_is_one_decision():
    axes = {"params": 0, "mix": None}
    net = repeated(nn.vmap, variable_axes=axes, in_axes=(0, None), out_axes=(0, None))
    space = jd.spaces.of_network(net, X)
    plain = space.network(ChoiceGenotype((("layers/layer", "dense"),)))
    weights = jax.tree.map(np.asarray, plain.init(jax.random.key(0), X)["params"])
    dense = weights["layers"]["Dense_0"]
    expected = np.einsum("bi,bio->bo", X, dense["kernel"]) + dense["bias"]
    np.testing.assert_allclose(plain.apply({"params": weights}, X), expected, rtol=1e-5)


def test_a_network_without_parameters_has_none():
    space = jd.spaces.of_network(network([nn.tanh, nn.relu]), X)
    assert jd.count_params(space.supernet()) == 0
    assert jd.count_params(space.network(space.sample(jax.random.key(0)))) == 0


def test_an_objective_tells_what_a_batch_and_a_search_lack():
    space, objective, batches, params = toy()
    net = space.supernet()
    with pytest.raises(ValueError, match=r"no 'image', only 'x', 'y': inputs=\[...\] names"):
        jd.objectives.supervised(net, jd.objectives.cross_entropy)(
            params, net.example_mix(), (), batches[0], None
        )
    with pytest.raises(ValueError, match=r"inputs='x': a list is needed, \['x'\]"):
        jd.objectives.supervised(net, jd.objectives.cross_entropy, inputs="x")
    space, variables = mixed()
    objective = jd.objectives.supervised(space.supernet(), lambda y, _: y.sum(), inputs=["x"])
    mix = {"choices": jnp.ones((3, 3))}
    with pytest.raises(ValueError, match=r"the carry of a search: search.init\(key"):
        objective(variables["params"], mix, (), {"x": X}, jax.random.key(0))


def test_what_does_not_fit_a_space():
    space, _, _, params = toy()
    with pytest.raises(ValueError, match="'first' is not decided.*supernet"):
        Toy().apply({"params": params}, X[:, :2])
    other = ChoiceGenotype((("first", "tanh"), ("third", "dense")))
    with pytest.raises(
        ValueError, match=r"\('third', 'dense'\): .* no such decision, only first, second"
    ):
        space.network(other)
    for choices, message in (
        ((("first", "tanh"),), "edge second: the genotype does not keep 1 .* skip_connect, dense"),
        ((("first", "none"), ("second", "dense")), "no such candidate, only skip_connect, dense"),
        ({"first": "tanh", "second": "dense"}, "must be a tuple"),
        ((("first", 0), ("second", "dense")), "must be a tuple of the names"),
    ):
        with pytest.raises(ValueError, match=message):
            space.network(ChoiceGenotype(choices))
    with pytest.raises(ValueError, match=r"a mix of the shape \(2, 2\).* need \(2, 3\)"):
        space.supernet().apply({"params": params}, X[:, :2], {"choices": jnp.ones((2, 2))})
    for mix, message in (
        ({"normal": jnp.ones((2, 3))}, "the mix has normal, but a mix of this network is"),
        (jnp.ones((2, 3)), "the mix is a ArrayImpl"),
        (other, "the mix is a ChoiceGenotype, .* jaxdarts.one_hot"),
    ):
        with pytest.raises(ValueError, match=message):
            space.supernet().apply({"params": params}, X[:, :2], mix)
    plain = space.network(ChoiceGenotype((("first", "dense"), ("second", "dense"))))
    with pytest.raises(ValueError, match=r'collections Dense_0, .* as \{"params": ...\}'):
        plain.inherit(params)
    with pytest.raises(ValueError, match="no params/Dense_0: those of this space's supernet"):
        plain.inherit({"params": {}})
    with pytest.raises(TypeError, match="1 arguments: the network has 1; the mix follows"):
        space.supernet().apply({"params": params}, X[:, :2])
    with pytest.raises(ValueError, match="of a network of your own"):
        jd.spaces.of(GENOTYPE)
    with pytest.raises(ValueError, match="do not tell their operations"):
        jd.algorithms.oles(space)
    one = jd.spaces.of_network(network({"tanh": nn.tanh}), X)
    with pytest.raises(ValueError, match="one genotype only"):
        one.mutate(jax.random.key(0), one.sample(jax.random.key(0)))
