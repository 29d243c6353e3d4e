"""How large some differences from quark0/darts are.

    python experiments/benchmarks/differences.py --images=npz:cifar10.npz --data_dir=PATH

PATH holds Penn Treebank. Supernets far smaller than the published ones are trained with our step
on these data, for as many steps as --steps says. On the way the gradient of alpha (exact second
order) is taken as ours and in another way; the difference is the norm of the change over the norm
of ours, in the median over the steps. In the end the validation half is evaluated with other
moments in the norms. The rest are counts over the epochs of the published sizes.
docs/differences.md has the figures.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.data import images, text
from jaxdarts.nn import rnn
from jaxdarts.training.schedules import clip_by_global_norm

BATCH, TRAIN, BPTT, WORDS = 64, 25_000, 35, 929_589
"""Batch and half of CIFAR-10's training images; window and training words of Penn Treebank."""

NODES, CHANNELS, CELLS, UNITS = 2, 8, 3, 48
"""Size of the supernets."""

OPS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")

UNBOUNDED = np.float32(1e30)
"""A norm that no gradient is clipped at."""


def of_epochs() -> dict[str, float]:
    """Counts over the epochs of the published sizes."""
    rng, steps, unseen = np.random.default_rng(0), TRAIN // BATCH, []
    for _ in range(20):
        seen = np.zeros(TRAIN, bool)
        for _ in range(steps):
            seen[rng.choice(TRAIN, BATCH, replace=False)] = True
        unseen.append(1 - seen.mean())
    before, now = [], []
    for epoch in range(20):
        lengths = text.random_windows(0, epoch, WORDS // BATCH, BPTT, 5.0).length
        before += lengths[:-1].tolist()
        now += lengths[1:].tolist()
    ratio = np.abs(np.divide(before, now) - 1)
    return {
        "validation_images_unseen_in_an_epoch_with_replacement": float(np.mean(unseen)),
        "images_left_out_of_an_epoch": TRAIN % BATCH / TRAIN,
        "rate_of_the_window_before_mean_change": float(ratio.mean()),
        "rate_of_the_window_before_median_change": float(np.median(ratio)),
    }


def gradients_of_alpha(
    loss: Callable,
    params: Any,
    arch: Any,
    pairs: Sequence[tuple[Any, Any]],
    rate: float,
    clip: float,
    others: dict[str, dict[str, Any]],
) -> tuple[Any, dict[str, Any]]:
    """The weights after training, and how far other gradients of alpha are from ours.

    loss: (params, arch, batch, factor of the regularisers) -> number. others: what is different in
    the step inside the hypergradient: "clip", "regularised", and "moves", factors of the weights'
    updates.
    """

    def step(params, gradient, clip, moves):
        tx = clip_by_global_norm(clip)
        clipped = tx.update(gradient, tx.init(params))[0]
        return jax.tree.map(lambda w, g, moved: w - rate * moved * g, params, clipped, moves)

    def gradient_of_alpha(params, train, val, clip, regularised, moves):
        return jd.hypergrad.unrolled(
            lambda p, a: loss(p, a, train, regularised),
            lambda p, a: loss(p, a, val, 0.0),
            params,
            arch,
            lambda gradient: step(params, gradient, clip, moves),
        )

    every = jax.tree.map(lambda w: jnp.float32(1), params)
    ours = {"clip": jnp.float32(clip), "regularised": jnp.float32(1), "moves": every}
    gradient_of_alpha = runs.jitted(gradient_of_alpha)
    slope = runs.jitted(jax.grad(lambda p, batch: loss(p, arch, batch, 1.0)))
    norms, changes = [], {name: [] for name in others}
    for train, val in pairs:
        expected = gradient_of_alpha(params, train, val, **ours)
        for name, different in others.items():
            other = gradient_of_alpha(params, train, val, **{**ours, **different})
            change = optax.tree.norm(optax.tree.sub(other, expected))
            changes[name].append(float(change / optax.tree.norm(expected)))
        gradient = slope(params, train)
        norms.append(float(optax.tree.norm(gradient)))
        params = step(params, gradient, clip, every)
    facts = {name: float(np.median(values)) for name, values in changes.items()}
    facts |= {f"largest_{name}": max(values) for name, values in changes.items()}
    clipped = sum(norm > clip for norm in norms)
    return params, {"steps": len(norms), "clipped_steps": clipped, **facts}


def of_images(name: str, steps: int) -> dict[str, Any]:
    """Clipping in the step inside the hypergradient; the moments of another batch in the norms."""
    batch, large, limit = 32, 1024, 5.0
    part = images.load(name).train
    space = jd.spaces.darts(NODES, OPS)
    net: Any = space.supernet(width=CHANNELS, depth=CELLS, num_classes=int(max(part.labels)) + 1)
    order = np.random.default_rng(0).permutation(len(part.labels))
    mean, std = np.mean(part.images[:2000] / 255), np.std(part.images[:2000] / 255)

    def taken(rows):
        pixels = jnp.asarray((part.images[rows] / 255 - mean) / std, jnp.float32)
        return pixels, jnp.asarray(part.labels[rows], jnp.int32)

    relax = jd.relax.softmax(space.cells)
    arch = relax.init(jax.random.key(1))
    params = net.init(jax.random.key(0), taken(order[:1])[0], net.example_mix())["params"]

    def logits(params, arch, pixels):
        return net.apply({"params": params}, pixels, relax.apply(arch, None, 0))

    def loss(params, arch, batch, regularised):
        scores = logits(params, arch, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(scores, batch[1]).mean()

    parts = [taken(rows) for rows in order[: 2 * steps * batch].reshape(-1, batch)]
    pairs = [*zip(parts[::2], parts[1::2], strict=True)]
    params, facts = gradients_of_alpha(
        loss, params, arch, pairs, 0.025, limit, {"without_clipping": {"clip": UNBOUNDED}}
    )
    held_out, hits, losses = order[-2 * large :], {}, {}
    evaluate = runs.jitted(lambda params, pixels: logits(params, arch, pixels))
    for size in (BATCH, large):
        parts = [taken(rows) for rows in held_out.reshape(-1, size)]
        scores = jnp.concatenate([evaluate(params, pixels) for pixels, _ in parts])
        labels = jnp.concatenate([labels for _, labels in parts])
        hits[size] = float(jnp.mean(jnp.argmax(scores, axis=1) == labels))
        losses[size] = float(optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean())
    sizes = {"nodes": NODES, "ops": OPS, "channels": CHANNELS, "cells": CELLS, "batch": batch}
    moments = {"batches": [BATCH, large], "accuracy": [*hits.values()], "loss": [*losses.values()]}
    return {"sizes": sizes, **facts, "validated_with_moments_of": moments}


def of_text(data_dir: str, steps: int) -> dict[str, Any]:
    """The tied embedding and the regulariser in the step inside the hypergradient; the norms'
    running averages in validation.
    """
    batch, limit, temporal = 32, 0.25, 1e-3
    words = text.load("ptb", data_dir)
    space = jd.spaces.darts_rnn(NODES)
    net: Any = space.supernet(UNITS, len(words.vocabulary))
    params = net.init(jax.random.key(0), *net.example_inputs())["params"]
    of_batch: Callable = jd.objectives.language_model(net, 0.0, temporal)
    relax = jd.relax.softmax(space.cells)
    arch, start = relax.init(jax.random.key(1)), net.start(batch)

    def loss(params, arch, window, regularised):
        window = window | {"regularisation": regularised}
        return of_batch(params, relax.apply(arch, None, 0), start, window, None)[0]

    def windows(part, count):
        stream = jnp.asarray(text.streams(part, batch))
        return [text.window(stream, BPTT * i, BPTT, BPTT) for i in range(count)]

    pairs = [*zip(windows(words.train, steps), windows(words.valid, steps), strict=True)]
    stays = {name: jnp.float32(name != "embedding") for name in params}
    others = {  # the original clips this step, too
        "embedding_stays": {"moves": stays},
        "without_regulariser": {"regularised": jnp.float32(0)},
    }
    params, facts = gradients_of_alpha(loss, params, arch, pairs, 20.0, limit, others)
    held_out = windows(words.valid, 3 * steps)[-steps:]

    def perplexity():
        return float(
            np.exp(np.mean([float(loss(params, arch, window, 0.0)) for window in held_out]))
        )

    ours = perplexity()
    average = running_averages(lambda: [loss(params, arch, pair[0], 0.0) for pair in pairs[-5:]])
    with mock.patch.object(rnn, "batch_norm", functools.partial(normalised, average)):
        theirs = perplexity()
    sizes = {"nodes": NODES, "units": UNITS, "batch": batch, "vocabulary": len(words.vocabulary)}
    perplexities = {"moments_of_the_batch": ours, "one_pair_of_running_averages": theirs}
    return {"sizes": sizes, **facts, "validation_perplexity": perplexities}


def running_averages(forward: Callable[[], Any]) -> list[np.ndarray]:
    """Mean and variance that one batch norm keeps which sees all states of a cell in their order.

    The momentum is 0.1, as of PyTorch.
    """
    kept, original = [np.zeros(1), np.ones(1)], rnn.batch_norm

    def seen(mean, variance):
        for i, new in enumerate((mean, variance)):
            kept[i] = 0.9 * kept[i] + 0.1 * np.asarray(new)

    def watched(x, **options):
        rows = x.reshape(-1, x.shape[-1])
        variance = jnp.var(rows, axis=0, ddof=1)
        jax.debug.callback(seen, jnp.mean(rows, axis=0), variance, ordered=True)
        return original(x, **options)

    with mock.patch.object(rnn, "batch_norm", watched):
        jax.block_until_ready(forward())
        jax.effects_barrier()
    return kept


def normalised(average: Sequence[np.ndarray], x: jax.Array, **options: Any) -> jax.Array:
    """A state by other moments than its batch's."""
    mean, variance = (jnp.asarray(value, x.dtype)[None, None, None] for value in average)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="", help="Data set of images; default none.")
    parser.add_argument("--data_dir", default="", help="Folder of Penn Treebank; default none.")
    parser.add_argument("--steps", type=int, default=40, help="Steps of training.")
    parser.add_argument("--output", type=Path, help="JSON file to write; default none.")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"epochs": of_epochs()}
    if arguments.data_dir:
        results["penn_treebank"] = of_text(arguments.data_dir, arguments.steps)
        print(json.dumps(results["penn_treebank"], indent=1), flush=True)
    if arguments.images:
        results["cifar10"] = of_images(arguments.images, arguments.steps)
    print(json.dumps(results, indent=1))
    if arguments.output:
        content = {**runs.versions(), **results}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
