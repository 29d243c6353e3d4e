"""Settings of trainings on texts: flags, presets, the cells that --arch names, and windows."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxdarts import genotypes
from jaxdarts.commands import flags, reproduce, texts
from jaxdarts.commands.evaluate import recipes
from jaxdarts.data import text
from jaxdarts.genotypes import RecurrentGenotype
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class Windows:
    """How the text is cut for training and testing."""

    TOPIC: ClassVar[str] = "data"

    eval_batch_size: int = flag(
        10,
        "Number of columns into which the validation text is cut; the test text is one column.",
        POSITIVE,
    )
    deviation: float = flag(
        5.0, "Standard deviation of a window's length around --bptt.", NOT_NEGATIVE
    )
    max_seq_len_delta: int = flag(
        20,
        "Largest number of rows by which a window is longer than --bptt; the shortest has 5 rows"
        " (at the end of the text, fewer).",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Averaging:
    """When averaged SGD begins."""

    TOPIC: ClassVar[str] = "weights"

    nonmono: int = flag(
        5,
        "Averaging of the weights begins (NT-ASGD) when an epoch's validation loss is above the"
        " best of all earlier epochs but the last N, where N is this number.",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Config(flags.Cell, Windows, Averaging, texts.Settings):
    """Train one recurrent cell from scratch. Defaults are those of the text's preset."""

    COMMAND: ClassVar[str] = "evaluate"

    epochs: int = 8000
    batch_size: int = 64
    emsize: int = 850
    dropoute: float = 0.1
    weight_decay: float = 8e-7
    report_freq: int = 200
    select_epochs: int = 300
    random_cells: int = 0
    seed: int = 1267

    num_seeds: ClassVar[int] = 1
    """Number of seeds; only 1, since another seed has other windows and epochs of another length.
    """

    def start(self) -> reproduce.Start:
        """What the flags were laid over."""
        return reproduce.start(self, PRESETS, PTB)


PTB = Config(dataset="ptb")
PRESETS = {
    "pydoc": Config(
        epochs=15,
        batch_size=32,
        emsize=64,
        learning_rate=10.0,
        dropout=0.2,
        dropouth=0.1,
        dropoutx=0.2,
        dropouti=0.1,
        dropoute=0.0,
        nonmono=1,
        report_freq=20,
        select_epochs=3,
    ),
    "ptb": PTB,
    "wikitext2": dataclasses.replace(
        PTB, dataset="wikitext2", emsize=700, dropouth=0.15, weight_decay=5e-7
    ),
}
"""What each text starts from; any other one starts from Penn Treebank's, the paper's, setting."""


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    texts.check(config)
    return config


def resolve(arch: str, flag: str = "--arch") -> RecurrentGenotype:
    """The recurrent genotype that a name, a run folder, a file or a text stands for.

    A name goes without its `RNN_`.
    """
    known = f"RNN_{arch}" in genotypes.PUBLISHED
    genotype = recipes.named(f"RNN_{arch}" if known else arch, flag)
    if not isinstance(genotype, RecurrentGenotype):
        raise Stop(f"{flag}={arch}: not a recurrent cell, which a text needs", 2)
    return genotype


def paddings(config: Config) -> list[int]:
    """Numbers of rows that windows are padded to.

    They are few, as each is a program of its own, and near the windows' own.
    """
    return sorted(
        {
            config.bptt,
            config.bptt + min(5, config.max_seq_len_delta),
            config.bptt + config.max_seq_len_delta,
        }
    )


def windows(config: Config, rows: int, epoch: int) -> np.ndarray:
    """Start and length of one epoch's windows, [steps, 2]."""
    longest = config.bptt + config.max_seq_len_delta
    shortest = min(5, config.bptt)
    columns = text.random_windows(
        config.seed, epoch, rows, config.bptt, config.deviation, shortest, longest
    )
    return np.stack(columns, axis=1).astype(np.int32)
