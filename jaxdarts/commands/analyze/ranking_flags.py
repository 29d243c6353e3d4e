"""Flags of the study of rankings: the studies, and the presets of data sets."""

import dataclasses
from typing import ClassVar

from jaxdarts.commands import flags
from jaxdarts.runs import flag
from jaxdarts.runs.flags import EPOCHS, NOT_NEGATIVE, POSITIVE, SEEDS


@dataclasses.dataclass(frozen=True)
class Parts:
    """How many images."""

    TOPIC: ClassVar[str] = "data"

    train_images: int = flag(
        0, "Number of training images, the first of the data set; 0 for all.", NOT_NEGATIVE
    )
    test_images: int = flag(
        0,
        "Number of test images, the first of the data set, by which children are ranked; 0 for"
        " all.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Studies:
    """Which trainings are made, and how they are compared."""

    TOPIC: ClassVar[str] = "studies"

    truth_epochs: int | None = flag(
        None,
        "Epochs of training of every child alone; default the same as --epochs.",
        EPOCHS,
    )
    instances: int = flag(
        10,
        "Number of trainings of each study; 0 runs only the trainings of single children.",
        NOT_NEGATIVE._replace(most=SEEDS.most),
    )
    truth_instances: int = flag(
        10,
        "Number of seeds with which every child is trained alone; the ground truth is the mean over"
        " them.",
        SEEDS,
    )
    groups: tuple[int, ...] = flag(
        (2, 4, 8, 16, 32),
        "Numbers of groups of children, one study each; only children of one group share weights."
        " Empty for no such study.",
        POSITIVE,
    )
    prefixes: tuple[int, ...] = flag(
        (0, 1, 2, 3, 4),
        "Numbers of cells that all children share, one study each; the other cells belong to one"
        " child. Empty for no such study.",
        NOT_NEGATIVE,
    )
    prefix_epochs: int = flag(
        2000,
        "Epochs of the studies of --prefixes; a child's own cells see one mini-batch in 64.",
        EPOCHS,
    )
    eval_freq: int = flag(
        10,
        "Epochs between evaluations of all children; all are evaluated after the last epoch in any"
        " case.",
        POSITIVE,
    )
    last_steps: int = flag(
        64,
        "All children are also evaluated after each of the last N mini-batches, where N is this"
        " number; 0: none.",
        NOT_NEGATIVE,
    )
    tune_epochs: tuple[int, ...] = flag(
        (100, 200),
        "Epochs after which every child is trained further alone, from the shared weights (in the"
        " study of seeds only).",
        POSITIVE,
    )
    tune_steps: tuple[int, ...] = flag(
        (1, 5, 10, 64),
        "Numbers of mini-batches of --tune_epochs' training after which the child is evaluated.",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Config(
    flags.ImageData,
    Parts,
    flags.Augmentation,
    flags.Size,
    flags.ImageWeights,
    flags.CosineFloor,
    Studies,
    flags.Preset,
    flags.Output,
    flags.Seed,
    flags.Folder,
):
    """Flags; the defaults are those of the data set's preset."""

    COMMAND: ClassVar[str] = "analyze ranking"

    epochs: int = 200
    batch_size: int = 256
    layers: int = 4
    weight_decay: float = 1e-3
    seed: int = 0


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=10,
        batch_size=64,
        init_channels=4,
        layers=2,
        learning_rate=0.1,
        crop_padding=1,
        flip=False,
        instances=3,
        truth_instances=2,
        groups=(4, 16),
        prefixes=(0, 1, 2),
        prefix_epochs=40,
        eval_freq=2,
        last_steps=8,
        tune_epochs=(4, 10),
        tune_steps=(1, 2, 4, 8),
    ),
    "cifar10": CIFAR,
}
"""What each data set starts from; cifar10 is the paper's setting, for a large machine."""
