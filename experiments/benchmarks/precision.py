"""What a number format costs in precision: python experiments/benchmarks/precision.py
[--dataset=npz:PATH] [--what=rnn]

Compares the loss, the gradient of the weights, and the first-order and the exact second-order
gradient of alpha in float32 and in bfloat16 with those in float64, on real batches: errors are
norms of differences over norms, roots of mean squares over several batches. The weights are those
after a few steps of training in float32. Prints JSON lines, one a format. --what=rnn takes the
recurrent space and a text. --output keeps all lines, with command, commit, versions, device.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import bench
import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.commands import datasets, texts
from jaxdarts.data import augment, images, text

QUANTITIES = ("loss", "weights", "alpha_first_order", "alpha_second_order")
FORMATS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the gradients of a search in float32 and bfloat16 with those in float64."""

    what: Literal["search", "rnn"] = "search"
    """Supernet of the DARTS space on images, or of the recurrent space on a text."""
    dataset: str = "digits"
    """Images: digits, a TFDS name (cifar10, ...), npz:PATH or folder:PATH. Texts: pydoc, ptb,
    wikitext2 or text:PATH.
    """
    data_dir: str | None = None
    """Where TFDS keeps its folders; or the folder of ptb or wikitext2."""
    init_channels: int = 8
    """Channels of the first cells."""
    layers: int = 3
    """Number of cells."""
    nodes: int = 4
    """Intermediate nodes of a cell; 8 in the published recurrent one."""
    ops: tuple[str, ...] = jd.spaces.PRIMITIVES
    """Candidate operations of every edge of a convolutional cell."""
    batch_size: int = 16
    """Images or columns of text in a batch."""
    emsize: int = 100
    """Units of the recurrent network."""
    bptt: int = 35
    """Rows of a window of text."""
    batches: int = 4
    """Pairs of batches, one for the weights and one for alpha, that the errors are averaged over.
    """
    training_steps: int = 50
    """First-order search steps in float32 before."""
    output: str | None = None
    """JSON file to write everything to."""


def gradients(
    objective: Callable, space: jd.Space, params_tx: optax.GradientTransformation
) -> Callable:
    """A function of (params, alpha, carry, training batch, validation batch) that gives the
    `QUANTITIES`.
    """
    objective, relax = jd.once.with_gradients(objective), jd.relax.softmax(space.cells)
    params_tx = optax.with_extra_args_support(params_tx)

    def all_of_them(params, arch, carry, train_batch, val_batch):
        def train(params, arch):
            return objective(params, relax.apply(arch, None, 0), carry, train_batch, None)[0]

        def val(params, arch):
            return objective(params, relax.apply(arch, None, 0), carry, val_batch, None)[0]

        def weight_step(gradient):
            updates, _ = params_tx.update(
                gradient, params_tx.init(params), params, batch=train_batch
            )
            return optax.apply_updates(params, updates)

        loss, by_weights = jax.value_and_grad(train)(params, arch)
        first, second = (
            f(train, val, params, arch, weight_step)
            for f in (jd.hypergrad.first_order, jd.hypergrad.unrolled)
        )
        return dict(zip(QUANTITIES, (loss, by_weights, first, second)))

    return jd.once.folded(all_of_them)


def errors(
    make: Callable[[Any], Callable],
    params: Any,
    arch: Any,
    carry: Any,
    batches: Sequence[tuple],
    formats: Sequence[str] = FORMATS,
) -> dict[str, dict[str, float]]:
    """Of each format, the error of each quantity, |found - exact| / |exact|, the root of its mean
    square over the batches.

    Args:
        make: format -> a jitted function of (params, arch, carry, two batches) that gives a mapping
          of trees by name.
        params, arch: in float32.
        carry: the hidden state, or ().
        batches: pairs.
        formats: which.
    """
    exact = _results(make, jnp.float64, jnp.float64, params, arch, carry, batches)
    lines = {}
    for name in formats:
        results = _results(make, jnp.dtype(name), jnp.float32, params, arch, carry, batches)
        lines[name] = {quantity: _error(results, exact, quantity) for quantity in exact[0]}
    return lines


