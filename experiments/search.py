"""Search a cell: python experiments/search.py --dataset=cifar10

Alternates exact second-order architecture steps with weight steps on the supernet of the DARTS space. Leaves a run
folder: config.json, log.txt, metrics.jsonl, tensorboard/, alphas.npz, genotype.json, normal.svg, reduce.svg,
report.html and checkpoints/. Without arguments it searches on scikit-learn's digits, in minutes on a CPU. Interrupted
or killed, it continues with --resume=RUN, to the very result of a run that nothing interrupted.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Simulated devices on few cores deadlock with fewer threads (jax 0.9 and 0.10); read when JAX starts.
os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))

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
    """Stop after so many steps, counted from the beginning of the run; 0 for no limit."""
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
    """Candidate operations of every edge, in the order of the columns of alpha, separated by spaces."""
    learning_rate: float = 0.025
    """Learning rate of the weights (SGD) in the first epoch; falls by a cosine over the epochs."""
    learning_rate_min: float = 0.001
    """Learning rate of the weights that the cosine ends at."""
    momentum: float = 0.9
    """Momentum of the weights' SGD."""
    weight_decay: float = 3e-4
    """Multiple of the weights that is added to their gradient."""
    grad_clip: float = 5.0
    """Largest global norm of the weights' gradient."""
    arch_learning_rate: float = 3e-4
    """Learning rate of alpha (Adam), constant."""
    arch_weight_decay: float = 1e-3
    """Multiple of alpha that is added to its gradient."""
    train_portion: float = 0.5
    """Fraction of the training set that trains the weights; the rest trains alpha."""
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
    """Number of searches in one program, with seeds seed, seed + 1, ..."""
    num_devices: int | None = None
    """Number of local devices to split batches over; default all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the supernet's computations; weights stay float32."""
    remat: bool = False
    """Recompute cells in the backward pass: less memory, more time."""
    estimate: bool = False
    """Only compile the step and print parameters, memory and steps an epoch; trains and writes nothing."""
    report_freq: int = 50
    """Steps between log lines."""
    checkpoint_freq: int = 0
    """Steps between checkpoints, besides the one after every epoch; 0 for none."""
    cache_dir: str = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxdarts")
    """Where compiled programs are kept for the next start; empty for nowhere."""


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=10,
        batch_size=32,
        init_channels=4,
        layers=3,
        nodes=2,
        learning_rate=0.1,
        arch_learning_rate=0.3,
        crop_padding=1,
        flip=False,
        cutout_length=4,
        report_freq=10,
    ),
    "cifar10": CIFAR,
    "cifar100": dataclasses.replace(CIFAR, dataset="cifar100"),
    "svhn_cropped": dataclasses.replace(CIFAR, dataset="svhn_cropped"),
    "mnist": dataclasses.replace(CIFAR, dataset="mnist", flip=False),
    "fashion_mnist": dataclasses.replace(CIFAR, dataset="fashion_mnist"),
}
"""What each data set starts from; any other one starts from CIFAR-10's, the paper's, setting."""

FREE = frozenset("run_dir resume data_dir max_steps num_devices estimate report_freq checkpoint_freq cache_dir".split())
"""Settings that a resumed run may change: they do not touch what is computed."""


