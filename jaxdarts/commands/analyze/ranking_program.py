"""The programs of the study of rankings: training with shared weights, accuracies of children."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import runs
from jaxdarts.analysis import sharing
from jaxdarts.analysis.sharing import SharedState
from jaxdarts.commands import optimizers
from jaxdarts.commands.analyze.ranking_flags import Config
from jaxdarts.commands.analyze.ranking_plan import RULES, PlannedTraining, epochs_of
from jaxdarts.data import augment, feed, images
from jaxdarts.nn.benchmarks.weight_sharing import SinglePath
from jaxdarts.spaces.weight_sharing64 import CELLS, all_picks

Shared = runs.Training[SharedState]


class Program(NamedTuple):
    """The compiled functions of trainings that share weights in one way, and what they run on.

    init: seed -> state.
    fresh: state -> the same weights, with nothing that the optimiser remembers.
    advance: (state, order of an epoch's images, children of its steps, first step, last one
    (excluded), key) -> state; the
        state that it is given is used up.
    accuracies: (state, children) -> their accuracies on the test images.
    """

    init: Callable[[int], SharedState]
    fresh: Callable[[SharedState], SharedState]
    advance: Callable[..., SharedState]
    accuracies: Callable[[SharedState, Sequence[int]], list[float]]
    steps_per_epoch: int
    num_images: int


def build(config: Config, dataset: images.Dataset) -> Callable[[PlannedTraining], Program]:
    """Puts the library's parts together for one configuration: training -> the program that it is
    run by.
    """
    net = SinglePath(CELLS, config.init_channels, config.layers, len(dataset.class_names))
    length, children = dataset.train.num // config.batch_size, all_picks()
    read = augment.reader(dataset.mean, dataset.std, padding=config.crop_padding, flip=config.flip)
    data = {
        name: jax.device_put({"image": part[0], "label": part[1]})
        for name, part in zip(("train", "test"), dataset[1:3])
    }
    indices, weights = feed.filled_up(dataset.test.num, min(512, dataset.test.num))

    def optimizer(epochs) -> optax.GradientTransformation:
        run_config = dataclasses.replace(config, epochs=epochs)

        def rate(step):
            return optimizers.cosine_rate(run_config, jnp.minimum(step // length, epochs))

        return optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=config.momentum, nesterov=config.nesterov),
        )

    def shared(cells, epochs) -> sharing.Sharing:
        """What takes the number of a child. Both arguments are traced: one program serves all
        prefixes and lengths.
        """
        if cells is not None:
            return sharing.shared_prefix(net, optimizer(epochs), children, cells)
        training, picks = sharing.one_child(net, optimizer(epochs)), jnp.asarray(children)
        return training._replace(
            step=lambda state, batch, child: training.step(state, batch, picks[child]),
            evaluate=lambda state, batch, weights, child: training.evaluate(
                state, batch, weights, picks[child]
            ),
        )

    # One call for each mini-batch: inside a loop, XLA's convolutions take several times as long on
    # a CPU.
    @functools.partial(runs.jitted, donate_argnums=0)
    def step(state, setting, train, order, i, child, key):
        batch = jax.lax.dynamic_slice_in_dim(order, i * config.batch_size, config.batch_size)
        return shared(*setting).step(
            state, read(train, batch, jax.random.fold_in(key, state.step)), child
        )[0]

    @runs.jitted
    def correct(state, setting, test, indices, weights, child):
        return shared(*setting).evaluate(state, read(test, indices), weights, child)["accuracy"]

    @functools.cache
    def variables(seed: int):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return jax.tree.map(np.asarray, net.init(key, *net.example_inputs(dataset.image_shape)))

    def program(training: PlannedTraining) -> Program:
        setting = training.prefix, epochs_of(config, training)

        def advance(state, order, step_children, start, stop, key):
            for i in range(start, stop):
                state = step(state, setting, data["train"], order, i, int(step_children[i]), key)
            return state

        def accuracies(state, members):
            sums = [
                [
                    correct(state, setting, data["test"], *batch, child)
                    for batch in zip(indices, weights, strict=True)
                ]
                for child in members
            ]
            return (np.sum(jax.device_get(sums), axis=1) / dataset.test.num).tolist()

        return Program(
            init=lambda seed: shared(*setting).init(jax.tree.map(jnp.array, variables(seed))),
            # The schedule goes on where it is.
            fresh=lambda state: dataclasses.replace(
                jax.tree.map(jnp.array, state),
                opt=optax.tree.set(optimizer(1).init(state.params), count=jnp.array(state.step)),
            ),
            advance=advance,
            accuracies=accuracies,
            steps_per_epoch=length,
            num_images=dataset.train.num,
        )

    return program


def run(config: Config, program: Program, training: PlannedTraining) -> dict[str, Any]:
    """One training: accuracies of its members after some epochs, after the last steps, and after
    fine tuning.
    """
    begun = time.monotonic()
    result = runs.train_unattended(task_of(config, program, training))
    return {**result, "seconds": time.monotonic() - begun}


def task_of(
    config: Config, program: Program, planned: PlannedTraining
) -> runs.Task[SharedState, runs.Records, dict[str, Any]]:
    """The training as a task, whose result is the accuracies."""
    length, members = program.steps_per_epoch, planned.members
    key = jax.random.key(planned.seed)
    data_key, tune_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
    epochs = epochs_of(config, planned)
    total = epochs * length
    children = RULES[planned.rule](members, total, planned.order).reshape(epochs, length)
    result: dict[str, Any] = {"epochs": [], "accuracies": [], "last": [], "tuned": {}}

    def steps(epoch: int) -> Callable[[Shared, int], Shared]:
        order = augment.order(data_key, epoch, program.num_images)

        def take(training: Shared, i: int) -> Shared:
            state = program.advance(training.state, order, children[epoch], i, i + 1, data_key)
            if epoch * length + i + 1 > total - config.last_steps:
                result["last"].append(program.accuracies(state, members))
            return runs.Training(state, {})

        return take

    def end(training: Shared, epoch: runs.Epoch, records: Sequence[runs.Records]) -> Shared:
        done = epoch.number + 1
        if done % config.eval_freq == 0 or done == epochs:
            result["epochs"].append(done)
            result["accuracies"].append(program.accuracies(training.state, members))
        if planned.study == "seeds" and done in config.tune_epochs:
            result["tuned"][done] = tuned(config, program, planned, training.state, tune_key)
        return training

    return runs.Task(
        init=lambda: runs.Training(program.init(planned.seed), {}),
        lengths=np.full(epochs, length),
        steps=steps,
        averages=lambda sums, count, step: {},
        checked=lambda state: {"a weight": state.params},
        lower="--learning_rate",
        open_records=lambda step: (),
        end=end,
        finish=lambda training, records: result,
    )


def tuned(
    config: Config,
    program: Program,
    training: PlannedTraining,
    state: SharedState,
    key: jax.Array,
) -> list[list[float]]:
    """Accuracies of the children, each trained on alone from the same shared weights, for every
    entry of --tune_steps.
    """
    out, length = [], program.steps_per_epoch
    epochs = range(-(-max(config.tune_steps, default=0) // length))
    orders = [augment.order(key, epoch, program.num_images) for epoch in epochs]
    for child in training.members:
        tuned_state, row, repeated = program.fresh(state), [], np.full(length, child)
        for epoch in epochs:
            position = 0
            for steps in (steps - epoch * length for steps in config.tune_steps):
                if 0 < steps <= length:
                    tuned_state = program.advance(
                        tuned_state, orders[epoch], repeated, position, steps, key
                    )
                    position = steps
                    row += program.accuracies(tuned_state, [child])
            tuned_state = program.advance(
                tuned_state,
                orders[epoch],
                repeated,
                position,
                length if epoch + 1 < len(epochs) else position,
                key,
            )
        out.append(row)
    return np.transpose(out).tolist()
