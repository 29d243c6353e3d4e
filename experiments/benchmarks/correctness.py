"""Does a device compute what the library means? Small cases, and their results in float64.

Each case runs through the library. Its reference comes from the definitions in plain JAX
(primitives), from the definition of the hypergradient (`jaxdarts.hypergrad.unrolled_by_grad`), or
from the library itself in float64 (the recurrent step). References are made once, on a CPU, and
kept in device_reference.npz together with the inputs, which are float32 numbers.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

import forms
import jaxdarts as jd
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.depthwise import depthwise
from jaxdarts.nn.primitives.norm import EPSILON, batch_norm
from jaxdarts.nn.primitives.pooling import max_pool

REFERENCE = Path(__file__).parent / "device_reference.npz"

BOUND = 1e-4
"""Largest relative error in float32: a hundred times what a CPU has, a third of what TF32 has."""

Arrays = Mapping[str, Any]


class Case(NamedTuple):
    """One computation.

    draw: (random generator, size) -> inputs by name; size "small" for the stored reference, "large"
    for fresh inputs. run: inputs, whose floating-point arrays set the precision -> results by name,
    through the library. define: the same results, by definition. bound: largest relative error that
    float32 may have.
    """

    draw: Callable[[np.random.Generator, str], Arrays]
    run: Callable[[Arrays], Arrays]
    define: Callable[[Arrays], Arrays]
    bound: float


def derivatives(function: Callable, inputs: Arrays) -> Arrays:
    """Value, gradient, gradient of gradient and jvp of gradient of sum(weights *
    function(*arguments)^2) / 2.
    """
    arguments, directions = tuple(inputs["arguments"]), tuple(inputs["directions"])

    def loss(*arguments):
        return jnp.sum(inputs["weights"] * function(*arguments) ** 2) / 2

    gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))

    def along(*arguments):
        return sum(jnp.sum(d * g) for d, g in zip(directions, gradient(*arguments)))

    return {
        "value": function(*arguments),
        "gradient": gradient(*arguments),
        "gradient_of_gradient": jax.grad(along, argnums=tuple(range(len(arguments))))(*arguments),
        "jvp_of_gradient": jax.jvp(gradient, arguments, directions)[1],
    }


def primitive(
    function: Callable, definition: Callable, shapes: Callable[[bool], list[tuple[int, ...]]]
) -> Case:
    """A case of a function of arrays, whose shapes are given for large or small inputs."""

    def draw(rng: np.random.Generator, size: str) -> Arrays:
        arguments = [
            rng.standard_normal(shape).astype(np.float32) for shape in shapes(size == "large")
        ]
        directions = [rng.standard_normal(a.shape).astype(np.float32) for a in arguments]
        out = jax.eval_shape(definition, *arguments)
        return {
            "arguments": arguments,
            "directions": directions,
            "weights": rng.uniform(0.5, 1.5, out.shape).astype(np.float32),
        }

    return Case(
        draw,
        lambda arguments: derivatives(function, arguments),
        lambda arguments: derivatives(definition, arguments),
        BOUND,
    )


def _depthwise(stride: int, dilation: int, g: int, k: int, size: int) -> Case:
    def definition(x, kernel):
        # The pointwise convolution of a form is the identity here.
        identity = jnp.eye(x.shape[-1], dtype=x.dtype)
        pointwise = jnp.broadcast_to(identity, (g, k, *identity.shape))
        return forms.taps(x, kernel, pointwise, stride, dilation)

    def shapes(large: bool):
        image = (g, 16, 31, 32, 16) if large else (g, 2, 7, 6, 3)
        return [image, (g, k, size, size, image[-1])]

    return primitive(
        lambda x, kernel: depthwise(x, kernel, stride=stride, dilation=dilation), definition, shapes
    )


def _separable(stride: int, g: int, k: int) -> Case:
    def shapes(large: bool):
        image, out = ((g, 16, 31, 32, 16), 16) if large else ((g, 2, 7, 6, 3), 4)
        return [image, (g, k, 3, 3, image[-1]), (g, k, image[-1], out)]

    return primitive(
        lambda *arguments: forms.library(*arguments, stride=stride),
        lambda *arguments: forms.taps(*arguments, stride=stride),
        shapes,
    )


def _max_pool(stride: int) -> Case:
    def definition(x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        height, width = x.shape[1:3]
        windows = [
            padded[:, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ]
        return jnp.max(jnp.stack(windows), axis=0)

    return primitive(
        lambda x: max_pool(x, stride),
        definition,
        lambda large: [(16, 31, 32, 16) if large else (2, 7, 6, 3)],
    )


def _convolution(size: tuple[int, int], strides: tuple[int, int]) -> Case:
    def definition(x, kernel):
        padding = [((n - 1) // 2,) * 2 for n in size]
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=forms.DIMENSIONS
        )

    def shapes(large: bool):
        image, out = ((16, 31, 32, 16), 48) if large else ((2, 7, 6, 3), 4)
        return [image, (*size, image[-1], out)]

    return primitive(lambda x, kernel: convolution(x, kernel, strides), definition, shapes)


def _batch_norm() -> Case:
    def definition(x, gain):
        axes = (1, 2, 3)
        normal = (x - jnp.mean(x, axes, keepdims=True)) / jnp.sqrt(
            jnp.var(x, axes, keepdims=True) + EPSILON
        )
        return gain * normal

    def shapes(large: bool):
        image = (2, 16, 31, 32, 16) if large else (2, 2, 7, 6, 3)
        return [image, (2, 1, 1, 1, image[-1])]

    return primitive(batch_norm, definition, shapes)


def _supernet() -> Case:
    """Loss, both gradients and the exact second-order hypergradient of a small supernet.

    It is one reduction cell of two nodes, small enough to compile soon. It holds every kind of
    operation, at stride 2 on the edges from its inputs and at stride 1 on the edge between the
    nodes.
    """
    ops = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    space, classes, (batch, size) = jd.spaces.darts(num_nodes=2, ops=ops), 10, (8, 8)
    # A long step, so that the second-order term counts.
    tx = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(0.3, momentum=0.9),
    )
    relax = jd.relax.softmax(space.cells)

    def network(dtype) -> Any:
        return space.supernet(width=4, depth=1, num_classes=classes, dtype=dtype)

    def draw(rng: np.random.Generator, size_: str) -> Arrays:
        net = network(jnp.float32)
        params = net.init(
            jax.random.key(int(rng.integers(1000))),
            jnp.zeros((1, size, size, 3)),
            net.example_mix(),
        )["params"]
        arrays = {
            f"images{i}": rng.standard_normal((batch, size, size, 3)).astype(np.float32)
            for i in range(2)
        }
        labels = {f"labels{i}": rng.integers(0, classes, batch).astype(np.int32) for i in range(2)}
        shape = space.cells["normal"].shape
        arch = {
            f"arch_{name}": rng.normal(0, 0.5, shape).astype(np.float32) for name in space.cells
        }
        return {"params": np.asarray(ravel_pytree(params)[0]), **arrays, **labels, **arch}

    def of(inputs: Arrays, hypergradient: Callable, wrap: Callable) -> Arrays:
        dtype = inputs["images0"].dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        net = network(dtype)
        form = jax.eval_shape(
            net.init, jax.random.key(0), jnp.zeros((1, size, size, 3)), net.example_mix()
        )["params"]
        unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide), form))[1]
        params = unravel(jnp.asarray(inputs["params"], wide))
        arch = {name: jnp.asarray(inputs[f"arch_{name}"], wide) for name in space.cells}
        train, val = (
            {"image": inputs[f"images{i}"], "label": inputs[f"labels{i}"]} for i in range(2)
        )
        objective = wrap(jd.objectives.classification(net))

        def loss(params, arch, images):
            return objective(params, relax.apply(arch, None, 0), (), images, None)[0]

        def weight_step(gradient):
            return optax.apply_updates(params, tx.update(gradient, tx.init(params), params)[0])

        value, (by_params, by_arch) = jax.value_and_grad(loss, argnums=(0, 1))(params, arch, train)
        exact = hypergradient(
            lambda w, a: loss(w, a, train), lambda w, a: loss(w, a, val), params, arch, weight_step
        )
        return {
            "loss": value,
            "weights": ravel_pytree(by_params)[0],
            "alpha": by_arch,
            "hypergradient": exact,
        }

    return Case(
        draw,
        lambda inputs: jd.once.folded(
            lambda inputs: of(inputs, jd.hypergrad.unrolled, jd.once.with_gradients)
        )(inputs),
        lambda inputs: of(inputs, jd.hypergrad.unrolled_by_grad, lambda objective: objective),
        BOUND,
    )


def _recurrent() -> Case:
    """What one second-order search step on words changes: weights, alpha, hidden states."""
    space, (width, words, time, batch) = jd.spaces.darts_rnn(num_nodes=2), (8, 20, 4, 32)
    # Plain SGD of alpha, since Adam's first step is a sign, whatever the size of the gradient. The
    # step is long, because the result is a difference of alphas, which cancel.
    txs = optax.chain(optax.clip_by_global_norm(0.25), optax.sgd(2.0)), optax.sgd(20.0)

    def draw(rng: np.random.Generator, size: str) -> Arrays:
        net = space.supernet(width, words)
        params = net.init(jax.random.key(int(rng.integers(1000))), *net.example_inputs())["params"]
        vector = np.asarray(ravel_pytree(params)[0])
        # Larger weights than at the start of a search, and a large batch: else states look alike,
        # and norms divide by little.
        windows = {
            f"words{i}": rng.integers(words, size=(time + 1, batch)).astype(np.int32)
            for i in range(2)
        }
        arch = rng.normal(0, 0.5, space.cells["recurrent"].shape).astype(np.float32)
        return {"params": (10 * vector).astype(np.float32), "arch": arch, **windows}

    def run(inputs: Arrays, order: Callable = jd.hypergrad.unrolled) -> Arrays:
        dtype = inputs["arch"].dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        net = space.supernet(
            width, words, dtype=dtype
        )  # without dropout: what is drawn at random depends on the precision
        form = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
        unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide), form))[1]
        params = unravel(jnp.asarray(inputs["params"], wide))
        objective = jd.objectives.language_model(net, temporal=1e-3)
        search = jd.bilevel_search(
            objective, jd.Algorithm(jd.relax.softmax(space.cells), order), *txs
        )
        before = search.init(jax.random.key(0), params, (net.start(batch), net.start(batch)))
        before = dataclasses.replace(before, arch={"recurrent": jnp.asarray(inputs["arch"], wide)})
        batches = (
            {"tokens": inputs[name][:-1], "targets": inputs[name][1:]}
            for name in ("words0", "words1")
        )
        after, _ = search.step(before, *batches)
        moved = ravel_pytree(after.params)[0] - ravel_pytree(before.params)[0]
        return {
            "weights": moved,
            "alpha": after.arch["recurrent"] - before.arch["recurrent"],
            "hidden": after.carry,
        }

    return Case(draw, run, lambda inputs: run(inputs, jd.hypergrad.unrolled_by_grad), BOUND)


PRIMITIVES: Mapping[str, Case] = {
    "depthwise": _depthwise(stride=1, dilation=1, g=1, k=2, size=5),
    "depthwise_dilated": _depthwise(stride=1, dilation=2, g=2, k=1, size=3),
    "depthwise_strided": _depthwise(stride=2, dilation=1, g=2, k=2, size=3),
    "separable": _separable(stride=1, g=3, k=1),
    "separable_strided": _separable(stride=2, g=2, k=2),
    "max_pool": _max_pool(1),
    "max_pool_strided": _max_pool(2),
    "batch_norm": _batch_norm(),
    "convolution": _convolution((3, 3), (1, 1)),
    "convolution_strided": _convolution((1, 3), (1, 2)),
}
CASES: Mapping[str, Case] = {**PRIMITIVES, "supernet": _supernet(), "recurrent": _recurrent()}


def cast(inputs: Arrays, dtype: Any) -> Arrays:
    """The inputs with their floating-point arrays in another precision."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype if np.issubdtype(a.dtype, np.floating) else None),
        dict(inputs),
    )


