"""The hand-off: a trained network as a folder of two plain files, as functions, and as one exported program."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from jaxdarts import genotypes, metrics, spaces
from jaxdarts.data import augment, feed, images, stream
from jaxdarts.types import Module


class Trained(NamedTuple):
    """apply: (params, images) -> logits [batch, classes], from uint8 images [batch, height, width, channels] as stored.

    params: weights and running averages, a pytree.
    """

    apply: Callable[[Any, Array], Array]
    params: Any


def save(folder: str | Path, *, genotype, params: Any, averages: Any, **facts: Any) -> None:
    """Writes `network.json` and `weights.npz`.

    Args:
        folder: where to; files of these names are replaced.
        genotype: the network's cells.
        params, averages: its variables `params` and `batch_stats`.
        facts: width and depth (as of the space's `network`), num_classes, imagenet, mean and std (of every channel, pixels
            scaled to [0, 1]), image_shape, class_names.
    """
    flat = flatten_dict({"params": params, "batch_stats": averages}, sep="/")
    folder = Path(folder)
    metrics.replace_arrays(folder / "weights.npz", flat)
    metrics.replace_text(folder / "network.json", json.dumps({"genotype": str(genotype), **facts}, indent=1) + "\n")


def load(run: str | Path) -> Trained:
    """A trained cell's network as plain functions.

        apply, params = jaxdarts.load("runs/eval-cifar10-...")
        logits = jax.jit(apply)(params, images)

    Args:
        run: a run folder of `experiments/evaluate.py` (of one seed, where it trained several).

    Raises:
        ValueError: if the folder holds no trained network, or not all of it.
    """
    return _functions(*_read(Path(run)))


def _functions(facts: Mapping[str, Any], net: Module, params: Any) -> Trained:
    def apply(params, images):
        mean, std = (np.asarray(facts[name], np.float32) for name in ("mean", "std"))
        pixels = augment.normalize(images, mean, std)
        logits, _ = net.apply(params, pixels, key=jax.random.key(0))  # for noise (S4): one key, so that this is a function
        return logits

    return Trained(apply, params)


def _read(folder: Path) -> tuple[Mapping[str, Any], Module, Any]:
    try:
        facts = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as file:
            params = unflatten_dict({name: jnp.asarray(file[name]) for name in file.files}, sep="/")
        genotype = genotypes.parse(facts["genotype"])
        options = {"imagenet": True} if facts["imagenet"] else {}  # not every space has that stem
        net = spaces.of(genotype).network(genotype, facts["width"], facts["depth"], facts["num_classes"], **options)
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise ValueError(f"{folder} holds no trained network: {error}") from error
    params["params"].pop("auxiliary_head", None)
    params["batch_stats"].pop("auxiliary_head", None)
    return facts, net, params


def accuracy(logits: Callable[[np.ndarray], Array], dataset: images.Dataset | stream.Dataset, batch_size: int = 128) -> float:
    """Share of the test images of a set, in memory or on a disk, whose largest logit is that of their label.

    Args:
        logits: uint8 images [batch_size, height, width, channels] -> logits [batch_size, classes].
        dataset: from `data.images.load` or `data.stream.load`.
        batch_size: images in a batch; the last one is filled up.
    """
    places, weights = feed.filled_up(dataset.test.num, batch_size)
    hits = 0
    with stream.threads() as pool:
        read = feed.host(pool, dataset, places)
        for i in range(len(places)):
            batch = read(i)
            hits += int(np.sum(weights[i] * (np.argmax(np.asarray(logits(batch["image"])), -1) == batch["label"])))
    return hits / dataset.test.num


def image_shape(run: str | Path) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network was trained on; errors as in `load`."""
    height, width, channels = _read(Path(run))[0]["image_shape"]
    return height, width, channels


def export(run: str | Path, path: str | Path, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> None:
    """Writes a trained network, weights and all, as one file that needs nothing but JAX to run.

    Any batch size will do later on: it stays symbolic.
    """
    facts, net, params = _read(Path(run))
    apply, params = _functions(facts, net, params)
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *facts["image_shape"]), jnp.uint8)
    exported = jax.export.export(jax.jit(lambda images: apply(params, images)), platforms=platforms)(images)
    Path(path).write_bytes(exported.serialize())


def read_exported(path: str | Path) -> Callable[[Array], Array]:
    """The function of an exported file: uint8 images [batch, height, width, channels] -> logits [batch, classes]."""
    return jax.export.deserialize(bytearray(Path(path).read_bytes())).call
