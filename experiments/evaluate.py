"""Train a found or published cell from scratch: python experiments/evaluate.py --arch=DARTS_V2 --dataset=cifar10

--arch takes a published name, a run folder of search.py, a JSON file, or the text of a genotype, such as the string of a cell
of NAS-Bench-201, whose presets are the benchmark's network and training (but gradients are clipped and momentum is not
Nesterov's). Leaves a run folder: config.json, log.txt, metrics.jsonl, tensorboard/, genotype.json, network.json and weights.npz
(read by jaxdarts.load), report.html and checkpoints/. The test set is looked at once, after the last epoch. --select retrains
the cells of several searches for a short time and goes on with the best one on held-out training images. --test_only
--checkpoint=RUN tests a trained network again.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Simulated devices on few cores deadlock with fewer threads (jax 0.9 and 0.10); read when JAX starts.
os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))

import jax
import jax.numpy as jnp
import numpy as np

import jaxdarts as jd
import runs
from jaxdarts import trained
from jaxdarts.data import augment, images
from runs import Run, Stop

Cells = jd.Genotype | jd.TopologyGenotype
"""What can be trained: two cells, or one of NAS-Bench-201."""


@dataclasses.dataclass(frozen=True)
class Config(runs.Settings):
    """Train one cell from scratch. Defaults are those of the data set's preset."""

    arch: str = "DARTS_V2"
    """Published name, run folder of search.py, JSON file, or text of a genotype."""
    epochs: int = 600
    """Passes over the training set."""
    batch_size: int = 96
    """Images in a batch, over all devices."""
    init_channels: int = 36
    """Channels of the first cells; every reduction doubles them. 16 for a cell of NAS-Bench-201."""
    layers: int = 20
    """Number of cells; reductions at a third and two thirds. For a cell of NAS-Bench-201, cells in each of three stages: 5."""
    cutout: bool = True
    """Erase a square of every training image."""
    auxiliary: bool = True
    """Train with an auxiliary head after the second reduction."""
    auxiliary_weight: float = 0.4
    """Share of its loss."""
    drop_path_prob: float = 0.2
    """Rate at which operations are left out in the last epoch; rises linearly from zero."""
    label_smooth: float = 0.0
    """Share of the target that is spread over all classes."""
    learning_rate: float = 0.025
    """Learning rate (SGD) of the first epoch; falls to zero by a cosine over the epochs."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 3e-4
    """Multiple of the weights that is added to their gradient."""
    grad_clip: float = 5.0
    """Largest global norm of the gradient."""
    seed: int = 0
    """Determines everything that is random."""
    num_seeds: int = 1
    """Number of trainings in one program, with seeds seed, seed + 1, ...; mean and deviation are reported."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the network's computations; weights stay float32."""
    remat: bool = False
    """Recompute cells in the backward pass: less memory, more time."""
    unroll: int = 6
    """Cells of a run that are compiled apart: more of them compile longer and, on a CPU, run a fifth faster."""
    select: tuple[str, ...] = ()
    """Architectures (as for --arch) to choose from by a short training, instead of --arch."""
    select_epochs: int = 100
    """Epochs of that training, on --select_portion of the training images."""
    select_portion: float = 0.5
    """Fraction of the training images that the short training sees; the rest chooses."""
    random_cells: int = 1
    """Random cells that are trained beside the selected ones, as a baseline."""
    estimate: bool = False
    """Only compile the step and print parameters, memory and steps an epoch; trains and writes nothing."""
    test_only: bool = False
    """Only test the network in --checkpoint."""
    checkpoint: str | None = None
    """Run folder of a trained network, for --test_only."""


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=8,
        batch_size=48,
        init_channels=8,
        layers=3,
        cutout=False,
        cutout_length=4,
        auxiliary=False,
        drop_path_prob=0.0,
        crop_padding=1,
        flip=False,
        report_freq=10,
        select_epochs=3,
        learning_rate=0.1,
    ),
    "cifar10": CIFAR,
    "cifar100": dataclasses.replace(CIFAR, dataset="cifar100"),
    "svhn_cropped": dataclasses.replace(CIFAR, dataset="svhn_cropped"),
    "mnist": dataclasses.replace(CIFAR, dataset="mnist", flip=False, auxiliary=False),
    "fashion_mnist": dataclasses.replace(CIFAR, dataset="fashion_mnist", auxiliary=False),
}
"""What each data set starts from; any other one starts from CIFAR-10's, the paper's, setting."""

