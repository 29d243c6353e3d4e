"""What `evaluate.py` trains and how: its flags, the presets of data sets, the cells that --arch
names.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxdarts import files, genotypes
from jaxdarts.commands import checks, command_line
from jaxdarts.genotypes import Genotype, GraphGenotype, SizeGenotype, TopologyGenotype
from jaxdarts.runs import Stop

Cells = Genotype | TopologyGenotype | SizeGenotype | GraphGenotype
"""What can be trained: two cells, or what a benchmark has trained."""


@dataclasses.dataclass(frozen=True)
class Training(command_line.ImageSettings):
    """How a cell is trained from scratch."""

    epochs: int = 600
    """Passes over the training set."""
    batch_size: int = 96
    """Images in a batch, over all devices."""
    init_channels: int = 36
    """Channels of the first cells; every reduction cell doubles them. Default 16 for a cell of NAS-
    Bench-201, 128 for NAS-Bench-101."""
    layers: int = 20
    """Number of cells, with reduction cells at a third and two thirds. NAS-Bench-201: cells in each
    of three stages, default 5; NAS-Bench-101: 3."""
    network: Literal["cifar", "imagenet"] = "cifar"
    """Stem: cifar (one convolution, for small images) or imagenet (three, which shrink images by a
    factor of 8)."""
    stream: bool = False
    """Read images of any size from the disk batch by batch, randomly cropped; for data sets that do
    not fit on the device."""
    image_size: int = 224
    """Height and width of streamed images; test images are resized to 8/7 of it and cropped in the
    middle."""
    color_jitter: bool = False
    """Change brightness, contrast, saturation and hue of every training image, as published for
    ImageNet.
    """
    cutout: bool = True
    """Erase a random square of every training image (Cutout)."""
    auxiliary: bool = True
    """Train with an auxiliary head after the second reduction cell."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss."""
    drop_path_prob: float = 0.2
    """Probability of dropping an operation in the last epoch; it rises linearly from zero."""
    label_smooth: float = 0.0
    """Label smoothing: fraction of the target that is spread over all classes."""
    learning_rate: float = 0.025
    """Learning rate of the optimiser at the start of --schedule."""
    schedule: Literal["cosine", "exponential", "linear"] = "cosine"
    """Learning rate over the epochs: cosine to zero; exponential, times --decay after each; linear
    to zero, slower in the last five epochs and with five epochs of warm-up for batches larger
    than 256."""
    decay: float = 0.97
    """Factor of the exponential schedule, for each epoch."""
    optimizer: Literal["sgd", "rmsprop"] = "sgd"
    """sgd with momentum, or rmsprop as in NAS-Bench-101 (decay 0.9, epsilon 1), whose learning rate
    falls by a cosine every step."""
    seed: int = 0
    """Seed of everything that is random."""
    num_seeds: int = 1
    """Number of trainings in one program, with seeds seed, seed + 1, ...; mean and deviation are
    reported.
    """
    unroll: int = 6
    """Number of consecutive cells that are compiled separately: more cells compile longer and, on a
    CPU, run a fifth faster."""


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Train one cell from scratch. Defaults are those of the data set's preset."""

    FREE: ClassVar[str] = "random_cells"

    arch: str = "DARTS_V2"
    """Cell to train: a published name, a run folder of a search, a JSON file, or the text of a
    genotype."""
    select: tuple[str, ...] = ()
    """Cells (as for --arch) among which a short training chooses, instead of --arch."""
    select_epochs: int = 100
    """Epochs of the short training of --select."""
    select_portion: float = 0.5
    """Fraction of the training images that the short training learns from; the others choose."""
    random_cells: int = 1
    """Number of random cells that are trained beside those of --select, as a baseline."""
    test_only: bool = False
    """Only test the trained network of --checkpoint."""
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
    "imagenet": Config(  # the mobile setting
        dataset="imagenet2012",
        network="imagenet",
        stream=True,
        epochs=250,
        batch_size=128,
        init_channels=48,
        layers=14,
        learning_rate=0.1,
        schedule="exponential",
        weight_decay=3e-5,
        label_smooth=0.1,
        drop_path_prob=0.0,
        crop_padding=0,
        cutout=False,
        color_jitter=True,
        report_freq=100,
    ),
}
"""What the data sets of these names start from, and imagenet2012; any other one starts from the
paper's CIFAR-10 setting.
"""

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
BENCHMARKS: dict[type, dict[str, Any]] = {
    TopologyGenotype: BENCHMARK,
    SizeGenotype: {**BENCHMARK, "epochs": 90},
    GraphGenotype: {
        **BENCHMARK,
        "epochs": 108,
        "init_channels": 128,
        "layers": 3,
        "optimizer": "rmsprop",
        "learning_rate": 0.2,  # 0.1 for each of two cores
        "weight_decay": 1e-4,
        "grad_clip": math.inf,
    },
}
"""The same for each benchmark."""


def ensemble_asked(arguments: list[str]) -> bool:
    """Is --ensemble on the command line, or was it on that of the run to resume?"""
    given = {"--ensemble": "", "--resume": ""}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in given:
            given[name] = value if equals else " ".join(arguments[i + 1 : i + 2]) or name
    if given["--resume"]:
        try:
            return "ensemble" in files.read_json(Path(given["--resume"]) / "config.json", dict)
        except (OSError, ValueError):
            return False  # the other parser says what is wrong with it
    return bool(given["--ensemble"])


