"""Texts in every command: flags, the text itself, its windows, and the values of a log line."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import parallel, runs, training
from jaxdarts.commands import checks, datasets, flags, programs
from jaxdarts.data import text
from jaxdarts.nn.rnn import Dropouts
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import BELOW_ONE, EPOCHS, NOT_NEGATIVE, POSITIVE, at_least
from jaxdarts.runs.task import State
from jaxdarts.types import Metrics


@dataclasses.dataclass(frozen=True)
class TextData:
    """Which text."""

    TOPIC: ClassVar[str] = "data"

    dataset: str = flag(
        "pydoc",
        "Text: pydoc, ptb, wikitext2, or text:FOLDER with train.txt, valid.txt and test.txt. Images"
        " have other flags: --dataset=digits --help.",
    )
    data_dir: str | None = flag(
        None,
        "Folder of the files of ptb and wikitext2; default the folder ptb or wikitext2 in the"
        " current folder.",
        free=True,
    )
    bptt: int = flag(
        35,
        "Words in a window (BPTT length); with probability 0.05 a window has half as many.",
        at_least(2),
    )


@dataclasses.dataclass(frozen=True)
class TextNetwork:
    """The size of the network and what it drops at random."""

    TOPIC: ClassVar[str] = "network"

    emsize: int = flag(300, "Units of the embedding and of the hidden state.", POSITIVE)
    dropout: float = flag(0.75, "Dropout of the cell's output.", BELOW_ONE)
    dropouth: float = flag(
        0.25, "Dropout of the hidden state and of every node's input.", BELOW_ONE
    )
    dropoutx: float = flag(0.75, "Dropout of the cell's input.", BELOW_ONE)
    dropouti: float = flag(0.2, "Dropout of the embedded words.", BELOW_ONE)
    dropoute: float = flag(0.0, "Dropout of whole words.", BELOW_ONE)

    @property
    def dropouts(self) -> Dropouts:
        return Dropouts(self.dropoute, self.dropouti, self.dropoutx, self.dropouth, self.dropout)


@dataclasses.dataclass(frozen=True)
class TextWeights(flags.WeightDecay, flags.Clipping):
    """How the weights are trained on a text."""

    TOPIC: ClassVar[str] = "weights"

    epochs: int = flag(50, "Passes over the text.", EPOCHS)
    batch_size: int = flag(
        256, "Number of columns into which the training text is cut, over all devices.", POSITIVE
    )
    learning_rate: float = flag(
        20.0,
        "Learning rate of SGD at a window of --bptt rows; other windows scale it by their length.",
        POSITIVE,
    )
    alpha: float = flag(
        0.0,
        "Weight of the activation regularisation (AR of AWD-LSTM): mean square of the outputs"
        " after dropout. It is not the alpha of the architecture.",
        NOT_NEGATIVE,
    )
    beta: float = flag(
        1e-3,
        "Weight of the temporal activation regularisation: mean square of the outputs' change.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Settings(TextData, TextNetwork, TextWeights, flags.Training, flags.Seed):
    """Flags of the commands that train on a text; names of quark0/darts' recurrent scripts where
    the meaning is the same.
    """

    KIND: ClassVar[str] = "text"

    weight_decay: float = 5e-7
    grad_clip: float = 0.25


def check(config: Settings) -> None:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_flags(config)
    checks.check_seeds_and_devices(config)


def load(config: Settings) -> text.Text:
    """The text that --dataset and --data_dir name."""
    return datasets.load(config, text.load)


def columns(tokens: np.ndarray, batch_size: int, flag: str) -> np.ndarray:
    """A part of the text as a stream, [rows, batch]."""
    try:
        return text.streams(tokens, batch_size)
    except ValueError as error:
        raise Stop(f"--{flag}={batch_size}: {error}", 2) from error


def network(make: Callable[..., Any], config: Settings, words: text.Text) -> Any:
    """A recurrent network of a configuration, over devices.

    `make` takes its width, the size of the vocabulary, and options.
    """
    return make(
        config.emsize,
        len(words.vocabulary),
        dropouts=config.dropouts,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat,
    )


def optimizer(config: Settings) -> optax.GradientTransformation:
    """The published optimiser of weights."""
    return optax.chain(
        training.schedules.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(config.learning_rate),
        training.schedules.scaled_by_length(config.bptt),
    )


def with_zeros(field: str) -> Callable[[State], State]:
    """State -> the state with a hidden state of zeros in one of its fields.

    Epochs begin with it, as in quark0/darts.
    """

    def reset(state: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, getattr(state, field))
        return dataclasses.replace(state, **{field: zeros})

    return reset


def averages(sums: Metrics, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began; with perplexities."""
    means = programs.means_of(sums, count)
    losses = {name: value for name, value in means.items() if name.endswith("_loss")}
    runs.finite(step, "--learning_rate", **losses)
    return means | {
        name.replace("_loss", "_perplexity"): np.exp(value) for name, value in losses.items()
    }


def shown(means: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    """Log line and bar values of a language model: loss in nats a word, perplexity."""
    loss = float(np.mean(means["train_loss"]))
    return f"{loss:e} {math.exp(loss):f}", {"loss": loss, "perplexity": math.exp(loss)}


def log_epoch(log: Any, epoch: int, seconds: float, loss: float) -> None:
    """The line that the original script writes after an epoch."""
    line = "| end of epoch %3d | time: %5.2fs | valid loss %5.2f | valid ppl %8.2f"
    log.info(line, epoch, seconds, loss, math.exp(min(loss, 700)))
