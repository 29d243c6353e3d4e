"""Training a language model from scratch: SGD, then averaged SGD (NT-ASGD).

Averaging begins once the validation loss stops falling.

Merity, Keskar & Socher, `Regularizing and Optimizing LSTM Language Models
<https://arxiv.org/abs/1708.02182>`_, 2018, section 4, as in quark0/darts, rnn/train.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from jaxdarts import parallel
from jaxdarts.data.text import window
from jaxdarts.types import Batch, Metrics, Mix, Objective, Params, Step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextState:
    """Everything that a training goes on from.

    Attributes:
        step: number of steps taken.
        key: the training's only random key.
        params, opt: weights, and the state of their optimiser.
        hidden: what the stream's words have left behind, [batch, width].
        average: the mean of the weights since the averaging began; until then the weights
          themselves. What counts.
        averaged: one more than the number of steps since then; zero until it begins.
        best, best_loss: the average that validated best so far, and its loss in nats a word.
    """

    step: Step
    key: Key[Array, ""]
    params: Params
    opt: Any
    hidden: Float[Array, "batch width"]
    average: Params
    averaged: Int32[Array, ""]
    best: Params
    best_loss: Float[Array, ""]


class TextTraining(NamedTuple):
    """Pure functions, not jitted.

    init: (key, weights, hidden state before the first word) -> state.
    step: (state, batch) -> (state, metrics: loss in nats a word; reloads, 1 if the weights went
    back to the best).
    after_validation: (state, validation loss of the average, whether averaging goes on or begins)
    -> state: the end of an epoch.
    """

    init: Callable[[Key[Array, ""], Params, Array], TextState]
    step: Callable[[TextState, Batch], tuple[TextState, Metrics]]
    after_validation: Callable[[TextState, Float[Array, ""], Array], TextState]


def from_scratch(
    objective: Objective, tx: optax.GradientTransformation, *, axis_name: str | None = None
) -> TextTraining:
    """Trains a recurrent network on batches as of `objectives.language_model`.

    Where a loss or a gradient is not finite the weights go back to the best ones, or to the first
    ones in the first epoch, the mean starts anew and the hidden state is zero again; the epoch goes
    on behind the window that did it. The official code takes up the epoch after the best one
    instead.

    Args:
        objective: `objectives.language_model(net)`.
        tx: optimiser of the weights; it may look at the batch (`schedules.scaled_by_length`).
        axis_name: the mapped axis when `step` runs inside `jax.pmap`, each device on its part of
            the batch. The hidden state is the whole batch's on every device.
    """
    tx = optax.with_extra_args_support(tx)

    def mean(tree):
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def init(key: Key[Array, ""], params: Params, hidden: Array) -> TextState:
        start, infinity = jnp.int32(0), jnp.float32(jnp.inf)
        return TextState(
            start, key, params, tx.init(params), hidden, params, jnp.int32(0), params, infinity
        )

    def step(state: TextState, batch: Batch) -> tuple[TextState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        hidden = parallel.part(state.hidden, axis_name)
        gradient_of = jax.grad(
            lambda params: objective(params, {}, hidden, batch, key), has_aux=True
        )
        gradient, (hidden, metrics) = gradient_of(state.params)
        gradient, metrics = mean((gradient, metrics))
        updates, opt = tx.update(gradient, state.opt, state.params, batch=batch)
        params: Any = optax.apply_updates(state.params, updates)
        averaged = jnp.where(state.averaged > 0, state.averaged + 1, 0)
        # The first weights in the mean are those after two steps of the averaging, as in PyTorch.
        count = jnp.maximum(averaged - 2, 1)
        average = jax.tree.map(
            lambda a, w: jnp.where(count == 1, w, a + (w - a) / count), state.average, params
        )
        fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(optax.tree.norm(gradient))
        new = TextState(
            state.step + 1,
            state.key,
            params,
            opt,
            parallel.gather(hidden, axis_name),
            average,
            averaged,
            state.best,
            state.best_loss,
        )
        back = dataclasses.replace(
            new,
            params=state.best,
            opt=tx.init(state.best),
            hidden=jnp.zeros_like(state.hidden),
            average=state.best,
            averaged=jnp.minimum(state.averaged, 1),
        )
        new = dataclasses.replace(
            new,
            **{name: _where(fine, getattr(new, name), getattr(back, name)) for name in _RELOADED},
        )
        return new, {"loss": metrics["loss"], "reloads": 1 - fine.astype(jnp.float32)}

    def after_validation(state: TextState, loss: Float[Array, ""], averaging: Array) -> TextState:
        better = loss < state.best_loss
        return dataclasses.replace(
            state,
            averaged=jnp.where(averaging, jnp.maximum(state.averaged, 1), 0),
            best=_where(better, state.average, state.best),
            best_loss=jnp.where(better, loss, state.best_loss),
        )

    return TextTraining(init, step, after_validation)


_RELOADED = ("params", "opt", "hidden", "average", "averaged")


def _where(condition: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def averaging_starts(losses: Sequence[float], patience: int = 5) -> int | None:
    """The epoch after which the weights are averaged; None if it is yet to come.

    The validation losses of all epochs decide.

    It is the first whose loss is above the best of all but the `patience` before it, so not among
    the first `patience` + 1.

    >>> averaging_starts([5, 4, 3, 3.5, 3.4, 3.3, 3.2, 3.1, 3.05])
    8
    >>> averaging_starts([5, 4, 3, 3.5, 3.4, 3.3, 3.2, 3.1, 2.95]) is None
    True
    """
    for epoch, loss in enumerate(losses):
        if epoch > patience and loss > min(losses[: epoch - patience]):
            return epoch
    return None


def over_stream(
    objective: Objective, length: int
) -> Callable[[Params, Mix, Array, Array], Float[Array, ""]]:
    """Mean cross-entropy in nats a word over a whole stream, from window to window.

    Perplexity is its exponential.

    Args:
        objective: `objectives.language_model(net)`; no dropout here.
        length: rows of a window, which has no influence on the result, but for the batch norms of a
          search.

    Returns:
        (weights, mix, or {} for a discrete cell, hidden state before the first word, stream [rows,
        batch]) -> the mean over all words but the first of each column. The published figures
        divide by one row more.
    """

    def evaluate(params, mix, hidden, stream):
        rows = stream.shape[0]

        def step(hidden, start):
            batch = window(stream, start, jnp.minimum(length, rows - 1 - start), length)
            _, (hidden, metrics) = objective(params, mix, hidden, batch, None)
            return hidden, metrics["loss"] * batch["length"]

        _, sums = lax.scan(step, hidden, jnp.arange(0, rows - 1, length))
        return jnp.sum(sums) / (rows - 1)

    return evaluate
