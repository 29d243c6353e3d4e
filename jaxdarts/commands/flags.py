"""Flags that several commands have, by topic: each is declared here, once.

A command's configuration inherits from the classes whose flags it has, so that its attributes are
flat; `--help` shows the flags of a topic in a box of their own.
"""

import dataclasses
import os
from pathlib import Path
from typing import ClassVar, Literal

from jaxdarts.runs import trackers
from jaxdarts.runs.flags import (
    BELOW_ONE,
    CHANNELS,
    DEPTH,
    EPOCHS,
    NOT_NEGATIVE,
    PIXELS,
    PORTION,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    SEEDS,
    flag,
)

TOPICS = (
    "subject",
    "data",
    "space",
    "cell",
    "ensemble",
    "evaluation",
    "scores",
    "network",
    "weights",
    "architecture",
    "method",
    "stages",
    "derivation",
    "cost",
    "stopping",
    "studies",
    "measurement",
    "run",
    "devices",
    "hosts",
)
"""The order of the boxes in `--help`."""
IMAGES = (
    "digits, a TFDS name (cifar10, cifar100, svhn_cropped, mnist, ...), npz:PATH or folder:PATH"
)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Which images."""

    TOPIC: ClassVar[str] = "data"

    dataset: str = flag(
        "digits",
        f"Data set: {IMAGES}. Texts (pydoc, ptb, wikitext2, text:FOLDER) have other flags in search"
        " and evaluate: --dataset=ptb --help.",
    )
    data_dir: str | None = flag(
        None,
        "Folder in which TFDS keeps its data sets; default $TFDS_DATA_DIR or"
        " ~/tensorflow_datasets.",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Resized:
    """Pictures of several sizes."""

    TOPIC: ClassVar[str] = "data"

    image_size: int | None = flag(
        None,
        "Height and width to which the pictures of folder:PATH are resized and cropped; default:"
        " no change, and then all must have one size.",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random."""

    TOPIC: ClassVar[str] = "data"

    crop_padding: int = flag(
        4, "Training images are shifted at random by up to this number of pixels.", PIXELS
    )
    flip: bool = flag(True, "Mirror each training image left to right with probability 1/2.")


@dataclasses.dataclass(frozen=True)
class Balance:
    """The order of the images."""

    TOPIC: ClassVar[str] = "data"

    balance_classes: bool = flag(
        False,
        "All classes take turns in an epoch: pictures of rare classes come several times, of common"
        " ones not all.",
    )


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Erasing a part of training images."""

    TOPIC: ClassVar[str] = "data"

    cutout: bool = flag(False, "Erase a random square of every training image (Cutout).")
    cutout_length: int = flag(
        16, "Side of the square that --cutout erases, in pixels.", NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True)
class Halves:
    """How the training images are split."""

    TOPIC: ClassVar[str] = "data"

    train_portion: float = flag(
        0.5,
        "Fraction of the training images that trains the weights; the rest validates and, in a"
        " search, trains alpha or the policy. In jaxdarts search, 1 uses all images for both.",
        PORTION,
    )


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of the network."""

    TOPIC: ClassVar[str] = "network"

    init_channels: int = flag(
        16, "Channels of the first cells; every reduction cell doubles them.", CHANNELS
    )
    layers: int = flag(
        8,
        "Number of cells, with reduction cells at a third and two thirds; in NAS-Bench-101,"
        " NAS-Bench-201 and NATS-Bench, the number of cells in each of the three stages.",
        DEPTH,
    )


@dataclasses.dataclass(frozen=True)
class WeightDecay:
    """The penalty of large weights."""

    TOPIC: ClassVar[str] = "weights"

    weight_decay: float = flag(
        3e-4, "Weight decay: this multiple of the weights is added to their gradient.", NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True)
class Clipping:
    """A limit of the weights' gradients."""

    TOPIC: ClassVar[str] = "weights"

    grad_clip: float = flag(
        5.0,
        "Gradients of the weights are clipped to this global norm; inf for no clipping.",
        POSITIVE_OR_INFINITE,
    )


@dataclasses.dataclass(frozen=True)
class ImageWeights(WeightDecay):
    """How the weights are trained on images."""

    TOPIC: ClassVar[str] = "weights"

    epochs: int = flag(50, "Passes over the images that train the weights.", EPOCHS)
    batch_size: int = flag(
        64, "Images in a training batch, in all (several devices share it).", POSITIVE
    )
    learning_rate: float = flag(
        0.025, "Learning rate of the weights in the first epoch; it falls afterwards.", POSITIVE
    )
    momentum: float = flag(0.9, "Momentum of the weights' optimiser.", BELOW_ONE)
    nesterov: bool = flag(False, "Nesterov's form of the momentum (NAS-Bench-201, GDAS, ENAS).")


