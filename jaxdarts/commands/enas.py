"""Search a cell by a policy over shared weights (ENAS): jaxdarts enas --dataset=cifar10

A policy draws cells; their accuracies with shared weights on the validation half are its reward.
Weights and policy are trained in turn, epoch by epoch, and the best of the final policy's cells is
the result. It runs on one device. Without arguments it searches NAS-Bench-201's space on
scikit-learn's digits.

A run folder holds config.json, log.txt, metrics.jsonl, tensorboard/, checkpoints/, genotype.json,
the drawn cell, reward.svg and facts.json. An interrupted search continues with --resume=RUN, to the
very result of one that nothing interrupted.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import objectives, parallel, runs, spaces
from jaxdarts.commands import (
    checks,
    command_line,
    datasets,
    enas_results,
    flags,
    optimizers,
    programs,
)
from jaxdarts.data import augment, images
from jaxdarts.discrete import enas
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import Run, Stop, flag
from jaxdarts.runs.flags import BELOW_ONE, DEPTH, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE
from jaxdarts.space import Space
from jaxdarts.types import Metrics

Searched = runs.Training[enas.EnasState]
SPACES = ("nasbench201", "darts", "s1", "s2", "s3", "s4", "weight_sharing64")


@dataclasses.dataclass(frozen=True)
class EnasSpace:
    """Which search space."""

    TOPIC: ClassVar[str] = "space"

    space: Literal[SPACES] = flag(  # type: ignore[valid-type]
        "nasbench201", "Search space: nasbench201, darts, s1 to s4, or weight_sharing64."
    )
    nodes: int = flag(4, "Number of intermediate nodes of a cell (--space=darts).", DEPTH)


@dataclasses.dataclass(frozen=True)
class Policy:
    """The policy that draws cells, and how it is trained."""

    TOPIC: ClassVar[str] = "method"

    policy_steps: int = flag(50, "Steps of the policy after each epoch.", NOT_NEGATIVE)
    policy_samples: int = flag(
        20,
        "Number of cells that are rewarded in a step of the policy, each on a batch of its own.",
        POSITIVE,
    )
    policy_learning_rate: float = flag(1e-3, "Learning rate of Adam for the policy.", POSITIVE)
    policy_beta1: float = flag(0.0, "Adam's first decay rate for the policy.", BELOW_ONE)
    policy_epsilon: float = flag(
        1e-3, "Number that Adam adds to the root of the mean square, for the policy.", POSITIVE
    )
    policy_grad_clip: float = flag(
        5.0,
        "Gradients of the policy are clipped to this global norm; inf for no clipping.",
        POSITIVE_OR_INFINITE,
    )
    hidden: int = flag(100, "Units of the policy's LSTM.", POSITIVE)
    temperature: float = flag(5.0, "The policy's logits are divided by this temperature.", POSITIVE)
    tanh_constant: float = flag(
        2.5, "Logits are squashed to +- this by tanh, after the temperature.", POSITIVE
    )
    entropy_weight: float = flag(
        1e-4,
        "Weight of the entropy of the drawn cell (nats) in the reward (accuracy, a fraction).",
        NOT_NEGATIVE,
    )
    baseline_decay: float = flag(
        0.99, "Decay of the moving average of rewards, the baseline of the policy.", BELOW_ONE
    )


@dataclasses.dataclass(frozen=True)
class Best:
    """How the cell is chosen after the search."""

    TOPIC: ClassVar[str] = "derivation"

    num_samples: int = flag(
        100,
        "Number of cells drawn from the final policy; the best on the validation half is the"
        " result.",
        POSITIVE,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Erased:
    """Cutout without a switch."""

    TOPIC: ClassVar[str] = "data"

    cutout_length: int = flag(
        0,
        "Side of the square that is erased from every training image, in pixels; 0 for none.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Waves(flags.CosineFloor):
    """A learning rate that rises again."""

    cosine_epochs: int = flag(
        0,
        "Epochs in which the learning rate falls to --learning_rate_min; it rises again in as many,"
        " and so on; 0 for all epochs.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Config(
    flags.ImageData,
    flags.Halves,
    flags.Augmentation,
    Erased,
    EnasSpace,
    flags.Size,
    flags.ImageWeights,
    Waves,
    flags.Clipping,
    Policy,
    Best,
    flags.Preset,
    flags.Saving,
    flags.Seed,
    flags.Folder,
):
    """Flags; the defaults are those of the data set's preset. It runs on one device."""

    COMMAND: ClassVar[str] = "enas"

    layers: int = 5
    epochs: int = 250
    batch_size: int = 128
    learning_rate: float = 0.05
    learning_rate_min: float = 0.0005
    cosine_epochs: int = 10
    weight_decay: float = 2.5e-4
    nesterov: bool = True


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        nodes=2,
        init_channels=4,
        layers=1,
        epochs=10,
        batch_size=32,
        learning_rate=0.1,
        policy_steps=20,
        policy_samples=5,
        policy_learning_rate=1e-2,
        policy_beta1=0.9,
        policy_epsilon=1e-8,
        policy_grad_clip=math.inf,
        cosine_epochs=0,
        nesterov=False,
        baseline_decay=0.95,
        num_samples=20,
        crop_padding=1,
        flip=False,
        report_freq=10,
    ),
    "cifar10": CIFAR,
}
"""What each data set starts from; CIFAR-10's is that of NAS-Bench-201's ENAS (AutoDL-Projects,
configs/nas-benchmark/algos/ENAS.config and the command of its script).
"""


