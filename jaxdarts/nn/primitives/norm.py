"""Batch normalisation from one trilinear form, closed under every order of differentiation.

`depthwise` is built alike.

What batch norms and all their derivatives do to arrays of images are the ways to leave arguments
out of

    T(y, x, s, t) = sum over pixels and channels of y (s x + t),    s, t: one number a channel

namely `affine`, s x + t, and `sums`, (sum of y x, sum of y) over the pixels; the rest is arithmetic
on a few numbers a channel. Both pairs, (s, t) and the sums, are one array each, [*lead, 1, 1, 2,
channels], for several arrays of images at once (their edges side by side): every array is a kernel
more to compile. As primitives they are few equations to trace however often they are
differentiated, and each reads its arguments once: both sums come from one variadic reduction, over
one row of pixels first and over the rows then, the order that XLA vectorises on a CPU (3 to 9 times
faster than the reductions that JAX derives).
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.depthwise import kept, mapped_first, wide

Images = Float[Array, "*lead batch height width channels"]
Bundle = Float[Array, "*lead edges batch height width channels"]
EPSILON = 1e-5
"""Added to every variance, as in PyTorch."""


def moments(x: Images, axis_name: str | None = None) -> tuple[Array, Array]:
    """Mean and biased variance over batch, height and width.

    They are per channel and entry of the axes before the batch.

    Taken in float32 at least and, inside `pmap`, over all devices of `axis_name`.
    """
    z, origin = _centred(x, axis_name)
    mean, variance = _mean_and_variance(_averages([z], axis_name))
    return mean if origin is None else mean + origin, variance


def _centred(x: Images, axis_name: str | None) -> tuple[Images, Array | None]:
    """The images less one of their pixels, and that pixel.

    A variance is the mean square less the squared mean, of which nothing is left in single
    precision where the mean is a thousand deviations. It is the same around any origin, and around
    a pixel the two are as small as it is. To derivatives the origin is a constant: normalised
    images do not depend on it. It comes from the middle, since a padded convolution has other means
    at the border. Half precision holds no such means; its sums are single.
    """
    if jnp.finfo(x.dtype).bits < 32:
        return x, None
    row, column = x.shape[-3] // 2, x.shape[-2] // 2
    origin = lax.stop_gradient(x[..., :1, row : row + 1, column : column + 1, :])
    if axis_name is not None:
        origin = lax.pmean(origin, axis_name)
    origin = once_on_cpu(origin)
    return x - origin, origin


def _averages(bundles: Sequence[Images], axis_name: str | None) -> Array:
    """Means of half the squares and of the numbers, a pair: [*lead, 1, 1, 2, channels]."""
    averages = _moments.bind(*bundles) / math.prod(bundles[0].shape[-4:-1])
    return averages if axis_name is None else lax.pmean(averages, axis_name)


def _mean_and_variance(averages: Array) -> tuple[Array, Array]:
    half_square, mean = lax.split(averages, [1, 1], axis=averages.ndim - 2)
    variance = 2 * half_square - mean * mean
    # A selection, and no maximum: derivatives of that are five times as many instructions.
    return mean, lax.select(variance > 0, variance, lax.full_like(variance, 0))


# Computed again in a backward pass: they are few, and every array of them that is kept is a kernel
# more to compile.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(3,))
def _normalising(averages: Array, gain: Array | None, shift: Array | None, epsilon: float) -> Array:
    """The scale and the shift that a batch norm comes to, as a pair."""
    mean, variance = _mean_and_variance(averages)
    scale = lax.rsqrt(variance + epsilon)
    if gain is not None:
        scale = scale * gain
    return _pair(scale, -mean * scale if shift is None else shift - mean * scale)


def _pair(scale: Array, shift: Array) -> Array:
    """Two numbers a channel in one array, along the width."""
    lead = jnp.broadcast_shapes(scale.shape, shift.shape)
    return jnp.concatenate([jnp.broadcast_to(scale, lead), jnp.broadcast_to(shift, lead)], axis=-2)


def batch_norm(
    x: Images,
    gain: Array | None = None,
    shift: Array | None = None,
    *,
    axis_name: str | None = None,
    epsilon: float = EPSILON,
) -> Array:
    """Normalises with the `moments` of the batch.

    `gain` multiplies the result and `shift` is added to it; as parts of one scale and shift they
    cost nothing, and the gradient of the gain comes from sums that the normalisation needs anyway.
    With more leading entries than `x`, the gain makes as many results out of one normalisation.
    """
    x, _ = _centred(x, axis_name)
    numbers = _normalising(_averages([x], axis_name), gain, shift, epsilon)
    return _affine_of([jnp.broadcast_to(x, (*numbers.shape[:-4], *x.shape[-4:]))], numbers)[0]


def batch_norms(
    bundles: Sequence[Bundle], gains: Sequence[Array] | None = None, *, axis_name: str | None = None
) -> list[Bundle]:
    """`batch_norm` of each of some bundles, which differ in their number of edges only.

    A gain has as many edges as its result, and its bundle has as many or one that they share. What
    is arithmetic on a few numbers a channel is done for all bundles at once: a program takes the
    longer to compile the more instructions it has.
    """
    bundles = [_centred(x, axis_name)[0] for x in bundles]
    averages = _averages(bundles, axis_name)
    if gains is None:
        return _affine_of(bundles, _normalising(averages, None, None, EPSILON))
    leads = [gain.shape[:-4] for gain in gains]
    if leads != [x.shape[:-4] for x in bundles]:
        parts = [
            jnp.broadcast_to(a, (*lead, *a.shape[-4:]))
            for a, lead in zip(_parted(averages, bundles), leads)
        ]
        averages = _joined(parts)
        bundles = [jnp.broadcast_to(x, (*lead, *x.shape[-4:])) for x, lead in zip(bundles, leads)]
    return _affine_of(bundles, _normalising(averages, _joined(gains), None, EPSILON))


def scaled(bundles: Sequence[Bundle], gains: Sequence[Array] | None = None) -> list[Bundle]:
    """No norm, the gains alone."""
    return list(bundles) if gains is None else [affine(x, gain) for x, gain in zip(bundles, gains)]


class Running:
    """Batch norms with scale, shift and running averages, applied in the order of `sites`.

    Args:
        sites: {"scale", "shift", "mean", "variance"}, each [*lead, channels], for every call to
          come.
        train: normalise with the moments of the batch and collect the new running averages in
            `averages`; else with the running averages.
        momentum: share of the new moments, PyTorch's convention; the variance is collected
          unbiased, as there.
    """

    def __init__(self, sites, train: bool, axis_name: str | None = None, momentum: float = 0.1):
        self.sites, self.train, self.axis_name, self.momentum = (
            iter(sites),
            train,
            axis_name,
            momentum,
        )
        self.averages: list[dict[str, Array]] = []

    def __call__(
        self, bundles: Sequence[Images], gains: Sequence[Array] | None = None
    ) -> list[Array]:
        return [self.one(x, gain) for x, gain in zip(bundles, gains or [None] * len(bundles))]

    def one(self, x: Images, gain: Array | None = None) -> Array:
        site = {name: value[..., None, None, None, :] for name, value in next(self.sites).items()}
        mean, variance = site["mean"], site["variance"]
        if self.train:
            x, origin = _centred(x, self.axis_name)
            mean, variance = _mean_and_variance(_averages([x], self.axis_name))
            count = (
                x.shape[-4]
                * x.shape[-3]
                * x.shape[-2]
                * (lax.axis_size(self.axis_name) if self.axis_name else 1)
            )
            new = {
                "mean": mean if origin is None else mean + origin,
                "variance": variance * (count / max(count - 1, 1)),
            }
            mixed = {
                name: (1 - self.momentum) * site[name] + self.momentum * value
                for name, value in new.items()
            }
            self.averages.append(
                {name: jnp.squeeze(value, (-4, -3, -2)) for name, value in mixed.items()}
            )
        scale = site["scale"] * lax.rsqrt(variance + EPSILON)
        shift = site["shift"] - mean * scale
        return affine(x, scale, shift) if gain is None else affine(x, scale * gain, shift * gain)


def affine(x: Images, scale: Array | None = None, shift: Array | None = None) -> Array:
    """Affine map scale * x + shift, with one number a channel, or one for all (size 1), of each.

    `x` repeats where they have more rows.
    """
    if scale is None:
        return x
    numbers = scale if shift is None else _pair(scale, shift)
    lead = jnp.broadcast_shapes(x.shape[:-4], numbers.shape[:-4])
    return _affine_of(
        [jnp.broadcast_to(x, (*lead, *x.shape[-4:]))],
        jnp.broadcast_to(numbers, (*lead, *numbers.shape[-4:])),
    )[0]


def _affine_of(bundles: Sequence[Images], numbers: Array) -> list[Array]:
    """`affine` of a scale, or of a pair of scale and shift.

    Those of the bundles' edges lie side by side.
    """
    numbers = jnp.broadcast_to(numbers, (*numbers.shape[:-1], bundles[0].shape[-1]))
    return _affine.bind(*bundles, numbers, shifted=numbers.shape[-2] == 2)


@jax.jit
def _total_on_cpu(rows: Sequence[tuple[Array, Array]]) -> Array:
    """Adds up pairs of sums over every row of pixels, one pair for each array of images."""
    # Without the barrier XLA makes one reduction of the two.
    rows = lax.optimization_barrier(rows)
    return _joined(
        [
            jnp.expand_dims(jnp.sum(jnp.stack(pair, axis=-2), axis=(-4, -3)), (-4, -3))
            for pair in rows
        ]
    )


def _total(images: Sequence[tuple[Array, Array]]) -> Array:
    """The sums over all images, from pairs of sums over every image of each array.

    One kernel serves all arrays.
    """
    pairs = [jnp.stack(pair, axis=-2) for pair in images]
    joined = pairs[0] if len(pairs) == 1 else lax.concatenate(pairs, pairs[0].ndim - 4)
    return jnp.expand_dims(jnp.sum(joined, axis=-3), (-4, -3))


# Jitted, so that each shape is traced once; inlined, so that XLA may fuse it with what is around
# it.
@functools.partial(jax.jit, inline=True, static_argnames=("axes", "total"))
def _apply_sums(
    *arrays: Array, axes: tuple[int, ...] = (-3, -2), total: Callable = _total
) -> Array:
    """The sums of y x and of y, for arrays y, ... and as many arrays x, ...

    Sums are over some axes first, over the others then.

    XLA would cut a reduction over all axes in two anyway, and those of the two sums apart.
    """
    arrays = tuple(wide(a) for a in arrays)
    half, add = len(arrays) // 2, lambda a, b: (a[0] + b[0], a[1] + b[1])
    zero, axes = np.zeros((), arrays[0].dtype), tuple(arrays[0].ndim + axis for axis in axes)
    return total(
        [
            lax.reduce((y * x, y), (zero, zero), add, axes)
            for y, x in zip(arrays[:half], arrays[half:])
        ]
    )


def _of_one(sums: Callable) -> Callable:
    """Sums of halved squares from a function for sums of products.

    In this measure the derivative is `_sums` of a tangent and x.
    """
    return lambda *arrays: _weighted(sums(*arrays, *arrays), 0.5, 1)


@functools.partial(jax.jit, inline=True, static_argnames="shifted")
def _apply_affine(*arguments: Array, shifted: bool) -> list[Array]:
    *arrays, numbers = arguments
    # A few numbers a channel: computed once, not wherever an element of x is scaled.
    parts = _parted(once_on_cpu(numbers), arrays)
    results = [wide(x) * part[..., :1, :] for x, part in zip(arrays, parts)]
    if shifted:
        results = [y + part[..., 1:, :] for y, part in zip(results, parts)]
    return [y.astype(x.dtype) for x, y in zip(arrays, results)]


def _joined(arrays: Sequence[Array]) -> Array:
    """Side by side along the edges, the axis before the batch."""
    return arrays[0] if len(arrays) == 1 else lax.concatenate(arrays, arrays[0].ndim - 5)


def _parted(numbers: Array, arrays: Sequence[Array]) -> Sequence[Array]:
    if len(arrays) == 1:
        return [numbers]
    return lax.split(numbers, [x.shape[-5] for x in arrays], axis=numbers.ndim - 5)


def _moments_shape(*arrays):
    first = arrays[0]
    edges = (sum(x.shape[-5] for x in arrays),) if first.ndim > 4 else ()
    shape = (*first.shape[:-5], *edges, 1, 1, 2, first.shape[-1])
    return jax.core.ShapedArray(shape, jnp.promote_types(first.dtype, jnp.float32))


def _sums_shape(*arrays):
    return _moments_shape(*arrays[: len(arrays) // 2])


def _affine_shape(*arguments, shifted):
    return list(arguments[:-1])


def _zero(tangent) -> bool:
    return type(tangent) is ad.Zero


def _weighted(pair: Array, first: float, second: float) -> Array:
    weights = np.array([first, second], pair.dtype)[:, None]
    return pair * weights.reshape((1,) * (pair.ndim - 2) + (2, 1))


def _arrays(tangents) -> list[Array]:
    return [ad.instantiate_zeros(tangent) for tangent in tangents]


def _sums_jvp(primals, tangents):
    half = len(primals) // 2
    (y, x), (dy, dx) = ((arguments[:half], arguments[half:]) for arguments in (primals, tangents))
    terms = [] if all(map(_zero, dy)) else [_sums.bind(*_arrays(dy), *x)]
    if not all(map(_zero, dx)):
        terms.append(_weighted(_sums.bind(*_arrays(dx), *y), 1, 0))
    return _sums.bind(*primals), functools.reduce(ad.add_tangents, terms)


def _sums_transpose(cotangent, *arguments):
    """Transpose of the sums as a function of their first arguments.

    They are the only ones that a derivative is linear in, in all of them or in some.
    """
    half = len(arguments) // 2
    cotangents = _affine.bind(*arguments[half:], cotangent, shifted=True)
    return [*_of_linear(cotangents, arguments[:half]), *[None] * half]


def _of_linear(cotangents, arguments) -> list[Array | None]:
    """The cotangents of arguments in which a function is linear, None for those held fixed."""
    return [
        new.astype(old.aval.dtype) if ad.is_undefined_primal(old) else None
        for new, old in zip(cotangents, arguments, strict=True)
    ]


def _moments_jvp(primals, tangents):
    return _moments.bind(*primals), _sums.bind(*_arrays(tangents), *primals)


def _affine_jvp(primals, tangents, *, shifted: bool):
    (*arrays, numbers), (*moved, dnumbers) = primals, tangents
    terms = (
        [] if all(map(_zero, moved)) else [_affine.bind(*_arrays(moved), numbers, shifted=False)]
    )
    if not _zero(dnumbers):
        terms.append(_affine.bind(*arrays, dnumbers, shifted=shifted))
    return _affine.bind(*primals, shifted=shifted), [
        functools.reduce(ad.add_tangents, summands) for summands in zip(*terms)
    ]


def _affine_transpose(cotangents, *arguments, shifted: bool):
    """Linear in arrays, in all or in some, where nothing is added; or in the numbers."""
    *arrays, numbers = arguments
    cotangents = _arrays(cotangents)
    if not ad.is_undefined_primal(numbers):
        return [*_of_linear(_affine.bind(*cotangents, numbers, shifted=False), arrays), None]
    sums = _sums.bind(*cotangents, *arrays)
    if numbers.aval.shape[-2] == 1:
        sums = sums[..., :1, :]
    elif not shifted:
        sums = _weighted(sums, 1, 0)
    return [None] * len(arrays) + [sums]


def _batch(primitive, arguments, axes, **parameters):
    results = primitive.bind(*mapped_first(arguments, axes), **parameters)
    return results, [0] * len(results) if primitive.multiple_results else 0


_sums, _moments, _affine = (
    Primitive("pixel_sums"),
    Primitive("pixel_moments"),
    Primitive("pixel_affine"),
)
_affine.multiple_results = True
for primitive, apply, shape, derivative in (
    (_sums, _apply_sums, _sums_shape, _sums_jvp),
    (_moments, _of_one(_apply_sums), _moments_shape, _moments_jvp),
    (_affine, _apply_affine, _affine_shape, _affine_jvp),
):
    primitive.def_impl(
        jax.jit(primitive.bind, static_argnames="shifted" if primitive is _affine else ())
    )
    primitive.def_abstract_eval(shape)
    ad.primitive_jvps[primitive] = derivative
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(
        primitive, mlir.lower_fun(apply, multiple_results=primitive.multiple_results)
    )
on_cpu = functools.partial(
    _apply_sums, axes=(-2,), total=kept(_total_on_cpu)
)  # an order that vectorises
for primitive, apply in ((_sums, on_cpu), (_moments, _of_one(on_cpu))):
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=False), platform="cpu")
ad.primitive_transposes[_sums] = _sums_transpose
ad.primitive_transposes[_affine] = _affine_transpose
