"""The scores of jaxdarts score: what each computes of a network of NAS-Bench-201, and how."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import proxies
from jaxdarts.commands.discrete import scoring
from jaxdarts.nn.benchmarks import nasbench201

Net = nasbench201.Picked


class Score(NamedTuple):
    """One score.

    of: (network, picks, params, batch, key) -> an array, or one for each column.
    options: of the network; `num_classes` is that of the data set where it is not given.
    finish: what the host makes of an array.
    x64: in double precision.
    published: {"kendall" or "spearman": (figure, source)}.
    columns: names of its columns if they are not its own.
    batch_size: number of images in the published setting.
    batches: how many such batches it looks at.
    """

    of: Callable[[Net, Any, Any, Any, Any], Any]
    options: Mapping[str, Any] = {}
    finish: Callable[[np.ndarray], float] = float
    x64: bool = False
    published: Mapping[str, tuple[float, str]] = {}
    columns: tuple[str, ...] = ()
    batch_size: int = 64
    batches: int = 1


def told_units(net: Net, picks) -> Callable[[Any, Any], Any]:
    """(params, images) -> (logits, the network's units)."""
    return lambda params, x: net.apply(params, x, picks, mutable=["units"])


def by_units(net: Net, picks, params, batch, key):
    """How often units of two images agree, counted as in the authors' code."""
    return proxies.declared(told_units(net, picks), params, batch["image"])


def log_det(k: np.ndarray) -> float:
    """NASWOT of K, in double precision, as in the authors' code."""
    return float(np.linalg.slogdet(k.astype(np.float64))[1])


def different(k: np.ndarray) -> float:
    """How many different patterns there are."""
    return float(len(np.unique(k == np.diag(k)[:, None], axis=0)))


def by_outputs(name: str) -> Callable:
    """A score that looks at the network's outputs alone."""
    score = scoring.SCORES[name]
    return lambda net, picks, params, batch, key: score(
        lambda params, x: net.apply(params, x, picks), params, batch
    )


def fisher(net: Net, picks, params, batch, key):
    """With taps on all layers."""
    taps = jax.eval_shape(lambda: net.apply(params, batch["image"], picks, mutable=["taps"])[1])
    zeros = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), taps)

    def logits(params: Any, x: Any, taps: Any) -> Any:
        return net.apply({**params, **taps}, x, picks)

    return proxies.fisher(logits, params, batch, zeros)


def zen(net: Net, picks, params, batch, key):
    """With weights and images of its own; one repetition."""
    images, weights = jax.random.split(key)

    def features(params: Any, x: Any) -> tuple[Any, Any]:
        _, recorded = net.apply(params, x, picks, mutable=["features", "variances"])
        return recorded["features"]["value"][0], recorded["variances"]

    return proxies.zen(features, proxies.gaussian(weights, params), batch["image"], images)


def blocks(net: Net, picks) -> Callable[[Any, Any, Any], list[Any]]:
    """(params, images, cuts) -> the outputs of the network's blocks."""

    def maps(params: Any, x: Any, cuts: Any) -> list[Any]:
        _, recorded = net.apply(params, x, picks, cuts, mutable=["blocks"])
        return list(recorded["blocks"]["value"])

    return maps


def az_nas(net: Net, picks, params, batch, key):
    """With weights and images of its own."""
    images, weights, directions = jax.random.split(key, 3)
    drawn = jax.random.normal(images, batch["image"].shape, batch["image"].dtype)
    params = proxies.kaiming(weights, params)
    return tuple(proxies.az_nas(blocks(net, picks), params, drawn, directions))


def zico(net: Net, picks, params, batch, key):
    """Of the two halves of the batch."""
    halves = jax.tree.map(lambda leaf: jnp.split(leaf, 2), dict(batch))
    batches = [{name: halves[name][i] for name in ("image", "label")} for i in range(2)]

    def logits(params: Any, x: Any) -> Any:
        return net.apply(params, x, picks)

    return proxies.zico(logits, params, batches)