class Program(NamedTuple):
    """A search by ENAS, on one device.

    space: what is searched.
    policy: what draws cells.
    init: () -> the training that it starts from.
    train: (training, data, numbers of images, data key) -> training, after a step of the weights.
    control: (state, data, numbers of images [cells, batch]) -> (state, metrics), after a step of
        the policy.
    evaluate: (weights, mix, data, numbers of images) -> accuracy.
    devices: the one that the functions are compiled for.
    data: the images of both halves, "train" and "val".
    sizes: numbers of images of the halves.
    steps_per_epoch: number of steps of every epoch.
    """

    space: Space
    policy: enas.Policy
    init: Callable[[], Searched]
    train: OnDevices
    control: OnDevices
    evaluate: OnDevices
    devices: list[jax.Device]
    data: dict[str, dict[str, np.ndarray]]
    sizes: tuple[int, int]
    steps_per_epoch: int


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, PRESETS, CIFAR, __doc__))
    runs.use_cache(config)
    dataset = datasets.load(config)
    program = build(config, dataset)
    with runs.open_run(config, "enas") as run:
        search(config, dataset, program, run)


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_flags(config)
    return config


def build(config: Config, dataset: images.Dataset) -> Program:
    """Puts the library's parts together for one configuration, on one device."""
    try:
        train, val = images.split(dataset.train, config.train_portion)
    except ValueError as error:
        raise Stop(f"--train_portion: {error}", 2) from error
    if min(train.num, val.num) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: the halves have {train.num} and {val.num} images", 2
        )
    space = (
        spaces.darts(config.nodes) if config.space == "darts" else spaces.BY_NAME[config.space]()
    )
    net: Any = space.supernet(
        width=config.init_channels, depth=config.layers, num_classes=len(dataset.class_names)
    )
    inputs = net.example_inputs(train.images.shape[1:])
    try:
        jax.eval_shape(net.init, jax.random.key(0), *inputs)
        jax.eval_shape(lambda *shapes: net.init_with_output(jax.random.key(0), *shapes), *inputs)
    except ValueError as error:
        checks.check_image_shape(config, space.cells, config.layers, train.images.shape[1:])
        sizes = f"--layers={config.layers} --init_channels={config.init_channels}"
        raise Stop(f"{sizes} do not fit the images of {config.dataset}: {error}", 2) from error
    policy = enas.lstm_policy(space.cells, config.hidden, config.temperature, config.tanh_constant)
    if hasattr(net, "one_path"):  # the policy draws one operation an edge
        net = net.clone(one_path=True)
    objective = objectives.classification(net)
    length = train.num // config.batch_size

    search = enas.enas(
        objective,
        policy,
        optimizers.weights_optimizer(config, lambda epoch: learning_rate(config, epoch), length),
        policy_optimizer(config),
        samples=config.policy_samples,
        decay=config.baseline_decay,
        entropy_weight=config.entropy_weight,
    )
    options = {
        "padding": config.crop_padding,
        "flip": config.flip,
        "cutout_length": config.cutout_length,
    }
    read = augment.reader(dataset.mean, dataset.std, **options)

    def train_step(state, data, indices, data_key):
        key = jax.random.fold_in(data_key, state.step)
        return search.train(state, read(data["train"], indices, key))

    def init():
        params_key, search_key = jax.random.split(jax.random.key(config.seed))
        state = search.init(search_key, net.init(params_key, *inputs)["params"])
        sums = {name: jnp.zeros(()) for name in ("loss", "accuracy", "top5")}
        return runs.Training(state, sums)

    def control_step(state, data, indices):
        batches = jax.vmap(lambda batch: read(data["val"], batch))(indices)
        return search.control(state, batches)

    def evaluate(params, mix, data, indices):
        return objective(params, mix, (), read(data["val"], indices), jax.random.key(0))[1][1][
            "accuracy"
        ]

    devices, over = parallel.devices(1), parallel.over_devices
    return Program(
        space=space,
        policy=policy,
        init=init,
        train=over(programs.adding_up(train_step), devices, donate=(0,)),
        control=over(control_step, devices),
        evaluate=over(evaluate, devices),
        devices=devices,
        data={
            name: {"image": part.images, "label": part.labels}
            for name, part in (("train", train), ("val", val))
        },
        sizes=(train.num, val.num),
        steps_per_epoch=length,
    )


