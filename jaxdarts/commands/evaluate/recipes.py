"""Settings of trainings on images: flags, presets of data sets, and the cells that --arch names."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxdarts import files, genotypes, spaces
from jaxdarts.commands import checks, command_line, flags, reproduce, sizes
from jaxdarts.genotypes import Genotype, GraphGenotype, SizeGenotype, TopologyGenotype
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import BELOW_ONE, INSIDE_ONE, NOT_NEGATIVE, PORTION, POSITIVE

Cells = Genotype | TopologyGenotype | SizeGenotype | GraphGenotype
"""What can be trained: two cells, or what a benchmark has trained."""


@dataclasses.dataclass(frozen=True)
class Streaming:
    """Images that are read from the disk."""

    TOPIC: ClassVar[str] = "data"

    stream: bool = flag(
        False,
        "Read images of any size from the disk batch by batch, randomly cropped; for data sets that"
        " do not fit on the device.",
    )
    image_size: int | None = flag(
        None,
        "Height and width to which the pictures of folder:PATH are resized and cropped; default: no"
        " change, and 224 with --stream, where test images are resized to 8/7 of it first.",
        POSITIVE,
    )
    color_jitter: bool = flag(
        False,
        "Change brightness, contrast, saturation and hue of every training image, as published for"
        " ImageNet.",
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """The network around the cell."""

    TOPIC: ClassVar[str] = "network"

    network: Literal["cifar", "imagenet"] = flag(
        "cifar",
        "First layers: cifar (one convolution, for small images) or imagenet (three, which shrink"
        " images by a factor of 8).",
    )
    auxiliary: bool = flag(True, "Train with an auxiliary head after the second reduction cell.")
    unroll: int = flag(
        6,
        "Number of equal consecutive cells that are unrolled in the compiled loop: a larger number"
        " compiles longer and, on a CPU, runs faster.",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Flags of the training of the weights."""

    TOPIC: ClassVar[str] = "weights"

    optimizer: Literal["sgd", "rmsprop"] = flag(
        "sgd",
        "Optimiser of the weights: sgd with momentum, or rmsprop as in NAS-Bench-101 (decay 0.9,"
        " epsilon 1), whose learning rate falls by a cosine every step.",
    )
    schedule: Literal["cosine", "exponential", "linear"] = flag(
        "cosine",
        "Learning rate over the epochs: cosine to zero; exponential: multiplied by --decay after"
        " each epoch; linear to zero, slower in the last five epochs and with five epochs of"
        " warm-up for batches larger than 256.",
    )
    decay: float = flag(0.97, "Factor of --schedule=exponential, for each epoch.", PORTION)
    auxiliary_weight: float = flag(0.4, "Weight of the auxiliary head's loss.", NOT_NEGATIVE)
    drop_path_prob: float = flag(
        0.2,
        "Probability of dropping an operation after the last epoch; it rises linearly from zero,"
        " by the epoch: in epoch e of E, counted from 0, it is this times e / E.",
        BELOW_ONE,
    )
    label_smooth: float = flag(
        0.0, "Label smoothing: fraction of the target that is spread over all classes.", BELOW_ONE
    )


@dataclasses.dataclass(frozen=True)
class Training(
    flags.ImageData,
    flags.Augmentation,
    flags.Balance,
    flags.Cutout,
    Streaming,
    flags.Size,
    Network,
    flags.ImageWeights,
    Recipe,
    flags.Clipping,
    flags.Training,
    flags.Seeds,
):
    """Flags of the training of a cell from scratch."""

    epochs: int = 600
    batch_size: int = 96
    init_channels: int = 36
    layers: int = 20
    cutout: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Held:
    """Which images --select chooses by."""

    TOPIC: ClassVar[str] = "cell"

    select_portion: float = flag(
        0.5,
        "Fraction of the training images that the short training of --select learns from; the"
        " others choose.",
        INSIDE_ONE,
    )


@dataclasses.dataclass(frozen=True)
class Config(flags.Cell, Held, Training):
    """Train one cell from scratch. Defaults are those of the data set's preset."""

    COMMAND: ClassVar[str] = "evaluate"
    KIND: ClassVar[str] = "images"

    def start(self) -> reproduce.Start:
        """What the flags were laid over."""
        return reproduce.start(self, *presets_of(type(resolve(self.arch))))


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
    "nesterov": True,
    "grad_clip": math.inf,
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
        "nesterov": False,
        "learning_rate": 0.2,  # 0.1 for each of two cores
        "weight_decay": 1e-4,
    },
}
"""The same for each benchmark."""


