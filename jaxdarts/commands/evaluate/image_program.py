"""The program of a training on images.

Compiled functions of all seeds on all devices, optimisers and learning rates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import parallel, runs, spaces
from jaxdarts.commands import checks, optimizers, programs
from jaxdarts.commands.evaluate.recipes import Cells, Config, size_of
from jaxdarts.data import augment, images, stream
from jaxdarts.nn.network import TooSmall
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import Stop
from jaxdarts.space import of_genotype
from jaxdarts.training import schedules
from jaxdarts.training.images import TrainState, from_scratch


class Program(NamedTuple):
    """A training on images.

    init: () -> the training that it starts from.
    step: (training, data, numbers of images, data keys) -> training.
    evaluate: (state, data, numbers of images, weights of images) -> sums of metrics.
    devices: those that the functions are compiled for.
    steps_per_epoch: number of steps of every epoch.
    """

    init: Callable[[], runs.Training[TrainState]]
    step: OnDevices
    evaluate: OnDevices
    devices: list[jax.Device]
    steps_per_epoch: int


def build(config: Config, genotype: Cells, dataset: images.Dataset | stream.Dataset) -> Program:
    """Builds the compiled functions of one configuration, on `runs.devices` of it.

    `dataset.test` is what `evaluate` sees.
    """
    devices = runs.devices(config)
    steps_per_epoch = dataset.train.num // config.batch_size
    if not steps_per_epoch:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than the training set, {dataset.train.num}"
            " images",
            2,
        )
    if config.color_jitter and dataset.image_shape[-1] != 3:
        raise Stop(
            f"--color_jitter: the images of {config.dataset} have {dataset.image_shape[-1]}"
            " channels, not 3",
            2,
        )
    options: dict[str, Any] = {
        "auxiliary": config.auxiliary,
        "imagenet": config.network == "imagenet",
    }
    space = spaces.of(genotype)
    for flag, name, part in (
        ("--auxiliary", "auxiliary", "auxiliary head"),
        ("--network=imagenet", "imagenet", "such stem"),
    ):
        if name not in space.features and options.pop(name):
            raise Stop(f"{flag}: a network of {space.title} has no {part}; leave it out", 2)
    if "drop_path" not in space.features and config.drop_path_prob:
        raise Stop(
            f"--drop_path_prob={config.drop_path_prob}: the benchmark's network drops nothing;"
            " leave it out",
            2,
        )
    if "unroll" in space.features:
        options["unroll"] = config.unroll
    net = space.network(
        genotype,
        *size_of(config, genotype),
        len(dataset.class_names),
        **options,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat,
    )
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *dataset.image_shape))
    try:
        try:
            jax.eval_shape(alone.init, jax.random.key(0), image)
        except TooSmall as error:
            print(f"trained without the auxiliary head: {error}", flush=True)
            net, alone = net.clone(auxiliary=False), alone.clone(auxiliary=False)
            jax.eval_shape(alone.init, jax.random.key(0), image)
    except ValueError as error:
        depth, imagenet = size_of(config, genotype)[1], bool(options.get("imagenet"))
        checks.check_image_shape(
            config, of_genotype(genotype), depth, dataset.image_shape, imagenet
        )
        flags = " ".join(
            f"--{name}={getattr(config, name)}" for name in ("layers", "auxiliary", "network")
        )
        raise Stop(
            f"{flags}, images of {'x'.join(map(str, dataset.image_shape))}: {error}", 2
        ) from error

    def drop_path(step):  # the published rate rises by the epoch, from zero
        return config.drop_path_prob * (step // steps_per_epoch) / config.epochs

    training = from_scratch(
        net,
        OPTIMIZERS[config.optimizer](config, steps_per_epoch),
        drop_path=drop_path if config.drop_path_prob else None,
        auxiliary_weight=config.auxiliary_weight,
        label_smoothing=config.label_smooth,
        axis_name=parallel.AXIS,
    )
    read = (augment.transform if config.stream else augment.reader)(
        dataset.mean,
        dataset.std,
        padding=config.crop_padding,
        flip=config.flip,
        cutout_length=config.cutout_length if config.cutout else 0,
        jitter=augment.Jitter() if config.color_jitter else None,
    )

    def step(state, data, indices, data_key):
        key = jax.random.fold_in(data_key, state.step)
        return training.step(state, read(data["train"], indices, key))

    def evaluate(state, data, indices, weights):
        return training.evaluate(state, read(data["test"], indices), weights)

    def init():
        def of_seed(key):
            params_key, key = jax.random.split(key)
            return training.init(key, alone.init(params_key, image))

        return programs.start(programs.seeds_of(config), of_seed, ("loss", "accuracy", "top5"))

    return Program(
        init=init,
        step=programs.compiled(step, devices, (0, 0 if config.stream else None, 0, 0)),
        evaluate=programs.evaluation(evaluate, devices, (0, None, None, None)),
        devices=devices,
        steps_per_epoch=steps_per_epoch,
    )


def sgd(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The published optimiser of weights."""
    table = jnp.asarray(rates(config), jnp.float32)
    return optimizers.weights_optimizer(config, lambda epoch: table[epoch], steps_per_epoch)


def rmsprop(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """RMSProp of NAS-Bench-101, which is TensorFlow's: mean squares start from one.

    The original is google-research/nasbench, lib/model_builder.py.

    Its first step, at a rate of zero, is left out.
    """
    rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps_per_epoch)
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.rmsprop(rate, decay=0.9, eps=1.0, initial_scale=1.0, momentum=config.momentum),
    )


OPTIMIZERS = {"sgd": sgd, "rmsprop": rmsprop}


def rates(config: Config) -> np.ndarray:
    """The learning rate of every epoch, at its beginning."""
    if config.schedule == "cosine":  # ends at zero, in the paper and in the official code alike
        return schedules.cosine(config.learning_rate, config.epochs)
    if config.schedule == "exponential":
        return schedules.exponential(config.learning_rate, config.epochs, config.decay)
    return schedules.linear(
        config.learning_rate, config.epochs, warmup=5 if config.batch_size > 256 else 0
    )
