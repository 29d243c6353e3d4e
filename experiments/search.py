"""Search a cell: python experiments/search.py --dataset=cifar10

Alternates exact second-order architecture steps with weight steps on the supernet of the DARTS space, and leaves a run folder:
config.json, log.txt, metrics.jsonl, TensorBoard events, genotype.json, normal.svg, reduce.svg, report.html, checkpoints/.
Without arguments it searches on scikit-learn's digits, in minutes on a CPU. Interrupted, it continues with --resume=RUN.
"""

import dataclasses
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

# Simulated devices on few cores deadlock with fewer threads (jax 0.9 and 0.10); read when JAX starts.
os.environ.setdefault("PJRT_NPROC", "16")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxdarts as jd
from jaxdarts.data import augment, images


@dataclasses.dataclass(frozen=True)
class Config:
    """Search a convolutional cell by gradient descent (DARTS). Defaults are those of the data set's preset."""

    dataset: str = "digits"
    """digits, a TFDS name (cifar10, cifar100, svhn_cropped, mnist, ...), npz:PATH or folder:PATH."""
    data_dir: str | None = None
    """Where TFDS keeps its folders; default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    run_dir: str | None = None
    """Folder of the run; default runs/search-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue from its newest checkpoint; its configuration is taken over."""
    epochs: int = 50
    """Passes over the training half."""
    max_steps: int = 0
    """Stop after so many steps; 0 for no limit (smoke runs)."""
    batch_size: int = 64
    """Images in a training batch, and in a validation batch, over all devices."""
    unrolled: bool = True
    """Exact second-order hypergradient; --no-unrolled for the first-order one."""
    init_channels: int = 16
    """Channels of the first cells; every reduction doubles them."""
    layers: int = 8
    """Number of cells; reductions at a third and two thirds."""
    nodes: int = 4
    """Intermediate nodes of a cell."""
    ops: tuple[str, ...] = jd.spaces.PRIMITIVES
    """Candidate operations of every edge, in the order of the columns of alpha."""
    learning_rate: float = 0.025
    """Of the weights: SGD, by cosine to the minimum over the epochs."""
    learning_rate_min: float = 0.001
    """Of the weights, in the end."""
    momentum: float = 0.9
    """Of the weights' SGD."""
    weight_decay: float = 3e-4
    """Of the weights, added to their gradient."""
    grad_clip: float = 5.0
    """Largest global norm of the weights' gradient."""
    arch_learning_rate: float = 3e-4
    """Of alpha: Adam, constant."""
    arch_weight_decay: float = 1e-3
    """Of alpha, added to its gradient."""
    train_portion: float = 0.5
    """Part of the training set that trains the weights; the rest trains alpha."""
    crop_padding: int = 4
    """Random shifts of the images, in pixels."""
    flip: bool = True
    """Mirror half of the images; not for digits."""
    cutout: bool = False
    """Erase a square of every training image."""
    cutout_length: int = 16
    """Side of that square, in pixels."""
    seed: int = 2
    """Determines everything that is random."""
    num_seeds: int = 1
    """Searches in one program, with seeds seed, seed + 1, ..."""
    num_devices: int | None = None
    """Local devices to split batches over; default all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the supernet's computations; weights stay float32."""
    remat: bool = False
    """Recompute cells in the backward pass: less memory, more time."""
    estimate: bool = False
    """Only print parameters, memory of the compiled step and steps an epoch."""
    report_freq: int = 50
    """Steps between log lines."""
    checkpoint_freq: int = 0
    """Steps between checkpoints; 0 for one an epoch."""
    cache_dir: str = str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxdarts")
    """Where compiled programs are kept for the next start; empty for nowhere."""


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=10, batch_size=32, init_channels=4, layers=3, nodes=3, crop_padding=1, flip=False, cutout_length=4, report_freq=10,
        learning_rate=0.1, arch_learning_rate=3e-2,
    ),
    "cifar10": CIFAR,
    "cifar100": dataclasses.replace(CIFAR, dataset="cifar100"),
    "svhn_cropped": dataclasses.replace(CIFAR, dataset="svhn_cropped"),
    "mnist": dataclasses.replace(CIFAR, dataset="mnist", flip=False),
    "fashion_mnist": dataclasses.replace(CIFAR, dataset="fashion_mnist"),
}
"""What each data set starts from; any other one starts from CIFAR-10's, the paper's, setting."""

