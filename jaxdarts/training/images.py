"""Training one genotype from scratch on images.

Drop path, auxiliary loss and label smoothing are in one pure step.

Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search
<https://arxiv.org/abs/1806.09055>`_, ICLR 2019, section 3.2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from jaxdarts.objectives import hits
from jaxdarts.types import Batch, Metrics, Module, Params, Step

MOST_CLASSES = 100
"""Largest number of classes whose confusion is counted."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a training goes on from."""

    step: Step
    key: Key[Array, ""]
    params: Params
    averages: PyTree[Array]
    """The running averages of the batch norms."""
    opt: Any


class Training(NamedTuple):
    """Pure functions, not jitted.

    init: (key, variables of the network) -> state.
    step: (state, batch) -> (state, metrics of the batch: loss, accuracy, top5).
    evaluate: (state, batch, weights) -> sums over the batch of loss, accuracy and top5, every
        example times its weight, with the running averages; up to `MOST_CLASSES` classes also
        `confusion`, the number of examples by [true class, predicted class].
    """

    init: Callable[[Key[Array, ""], Any], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, Batch, Float[Array, " batch"]], Metrics]


def from_scratch(
    net: Module,
    tx: optax.GradientTransformation,
    *,
    drop_path: Callable[[Step], Float[Array, ""]] | None = None,
    auxiliary_weight: float = 0.4,
    label_smoothing: float = 0.0,
    axis_name: str | None = None,
) -> Training:
    """Trains a discrete network on batches of images.

    Batches are {"image": [batch, height, width, channels], "label": [batch]}.

    Args:
        net: `space.network(...)`.
        tx: optimiser of the weights.
        drop_path: rate at which operations are left out, by step; None for never.
        auxiliary_weight: share of the auxiliary head's loss, where the network has one.
        label_smoothing: e of the target (1 - e) * onehot + e / classes, for the auxiliary head too.
        axis_name: the mapped axis when `step` runs inside `jax.pmap`; the network averages its
          batch-norm moments over it.
    """

    def mean(tree):
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def init(key: Key[Array, ""], variables: Any) -> TrainState:
        params = variables["params"]
        return TrainState(
            jnp.int32(0), key, params, variables.get("batch_stats", {}), tx.init(params)
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rate = None if drop_path is None else drop_path(state.step)
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(
                key, lax.axis_index(axis_name)
            )  # every device drops paths of other examples

        def objective(params: Params):
            variables = {"params": params, "batch_stats": state.averages}
            outputs, new = net.apply(
                variables, batch["image"], True, rate, key, mutable=["batch_stats"]
            )
            logits, auxiliary = outputs
            loss = jnp.mean(cross_entropy(logits, batch["label"], label_smoothing))
            total = loss
            if auxiliary is not None:
                total += auxiliary_weight * jnp.mean(
                    cross_entropy(auxiliary, batch["label"], label_smoothing)
                )
            return total, (
                new.get("batch_stats", {}),
                {"loss": loss, **hits(logits, batch["label"])},
            )

        gradient, (averages, metrics) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt = tx.update(mean(gradient), state.opt, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = mean({name: jnp.mean(value) for name, value in metrics.items()})
        return TrainState(state.step + 1, state.key, params, averages, opt), metrics

    def evaluate(state: TrainState, batch: Batch, weights: Float[Array, " batch"]) -> Metrics:
        # One key for good: a network with noise (S4) is evaluated with the same noise every time.
        variables = {"params": state.params, "batch_stats": state.averages}
        logits, _ = net.apply(variables, batch["image"], key=jax.random.key(0))
        metrics = {"loss": cross_entropy(logits, batch["label"]), **hits(logits, batch["label"])}
        sums = {name: jnp.sum(weights * value) for name, value in metrics.items()}
        classes = logits.shape[-1]
        if classes <= MOST_CLASSES:
            true, predicted = (
                jax.nn.one_hot(labels, classes)
                for labels in (batch["label"], jnp.argmax(logits, axis=-1))
            )
            sums["confusion"] = (weights[:, None] * true).T @ predicted
        return sums if axis_name is None else lax.psum(sums, axis_name)

    return Training(init, step, evaluate)


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Array, smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Cross-entropy of every example, with label smoothing.

    It is against its label or against (1 - smoothing) * onehot + smoothing / classes.
    """
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing
    )
    return optax.softmax_cross_entropy(logits, targets)
