"""Training with shared weights, one child a mini-batch.

The ranks of children by their accuracies are studied on it.

Zhang et al., Deeper Insights into Weight Sharing in Neural Architecture Search, 2020. A child is an
array, the number of the operation on each edge, so one compiled step trains all of them, and one
compiled evaluation ranks them. A child that is trained alone is a supernet that is always asked for
the same one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdarts.nn.benchmarks.weight_sharing import SinglePath, prefix, used
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
    step: (state, batch, picks) -> (state, metrics of the batch: loss, accuracy, top5), after a step
    of one child. evaluate: (state, batch, weights, picks) -> sums over the batch of accuracy and
    top5, every example times its weight, of one
        child with the shared weights.
    """

    init: Callable[[Any], SharedState]
    step: Callable[[SharedState, Batch, Picks], tuple[SharedState, Metrics]]
    evaluate: Callable[[SharedState, Batch, Float[Array, " batch"], Picks], Metrics]


def one_child(net: SinglePath, tx: optax.GradientTransformation) -> Sharing:
    """Trains the weights of one child a step.

    Batches are {"image": [batch, height, width, channels], "label": [batch]}.

    The weights of other children, and what the optimiser remembers of them, stay as they are. In
    the authors' code decay and momentum went on moving every weight that had ever been trained,
    since PyTorch before 2.0 fills gradients with zeros; the paper says that only the child's
    weights are updated, which is what is done here.

    Args:
        net: the network.
        tx: the optimiser.
    """

    def init(variables: Any) -> SharedState:
        return SharedState(
            jnp.int32(0),
            variables["params"],
            variables["batch_stats"],
            tx.init(variables["params"]),
        )

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
        child_opt = optax.tree.map_params(
            tx.init, lambda _, mask: mask, opt, mask, transform_non_params=lambda _: np.True_
        )
        params, opt = (
            jax.tree.map(jnp.where, masks, new, old)
            for masks, new, old in ((mask, params, state.params), (child_opt, opt, state.opt))
        )
        return SharedState(state.step + 1, params, averages, opt), metrics

    def evaluate(
        state: SharedState, batch: Batch, weights: Float[Array, " batch"], picks: Picks
    ) -> Metrics:
        logits: Any = net.apply(
            {"params": state.params, "batch_stats": state.averages}, batch["image"], picks
        )
        return {
            name: jnp.sum(weights * value) for name, value in hits(logits, batch["label"]).items()
        }

    return Sharing(init, step, evaluate)


def shared_prefix(
    net: SinglePath,
    tx: optax.GradientTransformation,
    children: Int[Array | np.ndarray, "children edges"],
    cells: int | Array,
) -> Sharing:
    """Training in which the children share only the stem and the first cells.

    It is otherwise `one_child`: every child has the rest, momentum too, for itself.

    All children start from the same weights. `step` and `evaluate` want the number of a child where
    `one_child` wants its operations; the state has one copy of everything for the common part
    ("common") and one for each child ("own").

    Args:
        net: the network.
        tx: the optimiser; what it counts is common.
        children: the operations of each child.
        cells: how many cells are shared; with all of them, the classifier is a child's own. May be
          traced.
    """
    base, children = one_child(net, tx), jnp.asarray(children)

    def init(variables: Any) -> SharedState:
        def pair(tree):
            return {
                "common": tree,
                "own": jax.tree.map(lambda x: jnp.repeat(x[None], len(children), 0), tree),
            }

        state = base.init(variables)
        return SharedState(state.step, pair(state.params), pair(state.averages), pair(state.opt))

    def of(state: SharedState, child) -> SharedState:
        """The training of one child: what is common, and what it has for itself."""
        params = prefix(state.params["common"], cells)
        averages = prefix(state.averages["common"], cells)
        opt = optax.tree.map_params(
            tx.init,
            lambda _, mask: mask,
            state.opt["common"],
            params,
            transform_non_params=lambda _: np.True_,
        )

        def merge(pair, masks):
            return jax.tree.map(
                lambda mask, x, per_child: jnp.where(mask, x, per_child[child]),
                masks,
                pair["common"],
                pair["own"],
            )

        return SharedState(
            state.step,
            merge(state.params, params),
            merge(state.averages, averages),
            merge(state.opt, opt),
        )

    def step(state: SharedState, batch: Batch, child) -> tuple[SharedState, Metrics]:
        def put(pair, new):
            return {
                "common": new,
                "own": jax.tree.map(
                    lambda per_child, x: per_child.at[child].set(x), pair["own"], new
                ),
            }

        new, metrics = base.step(of(state, child), batch, children[child])
        pairs = (
            (getattr(state, name), getattr(new, name)) for name in ("params", "averages", "opt")
        )
        return SharedState(new.step, *(put(*pair) for pair in pairs)), metrics

    def evaluate(
        state: SharedState, batch: Batch, weights: Float[Array, " batch"], child
    ) -> Metrics:
        return base.evaluate(of(state, child), batch, weights, children[child])

    return Sharing(init, step, evaluate)


# --------------------------------------------------------------------------------- which child each
# mini-batch trains: [steps]


def in_turn(members: Sequence[int], steps: int) -> Int[np.ndarray, " steps"]:
    """All members in their own order, round and round.

    >>> in_turn([4, 7], 5)
    array([4, 7, 4, 7, 4])
    """
    return np.resize(np.array(members), steps)


def in_one_order(members: Sequence[int], steps: int, seed: int = 0) -> Int[np.ndarray, " steps"]:
    """Schedule of all members in one random order, round and round.

    It is drawn by NumPy's legacy generator, as in the authors' code.
    """
    return np.resize(np.random.RandomState(seed).permutation(np.array(members)), steps)


def in_new_orders(members: Sequence[int], steps: int, seed: int = 0) -> Int[np.ndarray, " steps"]:
    """Schedule of all members in every round, each time in another random order.

    The last order is shuffled on, as in the authors' code.
    """
    rng, rounds = np.random.RandomState(seed), [np.array(members)]
    for _ in range(-(-steps // len(members))):
        rounds.append(rng.permutation(rounds[-1]))
    return np.concatenate(rounds)[len(members) :][:steps]


# -------------------------------------------------------------------------- who shares weights with
# whom: lists of numbers


def similar_groups(number: int, models: int = 64) -> list[list[int]]:
    """Groups of equal size with similar members: slices of the models' order.

    Neighbours in that order differ in the last edges.

    Raises:
        ValueError: if the groups cannot have equal sizes.

    >>> similar_groups(2, 6)
    [[0, 1, 2], [3, 4, 5]]
    """
    return np.arange(models).reshape(number, _size(number, models)).tolist()


def random_groups(number: int, models: int = 64, seed: int = 42) -> list[list[int]]:
    """Groups of equal size, by a shuffle.

    The default seed is that of the authors' configuration.

    Raises:
        ValueError: if the groups cannot have equal sizes.
    """
    mapping = np.tile(np.arange(number), _size(number, models))
    np.random.RandomState(seed).shuffle(mapping)
    return [np.flatnonzero(mapping == group).tolist() for group in range(number)]


def _size(number: int, models: int) -> int:
    if not 1 <= number <= models or models % number:
        raise ValueError(f"{number} groups: {models} models do not split into groups of equal size")
    return models // number
