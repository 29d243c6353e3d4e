"""The ONNX form of each of JAX' primitives that the networks of this library consist of."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxdarts.training import onnx_graph
from jaxdarts.training.onnx_graph import Graph, Value, constant, is_all, is_size


class Unsupported(ValueError):
    """An operation that no rule here translates."""


# ------------------------------------------------------------------------------------- broadcasting


def _together(shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The shape that several of one rank, and numbers, are broadcast to."""
    return tuple(
        next((size for size in sizes if not (is_size(size) and size == 1)), 1)
        for sizes in zip(*filter(len, shapes), strict=True)
    )


def written_out(
    graph: Graph, equation: Any, values: Sequence[Value], axes: Any = None
) -> list[Value]:
    """The arguments of an equation, with all axes, or some, written out."""
    full = []
    for value, atom in zip(values, equation.invars):
        shape = atom.aval.shape
        if axes is not None:
            shape = [
                new if i in axes else old for i, (old, new) in enumerate(zip(value.shape, shape))
            ]
        full.append(graph.expand(value, shape))
    return full


def _each(kind: str) -> Callable[..., Any]:
    """The rule of an operation on elements."""

    def rule(graph: Graph, equation: Any, values: Sequence[Value], out: Any, **_: Any) -> Value:
        return graph.add(kind, values, _together([v.shape for v in values]), out.dtype)

    return rule


def _maximum(graph, equation, values, out, **_):
    for value, other in (values, values[::-1]):
        if is_all(other, 0) and value.content is None and other.content.size == 1:
            return graph.add("Relu", [value], value.shape, out.dtype)
    return _each("Max")(graph, equation, values, out)


def _select(graph, equation, values, out, **_):
    which, no, yes = values
    made = graph.comparisons.get(which.name) if which.content is None else None
    if made is not None and made.name == yes.name and is_all(no, 0):  # x > 0 ? x : 0
        return graph.add("Relu", [yes], yes.shape, out.dtype)
    shape = _together([v.shape for v in values])
    return graph.add("Where", [which, yes, no], shape, out.dtype)


def _greater(graph, equation, values, out, **_):
    result = _each("Greater")(graph, equation, values, out)
    if is_all(values[1], 0):
        graph.comparisons[result.name] = values[0]
    return result


def _same(graph, equation, values, *shapes, **_):
    return list(values)


def _cast(graph, equation, values, out, **_):
    (value,) = values
    if value.dtype == out.dtype:
        return value
    to = onnx_graph.element_type(out.dtype)
    return graph.add("Cast", [value], value.shape, out.dtype, to=to)


def _square_root_below(graph, equation, values, out, **_):
    (value,) = values
    root = graph.add("Sqrt", [value], value.shape, out.dtype)
    return graph.add("Reciprocal", [root], value.shape, out.dtype)


def _power(graph, equation, values, out, *, y, **_):
    (value,) = values
    if y == 2:
        return graph.add("Mul", [value, value], value.shape, out.dtype)
    return graph.add("Pow", [value, constant(np.array(y, out.dtype))], value.shape, out.dtype)


def _square(graph, equation, values, out, **_):
    return _power(graph, equation, values, out, y=2)


def _unequal(graph, equation, values, out, **_):
    equal = _each("Equal")(graph, equation, values, out)
    return graph.add("Not", [equal], equal.shape, out.dtype)


def _clamp(graph, equation, values, out, **_):
    low, value, high = values
    at_least = graph.add("Max", [value, low], value.shape, out.dtype)
    return graph.add("Min", [at_least, high], value.shape, out.dtype)


# ------------------------------------------------------------------------------------------- shapes


def _broadcast(graph, equation, values, out, *, broadcast_dimensions, **_):
    """The new axes have size 1 in the graph and stand for more."""
    value = values[0]
    shape: list[Any] = [1] * len(out.shape)
    for size, axis in zip(value.shape, broadcast_dimensions, strict=True):
        shape[axis] = size
    return graph.reshape(value, shape)


def _reshape(graph, equation, values, out, **_):
    (value,) = written_out(graph, equation, values[:1])
    return graph.reshape(value, out.shape)


