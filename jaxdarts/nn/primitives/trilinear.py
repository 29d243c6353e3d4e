"""Primitives of trilinear forms T(x, w, y): each leaves one of the three arguments out.

Each is bilinear in the other two, and its transpose by an argument is the one that lacks that
argument. So one primitive, with the name of the missing argument as a parameter, is closed under
every order of differentiation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_ARGUMENTS = {"y": "xw", "w": "xy", "x": "wy"}
"""The arguments of the form that lacks one, in order."""


def primitive(
    name: str,
    shape: Callable[..., jax.core.ShapedArray],
    batch: Callable[..., tuple[Array, int]],
    apply: Callable[..., Array],
    **apply_on: Callable[..., Array],
) -> Primitive:
    """The primitive of a form; it takes two arrays, `missing` and a static `geometry`.

    Args:
        name: of the primitive, in programs and profiles.
        shape: (two arrays, missing, geometry) -> the shape of the result.
        batch: its rule for `jax.vmap`.
        apply: the form on every platform.
        apply_on: the form on a platform of that name.
    """
    form = Primitive(name)
    form.def_impl(jax.jit(form.bind, static_argnames=("missing", "geometry")))
    form.def_abstract_eval(shape)

    def transpose(position: int, cotangent: Array, *arguments, missing: str, geometry: Any) -> Any:
        names = _ARGUMENTS[missing]
        known = {missing: cotangent, names[1 - position]: arguments[1 - position]}
        lacking = names[position]
        return form.bind(
            *(known[name] for name in _ARGUMENTS[lacking]), missing=lacking, geometry=geometry
        )

    ad.defbilinear(form, functools.partial(transpose, 0), functools.partial(transpose, 1))
    batching.primitive_batchers[form] = batch
    for platform, function in {None: apply, **apply_on}.items():
        lowering = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(form, lowering, platform=platform)
    return form
