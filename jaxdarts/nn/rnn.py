"""The recurrent cell, of a search and of a genotype, and the language model around it.

Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search
<https://arxiv.org/abs/1806.09055>`_, ICLR 2019, appendix A.1. The paper's first state is tanh of a
sum of linear maps; its code, which is followed here, has a gate there as in every node.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxdarts.nn.primitives.norm import batch_norm
from jaxdarts.space import Choices
from jaxdarts.types import Mix

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}
"""The candidates of a recurrent cell, besides `none`."""


class Dropouts(NamedTuple):
    """Dropout rates, each at least 0 and below 1.

    A mask is drawn once a call and is the same at all times: variational dropout.

    Gal & Ghahramani, `A Theoretically Grounded Application of Dropout in Recurrent Neural Networks
    <https://arxiv.org/abs/1512.05287>`_, 2016. Names in quark0/darts' scripts in brackets.

    words: rows of the embedding, for the whole batch (dropoute).
    embedded: units of the embedded words (dropouti).
    cell: units of the cell's input, once more (dropoutx).
    hidden: units of the hidden state and of every node's source; one mask for all of them
    (dropouth). output: units of the cell's output on its way to the decoder (dropout).
    """

    words: float = 0.0
    embedded: float = 0.0
    cell: float = 0.0
    hidden: float = 0.0
    output: float = 0.0


class Prediction(NamedTuple):
    """Outputs of a language model for a sequence.

    logits: of the word that follows, not normalised.
    hidden: the state after the last word.
    outputs: of the cell, before dropout.
    dropped: after it.
    losses: cross-entropy of the targets in nats a word, where there are targets. They do not come
    from `logits`, but from a few
        times after another: all logits at once are by far the largest array of a step, and the
        slowest to write and to read.
    """

    logits: Float[Array, "time batch vocabulary"]
    hidden: Float[Array, "batch width"]
    outputs: Float[Array, "time batch width"]
    dropped: Float[Array, "time batch width"]
    losses: Float[Array, "time batch"] | None = None


def cell(
    choices: Choices,
    first: Float[Array, "batch two_widths"],
    weights: Float[Array, "nodes width two_widths"],
    hidden: Float[Array, "batch width"],
    mix: Float[Array | np.ndarray, "edges ops"],
    mask: Float[Array, "batch width"] | None = None,
    norm=lambda state: state,
) -> Float[Array, "batch width"]:
    """One step in time: the new hidden state.

    It is the mean of the states in `choices.concat`, in float32 at least.

    A node with weights W that reads state s has the gate c and the candidate h in [c | h] = (s *
    mask) W, and becomes s + sigmoid(c) (f(h) - s), for one edge and one activation f; in a search
    that is summed with the mix's weights, and `none` adds nothing. All edges into a node share its
    W: their products are one. They alone are computed in the weights' format.

    Args:
        choices: states 0 and, for every node, one more; num_inputs is 1.
        first: gate and candidate of state 0, made of the input and the hidden state.
        weights: of the nodes.
        hidden: the state of the step before.
        mix: weight of every activation on every edge; a column behind them is a number that is
          added to all that the edge carries (`relax.drawn`).
        mask: what every source is multiplied by before its product with W.
        norm: applied to every state.
    """

    def highway(state, product, activated, share=1.0):
        gate = jax.nn.sigmoid(product[..., : product.shape[-1] // 2])
        state = share * state
        return state + gate * (activated - state)

    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    hidden, first = hidden.astype(wide), first.astype(wide)
    states = [norm(highway(hidden, first, jnp.tanh(first[:, hidden.shape[1] :])))]
    for node in range(choices.num_nodes):
        entering = [e for e, (_, target) in enumerate(choices.edges) if target == node + 1]
        sources = jnp.stack([states[choices.edges[e][0]] for e in entering])
        masked = sources if mask is None else sources * mask[None]
        masked = masked.astype(weights.dtype).reshape(-1, hidden.shape[1])
        product = (masked @ weights[node]).reshape(len(entering), hidden.shape[0], -1)
        product = checkpoint_name(product, "product").astype(wide)
        activated, share = 0.0, 0.0
        for op, function in ACTIVATIONS.items():
            columns = [choices.ops[e].index(op) if op in choices.ops[e] else None for e in entering]
            if not any(column is not None for column in columns):
                continue
            op_weights = [
                0.0 if column is None else mix[e, column] for e, column in zip(entering, columns)
            ]
            op_weights = jnp.stack([jnp.asarray(w, wide) for w in op_weights])[:, None, None]
            activated += op_weights * function(product[..., hidden.shape[1] :])
            share += op_weights
        state = jnp.sum(highway(sources, product, activated, share), axis=0)
        if mix.shape[1] > choices.shape[1]:  # a number added to all that an edge carries
            state += jnp.sum(mix[np.array(entering), -1])
        states.append(norm(state))
    return functools.reduce(jnp.add, [states[i] for i in choices.concat]) / len(choices.concat)


class LanguageModel(nn.Module):
    """Recurrent language model: predicts the next word.

    It is `apply(variables, tokens, hidden, mix=None, key=None, length=None, targets=None) ->
    Prediction`.

    Decoder and embedding are one matrix. The time axis is a `lax.scan`, so the program does not
    grow with it. Times from `length` on are padding: they leave the hidden state as it is, and what
    they predict means nothing.

    Without a key there is no dropout. On several devices, each with its part of the batch, masks
    are drawn for the whole batch, so that every device gets what one would have used.

    Attributes:
        choices: the cell.
        width: of the embedding and of the hidden state.
        vocabulary: number of different words.
        norm: normalise every state with the moments of the batch, without scale and shift, as in a
            search. The official code has running averages for validation, one pair for all states
            and times; here a batch is always its own measure.
        dropouts: rates.
        remat: compute even the matrix products of a step again in the backward pass instead of
          keeping them: least memory.
    """

    choices: Choices
    width: int
    vocabulary: int
    norm: bool = False
    dropouts: Dropouts = Dropouts()
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def example_mix(self) -> Mix:
        """A mix of the right shape, all zero."""
        return {"recurrent": jnp.zeros(self.choices.shape)}

    def example_inputs(self, image_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Arguments that `init` takes: a token and a hidden state."""
        return jnp.zeros((1, 1), jnp.int32), self.start(1)

    def start(self, batch_size: int) -> Float[Array, "batch width"]:
        """The hidden state before the first word."""
        return jnp.zeros((batch_size, self.width), self.dtype)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "time batch"],
        hidden: Float[Array, "batch width"],
        mix: Mapping[str, Float[Array, "edges ops"]] | None = None,
        key: Key[Array, ""] | None = None,
        length: Int[Array, ""] | int | None = None,
        targets: Int[Array, "time batch"] | None = None,
    ) -> Prediction:
        (time, batch), width = tokens.shape, self.width

        def uniform(name, *shape):
            start = lambda key, shape: jax.random.uniform(key, shape, minval=-0.04, maxval=0.04)  # noqa: E731
            return self.param(name, start, shape)

        embedding = uniform("embedding", self.vocabulary, width)
        bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        first = uniform("first", 2 * width, 2 * width)
        nodes = uniform("nodes", self.choices.num_nodes, width, 2 * width)
        if self.is_initializing():  # shapes are all that matters
            nothing = jnp.zeros((time, batch, width), self.dtype)
            return Prediction(jnp.zeros((time, batch, self.vocabulary)), hidden, nothing, nothing)

        masks = self._masks(batch, key)
        x = embedding[tokens]
        if masks.words is not None:
            x *= masks.words[tokens][..., None]
        for mask in (masks.embedded, masks.cell):
            if mask is not None:
                x *= mask[None]
        x = x.astype(self.dtype)
        # What the words contribute to the first state is known before the loop over time starts.
        x = (x.reshape(-1, width) @ first[:width].astype(self.dtype)).reshape(
            time, batch, 2 * width
        )
        weights = np.ones(self.choices.shape) if mix is None else mix["recurrent"]

        wide = jnp.promote_types(self.dtype, jnp.float32)

        def norm(state):
            return (
                batch_norm(state[:, None, None], axis_name=self.axis_name)[:, 0, 0]
                if self.norm
                else state
            )

        def step(hidden, inputs):
            x, t = inputs
            masked = hidden if masks.hidden is None else (hidden * masks.hidden).astype(self.dtype)
            # In the loop's body: their gradients are sums over time, which then are taken in the
            # format of the parameters.
            of_state, of_nodes = first[width:].astype(self.dtype), nodes.astype(self.dtype)
            entering = x.astype(wide) + (masked @ of_state).astype(wide)
            new = cell(self.choices, entering, of_nodes, hidden, weights, masks.hidden, norm)
            new = new.astype(hidden.dtype)
            return (new if length is None else jnp.where(t < length, new, hidden)), new

        # The backward pass keeps the matrix products of a step and makes the rest again: arithmetic
        # on what is in the cache is cheaper than the way to memory and back, and most of the memory
        # of a step goes to gates and activations.
        kept = () if self.remat else ("product",)
        body = jax.checkpoint(
            step, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(*kept)
        )
        hidden, outputs = lax.scan(body, hidden.astype(self.dtype), (x, jnp.arange(time)))
        dropped = (
            outputs if masks.output is None else (outputs * masks.output[None]).astype(self.dtype)
        )
        decoder = embedding.T

        def logits(x: Float[Array, "words width"]) -> Float[Array, "words vocabulary"]:
            return (x @ decoder.astype(self.dtype)).astype(wide) + bias[None]

        losses = None
        if targets is not None:
            rows = next(n for n in range(max(1, min(time, 512 // batch)), 0, -1) if time % n == 0)

            def some(_, inputs):
                x, words = inputs
                return None, optax.softmax_cross_entropy_with_integer_labels(logits(x), words)

            parts = (
                dropped.reshape(time // rows, rows * batch, width),
                targets.reshape(time // rows, rows * batch),
            )
            losses = lax.scan(jax.checkpoint(some, prevent_cse=False), None, parts)[1].reshape(
                time, batch
            )
        every = logits(dropped.reshape(-1, width)).reshape(time, batch, -1)
        return Prediction(every, hidden, outputs, dropped, losses)

    def _masks(self, batch: Any, key: Key[Array, ""] | None) -> "Masks":
        if key is None:
            return Masks()
        masks = {}
        for i, (name, rate) in enumerate(self.dropouts._asdict().items()):
            if not 0 <= rate < 1:
                raise ValueError(f"dropouts.{name} is {rate}: it must be at least 0 and below 1")
            if not rate:
                continue
            mask_key = jax.random.fold_in(key, i)
            devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
            shape = (self.vocabulary,) if name == "words" else (devices * batch, self.width)
            # In float32 at least: rounded to bfloat16, 1 / (1 - 0.25) would be a scale a 500th too
            # large.
            mask = jax.random.bernoulli(mask_key, 1 - rate, shape).astype(
                jnp.promote_types(self.dtype, jnp.float32)
            ) / (1 - rate)
            if devices > 1 and name != "words":
                mask = lax.dynamic_slice_in_dim(mask, lax.axis_index(self.axis_name) * batch, batch)
            masks[name] = mask
        return Masks(**masks)


class Masks(NamedTuple):
    """Dropout masks that are drawn from `Dropouts`, None for a rate of zero."""

    words: Float[Array, " vocabulary"] | None = None
    embedded: Float[Array, "batch width"] | None = None
    cell: Float[Array, "batch width"] | None = None
    hidden: Float[Array, "batch width"] | None = None
    output: Float[Array, "batch width"] | None = None