def _squeeze(graph, equation, values, out, *, dimensions, **_):
    (value,) = values
    axes = {axis % len(value.shape) for axis in dimensions}
    return graph.reshape(value, [n for i, n in enumerate(value.shape) if i not in axes])


def _transpose(graph, equation, values, out, *, permutation, **_):
    return graph.transpose(values[0], permutation)


def _concatenate(graph, equation, values, out, *, dimension, **_):
    values = written_out(graph, equation, values)
    if len(values) == 1:
        return values[0]
    return graph.add("Concat", values, out.shape, out.dtype, axis=dimension)


def _stack(graph, equation, values, out, *, axis, **_):
    values = written_out(graph, equation, values)
    parts = [graph.reshape(v, (*v.shape[:axis], 1, *v.shape[axis:])) for v in values]
    return graph.add("Concat", parts, out.shape, out.dtype, axis=axis)


def _unstack(graph, equation, values, *out, axis, **_):
    (value,) = written_out(graph, equation, values)
    return [
        graph.reshape(graph.cut(value, axis, i, i + 1), like.shape) for i, like in enumerate(out)
    ]


def _slice(graph, equation, values, out, *, start_indices, limit_indices, strides, **_):
    (value,), full = values, equation.invars[0].aval.shape
    for axis, (start, end) in enumerate(zip(start_indices, limit_indices, strict=True)):
        step = 1 if strides is None else strides[axis]
        if (is_size(start) and start == 0) and end == full[axis] and step == 1:
            continue
        value = graph.cut(value, axis, start, end, step)
    return value


def _split(graph, equation, values, *out, sizes, axis):
    ends = np.cumsum(sizes)
    pairs = zip(ends - sizes, ends, strict=True)
    return [graph.cut(values[0], axis, int(a), int(b)) for a, b in pairs]


def _dynamic_slice(graph, equation, values, out, *, slice_sizes, **_):
    value, *starts = values
    for axis, (start, size) in enumerate(zip(starts, slice_sizes, strict=True)):
        if size == equation.invars[0].aval.shape[axis]:
            continue
        if start.content is None:
            raise Unsupported("a part of an array at a place that depends on the input")
        value = graph.cut(value, axis, int(start.content), int(start.content) + size)
    return value


def _pad(graph, equation, values, out, *, padding_config):
    axes = {i for i, widths in enumerate(padding_config) if any(widths)}
    if any(between or low < 0 or high < 0 for low, high, between in padding_config):
        raise Unsupported("padding inside of an array, or less than none")
    value, filling = values
    if not axes:
        return value
    shape = [n if i in axes else m for i, (n, m) in enumerate(zip(out.shape, value.shape))]
    partly = [
        n if i in axes else m
        for i, (n, m) in enumerate(zip(equation.invars[0].aval.shape, value.shape))
    ]
    value = graph.expand(value, partly)
    lows, highs, _ = zip(*padding_config, strict=True)
    widths = constant(np.array([*lows, *highs], np.int64))
    return graph.add("Pad", [value, widths, filling], shape, out.dtype)


def _reverse(graph, equation, values, out, *, dimensions):
    (value,) = values
    if value.content is None:
        raise Unsupported("a reversed array")
    return constant(np.flip(value.content, dimensions))


def _iota(graph, equation, values, out, *, dtype, shape, dimension, **_):
    size = shape[dimension]
    if is_size(size):
        numbers = constant(np.arange(size, dtype=dtype))
    else:
        end = graph.reshape(graph.sizes_of([size]), [])
        start, step = (constant(np.array(n, np.int64)) for n in (0, 1))
        numbers = graph.add("Range", [start, end, step], [size], np.int64)
        numbers = _cast(graph, equation, [numbers], out)
    return graph.reshape(numbers, [size if i == dimension else 1 for i in range(len(shape))])


