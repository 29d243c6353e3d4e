"""How batches reach the devices: from a copy of the set that lies on every one of them, or from a disk."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdarts import parallel
from jaxdarts.data import stream


class Feed(NamedTuple):
    """The data argument of a mapped step: {"train": ...} or {"test": ...} with a leading axis of devices.

    train: (places [seeds, steps, batch], epoch) -> (step of the epoch -> data).
    test: (places [steps, batch]) -> (step -> data).
    """

    train: Callable[[np.ndarray, int], Callable[[int], Any]]
    test: Callable[[np.ndarray], Callable[[int], Any]]


def resident(data: Any, devices: Sequence[jax.Device]) -> Feed:
    """The whole set on every device; the step itself takes its images, with `augment.reader`."""
    copies = parallel.replicate(data, devices)
    return Feed(lambda places, epoch: lambda i: copies, lambda places: lambda i: copies)


def streamed(pool: ThreadPoolExecutor, dataset: stream.Dataset, seeds: Sequence[int], num_devices: int) -> Feed:
    """Batches from a disk, split over the devices, for `augment.transform`; in training, one batch for each of the seeds."""
    size = dataset.image_shape[0]

    def train(places: np.ndarray, epoch: int) -> Callable[[int], Any]:
        each = [
            stream.batches(pool, dataset.train, order, size, (seed, epoch)) for seed, order in zip(seeds, places, strict=True)
        ]

        def get(i: int) -> Any:
            batches = [batch(i) for batch in each]
            stacked = {name: np.stack([batch[name] for batch in batches]) for name in ("image", "label")}
            return {"train": {name: parallel.split(value, num_devices, axis=1) for name, value in stacked.items()}}

        return get

    def test(places: np.ndarray) -> Callable[[int], Any]:
        batch = stream.batches(pool, dataset.test, places, size)
        return lambda i: {"test": {name: parallel.split(value, num_devices) for name, value in batch(i).items()}}

    return Feed(train, test)
