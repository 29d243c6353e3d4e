"""How wrong the finite difference is: python experiments/benchmarks/hypergradient.py --output=PATH

A small supernet with relu, max pooling and batch norm learns scikit-learn's digits for a few steps.
Noise of one grey level is added, so that no two pixels are equal. Then the second-order term of the
hypergradient is taken in three ways: by `jd.hypergrad.unrolled` in float32, and by the paper's
central difference in float32 and in float64, at several distances in weight space. The error is
the norm of the difference to the definition (`unrolled_by_grad`) in float64, over the norm of that;
leaving the term out, as first order does, is an error of 1. A central difference of the whole
objective in float64 checks the definition along one direction.
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.data import images

DISTANCES = tuple(10.0 ** (k / 2) for k in range(-10, 1))
"""Numerators of the paper's epsilon, which is 0.01 / |gradient|."""
PUBLISHED = 0.01
OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
LEARNING_RATE = 0.025


def relative(x, truth) -> float:
    """Norm of the difference to the truth, over the norm of the truth."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b), x, truth)
    return float(optax.tree.norm(difference) / optax.tree.norm(truth))


def central_difference(train, val, params, arch, weight_step, *, distance):
    """The paper's approximation (Eq. 7 and 8), at any distance; the library's has 0.01."""
    stepped, transpose = jax.vjp(weight_step, jax.grad(train)(params, arch))
    v, direct = jax.grad(val, argnums=(0, 1))(stepped, arch)
    (u,) = transpose(v)
    radius = distance / optax.tree.norm(u)

    def at(sign):
        moved = jax.tree.map(lambda w, d: (w + sign * radius * d).astype(w.dtype), params, u)
        return jax.grad(train, argnums=1)(moved, arch)

    return jax.tree.map(lambda d, a, b: d + (a - b) / (2 * radius), direct, at(1), at(-1))


def measured(steps: int, batch_size: int, width: int, depth: int) -> dict:
    """The errors of the second-order term, by method."""
    train_part = images.load("digits").train
    # Uniform noise of one of the 17 grey levels: equal pixels would be ties of the max pooling, at
    # which there is no gradient to compare with.
    noise = np.random.default_rng(0).uniform(size=train_part.images.shape) / 16
    pixels, labels = train_part.images / 255 + noise, train_part.labels.astype(np.int32)
    space = jd.spaces.darts(num_nodes=2, ops=OPERATIONS)
    relax = jd.relax.softmax(space.cells)
    options = jd.parallel.compiler_options(jax.default_backend())

    def losses(dtype):
        """The training loss, the validation loss, and the gradient of the loss of a batch."""
        net = space.supernet(width=width, depth=depth, num_classes=10, dtype=dtype)
        x, y = jnp.asarray(pixels, dtype), jnp.asarray(labels)

        def loss(params, arch, i):
            batch = (jax.lax.dynamic_slice_in_dim(a, batch_size * i, batch_size) for a in (x, y))
            image, label = batch
            logits = net.apply({"params": params}, image, relax.apply(arch, None, 0))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        of_batch = (functools.partial(lambda i, p, a: loss(p, a, i), i) for i in (steps, steps + 1))
        return *of_batch, jax.jit(jax.grad(loss), compiler_options=options)

    def step(params):
        return lambda g: jax.tree.map(lambda w, d: w - LEARNING_RATE * d, params, g)

    def results(dtype, params, arch, functions):
        """What functions of (train, val, params, arch, weight_step) give, as float64 arrays."""
        with jax.enable_x64(dtype == jnp.float64):
            train, val, _ = losses(dtype)
            params, arch = (
                jax.tree.map(lambda x: jnp.asarray(x, dtype), t) for t in (params, arch)
            )
            out = []
            for function in functions:
                compiled = jax.jit(
                    lambda p, a, f=function: f(train, val, p, a, step(p)), compiler_options=options
                )
                out.append(jax.tree.map(np.float64, compiled(params, arch)))
            return out

    net = space.supernet(width=width, depth=depth, num_classes=10)
    first = jnp.asarray(pixels[:1], jnp.float32)
    params = net.init(jax.random.key(0), first, net.example_mix())["params"]
    arch = relax.init(jax.random.key(1))
    gradient = losses(jnp.float32)[2]
    for i in range(steps):
        params = step(params)(gradient(params, arch, i))
    params, arch = jax.tree.map(np.asarray, (params, arch))

    def direct(train, val, params, arch, weight_step):
        return jax.grad(val, argnums=1)(weight_step(jax.grad(train)(params, arch)), arch)

    random = np.random.default_rng(2)
    direction = {name: random.normal(size=x.shape) for name, x in sorted(arch.items())}

    def slope(train, val, params, arch, weight_step):
        """A central difference of what is minimised, along the direction."""

        def objective(sign):
            moved = {name: x + sign * 1e-5 * direction[name] for name, x in arch.items()}
            return val(weight_step(jax.grad(train)(params, moved)), moved)

        return (objective(1) - objective(-1)) / 2e-5

    hypergrad = jd.hypergrad
    exact, without, measured_slope = results(
        jnp.float64, params, arch, [hypergrad.unrolled_by_grad, direct, slope]
    )
    term = jax.tree.map(np.subtract, exact, without)

    def at_all_distances(*arguments):
        """The central differences, stacked."""
        distances = jnp.asarray(DISTANCES, jax.tree.leaves(arguments[2])[0].dtype)
        return jax.lax.map(lambda d: central_difference(*arguments, distance=d), distances)

    def errors(dtype):
        """Errors of the exact form, of the library's difference, and at every distance."""
        functions = [hypergrad.unrolled, hypergrad.finite_difference, at_all_distances]
        *single, stacked = results(dtype, params, arch, functions)
        single += [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(DISTANCES))]
        return [relative(jax.tree.map(np.subtract, x, without), term) for x in single]

    unrolled32, published32, *differences32 = errors(jnp.float32)
    unrolled64, published64, *differences64 = errors(jnp.float64)
    return {
        "distances": list(DISTANCES),
        "finite_difference_float32": differences32,
        "finite_difference_float64": differences64,
        "finite_difference_published_float32": published32,
        "finite_difference_published_float64": published64,
        "unrolled_float32": unrolled32,
        "unrolled_float64": unrolled64,
        "first_order": 1.0,
        "slope": sum(float(np.vdot(exact[name], direction[name])) for name in arch),
        "slope_by_central_difference": float(measured_slope),
        "term_over_hypergradient": float(optax.tree.norm(term) / optax.tree.norm(exact)),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="Weight steps before. (20)")
    parser.add_argument("--batch_size", type=int, default=32, help="Images in a batch. (32)")
    parser.add_argument("--width", type=int, default=8, help="Channels of the first cell. (8)")
    parser.add_argument("--depth", type=int, default=3, help="Number of cells. (3)")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    flags = parser.parse_args()
    result = measured(flags.steps, flags.batch_size, flags.width, flags.depth)
    text = json.dumps({**runs.versions(), "errors": result}, indent=1)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
