"""The beginning of a stage that goes on with all that the stage before has trained (DrNAS)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdarts.bilevel import SearchState
from jaxdarts.commands import programs
from jaxdarts.nn import widening


def restored(folder: Path, like: Any) -> SearchState:
    """The state of a finished stage; `like` is the form of its checkpoints."""
    after = "; restore the folder, or search anew"
    return programs.trained_state(folder, like, None, f"{folder}: ", after)


def carried(
    state: SearchState, before: SearchState, old: widening.Net, new: widening.Net, seed: int
) -> SearchState:
    """The first state of a stage, with weights and alpha of the stage before.

    The momentum of the weights goes with them, and Adam's moments with alpha. Schedules count the
    steps of the new stage.

    Args:
        state: the first state of a search that starts anew, of one seed with a leading axis.
        before: the last state of the stage before, alike.
        old, new: the supernets of both stages.
        seed: draws the channels that are copied.
    """
    fresh, trained = (jax.tree.map(lambda leaf: leaf[0], one) for one in (state, before))

    def weights(tree: Any) -> Any:
        return widening.carried(tree, old, new, np.random.default_rng(seed))

    def arch(tree: Any) -> Any:
        return {
            name: widening.carried_arch(part, old.cells[name], new.cells[name])
            for name, part in tree.items()
        }

    _, as_tree = ravel_pytree(trained.params)
    momentum = as_tree(optax.tree.get(trained.params_opt, "trace"))
    trace = ravel_pytree(weights(momentum))[0]
    moments = {name: optax.tree.get(trained.arch_opt, name) for name in ("count", "mu", "nu")}
    arch_opt = fresh.arch_opt
    if moments["mu"] is not None:  # plain SGD has none
        arch_opt = optax.tree.set(
            arch_opt, count=moments["count"], mu=arch(moments["mu"]), nu=arch(moments["nu"])
        )
    result = dataclasses.replace(
        fresh,
        params=weights(trained.params),
        params_opt=optax.tree.set(fresh.params_opt, trace=trace),
        arch=arch(trained.arch),
        arch_opt=arch_opt,
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], result)
