"""NAS-Bench-201's supernet with one operation an edge computed, and the scores that look inside of
it.

Oracles: the supernet at a one-hot mix, the discrete network, and a network of PyTorch's modules
with hooks, as the scores' authors have them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import proxies
from jaxdarts.nn import taps
from jaxdarts.nn.benchmarks.nasbench201 import Picked, picked
from jaxdarts.nn.cell import edges_of
from jaxdarts.space import locate

SPACE = jd.spaces.nasbench201()
CHOICES = SPACE.cells["cell"]
IMAGES = np.random.default_rng(0).standard_normal((6, 8, 8, 2))
BATCH = {"image": IMAGES, "label": jnp.array([0, 1, 2, 1, 0, 2])}
ZEN_KEY = jax.random.key(5)
# Every operation; a convolution that reads a node which only `none` enters; nothing at all.
CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|none~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|none~2|",
    *(str(SPACE.sample(jax.random.key(seed))) for seed in range(3)),
]
OPTIONS = {"width": 2, "depth": 2, "num_classes": 3, "dtype": jnp.float64}


def picks_of(text):
    return jnp.array([op for _, op in locate(SPACE.cells, jd.genotypes.parse(text))["cell"]])


@functools.cache
def weights(**switches):
    net = Picked(SPACE.cells, **switches, **OPTIONS)
    variables = net.init(jax.random.key(0), *net.example_inputs((8, 8, 2)))
    assert set(variables) == {"params"}
    return net, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)


def looked_into(variables, picks):
    """K of NASWOT, and zen of the weights as they are."""
    net, images = weights()[0], jnp.asarray(IMAGES)

    def features(params, x):
        _, recorded = net.apply(params, x, picks, mutable=["features", "variances"])
        return recorded["features"]["value"][0], recorded["variances"]

    k = proxies.declared(
        lambda params, x: net.apply(params, x, picks, mutable=["units"]), variables, images
    )
    return k, proxies.zen(features, variables, images, ZEN_KEY)


def of_fisher(variables, picks):
    """The Fisher score."""
    (net, _), batch = weights(), jax.tree.map(jnp.asarray, BATCH)
    _, zeros = net.apply(variables, batch["image"], picks, mutable=["taps"])
    return proxies.fisher(
        lambda params, x, taps: net.apply({**params, **taps}, x, picks), variables, batch, zeros
    )


def flow(variables, picks):
    net, _ = weights(normed=False)
    return proxies.synflow(lambda params, x: net.apply(params, x, picks), variables, IMAGES)


AS_PUBLISHED = {"normed": False, "residual_normed": True, "biased": True}


def published_flow(variables, picks):
    net, _ = weights(**AS_PUBLISHED)
    return proxies.synflow(lambda params, x: net.apply(params, x, picks), variables, IMAGES)


@functools.cache
def compiled(function):
    """One program for all cells."""
    return jax.jit(function)


# ------------------------------------------------------------------------------- the other networks


def test_picked_is_the_supernet_at_a_one_hot_mix(x64):
    net, variables = weights()
    supernet = SPACE.supernet(**OPTIONS)
    supernet_shapes = jax.eval_shape(
        supernet.init, jax.random.key(0), *supernet.example_inputs((8, 8, 2))
    )
    assert jax.tree.map(jnp.shape, supernet_shapes) == jax.tree.map(jnp.shape, variables)
    picked_apply, mixed = jax.jit(net.apply), jax.jit(supernet.apply)
    for text in CELLS:
        picks, mix = picks_of(text), jd.one_hot(SPACE.cells, jd.genotypes.parse(text))
        expected = mixed(variables, IMAGES, mix)
        np.testing.assert_allclose(picked_apply(variables, IMAGES, picks), expected, rtol=1e-9)
        used = {"params": picked(SPACE.cells, variables["params"], picks)}
        np.testing.assert_allclose(picked_apply(used, IMAGES, picks), expected, rtol=1e-9)
    assert picked_apply._cache_size() == mixed._cache_size() == 1


def test_picked_is_the_discrete_network():
    """In training, with its weights; and the score that looks at weights alone sees those of the
    discrete network.
    """
    text, options = CELLS[0], OPTIONS | {"dtype": jnp.float32}
    net = Picked(SPACE.cells, **options)
    params = net.init(jax.random.key(0), *net.example_inputs((8, 8, 2)))["params"]
    flat = dict(jax.tree_util.tree_leaves_with_path(params))
    alone = SPACE.network(jd.genotypes.parse(text), **options)
    variables = alone.init(jax.random.key(1), *alone.example_inputs((8, 8, 2)))

    def take(path, leaf):
        op = path[-1].key.removesuffix("_kernel")
        if path not in flat or op == path[-1].key:
            return flat.get(path, leaf)
        rows = [
            i for i, e in enumerate(edges_of(CHOICES, op)) if alone.cells["cell"].ops[e] == (op,)
        ]
        return flat[path][:, np.array(rows)]

    weights, images, picks = (
        jax.tree_util.tree_map_with_path(take, variables["params"]),
        jnp.float32(IMAGES),
        picks_of(text),
    )
    (expected, _), _ = jax.jit(
        lambda weights: alone.apply(
            variables | {"params": weights}, images, True, mutable=["batch_stats"]
        )
    )(weights)
    np.testing.assert_allclose(
        jax.jit(net.apply)({"params": params}, images, picks), expected, rtol=1e-4, atol=1e-5
    )
    norms = (
        proxies.l2_norm(None, tree, BATCH) for tree in (picked(SPACE.cells, params, picks), weights)
    )
    np.testing.assert_allclose(*norms, rtol=1e-6)


# ------------------------------------------------------------------------------------------ PyTorch


class Reference:
    """A cell's network of PyTorch's modules, with hooks on its rectifiers, norms and layers."""

    def __init__(self, text, params, normed=True, residual_normed=None):
        self.torch = torch = pytest.importorskip("torch")
        self.params, self.normed, self.cell = params, normed, jd.genotypes.parse(text).cell
        residual_normed = normed if residual_normed is None else residual_normed
        self.relus, self.norms, self.layers = [], [], []
        self.stem = self.conv(params["stem"]["kernel"])
        self.stem_norm = self.norm(OPTIONS["width"])
        self.stages, self.reductions = [], []
        for i in range(3):
            width = OPTIONS["width"] * 2**i
            if i:
                first, second, shortcut = (
                    params[f"reduction{i}_{part}"]["kernel"]
                    for part in ("first", "second", "shortcut")
                )
                self.reductions.append(
                    (
                        self.relu_conv_norm(first, residual_normed, 2),
                        self.relu_conv_norm(second, residual_normed),
                        self.conv(shortcut),
                    )
                )
            cells = []
            for n in range(OPTIONS["depth"]):
                edges = []
                for e, (op, _) in enumerate(self.cell):
                    kernel, bias = None, None
                    if op.startswith("nor_conv"):
                        row = n, edges_of(CHOICES, op).index(e)
                        kernel = params[f"stage{i}"][f"{op}_kernel"][row]
                        if f"{op}_bias" in params[f"stage{i}"]:
                            bias = params[f"stage{i}"][f"{op}_bias"][row]
                    edges.append(self.operation(op, kernel, bias))
                cells.append(edges)
            self.stages.append(cells)
        self.last_norm, self.last_relu = self.norm(width), self.relu()
        self.head = torch.nn.Linear(*params["head"].shape).double()
        self.head.weight.data, self.head.bias.data = (
            self.tensor(params["head"].T),
            self.tensor(params["head_bias"]),
        )
        self.layers.append(self.head)

    def tensor(self, x):
        return self.torch.tensor(np.asarray(x, np.float64))

    def relu(self):
        self.relus.append(self.torch.nn.ReLU())
        return self.relus[-1]

    def norm(self, width, normed=None):
        if not (self.normed if normed is None else normed):
            return lambda x: x
        self.norms.append(self.torch.nn.BatchNorm2d(width).double())
        return self.norms[-1]

    def conv(self, kernel, stride=1, bias=None):
        size, _, before, after = kernel.shape
        biased = bias is not None
        layer = self.torch.nn.Conv2d(before, after, size, stride, size // 2, bias=biased).double()
        layer.weight.data = self.tensor(np.transpose(kernel, (3, 2, 0, 1)))
        if biased:
            layer.bias.data = self.tensor(bias)
        self.layers.append(layer)
        return layer

    def relu_conv_norm(self, kernel, normed=None, stride=1, bias=None):
        relu, conv = self.relu(), self.conv(kernel, stride, bias)
        norm = self.norm(kernel.shape[-1], normed)
        return lambda x: norm(conv(relu(x)))

    def operation(self, op, kernel, bias=None):
        if kernel is not None:
            return self.relu_conv_norm(kernel, bias=bias)
        pool = self.torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        return {"none": lambda x: x.mul(0.0), "skip_connect": lambda x: x, "avg_pool_3x3": pool}[op]

    def __call__(self, x):
        x = self.stem_norm(self.stem(x))
        for i, cells in enumerate(self.stages):
            if i:
                first, second, shortcut = self.reductions[i - 1]
                x = second(first(x)) + shortcut(self.torch.nn.functional.avg_pool2d(x, 2))
            for edges in cells:
                states = [x, 0, 0, 0]
                for edge, (source, target) in zip(edges, CHOICES.edges):
                    states[target] = states[target] + edge(states[source])
                x = states[3]
        self.features = self.last_relu(self.last_norm(x))
        return self.head(self.features.mean((2, 3)))

    def images(self):
        return self.tensor(np.transpose(IMAGES, (0, 3, 1, 2)))

    def naswot(self):
        """K in two passes: the first one marks the rectifiers that a backward pass visits."""
        visited, k = set(), np.zeros((len(IMAGES), len(IMAGES)))
        marks = [
            relu.register_full_backward_hook(lambda module, *_: visited.add(module))
            for relu in self.relus
        ]
        x = self.images().requires_grad_()
        y = self(x)
        y.backward(self.torch.ones_like(y))
        for mark in marks:
            mark.remove()

        def count(module, inputs, _):
            if module in visited:
                on = (inputs[0].reshape(len(IMAGES), -1) > 0).double().numpy()
                k[...] += on @ on.T + (1 - on) @ (1 - on).T

        for relu in self.relus:
            relu.register_forward_hook(count)
        self(self.images())
        return k

    def loss(self):
        self.outputs = []
        for layer in self.layers:
            layer.register_forward_hook(
                lambda module, _, out: (out.retain_grad(), self.outputs.append((module, out)))[0]
            )
        logits = self(self.images())
        loss = self.torch.nn.functional.cross_entropy(
            logits, self.torch.tensor(np.asarray(BATCH["label"], np.int64))
        )
        loss.backward()


@pytest.mark.parametrize("text", CELLS)
def test_units_are_counted_as_published(text, x64):
    _, variables = weights()
    k, _ = compiled(looked_into)(variables, picks_of(text))
    np.testing.assert_array_equal(k, Reference(text, variables["params"]).naswot())


def test_units_as_often_as_the_authors_hook_takes_them(x64):
    """It takes a ReLUConvBN beside the ReLU in it: all units count twice but the last ones, which
    stand alone. By K: 2 K less that of the last.
    """
    net, variables = weights()
    picks = picks_of(CELLS[0])

    def recording(net):
        return lambda params, x: net.apply(params, x, picks, mutable=["units"])

    images = jnp.asarray(IMAGES)
    once, _ = compiled(looked_into)(variables, picks)

    @jax.jit
    def hooked_and_units(variables):
        k = proxies.declared(recording(net.clone(hooked=True)), variables, images)
        return k, recording(net)(variables, images)[1]["units"]["value"][-1]

    hooked, units = hooked_and_units(variables)
    on = np.asarray(units.on).reshape(len(IMAGES), -1).astype(int)
    last = on @ on.T + (1 - on) @ (1 - on).T
    np.testing.assert_array_equal(hooked, 2 * once - last)


@pytest.mark.parametrize("text", CELLS)
def test_fisher_is_that_of_the_authors(text, x64):
    _, variables = weights()
    reference = Reference(text, variables["params"])
    reference.loss()
    expected = 0.0
    for layer, out in reference.outputs:
        product = (out * out.grad).detach()
        product = product.sum((2, 3)) if product.ndim == 4 else product
        expected += float((product.square().mean(0) / 2).sum()) * layer.weight[0].numel()
    np.testing.assert_allclose(
        compiled(of_fisher)(variables, picks_of(text)), expected, rtol=1e-6, atol=1e-12
    )


def flow_of_modules(reference):
    """Sum of |weight times gradient| of the layers, for one image of ones."""
    reference(reference.tensor(np.ones((1, 2, 8, 8)))).sum().backward()
    return sum(
        float((layer.weight * layer.weight.grad).detach().abs().sum()) for layer in reference.layers
    )


@pytest.mark.parametrize("text", CELLS)
def test_synflow_without_norms_is_its_definition(text, x64):
    _, variables = weights(normed=False)
    expected = flow_of_modules(Reference(text, jax.tree.map(jnp.abs, variables["params"]), False))
    np.testing.assert_allclose(compiled(flow)(variables, picks_of(text)), expected, rtol=1e-9)


@pytest.mark.parametrize("text", CELLS)
def test_synflow_as_published_is_that_of_the_authors(text, x64):
    """The batch norms of the residual blocks stay, in train mode; the cells' convolutions have
    biases, whose own products do not count.

    The code of the zero-cost proxies' authors (SamsungLabs/zero-cost-nas,
    foresight/pruners/measures/synflow.py on its NAS201Model of 16 channels, images of 32 x 32),
    given the same weights in float64, had the same score on eight cells: within 7.8e-16 of it.
    """
    _, variables = weights(**AS_PUBLISHED)
    params = jax.tree.map(jnp.abs, variables["params"])
    assert np.all(np.asarray(params["stage0"]["nor_conv_3x3_bias"]) > 0)
    expected = flow_of_modules(Reference(text, params, normed=False, residual_normed=True))
    actual = compiled(published_flow)(variables, picks_of(text))
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_zen_is_its_definition(x64):
    _, variables = weights()
    _, score = compiled(looked_into)(variables, picks_of(CELLS[0]))
    reference, variances, maps = Reference(CELLS[0], variables["params"]), [], []
    for norm in reference.norms:
        norm.register_forward_hook(
            lambda _, inputs, __: variances.append(
                inputs[0].detach().var((0, 2, 3), correction=0).mean().item()
            )
        )
    first, second = (
        jax.random.normal(image_key, IMAGES.shape, IMAGES.dtype)
        for image_key in jax.random.split(ZEN_KEY)
    )
    for x in (first, first + 0.01 * second):
        reference(reference.tensor(np.transpose(x, (0, 3, 1, 2))))
        maps.append(reference.features.detach().numpy())
    deviations = np.log(variances[: len(reference.norms)]).sum() / 2
    np.testing.assert_allclose(
        score, np.log(np.abs(maps[0] - maps[1]).sum((1, 2, 3)).mean()) + deviations, rtol=1e-6
    )


# ------------------------------------------------------------------------ modules of the users' own


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(
            nn.BatchNorm(use_running_average=False, momentum=0.0)(
                nn.Conv(4, (3, 3), use_bias=False)(x)
            )
        )
        self.sow("units", "on", jd.types.Units(x[None] > 0, jnp.array([2.0])))
        self.sow("features", "map", x)
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


def test_scores_of_a_module_of_the_users_own(x64):
    net = Own()
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64), dict(net.init(jax.random.key(0), IMAGES))
    )
    params, averages = variables["params"], {"batch_stats": variables["batch_stats"]}

    def apply(params, x):
        return net.apply({"params": params, **averages}, x, mutable=["batch_stats"])[0]

    # Fisher: the layer by hand, its output a variable.
    make, with_taps = taps.of_layers(apply)
    zeros = make(params, IMAGES)
    assert [tap.shape for tap in zeros] == [(6, 4), (6, 3)]
    actual = jax.jit(
        lambda params: proxies.fisher(
            lambda p, x, taps: with_taps(taps, p, x), params, BATCH, zeros
        )
    )(params)
    convolved = nn.Conv(4, (3, 3), use_bias=False).apply({"params": params["Conv_0"]}, IMAGES)
    dense = params["Dense_0"]

    def rest(y, z=None):
        y = y - jnp.mean(y, (0, 1, 2), keepdims=True)
        y = nn.relu(y / jnp.sqrt(jnp.mean(y**2, (0, 1, 2), keepdims=True) + 1e-5)).mean((1, 2))
        z = y @ dense["kernel"] + dense["bias"][None] if z is None else z
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), BATCH["label"][:, None], 1)), z

    slopes = jax.grad(lambda y: rest(y)[0])(convolved)
    logits = rest(convolved)[1]
    by_logits = jax.grad(lambda z: rest(convolved, z)[0])(logits)
    expected = (
        9 * 2 * jnp.sum(jnp.sum(convolved * slopes, (1, 2)) ** 2) / 12
        + 4 * jnp.sum((logits * by_logits) ** 2) / 12
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

    # NASWOT: the units count twice, as the module says.
    def recorded_units(params, x):
        return net.apply({"params": params, **averages}, x, mutable=["units", "batch_stats"])

    k = 2 * proxies.agreements(apply, params, IMAGES)
    np.testing.assert_array_equal(proxies.declared(recorded_units, params, IMAGES), k)
    score = proxies.naswot(recorded_units, params, IMAGES, agreements=proxies.declared)
    np.testing.assert_allclose(score, np.linalg.slogdet(k)[1], rtol=1e-9)
    assert proxies.linear_regions(recorded_units, params, IMAGES, agreements=proxies.declared) == 6

    # Zen: the variances are those of Flax's norm.
    def features(params, x):
        _, recorded = net.apply(
            {"params": params, **averages}, x, mutable=["features", "batch_stats"]
        )
        return recorded["features"]["map"][0], [recorded["batch_stats"]["BatchNorm_0"]["var"]]

    drawn = proxies.gaussian(jax.random.key(1), params)
    assert np.all(drawn["BatchNorm_0"]["scale"] == 1) and np.all(drawn["Dense_0"]["bias"] == 0)
    assert 0.5 < np.std(drawn["Conv_0"]["kernel"]) < 1.5
    key = jax.random.key(2)
    first, second = (
        jax.random.normal(image_key, IMAGES.shape, IMAGES.dtype)
        for image_key in jax.random.split(key)
    )
    (map_, variance), (moved, _) = features(drawn, first), features(drawn, first + 0.01 * second)
    expected = np.log(np.abs(map_ - moved).sum((1, 2, 3)).mean()) + np.log(np.mean(variance[0])) / 2
    np.testing.assert_allclose(proxies.zen(features, drawn, IMAGES, key), expected, rtol=1e-9)
    assert proxies.zen(lambda p, x: (0 * x, []), drawn, IMAGES, key) == -jnp.inf


def test_edges_with_candidates_of_their_own_are_refused():
    choices = CHOICES._replace(ops=(("none",), *CHOICES.ops[1:]))
    net = Picked({"cell": choices}, width=2, depth=1)
    with pytest.raises(ValueError, match="edges with different candidates"):
        net.init(jax.random.key(0), *net.example_inputs((8, 8, 2)))
