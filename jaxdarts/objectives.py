"""Objectives: a network and a loss as one function of weights, mix and batch."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdarts.types import Module, Objective


def classification(net: Module) -> Objective:
    """Mean cross-entropy of an image classifier.

    Args:
        net: a Flax module, `net.apply({"params": params}, images, mix, key, drop_path) -> logits`.

    Returns:
        An objective on batches {"image": [batch, height, width, channels], "label": [batch]}, with the metrics `loss`,
        `accuracy` and `top5` (fractions) and no carry. A batch may hold "drop_path", the rate at which the supernet leaves
        edges out.
    """

    def objective(params, mix, carry, batch, key):
        options = {"drop_path": batch["drop_path"]} if "drop_path" in batch else {}
        logits = net.apply({"params": params}, batch["image"], mix, key, **options)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
        means = {name: jnp.mean(value) for name, value in hits(logits, batch["label"]).items()}
        return loss, (carry, {"loss": loss, **means})

    return objective


def hits(logits: Float[Array, "batch classes"], labels: Array) -> dict[str, Float[Array, " batch"]]:
    """For every example: is its label the largest logit (`accuracy`), is it among the five largest (`top5`); one or zero."""
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return {
        "accuracy": (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype),
        "top5": (jnp.sum(logits > of_label, axis=-1) < 5).astype(logits.dtype),
    }