BENCHMARK: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 256,
    "init_channels": 16,
    "layers": 5,
    "cutout": False,
    "auxiliary": False,
    "drop_path_prob": 0.0,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
}
"""What is different for a cell of NAS-Bench-201: the network and the training of the benchmark."""
BENCHMARK_PRESETS = {
    name: preset if name == "digits" else dataclasses.replace(preset, **BENCHMARK) for name, preset in PRESETS.items()
}


def parse(arguments: list[str]) -> Config:
    """Flags over the data set's preset for the kind of cell that is to be trained."""
    config = runs.parse(arguments, PRESETS, CIFAR, __doc__)
    if config.resume or config.test_only:
        return config
    kinds = {type(resolve(name, "--select")) for name in config.select} or {type(resolve(config.arch))}
    if len(kinds) > 1:
        raise Stop(
            "--select: cells of NAS-Bench-201 and others, whose networks have nothing in common; select among one kind", 2
        )
    if kinds == {jd.TopologyGenotype}:
        return runs.parse(arguments, BENCHMARK_PRESETS, dataclasses.replace(CIFAR, **BENCHMARK), __doc__)
    return config


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    runs.check_numbers(
        config,
        positive="epochs batch_size init_channels layers num_seeds report_freq learning_rate grad_clip select_epochs unroll",
        not_negative="max_steps checkpoint_freq crop_padding cutout_length seed momentum weight_decay auxiliary_weight "
        "drop_path_prob label_smooth random_cells",
    )
    for name in ("drop_path_prob", "label_smooth"):
        if getattr(config, name) >= 1:
            raise Stop(f"--{name}={getattr(config, name)}: must be below 1", 2)
    if not 0 < config.select_portion < 1:
        raise Stop(f"--select_portion={config.select_portion}: must lie between 0 and 1, both excluded", 2)
    runs.check_seeds_and_devices(config)
    return config


def resolve(arch: str, flag: str = "--arch") -> Cells:
    """The genotype that a name, a run folder, a file or a text stands for."""
    path = Path(arch)
    try:
        if arch in jd.genotypes.PUBLISHED:
            genotype = jd.genotypes.PUBLISHED[arch]
        elif "(" in arch or "{" in arch or "|" in arch:
            genotype = jd.genotypes.parse(arch)
        elif path.is_dir():
            if not (path / "genotype.json").is_file():
                raise Stop(f"{flag}={arch}: a folder without genotype.json; is it a run of search.py, and one epoch old?", 2)
            genotype = jd.genotypes.from_json((path / "genotype.json").read_text(encoding="utf-8"))
        elif path.is_file():
            text = path.read_text(encoding="utf-8")
            genotype = jd.genotypes.from_json(text) if path.suffix == ".json" else jd.genotypes.parse(text)
        else:
            raise Stop(f"{flag}={arch}: no such file, and no published cell{nearest(arch)}", 2)
    except (OSError, ValueError) as error:
        raise Stop(f"{flag}={arch}: {error}", 2) from error
    if not isinstance(genotype, Cells):
        raise Stop(f"{flag}={arch}: a recurrent cell; this script trains convolutional ones", 2)
    return genotype


def nearest(name: str) -> str:
    """The published names that look like one that is not."""
    lower = {known.lower(): known for known in jd.genotypes.PUBLISHED}
    close = [lower[match] for match in difflib.get_close_matches(name.lower()[:64], lower, n=3, cutoff=0.4)]
    return f"; the nearest are {', '.join(close)}" if close else f"; there are {', '.join(jd.genotypes.PUBLISHED)}"


class Program(NamedTuple):
    """The pure functions of a training, mapped over seeds and devices, and what they run on."""

    init: Any  # () -> {"state": TrainState, "sums": metrics}, a leading axis of seeds
    step: Any  # (training, data, indices, data keys) -> training
    evaluate: Any  # (state, data, indices, weights) -> sums of metrics
    devices: list
    data: Any  # {"train", "test"} on every device
    sizes: dict[str, int]
    steps_per_epoch: int