FREE = {"run_dir", "resume", "data_dir", "max_steps", "num_devices", "estimate", "report_freq", "checkpoint_freq", "cache_dir"}
"""Settings that a resumed run may change: they do not touch what is computed."""


class Stop(Exception):
    """Ends the run with one line; everything written so far stays."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def parse(arguments: list[str]) -> Config:
    """Flags over the configuration of the run to resume, or over the data set's preset."""
    given = {}
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--dataset", "--resume"):
            given[name] = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
    if given.get("--resume"):
        path = Path(given["--resume"]) / "config.json"
        try:
            saved = json.loads(path.read_text())
            default = Config(**{**saved, "ops": tuple(saved["ops"]), "estimate": False, "max_steps": 0})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Stop(f"--resume={given['--resume']}: no usable {path}: {error}", 2) from error
    else:
        dataset = given.get("--dataset", "digits")
        default = PRESETS.get(dataset, dataclasses.replace(CIFAR, dataset=dataset))
    config = tyro.cli(Config, args=arguments, default=default, description=__doc__)
    if config.resume:
        for field in dataclasses.fields(Config):
            old, new = getattr(default, field.name), getattr(config, field.name)
            if old != new and field.name not in FREE:
                raise Stop(f"--resume={config.resume}: the run has {field.name}={old!r}, not {new!r}; leave the flag out", 2)
        config = dataclasses.replace(config, run_dir=config.resume)
    return check(config)


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    positive = ("epochs", "batch_size", "init_channels", "layers", "nodes", "num_seeds", "report_freq", "learning_rate", "grad_clip")
    for name in positive:
        if getattr(config, name) <= 0:
            raise Stop(f"--{name}={getattr(config, name)}: must be positive", 2)
    for name in ("max_steps", "checkpoint_freq", "crop_padding", "weight_decay", "arch_weight_decay", "momentum", "cutout_length"):
        if getattr(config, name) < 0:
            raise Stop(f"--{name}={getattr(config, name)}: must not be negative", 2)
    if not 0 < config.train_portion < 1:
        raise Stop(f"--train_portion={config.train_portion}: must lie between 0 and 1, both excluded", 2)
    devices = jax.local_device_count()
    if config.num_devices is not None and not 1 <= config.num_devices <= devices:
        raise Stop(f"--num_devices={config.num_devices}: this machine has {devices}", 2)
    if config.batch_size % (config.num_devices or devices):
        raise Stop(f"--batch_size={config.batch_size}: does not divide over {config.num_devices or devices} devices", 2)
    return config


class Program(NamedTuple):
    """The pure functions of a search, mapped over seeds and devices, and what they run on."""

    space: jd.Space
    relax: jd.relax.Relaxation
    init: Any  # () -> {"state": SearchState, "sums": metrics}, a leading axis of seeds
    step: Any  # (training, data, train indices, validation indices, data keys) -> training
    evaluate: Any  # (params, mix, data, indices) -> metrics
    devices: list
    data: Any
    sizes: tuple[int, int]  # images of the two halves
    steps_per_epoch: int


