"""The convolutional skeleton: stem, cells with two reductions, global average, linear head."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdarts.nn.cell import cell, random_edges, weight_shapes
from jaxdarts.nn.inputs import OfMix
from jaxdarts.nn.ops import OPS, Norms, Op, halved, halved_weights, pointwise, relu
from jaxdarts.nn.path import path_cell
from jaxdarts.nn.primitives.norm import Running, batch_norm, batch_norms, scaled
from jaxdarts.space import Choices
from jaxdarts.types import EveryMix


class Run(NamedTuple):
    """Consecutive cells of one kind and width."""

    kind: str
    repeats: int
    width: int


def runs(width: int, depth: int) -> list[Run]:
    """The cells of a network in groups of equal cells.

    Reductions are at depth // 3 and 2 * depth // 3; each of them doubles the width.
    """
    out: list[Run] = []
    for i in range(depth):
        if i in (depth // 3, 2 * depth // 3):
            width *= 2
            out.append(Run("reduce", 1, width))
        elif out and out[-1].kind == "normal":
            out[-1] = Run("normal", out[-1].repeats + 1, width)
        else:
            out.append(Run("normal", 1, width))
    return out


def uniform(fan_in: int):
    """PyTorch's default initialisation of convolutions: U(-1, 1) / sqrt(fan_in).

    fan_in = size^2 * in_channels / groups.

    PyTorch 0.3, which the published searches ran on, did not divide by groups, so its depthwise
    filters started sqrt(channels) times smaller; the batch norm that follows makes the two differ
    only in effective step size.
    """

    def init(key, shape):
        # Drawn in powers of two and cut: an eager init then compiles a dozen draws instead of one
        # for every shape.
        size = math.prod(shape)
        draw = jax.random.uniform(key, (1 << (size - 1).bit_length(),), jnp.float32, -1, 1)
        if not isinstance(draw, jax.core.Tracer):
            draw = np.asarray(draw)  # NumPy cuts it without a program for every shape
        return jnp.asarray((draw[:size] * fan_in**-0.5).reshape(shape), jnp.float32)

    return init


def constant(shape: tuple[int, ...], dtype: Any, value: float = 0.0) -> Array:
    """An array of one number; nothing is compiled for it, as for an eager `jnp.full`."""
    return jnp.asarray(np.full(shape, value, dtype), dtype)


def ones(key: Any, shape: tuple[int, ...]) -> Array:
    """An initialisation with ones."""
    return constant(shape, jnp.float32, 1.0)


def zeros(key: Any, shape: tuple[int, ...]) -> Array:
    """An initialisation with zeros."""
    return constant(shape, jnp.float32)


def computed(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function without variables returns; zeros while the module is initialised.

    Shapes are all that matters then: an eager forward pass would compile every operation apart.
    """
    if not module.is_initializing():
        return function(*inputs)
    shapes = jax.eval_shape(function, *inputs)
    return jax.tree.map(lambda x: constant(x.shape, x.dtype), shapes)


