"""The program of a search on images.

Compiled functions of all seeds on all devices, and the order of the images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import algorithms, derive, objectives, parallel, relax, runs
from jaxdarts.analysis import curvature
from jaxdarts.bilevel import Search, SearchState, last_step
from jaxdarts.commands import checks, methods, programs, stages
from jaxdarts.commands.optimizers import cosine_rate, weights_optimizer
from jaxdarts.commands.search import limited
from jaxdarts.commands.search.program import searches, start_of
from jaxdarts.commands.search.results import steps_of_tuning
from jaxdarts.data import augment, images
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import Stop
from jaxdarts.space import Space
from jaxdarts.types import Mix

if TYPE_CHECKING:
    from jaxdarts.commands.search.images import Config


class Program(NamedTuple):
    """A search on images.

    space: what is searched.
    init: () -> the training that it starts from.
    step: (training, data, training images, validation images, data keys) -> training.
    warm_up_step: the same in the epochs of --arch_warmup, where alpha rests.
    derive: state -> the mix that alpha stands for, of every seed.
    evaluate: (weights, mix, data, validation images) -> metrics.
    eigenvalue: (state, data, validation images) -> dominant eigenvalue of alpha's Hessian.
    tune_init: state -> the same with an optimiser of the weights that begins, for `tune`.
    tune: (state, mix, decided edges, data, training images, validation images, data keys) -> the
        state after a step of the search in which decided edges have the weights of `mix`.
    order: epoch -> its batches, as of `epoch_order`.
    devices: those that the functions are compiled for.
    data: the images of both halves, "train" and "val".
    sizes: numbers of images of the halves.
    steps_per_epoch: number of steps of every epoch.
    """

    space: Space
    init: Callable[[], runs.Training[SearchState]]
    step: OnDevices
    warm_up_step: OnDevices
    derive: Callable[[SearchState], Mix]
    evaluate: OnDevices
    eigenvalue: OnDevices
    tune_init: OnDevices
    tune: OnDevices
    order: Callable[[int], "Order"]
    devices: list[jax.Device]
    data: dict[str, dict[str, np.ndarray]]
    sizes: tuple[int, int]
    steps_per_epoch: int


class Order(NamedTuple):
    """The batches of an epoch.

    train, val: numbers of the images, [devices, seeds, steps, batch].
    keys: every seed's key for the augmentation, [devices, seeds].
    """

    train: np.ndarray
    val: np.ndarray
    keys: jax.Array


def supernet(config: "Config", space: Space, num_classes: int, remat: bool | None = None) -> Any:
    """The network of a configuration."""
    stage = stages.of(config)
    return space.supernet(
        width=config.init_channels,
        depth=stage.layers,
        num_classes=num_classes,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat if remat is None else remat,
        **({"partial": stage.partial} if stage.partial > 1 else {}),
    )


def may_take_one_path(config: "Config", net: Any) -> bool:
    """Whether the network of a search may compute the drawn operation of an edge alone.

    Several seeds draw different ones, and would compute all of them in one program.
    """
    drops = config.drop_path_start or config.drop_path_prob or stages.of(config).skip_dropout
    return hasattr(net, "one_path") and net.partial == 1 and config.num_seeds == 1 and not drops


def build(config: "Config", dataset: images.Dataset) -> Program:
    """Puts the library's parts together for one configuration, on `runs.devices` of it."""
    devices = runs.devices(config)
    train = val = dataset.train
    if config.train_portion < 1:
        try:
            train, val = images.split(dataset.train, config.train_portion)
        except ValueError as error:
            raise Stop(str(error), 2) from error
    space, stage = methods.space_of(config), stages.of(config)
    steps_per_epoch = len(train.labels) // config.batch_size
    if min(len(train.labels), len(val.labels)) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than a part of the training set "
            f"({len(train.labels)} images for the weights, {len(val.labels)} for alpha)",
            2,
        )
    net = supernet(config, space, len(dataset.class_names))
    # Without the mapped axis: a network that is only looked at here, not run.
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *train.images.shape[1:]))
    try:
        params = jax.eval_shape(alone.init, jax.random.key(0), image, net.example_mix())
        jax.eval_shape(alone.apply, params, image, net.example_mix(), jax.random.key(0))
    except ValueError as error:
        checks.check_image_shape(config, space.cells, stage.layers, train.images.shape[1:])
        sizes = f"--layers={stage.layers} --init_channels={config.init_channels}"
        raise Stop(f"{sizes} do not fit the images of {config.dataset}: {error}", 2) from error
    limited.limits_of(config, space, dataset)  # refuses what no cell can keep
    algorithm = methods.make(
        config, space, steps_per_epoch, len(dataset.class_names), train.images.shape[1:]
    )
    objective = jax.jit(
        objectives.classification(net)
    )  # traced once, however many gradients a step takes
    path_objective = objective
    if algorithm.relax.one_path and may_take_one_path(config, net):
        path_objective = jax.jit(objectives.classification(net.clone(one_path=True)))
    search, warm_up = searches(path_objective, algorithm, *optimizers(config, steps_per_epoch))

    cutout_length = config.cutout_length if config.cutout else 0
    batch = augment.reader(
        dataset.mean,
        dataset.std,
        padding=config.crop_padding,
        flip=config.flip,
        cutout_length=cutout_length,
    )

    drops = config.drop_path_start, config.drop_path_prob
    ramp = algorithms.by_epoch(*drops, max(config.epochs - 1, 1), steps_per_epoch)

    fading = algorithms.fading_dropout(
        stage.skip_dropout, config.epochs, config.arch_warmup, steps_per_epoch
    )

    def training_batch(part, indices, key, step):
        rates = {"drop_path": ramp(step)} if any(drops) else {}
        rates |= {"skip_dropout": fading(step)} if stage.skip_dropout else {}
        return batch(part, indices, key) | rates

    def advanced(search: Search, state, data, train_indices, val_indices, data_key):
        train_key, val_key = jax.random.split(jax.random.fold_in(data_key, state.step))
        return search.step(
            state,
            training_batch(data["train"], train_indices, train_key, state.step),
            training_batch(data["val"], val_indices, val_key, state.step),
        )

    def step_of(search: Search) -> OnDevices:
        step = functools.partial(advanced, search)
        return programs.compiled(step, devices, (0, None, 0, 0, 0))

    noise_key = jax.random.key(0)  # what is validated twice sees the same noise (S4)

    def evaluate(params, mix, data, indices):
        _, (_, metrics) = objective(params, mix, (), batch(data["val"], indices), noise_key)
        return jax.lax.pmean(metrics, parallel.AXIS)

    def eigenvalue(state, data, indices):
        images = batch(data["val"], indices)

        def loss(arch):
            arch = jax.lax.pmean(
                arch, parallel.AXIS
            )  # its transpose averages the gradient over the devices
            mix = algorithm.relax.derive(arch, last_step(state))
            value = objective(state.params, mix, (), images, noise_key)[0]
            # Zela et al. count the weight decay of alpha in.
            return (
                jax.lax.pmean(value, parallel.AXIS)
                + config.arch_weight_decay * optax.tree.norm(arch, squared=True) / 2
            )

        return curvature.dominant_eigenvalue(
            loss, state.arch, jax.random.fold_in(state.key, state.step)
        )

    tune_txs = (
        tuning_optimizer(config, space, steps_per_epoch),
        methods.optimizer(config, steps_per_epoch),
    )

    def tune_init(state):
        tuning, _ = searches(objective, algorithm, *tune_txs)
        new = tuning.init(state.key, state.params, state.carry)
        return dataclasses.replace(state, params_opt=new.params_opt)

    def tune(state, mix, decided, data, train_indices, val_indices, data_key):
        held = algorithm._replace(relax=relax.held(algorithm.relax, mix, decided))
        tuning, _ = searches(objective, held, *tune_txs)
        return advanced(tuning, state, data, train_indices, val_indices, data_key)[0]

    def init():
        def params_of(key):
            return alone.init(key, image, net.example_mix())["params"]

        names = [
            f"{part}_{name}" for part in ("train", "valid") for name in ("loss", "accuracy", "top5")
        ]
        key = jax.random.key(0)
        price = jax.eval_shape(lambda: search.price(search.init(key, params_of(key))))[1]
        names += [f"valid_{name}" for name in price]
        new = start_of(config, search, params_of, (*names, "arch_gradient_norm"))
        if stage.number == 1:
            return new
        # A later stage makes draws of its own.
        draws = jax.vmap(lambda key: jax.random.fold_in(key, stage.number))(new.state.key)
        return runs.Training(dataclasses.replace(new.state, key=draws), new.sums)

    sizes = (len(train.labels), len(val.labels))
    return Program(
        space=space,
        init=init,
        step=step_of(search),
        warm_up_step=step_of(warm_up),
        derive=parallel.over_seeds(search.derive),
        evaluate=programs.evaluation(evaluate, devices, (0, 0, None, None)),
        eigenvalue=programs.evaluation(eigenvalue, devices, (0, None, None)),
        tune_init=programs.evaluation(tune_init, devices, 0),
        tune=programs.evaluation(tune, devices, (0, 0, None, None, 0, 0, 0)),
        order=lambda epoch: epoch_order(config, (train.labels, val.labels), devices, epoch),
        devices=devices,
        data={
            name: {"image": part.images, "label": part.labels}
            for name, part in (("train", train), ("val", val))
        },
        sizes=sizes,
        steps_per_epoch=steps_per_epoch,
    )


