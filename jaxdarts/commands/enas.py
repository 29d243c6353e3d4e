"""ENAS: jaxdarts enas --dataset=cifar10 --space=nasbench201

A policy draws cells, whose accuracies with shared weights on the validation half are its reward;
weights and policy are trained in turn, epoch by epoch. Leaves a run folder: config.json, log.txt,
metrics.jsonl, tensorboard/, checkpoints/, genotype.json, the drawn cell, reward.svg and facts.json.
Interrupted or killed, it continues with --resume=RUN, to the very result of a run that nothing
interrupted. Without arguments it searches NAS-Bench-201's space on scikit-learn's digits.
"""

import dataclasses
import json
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import files, objectives, parallel, report, runs, spaces
from jaxdarts.commands import checks, command_line, datasets, optimizers
from jaxdarts.data import augment, images
from jaxdarts.discrete import enas
from jaxdarts.runs import Run, Stop
from jaxdarts.space import Space, one_hot

SPACES = ("nasbench201", "darts", "s1", "s2", "s3", "s4", "weight_sharing64")


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; the defaults are those of the data set's preset. It runs on one device."""

    FREE: ClassVar[str] = (
        "run_dir resume data_dir max_steps report_freq checkpoint_freq keep_checkpoints cache_dir"
        " num_samples"
    )

    dataset: str = "digits"
    """digits, a TFDS name (cifar10, ...), npz:PATH or folder:PATH."""
    preset: str | None = None
    """Name of the preset to start from; default the data set's own."""
    data_dir: str | None = None
    """Folder in which TFDS keeps its data sets."""
    space: str = "nasbench201"
    """Search space: nasbench201, darts, s1 to s4, or weight_sharing64."""
    nodes: int = 4
    """Number of intermediate nodes of a cell (--space=darts)."""
    init_channels: int = 16
    """Channels of the first cells."""
    layers: int = 5
    """Number of cells; in nasbench201, of each stage."""
    epochs: int = 250
    """Passes over the training half, each followed by --policy_steps."""
    batch_size: int = 128
    """Images in a batch, of either half."""
    train_portion: float = 0.5
    """Fraction of the training set that trains the weights; the rest rewards the policy."""
    learning_rate: float = 0.05
    """Learning rate of SGD for the weights in the first epoch; it falls by a cosine."""
    learning_rate_min: float = 0.0005
    """Learning rate of SGD at the end of the cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 2.5e-4
    """Weight decay: this multiple of the weights is added to their gradient."""
    grad_clip: float = 5.0
    """Gradients of the weights are clipped to this global norm."""
    policy_steps: int = 50
    """Steps of the policy after each epoch."""
    policy_samples: int = 10
    """Number of cells that are rewarded in a step of the policy."""
    policy_learning_rate: float = 1e-3
    """Learning rate of Adam for the policy."""
    hidden: int = 100
    """Units of the policy's LSTM."""
    temperature: float = 5.0
    """The policy's logits are divided by this temperature."""
    tanh_constant: float = 2.5
    """Logits are squashed to +- this by tanh, after the temperature."""
    entropy_weight: float = 1e-4
    """Weight of the entropy (nats) in the reward (accuracy, a fraction)."""
    baseline_decay: float = 0.99
    """Decay of the moving average of rewards."""
    num_samples: int = 100
    """Number of cells drawn from the final policy; the best on the validation half is the result.
    """
    crop_padding: int = 4
    """Training images are shifted at random by up to this number of pixels."""
    flip: bool = True
    """Mirror half of the training images."""
    cutout_length: int = 0
    """Side of the square that is erased from every training image, in pixels; 0 for none."""
    seed: int = 2
    """Seed of everything that is random."""
    run_dir: str | None = None
    """Folder of the run; default runs/enas-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue from its newest checkpoint, with its configuration."""
    max_steps: int = 0
    """Stop after this number of steps of the weights, counted from the beginning of the run; 0 for
    no limit."""
    report_freq: int = 50
    """Steps between log lines."""
    checkpoint_freq: int = 0
    """Steps between checkpoints, in addition to one after every epoch; 0 for none."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; 0 for all."""
    cache_dir: str = command_line.Settings.cache_dir
    """Where compiled programs are kept for the next start; empty for nowhere."""


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
        baseline_decay=0.95,
        num_samples=20,
        crop_padding=1,
        flip=False,
        report_freq=10,
    ),
    "cifar10": CIFAR,
}
"""What each data set starts from; CIFAR-10's is that of NAS-Bench-201's ENAS, but for its schedule,
which has no restarts.
"""


class Program(NamedTuple):
    """The compiled functions, over one device, and what they run on."""

    space: Space
    policy: enas.Policy
    init: Any  # () -> {"state": EnasState, "sums": metrics}
    train: Any  # (training, data, indices, data key) -> training
    control: Any  # (state, data, indices) -> (state, metrics)
    evaluate: Any  # (params, mix, data, indices) -> accuracy
    devices: list
    data: Any
    sizes: tuple[int, int]  # images of the two halves
    steps_per_epoch: int


