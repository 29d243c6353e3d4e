"""Batch normalisation from one trilinear form, closed under every order of differentiation, like `depthwise`.

What a batch norm and all its derivatives do to arrays of images are the ways to leave arguments out of

    T(y, x, s, t) = sum over pixels and channels of y (s x + t),    s, t: one number a channel

namely `affine`, s x + t, and `sums`, (sum of y x, sum of y) over the pixels; the rest is arithmetic on a few numbers a channel.
Both pairs, (s, t) and the sums, are one array each, [*lead, 1, 1, 2, channels]: every array is a kernel more to compile.
As primitives they are few equations to trace however often they are differentiated, and each reads its arguments once: both
sums come from one variadic reduction, over one row of pixels first and over the rows then, the order that XLA vectorises on a
CPU (3 to 9 times faster than the reductions that JAX derives).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxdarts.nn.depthwise import mapped_first

Images = Float[Array, "*lead batch height width channels"]
EPSILON = 1e-5
"""Added to every variance, as in PyTorch."""


def moments(x: Images, axis_name: str | None = None) -> tuple[Array, Array]:
    """Mean and biased variance over batch, height and width, per channel and entry of the axes before the batch.

    Taken in float32 at least and, inside `pmap`, over all devices of `axis_name`.
    """
    return _mean_and_variance(_averages(x, axis_name))


def _averages(x: Images, axis_name: str | None) -> Array:
    """Of the squares and of the numbers themselves, a pair: [*lead, 1, 1, 2, channels]."""
    averages = _moments.bind(x) / (x.shape[-4] * x.shape[-3] * x.shape[-2])
    return averages if axis_name is None else lax.pmean(averages, axis_name)


def _mean_and_variance(averages: Array) -> tuple[Array, Array]:
    square, mean = averages[..., :1, :], averages[..., 1:, :]
    return mean, jnp.maximum(square - mean * mean, 0)


# Computed again in a backward pass: they are few, and every array of them that is kept is a kernel more to compile.
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

    `gain` multiplies the result and `shift` is added to it; as parts of one scale and shift they cost nothing, and the
    gradient of the gain comes from sums that the normalisation needs anyway. With more leading entries than `x`, the gain makes
    as many results out of one normalisation.
    """
    return _affine_of(x, _normalising(_averages(x, axis_name), gain, shift, epsilon))


class Running:
    """Batch norms with scale, shift and running averages, applied in the order of `sites`.

    Args:
        sites: {"scale", "shift", "mean", "variance"}, each [*lead, channels], for every call to come.
        train: normalise with the moments of the batch and collect the new running averages in `averages`; else with the
            running averages.
        momentum: share of the new moments, PyTorch's convention; the variance is collected unbiased, as there.
    """

    def __init__(self, sites, train: bool, axis_name: str | None = None, momentum: float = 0.1):
        self.sites, self.train, self.axis_name, self.momentum = iter(sites), train, axis_name, momentum
        self.averages: list[dict[str, Array]] = []

    def __call__(self, x: Images, gain: Array | None = None) -> Array:
        site = {name: value[..., None, None, None, :] for name, value in next(self.sites).items()}
        mean, variance = site["mean"], site["variance"]
        if self.train:
            mean, variance = moments(x, self.axis_name)
            count = x.shape[-4] * x.shape[-3] * x.shape[-2] * (lax.axis_size(self.axis_name) if self.axis_name else 1)
            new = {"mean": mean, "variance": variance * (count / max(count - 1, 1))}
            mixed = {name: (1 - self.momentum) * site[name] + self.momentum * value for name, value in new.items()}
            self.averages.append({name: jnp.squeeze(value, (-4, -3, -2)) for name, value in mixed.items()})
        scale = site["scale"] * lax.rsqrt(variance + EPSILON)
        shift = site["shift"] - mean * scale
        return affine(x, scale, shift) if gain is None else affine(x, scale * gain, shift * gain)


def affine(x: Images, scale: Array | None = None, shift: Array | None = None) -> Array:
    """scale * x + shift, with one number a channel, or one for all (size 1), of each; `x` repeats where they have more rows."""
    if scale is None:
        return x
    return _affine_of(x, scale if shift is None else _pair(scale, shift))