def optimizers(config: "Config", steps_per_epoch: int) -> tuple[optax.GradientTransformation, ...]:
    """The published optimisers of weights and alpha."""
    params_tx = weights_optimizer(
        config, lambda epoch: learning_rate(config, epoch), steps_per_epoch
    )
    return params_tx, methods.optimizer(config, steps_per_epoch)


def tuning_optimizer(
    config: "Config", space: Space, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimiser of the weights between the decisions of --derive, as in DARTS+PT's code.

    A cosine from a tenth of the search's learning rate, over all these epochs and one more.
    """
    decisions = derive.num_decisions(space.cells)
    steps = steps_of_tuning(config, steps_per_epoch) * (decisions - 1)
    tuning = dataclasses.replace(
        config,
        learning_rate=config.learning_rate / 10,
        epochs=-(-steps // steps_per_epoch) + 1,
    )
    return weights_optimizer(tuning, lambda epoch: cosine_rate(tuning, epoch), steps_per_epoch)


def learning_rate(config: "Config", epoch: Any, cos: Callable = jnp.cos) -> Any:
    """Learning rate of the weights in an epoch of a stage, as of `cosine_rate`.

    Stages that carry the weights over share one cosine.
    """
    if not config.carry_weights:
        return cosine_rate(config, epoch, cos)
    stage = stages.of(config)
    every_stage = dataclasses.replace(config, epochs=stage.count * config.epochs)
    return cosine_rate(every_stage, epoch + (stage.number - 1) * config.epochs, cos)


def epoch_order(
    config: "Config", labels: tuple[np.ndarray, ...], devices: list[jax.Device], epoch: int
) -> Order:
    """The batches of one epoch, of the halves with these labels."""
    seeds = config.seed + jnp.arange(config.num_seeds)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
    number = stages.of(config).number
    if number > 1:  # a later stage sees the images in other orders
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
    needed = len(labels[0]) // config.batch_size * config.batch_size
    batches = []
    for part, of_part in enumerate(labels):
        size = len(of_part)
        # The validation stream starts over as often as an epoch of the training stream needs.
        rounds = range(epoch * -(-needed // size), (epoch + 1) * -(-needed // size))
        orders = [
            [augment.order(jax.random.fold_in(key, part), r, size) for r in rounds] for key in keys
        ]
        if config.balance_classes:
            orders = [[images.balanced(of_part, np.asarray(o)) for o in order] for order in orders]
        indices = np.stack([np.concatenate(order)[:needed] for order in orders])
        parts = parallel.split(
            indices.reshape(config.num_seeds, -1, config.batch_size), len(devices), axis=2
        )
        batches.append(parallel.here(parts, devices))
    train, val = batches
    return Order(train, val, parallel.replicate(keys, devices))