def gradsign_mean(net: Net, picks, params, batch, key):
    """The mean over the weights of the cell's own layers; those of others are zero."""
    return by_outputs("gradsign")(net, picks, params, batch, key) / used_weights(params)


def used_weights(params):
    """The number of weights of the layers whose weights are not all zero."""
    counts = [jnp.any(rows != 0, axis=1).sum() * rows.shape[1] for rows in proxies.layers(params)]
    return sum(counts)


def swap(net: Net, picks, params, batch, key):
    """With weights of its own."""
    weights = proxies.gaussian(key, params)
    return proxies.swap(
        told_units(net, picks), weights, batch["image"], signs=proxies.declared_signs
    )


MELLOR = "Mellor et al., ICML 2021, figure 3: about 1,000 random cells, validation accuracy"
ABDELFATTAH = "Abdelfattah et al., ICLR 2021, notebook of their code: all cells; absolute value"
CHEN = "Chen et al., ICLR 2021 (TE-NAS)"
LEE = "Lee & Ham, CVPR 2024 (AZ-NAS), table 1: all cells, test accuracy"
naswot = functools.partial(
    Score, by_units, finish=log_det, published={"kendall": (0.574, MELLOR)}, batch_size=128
)
SCORES: dict[str, Score] = {
    "naswot": naswot(options={"num_classes": 1}),
    "naswot_as_published": naswot(options={"num_classes": 1, "hooked": True}),
    "linear_regions": Score(by_units, finish=different, published={"kendall": (0.5, CHEN)}),
    "swap": Score(swap, {"num_classes": 1}, batch_size=16),
    "grad_norm": Score(by_outputs("grad_norm"), published={"spearman": (0.594, ABDELFATTAH)}),
    "snip": Score(by_outputs("snip"), published={"spearman": (0.596, ABDELFATTAH)}),
    "grasp": Score(by_outputs("grasp"), published={"spearman": (0.514, ABDELFATTAH)}),
    "fisher": Score(fisher, published={"spearman": (0.36, ABDELFATTAH)}),
    "plain": Score(by_outputs("plain")),
    "l2_norm": Score(by_outputs("l2_norm")),
    "zico": Score(zico, published={"kendall": (0.589, LEE)}, batches=2),
    "gradsign": Score(by_outputs("gradsign"), batch_size=128),
    "gradsign_mean": Score(gradsign_mean, published={"kendall": (0.618, LEE)}),
    "synflow": Score(
        by_outputs("synflow"),
        {"normed": False, "dtype": jnp.float64},
        # No published figure: the authors' network is that of `synflow_as_published`.
        x64=True,
    ),
    "synflow_as_published": Score(
        by_outputs("synflow"),
        {"normed": False, "residual_normed": True, "biased": True, "dtype": jnp.float64},
        x64=True,
        published={"spearman": (0.737, ABDELFATTAH)},
    ),
    "jacob_cov": Score(by_outputs("jacob_cov"), published={"spearman": (0.731, ABDELFATTAH)}),
    "epe_nas": Score(by_outputs("epe_nas")),
    "ntk_condition": Score(
        by_outputs("ntk_condition"), published={"kendall": (0.42, f"{CHEN}, sign turned")}
    ),
    "zen": Score(zen, batch_size=16),
    "az_nas": Score(
        az_nas,
        published={"kendall": (0.741, LEE)},
        columns=("expressivity", "progressivity", "trainability"),
    ),
}
BASELINES = ("parameters", "multiply_adds")
AZ_NAS = (*SCORES["az_nas"].columns, "multiply_adds")
"""What AZ-NAS sums the ranks of: the fourth part, complexity, is the number of multiply-adds."""


def columns(scores: list[str]) -> list[str]:
    """Names of the columns of these scores, in order."""
    return [column for name in scores for column in SCORES[name].columns or (name,)]
