"""Parts of a discrete network of two cells, each a program of its own whose time can be measured.

The latency of a network is then, nearly, a sum: over its operations, and over what is there
whatever these are (stem, preprocessing and outputs of the cells, head). So a table of these times
gives the `Costs` of a space, as `nn.costs` does of parameters, and all that limits costs limits
latencies. Networks are those that are deployed: forward only, batch norms with running averages,
no auxiliary head.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts.nn.cell import cell, stride_of, weight_shapes
from jaxdarts.nn.cnn import Cells, Run, runs
from jaxdarts.nn.costs import Costs
from jaxdarts.nn.network import ConvNorm
from jaxdarts.nn.ops import OPS, Norms, Op, table
from jaxdarts.nn.primitives.norm import Running, scaled
from jaxdarts.types import Choices

Shape = tuple[int, int, int]
"""Height, width and channels of a state."""

CALL, STEM, IMAGENET_STEM, CELLS, HEAD = "call", "stem", "imagenet_stem", "cells", "head"
"""The parts that are no operations; no operation has such a name.

`CALL` is what it takes to start a compiled program that has the arguments of a network.
"""


class Part(NamedTuple):
    """A part of a network, with all that its time depends on.

    name: of an operation, or one of `CALL`, `STEM`, `IMAGENET_STEM`, `CELLS`, `HEAD`.
    reads: the states that it reads.
    channels: of the state that it makes; of a cell's states for `CELLS`, classes for `CALL` and
      `HEAD`.
    stride: 2 where it halves height and width.
    repeats: of `CELLS`, the number of cells in the run.
    states: of `CELLS`, the number of states that a cell's output has side by side.
    """

    name: str
    reads: tuple[Shape, ...]
    channels: int
    stride: int = 1
    repeats: int = 1
    states: int = 1


class Use(NamedTuple):
    """A part where a network may have it.

    place: cell type, edge and operation; None for a part that every network has.
    times: how often it is there.
    """

    part: Part
    place: tuple[str, int, int] | None = None
    times: int = 1


def uses(
    cells: Mapping[str, Choices],
    width: int,
    depth: int,
    num_classes: int,
    image_shape: Shape,
    imagenet: bool = False,
    ops: Mapping[str, Op] = OPS,
) -> Iterator[Use]:
    """All that a network of two cells may have; arguments as of `nn.costs.two_cells`.

    Raises:
        ValueError: if these are not the cells `normal` and `reduce`.
    """
    check(cells)
    height, image_width, _ = image_shape
    yield Use(Part(CALL, (image_shape,), num_classes))
    if imagenet:
        yield Use(Part(IMAGENET_STEM, (image_shape,), width, 2))
        older: Shape = -(-height // 4), -(-image_width // 4), width
        last: Shape = -(-height // 8), -(-image_width // 8), width
    else:
        yield Use(Part(STEM, (image_shape,), 3 * width))
        older = last = height, image_width, 3 * width
    for run in runs(width, depth):
        choices, stride = cells[run.kind], 2 if run.kind == "reduce" else 1
        height, image_width = (-(-side // stride) for side in last[:2])
        yield Use(Part(CELLS, (older, last), run.width, stride, run.repeats, len(choices.concat)))
        for e, o in np.argwhere(choices.where(lambda op: op in ops)).tolist():
            from_input = choices.edges[e][0] < choices.num_inputs
            sides = last[:2] if from_input else (height, image_width)
            part = Part(
                choices.ops[e][o], ((*sides, run.width),), run.width, stride_of(choices, e, stride)
            )
            yield Use(part, (run.kind, e, o), run.repeats)
        made = height, image_width, len(choices.concat) * run.width
        older, last = (made if run.repeats > 1 else last), made
    yield Use(Part(HEAD, (last,), num_classes))


def check(cells: Mapping[str, Choices]) -> None:
    """Refuses cells whose networks are not summed up here; errors as of `uses`."""
    if sorted(cells) != ["normal", "reduce"]:
        raise ValueError(
            f"a space of the cells {', '.join(cells)}: latencies are summed up for networks of a"
            " normal and a reduction cell only"
        )


def costs(
    cells: Mapping[str, Choices], parts: Iterator[Use], nanoseconds: Mapping[Part, int]
) -> Costs:
    """The latency of every operation and of all the rest, in nanoseconds.

    Args:
        cells: of the space.
        parts: `uses` of it.
        nanoseconds: the time of every part.

    Raises:
        KeyError: if a part has no time.
    """
    fixed = 0
    operations = {name: np.zeros(choices.shape, np.int64) for name, choices in cells.items()}
    for part, place, times in parts:
        if place is None:
            fixed += times * nanoseconds[part]
        else:
            kind, e, o = place
            operations[kind][e, o] += times * nanoseconds[part]
    return Costs(fixed, operations)


# ----------------------------------------------------------------------------------------- programs


def program(
    part: Part, batch_size: int, ops: Mapping[str, Op] = OPS
) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    """A part as a pure function of arrays, and random arrays for it; the first is a state.

    A `CALL` is no function of its own.
    """
    rng = np.random.default_rng(0)
    states = [
        jnp.asarray(rng.normal(size=(batch_size, *shape)), jnp.float32) for shape in part.reads
    ]
    if part.name in PROGRAMS:
        return PROGRAMS[part.name](part, states)
    return _operation(part, states, ops)


def filled(shapes: Any) -> Any:
    """Random weights for a tree of shapes; those named as variances are positive.

    With them no state of a network becomes so small or so large that computing would take another
    time.
    """
    rng = np.random.default_rng(0)

    def fill(path: Any, one: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.uniform(-0.5, 0.5, one.shape)
        positive = jax.tree_util.keystr(path).rstrip("']").endswith("variance")
        return jnp.asarray(np.abs(values) + 0.5 if positive else values, one.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def _operation(part: Part, states: list[jax.Array], ops: Mapping[str, Op]):
    """The operation on the only edge of a cell: with its norm, as in a network."""
    choices = Choices(((0, 1),), ((part.name,),), (1,), num_inputs=1, kept=1)
    shapes = weight_shapes(choices, part.channels, part.stride, ops)
    weights = filled(jax.tree.map(_of_shape, shapes, is_leaf=lambda x: isinstance(x, tuple)))
    mix, x = jnp.ones(choices.shape), jnp.stack(states)
    key = jax.random.key(0) if part.name in ops and ops[part.name].random else None
    seen = []

    def look(bundles, gains=None):
        seen.extend((*y.shape[:-4], y.shape[-1]) for y in bundles)
        return bundles

    def compute(norms, x, weights, *key):
        return cell(weights, x, mix, choices, part.stride, norms, key[0] if key else None, ops=ops)

    keys = () if key is None else (key,)
    jax.eval_shape(functools.partial(compute, Norms(look, scaled)), x, weights, *keys)
    names = "scale", "shift", "mean", "variance"
    sites = filled([dict.fromkeys(names, _of_shape(shape)) for shape in seen])

    def run(x, weights, sites, *key):
        return compute(Norms(Running(sites, False), scaled), x, weights, *key)

    return run, (x, weights, sites, *keys)


def _of_shape(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _stem(part: Part, states: list[jax.Array]):
    net = ConvNorm(part.channels, 3, 1, 1)
    return _of_module(lambda apply, x: apply(x, False), net, *states)


def _imagenet_stem(part: Part, states: list[jax.Array]):
    return _of_module(lambda apply, x: apply(x), LargeStem(part.channels), *states)


class LargeStem(nn.Module):
    """The three strided convolutions of `nn.network.Network` for large images."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu(ConvNorm(self.width // 2, 3, 2, 1)(x, False))
        x = jax.nn.relu(ConvNorm(self.width, 3, 2, 1)(x, False))
        return ConvNorm(self.width, 3, 2, 1)(x, False)


