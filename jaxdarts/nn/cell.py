"""A cell: states computed in order from the edges that enter them.

Each state is a weighted sum of the operations on these edges.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxdarts.nn.ops import OPS, Norms, Op, States
from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.depthwise import wide
from jaxdarts.nn.primitives.norm import affine
from jaxdarts.nn.primitives.pooling import max_pool_2x2
from jaxdarts.space import Choices

Weights = Mapping[str, Mapping[str, Array]]
SKIP = "skip_connect"


def edges_of(choices: Choices, op: str) -> list[int]:
    """The edges that may carry an operation, ordered by source state.

    They are the rows of that operation's weights.

    Ordered so, the edges that leave one state are neighbours, and a bundle's weights are a slice.
    """
    edges = [e for e, ops in enumerate(choices.ops) if op in ops]
    return sorted(edges, key=lambda e: (choices.edges[e][0], e))


def stride_of(choices: Choices, edge: int, stride: int) -> int:
    """A reduction cell (stride 2) strides on the edges that leave its inputs only."""
    return stride if choices.edges[edge][0] < choices.num_inputs else 1


def weight_shapes(
    choices: Choices, channels: int, stride: int, ops: Mapping[str, Op] = OPS
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every weight of a cell: {op: {weight: (edges, ...)}}."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for op in ops:
        by_weight: dict[str, list] = {}
        for edge in edges_of(choices, op):
            for name, shape in ops[op].shapes(channels, stride_of(choices, edge, stride)).items():
                by_weight.setdefault(name, []).append(shape)
        if by_weight:
            shapes[op] = {name: (len(every), *every[0]) for name, every in by_weight.items()}
    return shapes


def random_edges(
    choices: Choices, ops: Mapping[str, Op] = OPS, skip_dropout: bool = False
) -> dict[str, list[int]]:
    """The edges that may carry each operation that draws at random, as of `edges_of`.

    With `skip_dropout` skip connections are among these operations.
    """
    names = [name for name, op in ops.items() if op.random]
    edges = {name: edges_of(choices, name) for name in (*names, *[SKIP] * skip_dropout)}
    return {name: numbers for name, numbers in edges.items() if numbers}


def with_keys(
    weights: Weights,
    key: Key[Array, ""],
    choices: Choices,
    ops: Mapping[str, Op] = OPS,
    skip_dropout: Float[Array, ""] | float | None = None,
) -> Weights:
    """The weights of a cell, and a key for every edge of each operation that draws at random."""
    drawing = random_edges(choices, ops, skip_dropout is not None)
    keys, start = jax.random.split(key, sum(map(len, drawing.values()))), 0
    for op, edges in drawing.items():
        of_op: dict[str, Array] = {"key": keys[start : start + len(edges)]}
        if op == SKIP and skip_dropout is not None:
            of_op["rate"] = jnp.full(len(edges), skip_dropout)
        weights = {**weights, op: {**weights.get(op, {}), **of_op}}
        start += len(edges)
    return weights


def groups_of(choices: Choices) -> list[tuple[int, ...]]:
    """The source states that are computed together.

    They are the inputs if their edges are alike, then every node.
    """

    def edges(source):
        return [
            (edge[1], choices.ops[e]) for e, edge in enumerate(choices.edges) if edge[0] == source
        ]

    inputs = tuple(range(choices.num_inputs))
    nodes = [(node,) for node in range(choices.num_inputs, choices.num_inputs + choices.num_nodes)]
    return (
        [inputs, *nodes]
        if all(edges(i) == edges(0) for i in inputs)
        else [*((i,) for i in inputs), *nodes]
    )


def cell(
    weights: Weights,
    inputs: States,
    mix: Float[Array, "edges ops *batch"],
    choices: Choices,
    stride: int,
    norms: Norms,
    key: Key[Array, ""] | None = None,
    partial: int = 1,
    ops: Mapping[str, Op] = OPS,
    skip_dropout: Float[Array, ""] | float | None = None,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The nodes of a cell, concatenated over channels.

    Args:
        weights: {op: {weight: [edges of op, ...]}}, rows in the order of `edges_of`.
        inputs: [inputs, batch, height, width, channels], the (preprocessed) outputs of the cells
          before.
        mix: weight of every operation on every edge; of every example too where it has an axis for
          them (drop path). A column behind the operations is a number that is added to all that the
          edge carries (`relax.drawn`).
        choices: edges and candidates.
        stride: 1 for a normal cell, 2 for a reduction cell.
        norms: the batch norms that end the operations.
        key: what operations that draw at random, such as `noise`, draw from on every edge; for
          cells that have any.
        partial: operations see the first channels of a state only, one in `partial`, and have
            weights for these only; the others bypass them (Xu et al., PC-DARTS, 2020).
        ops: declarations of the candidates.
        skip_dropout: rate of the dropout after skip connections that do not stride, drawn from
          `key`; None for none (Chen et al., P-DARTS, 2019).

    Returns:
        [batch, height / stride, width / stride, states in choices.concat * channels].
    """
    groups = groups_of(choices)
    if key is not None:
        weights = with_keys(weights, key, choices, ops, skip_dropout)
    parts = {
        op: _by_group(of_op, edges_of(choices, op), choices, groups)
        for op, of_op in weights.items()
    }
    entering: dict[int, list] = {}
    bypassing: dict[int, list] = {}
    states: dict[int, Array] = {}
    for i, group in enumerate(groups):
        if group[0] < choices.num_inputs:
            x = inputs[group[0] : group[0] + len(group)]
        else:
            # A node that nothing but `none` enters is zero.
            x = functools.reduce(
                jnp.add, entering.get(group[0], [jnp.zeros_like(inputs[0][:, ::stride, ::stride])])
            )
            if mix.shape[1] > choices.shape[1]:
                rows = [e for e, (_, target) in enumerate(choices.edges) if target == group[0]]
                added = jnp.sum(mix[np.array(rows), -1], axis=0)  # a number, or one an example
                x += jnp.expand_dims(added, tuple(range(added.ndim, 4))).astype(x.dtype)
            if partial > 1:
                # Every edge's output is shuffled alike, so their sum is.
                x = _shuffled(
                    jnp.concatenate([x, functools.reduce(jnp.add, bypassing[group[0]])], axis=-1),
                    partial,
                )
            x = x[None]
        # A state has many readers: computed once for all of them, and by the barrier's transpose so
        # is its cotangent.
        x = once_on_cpu(x)
        states |= zip(group, jnp.unstack(x))
        if partial > 1:
            x, rest = jnp.split(x, [x.shape[-1] // partial], axis=-1)
            for target, term in _around(group, rest, mix, choices, stride):
                bypassing.setdefault(target, []).append(term)
        for target, term in _leaving(
            group,
            {op: by_group[i] for op, by_group in parts.items()},
            x,
            mix,
            choices,
            stride,
            norms,
            ops,
        ):
            entering.setdefault(target, []).append(term)
    return jnp.concatenate([states[i] for i in choices.concat], axis=-1)


def _by_group(
    weights: Mapping[str, Array], edges: list[int], choices: Choices, groups
) -> list[dict[str, Array]]:
    """An operation's weights on the edges that leave each group, [group, edge, ...].

    Split, not sliced: the transpose is one concatenation then.
    """
    counts = [sum(choices.edges[e][0] in group for e in edges) for group in groups]
    out: list[dict[str, Array]] = [{} for _ in groups]
    for name, w in weights.items():
        bounds = np.minimum(
            np.cumsum(counts), w.shape[0]
        )  # a reduction cell's skip has weights on its inputs' edges only
        for of_group, group, part in zip(out, groups, jnp.split(w, bounds[:-1])):
            of_group[name] = part.reshape(len(group), -1, *part.shape[1:])
    return out


def _shuffled(x: Array, groups: int) -> Array:
    """Channel shuffle: interleaves the groups, so that successive cells process every channel."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], groups, -1), -1, -2).reshape(x.shape)


def _around(group, x, mix, choices, stride) -> list[tuple[int, Array]]:
    """The terms that bypass the operations on the edges that leave a group of states.

    Each is (target, term of it).

    PC-DARTS weighs all that an edge carries by the edge's own weight, and its operations by their
    softmax besides. A network eats the products alone; over an edge they sum to its weight, since a
    softmax sums to one (`none` counts).
    """
    by_source = [
        [e for e, edge in enumerate(choices.edges) if edge[0] == source] for source in group
    ]
    leaving = by_source[0]
    if not leaving:
        return []
    if stride_of(choices, leaving[0], stride) == 2:
        x = max_pool_2x2(x)
    # [group, edges] or [group, edges, batch]
    amount = jnp.sum(mix[:, : choices.shape[1]], axis=1)[np.array(by_source)]
    amount = jnp.expand_dims(amount, tuple(range(amount.ndim, 6)))
    y = affine(x[:, None], amount) if mix.ndim == 2 else (wide(x[:, None]) * amount).astype(x.dtype)
    return list(zip([choices.edges[e][1] for e in leaving], jnp.sum(y, axis=0)))


def _leaving(group, weights, x, mix, choices, stride, norms, ops) -> list[tuple[int, Array]]:
    """The terms on the edges that leave a group of states: (target, term of it).

    A target may have several terms.
    """
    by_source = [
        [e for e, edge in enumerate(choices.edges) if edge[0] == source] for source in group
    ]
    leaving = by_source[0]  # the others' are alike
    candidates = dict.fromkeys(op for e in leaving for op in choices.ops[e] if op in ops)
    if not candidates:
        return []
    targets = [choices.edges[e][1] for e in leaving]
    families = []
    for family in dict.fromkeys(ops[op].family for op in candidates):
        members = [op for op in candidates if ops[op].family == family]
        pairs = [(e, op) for op in members for e in edges_of(choices, op) if e in leaving]
        bundle, norm = family(
            [weights.get(op, {}) for op in members],
            x,
            stride_of(choices, leaving[0], stride),
            norms,
        )
        families.append((pairs, bundle, norm))
    amounts = _amounts(mix, choices, by_source, [pairs for pairs, *_ in families])

    terms, sums = [], []
    for norm in dict.fromkeys(norm for *_, norm in families):
        pairs, bundles, gains = zip(
            *((p, b, gain) for (p, b, last), gain in zip(families, amounts) if last == norm)
        )
        if mix.ndim == 2:
            bundles = norm(bundles, gains)
        else:
            bundles = [(wide(y) * gain).astype(y.dtype) for y, gain in zip(norm(bundles), gains)]
        for of_bundle, y in zip(pairs, bundles):
            edges = [e for e, _ in of_bundle]
            if edges == leaving * (len(edges) // len(leaving)):
                sums.append(jnp.sum(y.reshape(-1, len(leaving), *y.shape[2:]), 0))
            else:
                terms += [
                    (choices.edges[e][1], part)
                    for e, part in zip(edges, jnp.unstack(jnp.sum(y, 0)))
                ]
    return terms + (
        list(zip(targets, jnp.unstack(functools.reduce(jnp.add, sums)))) if sums else []
    )


def _amounts(mix: Array, choices: Choices, by_source: list[list[int]], families) -> Sequence[Array]:
    """The weights of the (edge, operation) pairs of each family in the mix.

    They are [group, pairs, 1 or batch, 1, 1, 1].
    """
    pairs = [pair for family in families for pair in family]
    rows = [[edges[by_source[0].index(e)] for e, _ in pairs] for edges in by_source]
    columns = [[choices.ops[e].index(op) for e, op in pairs]] * len(by_source)
    amounts = mix.at[np.array(rows), np.array(columns)].get(
        mode="promise_in_bounds", wrap_negative_indices=False
    )
    amounts = jnp.expand_dims(amounts, tuple(range(amounts.ndim, 6)))
    return lax.split(amounts, [len(family) for family in families], axis=1)