def build(config: Config, genotype: Cells, dataset: images.Dataset) -> Program:
    """Puts the library's parts together for one configuration; `dataset.test` is what `evaluate` sees."""
    devices = jax.local_devices()[: config.num_devices]
    steps_per_epoch = len(dataset.train.labels) // config.batch_size
    if not steps_per_epoch:
        raise Stop(f"--batch_size={config.batch_size}: larger than the training set, {len(dataset.train.labels)} images", 2)
    if config.auxiliary and isinstance(genotype, jd.TopologyGenotype):
        raise Stop("--auxiliary: a network of NAS-Bench-201 has no auxiliary head; leave it out", 2)
    net = jd.spaces.of(genotype).network(
        genotype,
        config.init_channels,
        config.layers,
        len(dataset.class_names),
        **({"auxiliary": True} if config.auxiliary else {}),
        dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS,
        remat=config.remat,
        unroll=config.unroll,
    )
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *dataset.train.images.shape[1:]))
    try:
        jax.eval_shape(alone.init, jax.random.key(0), image)
    except ValueError as error:
        raise Stop(
            f"--layers={config.layers} --auxiliary={config.auxiliary}, images of {config.dataset}: {error}", 2
        ) from error
    training = jd.train.from_scratch(
        net,
        runs.weights_optimizer(config, learning_rate, steps_per_epoch),
        # The published rate rises by the epoch, from zero.
        drop_path=(lambda step: config.drop_path_prob * (step // steps_per_epoch) / config.epochs)
        if config.drop_path_prob
        else None,
        auxiliary_weight=config.auxiliary_weight,
        label_smoothing=config.label_smooth,
        axis_name=jd.parallel.AXIS,
    )
    read = augment.reader(
        dataset.mean,
        dataset.std,
        padding=config.crop_padding,
        flip=config.flip,
        cutout_length=config.cutout_length if config.cutout else 0,
    )

    def step(carry, data, indices, data_key):
        state = carry["state"]
        state, metrics = training.step(state, read(data["train"], indices, jax.random.fold_in(data_key, state.step)))
        return {"state": state, "sums": {name: carry["sums"][name] + value for name, value in metrics.items()}}

    def evaluate(state, data, indices, weights):
        return training.evaluate(state, read(data["test"], indices), weights)

    def init():
        states = []
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, key = jax.random.split(jax.random.key(seed))
            states.append(training.init(key, alone.init(params_key, image)))
        sums = {name: jnp.zeros(config.num_seeds) for name in ("loss", "accuracy", "top5")}
        return {"state": jd.parallel.stack(states), "sums": sums}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    parts = {"train": dataset.train, "test": dataset.test}
    return Program(
        init=init,
        step=over_devices(over_seeds(step, (0, None, 0, 0)), devices, donate=(0,)),
        evaluate=over_devices(over_seeds(evaluate, (0, None, None, None)), devices),
        devices=devices,
        data={name: {"image": part.images, "label": part.labels} for name, part in parts.items()},
        sizes={name: len(part.labels) for name, part in parts.items()},
        steps_per_epoch=steps_per_epoch,
    )


def learning_rate(config: Config, epoch, cos):
    """By epoch; the cosine ends at zero, in the paper and in the official code alike."""
    return 0.5 * config.learning_rate * (1 + cos(math.pi * epoch / config.epochs))


def test(config: Config, program: Program, state, data) -> dict[str, np.ndarray]:
    """Means over all of the test images, [seeds] each; the last batch is filled up with images of weight zero."""
    size = program.sizes["test"]
    batches = -(-size // config.batch_size)
    padded = batches * config.batch_size
    indices = np.minimum(np.arange(padded), size - 1).astype(np.int32).reshape(batches, -1)
    weights = (np.arange(padded) < size).astype(np.float32).reshape(batches, -1)
    indices, weights = (jd.parallel.split(part, len(program.devices), axis=1) for part in (indices, weights))
    sums: dict[str, Any] = {}
    for i in range(batches):
        metrics = jd.parallel.first(program.evaluate(state, data, indices[:, i], weights[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / size for name, value in sums.items()}


def train(
    config: Config, genotype: Cells, dataset: images.Dataset, program: Program, run: Run, judged: str = "test"
) -> dict[str, np.ndarray]:
    """Trains to the end, or goes on with what was saved; `dataset.test`, called `judged`, is read after the last step only."""
    log, length = run.log, program.steps_per_epoch
    training, seconds = runs.restored(config, run, program.init())
    records = runs.Records(run.folder, runs.kept_step(config, int(training["state"].step[0]), length))
    shape = dataset.train.images.shape[1:]
    cost = jd.network_cost(genotype, config.init_channels, config.layers, len(dataset.class_names), shape)
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("genotype = %s", genotype)
    log.info("param size = %fMB", cost[0] / 1e6)
    log.info("multiply-adds = %fM", cost[1] / 1e6)
    jd.metrics.replace_text(run.folder / "genotype.json", jd.genotypes.to_json(genotype))
    data = jd.parallel.replicate(program.data, program.devices)
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds])
    data_keys = jd.parallel.replicate(jax.vmap(jax.random.fold_in, (0, None))(keys, 2), program.devices)

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, learning_rate(config, epoch, math.cos))
        orders = [augment.order(key, epoch, program.sizes["train"])[: length * config.batch_size] for key in keys]
        indices = np.stack(orders).reshape(config.num_seeds, length, -1)
        indices = jd.parallel.split(indices, len(program.devices), axis=2)
        return lambda training, i: program.step(training, data, indices[:, :, i], data_keys)

    def averages(sums, count, step):
        means = {f"train_{name}": np.asarray(value) / count for name, value in jd.parallel.first(sums).items()}
        runs.finite(step, "--learning_rate", train_loss=means["train_loss"])
        return means

    def check(tree, step):
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree["state"].params)])
        runs.finite(step, "--learning_rate", **{"a weight": weights})

    def end(training, means, epoch, step, seconds):
        record = {name: float(np.mean(value)) for name, value in means.items()}
        rate = learning_rate(config, epoch, math.cos)
        records.write(step, {"epoch": epoch, "learning_rate": rate, "seconds": seconds, **record})
        log.info("train_acc %f", 100 * record["train_accuracy"])

    try:
        training = jd.parallel.replicate(training, program.devices)
        training = runs.epochs(config, run, training, seconds, length, begin=begin, averages=averages, check=check, end=end)
        return finish(config, genotype, dataset, program, training, data, records, run, cost, judged)
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already
            records.close()