class Stop(Exception):
    """Ends the run with one line; everything written so far stays."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(" ".join(message.split()))
        self.code = code


def parse(arguments: list[str]) -> Config:
    """Flags over the configuration of the run to resume, or over the data set's preset."""
    given = {"--dataset": "digits", "--resume": ""}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in given:
            given[name] = value if equals else " ".join(arguments[i + 1 : i + 2])
    resume = given["--resume"]
    if resume:
        path = Path(resume) / "config.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            default = Config(**{**saved, "ops": tuple(saved["ops"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Stop(f"--resume={resume}: not the folder of a run, no usable {path}: {error}", 2) from error
    else:
        default = PRESETS.get(given["--dataset"]) or dataclasses.replace(CIFAR, dataset=given["--dataset"])
    markers = (tyro.conf.DisallowNone,)  # None is a default only, not a value to give
    config = tyro.cli(Config, args=arguments, default=default, description=__doc__, use_underscores=True, config=markers)
    if config.resume:
        for field in dataclasses.fields(Config):
            old, new = getattr(default, field.name), getattr(config, field.name)
            if old != new and field.name not in FREE:
                raise Stop(f"--resume={resume}: the run has {field.name}={old!r}, not {new!r}; leave the flag out", 2)
        config = dataclasses.replace(config, run_dir=resume)
    return check(config)


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    for name in "epochs batch_size init_channels layers nodes num_seeds report_freq learning_rate grad_clip".split():
        if not getattr(config, name) > 0:  # so that NaN is refused too
            raise Stop(f"--{name}={getattr(config, name)}: must be positive", 2)
    names = "max_steps checkpoint_freq crop_padding cutout_length seed learning_rate_min momentum weight_decay"
    for name in [*names.split(), "arch_learning_rate", "arch_weight_decay"]:
        if not getattr(config, name) >= 0:
            raise Stop(f"--{name}={getattr(config, name)}: must not be negative", 2)
    if config.seed + config.num_seeds > 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
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
    try:
        train, val = images.split(dataset.train, config.train_portion)
        space = jd.spaces.darts(config.nodes, config.ops)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    steps_per_epoch = len(train.labels) // config.batch_size
    if min(len(train.labels), len(val.labels)) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than a part of the training set "
            f"({len(train.labels)} images for the weights, {len(val.labels)} for alpha)",
            2,
        )
    net = space.supernet(
        width=config.init_channels,
        depth=config.layers,
        num_classes=len(dataset.class_names),
        dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS,
        remat=config.remat if remat is None else remat,
    )
    # Without the mapped axis: a network that is only looked at here, not run.
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *train.images.shape[1:]))
    try:
        params = jax.eval_shape(alone.init, jax.random.key(0), image, net.example_mix())
        jax.eval_shape(alone.apply, params, image, net.example_mix())
    except ValueError as error:
        raise Stop(f"--layers={config.layers} do not fit the images of {config.dataset}: {error}", 2) from error
    algorithm = jd.algorithms.darts(space, order=2 if config.unrolled else 1)
    search = jd.bilevel_search(
        jd.objectives.classification(net), algorithm, *optimizers(config, steps_per_epoch), axis_name=jd.parallel.AXIS
    )

    def batch(part, indices, key=None):
        pixels = part["image"][indices]
        if key is not None:
            # What happens to an image depends on the step and its own index, not on the device that it lands on.
            crop_key, cutout_key = jax.random.split(key)
            keys = augment.example_keys(crop_key, indices)
            pixels = augment.crop_and_flip(keys, pixels, config.crop_padding, config.flip)
        pixels = augment.normalize(pixels, dataset.mean, dataset.std)
        if key is not None and config.cutout:
            pixels = augment.cutout(augment.example_keys(cutout_key, indices), pixels, config.cutout_length)
        return {"image": pixels, "label": part["label"][indices]}

    def step(training, data, train_indices, val_indices, data_key):
        state = training["state"]
        train_key, val_key = jax.random.split(jax.random.fold_in(data_key, state.step))
        train_batch = batch(data["train"], train_indices, train_key)
        state, metrics = search.step(state, train_batch, batch(data["val"], val_indices, val_key))
        sums = {name: training["sums"][name] + value for name, value in metrics.items()}
        return {"state": state, "sums": sums}

    def evaluate(params, mix, data, indices):
        _, (_, metrics) = jd.objectives.classification(net)(params, mix, (), batch(data["val"], indices), None)
        return jax.lax.pmean(metrics, jd.parallel.AXIS)

    def init():
        states = []
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, search_key = jax.random.split(jax.random.key(seed))
            states.append(search.init(search_key, alone.init(params_key, image, net.example_mix())["params"]))
        names = [f"{part}_{name}" for part in ("train", "valid") for name in ("loss", "accuracy", "top5")]
        sums = {name: jnp.zeros(config.num_seeds) for name in (*names, "arch_gradient_norm")}
        return {"state": jd.parallel.stack(states), "sums": sums}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    return Program(
        space=space,
        relax=algorithm.relax,
        init=init,
        step=over_devices(over_seeds(step, (0, None, 0, 0, 0)), devices, donate=(0,)),
        evaluate=over_devices(over_seeds(evaluate, (0, 0, None, None)), devices),
        devices=devices,
        data={name: {"image": part.images, "label": part.labels} for name, part in (("train", train), ("val", val))},
        sizes=(len(train.labels), len(val.labels)),
        steps_per_epoch=steps_per_epoch,
    )


def learning_rate(config: Config, epoch, cos):
    """Of the weights, by epoch. The official code's cosine ends at learning_rate_min, the paper's at zero."""
    span = config.learning_rate - config.learning_rate_min
    return config.learning_rate_min + 0.5 * span * (1 + cos(math.pi * epoch / config.epochs))


