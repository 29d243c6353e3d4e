"""The rectifiers in the program of a function.

They are `jax.nn.relu`, `relu6`, `max(x, 0)` and `select(x > 0, x, 0)` with a constant 0. The last
is how `nn.ops` writes it.

The program is interpreted equation by equation, into jitted and rematerialised functions, functions
with a derivative of their own, and scans. `proxies.agreements` looks at what is rectified, and at
the derivatives by what comes out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat2",
    "checkpoint",
)


def rectified(
    apply: Callable[[Any, Any], Array],
    params: Any,
    images: Array,
    taps: Sequence[Array | None] | None = None,
) -> tuple[Array, list[Array]]:
    """The logits and the input of every rectifier, to whose output its tap is added.

    Args:
        apply: (params, images) -> logits.
        params, images: its arguments.
        taps: one for each rectifier, in the order of the inputs that are returned, and of their
          shapes; None for nothing.

    Raises:
        ValueError: if there are rectifiers in a while loop, a branch or another thing that cannot
            be followed, or if `apply` returns more than an array.
    """
    program = jax.make_jaxpr(apply)(params, images)
    inputs: list[Array] = []

    def rectifier(x, y):
        tap = None if taps is None else taps[len(inputs)]
        inputs.append(x)
        return y if tap is None else y + tap

    out = _evaluate(program.jaxpr, program.consts, jax.tree.leaves((params, images)), rectifier)
    if len(out) != 1:
        raise ValueError(f"apply returns {len(out)} arrays: it must return the logits alone")
    return out[0], inputs


def _evaluate(jaxpr: Jaxpr, consts: Sequence, arguments: Sequence, rectifier: Callable) -> list:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    made = _made(jaxpr)

    def read(variable):
        return variable.val if isinstance(variable, Literal) else env[variable]

    for eqn in jaxpr.eqns:
        values = [read(variable) for variable in eqn.invars]
        argument = _rectifies(eqn, made)
        if argument is not None:
            out = [rectifier(values[argument], _bind(eqn, values)[0])]
        elif not any(map(_has_rectifier, _inner(eqn))):
            out = _bind(eqn, values)
        elif eqn.primitive.name == "scan":
            out = _scan(eqn.params, values, rectifier)
        elif eqn.primitive.name in _CALLS:
            out = _evaluate(*_opened(_inner(eqn)[0]), values, rectifier)
        else:
            raise ValueError(
                f"there are rectified units in a {eqn.primitive.name}, which cannot be followed"
            )
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _scan(params, values: list, rectifier: Callable) -> list:
    """Step by step, since a rectifier in it is another layer at each."""
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs, steps = (
        values[:first],
        values[first:last],
        values[last:],
        range(params["length"]),
    )
    rows: dict[int, list] = {}
    for i in reversed(steps) if params["reverse"] else steps:
        out = _evaluate(
            *_opened(params["jaxpr"]), [*consts, *carry, *(x[i] for x in xs)], rectifier
        )
        carry, rows[i] = out[: len(carry)], out[len(carry) :]
    return [*carry, *(jnp.stack(ys) for ys in zip(*(rows[i] for i in steps)))]


def _bind(eqn: JaxprEqn, values: Sequence) -> Sequence:
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]


def _inner(eqn: JaxprEqn) -> list:
    return [
        value for value in jax.tree.leaves(eqn.params) if isinstance(value, (Jaxpr, ClosedJaxpr))
    ]


def _opened(jaxpr: Jaxpr | ClosedJaxpr) -> tuple[Jaxpr, Sequence]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _has_rectifier(jaxpr: Jaxpr | ClosedJaxpr) -> bool:
    opened = _opened(jaxpr)[0]
    made = _made(opened)
    return any(
        _rectifies(eqn, made) is not None or any(map(_has_rectifier, _inner(eqn)))
        for eqn in opened.eqns
    )


def _made(jaxpr: Jaxpr) -> dict[Any, JaxprEqn]:
    """The equation that makes each variable."""
    return {variable: eqn for eqn in jaxpr.eqns for variable in eqn.outvars}


def _is_zero(variable: Any, made: Mapping[Any, JaxprEqn]) -> bool:
    """Whether this is the constant 0, of any shape."""
    if isinstance(variable, Literal):
        return not jnp.shape(variable.val) and variable.val == 0
    eqn = made.get(variable)
    if eqn is None or eqn.primitive.name != "broadcast_in_dim":
        return False
    return _is_zero(eqn.invars[0], made)


def _rectifies(eqn: JaxprEqn, made: Mapping[Any, JaxprEqn]) -> int | None:
    """Index of the argument that an equation rectifies, None if it rectifies none.

    It is `max(x, 0)`, `select(x > 0, x, 0)`, or a call of nothing else.

    Such a call is not opened, since `jax.nn.relu` has a derivative of its own at 0.

    Args:
        eqn: the equation.
        made: of the program that it is in, `_made`.
    """
    if eqn.primitive.name == "select_n" and len(eqn.invars) == 3:
        test, low, x = eqn.invars
        above = None if isinstance(test, Literal) else made.get(test)
        if above is None or above.primitive.name != "gt" or above.invars[0] is not x:
            return None
        return 2 if _is_zero(above.invars[1], made) and _is_zero(low, made) else None
    if eqn.primitive.name == "max":
        zero = [isinstance(v, Literal) and not jnp.shape(v.val) and v.val == 0 for v in eqn.invars]
        return zero.index(False) if sum(zero) == 1 else None
    inner = _inner(eqn)
    if eqn.primitive.name not in _CALLS or len(inner) != 1:
        return None
    jaxpr, _ = _opened(inner[0])
    argument = _rectifies(jaxpr.eqns[0], {}) if len(jaxpr.eqns) == 1 else None
    x = None if argument is None else jaxpr.eqns[0].invars[argument]
    return jaxpr.invars.index(x) if x in jaxpr.invars else None