def _affine_of(x: Images, numbers: Array) -> Array:
    """`affine` of a scale, or of a pair of scale and shift."""
    lead = jnp.broadcast_shapes(x.shape[:-4], numbers.shape[:-4])
    numbers = jnp.broadcast_to(numbers, (*lead, 1, 1, numbers.shape[-2], x.shape[-1]))
    return _affine.bind(jnp.broadcast_to(x, (*lead, *x.shape[-4:])), numbers)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# Jitted, so that each shape is traced once; inlined, so that XLA may fuse it with what is around it.
@functools.partial(jax.jit, inline=True)
def _apply_sums(y: Array, x: Array) -> Array:
    y, x = _wide(y), _wide(x)
    zero = np.zeros((), y.dtype)
    rows = lax.reduce((y * x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (y.ndim - 2,))
    # Without the barrier XLA makes one reduction of the two.
    rows = lax.optimization_barrier(tuple(rows))
    return jnp.expand_dims(jnp.sum(jnp.stack(rows, axis=-2), axis=(-4, -3)), (-4, -3))


@functools.partial(jax.jit, inline=True)
def _apply_affine(x: Array, numbers: Array) -> Array:
    # A few numbers a channel: computed once, not wherever an element of x is scaled.
    numbers = lax.optimization_barrier(numbers)
    y = _wide(x) * numbers[..., :1, :]
    return (y + numbers[..., 1:, :] if numbers.shape[-2] == 2 else y).astype(x.dtype)


def _sums_shape(y, x):
    return jax.core.ShapedArray((*y.shape[:-4], 1, 1, 2, y.shape[-1]), jnp.promote_types(y.dtype, jnp.float32))


def _zero(tangent) -> bool:
    return type(tangent) is ad.Zero


def _weighted(pair: Array, first: float, second: float) -> Array:
    weights = np.array([first, second], pair.dtype)[:, None]
    return pair * weights.reshape((1,) * (pair.ndim - 2) + (2, 1))


def _sums_jvp(primals, tangents):
    (y, x), (dy, dx) = primals, tangents
    terms = [] if _zero(dy) else [_sums.bind(dy, x)]
    if not _zero(dx):
        terms.append(_weighted(_sums.bind(dx, y), 1, 0))
    return _sums.bind(y, x), functools.reduce(ad.add_tangents, terms)


def _sums_transpose(cotangent, y, x):
    """Of the sums as a function of their first argument: the only one that a derivative is linear in."""
    return _affine.bind(x, cotangent).astype(y.aval.dtype), None


def _moments_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _moments.bind(x), _weighted(_sums.bind(dx, x), 2, 1)


def _affine_jvp(primals, tangents):
    (x, numbers), (dx, dnumbers) = primals, tangents
    terms = [] if _zero(dx) else [_affine.bind(dx, numbers[..., :1, :])]
    if not _zero(dnumbers):
        terms.append(_affine.bind(x, dnumbers))
    return _affine.bind(x, numbers), functools.reduce(ad.add_tangents, terms)


def _affine_transpose(cotangent, x, numbers):
    """Linear in x where there is a scale only, or in the numbers."""
    if ad.is_undefined_primal(x):
        return _affine.bind(cotangent, numbers), None
    return None, _sums.bind(cotangent, x)[..., : numbers.aval.shape[-2], :]


def _batch(primitive, arguments, axes):
    return primitive.bind(*mapped_first(arguments, axes)), 0


_sums, _moments, _affine = Primitive("pixel_sums"), Primitive("pixel_moments"), Primitive("pixel_affine")
for primitive, apply, shape, derivative in (
    (_sums, _apply_sums, _sums_shape, _sums_jvp),
    (_moments, lambda x: _apply_sums(x, x), lambda x: _sums_shape(x, x), _moments_jvp),
    (_affine, _apply_affine, lambda x, numbers: x, _affine_jvp),
):
    primitive.def_impl(apply)
    primitive.def_abstract_eval(shape)
    ad.primitive_jvps[primitive] = derivative
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=False))
ad.primitive_transposes[_sums] = _sums_transpose
ad.primitive_transposes[_affine] = _affine_transpose