def jitted(function: Callable, platform: str) -> Callable:
    """`jax.jit` with the compiler options of this library's programs."""
    return jax.jit(function, compiler_options=jd.parallel.compiler_options(platform))


def in_float64(function: Callable, inputs: Arrays) -> dict[str, np.ndarray]:
    """What a function of inputs gives in float64 on the CPU, each result as one vector."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return vectors(jitted(function, "cpu")(cast(inputs, jnp.float64)))


def vectors(results: Arrays) -> dict[str, np.ndarray]:
    """Each result as one vector of float64."""
    return {
        name: np.concatenate(
            [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(value)]
        )
        for name, value in results.items()
    }


def errors(results: Arrays, reference: Arrays) -> dict[str, float]:
    """||result - reference|| / ||reference|| of each result; NaN stays NaN.

    Raises:
        ValueError: if shapes or names differ.
    """
    values = vectors(results)
    if {name: value.shape for name, value in values.items()} != {
        name: value.shape for name, value in reference.items()
    }:
        raise ValueError(
            "results and reference differ in shape: is device_reference.npz that of this version?"
        )
    return {
        name: float(np.linalg.norm(values[name] - r) / np.linalg.norm(r))
        for name, r in reference.items()
    }


def checked(
    case: Case, inputs: Arrays, reference: Arrays, dtype: str, precision: str
) -> dict[str, float]:
    """The errors of a case on the default device, in a number format and at a precision of matrix
    products.
    """
    with jax.default_matmul_precision(precision):
        return errors(
            jitted(case.run, jax.default_backend())(cast(inputs, jnp.dtype(dtype))), reference
        )


def within(errors: Mapping[str, float], bound: float) -> bool:
    """Whether all errors are below the bound; NaN is not."""
    return all(error < bound for error in errors.values())


def make_reference(path: Path = REFERENCE, names: tuple[str, ...] = tuple(CASES)) -> None:
    """Writes the inputs and the results by definition of all cases; on a CPU."""
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        inputs = CASES[name].draw(np.random.default_rng(zlib.crc32(name.encode())), "small")
        for key, value in inputs.items():
            for i, part in enumerate(value if isinstance(value, list) else [value]):
                arrays[f"{name}/inputs/{key}" + (f"/{i}" if isinstance(value, list) else "")] = part
        for key, value in in_float64(CASES[name].define, inputs).items():
            arrays[f"{name}/results/{key}"] = value
    np.savez_compressed(path, **arrays)


def read_reference(
    name: str, path: Path = REFERENCE
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Inputs and results of one case."""
    inputs: dict[str, Any] = {}
    results: dict[str, np.ndarray] = {}
    with np.load(path) as stored:
        for key in stored.files:
            case, kind, field, *index = key.split("/")
            if case != name:
                continue
            if kind == "results":
                results[field] = stored[key]
            elif index:
                inputs.setdefault(field, []).append(stored[key])
            else:
                inputs[field] = stored[key]
    return inputs, results
