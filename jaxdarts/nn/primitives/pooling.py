"""Max pooling whose gradient gathers: closed under every order of differentiation.

`depthwise` is closed alike.

The maximum of a window is a choice of one of its nine positions. With the choices held fixed,
pooling is linear in its input, and so is its transpose; both are written as nine shifted
selections, which XLA fuses into one loop. Differentiating the selections themselves would scatter
through padding instead (several times slower in a cell on a CPU).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.depthwise import kept, mapped_first

_TAPS = [(i, j) for i in range(3) for j in range(3)]


def _windows(x: Array, fill, stride: int, height: int, width: int) -> list[Array]:
    """The input under each of the nine taps of a 3x3 window with padding 1.

    They are nine arrays [..., height, width, channels].
    """
    x = lax.pad(
        x, np.array(fill, x.dtype), [(0, 0, 0)] * (x.ndim - 3) + [(1, 1, 0), (1, 1, 0), (0, 0, 0)]
    )
    return [
        x[
            ...,
            i : i + stride * (height - 1) + 1 : stride,
            j : j + stride * (width - 1) + 1 : stride,
            :,
        ]
        for i, j in _TAPS
    ]


def max_pool(
    x: Float[Array, "*batch height width channels"], stride: int
) -> Float[Array, "*batch out_height out_width channels"]:
    """The maximum of every 3x3 window, padding 1.

    On a tie the gradient goes to the first maximum alone, as in PyTorch.
    """
    winner = _winner.bind(lax.stop_gradient(x), stride=stride)
    return once_on_cpu(
        _choose.bind(x, winner, stride=stride, size=x.shape[-3:-1], transposed=False)
    )


def max_pool_2x2(
    x: Float[Array, "*batch height width channels"],
) -> Float[Array, "*batch half_height half_width channels"]:
    """The maximum of every 2x2 window, side by side: a plain reduction.

    On a tie the gradient is shared.

    Raises:
        ValueError: if height or width is odd.
    """
    height, width, channels = x.shape[-3:]
    if height % 2 or width % 2:
        raise ValueError(
            f"a 2x2 pooling of a {height}x{width} state: height and width must be even before every"
            " reduction"
        )
    return jnp.max(x.reshape(*x.shape[:-3], height // 2, 2, width // 2, 2, channels), axis=(-4, -2))


@functools.partial(jax.jit, static_argnames="stride")
def _first_maximum(x: Array, *, stride: int) -> Array:
    """Index of the first maximum among the nine positions of every window."""
    windows = _windows(x, -jnp.inf, stride, *(-(-n // stride) for n in x.shape[-3:-1]))
    best, winner = windows[0], jnp.zeros(windows[0].shape, jnp.int8)
    for i, window in enumerate(windows[1:], 1):
        winner = lax.select(window > best, lax.full_like(winner, i), winner)
        best = jnp.maximum(window, best)
    return winner


@functools.partial(jax.jit, static_argnames=("stride", "size", "transposed"))
def _gather(
    x: Array, winner: Array, *, stride: int, size: tuple[int, int], transposed: bool
) -> Array:
    winner = once_on_cpu(winner)
    if not transposed:
        windows = _windows(x, 0, stride, *winner.shape[-3:-1])
        return functools.reduce(
            jnp.add,
            [lax.select(winner == i, w, lax.full_like(w, 0)) for i, w in enumerate(windows)],
        )
    # Input position p lies under tap t of the window centred at p + (1, 1) - t: seen from the
    # input, the taps are reversed.
    gaps = [(0, 0, 0)] * (x.ndim - 3) + [
        (0, n - stride * (m - 1) - 1, stride - 1) for n, m in zip(size, x.shape[-3:-1])
    ]
    spread = lax.pad(x, np.zeros((), x.dtype), [*gaps, (0, 0, 0)])
    chosen = lax.pad(winner, np.int8(-1), [*gaps, (0, 0, 0)])
    pairs = zip(_windows(spread, 0, 1, *size), _windows(chosen, -1, 1, *size))
    return functools.reduce(
        jnp.add, [lax.select(c == 8 - i, w, lax.full_like(w, 0)) for i, (w, c) in enumerate(pairs)]
    )


def _transpose(cotangent, x, winner, *, transposed, **params):
    return _choose.bind(cotangent, winner, transposed=not transposed, **params), None


def _shape(x, winner, *, stride, size, transposed):
    height, width = size if transposed else winner.shape[-3:-1]
    return jax.core.ShapedArray((*x.shape[:-3], height, width, x.shape[-1]), x.dtype)


def _winner_shape(x, *, stride):
    height, width = (-(-n // stride) for n in x.shape[-3:-1])
    return jax.core.ShapedArray((*x.shape[:-3], height, width, x.shape[-1]), jnp.int8)


def _batch(primitive, arguments, axes, **params):
    return primitive.bind(*mapped_first(arguments, axes), **params), 0


# Primitives are one equation each to trace, however often they are differentiated.
_winner, _choose = Primitive("max_pool_winner"), Primitive("max_pool_choose")
for primitive, apply, shape in (
    (_winner, _first_maximum, _winner_shape),
    (_choose, _gather, _shape),
):
    primitive.def_impl(apply)
    primitive.def_abstract_eval(shape)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(kept(apply), multiple_results=False), platform="cpu"
    )
ad.defjvp(
    _choose, lambda tangent, x, winner, **params: _choose.bind(tangent, winner, **params), None
)
ad.primitive_transposes[_choose] = _transpose
