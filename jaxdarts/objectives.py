"""Objectives: a network and a loss as one function of weights, mix and batch."""

import jax.numpy as jnp
import optax

from jaxdarts.types import Module, Objective


def classification(net: Module) -> Objective:
    """Mean cross-entropy of an image classifier.

    Args:
        net: a Flax module, `net.apply({"params": params}, images, mix) -> logits`.

    Returns:
        An objective on batches {"image": [batch, height, width, channels], "label": [batch]}, with the metrics `loss`,
        `accuracy` and `top5` (fractions) and no carry.
    """

    def objective(params, mix, carry, batch, key):
        logits = net.apply({"params": params}, batch["image"], mix)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
        accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == batch["label"]).astype(loss.dtype))
        of_label = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        top5 = jnp.mean((jnp.sum(logits > of_label, axis=-1) < 5).astype(loss.dtype))
        return loss, (carry, {"loss": loss, "accuracy": accuracy, "top5": top5})

    return objective
