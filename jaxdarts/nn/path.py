"""A cell of a supernet that computes one operation an edge: for mixes with one weight in each row.

Methods that draw an operation for every edge (GDAS, random search with weight sharing, ENAS) give
all others the weight zero. `nn.cell.cell` computes them all the same; `path_cell` computes the
drawn ones, from the same weights. Its value is that of `cell`, and so are its gradients by inputs,
by weights and by the weight of the drawn operation. Those of the others are not zero in `cell`, and
zero here: only relaxations that do not look at them (`Relaxation.one_path`) may use it.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxdarts.nn.cell import Weights, edges_of, with_keys
from jaxdarts.nn.ops import OPS, Norms, Op, States
from jaxdarts.space import Choices


def path_cell(
    weights: Weights,
    inputs: States,
    mix: Float[Array, "edges ops"],
    choices: Choices,
    stride: int,
    norms: Norms,
    key: Key[Array, ""] | None = None,
    ops: Mapping[str, Op] = OPS,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The nodes of a cell, concatenated over channels; arguments and result as of `nn.cell.cell`.

    A row of the mix has one entry that is not zero, or none: then nothing is on that edge. What an
    operation needs for its gradient is computed again in the backward pass; between the two only
    the states are kept.
    """
    if key is not None:
        weights = with_keys(weights, key, choices, ops)
    of_inputs = [e for e, (source, _) in enumerate(choices.edges) if source < choices.num_inputs]
    of_nodes = [e for e in range(len(choices.edges)) if e not in of_inputs]  # ordered by target
    _, batch, height, width, channels = inputs.shape
    nodes = (choices.num_nodes, batch, -(-height // stride), -(-width // stride), channels)
    states = jnp.zeros(nodes, inputs.dtype)
    if stride == 1:  # inputs and nodes are alike
        states, loops = jnp.concatenate([inputs, states]), [(None, [*of_inputs, *of_nodes])]
    else:
        loops = [(inputs, of_inputs), (None, of_nodes)]
    for sources, numbers in loops:
        for _, alike in itertools.groupby(numbers, lambda e: choices.ops[e]):
            edges = _edges(weights, mix, choices, list(alike), len(states))
            stride_here = 1 if sources is None else stride
            states = _added(states, sources, edges, stride_here, norms, ops)
    first = choices.num_inputs + choices.num_nodes - len(states)
    return jnp.concatenate([states[i - first] for i in choices.concat], axis=-1)


class Edges(NamedTuple):
    """Edges with the same candidates: one entry of each array an edge.

    ops: the candidates. source, target: places among the states. pick: 0 for nothing, then the
    candidates' places plus 1. gain: weight of the picked one. added: a number that is added to all
    that the edge carries (`relax.drawn`). weights: {op: {name: [edges, ...]}}.
    """

    ops: tuple[str, ...]
    source: Int[np.ndarray, " edges"]
    target: Int[np.ndarray, " edges"]
    pick: Int[Array, " edges"]
    gain: Float[Array, " edges"]
    added: Float[Array, " edges"]
    weights: dict[str, dict[str, Array]]


def _edges(
    weights: Weights, mix: Array, choices: Choices, numbers: list[int], states: int
) -> Edges:
    """The edges of some numbers; the last of all states are the last of `states`."""
    rows = mix[np.array(numbers)]
    width = choices.shape[1]
    on = rows[:, :width] != 0
    pick = jnp.where(jnp.any(on, axis=1), jnp.argmax(on, axis=1) + 1, 0)
    gain = jnp.take_along_axis(rows, jnp.maximum(pick - 1, 0)[:, None], axis=1)[:, 0]
    added = rows[:, width] if rows.shape[1] > width else jnp.zeros_like(gain)
    of_ops: dict[str, dict[str, Array]] = {}
    for op in choices.ops[numbers[0]]:
        order = edges_of(choices, op)
        places = np.array([order.index(e) for e in numbers])
        for name, w in weights.get(op, {}).items():
            if max(places) < w.shape[0]:  # a skip connection has weights where it strides
                of_ops.setdefault(op, {})[name] = w[places]
    ends = np.array([choices.edges[e] for e in numbers])
    first = choices.num_inputs + choices.num_nodes - states
    # Sources among the inputs are numbered from 0, of whichever array they are read.
    source = np.where(ends[:, 0] < choices.num_inputs, ends[:, 0], ends[:, 0] - first)
    return Edges(choices.ops[numbers[0]], source, ends[:, 1] - first, pick, gain, added, of_ops)


def _added(states: Array, sources: Array | None, edges: Edges, stride: int, norms, ops) -> Array:
    """The states with what the edges carry, in their order: a loop, so each is compiled once.

    sources: what they read; None for the states themselves.
    """
    shape = states.shape[1:]

    def branch(op: str):
        if op not in ops:  # `none`
            return lambda x, gain, weights: jnp.zeros(shape, states.dtype)

        def compute(x, gain, weights):
            of_op = jax.tree.map(lambda w: w[None, None], weights.get(op, {}))
            bundle, norm = ops[op].family([of_op], x[None], stride, norms)
            (y,) = norm([bundle], [jnp.expand_dims(gain, tuple(range(6)))])
            return y[0, 0].astype(states.dtype)

        return compute

    branches = [branch(op) for op in ("none", *edges.ops)]

    @jax.checkpoint
    def carried(x, pick, gain, added, weights):
        return lax.switch(pick, branches, x, gain, weights) + added.astype(states.dtype)

    def add(states, of_edge):
        source, target, *rest = of_edge
        x = lax.dynamic_index_in_dim(states if sources is None else sources, source, 0, False)
        y = lax.dynamic_index_in_dim(states, target, 0, False) + carried(x, *rest)
        return lax.dynamic_update_index_in_dim(states, y, target, 0), None

    _, *arrays = edges
    return lax.scan(add, states, tuple(arrays))[0]