def kind_of(cells: Iterable[str], flag: str) -> type | None:
    """The kind of genotype that cells have; None of no cells."""
    kinds = {type(resolve(name, flag)) for name in cells}
    if len(kinds) > 1:
        raise Stop(
            f"{flag}: cells of NAS-Bench-201 and others, whose networks have nothing in common;"
            " name cells of one kind",
            2,
        )
    return next(iter(kinds), None)


def parse(arguments: Sequence[str] | command_line.Line, description: str | None) -> Config:
    """Flags over the data set's preset for the kind of cell that is to be trained."""
    line = command_line.look(arguments)
    if line.saved or "test_only" in line.given:
        return command_line.parse(line, PRESETS, CIFAR, description)
    select = line.given.get("select", [])
    if select:
        kind = kind_of(select, "--select")
    else:
        kind = kind_of([line.value("arch") or Config.arch], "--arch")
    given = [name for name in ("init_channels", "layers") if name in line.given]
    if kind is SizeGenotype and given:
        size = f"--{given[0]}={line.value(given[0])}"
        raise Stop(f"{size}: the genotype itself says how wide and deep its network is", 2)
    return command_line.parse(line, *presets_of(kind), description)


def presets_of(kind: type | None) -> tuple[dict[str, Config], Config]:
    """Presets of the data sets for a kind of genotype, and the preset of all other data sets."""
    changes = BENCHMARKS.get(kind, {}) if kind else {}
    presets = {
        name: preset if name == "digits" else dataclasses.replace(preset, **changes)
        for name, preset in PRESETS.items()
    }
    return presets, dataclasses.replace(CIFAR, **changes)


def size_of(config: Config, genotype: Any) -> tuple[int | None, int | None]:
    """Width and depth, as the network's space takes them."""
    sized = spaces.of(genotype).size is not None
    return (config.init_channels, config.layers) if sized else (None, None)


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_flags(config)
    if config.optimizer == "rmsprop" and config.schedule != "cosine":
        raise Stop(f"--schedule={config.schedule}: --optimizer=rmsprop has the cosine only", 2)
    if config.optimizer == "rmsprop" and config.nesterov:
        raise Stop("--nesterov: --optimizer=rmsprop has no such form; leave it out", 2)
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
    if config.image_size == sizes.STREAMED and not (
        config.stream or config.resume or config.test_only
    ):
        raise Stop(
            f"--image_size={sizes.STREAMED}: pictures of this size are streamed: add --stream", 2
        )
    checks.check_seeds_and_devices(config)
    return config


def size_in_memory(config: Config) -> int | None:
    """The size to which pictures are resized in memory; None for no change.

    Runs of earlier versions have the size of streamed pictures without streaming any.
    """
    return None if config.image_size == sizes.STREAMED else config.image_size


def resolve(arch: str, flag: str = "--arch") -> Cells:
    """The convolutional genotype that a name, a run folder, a file or a text stands for."""
    genotype = named(arch, flag)
    if not isinstance(genotype, Cells):
        raise Stop(f"{flag}={arch}: a recurrent cell, which is trained on texts: --dataset=ptb", 2)
    return genotype


def named(arch: str, flag: str = "--arch") -> Any:
    """The genotype, of any kind, that a name, a run folder, a file or a text stands for."""
    path = Path(arch)
    if not arch.strip():
        raise Stop(f"{flag}={arch}: must not be empty: name a run folder, a file or a cell", 2)
    try:
        if arch in genotypes.PUBLISHED:
            genotype = genotypes.PUBLISHED[arch]
        elif _is_there(path, Path.is_dir):
            if not (path / "genotype.json").is_file():
                raise Stop(
                    f"{flag}={arch}: a folder without genotype.json; is it a run of"
                    " jaxdarts search, and one epoch old?",
                    2,
                )
            path = path / "genotype.json"
            genotype = read(path)
        elif _is_there(path, Path.exists):
            genotype = read(path)
        elif set("({|") & set(arch) or re.fullmatch(r"\d+(:\d+)+|\d+-\d+-\d+_.*", arch):
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
        raise files.Damaged(f"{path}: {error}") from error


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
