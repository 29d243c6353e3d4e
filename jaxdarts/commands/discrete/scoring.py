"""Scores of untrained networks as values of cells, alone and as sums of ranks.

All cells take their weights from one supernet; a cell is an argument of a score's program.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import proxies, runs
from jaxdarts.commands import datasets
from jaxdarts.data import augment
from jaxdarts.runs import Stop
from jaxdarts.space import Space, one_hot


def of_images(score: Callable) -> Callable:
    """A score that takes images alone, as one that takes a batch."""
    return lambda apply, params, batch: score(apply, params, batch["image"])


SCORES: dict[str, Callable] = {
    **{
        name: getattr(proxies, name)
        for name in ("grad_norm", "snip", "grasp", "plain", "l2_norm", "epe_nas", "gradsign")
    },
    **{
        name: of_images(getattr(proxies, name))
        for name in ("naswot", "linear_regions", "swap", "synflow", "jacob_cov", "ntk_condition")
    },
}


def check(options: Any) -> None:
    """Refuses a score that is not computed here."""
    names = options.score.split("+")
    for name in names:
        if name not in SCORES:
            part = "" if name == options.score else f"no {name!r}, "
            raise Stop(f"--score={options.score}: {part}there are {', '.join(SCORES)}", 2)
    if len({*names}) < len(names):
        raise Stop(f"--score={options.score}: one is named twice", 2)


def score_of(options: Any, space: Space) -> Callable[[Any], float]:
    """The function genotype -> score, or sum of ranks, of the untrained network.

    A cell's rank by a score is its place among `reference` random cells, which the seed draws.
    """
    single = scores_of(options, space)
    if len(single) == 1:
        return next(iter(single.values()))
    key = jax.random.fold_in(jax.random.key(options.seed), 1)
    cells = [space.sample(jax.random.fold_in(key, i)) for i in range(options.reference)]
    ranked = {name: np.array([value(cell) for cell in cells]) for name, value in single.items()}
    return lambda genotype: sum(
        rank_among(ranked[name], value(genotype)) for name, value in single.items()
    )


def rank_among(reference: np.ndarray, value: float) -> float:
    """How many of the reference values are below a value, equal ones half; nan is below all.

    A value above all of them gets up to one more by its distance, so that a search that has passed
    them sees what is better.
    """
    known = reference[np.isfinite(reference)]
    if math.isnan(value):
        return 0.0
    rank = float(np.sum(known < value) + np.sum(known == value) / 2) + len(reference) - len(known)
    if len(known) and value > known.max():
        distance = (value - known.max()) / ((known.max() - np.median(known)) or 1.0)
        rank += float(distance / (1 + distance))
    return rank


def scores_of(options: Any, space: Space) -> dict[str, Callable[[Any], float]]:
    """Each score of `options.score`, a function of the genotype that is compiled once."""
    dataset = datasets.load(options)
    published = space.supernet_size or (16, 8)  # the space refuses below if it has no supernet
    few = any(choices.picks for choices in space.cells.values())  # one cell of each width then
    width = options.init_channels or published[0]
    depth = options.layers or (3 if few else published[1])
    size = options.batch_size or 128
    if size > dataset.train.num:
        raise Stop(
            f"--batch_size={size}: larger than the training set, {dataset.train.num} images", 2
        )
    try:
        net: Any = space.supernet(width=width, depth=depth, num_classes=len(dataset.class_names))
    except ValueError as error:
        raise Stop(
            f"--space={options.space}: {error}; --score scores parts of a supernet", 2
        ) from error
    indices = np.random.default_rng(options.seed).choice(dataset.train.num, size, replace=False)
    pixels, labels = (jnp.asarray(field[indices]) for field in dataset.train)
    batch = {"image": augment.normalize(pixels, dataset.mean, dataset.std), "label": labels}
    noise = jax.random.key(options.seed)  # all cells see the same (S4)
    try:
        params = net.init(jax.random.key(options.seed), batch["image"][:1], net.example_mix())[
            "params"
        ]
    except ValueError as error:
        raise Stop(
            f"--layers={depth} do not fit the images of {options.dataset}: {error}", 2
        ) from error

    def one(name: str) -> Callable[[Any], float]:
        def score(params, mix, batch):
            return SCORES[name](
                lambda weights, x: net.apply({"params": weights}, x, mix, noise), params, batch
            )

        compiled = runs.jitted(score)
        jax.block_until_ready(compiled(params, net.example_mix(), batch))

        def value(genotype) -> float:
            score_of_cell = float(compiled(params, one_hot(space.cells, genotype), batch))
            return score_of_cell if math.isfinite(score_of_cell) else math.nan

        return value

    return {name: one(name) for name in options.score.split("+")}
