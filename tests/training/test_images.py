"""The training step. Oracles: the parts written out by hand; one device."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdarts as jd
from jaxdarts.objectives import hits
from jaxdarts.training.images import TrainState, cross_entropy, from_scratch

GENOTYPE = jd.Genotype(
    (("sep_conv_3x3", 0), ("skip_connect", 1)),
    (2,),
    (("max_pool_3x3", 0), ("skip_connect", 1)),
    (2,),
)


def network(**options):
    return jd.spaces.darts().network(GENOTYPE, 2, 3, 3, **options)


def batch(seed=0, size=8, pixels=8):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.standard_normal((size, pixels, pixels, 1)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
    }


@functools.cache
def variables(auxiliary):
    net, pixels = network(auxiliary=auxiliary), 32 if auxiliary else 8
    return jax.jit(net.init)(jax.random.key(0), batch(pixels=pixels)["image"])


def start(training, auxiliary=False):
    return training.init(jax.random.key(1), variables(auxiliary))


@functools.cache
def plain_step():
    """Without drop path, jitted."""
    return jax.jit(from_scratch(network(), optax.sgd(0.1)).step)


def test_one_step_is_sgd_on_the_loss():
    net = network()
    state = start(from_scratch(net, optax.sgd(0.1)))

    def loss(params):
        variables = {"params": params, "batch_stats": state.averages}
        (logits, _), new = net.apply(variables, batch()["image"], True, mutable=["batch_stats"])
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, batch()["label"])
        ), new

    (value, averages), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params)
    new, metrics = plain_step()(state, batch())
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    chex.assert_trees_all_close(new.params, expected, atol=1e-5)
    chex.assert_trees_all_close(new.averages, averages["batch_stats"], atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert new.step == 1 and isinstance(new, TrainState)


def test_label_smoothing_against_the_definition(x64):
    logits, labels = (
        jnp.asarray(np.random.default_rng(0).standard_normal((5, 4))),
        jnp.array([0, 1, 2, 3, 0]),
    )
    log_p = np.asarray(jax.nn.log_softmax(logits))
    target = 0.9 * np.eye(4)[np.asarray(labels)] + 0.1 / 4
    np.testing.assert_allclose(
        cross_entropy(logits, labels, 0.1), -(target * log_p).sum(-1), rtol=1e-10
    )


def test_hits():
    logits = jnp.array([[9.0, 1, 2, 3, 4, 5], [0.0, 1, 2, 3, 4, 5], [0.0, 1, 2, 3, 4, 5]])
    counts = hits(logits, jnp.array([0, 0, 1]))
    np.testing.assert_array_equal(counts["accuracy"], [1, 0, 0])
    np.testing.assert_array_equal(counts["top5"], [1, 0, 1])


def test_devices_take_the_step_of_one(devices):
    tx, pixels = optax.sgd(0.1, momentum=0.9), 32  # the head wants 8x8 after two reductions
    single, many = (network(auxiliary=True, axis_name=axis_name) for axis_name in (None, "devices"))
    training = from_scratch(single, tx)
    state = start(training, auxiliary=True)
    expected, metrics = jax.jit(training.step)(state, batch(pixels=pixels))
    step = jax.pmap(
        from_scratch(many, tx, axis_name="devices").step,
        "devices",
        in_axes=(None, 0),
        devices=devices,
    )
    on_devices, device_metrics = jax.tree.map(
        lambda x: x[0],
        step(state, jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch(pixels=pixels))),
    )
    chex.assert_trees_all_close(on_devices.params, expected.params, atol=1e-5)
    chex.assert_trees_all_close(on_devices.averages, expected.averages, atol=1e-5)
    chex.assert_trees_all_close(device_metrics, metrics, atol=1e-5)


def test_evaluation_weighs_examples_and_leaves_the_state():
    net = network()
    training = from_scratch(net, optax.sgd(0.1))
    state = start(training)
    weights = jnp.array([1.0] * 5 + [0.0] * 3)
    sums = jax.jit(training.evaluate)(state, batch(), weights)
    few = jax.jit(training.evaluate)(state, jax.tree.map(lambda x: x[:5], batch()), jnp.ones(5))
    chex.assert_trees_all_close(sums, few, rtol=1e-5)


def test_drop_path_follows_its_schedule():
    net = network()
    training = from_scratch(net, optax.sgd(0.1), drop_path=lambda step: 0.6 * (step == 1))
    state, step = start(training), jax.jit(training.step)
    for number in range(3):
        _, plain = plain_step()(state, batch())
        state, dropped = step(state, batch())
        assert np.isclose(plain["loss"], dropped["loss"], atol=1e-5) == (number != 1)
