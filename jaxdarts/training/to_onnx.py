"""A JAX function as an ONNX model.

The function's equations are read one by one, and each has a rule (`onnx_rules`). What does not
depend on the inputs is computed at once, so that the file holds weights and little else.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxdarts.nn.primitives import plain
from jaxdarts.training import onnx_graph, onnx_rules
from jaxdarts.training.onnx_graph import Graph, Value, constant, is_size
from jaxdarts.training.onnx_rules import Unsupported, written_out


def convert(
    function: Callable[..., Any],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    facts: Mapping[str, str],
) -> Any:
    """The model of a function, an `onnx.ModelProto`.

    Args:
        function: of as many arrays as there are inputs; gives as many as there are outputs.
        inputs: shape and type of each by name; sizes may be symbolic (`jax.export`), each a plain
          name.
        outputs: names of the results.
        facts: texts that the file carries.

    Raises:
        Unsupported: if the function has an operation without a rule here, such as random numbers.
        ModuleNotFoundError: if the package `onnx` is missing; tells the pip command.
    """
    onnx_graph.package()
    closed = jax.make_jaxpr(function)(*inputs.values())
    values = {
        name: Value(tuple(like.shape), np.dtype(like.dtype), None, name)
        for name, like in inputs.items()
    }
    sizes: dict[str, tuple[str, int]] = {}
    for name, like in inputs.items():
        for axis, size in enumerate(like.shape):
            if not is_size(size):
                sizes.setdefault(str(size), (name, axis))
    graph = Graph(sizes)
    results = _closed(graph, closed, list(values.values()))
    full = [
        graph.expand(value, variable.aval.shape)
        for value, variable in zip(results, closed.jaxpr.outvars, strict=True)
    ]
    return onnx_graph.model(graph, values, dict(zip(outputs, full, strict=True)), facts)


def _closed(graph: Graph, closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """The results of a program (`ClosedJaxpr`) on values."""
    known: dict[Any, Any] = {}
    for variable, content in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        known[variable] = _content(content)
    known |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            like: Any = atom.aval
            return constant(np.asarray(atom.val, like.dtype))
        return known[atom]

    for equation in _needed(closed.jaxpr):
        results = _equation(graph, equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _needed(program: Any) -> list[Any]:
    """The equations that the results need; a network that draws nothing makes a random key too."""
    needed = {atom for atom in program.outvars if not isinstance(atom, Literal)}
    kept = []
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if not isinstance(atom, Literal))
            kept.append(equation)
    return kept[::-1]


def _content(content: Any) -> Any:
    """A constant of a program; a random key stays one, for it is no array of numbers."""
    if jax.dtypes.issubdtype(content.dtype, jax.dtypes.prng_key):
        return content
    return constant(content)


def _equation(graph: Graph, equation: Any, values: Sequence[Any]) -> Sequence[Any]:
    primitive, parameters = equation.primitive, equation.params
    shapes = [variable.aval for variable in equation.outvars]
    if primitive in plain.FORMS:
        return _by_function(graph, plain.FORMS[primitive], equation, values)
    inlined = _INLINED.get(primitive.name)
    if inlined is not None:
        return _inlined(graph, parameters[inlined], values)
    rule = onnx_rules.RULES.get(primitive.name) or _CONTROL.get(primitive.name)
    has_keys = not all(isinstance(value, Value) for value in values)
    if rule is None or has_keys or primitive.name == "gather":  # constants may be indexed anyhow
        results = _computed(graph, equation, values)
        if results is not None:
            return results
        if has_keys:
            raise Unsupported("the network draws at random: it has no translation to ONNX")
    if rule is None:
        raise Unsupported(f"the operation {primitive.name} of JAX has no translation to ONNX")
    results = rule(graph, equation, values, *shapes, **parameters)
    return results if isinstance(results, list) else [results]


def _computed(graph: Graph, equation: Any, values: Sequence[Any]) -> list[Any] | None:
    """The results of an operation on constants, by JAX; None where it has other arguments."""
    if any(isinstance(value, Value) and value.content is None for value in values):
        return None
    if not all(is_size(size) for variable in equation.outvars for size in variable.aval.shape):
        return None
    full = [
        graph.expand(value, atom.aval.shape).content if isinstance(value, Value) else value
        for value, atom in zip(values, equation.invars, strict=True)
    ]
    if any(array is None for array in full):
        return None
    results = equation.primitive.bind(*map(jax.numpy.asarray, full), **equation.params)
    return [_content(a) for a in (results if equation.primitive.multiple_results else [results])]


def _inlined(graph: Graph, program: Any, values: Sequence[Any]) -> list[Any]:
    if hasattr(program, "consts"):
        return _closed(graph, program, values)
    return _closed(graph, ClosedJaxpr(program, ()), values)


def _by_function(
    graph: Graph, function: Callable[..., Any], equation: Any, values: Sequence[Any]
) -> list[Any]:
    """The results of a primitive, by a function that says what it is."""
    likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in equation.invars]
    program = jax.make_jaxpr(lambda *arrays: function(*arrays, **equation.params))(*likes)
    return _closed(graph, program, values)


# ---------------------------------------------------------------------------------- control flow


def _platform(graph, equation, values, out, *, platforms):
    """The choice that every device has; ONNX is none of JAX' platforms."""
    return constant(np.int32(next(i for i, names in enumerate(platforms) if names is None)))


