"""Fixed orders of the examples of a set."""

import numpy as np


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """A fixed permutation after which both halves have examples of every class that has two."""
    order = permutation(len(labels))
    half = len(order) // 2
    several = np.flatnonzero(np.bincount(labels) > 1)
    if all(np.isin(several, labels[part]).all() for part in (order[:half], order[half:])):
        return order
    # The examples of each class are spread evenly over the order: theirs are the places
    # (i + shift) / count, and with a shift below 1 the first half gets half of them.
    shuffled = labels[order]
    quantiles = np.empty(len(order))
    for label in np.unique(labels):
        (members,) = np.nonzero(shuffled == label)
        quantiles[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(quantiles, kind="stable")]


def permutation(size: int) -> np.ndarray:
    """A fixed permutation."""
    # RandomState, whose stream NumPy has frozen for good; default_rng's may change between
    # versions.
    return np.random.RandomState(0).permutation(size)


def four_fifths(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A training and a test set in a mixed order, as numbers of the examples.

    Every class that has two examples is in both.
    """
    order = mixed_order(labels)
    train, test = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) :]
    counts = np.bincount(labels)
    if not all(
        np.isin(np.flatnonzero(counts > least), labels[part]).all()
        for part, least in ((train, 0), (test, 1))
    ):
        # The last fifth of every class, at least one example of two.
        left = {label: max(count // 5, count > 1) for label, count in enumerate(counts.tolist())}
        held = []
        for i in reversed(order.tolist()):
            if left[label := int(labels[i])]:
                left[label] -= 1
                held.append(i)
        test = np.array(held[::-1], np.int64)
        train = order[~np.isin(order, test)]
    return train, test
