"""A cell: states computed in order, each a weighted sum of the operations on the edges that enter it."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.nn.ops import OPS, Norm, State
from jaxdarts.space import Choices

Weights = Mapping[str, Mapping[str, Array]]


def edges_of(choices: Choices, op: str) -> list[int]:
    """The edges that may carry an operation, ordered by source state: the rows of that operation's weights.

    Ordered so, the edges that leave one state are neighbours, and a bundle's weights are a slice.
    """
    edges = [e for e, ops in enumerate(choices.ops) if op in ops]
    return sorted(edges, key=lambda e: (choices.edges[e][0], e))


def stride_of(choices: Choices, edge: int, stride: int) -> int:
    """A reduction cell (stride 2) strides on the edges that leave its two inputs only."""
    return stride if choices.edges[edge][0] < 2 else 1


def weight_shapes(choices: Choices, channels: int, stride: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every weight of a cell: {op: {weight: (edges, ...)}}."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for op in OPS:
        counts: dict[str, list] = {}
        for edge in edges_of(choices, op):
            for name, shape in OPS[op].shapes(channels, stride_of(choices, edge, stride)).items():
                counts.setdefault(name, []).append(shape)
        if counts:
            shapes[op] = {name: (len(found), *found[0]) for name, found in counts.items()}
    return shapes


def cell(
    weights: Weights,
    s0: State,
    s1: State,
    mix: Float[Array, "edges ops"],
    choices: Choices,
    stride: int,
    norm: Norm,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The nodes of a cell, concatenated over channels.

    Args:
        weights: {op: {weight: [edges of op, ...]}}, rows in the order of `edges_of`.
        s0, s1: the preprocessed outputs of the two cells before, of equal shape.
        mix: weight of every operation on every edge.
        choices: edges and candidates.
        stride: 1 for a normal cell, 2 for a reduction cell.
        norm: normalisation over batch, height and width, `norm(x, gain)`.

    Returns:
        [batch, height / stride, width / stride, states in choices.concat * channels].
    """
    states = [s0, s1]
    entering: dict[int, list] = {}
    for source in range(choices.num_nodes + 2):
        if source >= 2:
            # A state has many readers: computed once for all of them, and by the barrier's transpose so is its cotangent.
            states.append(lax.optimization_barrier(functools.reduce(jnp.add, entering[source])))
        for edge, term in _leaving(source, weights, states[source], mix, choices, stride, norm):
            entering.setdefault(choices.edges[edge][1], []).append(term)
    return jnp.concatenate([states[i] for i in choices.concat], axis=-1)


def _leaving(source, weights, x, mix, choices, stride, norm) -> list[tuple[int, State]]:
    """What the edges that leave a state carry: (edge, term of its target), several terms an edge."""
    leaving = [e for e, edge in enumerate(choices.edges) if edge[0] == source]
    terms, bundle = [], []
    for op in dict.fromkeys(op for e in leaving for op in choices.ops[e] if op in OPS):
        rows = edges_of(choices, op)
        mine = [e for e in rows if e in leaving]
        first = rows.index(mine[0])
        own = {name: w[first : first + len(mine)] for name, w in weights.get(op, {}).items()}
        y, ends_in_norm = OPS[op].apply(own, x, stride_of(choices, mine[0], stride), norm)
        amounts = [mix[e, choices.ops[e].index(op)].astype(y.dtype) for e in mine]
        if y.shape[0] == 1:  # One result for all edges: without weights, or there is but one edge.
            y = norm(y)[0] if ends_in_norm else y[0]
            terms += [(e, amount * y) for e, amount in zip(mine, amounts)]
            continue
        gain = jnp.stack(amounts)[:, None, None, None, None]
        y = norm(y, gain) if ends_in_norm else y * gain
        if mine == leaving:
            bundle.append(y)
        else:
            terms += list(zip(mine, y))
    return terms + (list(zip(leaving, functools.reduce(jnp.add, bundle))) if bundle else [])