def finish(config, genotype, dataset, program, training, data, records, run, cost, judged) -> dict[str, np.ndarray]:
    """Tests, writes the networks and the report."""
    tested = test(config, program, training["state"], data)
    state = jd.parallel.first(training["state"])
    for i, seed in enumerate(range(config.seed, config.seed + config.num_seeds)):
        folder = run.folder if config.num_seeds == 1 else run.folder / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        params, averages = jax.tree.map(lambda leaf, i=i: leaf[i], (state.params, state.averages))
        trained.save(
            folder,
            genotype=genotype,
            params=params,
            averages=averages,
            width=config.init_channels,
            depth=config.layers,
            num_classes=len(dataset.class_names),
            imagenet=False,
            image_shape=dataset.train.images.shape[1:],
            mean=[float(value) for value in dataset.mean],
            std=[float(value) for value in dataset.std],
            class_names=dataset.class_names,
        )
        accuracy = 100 * tested["accuracy"][i]
        run.log.info("seed %d %s_acc %f error %f", seed, judged, accuracy, 100 - accuracy)
    error = 1 - tested["accuracy"]
    deviation = float(np.std(error, ddof=1)) if config.num_seeds > 1 else math.nan
    run.log.info("%s_acc %f", judged, 100 * float(np.mean(tested["accuracy"])))
    summary = f"{100 * float(np.mean(error)):.2f} %" + (
        f" +- {100 * deviation:.2f} % over {len(error)} seeds" if len(error) > 1 else ""
    )
    run.log.info("%s error %s", judged, summary)
    facts = {
        "dataset": config.dataset,
        "parameters": cost[0],
        "multiply_adds": cost[1],
        f"{judged}_error": summary,
        "wall_time": sum(record["seconds"] for record in records.all),
    }
    results = {name: [float(v) for v in value] for name, value in tested.items()}
    jd.metrics.replace_text(run.folder / f"{judged}.json", json.dumps(results, indent=1) + "\n")
    jd.report.write(
        run.folder / "report.html",
        title=f"Evaluation on {config.dataset}",
        config=dataclasses.asdict(config),
        records=records.all,
        genotype=genotype,
        mixes={},
        edges={},
        ops={},
        facts=facts,
    )
    run.log.info("report %s", run.folder / "report.html")
    return tested


