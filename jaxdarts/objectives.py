"""Objectives: a network and a loss as one function of weights, mix and batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from flax.errors import ScopeCollectionNotFound
from jaxtyping import Array, Float, Key

from jaxdarts.types import Batch, Carry, Metrics, Mix, Module, Objective, Params


def supervised(
    net: Module,
    loss: Callable[[Any, Batch], Float[Array, ""]],
    metrics: Callable[[Any, Batch], Metrics] | None = None,
    *,
    inputs: Sequence[str] = ("image",),
    options: Sequence[str] = (),
) -> Objective:
    """Any loss of a network's output and a batch.

    Args:
        net: a weight-sharing network, `net.apply(variables, *inputs, mix, key)`, such as the
          supernet of any space (`spaces.of_network` for a network of your own).
        loss: (output, batch) -> scalar, without derivatives by the batch.
        metrics: (output, batch) -> scalars by name, besides `loss`.
        inputs: entries of the batch that the network reads, in the order of its arguments.
        options: entries that a batch may hold, given to the network as keyword arguments.

    Returns:
        An objective. Its carry is empty, or a dictionary of the network's variables that are no
        parameters, such as {"batch_stats": ...}, which each batch moves on.
    """

    for name, value in (("inputs", inputs), ("options", options)):
        if isinstance(value, str):
            raise ValueError(f"{name}={value!r}: a list is needed, [{value!r}]")

    def objective(params, mix, carry, batch, key):
        for name in inputs:
            if name not in batch:
                raise ValueError(
                    f"the batch has no {name!r}, only {', '.join(map(repr, batch))}: inputs=[...]"
                    " names the entries that the network reads"
                )
        values = [batch[name] for name in inputs]
        given = {name: batch[name] for name in options if name in batch}
        if not carry:
            try:
                output = net.apply({"params": params}, *values, mix, key, **given)
            except ScopeCollectionNotFound as error:
                raise ValueError(
                    "the network has variables besides its parameters, which are the carry of a"
                    f" search: search.init(key, params, (variables, variables)); {error}"
                ) from error
        else:
            output, carry = net.apply(
                {"params": params, **carry}, *values, mix, key, mutable=[*carry], **given
            )
        value = loss(output, batch)
        return value, (carry, {"loss": value, **(metrics(output, batch) if metrics else {})})

    return objective


def classification(net: Module) -> Objective:
    """Mean cross-entropy of an image classifier.

    Args:
        net: a Flax module, `net.apply({"params": params}, images, mix, key, drop_path) -> logits`.

    Returns:
        The `supervised` objective on batches {"image": [batch, height, width, channels], "label":
        [batch]}, with the metrics `loss`, `accuracy` and `top5` (fractions). A batch may hold
        "drop_path", the rate at which the supernet leaves edges out, and "skip_dropout", that of
        the dropout after its skip connections.
    """

    def metrics(logits, batch):
        return {name: jnp.mean(value) for name, value in hits(logits, batch["label"]).items()}

    return supervised(net, cross_entropy, metrics, options=("drop_path", "skip_dropout"))


def cross_entropy(logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, ""]:
    """Mean cross-entropy of a batch's labels, {"label": [batch]}."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))


def language_model(net: Module, activation: float = 0.0, temporal: float = 1e-3) -> Objective:
    """Language-model objective: mean cross-entropy of the next word, with two regularisers.

    They are those of the hidden states (Merity et al., 2018, section 4.6).

    Args:
        net: `nn.rnn.LanguageModel`.
        activation: multiple of the mean square of the cell's outputs after dropout (AR; alpha in
          quark0/darts).
        temporal: multiple of the mean square of their difference from one time to the next, before
          dropout (TAR; beta).

    Returns:
        An objective on batches {"tokens": [time, batch], "targets": [time, batch]}, which may also
        hold "length", the number of times that are no padding, and "regularisation", a factor of
        both regularisers: 0 for validation, whose loss is the cross-entropy alone. Its metric
        `loss` is the cross-entropy in nats a word, and it carries the hidden state along, [batch,
        width], zero at first (`net.start`); no gradient flows into it. Without a key there is no
        dropout.
    """

    def objective(params: Params, mix: Mix, carry: Carry, batch: Batch, key: Key[Array, ""] | None):
        tokens, targets = batch["tokens"], batch["targets"]
        length = batch.get("length", tokens.shape[0])
        out = net.apply(
            {"params": params}, tokens, carry, mix or None, key, batch.get("length"), targets
        )
        times = jnp.arange(tokens.shape[0])

        def mean(values, start=0):  # over the times from start to length
            total = jnp.sum(jnp.where((times >= start) & (times < length), values, 0))
            return total / jnp.maximum(length - start, 1)

        loss = mean(jnp.mean(out.losses, axis=1))
        total = loss
        dropped, outputs = (values.astype(loss.dtype) for values in (out.dropped, out.outputs))
        for weight, values, start in (
            (activation, dropped, 0),
            (temporal, outputs - jnp.roll(outputs, 1, axis=0), 1),
        ):
            if weight:
                total += (
                    weight
                    * batch.get("regularisation", 1.0)
                    * mean(jnp.mean(values**2, axis=(1, 2)), start)
                )
        return total, (out.hidden, {"loss": loss})

    return objective


def hits(logits: Float[Array, "batch classes"], labels: Array) -> dict[str, Float[Array, " batch"]]:
    """Correct predictions: `accuracy` and `top5` of every example, one or zero.

    Its label is the largest logit (`accuracy`), or among the five largest (`top5`).
    """
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return {
        "accuracy": (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype),
        "top5": (jnp.sum(logits > of_label, axis=-1) < 5).astype(logits.dtype),
    }