def main(arguments: list[str]) -> None:
    config = check(command_line.parse(arguments, PRESETS, CIFAR, __doc__))
    runs.use_cache(config)
    dataset = datasets.load(config)
    program = build(config, dataset)
    with runs.open_run(config, "enas") as run:
        search(config, dataset, program, run)


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    positive = (
        "nodes init_channels layers epochs batch_size learning_rate grad_clip policy_samples"
        " policy_learning_rate "
    )
    positive += "hidden temperature tanh_constant num_samples report_freq"
    not_negative = (
        "learning_rate_min momentum weight_decay policy_steps entropy_weight baseline_decay"
        " crop_padding "
    )
    not_negative += "cutout_length seed max_steps checkpoint_freq keep_checkpoints"
    checks.check_numbers(config, positive, not_negative)
    if config.space not in SPACES:
        raise Stop(f"--space={config.space}: there are {', '.join(SPACES)}", 2)
    if not config.baseline_decay < 1:
        raise Stop(f"--baseline_decay={config.baseline_decay}: must be below 1", 2)
    if config.seed >= 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
    return config


def build(config: Config, dataset: images.Dataset) -> Program:
    """Puts the library's parts together for one configuration."""
    try:
        train, val = images.split(dataset.train, config.train_portion)
    except ValueError as error:
        raise Stop(f"--train_portion: {error}", 2) from error
    if min(train.num, val.num) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: the halves have {train.num} and {val.num} images", 2
        )
    space = (
        spaces.darts(config.nodes) if config.space == "darts" else getattr(spaces, config.space)()
    )
    net: Any = space.supernet(
        width=config.init_channels, depth=config.layers, num_classes=len(dataset.class_names)
    )
    inputs = net.example_inputs(train.images.shape[1:])
    try:
        jax.eval_shape(net.init, jax.random.key(0), *inputs)
        jax.eval_shape(lambda *own: net.init_with_output(jax.random.key(0), *own), *inputs)
    except ValueError as error:
        sizes = f"--layers={config.layers} --init_channels={config.init_channels}"
        raise Stop(f"{sizes} do not fit the images of {config.dataset}: {error}", 2) from error
    policy = enas.lstm_policy(space.cells, config.hidden, config.temperature, config.tanh_constant)
    objective = objectives.classification(net)
    length = train.num // config.batch_size

    found = enas.enas(
        objective,
        policy,
        optimizers.weights_optimizer(
            config, lambda epoch: optimizers.cosine_rate(config, epoch), length
        ),
        optax.adam(config.policy_learning_rate),
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

    def train_step(training, data, indices, data_key):
        state = training["state"]
        batch = read(data["train"], indices, jax.random.fold_in(data_key, state.step))
        state, metrics = found.train(state, batch)
        return {
            "state": state,
            "sums": {name: training["sums"][name] + value for name, value in metrics.items()},
        }

    def init():
        params_key, search_key = jax.random.split(jax.random.key(config.seed))
        sums = {name: jnp.zeros(()) for name in ("loss", "accuracy", "top5")}
        return {
            "state": found.init(search_key, net.init(params_key, *inputs)["params"]),
            "sums": sums,
        }

    def evaluate(params, mix, data, indices):
        return objective(params, mix, (), read(data["val"], indices), jax.random.key(0))[1][1][
            "accuracy"
        ]

    devices, over = jax.local_devices()[:1], parallel.over_devices
    return Program(
        space=space,
        policy=policy,
        init=init,
        train=over(train_step, devices, donate=(0,)),
        control=over(
            lambda state, data, indices: found.control(state, read(data["val"], indices)), devices
        ),
        evaluate=over(evaluate, devices),
        devices=devices,
        data={
            name: {"image": part.images, "label": part.labels}
            for name, part in (("train", train), ("val", val))
        },
        sizes=(train.num, val.num),
        steps_per_epoch=length,
    )


def search(config: Config, dataset: images.Dataset, program: Program, run: Run) -> None:
    """Epochs of weight steps, each with policy steps and a checkpoint after it; the best of the
    policy's cells in the end.
    """
    training, seconds = runs.restored(config, run, program.init())
    step = runs.kept_step(config, int(training["state"].step), program.steps_per_epoch)
    records = runs.Records(run.folder, step)
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

    def begin(epoch: int):
        indices = batches(0, epoch)
        return lambda training, i: program.train(training, data, indices[i], keys)

    def averages(sums, number: int, step: int) -> dict[str, np.ndarray]:
        means = {
            f"train_{name}": np.asarray(value) / number
            for name, value in parallel.first(sums).items()
        }
        runs.finite(step, "--learning_rate", **means)
        return means

    def checked(tree, step: int) -> None:
        weights = {
            "a weight": optax.tree.norm(tree["state"].params),
            "the policy": optax.tree.norm(tree["state"].policy),
        }
        runs.finite(
            step,
            "--learning_rate or --policy_learning_rate",
            **{k: np.asarray(v) for k, v in weights.items()},
        )

    def end(training, means, epoch: int, step: int, seconds: float) -> None:
        record = {
            "epoch": epoch,
            "seconds": seconds,
            **{name: float(value) for name, value in means.items()},
        }
        state, indices = training["state"], batches(1, epoch)
        if (
            step == (epoch + 1) * program.steps_per_epoch
        ):  # not where --max_steps cut the epoch short
            rewards = []
            for n in range(config.policy_steps):
                state, metrics = program.control(state, data, indices[n % len(indices)])
                rewards.append(
                    {name: float(value) for name, value in parallel.first(metrics).items()}
                )
            training["state"] = state
            record |= {
                name: float(np.mean([r[name] for r in rewards]))
                for name in (rewards[0] if rewards else ())
            }
        records.write(step, record)
        run.log.info("train_acc %f", 100 * record["train_accuracy"])
        if "reward" in record:
            run.log.info("reward %f entropy %f", 100 * record["reward"], record["entropy"])

    try:
        training = parallel.replicate(training, program.devices)
        steps = {"begin": begin, "averages": averages, "check": checked, "end": end}
        training = runs.epochs(config, run, training, seconds, program.steps_per_epoch, **steps)
        finish(config, dataset, program, training, data, records, run)
    finally:
        records.close()


def finish(
    config: Config,
    dataset: images.Dataset,
    program: Program,
    training,
    data,
    records: runs.Records,
    run: Run,
) -> None:
    """Derives the cell, compares the policy's with uniformly random ones, and writes everything
    down.
    """
    state, space = parallel.first(training["state"]), program.space
    key, places = (
        jax.random.fold_in(jax.random.key(config.seed), 2),
        program.sizes[1] // config.batch_size,
    )
    indices = np.arange(places * config.batch_size, dtype=np.int32).reshape(places, 1, -1)

    def score(mix) -> float:
        mix = parallel.replicate(dict(mix), program.devices)
        found = [
            parallel.first(program.evaluate(training["state"].params, mix, data, own))
            for own in indices
        ]
        return float(np.mean(np.asarray(found)))

    scores: list[float] = []

    def kept(mix) -> float:
        scores.append(score(mix))
        return scores[-1]

    mix, accuracy = enas.best_of(program.policy, state.policy, key, config.num_samples, kept)
    uniform = [
        score(one_hot(space.cells, space.sample(k)))
        for k in jax.random.split(key, config.num_samples)
    ]
    genotype = space.discretize(mix)
    facts = {
        "dataset": config.dataset,
        "space": config.space,
        "epochs": len(records.all),
        "found_cell_supernet_accuracy": accuracy,
        "policy_cells_supernet_accuracy": float(np.mean(scores)),
        "random_cells_supernet_accuracy": float(np.mean(uniform)),
        "best_random_cell_supernet_accuracy": float(np.max(uniform)),
        "supernet_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "wall_time": sum(record["seconds"] for record in records.all),
        "genotype": str(genotype),
    }
    write = files.replace_text
    # An own form: genotypes of the 64-model space name operations that NAS-Bench-201's cells have
    # not.
    write(run.folder / "genotype.json", json.dumps(genotype._asdict()) + "\n")
    for name, svg in drawn(space, genotype).items():
        write(run.folder / f"{name}.svg", svg)
    series = {
        name: [(r["epoch"] + 1, r[name]) for r in records.all if name in r]
        for name in ("reward", "baseline")
    }
    write(
        run.folder / "reward.svg",
        report.charts.curves(
            series, title="Accuracy of the policy's cells", xlabel="epoch", ylabel="fraction"
        ),
    )
    write(run.folder / "facts.json", json.dumps({**facts, **runs.versions()}, indent=2) + "\n")
    run.log.info("supernet accuracy of the found cell %f", 100 * accuracy)
    run.log.info(
        "mean of the policy's %f, of random cells %f",
        *(100 * float(np.mean(own)) for own in (scores, uniform)),
    )
    run.log.info("genotype = %s", genotype)


def drawn(space: Space, genotype: Any) -> dict[str, str]:
    """The cells as SVG; where a space has but one, with the output of that space."""
    if "cell" not in space.cells:
        return report.cells.cell(genotype)
    choices = space.cells["cell"]
    triples = [(op, *edge) for (op, _), edge in zip(genotype.cell, choices.edges, strict=True)]
    return {
        "cell": report.cells.graph(
            triples, choices.concat, inputs=report.cells.INPUTS[1:], title="Cell"
        )
    }
