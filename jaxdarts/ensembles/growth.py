"""Growth of an ensemble by one sub-architecture at a time.

The next one may be deeper, and the ensemble is pruned while it grows.

Cortes, Gonzalvo, Kuznetsov, Mohri & Yang, `AdaNet <https://arxiv.org/abs/1607.01097>`_, ICML 2017,
with the dense generator of SAEP's code (`jaxdarts.ensembles.pruning`): two candidates in every
iteration, as deep as the last one added, and one deeper.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdarts.ensembles import pruning


class Member(NamedTuple):
    """A trained sub-architecture, as what it says.

    depth: its depth.
    fit: its logits on the examples that candidates are chosen and weighed on.
    held: its logits on the examples that the ensemble is pruned on; may be those of `fit`.
    """

    depth: int
    fit: Float[np.ndarray, "examples classes"]
    held: Float[np.ndarray, "held classes"]


class Growth(NamedTuple):
    """An ensemble after some iterations.

    members: all that were ever added, in order.
    kept: the numbers of those that have not been pruned.
    weights: theirs in the mixture of the logits.
    value: the objective on the examples of `fit`.
    """

    members: tuple[Member, ...] = ()
    kept: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    value: float = math.inf


Weigh = Callable[[Array, Array, Array], Float[Array, " members"]]
"""(logits, labels, penalties) -> weights: `ensemble.uniform_weights` or `ensemble.learned_weights`,
jitted or not.
"""


def grow(
    key: Key[Array, ""],
    train: Callable[[int, int], Member],
    labels: Int[np.ndarray, " examples"],
    held_labels: Int[np.ndarray, " held"],
    *,
    start: int = 0,
    criterion: pruning.Criterion | None = None,
    weigh: Weigh = pruning.uniform_weights,
    strength: float = 0.0,
    constant: float = 0.0,
    complexity: Callable[[int], float] = math.sqrt,
) -> Iterator[Growth]:
    """The ensemble after every iteration, for as long as anybody asks.

    Args:
        key: what is random.
        train: (iteration, depth) -> a trained candidate. It sees nothing of the ensemble, so what
            was trained for one growth serves another one.
        labels, held_labels: of the examples of `Member.fit` and `Member.held`.
        start: depth of the shallower candidate of the first iteration.
        criterion: prunes at the beginning of every iteration, once there are three members or more;
            None for never. What is pruned is gone for good, but the next depth follows that of the
            last member added.
        weigh: how the mixture is weighed, anew for every candidate and after pruning.
        strength, constant: AdaNet's lambda and beta: the penalty of a member's absolute weight is
          lambda * complexity + beta.
        complexity: of a depth.
    """

    def weighed(members: tuple[Member, ...], kept: tuple[int, ...]) -> Growth:
        logits = jnp.stack([jnp.asarray(members[i].fit) for i in kept])
        penalties = jnp.array(
            [strength * complexity(members[i].depth) + constant for i in kept], logits.dtype
        )
        weights = weigh(logits, jnp.asarray(labels), penalties)
        value = float(pruning.objective(weights, logits, jnp.asarray(labels), penalties))
        return Growth(members, kept, tuple(float(weight) for weight in weights), value)

    growth = Growth()
    for iteration in itertools.count():
        if criterion is not None and len(growth.kept) > 2:
            held = np.stack(
                [np.asarray(jax.nn.softmax(growth.members[i].held)) for i in growth.kept]
            )
            chosen = criterion(
                jax.random.fold_in(key, iteration), held, held_labels, np.array(growth.weights)
            )
            growth = weighed(growth.members, tuple(growth.kept[i] for i in chosen))
        depth = growth.members[-1].depth if growth.members else start
        candidates = [train(iteration, depth), train(iteration, depth + 1)]
        kept = (*growth.kept, len(growth.members))
        growth = min(
            (weighed((*growth.members, new), kept) for new in candidates),
            key=lambda candidate: candidate.value,
        )
        yield growth