def optimizers(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, ...]:
    """The published optimisers of weights and alpha."""

    def schedule(step):
        return learning_rate(config, jnp.minimum(step // steps_per_epoch, config.epochs), jnp.cos)

    params_tx = optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )
    arch_tx = optax.chain(
        optax.add_decayed_weights(config.arch_weight_decay), optax.adam(config.arch_learning_rate, b1=0.5, b2=0.999)
    )
    return params_tx, arch_tx


def epoch_order(config: Config, program: Program, epoch: int) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """One epoch's batches as indices, [devices, steps, seeds, batch] of either half, and every seed's data key."""
    seeds = config.seed + jnp.arange(config.num_seeds)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
    needed = program.steps_per_epoch * config.batch_size
    out = []
    for part, size in enumerate(program.sizes):
        # The validation stream starts over as often as an epoch of the training stream needs.
        rounds = range(epoch * -(-needed // size), (epoch + 1) * -(-needed // size))
        orders = [[augment.order(jax.random.fold_in(key, part), r, size) for r in rounds] for key in keys]
        indices = np.stack([np.concatenate(order)[:needed] for order in orders])
        indices = indices.reshape(config.num_seeds, program.steps_per_epoch, len(program.devices), -1)
        out.append(indices.transpose(2, 1, 0, 3))
    return *out, jd.parallel.replicate(keys, program.devices)


def estimate(config: Config, dataset: images.Dataset) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    megabytes = []
    for remat in sorted({False, config.remat}):
        program = build(config, dataset, remat)
        num = len(program.devices)
        training = jax.eval_shape(program.init)
        indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
        arguments = jax.tree.map(
            lambda x, num=num: jax.ShapeDtypeStruct((num, *x.shape), x.dtype),
            (training, program.data, indices, indices, keys),
        )
        start = time.time()
        memory = program.step.compile(*arguments).memory_analysis()
        taken = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        megabytes.append((taken - memory.alias_size_in_bytes) / 1e6)  # donated arguments count once
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(training["state"].params)) // config.num_seeds
        print(f"parameters of the supernet   {count:,}")
        print(f"steps an epoch               {program.steps_per_epoch:,}, {config.epochs} epochs")
        print(f"memory of a step{' (remat)' if remat else '        '}     {megabytes[-1]:,.1f} MB a device")
        print(f"compilation                  {time.time() - start:.0f} s")
    if config.remat:
        print(f"--remat saves                {megabytes[0] - megabytes[1]:,.1f} MB a device")


def main(arguments: list[str]) -> None:
    config = parse(arguments)
    if config.cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir).expanduser()))
    try:
        dataset = images.load(config.dataset, config.data_dir)
    except (OSError, ValueError, ImportError) as error:
        raise Stop(f"--dataset={config.dataset}: {error}") from error
    if config.estimate:
        return estimate(config, dataset)
    program = build(config, dataset)
    folder = Path(config.run_dir or f"runs/search-{config.dataset.partition(':')[0]}-{time.strftime('%Y%m%d-%H%M%S')}")
    config = dataclasses.replace(config, run_dir=str(folder))
    try:
        if not config.resume:
            if any((folder / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints")):
                raise Stop(f"--run_dir={folder}: holds a run; continue it with --resume={folder} or name another", 2)
            folder.mkdir(parents=True, exist_ok=True)
            saved = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("resume", "run_dir")}
            jd.metrics.replace_text(folder / "config.json", json.dumps(saved, indent=2) + "\n")
        log = jd.metrics.logger(folder / "log.txt")
    except OSError as error:
        raise Stop(f"--run_dir={folder}: cannot write there: {error}") from error
    try:
        with jd.checkpoint.open_folder(folder / "checkpoints") as checkpoints, interruptible(folder, log) as asked:
            run(config, dataset, program, folder, log, checkpoints, asked)
    except jd.checkpoint.CheckpointError as error:
        raise Stop(f"{error}; continue with --resume={folder}") from error
    except OSError as error:
        raise Stop(f"cannot write into {folder}: {error}; continue with --resume={folder}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Stop("out of memory: try --remat or a smaller --batch_size; --estimate tells what a step takes") from error
    finally:
        jd.metrics.close_logger(log)


class Asked(NamedTuple):
    """Signals that came in; `stepped` is set once a step has been taken, so that there is work to save."""

    signals: list[int]
    stepped: threading.Event


@contextlib.contextmanager
def interruptible(folder: Path, log: logging.Logger) -> Iterator[Asked]:
    """SIGTERM and Ctrl-C ask to save and leave. A second one ends the process at once, and so does one before any step.

    A thread listens, because Python's own handlers would wait for the compiler, for minutes.
    """
    asked = Asked([], threading.Event())
    numbers = (signal.SIGTERM, signal.SIGINT)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := int.from_bytes(os.read(reader, 1)):
            if number not in numbers:
                continue
            name = signal.Signals(number).name
            if asked.signals or not asked.stepped.is_set():
                cursor = "\033[?25h" if sys.stdout.isatty() else ""  # the live bar hides it
                left = f"{cursor}search.py: {name}: ended at once; continue with --resume={folder}\n"
                os.write(sys.stderr.fileno(), left.encode())
                os._exit(128 + number)
            asked.signals.append(number)
            log.info("%s: leaving after this step; once more ends at once", name)

    old = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old_writer = signal.set_wakeup_fd(writer)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(old_writer)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
        os.close(reader)


def run(config, dataset, program: Program, folder: Path, log: logging.Logger, checkpoints, asked: Asked) -> None:
    """The search itself: epochs of steps, an evaluation and a checkpoint after each, the report in the end."""
    frozen = {k: v for k, v in json.loads(json.dumps(dataclasses.asdict(config))).items() if k not in FREE}
    training, seconds = program.init(), 0.0
    if config.resume and checkpoints.latest_step() is not None:
        saved = jd.checkpoint.restore(checkpoints, {**training, "seconds": jnp.float32(0)}, frozen)
        seconds = float(saved.pop("seconds"))
        training = saved
    step, length = int(training["state"].step[0]), program.steps_per_epoch
    total = min(config.epochs * length, config.max_steps or config.epochs * length)
    # The record of an epoch that --max_steps cut short goes when that epoch goes on.
    kept = step if step >= total else step - step % length
    history = [History(seed_folder, kept, log) for seed_folder in seed_folders(config, folder)]
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("param size = %fMB", num_params(config, training) / 1e6)
    log.info("run folder %s", folder)
    if config.resume:
        log.info("resumed at step %d%s", step, f" of {total}" if step < total else ": nothing is left to do but the report")
    bar = jd.metrics.console(total)
    training = jd.parallel.replicate(training, program.devices)
    data = jd.parallel.replicate(program.data, program.devices)

    def save() -> None:
        tree = jd.parallel.first(training)
        for name, part in (("a weight", tree["state"].params), ("alpha", tree["state"].arch)):
            finite(step, **{name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])})
        jd.checkpoint.save(checkpoints, step, {**tree, "seconds": jnp.float32(seconds)}, frozen)

    def leave() -> Stop:
        number = asked.signals[0]
        name = signal.Signals(number).name
        return Stop(f"{name} at step {step} of {total}: saved; continue with --resume={folder}", 128 + number)

    try:
        while step < total:
            epoch, position = divmod(step, length)
            lr = learning_rate(config, epoch, math.cos)
            log.info("epoch %d lr %e", epoch, lr)
            start = shown = time.monotonic() - seconds
            train_indices, val_indices, keys = epoch_order(config, program, epoch)
            if position == 0:
                training["sums"] = jax.tree.map(jnp.zeros_like, training["sums"])
            last = min(length, total - epoch * length) - 1
            for i in range(position, last + 1):
                if not asked.stepped.is_set():
                    where = f"; the next start reads {config.cache_dir}" if config.cache_dir else ""
                    log.info("compiling the step, which can take minutes%s", where)
                training = program.step(training, data, train_indices[:, i], val_indices[:, i], keys)
                step += 1
                if not asked.stepped.is_set():
                    jax.block_until_ready(training)
                    log.info("the first step took %.1f s", time.monotonic() - start - seconds)
                    asked.stepped.set()
                leaving, now = bool(asked.signals), time.monotonic()
                reported = step % config.report_freq == 0 or i == last
                if reported or leaving or now - shown > 1:
                    means, shown = averages(training["sums"], i + 1, step), now
                    loss, accuracy, top5 = (float(np.mean(means[f"train_{name}"])) for name in ("loss", "accuracy", "top5"))
                    if reported:
                        log.info("train %03d %e %f %f", i, loss, 100 * accuracy, 100 * top5)
                    bar.write(step, {"epoch": epoch, "loss": loss, "accuracy": accuracy})
                # The last step's checkpoint waits for the epoch's record, which could not be made up for later.
                if i < last and (leaving or (config.checkpoint_freq and step % config.checkpoint_freq == 0)):
                    seconds = time.monotonic() - start
                    save()
                    if leaving:
                        raise leave()
            seconds = time.monotonic() - start
            finish_epoch(config, program, training, data, means, history, log, epoch, step, lr, seconds)
            if step % length == 0:
                seconds = 0.0
            save()
            if asked.signals:
                raise leave()
        bar.close()
        if step < config.epochs * length:
            log.info("--max_steps=%d of %d steps are done", config.max_steps, config.epochs * length)
        finish(config, program, dataset, training, data, history, log)
        for seed_history in history:
            seed_history.close()
    finally:
        bar.close()
        for seed_history in history:
            with contextlib.suppress(OSError):  # a full disk has been told of already
                seed_history.close()


