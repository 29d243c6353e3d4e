"""Gradients of one loss that a search step takes several times are compiled once.

XLA copies every call into its caller. The second-order step of DARTS takes gradients on the
training batch, on the validation batch and on the training batch again, so most of it would be
compiled three times. `with_gradients` makes every gradient of a loss a call of one jitted function,
and `folded` makes one loop of the equal calls of a program,

    a = f(x); y = g(a); b = f(y); z = h(a, b)    ->    for i in 0, 1: input = [x, g(output)][i];
    output = f(input); z = h(...)

each round of which works out its input from the outputs before. What is computed stays the same,
and so does the time it takes; the step of the published supernet has a third fewer instructions.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.extend.core.primitives import jit_p

from jaxdarts.types import Objective

_NAME = "loss_and_gradients"


def with_gradients(objective: Objective) -> Objective:
    """The objective, with its derivatives by weights and mix in one jitted function.

    That is a function of value and gradient.

    The derivative of a scalar along a tangent is their product with its gradient, so nothing is
    lost for derivatives of any order. What the objective returns besides the loss counts as
    constant.
    """

    objective = jax.jit(objective)  # traced once

    def loss_and_gradients(by, *arguments):
        return jax.value_and_grad(objective, argnums=by, has_aux=True)(*arguments)

    loss_and_gradients = jax.jit(loss_and_gradients, static_argnums=0)

    @jax.custom_jvp
    def loss(*arguments) -> Any:
        return objective(*arguments)

    def jvp(arguments, tangents):
        moved = [
            any(not isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangent))
            for tangent in tangents
        ]
        if any(moved[2:]):
            raise TypeError("the loss of a search has derivatives by its weights and its mix only")
        # Beside the gradient by the weights that by the mix costs next to nothing, and one program
        # serves both purposes.
        by = (0, 1) if moved[0] else (1,)
        (value, aux), gradients = loss_and_gradients(by, *arguments)
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves([tangents[i] for i in by]))
        terms = [jnp.sum(gradient * t) for gradient, t in pairs if not isinstance(t, SymbolicZero)]
        return (value, aux), (functools.reduce(jnp.add, terms), jax.tree.map(zero_from_primal, aux))

    loss.defjvp(jvp, symbolic_zeros=True)
    return loss


def folded(function: Callable) -> Callable:
    """The function, with equal calls of gradients (`with_gradients`) as one loop.

    They are those of which there are the most.
    """

    def fold(*arguments: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves, calls = jax.tree.leaves(arguments), _equal_calls(program.jaxpr)
        results = (
            _looped(program, calls, leaves) if len(calls) > 1 else jaxpr_as_fun(program)(*leaves)
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return fold


def _equal_calls(jaxpr: Jaxpr) -> list[JaxprEqn]:
    groups: dict[int, list[JaxprEqn]] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive is jit_p and eqn.params["name"] == _NAME:
            groups.setdefault(id(eqn.params["jaxpr"]), []).append(eqn)
    return max(groups.values(), key=len, default=[])


def _looped(program: ClosedJaxpr, calls: Sequence[JaxprEqn], arguments: Sequence[Any]) -> list[Any]:
    """The results of a program, its calls of one function in a loop.

    Everything else comes as early as it can.
    """
    jaxpr, last = program.jaxpr, len(calls)
    stage = dict.fromkeys(
        [*jaxpr.constvars, *jaxpr.invars], 0
    )  # of a variable: how many of the calls it waits for
    stages: list[list[JaxprEqn]] = [[] for _ in range(last + 1)]
    number = 0
    for eqn in jaxpr.eqns:
        if number < last and eqn is calls[number]:
            number += 1
            stage |= dict.fromkeys(eqn.outvars, number)
        else:
            latest = max((stage[v] for v in eqn.invars if not isinstance(v, Literal)), default=0)
            stage |= dict.fromkeys(eqn.outvars, latest)
            stages[latest].append(eqn)

    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments]))
    known = _evaluated(jaxpr, stages[0], known)
    readers = (
        [(last, jaxpr)]
        + [(i, eqn) for i, eqns in enumerate(stages) for eqn in eqns]
        + list(enumerate(calls))
    )
    read = [
        (i, v)
        for i, reader in readers
        for v in (reader.outvars if reader is jaxpr else reader.invars)
    ]
    # What a round leaves to rounds after the next one's start, or to the end.
    kept = list(
        dict.fromkeys(
            v for i, v in read if not isinstance(v, Literal) and 0 < stage[v] < min(i, last)
        )
    )

    def prepare(i: int, outputs, slots):
        """The inputs of a call, from the outputs of the one before and from what is kept."""
        values = known | dict(zip(kept, slots))
        if i > 0:
            values |= dict(zip(calls[i - 1].outvars, outputs))
            values = _evaluated(jaxpr, stages[i], values)
        slots = [values[v] if stage[v] == i else slot for v, slot in zip(kept, slots)]
        return [_value(v, values) for v in calls[i].invars], slots

    def round(carry, i):
        inputs, slots = lax.switch(i, [functools.partial(prepare, i) for i in range(last)], *carry)
        values = _evaluated(jaxpr, calls[:1], dict(zip(calls[0].invars, inputs)))
        return ([values[v] for v in calls[0].outvars], slots), None

    def blank(variables):
        return [jnp.empty(v.aval.shape, v.aval.dtype) for v in variables]

    start = (blank(calls[0].outvars), blank(kept))
    (outputs, slots), _ = lax.scan(round, start, jnp.arange(last))
    known |= dict(zip(kept, slots)) | dict(zip(calls[-1].outvars, outputs))
    known = _evaluated(jaxpr, stages[last], known)
    return [_value(v, known) for v in jaxpr.outvars]


def _value(atom: Any, known: dict) -> Any:
    return atom.val if isinstance(atom, Literal) else known[atom]


def _evaluated(jaxpr: Jaxpr, eqns: Sequence[JaxprEqn], known: dict) -> dict:
    """All values that are known, and those that some equations of a program define."""
    made = dict.fromkeys(v for eqn in eqns for v in eqn.outvars)
    read = {
        v: None for eqn in eqns for v in eqn.invars if not isinstance(v, Literal) and v not in made
    }
    part = jaxpr.replace(constvars=(), invars=list(read), outvars=list(made), eqns=eqns)
    return known | dict(zip(made, jaxpr_as_fun(ClosedJaxpr(part, ()))(*(known[v] for v in read))))
