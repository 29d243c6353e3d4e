"""ENAS: a policy that draws cells, and a supernet whose weights all of them share, trained in turn.

Pham, Guan, Zoph, Le & Dean, `Efficient Neural Architecture Search via Parameter Sharing
<https://arxiv.org/abs/1802.03268>`_, ICML 2018, over any space of `Choices`: the decisions are
those of the space, the policy's form is the paper's. It draws one-hot mixes, so any supernet
serves. Pure functions, not jitted.

>>> from jaxdarts import spaces
>>> policy = lstm_policy(spaces.nasbench201().cells, hidden=4)
>>> params = policy.init(jax.random.key(0))
>>> drawn = policy.sample(params, jax.random.key(1))
>>> drawn.actions.shape, drawn.mix["cell"].sum(axis=1).tolist()
((6,), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxdarts.space import Choices
from jaxdarts.types import Batch, Metrics, Mix, Objective, Params, Step

Actions = Int[Array, " decisions"]
Choose = Callable[[int, Float[Array, " options"]], Int[Array, ""]]


class Drawn(NamedTuple):
    """One architecture of a policy.

    actions: what was decided, in order.
    mix: the architecture as a one-hot mix.
    log_prob: logarithm of the probability of these actions, in nats.
    entropy: sum of the entropies of the distributions that they were drawn from, in nats.
    """

    actions: Actions
    mix: Mix
    log_prob: Float[Array, ""]
    entropy: Float[Array, ""]


class Policy(NamedTuple):
    """A distribution over the architectures of a space.

    init: key -> parameters.
    sample: (parameters, key) -> an architecture.
    replay: (parameters, actions) -> the architecture of these actions.
    """

    init: Callable[[Key[Array, ""]], Any]
    sample: Callable[[Any, Key[Array, ""]], Drawn]
    replay: Callable[[Any, Actions], Drawn]


def lstm_policy(
    cells: Mapping[str, Choices],
    hidden: int = 100,
    temperature: float = 5.0,
    tanh_constant: float = 2.5,
) -> Policy:
    """A recurrent policy of one layer that decides one thing after another, as in ENAS.

    Where a genotype keeps a given number of edges of a node, it draws them, all different (ENAS
    lets them be equal), by attention to what it remembers of their sources, then the operation of
    each among those other than `none`; where it keeps all edges (NAS-Bench-201), the operation of
    each. Two orders of a node's edges are two sequences of actions, but one architecture. The
    second cell goes on from the memory after the first, with the same weights. No operation is
    favoured from the start, as the two separable convolutions are in ENAS' code.

    Args:
        cells: of the space.
        hidden: units of the network.
        temperature: what logits are divided by.
        tanh_constant: then c tanh(logits) bounds them.

    Raises:
        ValueError: if one of the numbers is not positive.
    """
    if not (hidden > 0 and temperature > 0 and tanh_constant > 0):
        raise ValueError(
            f"hidden={hidden}, temperature={temperature}, tanh_constant={tanh_constant}: they must"
            " be positive"
        )
    names = list(
        dict.fromkeys(op for choices in cells.values() for ops in choices.ops for op in ops)
    )
    ids = {  # of every operation of every edge; what is unused is never drawn
        cell: np.array(
            [
                [names.index(op) for op in ops] + [0] * (choices.shape[1] - len(ops))
                for ops in choices.ops
            ]
        )
        for cell, choices in cells.items()
    }

    def init(key: Key[Array, ""]) -> dict[str, Array]:
        shapes = {
            "start": (hidden,),
            "lstm": (2 * hidden, 4 * hidden),
            "embeddings": (len(names), hidden),
            "ops": (hidden, len(names)),
            "ops_bias": (len(names),),
            "memory": (hidden, hidden),
            "query": (hidden, hidden),
            "attention": (hidden,),
        }
        keys = jax.random.split(key, len(shapes))
        params = {
            name: jax.random.uniform(k, shape, minval=-0.1, maxval=0.1)
            for k, (name, shape) in zip(keys, shapes.items())
        }
        return params | {"ops_bias": jnp.zeros(len(names))}

    def walk(params, choose: Choose) -> Drawn:
        actions: list[Array] = []
        log_prob = entropy = jnp.zeros(())
        h = c = jnp.zeros(hidden)
        x = params["start"]

        def advance(x):
            nonlocal h, c
            i, f, o, g = jnp.split(jnp.concatenate([x, h]) @ params["lstm"], 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)

        def decide(logits, allowed):
            nonlocal log_prob, entropy
            logits = tanh_constant * jnp.tanh(logits / temperature)
            # Not minus infinity, whose product with a probability of zero is NaN.
            log_p = jax.nn.log_softmax(jnp.where(allowed, logits, -1e9))
            action = choose(len(actions), log_p)
            actions.append(action)
            log_prob += log_p[action]
            entropy -= jnp.sum(jnp.exp(log_p) * log_p)
            return action

        def operation(cell, e):
            """Decides the operation of edge `e`, which may be traced.

            Returns its column of the mix and its embedding.
            """
            advance(x)
            candidates = jnp.asarray(ids[cell])[e]
            logits = (h @ params["ops"] + params["ops_bias"])[candidates]
            column = decide(logits, jnp.asarray(cells[cell].derivable())[e])
            return column, params["embeddings"][candidates[column]]

        mix = {}
        for cell, choices in cells.items():
            mix[cell] = jnp.zeros(choices.shape)
            if choices.kept is None:
                for e in range(len(choices.edges)):
                    column, x = operation(cell, e)
                    mix[cell] = mix[cell].at[e, column].set(1)
                continue
            anchors, memories = [], []
            for _ in range(choices.num_inputs):
                advance(x)
                anchors.append(jnp.zeros(hidden))
                memories.append(h @ params["memory"])
            for entering in choices.entering().values():
                sources = np.array([choices.edges[e][0] for e in entering])
                memory, anchor = (jnp.stack(states)[sources] for states in (memories, anchors))
                free, edges = jnp.ones(len(entering), bool), []
                for _ in range(choices.kept):
                    advance(x)
                    query = h @ params["query"]
                    chosen = decide(jnp.tanh(memory + query[None]) @ params["attention"], free)
                    free = free.at[chosen].set(False)
                    edges.append(jnp.asarray(entering)[chosen])
                    x = anchor[chosen]
                for e in edges:
                    column, x = operation(cell, e)
                    mix[cell] = mix[cell].at[e, column].set(1)
                advance(x)
                anchors.append(h)
                memories.append(h @ params["memory"])
                x = params["start"]
        return Drawn(jnp.stack(actions), mix, log_prob, entropy)

    def sample(params, key):
        return walk(
            params, lambda n, log_p: jax.random.categorical(jax.random.fold_in(key, n), log_p)
        )

    return Policy(init, sample, lambda params, actions: walk(params, lambda n, log_p: actions[n]))


def policy_gradient(
    policy: Policy,
    params: Any,
    actions: Int[Array, "samples decisions"],
    advantages: Float[Array, " samples"],
):
    """The mean over samples of advantage times gradient of the log-probability (Williams, 1992).

    Over samples of the policy its mean is the gradient of the expected reward, for advantages that
    are rewards minus anything that does not depend on the sample.
    """

    def value(params):
        return jnp.mean(
            advantages * jax.vmap(lambda sampled: policy.replay(params, sampled).log_prob)(actions)
        )

    return jax.grad(value)(params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EnasState:
    """Everything that a search goes on from."""

    step: Step
    """Weight updates so far."""
    updates: Step
    """Policy updates so far."""
    key: Key[Array, ""]
    params: Params
    params_opt: Any
    policy: Any
    policy_opt: Any
    average: Float[Array, ""]
    """Moving average of the rewards; divided by `weight`, the baseline."""
    weight: Float[Array, ""]


class Enas(NamedTuple):
    """Pure functions, not jitted.

    init: (key, weights) -> state.
    train: (state, training batch) -> (state, metrics), after a step of the weights of one drawn
    cell. control: (state, validation batches [samples, ...]) -> (state, metrics), after a step of
    the policy: reward, entropy, baseline. Every cell is rewarded on a batch of its own.
    """

    init: Callable[[Key[Array, ""], Params], EnasState]
    train: Callable[[EnasState, Batch], tuple[EnasState, Metrics]]
    control: Callable[[EnasState, Batch], tuple[EnasState, Metrics]]


def enas(
    objective: Objective,
    policy: Policy,
    params_tx: optax.GradientTransformation,
    policy_tx: optax.GradientTransformation,
    *,
    samples: int = 10,
    decay: float = 0.99,
    entropy_weight: float = 1e-4,
) -> Enas:
    """ENAS: weight steps on cells that the policy draws, and REINFORCE steps of the policy.

    The baseline is a moving average.

    The reward of a cell is its accuracy on a validation batch with the shared weights and the
    batch's own moments, a fraction, plus its entropy times a weight, without a gradient through it.
    The average includes the present rewards and starts without bias (in ENAS' code, from zero).
    Decay and momentum move all shared weights, drawn or not, as in ENAS' code.

    Args:
        objective: of the supernet, with the metric `accuracy`.
        policy: draws the cells.
        params_tx, policy_tx: optimisers of the shared weights and of the policy.
        samples: cells that are rewarded for each step of the policy.
        decay: of the moving average.
        entropy_weight: share of the entropy in the reward.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}: the policy learns from at least 1")

    def init(key: Key[Array, ""], params: Params) -> EnasState:
        policy_key, key = jax.random.split(key)
        policy_params, zero = policy.init(policy_key), jnp.zeros(())
        none = jnp.int32(0)
        return EnasState(
            none,
            none,
            key,
            params,
            params_tx.init(params),
            policy_params,
            policy_tx.init(policy_params),
            zero,
            zero,
        )

    def train(state: EnasState, batch: Batch) -> tuple[EnasState, Metrics]:
        draw_key, key = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(state.key, 0), state.step)
        )
        mix = policy.sample(state.policy, draw_key).mix
        loss = jax.grad(lambda params: objective(params, mix, (), batch, key), has_aux=True)
        gradient, (_, metrics) = loss(state.params)
        updates, opt = params_tx.update(gradient, state.params_opt, state.params)
        params = optax.apply_updates(state.params, updates)
        return (
            dataclasses.replace(state, step=state.step + 1, params=params, params_opt=opt),
            metrics,
        )

    def control(state: EnasState, batches: Batch) -> tuple[EnasState, Metrics]:
        draw_key, key = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(state.key, 1), state.updates)
        )
        drawn = jax.vmap(policy.sample, (None, 0))(
            state.policy, jax.random.split(draw_key, samples)
        )
        accuracy = lax.map(
            lambda one: objective(state.params, one[0], (), one[1], key)[1][1]["accuracy"],
            (drawn.mix, batches),
        )
        rewards = accuracy + entropy_weight * drawn.entropy
        average = decay * state.average + (1 - decay) * jnp.mean(rewards)
        weight = decay * state.weight + 1 - decay
        baseline = average / weight
        gradient = policy_gradient(policy, state.policy, drawn.actions, rewards - baseline)
        descent = jax.tree.map(jnp.negative, gradient)
        updates, opt = policy_tx.update(descent, state.policy_opt, state.policy)
        policy_params = optax.apply_updates(state.policy, updates)
        new = dataclasses.replace(
            state,
            updates=state.updates + 1,
            policy=policy_params,
            policy_opt=opt,
            average=average,
            weight=weight,
        )
        return new, {
            "reward": jnp.mean(accuracy),
            "entropy": jnp.mean(drawn.entropy),
            "baseline": baseline,
        }

    return Enas(init, train, control)


def best_of(
    policy: Policy, params: Any, key: Key[Array, ""], count: int, score: Callable[[Mix], float]
) -> tuple[Mix, float]:
    """The architecture with the best score among `count` that a policy draws, and its score.

    It is the first of equals.

    Raises:
        ValueError: if `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"count is {count}: the best of none is nothing")
    drawn = jax.vmap(policy.sample, (None, 0))(params, jax.random.split(key, count))
    mixes = [jax.tree.map(lambda m: m[i], drawn.mix) for i in range(count)]
    scores = [float(score(mix)) for mix in mixes]
    best = int(np.argmax(scores))
    return mixes[best], scores[best]
