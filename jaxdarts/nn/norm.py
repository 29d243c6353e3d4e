"""Batch normalisation from one trilinear form, closed under every order of differentiation, like `depthwise`.

What a batch norm and all its derivatives do to arrays of images are the ways to leave arguments out of

    T(y, x, s, t) = sum over pixels and channels of y (s x + t),    s, t: one number a channel

namely `affine`, s x + t, and `sums`, (sum of y x, sum of y) over the pixels; the rest is arithmetic on a few numbers a channel.
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
    count = x.shape[-4] * x.shape[-3] * x.shape[-2]
    square, mean = (total / count for total in _moments.bind(x))
    if axis_name is not None:
        square, mean = lax.pmean((square, mean), axis_name)
    return mean, jnp.maximum(square - mean * mean, 0)


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
    mean, variance = moments(x, axis_name)
    scale = lax.rsqrt(variance + epsilon)
    if gain is not None:
        scale = scale * gain
    return affine(x, scale, -mean * scale if shift is None else shift - mean * scale)


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
    lead = jnp.broadcast_shapes(x.shape[:-4], scale.shape[:-4])
    numbers = [jnp.broadcast_to(s, (*lead, 1, 1, 1, x.shape[-1])) for s in (scale, shift) if s is not None]
    return _affine.bind(jnp.broadcast_to(x, (*lead, *x.shape[-4:])), *numbers)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# Jitted, so that each shape is traced once and the program calls it by name.
@jax.jit
def _apply_sums(y: Array, x: Array) -> tuple[Array, ...]:
    y, x = _wide(y), _wide(x)
    pair, zero = (y * x, y), np.zeros((), y.dtype)
    for axes in ((y.ndim - 2,), (y.ndim - 4, y.ndim - 3)):
        # Without the barrier XLA makes one reduction of the two.
        sums = lax.reduce(pair, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), axes)
        pair = lax.optimization_barrier(tuple(sums))
    return tuple(jnp.expand_dims(total, (-4, -3, -2)) for total in pair)


@jax.jit
def _apply_affine(x: Array, *numbers: Array) -> Array:
    # A few numbers a channel: computed once, not wherever an element of x is scaled.
    scale, *shift = lax.optimization_barrier(numbers)
    y = _wide(x) * scale
    return (y + shift[0] if shift else y).astype(x.dtype)


def _sums_shape(y, x):
    shape = jax.core.ShapedArray((*y.shape[:-4], 1, 1, 1, y.shape[-1]), jnp.promote_types(y.dtype, jnp.float32))
    return shape, shape


def _zero(tangent) -> bool:
    return type(tangent) is ad.Zero


def _sums_jvp(primals, tangents):
    (y, x), (dy, dx) = primals, tangents
    terms = [] if _zero(dy) else [_sums.bind(dy, x)]
    if not _zero(dx):
        product, _ = _sums.bind(dx, y)
        terms.append((product, jnp.zeros_like(product)))
    return _sums.bind(y, x), [functools.reduce(ad.add_tangents, parts) for parts in zip(*terms)]


def _sums_transpose(cotangents, y, x):
    """Of the sums as a function of their first argument: the only one that a derivative is linear in."""
    if all(map(_zero, cotangents)):
        return None, None
    scale, *shift = (ad.instantiate_zeros(c) for c in (cotangents[0], *(c for c in cotangents[1:] if not _zero(c))))
    return affine(x, scale, *shift).astype(y.aval.dtype), None


def _moments_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    product, total = _sums.bind(dx, x)
    return _moments.bind(x), [2 * product, total]


def _affine_jvp(primals, tangents):
    (x, scale, *_), (dx, *dnumbers) = primals, tangents
    terms = [] if _zero(dx) else [_affine.bind(dx, scale)]
    if not all(map(_zero, dnumbers)):
        dscale, *dshift = (ad.instantiate_zeros(d) for d in (dnumbers[0], *(d for d in dnumbers[1:] if not _zero(d))))
        terms.append(_affine.bind(x, dscale, *dshift))
    return _affine.bind(*primals), functools.reduce(ad.add_tangents, terms)


def _affine_transpose(cotangent, x, scale, *shift):
    """Linear in x, or in scale and shift together."""
    if ad.is_undefined_primal(x):
        return (_affine.bind(cotangent, scale), None)
    product, total = _sums.bind(cotangent, x)
    return (None, product, *[total for _ in shift])


def _batch(primitive, arguments, axes):
    out = primitive.bind(*mapped_first(arguments, axes))
    return (out, [0] * len(out)) if primitive.multiple_results else (out, 0)


_sums, _moments, _affine = Primitive("pixel_sums"), Primitive("pixel_moments"), Primitive("pixel_affine")
_sums.multiple_results = _moments.multiple_results = True
for primitive, apply, shape, derivative in (
    (_sums, _apply_sums, _sums_shape, _sums_jvp),
    (_moments, lambda x: _apply_sums(x, x), lambda x: _sums_shape(x, x), _moments_jvp),
    (_affine, _apply_affine, lambda x, *numbers: x, _affine_jvp),
):
    primitive.def_impl(apply)
    primitive.def_abstract_eval(shape)
    ad.primitive_jvps[primitive] = derivative
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=primitive.multiple_results))
ad.primitive_transposes[_sums] = _sums_transpose
ad.primitive_transposes[_affine] = _affine_transpose