def num_params(config: Config, training) -> int:
    """Weights of one seed's supernet."""
    return sum(leaf.size for leaf in jax.tree.leaves(training["state"].params)) // config.num_seeds


def finite(step: int, **values: np.ndarray) -> None:
    """Ends the run where a number is none, so that nothing bad is ever saved."""
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise Stop(
                f"{name} is not finite at step {step}: start again with a lower --learning_rate or "
                "--arch_learning_rate; what was saved before is intact"
            )


def averages(sums: Any, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began, [seeds] each."""
    means = {name: np.asarray(value) / count for name, value in jd.parallel.first(sums).items()}
    finite(step, train_loss=means["train_loss"], valid_loss=means["valid_loss"])
    return means


def seed_folders(config: Config, folder: Path) -> list[Path]:
    """Where each seed's results go: the run folder itself, or a folder in it where there are several seeds."""
    if config.num_seeds == 1:
        return [folder]
    return [folder / f"seed-{seed}" for seed in range(config.seed, config.seed + config.num_seeds)]


class History:
    """What one seed leaves behind after every epoch: metrics.jsonl, TensorBoard events, alphas.npz, genotype.json.

    A resumed run drops what was written after `resume_step`, its checkpoint; alphas.npz tells the step of every entry.
    """

    def __init__(self, folder: Path, resume_step: int, log: logging.Logger):
        self.folder = folder
        try:
            self.lines = jd.metrics.json_lines(folder / "metrics.jsonl", resume_step)
            self.records = jd.metrics.read_json_lines(folder / "metrics.jsonl")
        except ValueError as error:
            raise Stop(f"{error}; remove the file to continue without it") from error
        # Events may have died in a buffer: a resumed run hides the old ones and writes all of them again.
        events = folder / "tensorboard"
        self.events = jd.metrics.tensorboard(events, 0 if events.exists() else None)
        for record in self.records:
            values = {name: value for name, value in record.items() if name != "step" and value is not None}
            self.events.write(record["step"], values)
        self.alphas: dict[str, list[np.ndarray]] = {}
        if resume_step:
            try:
                with open(folder / "alphas.npz", "rb") as file, np.load(file, allow_pickle=False) as saved:
                    kept = saved["step"] <= resume_step
                    self.alphas = {name: list(saved[name][kept]) for name in saved.files}
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                log.info("alphas.npz starts anew, the old one cannot be read: %s", error)

    def write(self, step: int, record: dict[str, float], mix: dict[str, np.ndarray], genotype: jd.Genotype) -> None:
        for name, value in {"step": np.int64(step), **mix}.items():
            self.alphas.setdefault(name, []).append(value)
        temporary = self.folder / ".alphas.tmp.npz"
        try:
            np.savez(temporary, **{name: np.stack(values) for name, values in self.alphas.items()})
            os.replace(temporary, self.folder / "alphas.npz")
        finally:
            temporary.unlink(missing_ok=True)
        jd.metrics.replace_text(self.folder / "genotype.json", jd.genotypes.to_json(genotype))
        jd.metrics.combine(self.lines, self.events).write(step, record)
        self.records = jd.metrics.read_json_lines(self.folder / "metrics.jsonl")

    def close(self) -> None:
        jd.metrics.combine(self.lines, self.events).close()


def validate(program: Program, params, mixes, data, config: Config) -> dict[str, np.ndarray]:
    """Means over the validation half, [seeds] each: the batches' own statistics, no augmentation.

    The official code validates on augmented images; nothing is trained here, so we look at them as they are.
    """
    batches = program.sizes[1] // config.batch_size
    indices = np.arange(batches * config.batch_size, dtype=np.int32)
    indices = indices.reshape(batches, len(program.devices), -1).swapaxes(0, 1)
    sums: dict[str, Any] = {}
    for i in range(batches):
        metrics = jd.parallel.first(program.evaluate(params, mixes, data, indices[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / batches for name, value in sums.items()}


def mixes_of(program: Program, training) -> dict[str, jax.Array]:
    """The current mix of every seed, [seeds, edges, ops] for each cell."""
    state = jd.parallel.first(training["state"])
    return jax.vmap(program.relax.apply)(state.arch, state.key, state.step)


def genotypes_of(program: Program, mixes) -> list[jd.Genotype]:
    """Every seed's genotype."""
    mixes = {name: np.asarray(weights) for name, weights in mixes.items()}
    num_seeds = len(next(iter(mixes.values())))
    return [program.space.discretize({name: mixes[name][seed] for name in mixes}) for seed in range(num_seeds)]


def finish_epoch(config, program, training, data, means, history, log, epoch, step, lr, seconds) -> None:
    """Validates, derives every seed's genotype and writes it all down."""
    mixes = mixes_of(program, training)
    valid = validate(program, training["state"].params, jd.parallel.replicate(mixes, program.devices), data, config)
    finite(step, valid_loss=valid["loss"])
    for seed, genotype in enumerate(genotypes_of(program, mixes)):
        record = {"epoch": epoch, "learning_rate": lr, "seconds": seconds}
        record |= {name: float(value[seed]) for name, value in means.items() if not name.startswith("valid_")}
        record |= {f"valid_{name}": float(value[seed]) for name, value in valid.items()}
        for cell in ("normal", "reduce"):
            record[f"skip_{cell}"] = sum(op == "skip_connect" for op, _ in getattr(genotype, cell))
        mix = {name: np.asarray(weights[seed]) for name, weights in mixes.items()}
        history[seed].write(step, record, mix, genotype)
        if config.num_seeds > 1:
            log.info("seed %d", config.seed + seed)
        log.info("train_acc %f", 100 * record["train_accuracy"])
        log.info("valid_acc %f", 100 * record["valid_accuracy"])
        log.info("genotype = %s", genotype)


def finish(config, program, dataset, training, data, history, log) -> None:
    """Compares the found cells with random ones under the shared weights, draws them and writes the reports."""
    cells, found = program.space.cells, genotypes_of(program, mixes_of(program, training))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 8)
    losses = []
    for candidates in [found, *([program.space.sample(key)] * len(found) for key in keys)]:
        mixes = jd.parallel.stack([jd.one_hot(cells, genotype) for genotype in candidates])
        mixes = jd.parallel.replicate(mixes, program.devices)
        losses.append(validate(program, training["state"].params, mixes, data, config)["loss"])
    for seed, (genotype, own) in enumerate(zip(found, history, strict=True)):
        found_loss, *random_losses = (float(loss[seed]) for loss in losses)
        low, high = min(random_losses), max(random_losses)
        log.info("supernet loss of the found cell %f, of %d random cells %f to %f", found_loss, len(keys), low, high)
        for name, svg in jd.draw.genotype(genotype).items():
            jd.metrics.replace_text(own.folder / f"{name}.svg", svg)
        shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
        params, multiply_adds = jd.network_cost(genotype, 36, 20, classes, shape)
        jd.report.write(
            own.folder / "report.html",
            title=f"Search on {config.dataset}, seed {config.seed + seed}",
            config=dataclasses.asdict(config),
            records=own.records,
            genotype=genotype,
            mixes={name: np.stack(values) for name, values in own.alphas.items() if name in cells},
            edges={name: choices.edges for name, choices in cells.items()},
            ops={name: choices.ops for name, choices in cells.items()},
            facts={
                "dataset": config.dataset,
                "epochs": len(own.records),
                "supernet_parameters": num_params(config, jd.parallel.first(training)),
                "parameters": params,
                "multiply_adds": multiply_adds,
                "found_cell_supernet_loss": found_loss,
                "random_cells_supernet_loss": float(np.mean(random_losses)),
                "wall_time": sum(record["seconds"] for record in own.records),
            },
        )
        log.info("genotype = %s", genotype)
        log.info("report %s", own.folder / "report.html")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Stop as stop:
        print(f"search.py: {stop}", file=sys.stderr, flush=True)
        # Not sys.exit: after a full disk tensorboardX would try again to write its buffer, and fail with a traceback.
        os._exit(stop.code)
    except KeyboardInterrupt:
        print("search.py: interrupted before there was anything to save", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
