"""The operation `noise` of S4. Oracles: the moments of a standard normal; what must and must not be
equal.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.nn.cell import cell
from jaxdarts.nn.cnn import Run, noise_keys
from jaxdarts.nn.ops import Norms
from jaxdarts.nn.primitives.norm import batch_norms
from jaxdarts.space import Choices, fully_connected
from jaxdarts.training import export as trained
from jaxdarts.training.images import from_scratch

NORMS = Norms(batch_norms, batch_norms)
SPACE = jd.spaces.darts(1, ("noise", "skip_connect"))
GENOTYPE = jd.Genotype(
    (("noise", 0), ("skip_connect", 1)), (2,), (("noise", 0), ("max_pool_3x3", 1)), (2,)
)
# Nodes 2 and 3 each read one input, so that the output tells the edges apart.
TWO_EDGES = Choices(((0, 2), (1, 3)), (("noise",), ("noise",)), (2, 3))
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 1)), jnp.float32),
    "label": jnp.arange(4) % 3,
}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_standard_normal_of_its_own_on_every_edge_and_example(stride):
    def apply(x, mix, key):
        return cell({}, jnp.stack([x, x]), mix, TWO_EDGES, stride, NORMS, key)

    x, mix = jnp.full((3, 40, 40, 8), 7.0), jnp.array([[1.0], [0.5]])
    y, back = jax.vjp(lambda x, mix: apply(x, mix, jax.random.key(0)), x, mix)
    chex.assert_shape(y, (3, 40 // stride, 40 // stride, 16))
    first, second = np.asarray(y[..., :8]), 2 * np.asarray(y[..., 8:])
    samples = [*first, *second]  # the three examples of the two edges
    for i, sample in enumerate(samples):
        np.testing.assert_allclose([sample.mean(), sample.std()], [0, 1], atol=0.06)
        for other in samples[:i]:
            assert abs(np.corrcoef(sample.ravel(), other.ravel())[0, 1]) < 0.06
    dx, dmix = back(jnp.ones_like(y))
    assert not dx.any()
    np.testing.assert_allclose(dmix[:, 0], [first.sum(), second.sum()], rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(apply(-x, mix, jax.random.key(0)), y)
    assert not np.allclose(apply(x, mix, jax.random.key(1)), y)


def test_one_source_with_several_noisy_edges():
    choices = fully_connected(2, ("noise", "skip_connect"))
    mix = jnp.zeros(choices.shape).at[0, 0].set(1.0).at[2, 0].set(1.0)  # 0 -> 2 and 0 -> 3
    x = jnp.zeros((2, 4, 4, 2))
    y = cell({}, jnp.stack([x, x]), mix, choices, 1, NORMS, jax.random.key(0))
    assert not np.allclose(y[..., :2], y[..., 2:])


def test_keys_differ_by_cell_run_and_device():
    choices, key = TWO_EDGES, jax.random.key(0)

    def of_device(_, index):
        return jax.random.key_data(noise_keys(key, choices, Run("normal", 3, 4), index, "devices"))

    keys = [
        jax.vmap(lambda x, i=i: of_device(x, i), axis_name="devices")(jnp.arange(4))
        for i in range(5)
    ]
    keys.append(
        jax.random.key_data(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(5)))[None]
    )  # drop path's
    flat = np.concatenate([np.asarray(k).reshape(-1, k.shape[-1]) for k in keys])
    assert len(np.unique(flat, axis=0)) == len(flat) == 65
    assert noise_keys(None, fully_connected(1, ("none",)), Run("normal", 3, 4), 0, None) is None


def test_supernet():
    net = SPACE.supernet(2, 3, 3)
    params = net.init(jax.random.key(0), BATCH["image"], net.example_mix())["params"]
    mix = {name: jnp.full(c.shape, 0.5) for name, c in SPACE.cells.items()}
    objective = jd.objectives.classification(net)

    @jax.jit
    def value_and_gradient(params, mix, key):
        return jax.value_and_grad(lambda p, m: objective(p, m, (), BATCH, key)[0], (0, 1))(
            params, mix
        )

    one, other = (value_and_gradient(params, mix, jax.random.key(seed)) for seed in (1, 2))
    chex.assert_tree_all_finite(one)
    chex.assert_trees_all_equal(one, value_and_gradient(params, mix, jax.random.key(1)))
    assert one[0] != other[0] and one[1][1]["normal"][:, 0].all()
    with pytest.raises(
        ValueError, match="^the network has the operation noise: its call needs a random key"
    ):
        net.apply({"params": params}, BATCH["image"], mix)


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"unroll": 2}])
def test_noise_in_a_run_of_cells(options):
    net = SPACE.supernet(2, 6, 3, **options)  # the first run has two cells
    inputs = BATCH["image"], net.example_mix()
    variables = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    gradient = jax.grad(
        lambda mix, variables, key: jnp.sum(net.apply(variables, inputs[0], mix, key))
    )
    chex.assert_trees_all_equal_shapes(
        jax.eval_shape(gradient, inputs[1], variables, jax.random.key(1)), inputs[1]
    )


@pytest.fixture(scope="module")
def network():
    net = SPACE.network(GENOTYPE, 2, 3, 3)
    return net, net.init(jax.random.key(0), BATCH["image"])


def test_network_keeps_its_noise(network):
    net, variables = network
    with pytest.raises(ValueError, match="needs a random key"):
        net.apply(variables, BATCH["image"])
    apply = jax.jit(lambda key: net.apply(variables, BATCH["image"], key=key)[0])
    assert not np.allclose(apply(jax.random.key(0)), apply(jax.random.key(1)))
    np.testing.assert_array_equal(apply(jax.random.key(0)), apply(jax.random.key(0)))


def test_network_is_trained_and_evaluated(network):
    net, variables = network
    training = from_scratch(net, optax.sgd(0.1))
    state = training.init(jax.random.key(1), variables)
    state, metrics = jax.jit(training.step)(state, BATCH)
    chex.assert_tree_all_finite(metrics)
    evaluate = jax.jit(training.evaluate)
    chex.assert_trees_all_equal(*(evaluate(state, BATCH, jnp.ones(4)) for _ in range(2)))


def test_network_is_handed_off(network, tmp_path):
    _, variables = network
    facts = {
        "width": 2,
        "depth": 3,
        "num_classes": 3,
        "imagenet": False,
        "mean": [0.5],
        "std": [0.5],
        "image_shape": [8, 8, 1],
    }
    trained.save(
        tmp_path,
        genotype=GENOTYPE,
        params=variables["params"],
        averages=variables["batch_stats"],
        **facts,
    )
    apply, params = jd.load(tmp_path)
    images = jnp.zeros((4, 8, 8, 1), jnp.uint8)
    logits = jax.jit(apply)(params, images)
    chex.assert_shape(logits, (4, 3))
    jd.export(tmp_path, tmp_path / "network.bin", platforms=("cpu",))
    np.testing.assert_allclose(
        jd.read_exported(tmp_path / "network.bin")(images), logits, atol=1e-5
    )