def build(config: Config, dataset: images.Dataset, remat: bool | None = None) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = jax.local_devices()[: config.num_devices]
    train, val = images.split(dataset.train, config.train_portion)
    steps_per_epoch = len(train.labels) // config.batch_size
    if min(len(train.labels), len(val.labels)) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than a part of the training set "
            f"({len(train.labels)} images for the weights, {len(val.labels)} for alpha)", 2,
        )
    space = jd.spaces.darts(config.nodes, config.ops)
    net = space.supernet(
        width=config.init_channels, depth=config.layers, num_classes=len(dataset.class_names), dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS, remat=config.remat if remat is None else remat,
    )
    algorithm = jd.algorithms.darts(space, order=2 if config.unrolled else 1)
    search = jd.bilevel_search(
        jd.objectives.classification(net), algorithm, *optimizers(config, steps_per_epoch), axis_name=jd.parallel.AXIS
    )

    def batch(part, indices, key=None):
        pixels = part["image"][indices]
        if key is not None:
            # What happens to an image depends on the step and its own index, not on the device that it lands on.
            crop_key, cutout_key = jax.random.split(key)
            pixels = augment.crop_and_flip(
                augment.example_keys(crop_key, indices), pixels, config.crop_padding, config.flip
            )
        pixels = augment.normalize(pixels, dataset.mean, dataset.std)
        if key is not None and config.cutout:
            pixels = augment.cutout(augment.example_keys(cutout_key, indices), pixels, config.cutout_length)
        return {"image": pixels, "label": part["label"][indices]}

    def step(training, data, train_indices, val_indices, data_key):
        state = training["state"]
        train_key, val_key = jax.random.split(jax.random.fold_in(data_key, state.step))
        train_batch, val_batch = batch(data["train"], train_indices, train_key), batch(data["val"], val_indices, val_key)
        state, metrics = search.step(state, train_batch, val_batch)
        sums = {name: training["sums"][name] + value for name, value in metrics.items()}
        return {"state": state, "sums": sums}

    def evaluate(params, mix, data, indices):
        _, (_, metrics) = jd.objectives.classification(net)(params, mix, (), batch(data["val"], indices), None)
        return jax.lax.pmean(metrics, jd.parallel.AXIS)

    def init():
        states, image = [], jnp.zeros((1, *train.images.shape[1:]))
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, search_key = jax.random.split(jax.random.key(seed))
            # Without the mapped axis: the network is only looked at here, not run.
            params = net.clone(axis_name=None).init(params_key, image, net.example_mix())["params"]
            states.append(search.init(search_key, params))
        names = [f"{part}_{name}" for part in ("train", "valid") for name in ("loss", "accuracy", "top5")]
        sums = {name: jnp.zeros(config.num_seeds) for name in (*names, "arch_gradient_norm")}
        return {"state": jd.parallel.stack(states), "sums": sums}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    data = {"train": {"image": train.images, "label": train.labels}, "val": {"image": val.images, "label": val.labels}}
    return Program(
        space, algorithm.relax, init,
        over_devices(over_seeds(step, (0, None, 0, 0, 0)), devices, donate=(0,)),
        over_devices(over_seeds(evaluate, (0, 0, None, None)), devices),
        devices, data, (len(train.labels), len(val.labels)), steps_per_epoch,
    )


def optimizers(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The published optimisers of weights and alpha."""

    def learning_rate(step):
        # Constant within an epoch; the official code's cosine ends at learning_rate_min, the paper's at zero.
        epoch = jnp.minimum(step // steps_per_epoch, config.epochs)
        span = config.learning_rate - config.learning_rate_min
        return config.learning_rate_min + 0.5 * span * (1 + jnp.cos(jnp.pi * epoch / config.epochs))

    params_tx = optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate, momentum=config.momentum),
    )
    arch_tx = optax.chain(
        optax.add_decayed_weights(config.arch_weight_decay), optax.adam(config.arch_learning_rate, b1=0.5, b2=0.999)
    )
    return params_tx, arch_tx


def epoch_order(config: Config, program: Program, epoch: int) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """Indices of one epoch's batches, [devices, steps, seeds, batch] of either half, and every seed's key for augmentation."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(config.seed + jnp.arange(config.num_seeds))
    needed = program.steps_per_epoch * config.batch_size
    out = []
    for part, size in enumerate(program.sizes):
        # The validation stream starts over as often as an epoch of the training stream needs.
        rounds = -(-needed // size)
        orders = [
            np.concatenate([augment.order(jax.random.fold_in(key, part), epoch * rounds + r, size) for r in range(rounds)])
            for key in keys
        ]
        indices = np.stack(orders)[:, :needed].reshape(config.num_seeds, program.steps_per_epoch, config.batch_size)
        out.append(jd.parallel.split(indices.swapaxes(0, 1), len(program.devices), axis=2))
    return *out, keys


def estimate(config: Config, dataset: images.Dataset) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    reports = []
    for remat in sorted({False, config.remat}):
        program = build(config, dataset, remat)
        training = jax.eval_shape(program.init)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(training["state"].params)) // config.num_seeds
        per_device = config.batch_size // len(program.devices)
        shape = (config.num_seeds, per_device)
        arguments = jax.eval_shape(
            lambda: jax.tree.map(
                lambda x: jnp.broadcast_to(x, (len(program.devices), *x.shape)),
                (program.data, *(jnp.zeros(shape, jnp.int32),) * 2),
            )
        )
        training, keys = jax.eval_shape(
            lambda t: jax.tree.map(lambda x: jnp.broadcast_to(x, (len(program.devices), *x.shape)), t),
            (training, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))),
        )
        start = time.time()
        memory = program.step.lower(training, *arguments, keys).compile().memory_analysis()
        megabytes = (memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes) / 1e6
        reports.append(megabytes)
        print(f"parameters of the supernet   {count:,}")
        print(f"steps an epoch               {program.steps_per_epoch}")
        print(f"memory of a step{' (remat)' if remat else '        '}     {megabytes:,.0f} MB a device")
        print(f"compilation                  {time.time() - start:.0f} s")
    if len(reports) == 2:
        print(f"--remat saves                {reports[0] - reports[1]:,.0f} MB a device")


