"""Weights of a supernet for one with fewer candidates, whose operations see more channels.

They are carried over as in DrNAS' code: what an edge keeps has the weights that it had, and
channels that are new are copies of old ones, drawn at random (Net2WiderNet without the division
that would keep the function; Chen et al., `DrNAS <https://arxiv.org/abs/2006.10355>`_, ICLR 2021).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdarts.nn.benchmarks import nasbench201
from jaxdarts.nn.cell import edges_of, stride_of
from jaxdarts.nn.cnn import Supernet, runs
from jaxdarts.nn.ops import OPS, Op
from jaxdarts.space import Choices
from jaxdarts.types import Params

Net = Supernet | nasbench201.Supernet


def carried(params: Params, old: Net, new: Net, rng: np.random.Generator) -> Params:
    """The weights of a supernet as those of another one.

    Args:
        params: weights of `old`, or a tree like them, such as their momentum.
        old: the supernet that was trained.
        new: the supernet to train: of the same width, depth and edges, each edge with some of its
          operations. If its `partial` is smaller, its operations have more channels.
        rng: draws the channels that are copied. Equal generators draw equal channels.

    Raises:
        ValueError: if the two do not fit.
    """
    if (old.width, old.depth) != (new.width, new.depth) or new.partial > old.partial:
        raise ValueError(
            f"a supernet of width {old.width}, depth {old.depth} and partial {old.partial} has no"
            f" weights for width {new.width}, depth {new.depth} and partial {new.partial}"
        )
    out = dict(params)
    ops = new.ops if isinstance(new, Supernet) else OPS
    for name, kind, width in _parts(old):
        choices = old.cells[kind], new.cells[kind]
        columns(*choices)  # refuses cells that do not fit
        widths = width // old.partial, width // new.partial
        stride = 2 if kind == "reduce" else 1
        of_run = {key: w for key, w in params[name].items() if key.startswith("preprocess")}
        for op in ops.values():
            of_run |= _of_op(params[name], op, choices, widths, stride, rng)
        out[name] = of_run
    return out


def _parts(net: Net) -> list[tuple[str, str, int]]:
    """The weights of cells: (their name, the kind of the cells, the width)."""
    if isinstance(net, Supernet):
        every = enumerate(runs(net.width, net.depth))
        return [(f"cells{i}_{run.kind}", run.kind, run.width) for i, run in every]
    return [(f"stage{i}", "cell", net.width * 2**i) for i in range(nasbench201.STAGES)]


def columns(old: Choices, new: Choices) -> np.ndarray:
    """The columns of the old mix, [edges, ops], that stay in the new one.

    Raises:
        ValueError: if the edges differ, or one has an operation that it did not have.
    """
    if old.edges != new.edges or any(set(b) - set(a) for a, b in zip(old.ops, new.ops)):
        raise ValueError("the new candidates are not among the old ones of the same edges")
    return np.array([[a.index(op) for op in b] for a, b in zip(old.ops, new.ops, strict=True)])


def _of_op(
    params: Mapping[str, Array],
    op: Op,
    choices: tuple[Choices, Choices],
    widths: tuple[int, int],
    stride: int,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """The weights of one operation in a run of cells, {name: [cells, edges, ...]}."""
    before, after = choices
    rows: dict[str, list[np.ndarray]] = {}
    for edge in edges_of(after, op.name):
        shapes = op.shapes(widths[0], stride_of(after, edge, stride))
        if not shapes:
            continue
        with_weights = [
            e for e in edges_of(before, op.name) if op.shapes(1, stride_of(before, e, stride))
        ]
        row = with_weights.index(edge)
        larger = op.shapes(widths[1], stride_of(after, edge, stride))
        old = {name: np.asarray(params[f"{op.name}_{name}"])[:, row] for name in shapes}
        cells = [
            _wider({name: w[cell] for name, w in old.items()}, larger, rng)
            for cell in range(len(next(iter(old.values()))))
        ]
        for name in shapes:
            rows.setdefault(name, []).append(np.stack([one[name] for one in cells]))
    return {
        f"{op.name}_{name}": jnp.asarray(np.stack(parts, axis=1)) for name, parts in rows.items()
    }


def _wider(
    weights: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The weights of an operation on one edge of one cell, for the shapes of more channels."""
    out: dict[str, np.ndarray] = {}
    of_depthwise: dict[str, np.ndarray] = {}
    for name, w in weights.items():
        shape = shapes[name]
        if w.shape == shape:
            out[name] = w
        elif name.startswith("depthwise"):
            copies = _copies(w.shape[-1], shape[-1], rng)
            of_depthwise[name.removeprefix("depthwise")] = copies
            out[name] = w[..., copies]
        elif name.startswith("pointwise"):  # it reads what the depthwise convolution before wrote
            copies = of_depthwise[name.removeprefix("pointwise")]
            out[name] = _both(w[..., copies, :], shape, rng)
        elif name == "reduce":  # two convolutions, each with half of the outputs
            half = (*shape[:-1], shape[-1] // 2)
            parts = [_both(part, half, rng) for part in np.split(w, 2, axis=-1)]
            out[name] = np.concatenate(parts, axis=-1)
        else:
            out[name] = _both(w, shape, rng)
    return out


def _both(w: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Copies along every axis that is to be longer."""
    for axis, size in enumerate(shape):
        if size > w.shape[axis]:
            w = np.take(w, _copies(w.shape[axis], size, rng), axis=axis)
    return w


def _copies(old: int, new: int, rng: np.random.Generator) -> np.ndarray:
    """The old channels in order, then random ones among them: which old channel each new one is."""
    return np.concatenate([np.arange(old), rng.integers(old, size=new - old)])


def carried_arch(arch: Any, old: Choices, new: Choices) -> Any:
    """The architecture parameters of one cell, of the operations that stay.

    Arrays that are not [edges, ops], such as weights of edges, stay as they are.
    """
    kept = columns(old, new)
    if isinstance(arch, Mapping):
        return {name: carried_arch(part, old, new) for name, part in arch.items()}
    return jnp.take_along_axis(arch, kept, axis=1) if arch.shape == old.shape else arch
