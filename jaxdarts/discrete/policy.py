"""A search by policy gradient: one distribution over the operations of each edge."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdarts.discrete.algorithms import Proposals
from jaxdarts.space import Space, locate, seeded


def reinforce(
    key: Key[Array, ""], space: Space, learning_rate: float = 0.01, decay: float = 0.9
) -> Proposals:
    """REINFORCE: draws the operation of every edge from probabilities of its own.

    They ascend the reward above its moving average.

    Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
    Learning, 1992, as NAS-Bench-201 and NATS-Bench use it (AutoDL-Projects,
    exps/NATS-algos/reinforce.py): Adam, one step a trial.

    Args:
        key: what is random.
        space: one whose genotypes keep every edge, such as NAS-Bench-201.
        learning_rate: of Adam; 0.01 in NATS-Bench, 0.5 in the documentation of NAS-Bench-201.
        decay: of the average, which starts without bias and includes the present reward.

    Raises:
        ValueError: if genotypes of the space keep some edges only, since operations do not tell
            which, or if it has no rows of single choices.
    """
    if any(choices.kept is not None for choices in space.cells.values()):
        raise ValueError(
            "REINFORCE draws an operation for every edge; genotypes of this space keep some edges"
            " only"
        )
    if not space.cells or any(choices.picks for choices in space.cells.values()):
        raise ValueError("REINFORCE draws one candidate a row; this space is no list of such rows")
    return _reinforce(key, space, optax.adam(learning_rate), decay)


def _reinforce(
    key: Key[Array, ""], space: Space, tx: optax.GradientTransformation, decay: float
) -> Proposals:
    initial, draws = jax.random.split(key)
    rng = seeded(draws)
    allowed = {name: choices.derivable() for name, choices in space.cells.items()}
    noise = dict(zip(allowed, jax.random.split(initial, len(allowed))))
    logits = {
        name: 1e-3 * jax.random.normal(noise[name], mask.shape) for name, mask in allowed.items()
    }
    state = tx.init(logits)

    def log_probabilities(logits):
        return {
            name: jax.nn.log_softmax(jnp.where(allowed[name], logits[name], -jnp.inf))
            for name in logits
        }

    def loss(logits, picks, advantage):
        log_probs = log_probabilities(logits)
        return -advantage * sum(
            jnp.sum(jnp.take_along_axis(log_probs[name], picks[name][:, None], 1))
            for name in log_probs
        )

    average = weight = 0.0
    while True:
        # The largest of log-probabilities with Gumbel noise is a draw from the probabilities.
        mix: Any = {
            name: np.asarray(row) + rng.gumbel(size=row.shape)
            for name, row in log_probabilities(logits).items()
        }
        trial = yield space.discretize(mix)
        if trial is None:
            continue
        picks = {
            name: np.array([op for _, op in decisions])
            for name, decisions in locate(space.cells, trial.genotype).items()
        }
        average, weight = decay * average + (1 - decay) * trial.value, decay * weight + 1 - decay
        gradient = jax.grad(loss)(logits, picks, trial.value - average / weight)
        updates, state = tx.update(gradient, state, logits)
        logits = optax.apply_updates(logits, updates)
