"""What `evaluate.py` trains on a text and how: its flags, the presets of texts, the cells that
--arch names, its windows.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxdarts import genotypes
from jaxdarts.commands import reproduce, texts
from jaxdarts.commands.evaluate import recipes
from jaxdarts.data import text
from jaxdarts.genotypes import RecurrentGenotype
from jaxdarts.runs import Stop


@dataclasses.dataclass(frozen=True)
class Config(texts.Settings):
    """Train one recurrent cell from scratch. Defaults are those of the text's preset."""

    FREE: ClassVar[str] = "random_cells"

    arch: str = "DARTS_V2"
    """Cell to train: a published name, a run folder of a search, a JSON file, or the text of a
    genotype."""
    epochs: int = 8000
    """Passes over the text; published runs were ended by hand after some thousands."""
    batch_size: int = 64
    """Number of columns into which the training text is cut, over all devices."""
    eval_batch_size: int = 10
    """Number of columns into which the validation text is cut; the test text is one column."""
    emsize: int = 850
    """Units of the embedding and of the hidden state."""
    deviation: float = 5.0
    """Standard deviation of a window's length around --bptt."""
    max_seq_len_delta: int = 20
    """Largest difference of a window's length to --bptt."""
    dropoute: float = 0.1
    """Dropout of whole words."""
    weight_decay: float = 8e-7
    """Weight decay: this multiple of the weights is added to their gradient."""
    nonmono: int = 5
    """Weights are averaged after this number of epochs without a better validation loss."""
    report_freq: int = 200
    """Steps between log lines."""
    select: tuple[str, ...] = ()
    """Cells (as for --arch) among which a short training chooses by validation perplexity, instead
    of --arch."""
    select_epochs: int = 300
    """Epochs of the short training of --select."""
    random_cells: int = 0
    """Number of random cells that are trained for comparison, with the settings of --arch, or as
    long as the cells of --select."""
    test_only: bool = False
    """Only test the language model of --checkpoint."""
    checkpoint: str | None = None
    """Run folder of a trained language model, for --test_only."""
    seed: int = 1267
    """Seed of everything that is random."""

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
    texts.check(
        config, "eval_batch_size nonmono select_epochs", "deviation max_seq_len_delta random_cells"
    )
    return config


def resolve(arch: str, flag: str = "--arch") -> RecurrentGenotype:
    """The recurrent genotype that a name, a run folder, a file or a text stands for; a name goes
    without its `RNN_`.
    """
    known = f"RNN_{arch}" in genotypes.PUBLISHED
    genotype = recipes.named(f"RNN_{arch}" if known else arch, flag)
    if not isinstance(genotype, RecurrentGenotype):
        raise Stop(f"{flag}={arch}: not a recurrent cell, which a text needs", 2)
    return genotype


def paddings(config: Config) -> list[int]:
    """Rows that windows are padded to: few, as each is a program of its own, and near the windows'
    own.
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
    found = text.random_windows(
        config.seed, epoch, rows, config.bptt, config.deviation, shortest, longest
    )
    return np.stack(found, axis=1).astype(np.int32)
