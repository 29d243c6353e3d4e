"""Feeds of batches to a step: from a copy of the set on every device, or from a disk.

Every function takes a set of either kind, `images.Dataset` or `stream.Dataset`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int32

from jaxdarts import parallel
from jaxdarts.data import images, stream


class Feed(NamedTuple):
    """The data of a mapped step, {"train": ...} or {"test": ...} with a leading axis of devices.

    train: (indices [seeds, steps, batch], epoch) -> (step of the epoch -> data).
    test: (indices [steps, batch]) -> (step -> data).
    """

    train: Callable[[np.ndarray, int], Callable[[int], Any]]
    test: Callable[[np.ndarray], Callable[[int], Any]]


def open_feed(
    pool: ThreadPoolExecutor,
    dataset: images.Dataset | stream.Dataset,
    seeds: Sequence[int],
    devices: Sequence[jax.Device],
) -> Feed:
    """Opens the feed of a training on several seeds and devices.

    A set in memory is copied to every device, and the step takes its images from there
    (`augment.reader`). One on a disk is read in the threads of `pool`, a batch for every seed,
    which is split over the devices (`augment.transform`).
    """
    if isinstance(dataset, images.Dataset):
        copies = parallel.replicate(_arrays(dataset), devices)
        return Feed(lambda indices, epoch: lambda i: copies, lambda indices: lambda i: copies)
    to_train_on, held_out, size = dataset.train, dataset.test, dataset.image_shape[0]

    def train(indices: np.ndarray, epoch: int) -> Callable[[int], Any]:
        pairs = zip(seeds, indices, strict=True)
        each = [
            stream.batches(pool, to_train_on, order, size, (seed, epoch)) for seed, order in pairs
        ]

        def get(i: int) -> Any:
            batches = [batch(i) for batch in each]
            stacked = {
                name: np.stack([batch[name] for batch in batches]) for name in ("image", "label")
            }
            return {
                "train": {
                    name: parallel.split(value, len(devices), axis=1)
                    for name, value in stacked.items()
                }
            }

        return get

    def test(indices: np.ndarray) -> Callable[[int], Any]:
        batch = stream.batches(pool, held_out, indices, size)
        return lambda i: {
            "test": {name: parallel.split(value, len(devices)) for name, value in batch(i).items()}
        }

    return Feed(train, test)


def shapes(dataset: images.Dataset | stream.Dataset, num_seeds: int, batch_size: int) -> Any:
    """Shapes and types of a training step's data on one device, with its own share of a batch."""
    if isinstance(dataset, images.Dataset):
        return jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), _arrays(dataset)
        )
    image = jax.ShapeDtypeStruct((num_seeds, batch_size, *dataset.image_shape), np.uint8)
    return {
        "train": {"image": image, "label": jax.ShapeDtypeStruct((num_seeds, batch_size), np.int32)}
    }


def host(
    pool: ThreadPoolExecutor,
    dataset: images.Dataset | stream.Dataset,
    indices: Int32[np.ndarray, "steps batch"],
) -> Callable[[int], dict[str, np.ndarray]]:
    """Test images as they are, in the memory of the host.

    The result is step -> {"image": [batch, ...], "label": [batch]}.
    """
    if isinstance(dataset, images.Dataset):
        pixels, labels = dataset.test
        return lambda i: {"image": pixels[indices[i]], "label": labels[indices[i]]}
    return stream.batches(pool, dataset.test, indices, dataset.image_shape[0])


def filled_up(
    size: int, batch_size: int
) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
    """Indices of all of `size` examples in batches, and their weights.

    The last batch is filled up with an example of weight zero.

    >>> filled_up(3, 2)[0].tolist(), filled_up(3, 2)[1].tolist()
    ([[0, 1], [2, 2]], [[1.0, 1.0], [1.0, 0.0]])
    """
    padded = np.arange(-(-size // batch_size) * batch_size)
    indices, weights = np.minimum(padded, size - 1), padded < size
    return indices.astype(np.int32).reshape(-1, batch_size), weights.astype(np.float32).reshape(
        -1, batch_size
    )


def _arrays(dataset: images.Dataset) -> Any:
    parts = {"train": dataset.train, "test": dataset.test}
    return {name: {"image": part.images, "label": part.labels} for name, part in parts.items()}
