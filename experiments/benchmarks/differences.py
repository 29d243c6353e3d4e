"""How large some differences from quark0/darts are: python experiments/benchmarks/differences.py

Counts over the epochs of the published sizes; docs/differences.md has the figures.
"""

import json

import numpy as np

from jaxdarts.data import text

BATCH, TRAIN, BPTT, WORDS = 64, 25_000, 35, 929_589
"""Batch and half of CIFAR-10's training images; window and training words of Penn Treebank."""


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


if __name__ == "__main__":
    print(json.dumps(of_epochs(), indent=1))
