"""Training with shared weights, one child a mini-batch: what the ranks of children by their accuracies are studied on.

Zhang et al., Deeper Insights into Weight Sharing in Neural Architecture Search, 2020. A child is an array, the number of the
operation on each edge, so one compiled step trains all of them, and one compiled evaluation ranks them. A child that is trained
alone is a supernet that is always asked for the same one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdarts.nn.weight_sharing import SinglePath, used
from jaxdarts.objectives import hits
from jaxdarts.types import Batch, Metrics, Params, Step

Picks = Int[Array, " edges"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedState:
    """Everything that a training with shared weights goes on from."""

    step: Step
    params: Params
    averages: PyTree[Array]
    """The running averages of the batch norms."""
    opt: Any


class Sharing(NamedTuple):
    """Pure functions, not jitted.

    init: variables of the network -> state.
    step: (state, batch, picks) -> (state, metrics of the batch: loss, accuracy, top5), after a step of one child.
    evaluate: (state, batch, weights, picks) -> sums over the batch of accuracy and top5, every example times its weight, of one
        child with the shared weights.
    """

    init: Callable[[Any], SharedState]
    step: Callable[[SharedState, Batch, Picks], tuple[SharedState, Metrics]]
    evaluate: Callable[[SharedState, Batch, Float[Array, " batch"], Picks], Metrics]


def one_child(net: SinglePath, tx: optax.GradientTransformation) -> Sharing:
    """Trains the weights of one child a step, on batches {"image": [batch, height, width, channels], "label": [batch]}.

    The weights of other children, and what the optimiser remembers of them, stay as they are. In the authors' code decay and
    momentum went on moving every weight that had ever been trained, since PyTorch before 2.0 fills gradients with zeros; the
    paper says that only the child's weights are updated, which is what is done here.

    Args:
        net: the network.
        tx: the optimiser.
    """

    def init(variables: Any) -> SharedState:
        return SharedState(jnp.int32(0), variables["params"], variables["batch_stats"], tx.init(variables["params"]))

    def step(state: SharedState, batch: Batch, picks: Picks) -> tuple[SharedState, Metrics]:
        def objective(params: Params):
            variables = {"params": params, "batch_stats": state.averages}
            logits, new = net.apply(variables, batch["image"], picks, True, mutable=["batch_stats"])
            loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
            means = {name: jnp.mean(value) for name, value in hits(logits, batch["label"]).items()}
            return loss, (new["batch_stats"], {"loss": loss, **means})

        gradient, (averages, metrics) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt = tx.update(gradient, state.opt, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        mask = used(net.cells["cell"], state.params, picks)
        own = optax.tree.map_params(tx.init, lambda _, mask: mask, opt, mask, transform_non_params=lambda _: np.True_)
        params, opt = (
            jax.tree.map(jnp.where, masks, new, old)
            for masks, new, old in ((mask, params, state.params), (own, opt, state.opt))
        )
        return SharedState(state.step + 1, params, averages, opt), metrics

    def evaluate(state: SharedState, batch: Batch, weights: Float[Array, " batch"], picks: Picks) -> Metrics:
        logits: Any = net.apply({"params": state.params, "batch_stats": state.averages}, batch["image"], picks)
        return {name: jnp.sum(weights * value) for name, value in hits(logits, batch["label"]).items()}

    return Sharing(init, step, evaluate)


Rule = Literal["fixed", "one", "every"]


def children(rule: Rule, members: Sequence[int], steps: int, seed: int = 0) -> Int[np.ndarray, " steps"]:
    """Which child each mini-batch trains: all members, round and round.

    Args:
        rule: `fixed` for the members' own order, `one` for one random order that repeats, `every` for a new one each round
            (there the last one is shuffled on).
        members: numbers of the children.
        steps: number of mini-batches.
        seed: of NumPy's legacy generator, as in the authors' code.

    >>> children("fixed", [4, 7], 5)
    array([4, 7, 4, 7, 4])
    """
    rng, order = np.random.RandomState(seed), np.array(members)
    rounds = []
    for n in range(-(-steps // len(order))):
        if rule == "every" or (rule == "one" and n == 0):
            rng.shuffle(order)
        rounds.append(order.copy())
    return np.concatenate(rounds)[:steps] if rounds else order[:0]


def groups(kind: Literal["random", "similar"], number: int, models: int = 64, seed: int = 42) -> list[list[int]]:
    """Splits models into groups of equal size, each of which shares weights of its own.

    Args:
        kind: `similar` for slices of the models' order, in which neighbours differ in the last edges; `random` for a shuffle,
            by default with the seed of the authors' configuration.
        number: how many groups.
        models: how many models.
        seed: of the shuffle.

    Raises:
        ValueError: if the groups cannot have equal sizes.

    >>> groups("similar", 2, 6)
    [[0, 1, 2], [3, 4, 5]]
    """
    if not 1 <= number <= models or models % number:
        raise ValueError(f"{number} groups: {models} models do not split into so many of equal size")
    places = np.arange(models)
    mapping = places // (models // number)
    if kind == "random":
        mapping = places % number
        np.random.RandomState(seed).shuffle(mapping)
    return [np.flatnonzero(mapping == group).tolist() for group in range(number)]