def main(arguments: list[str]) -> None:
    config = parse(arguments)
    if config.cache_dir:
        jax.config.update("jax_compilation_cache_dir", config.cache_dir)
    try:
        dataset = images.load(config.dataset, config.data_dir)
    except (OSError, ValueError, ImportError) as error:
        raise Stop(f"--dataset={config.dataset}: {error}") from error
    if config.estimate:
        return estimate(config, dataset)
    folder = Path(config.run_dir or f"runs/search-{config.dataset.partition(':')[0]}-{time.strftime('%Y%m%d-%H%M%S')}")
    config = dataclasses.replace(config, run_dir=str(folder), resume=config.resume)
    if not config.resume and (folder / "config.json").exists():
        raise Stop(f"--run_dir={folder}: holds a run already; continue it with --resume={folder} or name another folder", 2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saved = {k: v for k, v in dataclasses.asdict(config).items() if k != "resume"}
        if not config.resume:
            jd.metrics.replace_text(folder / "config.json", json.dumps(saved, indent=2) + "\n")
        log = jd.metrics.logger(folder / "log.txt")
    except OSError as error:
        raise Stop(f"--run_dir={folder}: cannot write there: {error}") from error
    try:
        with jd.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
            run(config, dataset, folder, log, checkpoints)
    except jd.checkpoint.CheckpointError as error:
        raise Stop(str(error)) from error
    except OSError as error:
        raise Stop(f"cannot write into {folder}: {error}; continue with --resume={folder}") from error
    finally:
        jd.metrics.close_logger(log)


def run(config: Config, dataset: images.Dataset, folder: Path, log, checkpoints) -> None:
    """The search itself: epochs of steps, an evaluation and a checkpoint after each, the report in the end."""
    program = build(config, dataset)
    frozen = {k: v for k, v in json.loads(json.dumps(dataclasses.asdict(config))).items() if k not in FREE}
    training = program.init()
    if config.resume and checkpoints.latest_step() is not None:
        training = jd.checkpoint.restore(checkpoints, training, frozen)
    step = int(training["state"].step[0])
    total = config.epochs * program.steps_per_epoch
    total = min(total, config.max_steps) if config.max_steps else total
    history = [History(seed_folder, resume_step=step) for seed_folder in seed_folders(config, folder)]
    count = sum(leaf.size for leaf in jax.tree.leaves(training["state"].params)) // config.num_seeds
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("param size = %fMB", count / 1e6)
    log.info("run folder %s, compiled programs in %s", folder, config.cache_dir or "no cache")
    if step:
        log.info("continuing from step %d of %d", step, total)

    caught: list[int] = []
    old_handlers = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    bar = jd.metrics.console(total)

    def save(training) -> None:
        jd.checkpoint.save(checkpoints, step, jd.parallel.first(training), frozen)

    training = jd.parallel.replicate(training, program.devices)
    data = jd.parallel.replicate(program.data, program.devices)
    try:
        while step < total:
            epoch, position = divmod(step, program.steps_per_epoch)
            lr = config.learning_rate_min + 0.5 * (config.learning_rate - config.learning_rate_min) * (
                1 + math.cos(math.pi * epoch / config.epochs)
            )
            log.info("epoch %d lr %e", epoch, lr)
            start = time.time()
            train_indices, val_indices, keys = epoch_order(config, program, epoch)
            keys = jd.parallel.replicate(keys, program.devices)
            if position == 0:
                training = {**training, "sums": jax.tree.map(lambda s: 0 * s, training["sums"])}
            for i in range(position, min(program.steps_per_epoch, total - epoch * program.steps_per_epoch)):
                training = program.step(training, data, train_indices[:, i], val_indices[:, i], keys)
                step += 1
                if step % config.report_freq == 0 or step == total or caught:
                    means = averages(training["sums"], i + 1, step)
                    shown = {name: float(np.mean(value)) for name, value in means.items()}
                    log.info(
                        "train %03d %e %f %f", i, shown["train_loss"], 100 * shown["train_accuracy"], 100 * shown["train_top5"]
                    )
                    bar.write(step, {"epoch": epoch, "loss": shown["train_loss"], "accuracy": shown["train_accuracy"]})
                if caught:
                    save(training)
                    raise Stop(
                        f"{signal.Signals(caught[0]).name} at step {step}: saved; continue with --resume={folder}", 128 + caught[0]
                    )
                if config.checkpoint_freq and step % config.checkpoint_freq == 0 and step % program.steps_per_epoch:
                    averages(training["sums"], i + 1, step)
                    save(training)
            means = averages(training["sums"], i + 1, step)
            finish_epoch(config, program, training, data, means, history, log, epoch, step, lr, time.time() - start)
            save(training)
        bar.close()
        if caught:
            raise Stop(f"{signal.Signals(caught[0]).name} at step {step}: saved; continue with --resume={folder}", 128 + caught[0])
        finish(config, program, dataset, training, data, history, log)
    finally:
        bar.close()
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def averages(sums: Any, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began, [seeds] each. Ends the run where the loss is no number: nothing bad is ever saved."""
    means = {name: np.asarray(value) / count for name, value in jd.parallel.first(sums).items()}
    for name in ("train_loss", "valid_loss"):
        if not np.all(np.isfinite(means[name])):
            raise Stop(
                f"{name} is {means[name].tolist()} at step {step}: lower --learning_rate or --arch_learning_rate; "
                "checkpoints from before are intact"
            )
    return means


def seed_folders(config: Config, folder: Path) -> list[Path]:
    """Where each seed's results go: the run folder itself, or a folder in it where there are several seeds."""
    if config.num_seeds == 1:
        return [folder]
    return [folder / f"seed-{seed}" for seed in range(config.seed, config.seed + config.num_seeds)]


class History:
    """What one seed leaves behind after every epoch: metrics.jsonl, TensorBoard events, alphas.npz, genotype.json."""

    def __init__(self, folder: Path, resume_step: int):
        self.folder = folder
        self.lines = jd.metrics.json_lines(folder / "metrics.jsonl", resume_step)
        self.records = jd.metrics.read_json_lines(folder / "metrics.jsonl")
        self.events = jd.metrics.tensorboard(folder / "tensorboard", resume_step or None)
        self.mixes: dict[str, list[np.ndarray]] = {}
        if self.records:
            with np.load(folder / "alphas.npz", allow_pickle=False) as saved:
                self.mixes = {name: list(saved[name][: len(self.records)]) for name in saved.files}

    def write(self, step: int, record: dict[str, float], mix: dict[str, np.ndarray], genotype: jd.Genotype) -> None:
        for name, weights in mix.items():
            self.mixes.setdefault(name, []).append(weights)
        temporary = self.folder / ".alphas.tmp.npz"
        np.savez(temporary, **{name: np.stack(weights) for name, weights in self.mixes.items()})
        os.replace(temporary, self.folder / "alphas.npz")
        jd.metrics.replace_text(self.folder / "genotype.json", jd.genotypes.to_json(genotype))
        jd.metrics.combine(self.lines, self.events).write(step, record)
        self.records = jd.metrics.read_json_lines(self.folder / "metrics.jsonl")

    def close(self) -> None:
        jd.metrics.combine(self.lines, self.events).close()


def validate(program: Program, params, mixes, data, config: Config) -> dict[str, np.ndarray]:
    """Means over the validation half, [seeds] each, in evaluation order: batch statistics, no augmentation.

    The official code validates on augmented images; nothing is trained here, so we look at them as they are.
    """
    batches = program.sizes[1] // config.batch_size
    indices = np.arange(batches * config.batch_size, dtype=np.int32).reshape(batches, -1)
    indices = jd.parallel.split(indices, len(program.devices), axis=1)
    sums: dict[str, Any] = {}
    for i in range(batches):
        metrics = jd.parallel.first(program.evaluate(params, mixes, data, indices[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / batches for name, value in sums.items()}


def mixes_of(program: Program, training) -> dict[str, jax.Array]:
    """The current mix of every seed, [seeds, edges, ops] for each cell."""
    state = jd.parallel.first(training["state"])
    return jax.vmap(program.relax.apply)(state.arch, state.key, state.step)


def finish_epoch(config, program, training, data, means, history, log, epoch, step, lr, seconds) -> None:
    """Validates, derives every seed's genotype and writes it all down."""
    mixes = mixes_of(program, training)
    valid = validate(program, training["state"].params, jd.parallel.replicate(mixes, program.devices), data, config)
    for seed, seed_history in enumerate(history):
        mix = {name: np.asarray(weights[seed]) for name, weights in mixes.items()}
        genotype = program.space.discretize(mix)
        record = {"epoch": epoch, "learning_rate": lr, "seconds": seconds}
        record |= {name: float(value[seed]) for name, value in means.items() if not name.startswith("valid_")}
        record |= {f"valid_{name}": float(value[seed]) for name, value in valid.items()}
        for cell in ("normal", "reduce"):
            record[f"skip_{cell}"] = sum(op == "skip_connect" for op, _ in getattr(genotype, cell))
        seed_history.write(step, record, mix, genotype)
        log.info("train_acc %f", 100 * record["train_accuracy"])
        log.info("valid_acc %f", 100 * record["valid_accuracy"])
        log.info("genotype = %s", genotype)


def finish(config, program, dataset, training, data, history, log) -> None:
    """Compares the found cells with random ones under the shared weights, draws them and writes the reports."""
    state, cells = training["state"], program.space.cells
    found = [program.space.discretize({name: h.mixes[name][-1] for name in cells}) for h in history]
    rng_key = jax.random.fold_in(jax.random.key(config.seed), 2)
    candidates = [found] + [[program.space.sample(key)] * len(found) for key in jax.random.split(rng_key, 8)]
    losses = []
    for genotypes in candidates:
        mix = jd.parallel.stack([jd.one_hot(cells, genotype) for genotype in genotypes])
        losses.append(
            validate(program, state.params, jd.parallel.replicate(mix, program.devices), data, config)["loss"]
        )
    for seed, seed_history in enumerate(history):
        genotype, records = found[seed], seed_history.records
        random_losses = [float(loss[seed]) for loss in losses[1:]]
        shape = dataset.train.images.shape[1:]
        params, adds = jd.network_cost(genotype, 36, 20, len(dataset.class_names), shape)
        log.info(
            "supernet loss of the found cell %f, of %d random cells %f to %f",
            losses[0][seed], len(random_losses), min(random_losses), max(random_losses),
        )
        for name, svg in jd.draw.genotype(genotype).items():
            jd.metrics.replace_text(seed_history.folder / f"{name}.svg", svg)
        facts = {
            "dataset": config.dataset,
            "epochs": len(records),
            "supernet_parameters": sum(leaf.size for leaf in jax.tree.leaves(jd.parallel.first(state.params)))
            // config.num_seeds,
            "parameters": params,
            "multiply_adds": adds,
            "found_cell_supernet_loss": float(losses[0][seed]),
            "random_cells_supernet_loss": float(np.mean(random_losses)),
            "wall_time": sum(record.get("seconds") or 0 for record in records),
        }
        jd.report.write(
            seed_history.folder / "report.html", title=f"Search on {config.dataset}, seed {config.seed + seed}",
            config=dataclasses.asdict(config), records=records, genotype=genotype,
            mixes={name: np.stack(weights) for name, weights in seed_history.mixes.items()},
            edges={name: choices.edges for name, choices in cells.items()},
            ops={name: choices.ops for name, choices in cells.items()}, facts=facts,
        )
        log.info("genotype = %s", genotype)
        log.info("report %s", seed_history.folder / "report.html")
        seed_history.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Stop as stop:
        print(f"search.py: {stop}", file=sys.stderr)
        sys.exit(stop.code)
