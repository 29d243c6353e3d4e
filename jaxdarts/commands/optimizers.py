"""The published optimiser of weights and its learning rate."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxdarts.training.schedules import clip_by_global_norm


def cosine_rate(config: Any, epoch: Any, cos: Callable = jnp.cos) -> Any:
    """Learning rate of the weights in an epoch; `cos` is math.cos where it is to be a plain number.

    The cosine of DARTS' official code ends at learning_rate_min, the paper's at zero.
    """
    span = config.learning_rate - config.learning_rate_min
    return config.learning_rate_min + 0.5 * span * (1 + cos(math.pi * epoch / config.epochs))


def weights_optimizer(
    config: Any, rate: Callable[[Any], Any], steps_per_epoch: int
) -> optax.GradientTransformation:
    """The published optimiser of weights; rate: epoch, a traced integer -> learning rate."""

    def schedule(step):
        return rate(jnp.minimum(step // steps_per_epoch, config.epochs))

    # On one long vector: leaf by leaf an update is hundreds of small programs within the step's,
    # each to be compiled.
    return optax.flatten(
        optax.chain(
            clip_by_global_norm(config.grad_clip),
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
        )
    )