class Cells(nn.Module):
    """A run of cells, compiled once however long.

    Weights carry a leading axis over the cells, which a scan consumes.

    For that every cell of the run must see inputs of one shape, so narrower inputs are padded with
    zero channels (and their preprocessing with zero rows), and an input of double size is `halved`
    first, as its factorised reduction would do anyway.

    A discrete network's cells (`discrete`) have batch norms with scale, shift and running averages,
    and none after pooling.
    """

    choices: Choices
    run: Run
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 1
    discrete: bool = False
    partial: int = 1
    ops: Mapping[str, Op] = OPS
    one_path: bool = False

    @nn.compact
    def __call__(self, s0, s1, mix, train: bool = True, keys=None, skip_dropout=None):
        """Applies the cells for a mix [edges, ops].

        The mix is [cells, edges, ops] for a run whose cells differ in it, and [cells, edges, ops,
        batch] where examples do so too.

        keys: [cells], for all that the cells draw at random, or None (`noise_keys`).
        skip_dropout: as of `nn.cell.cell`.
        """
        choices, (kind, repeats, width) = self.choices, self.run
        stride = 2 if kind == "reduce" else 1
        out_channels = len(choices.concat) * width
        inputs0 = ([s0.shape[-1], s1.shape[-1]] + [out_channels] * repeats)[:repeats]
        inputs1 = ([s1.shape[-1]] + [out_channels] * repeats)[:repeats]
        halve = s0.shape[1:3] != s1.shape[1:3]
        preprocess = [
            [self.param(f"preprocess{i}_{n}", uniform(c), (c, width)) for n, c in enumerate(inputs)]
            for i, inputs in enumerate((inputs0, inputs1))
        ]
        weights = cell_weights(self, choices, width // self.partial, stride, repeats, self.ops)
        channels = s0.shape[-1] * (2 if halve else 1)
        wide = max(channels, s1.shape[-1], out_channels if repeats > 1 else 0)

        def pad(x, axis):
            return jnp.pad(
                x, [(0, wide - x.shape[axis] if a == axis else 0) for a in range(x.ndim)]
            )

        def started(s0, s1, preprocess, weights):
            """The states that the first cell reads, and the weights of all cells."""
            if halve:
                s0 = halved(s0)
                preprocess[0][0] = halved_weights(preprocess[0][0])
            stacked = jax.tree.map(
                lambda w: w.astype(self.dtype),
                (
                    jnp.stack([jnp.stack([pad(w, 0) for w in ws]) for ws in preprocess], axis=1),
                    weights,
                ),
            )
            return jnp.stack([pad(s0, 3), pad(s1, 3)]), stacked

        def one(carry, of_cell, mix, norms):
            (projections, operations), key = of_cell
            (inputs,) = norms.conv([pointwise(relu(carry), projections)])
            options = (key, self.partial, self.ops, skip_dropout)
            if self.one_path:
                out = path_cell(operations, inputs, mix, choices, stride, norms, key, self.ops)
            else:
                out = cell(operations, inputs, mix, choices, stride, norms, *options)
            return jnp.stack([carry[1], pad(out, 3)]) if repeats > 1 else out

        carry, stacked = computed(self, started, s0, s1, preprocess, weights)
        stacked = stacked, keys
        sites = norm_sites(self, repeats, one, carry, stacked, mix) if self.discrete else []
        if self.is_initializing():
            shape = (s1.shape[0], -(-s1.shape[1] // stride), -(-s1.shape[2] // stride))
            out = constant((*shape, out_channels), s1.dtype)
            return (out if repeats > 1 else s1), out

        out = over_cells(self, one, carry, stacked, sites, mix, train, repeats)
        return (s1, out) if repeats == 1 else tuple(s[..., :out_channels] for s in out)


def cell_weights(
    module: nn.Module,
    choices: Choices,
    width: int,
    stride: int,
    repeats: int,
    ops: Mapping[str, Op] = OPS,
) -> dict[str, dict[str, Array]]:
    """The weights of the operations of a run of cells, {op: {name: [cells, edges, ...]}}.

    Each is a parameter of `module`.
    """
    weights: dict[str, dict[str, Array]] = {}
    for op, shapes in weight_shapes(choices, width, stride, ops).items():
        weights[op] = {}
        for name, shape in shapes.items():
            init = uniform(math.prod(shape[1:-1]))
            weights[op][name] = module.param(f"{op}_{name}", init, (repeats, *shape))
    return weights


def norm_sites(module: nn.Module, repeats: int, one, carry, weights, mix) -> list[dict[str, Array]]:
    """Scale, shift and running averages of the batch norms of discrete cells.

    They come in the order in which `one` applies them.
    """
    shapes = []

    def look(bundles, gains=None):
        shapes.extend((repeats, *x.shape[:-4], x.shape[-1]) for x in bundles)
        return bundles

    def look_at_the_first(carry, weights, mix):
        first = jax.tree.map(lambda w: w[0], weights)
        return one(carry, first, mix[0] if mix.ndim > 2 else mix, Norms(look, scaled))

    jax.eval_shape(look_at_the_first, carry, weights, mix)
    return [norm_variables(module, f"norm{i}_", shape) for i, shape in enumerate(shapes)]


def over_cells(
    module: Any,
    one,
    carry,
    weights,
    sites: list[dict[str, Array]],
    mix,
    train: bool,
    repeats: int,
    momentum: float = 0.1,
):
    """Applies the cells of a run, compiled once.

    Keeps the new running averages of their batch norms.

    Args:
        module: whose `axis_name`, `remat`, `unroll` and `discrete` hold, and whose variables the
          averages are.
        one: (carry, weights of a cell, its mix, norms) -> carry.
        weights: a tree with a leading axis over the cells.
        sites: of `norm_sites`.
        mix: [edges, ops], [cells, edges, ops] or [cells, edges, ops, batch].
        momentum: share of the new moments in the running averages.
    """
    per_cell = mix if mix.ndim > 2 else None

    def body(carry, xs):
        of_cell, cell_sites, cell_mix = xs
        norm = Running(cell_sites, train, module.axis_name, momentum) if module.discrete else None
        batch = functools.partial(batch_norms, axis_name=module.axis_name)
        carry = one(
            carry,
            of_cell,
            mix if cell_mix is None else cell_mix,
            Norms(norm, scaled) if norm else Norms(batch, batch),
        )
        return carry, norm.averages if norm else None

    if module.remat:
        body = jax.checkpoint(body)
    xs = (weights, sites, per_cell)
    if repeats == 1:
        carry, averages = body(carry, jax.tree.map(lambda w: w[0], xs))
        averages = jax.tree.map(lambda x: x[None], averages)
    else:
        carry, averages = lax.scan(body, carry, xs, unroll=min(module.unroll, repeats))
    if train and module.is_mutable_collection("batch_stats"):
        for i, pair in enumerate(averages or []):
            for name, value in pair.items():
                module.put_variable("batch_stats", f"norm{i}_{name}", value)
    return carry


def norm_parameters(module: nn.Module, prefix: str, shape: tuple[int, ...]) -> dict[str, Array]:
    """Scale and shift of batch norms."""
    return {
        "scale": module.param(f"{prefix}scale", ones, shape),
        "shift": module.param(f"{prefix}shift", zeros, shape),
    }


def noise_keys(
    key: Key[Array, ""] | None,
    choices: Choices,
    run: Run,
    index: int,
    axis_name: str | None,
    ops: Mapping[str, Op] = OPS,
    skip_dropout: bool = False,
) -> Key[Array, " cells"] | None:
    """A key for every cell of a network's run number `index`, one that no other device has.

    None if its cells draw nothing at random.

    Raises:
        ValueError: if there is an operation that draws at random, and no key.
    """
    drawing = random_edges(choices, ops, skip_dropout)
    if not drawing:
        return None
    if key is None:
        raise ValueError(
            f"the network has the operation {', '.join(drawing)}: its call needs a random key"
        )
    # A run's number itself is folded in for its drop path.
    return jax.random.split(
        jax.random.fold_in(of_device(key, axis_name), 1_000_000 + index), run.repeats
    )


def of_device(key: Key[Array, ""], axis_name: str | None) -> Key[Array, ""]:
    """A key that no other device of the mapped axis has: each of them has other examples."""
    return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def drop_edges(
    key: Key[Array, ""],
    rate: Float[Array, ""] | float,
    mix: Float[Array, "*cells edges ops"],
    num_cells: int,
    batch_size: int,
) -> Float[Array, "cells edges ops batch"]:
    """Drop path: a mix that leaves out every edge of every example with probability `rate`.

    Scales what stays by 1 / (1 - rate).

    An edge's operations fall together: what is dropped is their sum, identities not excepted, as in
    RobustDARTS' code (Zela et al., 2020).
    """
    kept = jax.random.bernoulli(key, 1 - rate, (num_cells, mix.shape[-2], 1, batch_size))
    every = mix[None] if mix.ndim == 2 else mix
    return every[..., None] * (kept / (1 - rate))


def norm_variables(module: nn.Module, prefix: str, shape: tuple[int, ...]) -> dict[str, Array]:
    """Variables of batch norms: scale and shift, mean and variance.

    Scale and shift are parameters; mean and variance are running averages, collection
    `batch_stats`.
    """
    values = norm_parameters(module, prefix, shape)
    for name, start in (("mean", zeros), ("variance", ones)):
        values[name] = module.variable("batch_stats", f"{prefix}{name}", start, None, shape).value
    return values


def linear(
    module: nn.Module, features: Float[Array, "batch features"], num_classes: int
) -> Float[Array, "batch classes"]:
    """A linear classifier, its weights those of `module`."""
    weight = module.param("head", uniform(features.shape[-1]), (features.shape[-1], num_classes))
    bias = module.param("head_bias", uniform(features.shape[-1]), (num_classes,))
    return computed(module, lambda x, w, b: x @ w + b[None], features, weight, bias)


class Supernet(OfMix, nn.Module):
    """The weight-sharing network of a cell space.

    It is `apply(variables, images, mix, key=None, drop_path=None, skip_dropout=None) -> logits`.

    The key is for operations that draw at random (S4's noise), anew at every call, for drop path
    and for dropout; it may be left out where there is none of them. `drop_path` is the rate, at
    least 0 and below 1, at which edges are left out, in training; None for never (`drop_edges`).
    `skip_dropout` is the rate, alike, of dropout after skip connections that do not stride
    (P-DARTS). The mix of a kind of cell may also be [cells, edges, ops], one for each of them in
    order.

    With `partial` = k operations work on the first k-th of the channels, and the others bypass them
    (PC-DARTS; `nn.cell`); it divides the width.

    With `one_path` the mix has at most one operation an edge, and no other is computed (`nn.path`).
    Then there are no partial channels, no drop path and no dropout after skip connections.

    Batch norm inside the cells has no scale and shift and always uses the moments of the batch (the
    paper; the official code switches to running averages for validation). The stem's has both a
    scale and a shift, as in the official code.

    `unroll` cells of a run are compiled apart, in a loop over the run. With two, the published
    supernet has no loop, and none of what a gradient needs is copied into one and out of it: on a
    CPU a second-order step takes a quarter less time than with one, and a sixth longer to compile.
    """

    cells: Mapping[str, Choices]
    width: int
    depth: int
    num_classes: int
    stem_multiplier: int = 3
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 2
    partial: int = 1
    ops: Mapping[str, Op] = OPS
    one_path: bool = False

    def num_cells(self) -> dict[str, int]:
        """How many cells of each kind there are."""
        kinds = [run.kind for run in runs(self.width, self.depth) for _ in range(run.repeats)]
        return {name: kinds.count(name) for name in self.cells}

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        mix: EveryMix,
        key: Key[Array, ""] | None = None,
        drop_path: Float[Array, ""] | float | None = None,
        skip_dropout: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "batch classes"]:
        if self.is_initializing() and key is None:
            key = jax.random.key(0)  # nothing is drawn from it
        if self.partial < 1 or self.width % self.partial:
            raise ValueError(f"partial is {self.partial}: it must divide the width, {self.width}")
        if self.partial > 1 and self.one_path:
            raise ValueError(f"partial is {self.partial}: must be 1 in a network with one path")
        for name, rate in (("drop_path", drop_path), ("skip_dropout", skip_dropout)):
            if rate is not None and self.one_path:
                raise ValueError(f"{name} is given: not in a network with one path")
            if rate is not None and key is None:
                raise ValueError(
                    f"{name} is given without a key: the network's call needs a random key"
                )
        stem_width = self.stem_multiplier * self.width
        kernel = self.param(
            "stem", uniform(9 * images.shape[-1]), (3, 3, images.shape[-1], stem_width)
        )
        scale = self.param("stem_scale", ones, (stem_width,))
        bias = self.param("stem_bias", zeros, (stem_width,))
        wide = jnp.promote_types(self.dtype, jnp.float32)

        def stem(images, kernel, scale, bias):
            x = lax.conv_general_dilated(
                images.astype(self.dtype),
                kernel.astype(self.dtype),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            # In float32 at least, and so are the gradients of both, sums over all pixels.
            x = batch_norm(x, axis_name=self.axis_name).astype(wide)
            return (x * scale[None, None, None] + bias[None, None, None]).astype(self.dtype)

        s0 = s1 = computed(self, stem, images, kernel, scale, bias)
        seen = dict.fromkeys(self.cells, 0)
        for i, run in enumerate(runs(self.width, self.depth)):
            choices = self.cells[run.kind]
            cells = Cells(
                choices,
                run,
                self.dtype,
                self.axis_name,
                self.remat,
                self.unroll,
                partial=self.partial,
                ops=self.ops,
                one_path=self.one_path,
                name=f"cells{i}_{run.kind}",
            )
            run_mix, first = mix[run.kind], seen[run.kind]
            seen[run.kind] += run.repeats
            if run_mix.ndim > 2:
                run_mix = run_mix[first : seen[run.kind]]
            if drop_path is not None and key is not None:
                run_key = jax.random.fold_in(of_device(key, self.axis_name), i)
                run_mix = drop_edges(run_key, drop_path, run_mix, run.repeats, images.shape[0])
            dropping = skip_dropout is not None
            keys = noise_keys(key, choices, run, i, self.axis_name, self.ops, dropping)
            s0, s1 = cells(s0, s1, run_mix, keys=keys, skip_dropout=skip_dropout)
        features = computed(self, lambda x: jnp.mean(x.astype(wide), axis=(1, 2)), s1)
        return linear(self, features, self.num_classes)