def parse(arguments: list[str], description: str | None) -> Config:
    """Flags over the data set's preset for the kind of cell that is to be trained."""
    config = command_line.parse(arguments, PRESETS, CIFAR, description)
    if config.resume or config.test_only:
        return config
    kinds = {type(resolve(name, "--select")) for name in config.select} or {
        type(resolve(config.arch))
    }
    if len(kinds) > 1:
        raise Stop(
            "--select: cells of NAS-Bench-201 and others, whose networks have nothing in common;"
            " select among one kind",
            2,
        )
    (kind,) = kinds
    if kind not in BENCHMARKS:
        return config
    own = [flag for flag in arguments if re.match(r"--(init[_-]channels|layers)\b", flag)]
    if kind is SizeGenotype and own:
        raise Stop(f"{own[0]}: the genotype itself says how wide and deep its network is", 2)
    return command_line.parse(arguments, *presets_of(kind), description)


def presets_of(kind: type) -> tuple[dict[str, Config], Config]:
    """What the data sets start from for a kind of genotype, and what all others do."""
    changes = BENCHMARKS.get(kind, {})
    presets = {
        name: preset if name == "digits" else dataclasses.replace(preset, **changes)
        for name, preset in PRESETS.items()
    }
    return presets, dataclasses.replace(CIFAR, **changes)


def size_of(config: Config, genotype: Any) -> tuple[int | None, int | None]:
    """Width and depth, as the network's space takes them."""
    return (
        (None, None)
        if isinstance(genotype, SizeGenotype)
        else (config.init_channels, config.layers)
    )


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_numbers(
        config,
        positive=(
            "epochs batch_size init_channels layers num_seeds report_freq learning_rate grad_clip"
            " select_epochs unroll image_size decay"
        ),
        not_negative=(
            "max_steps checkpoint_freq crop_padding cutout_length seed momentum weight_decay"
            " auxiliary_weight drop_path_prob label_smooth random_cells"
        ),
    )
    for name in ("drop_path_prob", "label_smooth"):
        if getattr(config, name) >= 1:
            raise Stop(f"--{name}={getattr(config, name)}: must be below 1", 2)
    if not 0 < config.select_portion < 1:
        raise Stop(
            f"--select_portion={config.select_portion}: must lie between 0 and 1, both excluded", 2
        )
    if config.optimizer == "rmsprop" and config.schedule != "cosine":
        raise Stop(f"--schedule={config.schedule}: --optimizer=rmsprop has the cosine only", 2)
    shortest = min(config.epochs, config.select_epochs) if config.select else config.epochs
    if config.schedule == "linear" and shortest <= 5:
        raise Stop(
            f"--schedule=linear: its last five epochs are slower, so it needs more than {shortest}"
            " epochs",
            2,
        )
    if config.stream and config.dataset.partition(":")[0] in ("digits", "npz"):
        raise Stop(
            f"--stream: {config.dataset} holds no single images; it takes folder:PATH or a TFDS"
            " name",
            2,
        )
    checks.check_seeds_and_devices(config)
    return config


def resolve(arch: str, flag: str = "--arch") -> Cells:
    """The convolutional genotype that a name, a run folder, a file or a text stands for."""
    genotype = named(arch, flag)
    if not isinstance(genotype, Cells):
        raise Stop(f"{flag}={arch}: a recurrent cell, which is trained on texts: --dataset=ptb", 2)
    return genotype


def named(arch: str, flag: str = "--arch") -> Any:
    """The genotype, of any kind, that a name, a run folder, a file or a text stands for."""
    path = Path(arch)
    try:
        if arch in genotypes.PUBLISHED:
            genotype = genotypes.PUBLISHED[arch]
        elif _is_there(path, Path.is_dir):
            if not (path / "genotype.json").is_file():
                raise Stop(
                    f"{flag}={arch}: a folder without genotype.json; is it a run of search.py, and"
                    " one epoch old?",
                    2,
                )
            path = path / "genotype.json"
            genotype = read(path)
        elif _is_there(path, Path.is_file):
            genotype = read(path)
        elif "(" in arch or "{" in arch or "|" in arch or re.fullmatch(r"\d+(:\d+)+", arch):
            genotype = genotypes.parse(arch)
        else:
            raise Stop(f"{flag}={arch}: no such file, and no published cell{nearest(arch)}", 2)
    except (OSError, ValueError) as error:
        raise Stop(f"{flag}={arch}: {error}", 2) from error
    return genotype


def read(path: Path) -> Any:
    """The genotype in a file, in any dialect, whatever its name ends in; errors name the file."""
    try:
        return genotypes.parse(files.read_text(path, genotypes.dialects.MAX_LENGTH))
    except files.Damaged:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_there(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a genotype is longer than a name may be
        return False


def nearest(name: str) -> str:
    """The published names that look like one that is not."""
    lower = {known.lower(): known for known in genotypes.PUBLISHED}
    close = [
        lower[match]
        for match in difflib.get_close_matches(name.lower()[:64], lower, n=3, cutoff=0.4)
    ]
    return (
        f"; the nearest are {', '.join(close)}"
        if close
        else f"; there are {', '.join(genotypes.PUBLISHED)}"
    )