def select(config: Config, dataset: images.Dataset, folder: Path) -> Cells:
    """The paper's protocol: a short training of every candidate on a part of the training set, judged on the rest of it."""
    try:
        fit, held = images.split(dataset.train, config.select_portion)
    except ValueError as error:
        raise Stop(f"--select_portion={config.select_portion}: {error}", 2) from error
    candidates = {name: resolve(name, "--select") for name in config.select}
    space = jd.spaces.of(next(iter(candidates.values())))
    keys = jax.random.split(jax.random.key(config.seed), max(config.random_cells, 1))
    for i in range(config.random_cells):
        candidates[f"random-{i}"] = space.sample(keys[i])
    scores = {}
    for i, (name, genotype) in enumerate(candidates.items()):
        # The networks see no test image: what is held out of the training set takes its place.
        short = dataclasses.replace(
            config, arch=str(genotype), epochs=config.select_epochs, select=(), num_seeds=1, run_dir=str(folder / f"select-{i}")
        )
        if (Path(short.run_dir) / "config.json").exists():
            short = dataclasses.replace(short, resume=short.run_dir)
        part = dataset._replace(train=fit, test=held)
        program = build(short, genotype, part)
        with runs.open_run(short, "eval") as opened:
            opened.log.info("candidate %s", name)
            scores[name] = float(train(short, genotype, part, program, opened, "valid")["accuracy"][0])
    named = {name: score for name, score in scores.items() if name in config.select}
    for name, score in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"{100 * score:6.2f} % of the held-out images  {name}", flush=True)
    best = max(named, key=lambda name: named[name])
    print(f"selected {best}", flush=True)
    jd.metrics.replace_text(folder / "selection.json", json.dumps({"scores": scores, "selected": best}, indent=1) + "\n")
    return candidates[best]


def estimate(config: Config, genotype: Cells, dataset: images.Dataset, program: Program) -> None:
    """Prints what a training would take, from the compiled step; trains nothing."""
    num, shape = len(program.devices), dataset.train.images.shape[1:]
    cost = jd.network_cost(genotype, config.init_channels, config.layers, len(dataset.class_names), shape)
    indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
    start = time.time()
    megabytes = runs.memory(program.step, num, (jax.eval_shape(program.init), program.data, indices, keys))
    print(f"parameters of the network    {cost[0]:,}")
    print(f"multiply-adds of an image    {cost[1]:,}")
    print(f"steps an epoch               {program.steps_per_epoch:,}, {config.epochs} epochs")
    print(f"memory of a step             {megabytes:,.1f} MB a device")
    print(f"compilation                  {time.time() - start:.0f} s")


def test_again(config: Config) -> None:
    """Tests a trained network on the data set's test images."""
    if not config.checkpoint:
        raise Stop("--test_only: name the run with --checkpoint=RUN", 2)
    try:
        apply, params = jd.load(config.checkpoint)
    except ValueError as error:
        raise Stop(f"--checkpoint={config.checkpoint}: {error}", 2) from error
    dataset = runs.load(config)
    logits = jax.jit(apply, compiler_options=jd.parallel.compiler_options(jax.default_backend()))
    hits, size = 0, len(dataset.test.labels)
    for start in range(0, size, config.batch_size):
        part = dataset.test.images[start : start + config.batch_size]
        padded = np.concatenate([part, np.repeat(part[-1:], config.batch_size - len(part), 0)])
        found = np.argmax(np.asarray(logits(params, padded)), -1)[: len(part)]
        hits += int(np.sum(found == dataset.test.labels[start : start + len(part)]))
    print(f"test_acc {100 * hits / size:f}")


def main(arguments: list[str]) -> None:
    config = check(parse(arguments))
    runs.use_cache(config)
    if config.test_only:
        return test_again(config)
    if not config.select:
        config = dataclasses.replace(config, arch=str(resolve(config.arch)))  # the run folder tells all there is to know
    dataset = runs.load(config)
    if config.select and not config.estimate:
        folder = runs.folder_of(config, "eval")
        genotype = select(config, dataset, folder)
        config = dataclasses.replace(config, arch=str(genotype), select=(), run_dir=str(folder))
    genotype = resolve(config.arch)
    program = build(config, genotype, dataset)
    if config.estimate:
        return estimate(config, genotype, dataset, program)
    with runs.open_run(config, "eval") as opened:
        train(dataclasses.replace(config, run_dir=str(opened.folder)), genotype, dataset, program, opened)


if __name__ == "__main__":
    runs.start(main)