def _results(
    make: Callable[[Any], Callable], dtype: Any, wide: Any, params, arch, carry, batches
) -> list[dict[str, np.ndarray]]:
    """Of each pair of batches, each quantity as one vector; all of them must come in the format
    `wide`.
    """

    def cast(tree, dtype=wide):
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    with jax.enable_x64(wide == jnp.float64):
        function = make(dtype)
        results = [
            function(*cast((params, arch)), cast(carry, dtype), *cast(pair)) for pair in batches
        ]
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(wide)}
        vectors = [
            {
                name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
                for name, tree in r.items()
            }
            for r in results
        ]
    return vectors


def _error(
    results: list[dict[str, np.ndarray]], exact: list[dict[str, np.ndarray]], quantity: str
) -> float:
    pairs = [(f[quantity], e[quantity]) for f, e in zip(results, exact, strict=True)]
    return float(np.sqrt(np.mean([np.sum((f - e) ** 2) / np.sum(e**2) for f, e in pairs])))


class Problem(NamedTuple):
    """A search whose numbers are compared."""

    space: jd.Space
    objective: Callable[[Any], Callable]  # format -> objective
    params: Any
    carry: Any
    txs: tuple[optax.GradientTransformation, optax.GradientTransformation]
    batches: Callable[[int], tuple]  # number -> a training batch and a validation batch


def of_images(config: Config) -> Problem:
    space, dataset = jd.spaces.darts(config.nodes, config.ops), datasets.load(config)
    read = augment.reader(dataset.mean, dataset.std)
    parts = images.split(dataset.train, 0.5)

    def net(dtype):
        return space.supernet(
            config.init_channels, config.layers, len(dataset.class_names), dtype=dtype
        )

    def batch(part, number):
        indices = np.random.default_rng(number).integers(part.num, size=config.batch_size)
        return read(
            {
                "image": jnp.asarray(part.images[indices]),
                "label": jnp.asarray(part.labels[indices]),
            },
            jnp.arange(len(indices)),
        )

    start = net(jnp.float32)
    params = start.init(jax.random.key(0), *start.example_inputs(dataset.image_shape))["params"]
    return Problem(
        space,
        lambda dtype: jd.objectives.classification(net(dtype)),
        params,
        (),
        bench.optimizers(),
        lambda number: tuple(batch(part, number) for part in parts),
    )


def of_texts(config: Config) -> Problem:
    space, settings = (
        jd.spaces.darts_rnn(config.nodes),
        texts.Settings(dataset=config.dataset, data_dir=config.data_dir),
    )
    words = texts.load(settings)
    streams = [
        jnp.asarray(text.streams(part, config.batch_size)) for part in (words.train, words.valid)
    ]

    def net(dtype):
        return space.supernet(config.emsize, len(words.vocabulary), dtype=dtype)

    def batch(stream, number):
        start = number * config.bptt % (len(stream) - config.bptt)
        return text.window(stream, start, config.bptt, config.bptt)

    start = net(jnp.float32)
    params = start.init(jax.random.key(0), *start.example_inputs())["params"]
    return Problem(
        space,
        lambda dtype: jd.objectives.language_model(net(dtype), temporal=1e-3),
        params,
        start.start(config.batch_size),
        (texts.optimizer(settings), optax.adam(3e-3)),
        lambda number: tuple(batch(stream, number) for stream in streams),
    )


def trained(problem: Problem, steps: int) -> tuple[Any, Any, Any]:
    """Weights, alpha and hidden state after a number of first-order search steps in float32."""
    algorithm = jd.algorithms.darts(problem.space, 1)
    search = jd.bilevel_search(problem.objective(jnp.float32), algorithm, *problem.txs)
    state, step = (
        search.init(jax.random.key(1), problem.params, (problem.carry, problem.carry)),
        runs.jitted(search.step),
    )
    for number in range(steps):
        state, _ = step(state, *problem.batches(number))
    return state.params, state.arch, state.carry[0]


def main(arguments: list[str]) -> None:
    config = tyro.cli(Config, args=arguments, use_underscores=True)
    problem = (of_images if config.what == "search" else of_texts)(config)
    start = trained(problem, config.training_steps)

    def make(dtype):
        return runs.jitted(gradients(problem.objective(dtype), problem.space, problem.txs[0]))

    pairs = [problem.batches(config.training_steps + i) for i in range(config.batches)]
    lines = [{"format": name, "error": line} for name, line in errors(make, *start, pairs).items()]
    for line in lines:
        print(json.dumps(line), flush=True)
    if config.output:
        result = {
            **runs.versions(),
            "config": dataclasses.asdict(config) | {"output": None},
            "lines": lines,
        }
        Path(config.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    runs.start(main)
