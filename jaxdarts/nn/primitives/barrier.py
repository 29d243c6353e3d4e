"""Arrays that XLA computes once on a CPU, however many read them.

XLA fuses what makes an array into each of its readers, and then computes it again in each. On a CPU
that is slow wherever an array has many readers or a reader looks at every element many times, so
the networks name such arrays. Compilers for GPUs and TPUs weigh fusions by their cost, and a
barrier only keeps a relu or a norm out of the convolution that reads it.
"""

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def once_on_cpu(x: Array) -> Array:
    """The array itself; on a CPU it is computed once and stored, and so is its cotangent."""
    return _once.bind(x)


def _batch(arguments, axes):
    return _once.bind(*arguments), axes[0]


_once = Primitive("once_on_cpu")
_once.def_impl(jax.jit(_once.bind))
_once.def_abstract_eval(lambda x: x)
ad.deflinear(_once, lambda cotangent: [_once.bind(cotangent)])
batching.primitive_batchers[_once] = _batch
mlir.register_lowering(_once, mlir.lower_fun(lambda x: x, multiple_results=False))
mlir.register_lowering(
    _once, mlir.lower_fun(lax.optimization_barrier, multiple_results=False), platform="cpu"
)