def learning_rate(config: Config, epoch: Any, cos: Callable = jnp.cos) -> Any:
    """Learning rate of the weights in an epoch: a cosine that falls and rises in turns."""
    one_fall = dataclasses.replace(config, epochs=config.cosine_epochs or config.epochs)
    return optimizers.cosine_rate(one_fall, epoch, cos)


def policy_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam on clipped gradients."""
    adam = optax.adam(
        config.policy_learning_rate, b1=config.policy_beta1, eps=config.policy_epsilon
    )
    return optax.chain(optax.clip_by_global_norm(config.policy_grad_clip), adam)


def search(config: Config, dataset: images.Dataset, program: Program, run: Run) -> None:
    """Trains the weights and the policy of ENAS, and derives the best of the policy's cells.

    Epochs have weight steps, then policy steps and a checkpoint.
    """
    data = parallel.replicate(program.data, program.devices)
    data_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    keys = parallel.replicate(data_key, program.devices)

    def batches(part: int, epoch: int) -> np.ndarray:
        """[steps, one device, batch]."""
        order = np.asarray(
            augment.order(jax.random.fold_in(data_key, part), epoch, program.sizes[part])
        )
        steps = len(order) // config.batch_size
        return order[: steps * config.batch_size].reshape(steps, 1, -1)

    def steps(epoch: int) -> Callable[[Searched, int], Searched]:
        indices = batches(0, epoch)
        return lambda training, i: program.train(training, data, indices[i], keys)

    def averages(sums: Metrics, count: int, step: int) -> runs.Means:
        means = programs.means_of(sums, count, "train_")
        runs.finite(step, "--learning_rate", **means)
        return means

    def end(training: Searched, epoch: runs.Epoch, records: Sequence[runs.Records]) -> Searched:
        record = {"epoch": epoch.number, "seconds": epoch.seconds}
        record |= {name: float(value) for name, value in epoch.means.items()}
        if epoch.complete:  # not where --max_steps cut the epoch short
            training, metrics = control(training, batches(1, epoch.number))
            record |= metrics
        records[0].write(epoch.step, record)
        run.log.info("train_acc %f", 100 * record["train_accuracy"])
        if "reward" in record:
            run.log.info("reward %f entropy %f", 100 * record["reward"], record["entropy"])
        return training

    def control(training: Searched, indices: np.ndarray) -> tuple[Searched, dict[str, float]]:
        """The steps of the policy after an epoch, and the means of their metrics."""
        state, metrics = training.state, []
        for n in range(config.policy_steps):
            numbers = n * config.policy_samples + np.arange(config.policy_samples)
            of_cells = np.swapaxes(indices[numbers % len(indices)], 0, 1)
            state, control_metrics = program.control(state, data, of_cells)
            metrics.append(
                {name: float(value) for name, value in parallel.first(control_metrics).items()}
            )
        names = metrics[0] if metrics else ()
        means = {name: float(np.mean([step[name] for step in metrics])) for name in names}
        return dataclasses.replace(training, state=state), means

    def finish(training: Searched, records: Sequence[runs.Records]) -> None:
        enas_results.finish(config, program, training, data, records[0].all, run)

    task = runs.Task(
        init=program.init,
        lengths=np.full(config.epochs, program.steps_per_epoch),
        devices=program.devices,
        steps=steps,
        averages=averages,
        shown=programs.shown_of_images,
        checked=lambda state: {"a weight": state.params, "the policy": state.policy},
        lower="--learning_rate or --policy_learning_rate",
        open_records=lambda step: [
            runs.Records(run.folder, step, config.tracker, dataclasses.asdict(config))
        ],
        end=end,
        finish=finish,
    )
    runs.train(config, run, task)
