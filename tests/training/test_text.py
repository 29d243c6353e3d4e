"""Training of language models. Oracles: PyTorch's rule of ASGD by hand, the definitions, one
device.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts.data import text
from jaxdarts.nn.rnn import Dropouts
from jaxdarts.training.text import averaging_starts, from_scratch

GENOTYPE = jd.genotypes.RecurrentGenotype((("tanh", 0), ("relu", 1)), (1, 2))
WORDS, WIDTH, BATCH, TIME = 7, 4, 4, 5
TX = optax.chain(
    optax.clip_by_global_norm(0.25),
    optax.add_decayed_weights(1e-3),
    optax.sgd(2.0),
    jd.training.schedules.scaled_by_length(TIME),
)
STREAM = text.streams(np.random.default_rng(0).integers(0, WORDS, 200), BATCH)


def started(**options):
    net = jd.spaces.darts_rnn().network(
        GENOTYPE, WIDTH, WORDS, dropouts=Dropouts(0.1, 0.1, 0.2, 0.1, 0.2), **options
    )
    training = from_scratch(
        jd.objectives.language_model(net), TX, axis_name=options.get("axis_name")
    )
    params = jax.tree.map(
        lambda w: 10 * w, net.init(jax.random.key(0), *net.example_inputs())["params"]
    )
    return net, training, training.init(jax.random.key(1), params, jnp.zeros((BATCH, WIDTH)))


def batch(number, length=TIME):
    return text.window(STREAM, jnp.int32(TIME * number), jnp.int32(length), TIME)


def test_a_step_is_sgd_and_carries_the_hidden_state():
    net, training, state = started()
    key, data = jax.random.fold_in(state.key, 0), batch(0, 3)

    @jax.jit
    def expected(params):
        objective = jd.objectives.language_model(net)
        (loss, (hidden, _)), gradient = jax.value_and_grad(objective, has_aux=True)(
            params, {}, state.hidden, data, key
        )
        scale = jnp.minimum(1, 0.25 / optax.tree.norm(gradient))
        return hidden, jax.tree.map(
            lambda w, g: w - 2.0 * 3 / TIME * (scale * g + 1e-3 * w), params, gradient
        )

    hidden, params = expected(state.params)
    new, metrics = jax.jit(training.step)(state, batch(0, 3))
    chex.assert_trees_all_close(new.params, params, atol=1e-6)
    chex.assert_trees_all_close(new.average, params, atol=1e-6)
    chex.assert_trees_all_close(new.hidden, hidden, atol=1e-6)
    assert metrics["reloads"] == 0 and new.averaged == 0 and new.step == 1


def test_the_average_is_pytorchs_and_resuming_across_the_switch_changes_nothing(tmp_path):
    """torch.optim.ASGD with t0 = 0, lambd = 0: ax += mu (w - ax), mu = 1, 1, 1/2, 1/3, ..."""
    _, training, state = started()
    step, expected = jax.jit(training.step), None
    for number in range(7):
        if number == 2:
            state = training.after_validation(state, jnp.float32(2.0), jnp.array(True))
        if number in (1, 5):  # before the switch and after it
            with jd.runs.checkpoint.open_folder(tmp_path / str(number)) as manager:
                jd.runs.checkpoint.save(manager, number, state, {})
        state, _ = step(state, batch(number))
        if number >= 2:
            mu = 1 / max(1, number - 2)
            expected = (
                state.params
                if mu == 1
                else jax.tree.map(lambda a, w, mu=mu: a + mu * (w - a), expected, state.params)
            )
            chex.assert_trees_all_close(state.average, expected, atol=1e-6)
        else:
            chex.assert_trees_all_equal(state.average, state.params)
    assert float(optax.tree.norm(optax.tree.sub(state.average, state.params))) > 1e-3
    for number in (1, 5):
        with jd.runs.checkpoint.open_folder(tmp_path / str(number)) as manager:
            resumed = jd.runs.checkpoint.restore(manager, started()[2], {})
        for later in range(number, 7):
            if later == 2:
                resumed = training.after_validation(resumed, jnp.float32(2.0), jnp.array(True))
            resumed, _ = step(resumed, batch(later))
        for name in ("params", "average", "hidden", "best", "best_loss", "averaged", "step"):
            chex.assert_trees_all_equal(getattr(resumed, name), getattr(state, name))


def test_the_best_average_is_kept_and_taken_up_after_a_loss_that_is_no_number():
    _, training, first = started()
    step = jax.jit(training.step)
    state, _ = step(first, batch(0))
    state = training.after_validation(state, jnp.float32(2.0), jnp.array(False))
    best = state.average
    state = training.after_validation(step(state, batch(1))[0], jnp.float32(3.0), jnp.array(True))
    chex.assert_trees_all_equal(state.best, best)
    assert state.best_loss == 2
    broken = dataclasses.replace(state, params=jax.tree.map(lambda w: w * jnp.nan, state.params))
    back, metrics = step(broken, batch(2))
    assert metrics["reloads"] == 1 and back.averaged == 1 and back.step == 3
    for tree in (back.params, back.average, back.best):
        chex.assert_trees_all_equal(tree, best)
    assert not np.any(back.hidden)
    again, metrics = step(back, batch(3))
    assert metrics["reloads"] == 0 and np.isfinite(metrics["loss"]) and again.averaged == 2
    # Nothing has been validated in the first epoch: back to the start.
    broken = dataclasses.replace(first, params=broken.params)
    chex.assert_trees_all_equal(step(broken, batch(0))[0].params, first.params)


@pytest.mark.parametrize(
    "losses, epoch",
    [
        ([], None),
        ([3, 2, 1, 1, 1, 9], None),  # five before it: too early
        ([3, 2, 1, 1, 1, 1, 3], None),  # the best of [3] is not beaten
        ([3, 2, 1, 1, 1, 1, 3.1], 6),
        ([9, 3, 8, 8, 8, 8, 8, 8, 1, 9], 7),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], None),
    ],
)
def test_when_averaging_starts(losses, epoch):
    assert averaging_starts(losses) == epoch
    # What it was told before does not change with what comes after.
    assert epoch is None or averaging_starts(losses[: epoch + 1]) == epoch


def test_perplexity():
    net, _, state = started()
    objective = jd.objectives.language_model(net)
    hidden, params = jnp.zeros((BATCH, WIDTH)), state.params
    logits = jax.jit(net.apply)({"params": params}, STREAM[:-1], hidden).logits
    expected = -np.mean(
        np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), STREAM[1:, :, None], axis=2)
    )
    for length in (7, 49, 100):
        perplexity = jax.jit(jd.training.text.over_stream(objective, length))(
            params, {}, hidden, jnp.asarray(STREAM)
        )
        np.testing.assert_allclose(perplexity, expected, rtol=1e-5)
    nothing = jax.tree.map(jnp.zeros_like, params)
    perplexity = jax.jit(jd.training.text.over_stream(objective, 7))(
        nothing, {}, hidden, jnp.asarray(STREAM)
    )
    np.testing.assert_allclose(np.exp(perplexity), WORDS, rtol=1e-5)


def test_devices_take_the_step_of_one(devices):
    _, training, state = started()
    _, many, _ = started(axis_name=jd.parallel.AXIS)
    parts = {
        name: jnp.asarray(jd.parallel.split(batch(0)[name], 4, axis=1))
        for name in ("tokens", "targets")
    }
    parts["length"] = jnp.full(4, TIME, jnp.int32)
    step = jax.pmap(many.step, jd.parallel.AXIS, devices=devices)
    new = jd.parallel.first(step(jd.parallel.replicate(state, devices), parts)[0])
    expected, _ = jax.jit(training.step)(state, batch(0))
    chex.assert_trees_all_close(
        (new.params, new.hidden), (expected.params, expected.hidden), atol=1e-5
    )


def test_a_text_is_learnt():
    """Words that follow each other in a circle: the perplexity falls far below the vocabulary's
    size.
    """
    net = jd.spaces.darts_rnn().network(GENOTYPE, 8, WORDS)
    objective = jd.objectives.language_model(net)
    training = from_scratch(objective, TX)
    stream = jnp.asarray(text.streams(np.arange(400) % WORDS, BATCH))
    params = jax.tree.map(
        lambda w: 10 * w, net.init(jax.random.key(0), *net.example_inputs())["params"]
    )
    state, step = training.init(jax.random.key(1), params, net.start(BATCH)), jax.jit(training.step)
    for epoch in range(6):
        for start, length in zip(*text.random_windows(0, epoch, len(stream), TIME)):
            state, _ = step(state, text.window(stream, start, length, TIME))
    loss = jax.jit(jd.training.text.over_stream(objective, TIME))(
        state.average, {}, net.start(BATCH), stream
    )
    assert np.exp(loss) < 2
