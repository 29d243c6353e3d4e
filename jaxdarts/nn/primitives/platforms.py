"""The form that a platform is given, where two platforms need different ones.

`lax.platform_dependent` chooses when a program is lowered, so it traces and differentiates all
forms. In a second-order search step that is a third of the tracing. Here a form for a platform that
this process does not run on is left out.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax import lax
from jaxtyping import Array

_EVERY = contextvars.ContextVar("every platform", default=False)


@contextlib.contextmanager
def every_platform() -> Iterator[None]:
    """What is traced in this context can be lowered for platforms that are not there, TPUs say.

    Without it such a program has the same numbers, and the form of another platform. A function
    that JAX has traced before is not traced again.
    """
    token = _EVERY.set(True)
    try:
        yield
    finally:
        _EVERY.reset(token)


def per_platform(
    *arguments: Array, default: Callable[..., Array], **forms: Callable[..., Array]
) -> Array:
    """Calls the form of the platform that the program is lowered for.

    Args:
        arguments: those of every form.
        default: the form of platforms that are not named.
        forms: other forms, by the name of their platform: "cpu", "cuda", "rocm" or "tpu".
    """
    if not _EVERY.get():
        here = {"gpu": {"cuda", "rocm"}}.get(backend := jax.default_backend(), {backend})
        if here.isdisjoint(forms):
            return default(*arguments)
    return lax.platform_dependent(*arguments, default=default, **forms)