@dataclasses.dataclass(frozen=True)
class CosineFloor:
    """The end of the cosine schedule."""

    TOPIC: ClassVar[str] = "weights"

    learning_rate_min: float = flag(
        0.001,
        "Learning rate of the weights after the last epoch, to which it falls by a cosine.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """Which cell is trained."""

    TOPIC: ClassVar[str] = "cell"

    arch: str = flag(
        "DARTS_V2",
        "Cell to train: a published name, a run folder of a search, a JSON file, or the text of a"
        " genotype.",
    )
    select: tuple[str, ...] = flag(
        (),
        "Cells to choose from by a short training, named as in --arch; default: train --arch.",
    )
    select_epochs: int = flag(100, "Epochs of the short training of --select.", EPOCHS)
    random_cells: int = flag(
        1, "Number of random cells that are trained for comparison.", NOT_NEGATIVE, free=True
    )
    test_only: bool = flag(False, "Only test the trained network of --checkpoint.")
    checkpoint: str | None = flag(
        None, "Run folder of the trained network that --test_only tests; required with --test_only."
    )


@dataclasses.dataclass(frozen=True)
class Seed:
    """What is random."""

    TOPIC: ClassVar[str] = "run"

    seed: int = flag(2, "Seed of everything that is random.", NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class Seeds(Seed):
    """Several seeds in one program."""

    num_seeds: int = flag(
        1,
        "Number of seeds (--seed, --seed + 1, ...) that run in one program; a search keeps the best"
        " cell, a training reports mean and deviation.",
        SEEDS,
    )


@dataclasses.dataclass(frozen=True)
class Cache:
    """Where compiled programs go."""

    TOPIC: ClassVar[str] = "run"

    cache_dir: str = flag(
        str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxdarts"),
        "Folder of compiled programs, which the next start reads; empty for no cache.",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Folder(Cache):
    """The folder of a run."""

    run_dir: str | None = flag(
        None,
        "Folder to write; default a new folder runs/NAME-DATASET-TIME, where NAME is search, eval,"
        " ensemble, enas, discrete, score or ranking.",
        free=True,
    )
    resume: str | None = flag(
        None,
        "Run folder to continue, with its configuration; default none, a new run starts.",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Preset:
    """Which preset the flags start from."""

    TOPIC: ClassVar[str] = "run"

    preset: str | None = flag(
        None, "Preset that the other flags start from; default the data set's own."
    )


@dataclasses.dataclass(frozen=True)
class Saving:
    """When a training logs, saves and stops."""

    TOPIC: ClassVar[str] = "run"

    max_steps: int = flag(
        0,
        "Stop after this number of weight steps, counted from the beginning of the run; 0 for no"
        " limit.",
        NOT_NEGATIVE,
        free=True,
    )
    report_freq: int = flag(50, "Steps between log lines.", POSITIVE, free=True)
    checkpoint_freq: int = flag(
        0,
        "Steps between checkpoints, in addition to one after each epoch; 0: only after each epoch.",
        NOT_NEGATIVE,
        free=True,
    )
    keep_checkpoints: int = flag(
        2, "Number of newest checkpoints to keep; 0 for all.", NOT_NEGATIVE, free=True
    )
    tracker: trackers.Name = flag(
        "tensorboard",
        "Where metrics go besides metrics.jsonl: tensorboard (files in the run folder), wandb"
        " (Weights & Biases), trackio (on this machine), or none.",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a training computes with."""

    TOPIC: ClassVar[str] = "devices"

    num_devices: int | None = flag(
        None,
        "Number of local devices over which batches are split; default all.",
        POSITIVE,
        free=True,
    )
    dtype: Literal["float32", "bfloat16"] = flag(
        "float32", "Number format of the network's computations; weights and sums stay float32."
    )
    remat: bool = flag(False, "Recompute cells in the backward pass: less memory, more time.")
    estimate: bool = flag(
        False,
        "Compile the step, print parameters, memory and steps an epoch, and end; nothing is trained"
        " or written.",
        free=True,
    )
    device: str | None = flag(
        None,
        "GPU or TPU for which --estimate compiles, which need not be in this machine: t4, l4,"
        " rtx4090, a100, h100, h200, v5e or v6e; default this machine's device.",
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Training(Preset, Saving, Devices, Folder):
    """Flags of every command that trains a network step by step."""


@dataclasses.dataclass(frozen=True)
class Output:
    """A second copy of the results."""

    TOPIC: ClassVar[str] = "run"

    output: str | None = flag(
        None, "JSON file that also gets the results; default none.", free=True
    )


@dataclasses.dataclass(frozen=True)
class Rows:
    """A file that collects results of several runs."""

    TOPIC: ClassVar[str] = "run"

    output: str | None = flag(
        None,
        "JSON file to which the summary is added as a row, in place of a row of the same settings;"
        " default none.",
        free=True,
    )
