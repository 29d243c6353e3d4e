"""An ONNX graph under construction, whose constants are computed at once.

It uses one operator set; files of it are read by ONNX Runtime since version 1.14.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdarts.data.optional import require

OPSET, FORMAT = 18, 8
"""Versions of the operators and of the file format."""


def package() -> Any:
    """The package `onnx`; ModuleNotFoundError with the pip command where it is missing."""
    require("onnx", '"jaxdarts[onnx]"', "a file for ONNX")
    import onnx

    return onnx


def is_size(size: Any) -> bool:
    """Whether the size of an axis is a number, not a symbol."""
    return isinstance(size, (int, np.integer))


class Value(NamedTuple):
    """A constant, or a tensor of the graph.

    shape: [axes]; an axis of a tensor may be symbolic. An axis of size 1 may stand for more,
      all of them equal, as in broadcasting.
    dtype: of the elements.
    content: the constant itself; None for a tensor.
    name: of a tensor; "" for a constant.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    content: np.ndarray | None = None
    name: str = ""


def constant(content: Any) -> Value:
    array = np.asarray(content)
    return Value(array.shape, array.dtype, array)


def is_all(value: Value, number: float) -> bool:
    """Whether a value is a constant, and every element of it the number."""
    return value.content is not None and bool((value.content == number).all())