def _cells(part: Part, states: list[jax.Array]):
    """A run of cells without operations: every node is the sum of the two inputs."""
    ops = table([Op("nothing", lambda channels, stride: {}, _thinned)])
    choices = Choices(((0, 2), (1, 2)), (("nothing",),) * 2, (2,) * part.states)
    run = Run("reduce" if part.stride == 2 else "normal", part.repeats, part.channels)
    mix = jnp.ones(choices.shape)

    def call(apply, older, last):
        result = apply(older, last, mix, False)
        return result[1] if isinstance(result, tuple) else result

    return _of_module(call, Cells(choices, run, discrete=True, ops=ops), *states)


def _thinned(weights, x, stride, norms):
    return x[:, None, :, ::stride, ::stride], scaled


def _head(part: Part, states: list[jax.Array]):
    (x,) = states
    weights = filled([_of_shape((x.shape[-1], part.channels)), _of_shape((part.channels,))])

    def run(x, weights):
        return jnp.mean(x, axis=(1, 2)) @ weights[0] + weights[1][None]

    return run, (x, weights)


def _of_module(call: Callable[..., Any], net: Any, *states: jax.Array):
    """The program of a module; `call` is (function that it is applied by, *states) -> result."""
    init = functools.partial(net.init, jax.random.key(0))
    variables = filled(jax.eval_shape(functools.partial(call, init), *states))

    def run(x, variables, *rest):
        return call(functools.partial(net.apply, variables), x, *rest)

    x, *rest = states
    return run, (x, variables, *rest)


PROGRAMS: Mapping[str, Callable[[Part, list[jax.Array]], tuple[Callable, tuple]]] = {
    STEM: _stem,
    IMAGENET_STEM: _imagenet_stem,
    CELLS: _cells,
    HEAD: _head,
}
"""What computes the parts that are no operations."""