def _gather(graph, equation, values, out, *, dimension_numbers, slice_sizes, **_):
    """Rows of an array, or a part of it at a known place."""
    numbers, shape = dimension_numbers, equation.invars[0].aval.shape
    value, indices = written_out(graph, equation, values)
    axes = numbers.start_index_map
    if indices.content is not None and len(indices.shape) == 1:  # one part at a known place
        for axis, start in zip(axes, indices.content.tolist(), strict=True):
            value = graph.cut(value, axis, start, start + slice_sizes[axis])
        return graph.reshape(value, out.shape)
    if tuple(numbers.collapsed_slice_dims) != tuple(axes) or numbers.operand_batching_dims:
        raise Unsupported("an indexing of an array that is no choice of rows")
    if any(n != shape[i] for i, n in enumerate(slice_sizes) if i not in axes):
        raise Unsupported("an indexing of an array by parts of rows")
    of_rows = [i for i in range(len(out.shape)) if i not in numbers.offset_dims]
    if len(axes) == 1:
        rows = graph.reshape(indices, indices.shape[:-1])
        if of_rows != list(range(axes[0], axes[0] + len(of_rows))):
            raise Unsupported("an indexing of an array whose results are not where the rows were")
        return graph.add("Gather", [value, rows], out.shape, out.dtype, axis=axes[0])
    if indices.content is None or len(of_rows) != len(axes):
        raise Unsupported("an indexing of several axes by numbers that depend on the input")
    # Rows of each axis for itself, as x[::2, 1::2] has them.
    place = dict(zip((i for i in range(len(shape)) if i not in axes), numbers.offset_dims))
    for n, axis in enumerate(axes):
        table = indices.content[..., n]
        varying = [d for d in range(table.ndim) if (table != table.take([0], d)).any()]
        along = varying[0] if varying else n
        if len(varying) > 1 or of_rows[along] in place.values():
            raise Unsupported("an indexing of several axes together")
        place[axis] = of_rows[along]
        rows = np.moveaxis(table, along, 0).reshape(table.shape[along], -1)[:, 0]
        cut_shape = (*value.shape[:axis], len(rows), *value.shape[axis + 1 :])
        value = graph.add(
            "Gather", [value, constant(rows.astype(np.int64))], cut_shape, out.dtype, axis=axis
        )
    return graph.transpose(value, sorted(place, key=lambda axis: place[axis]))


# ------------------------------------------------------------------------------ sums and products


def _reduced(kind: str) -> Callable[..., Any]:
    def rule(graph, equation, values, out, *, axes, **_):
        (value,) = written_out(graph, equation, values, axes)
        shape = [n for i, n in enumerate(value.shape) if i not in axes]
        numbers = constant(np.array(axes, np.int64))
        return graph.add(kind, [value, numbers], shape, out.dtype, keepdims=0)

    return rule


def _dot(graph, equation, values, out, *, dimension_numbers, **_):
    ((left_sum, right_sum), (left_batch, right_batch)) = dimension_numbers
    left, right = written_out(graph, equation, values)
    free = [
        [i for i in range(len(v.shape)) if i not in (*batch, *summed)]
        for v, batch, summed in (
            (left, left_batch, left_sum),
            (right, right_batch, right_sum),
        )
    ]
    if (
        len(left_sum) == 1
        and len(free[1]) == 1
        and (len(free[0]) == 1 or (free[0] and not left_batch))
    ):
        left = graph.transpose(left, [*left_batch, *free[0], *left_sum])
        right = graph.transpose(right, [*right_batch, *right_sum, *free[1]])
        return graph.add("MatMul", [left, right], out.shape, out.dtype)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names: list[list[str]] = [[""] * len(left.shape), [""] * len(right.shape)]
    for pairs in (zip(left_batch, right_batch), zip(left_sum, right_sum)):
        for i, j in pairs:
            names[0][i] = names[1][j] = next(letters)
    for part, axes in zip(names, free):
        for i in axes:
            part[i] = next(letters)
    result = [names[0][i] for i in (*left_batch, *free[0])] + [names[1][i] for i in free[1]]
    text = f"{''.join(names[0])},{''.join(names[1])}->{''.join(result)}"
    return graph.add("Einsum", [left, right], out.shape, out.dtype, equation=text)