def _branch(graph, equation, values, *out, branches, **_):
    index, *arguments = values
    if index.content is None:
        raise Unsupported("a branch that depends on the input")
    return _closed(graph, branches[int(np.clip(index.content, 0, len(branches) - 1))], arguments)


def _scan(graph, equation, values, *out, length, reverse, num_consts, num_carry, jaxpr, **_):
    fixed, carry, rows = (
        values[:num_consts],
        values[num_consts : num_consts + num_carry],
        values[num_consts + num_carry :],
    )
    if is_size(length):
        return _unrolled(graph, jaxpr, fixed, carry, rows, range(length)[:: -1 if reverse else 1])
    if reverse:
        raise Unsupported("a loop that goes backwards")
    values = written_out(graph, equation, values)
    body = Graph(graph.sizes, graph)
    inputs = []
    for variable, value in zip(jaxpr.jaxpr.invars[num_consts:], values[num_consts:], strict=True):
        name = graph.new_name("of_step")
        inputs.append(Value(tuple(variable.aval.shape), value.dtype, None, name))
    results = _closed(body, jaxpr, [*fixed, *inputs])
    declared = []
    for value, variable in zip(results, jaxpr.jaxpr.outvars, strict=True):
        full = body.expand(value, variable.aval.shape)
        # A result needs a name that no input has.
        (name,) = body.add_node("Identity", [body.name_of(full)], 1)
        declared.append(full._replace(content=None, name=name))
    made = onnx_graph.package().helper.make_graph(
        body.used_nodes([value.name for value in declared]),
        graph.new_name("body"),
        [onnx_graph.declared(value.name, value) for value in inputs],
        [onnx_graph.declared(value.name, value) for value in declared],
    )
    names = graph.add_node(
        "Scan",
        [graph.name_of(value) for value in values[num_consts:]],
        len(out),
        body=made,
        num_scan_inputs=len(rows),
    )
    return [
        Value(tuple(shape.shape), np.dtype(shape.dtype), None, name)
        for shape, name in zip(out, names, strict=True)
    ]


def _unrolled(graph, program, fixed, carry, rows, order):
    """A loop of known length, step by step."""
    kept: dict[int, list[Value]] = {}
    for i in order:
        step = [
            graph.reshape(cut, cut.shape[1:])
            for cut in (row if row.shape[0] == 1 else graph.cut(row, 0, i, i + 1) for row in rows)
        ]
        results = _closed(graph, program, [*fixed, *carry, *step])
        carry, kept[i] = results[: len(carry)], results[len(carry) :]
    shapes = [variable.aval for variable in program.jaxpr.outvars[len(carry) :]]
    stacked = []
    for n, like in enumerate(shapes):
        parts = [graph.expand(kept[i][n], like.shape) for i in sorted(kept)]
        parts = [graph.reshape(part, (1, *part.shape)) for part in parts]
        shape = (len(parts), *like.shape)
        stacked.append(graph.add("Concat", parts, shape, like.dtype, axis=0))
    return [*carry, *stacked]


_INLINED: Mapping[str, str] = MappingProxyType(
    {
        "jit": "jaxpr",
        "pjit": "jaxpr",
        "closed_call": "call_jaxpr",
        "checkpoint": "jaxpr",
        "remat2": "jaxpr",
        "custom_jvp_call": "call_jaxpr",
        "custom_vjp_call": "call_jaxpr",
    }
)
"""The parameter that holds the program of a call."""

_CONTROL: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"platform_index": _platform, "cond": _branch, "scan": _scan}
)
"""The rules of operations that hold programs, of the form of `onnx_rules.RULES`."""