class Graph:
    """Nodes of a graph or of a loop's body, which sees the tensors of the graph around it.

    Args:
        sizes: the graph's symbolic sizes by name; each is given by (the name of an input, its
          axis).
        around: the graph that this one is the body of a loop in.
    """

    def __init__(self, sizes: Mapping[str, tuple[str, int]], around: "Graph | None" = None):
        self.sizes, self.nodes = sizes, []
        self.names = around.names if around else itertools.count()
        self.initializers: dict[str, Any] = around.initializers if around else {}
        self.known: dict[str, Value] = {}
        self.comparisons: dict[str, Value] = {}  # what each tensor `x > 0` was made of

    def new_name(self, kind: str) -> str:
        return f"{kind}_{next(self.names)}"

    def name_of(self, value: Value) -> str:
        """The name of a value's tensor; a constant becomes a part of the file."""
        if value.content is None:
            return value.name
        name = self.new_name("constant")
        content = np.ascontiguousarray(value.content).reshape(value.content.shape)
        self.initializers[name] = package().numpy_helper.from_array(content, name)
        return name

    def add(
        self,
        kind: str,
        inputs: Sequence[Value],
        shape: Sequence[Any],
        dtype: Any,
        **attributes: Any,
    ) -> Value:
        """The result of an operator; computed here where all of its inputs are constants."""
        contents = [value.content for value in inputs]
        if kind in _CONSTANTS and all(content is not None for content in contents):
            with np.errstate(all="ignore"):
                result = np.asarray(_CONSTANTS[kind](*contents, **attributes))
            return constant(result.astype(dtype, copy=False))
        (name,) = self.add_node(kind, [self.name_of(value) for value in inputs], 1, **attributes)
        return Value(tuple(shape), np.dtype(dtype), None, name)

    def add_node(
        self, kind: str, inputs: Sequence[str], results: int, **attributes: Any
    ) -> list[str]:
        outputs = [self.new_name(kind.lower()) for _ in range(results)]
        self.nodes.append(package().helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def size(self, name: str) -> Value:
        """A symbolic size, [1]."""
        if name not in self.known:
            tensor, axis = self.sizes[name]
            (shape,) = self.add_node("Shape", [tensor], 1, start=axis, end=axis + 1)
            self.known[name] = Value((1,), np.dtype(np.int64), None, shape)
        return self.known[name]

    def sizes_of(self, shape: Sequence[Any]) -> Value:
        """A shape as a tensor; -1 for one axis whose size is a formula.

        Raises:
            ValueError: if more than one axis is.
        """
        parts: list[Value] = []
        formulas = 0
        for size in shape:
            if is_size(size):
                parts.append(constant(np.array([size], np.int64)))
            elif str(size) in self.sizes:
                parts.append(self.size(str(size)))
            else:
                formulas += 1
                parts.append(constant(np.array([-1], np.int64)))
        if formulas > 1:
            raise ValueError(f"the shape {tuple(map(str, shape))} has two sizes that are formulas")
        if not parts:
            return constant(np.zeros(0, np.int64))
        return self.add("Concat", parts, (len(parts),), np.int64, axis=0)

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        if tuple(value.shape) == tuple(shape):
            return value
        symbolic = [size for size in shape if not is_size(size)]
        if len(symbolic) == 1:
            sizes = constant(
                np.array(
                    [size if is_size(size) else -1 for size in shape],
                    np.int64,
                )
            )
        else:
            sizes = self.sizes_of(shape)
        return self.add("Reshape", [value, sizes], shape, value.dtype)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        if list(axes) == list(range(len(axes))):
            return value
        shape = [value.shape[axis] for axis in axes]
        return self.add("Transpose", [value], shape, value.dtype, perm=list(axes))

    def expand(self, value: Value, shape: Sequence[Any]) -> Value:
        """The value with the axes that stand for more written out."""
        if tuple(value.shape) == tuple(shape):
            return value
        wanted = [1 if old == new else new for old, new in zip(value.shape, shape, strict=True)]
        sizes = self.sizes_of(wanted)
        if sizes.content is not None and value.content is not None:
            return constant(np.broadcast_to(value.content, tuple(shape)))
        return self.add("Expand", [value, sizes], shape, value.dtype)

    def cut(self, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        """A part along one axis; whatever stands for more is the same in every part."""
        size = value.shape[axis]
        count = len(range(start, end, step))
        if size == 1 and (start, end) != (0, 1):
            return value
        shape = (*value.shape[:axis], count, *value.shape[axis + 1 :])
        numbers = [constant(np.array([n], np.int64)) for n in (start, end, axis, step)]
        return self.add("Slice", [value, *numbers], shape, value.dtype)

    def used_nodes(self, outputs: Sequence[str]) -> list[Any]:
        """The nodes that the outputs need, in order."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.output):
                continue
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                for inner in attribute.g.node:
                    needed.update(inner.input)
                needed.update(output.name for output in attribute.g.output)
        return kept[::-1]


def model(
    graph: Graph,
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    facts: Mapping[str, str],
) -> Any:
    """The finished model, an `onnx.ModelProto`.

    Args:
        graph: all of its nodes.
        inputs, outputs: by the names that users see.
        facts: texts that the file carries.
    """
    onnx = package()
    for name, value in outputs.items():
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.name_of(value)], [name]))
    nodes = graph.used_nodes(list(outputs))
    used = {name for node in nodes for name in node.input}
    for node in nodes:
        for attribute in node.attribute:
            used.update(name for inner in attribute.g.node for name in inner.input)
            used.update(output.name for output in attribute.g.output)
    made = onnx.helper.make_graph(
        nodes,
        "network",
        [declared(name, value) for name, value in inputs.items()],
        [declared(name, value) for name, value in outputs.items()],
        [tensor for name, tensor in graph.initializers.items() if name in used],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    result = onnx.helper.make_model(
        made, producer_name="jaxdarts", opset_imports=opsets, ir_version=FORMAT
    )
    onnx.helper.set_model_props(result, dict(facts))
    onnx.checker.check_model(result)
    return result


def declared(name: str, value: Value) -> Any:
    """Name, type and shape of an input or output."""
    helper = package().helper
    sizes = [size if is_size(size) else str(size) for size in value.shape]
    return helper.make_tensor_value_info(name, element_type(value.dtype), sizes)


def element_type(dtype: Any) -> int:
    return package().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _slice(x: Any, start: Any, end: Any, axis: Any, step: Any) -> Any:
    return x[(slice(None),) * int(axis[0]) + (slice(int(start[0]), int(end[0]), int(step[0])),)]


def _padded(x: Any, widths: Any, filling: Any) -> Any:
    pairs = [*zip(*np.reshape(widths, (2, -1)))]
    return np.pad(x, pairs, constant_values=filling)


_CONSTANTS: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda x, y: np.trunc(np.divide(x, y)) if x.dtype.kind in "iu" else np.divide(x, y),
    "Max": np.maximum,
    "Min": np.minimum,
    "Neg": np.negative,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Greater": np.greater,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Where": np.where,
    "Cast": lambda x, to: x,  # `add` gives it the type
    "Concat": lambda *xs, axis: np.concatenate(xs, axis),
    "Reshape": lambda x, sizes: x.reshape([int(n) for n in sizes]),
    "Transpose": lambda x, perm: np.transpose(x, perm),
    "Slice": _slice,
    "Pad": _padded,
}
"""Operators on constants, by NumPy."""
