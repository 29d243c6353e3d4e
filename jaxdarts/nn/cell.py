"""A cell: states computed in order, each a weighted sum of the operations on the edges that enter it."""

from collections.abc import Callable, Mapping

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


def cell(weights: Weights, s0: State, s1: State, mix: Float[Array, "edges ops"], choices: Choices, stride: int, norm: Norm) -> State:
    """The nodes of a cell, concatenated over channels.

    Args:
        weights: {op: {weight: [edges of op, ...]}}, rows in the order of `edges_of`.
        s0, s1: the preprocessed outputs of the two cells before, of equal shape.
        mix: weight of every operation on every edge.
        choices: edges and candidates.
        stride: 1 for a normal cell, 2 for a reduction cell.
        norm: normalisation over batch, height and width.

    Returns:
        [batch, height / stride, width / stride, states in choices.concat * channels].
    """
    states: list = [s0, s1] + [None] * choices.num_nodes
    for source in range(len(states) - 1):
        leaving = [e for e, edge in enumerate(choices.edges) if edge[0] == source]
        terms: dict[int, list] = {e: [] for e in leaving}
        bundles = []
        for op in dict.fromkeys(op for e in leaving for op in choices.ops[e] if op in OPS):
            rows = edges_of(choices, op)
            mine = [e for e in rows if e in terms]
            first = rows.index(mine[0])
            own = {name: w[first : first + len(mine)] for name, w in weights.get(op, {}).items()}
            y, ends_in_norm = OPS[op].apply(own, states[source], stride_of(choices, mine[0], stride), norm)
            amounts = [mix[e, choices.ops[e].index(op)].astype(y.dtype) for e in mine]
            if y.shape[0] == len(mine) and own:
                gain = jnp.stack(amounts)[:, None, None, None, None]
                y = norm(y, gain) if ends_in_norm else y * gain
                if mine == leaving:
                    bundles.append(y)
                else:
                    for e, one in zip(mine, y):
                        terms[e].append(one)
            else:
                shared = norm(y)[0] if ends_in_norm else y[0]
                for e, amount in zip(mine, amounts):
                    terms[e].append(amount * shared)
        if bundles:
            for e, one in zip(leaving, sum(bundles)):
                terms[e].append(one)
        for e in leaving:
            target = choices.edges[e][1]
            for term in terms[e]:
                states[target] = term if states[target] is None else states[target] + term
        if source + 1 >= 2 and source + 1 < len(states):
            # The next state is complete. It has many readers: computed once for all, and so is its cotangent.
            states[source + 1] = lax.optimization_barrier(states[source + 1])
    return jnp.concatenate([states[i] for i in choices.concat], axis=-1)