def _convolution(
    graph,
    equation,
    values,
    out,
    *,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    **_,
):
    if batch_group_count != 1 or any(n != 1 for n in lhs_dilation):
        raise Unsupported("a transposed convolution")
    image, kernel = written_out(graph, equation, values)
    images, kernels, results = dimension_numbers
    lows, highs = zip(*padding, strict=True)
    first = graph.transpose(image, images)
    y = graph.add(
        "Conv",
        [first, graph.transpose(kernel, kernels)],
        [out.shape[i] for i in results],
        out.dtype,
        strides=list(window_strides),
        pads=[*lows, *highs],
        dilations=list(rhs_dilation),
        group=feature_group_count,
    )
    return graph.transpose(y, list(np.argsort(results)))


def _pooled(kind: str, **attributes: Any) -> Callable[..., Any]:
    """The rule of a reduction over windows of rows and columns, [batch, rows, columns, channels].

    An average times the size of the window is the sum.
    """

    def rule(
        graph,
        equation,
        values,
        out,
        *,
        window_dimensions,
        window_strides,
        padding,
        base_dilation,
        window_dilation,
        **_,
    ):
        outside = (0, 3)
        if (
            len(window_dimensions) != 4
            or any(window_dimensions[i] != 1 for i in outside)
            or any(n != 1 for n in (*base_dilation, *window_dilation))
        ):
            raise Unsupported("a pooling over other axes than rows and columns")
        (value,) = written_out(graph, equation, values[:1])
        lows, highs = zip(*padding[1:3], strict=True)
        y = graph.add(
            kind,
            [graph.transpose(value, (0, 3, 1, 2))],
            [out.shape[i] for i in (0, 3, 1, 2)],
            out.dtype,
            kernel_shape=list(window_dimensions[1:3]),
            strides=list(window_strides[1:3]),
            pads=[*lows, *highs],
            **attributes,
        )
        if kind == "AveragePool":
            size = constant(np.array(math.prod(window_dimensions), out.dtype))
            y = graph.add("Mul", [y, size], y.shape, out.dtype)
        return graph.transpose(y, (0, 2, 3, 1))

    return rule


RULES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{
            name: _each(kind)
            for name, kind in {
                "add": "Add",
                "add_any": "Add",
                "sub": "Sub",
                "mul": "Mul",
                "div": "Div",
                "min": "Min",
                "neg": "Neg",
                "abs": "Abs",
                "sign": "Sign",
                "exp": "Exp",
                "log": "Log",
                "tanh": "Tanh",
                "logistic": "Sigmoid",
                "erf": "Erf",
                "sqrt": "Sqrt",
                "pow": "Pow",
                "lt": "Less",
                "ge": "GreaterOrEqual",
                "le": "LessOrEqual",
                "eq": "Equal",
                "and": "And",
                "or": "Or",
                "not": "Not",
            }.items()
        },
        **dict.fromkeys(("copy", "copy_p", "stop_gradient", "name", "optimization_barrier"), _same),
        "max": _maximum,
        "gt": _greater,
        "ne": _unequal,
        "select_n": _select,
        "clamp": _clamp,
        "convert_element_type": _cast,
        "rsqrt": _square_root_below,
        "integer_pow": _power,
        "square": _square,
        "broadcast_in_dim": _broadcast,
        "reshape": _reshape,
        "squeeze": _squeeze,
        "transpose": _transpose,
        "concatenate": _concatenate,
        "stack": _stack,
        "unstack": _unstack,
        "slice": _slice,
        "split": _split,
        "dynamic_slice": _dynamic_slice,
        "pad": _pad,
        "rev": _reverse,
        "iota": _iota,
        "gather": _gather,
        "reduce_sum": _reduced("ReduceSum"),
        "reduce_max": _reduced("ReduceMax"),
        "reduce_min": _reduced("ReduceMin"),
        "dot_general": _dot,
        "conv_general_dilated": _convolution,
        "reduce_window_max": _pooled("MaxPool"),
        "reduce_window_sum": _pooled("AveragePool", count_include_pad=1),
    }
)
"""The rule of each of JAX' primitives: (graph, equation, values, types of the results, parameters)
-> values.
"""
