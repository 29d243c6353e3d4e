"""Texts in every command: flags, the text itself, its windows, and the values of a log line."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import parallel, runs, training
from jaxdarts.commands import checks, command_line, datasets
from jaxdarts.data import text
from jaxdarts.nn.rnn import Dropouts
from jaxdarts.runs import Stop

NAMES = ("pydoc", "ptb", "wikitext2")


def asked(arguments: list[str]) -> bool:
    """Is a text named on the command line, by itself or as that of the run to resume?"""
    given = {"--dataset": "", "--resume": ""}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in given:
            given[name] = value if equals else " ".join(arguments[i + 1 : i + 2])
    dataset = given["--dataset"]
    if given["--resume"] and not dataset:
        try:
            dataset = json.loads(
                (Path(given["--resume"]) / "config.json").read_text(encoding="utf-8")
            )["dataset"]
        except (OSError, ValueError, KeyError, TypeError):
            return False  # the other parser says what is wrong with it
    return dataset in NAMES or str(dataset).startswith("text:")


@dataclasses.dataclass(frozen=True)
class Settings(command_line.Settings):
    """Flags of the scripts that train on a text; names of quark0/darts' recurrent scripts where the
    meaning is the same.
    """

    dataset: str = "pydoc"
    """pydoc, ptb, wikitext2, or text:FOLDER with train.txt, valid.txt and test.txt."""
    epochs: int = 50
    """Passes over the text."""
    batch_size: int = 256
    """Number of columns into which the text is cut, over all devices."""
    emsize: int = 300
    """Units of the embedding and of the hidden state."""
    bptt: int = 35
    """Length of a window in rows, through which gradients flow; one window in twenty has half of
    it."""
    learning_rate: float = 20.0
    """Learning rate of SGD for a window of --bptt rows; proportional to the length of a window."""
    weight_decay: float = 5e-7
    """Weight decay: this multiple of the weights is added to their gradient."""
    grad_clip: float = 0.25
    """Gradients of the weights are clipped to this global norm."""
    dropout: float = 0.75
    """Dropout of the cell's output."""
    dropouth: float = 0.25
    """Dropout of the hidden state and of every node's input."""
    dropoutx: float = 0.75
    """Dropout of the cell's input."""
    dropouti: float = 0.2
    """Dropout of the embedded words."""
    dropoute: float = 0.0
    """Dropout of whole words."""
    alpha: float = 0.0
    """Weight of the activation regularisation: mean square of the outputs."""
    beta: float = 1e-3
    """Weight of the temporal activation regularisation: mean square of the outputs' change."""

    @property
    def dropouts(self) -> Dropouts:
        return Dropouts(self.dropoute, self.dropouti, self.dropoutx, self.dropouth, self.dropout)


def check(config: Settings, positive: str = "", not_negative: str = "") -> None:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_numbers(
        config,
        positive=f"epochs batch_size emsize bptt report_freq learning_rate grad_clip {positive}",
        not_negative=(
            "max_steps checkpoint_freq keep_checkpoints seed weight_decay alpha beta"
            f" {not_negative}"
        ),
    )
    for name in ("dropout", "dropouth", "dropoutx", "dropouti", "dropoute"):
        if not 0 <= getattr(config, name) < 1:
            raise Stop(f"--{name}={getattr(config, name)}: must be at least 0 and below 1", 2)
    if config.bptt < 2:
        raise Stop(f"--bptt={config.bptt}: a window has at least 2 rows", 2)
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


def optimizer(config: Settings) -> optax.GradientTransformation:
    """The published optimiser of weights."""
    return optax.chain(
        training.schedules.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(config.learning_rate),
        training.schedules.scaled_by_length(config.bptt),
    )


def averages(sums: Any, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began; with perplexities."""
    means = {name: np.asarray(value) / count for name, value in parallel.first(sums).items()}
    losses = {name: value for name, value in means.items() if name.endswith("_loss")}
    runs.finite(step, "--learning_rate", **losses)
    return means | {
        name.replace("_loss", "_perplexity"): np.exp(value) for name, value in losses.items()
    }


def shown(means: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    """What a log line and the bar tell of a language model: loss in nats a word, perplexity."""
    loss = float(np.mean(means["train_loss"]))
    return f"{loss:e} {math.exp(loss):f}", {"loss": loss, "perplexity": math.exp(loss)}


def log_epoch(log: Any, epoch: int, seconds: float, loss: float) -> None:
    """The line that the original script writes after an epoch."""
    line = "| end of epoch %3d | time: %5.2fs | valid loss %5.2f | valid ppl %8.2f"
    log.info(line, epoch, seconds, loss, math.exp(min(loss, 700)))


def stacked(tree: Any) -> Any:
    """With the leading axis of seeds that the scripts' states have."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)
