"""Bilevel search: the one step that every algorithm shares."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from jaxdarts import descent, hypergrad, once, penalty, perturb
from jaxdarts.relax import Relaxation
from jaxdarts.types import (
    Arch,
    Batch,
    Carry,
    Hypergradient,
    Metrics,
    Mix,
    Objective,
    Params,
    Penalty,
    Perturbation,
)


class Algorithm(NamedTuple):
    """Everything that tells one search algorithm from another.

    relax: how the architecture is parametrised.
    hypergrad: the gradient that the architecture descends.
    perturb: what happens to the mix before a weight step.
    penalty: what is added, once, to the loss that the architecture descends, whichever losses
    `hypergrad` mixes. It sees what `relax.derive` makes of the architecture.
    simultaneous: one level. Weights and architecture descend the training loss together, at one mix
    and by one backward pass; `hypergrad` and `perturb` are not used.
    rule: the gradient that the weights descend, with a state (`descent`). The step inside a
    second-order hypergradient descends the training loss, whatever it is.
    """

    relax: Relaxation
    hypergrad: Hypergradient = hypergrad.first_order
    perturb: Perturbation = perturb.none
    penalty: Penalty = penalty.none
    simultaneous: bool = False
    rule: descent.Rule = descent.training_loss


class Ruled(NamedTuple):
    """State of the weights' optimiser, and that of a rule for their gradient which has one."""

    optimizer: optax.OptState
    rule: Any


def _ruled(optimizer: optax.OptState, rule: Any) -> Any:
    return optimizer if rule is None else Ruled(optimizer, rule)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """State of a search between two steps.

    It has arrays only, so it can be saved, replicated and mapped over.

    Attributes:
        step: number of steps taken.
        key: the search's only random key; every step folds its number into it.
        params, arch: weights and architecture parameters.
        carry: what the objective carries along the training and along the validation stream.
        params_opt, arch_opt: states of the two optimisers; the first one is a `Ruled` where the
            algorithm's rule has a state.
    """

    step: Int32[Array, ""]
    key: Key[Array, ""]
    params: Params
    carry: tuple[Carry, Carry]
    arch: Arch
    params_opt: optax.OptState
    arch_opt: optax.OptState


class Search(NamedTuple):
    """The init, step, derive and price functions that `bilevel_search` returns.

    init: (key, params[, carry]) -> state. step: (state, training batch, validation batch) ->
    (state, metrics). derive: state -> the mix that its architecture stands for, as it was trained
    last. price: state -> the algorithm's penalty and the metrics about it.
    """

    init: Callable[..., SearchState]
    step: Callable[[SearchState, Batch, Batch], tuple[SearchState, Metrics]]
    derive: Callable[[SearchState], Mix]
    price: Callable[[SearchState], tuple[Float[Array, ""], Metrics]]


def bilevel_search(
    objective: Objective,
    algorithm: Algorithm,
    params_tx: optax.GradientTransformation,
    arch_tx: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
) -> Search:
    """Alternates one architecture step on validation data with one weight step on training data.

    This is Algorithm 1 of DARTS.

    With a `simultaneous` algorithm both steps are taken on training data, and the validation batch
    is only looked at. Both functions are pure and not jitted. However many gradients a step takes,
    equal ones are compiled once (`once`).

    Args:
        objective: the loss of a network as a function of weights and mix; see
          `jaxdarts.objectives`.
        algorithm: see `jaxdarts.algorithms`.
        params_tx, arch_tx: the optimisers of the weights and of the architecture parameters. The
            unrolled hypergradients differentiate through the very `params_tx`, which may look at
            the training batch: optax' extra argument `batch`.
        axis_name: the mapped axis when `step` runs inside `jax.pmap`, each device on its part of
            the batches. Gradients, hypergradients and metrics are averaged over it; the network
            must average its batch-norm moments.

    Raises:
        ValueError: if a `simultaneous` algorithm has a rule for the weights' gradient.
    """
    if algorithm.simultaneous and algorithm.rule is not descent.training_loss:
        raise ValueError("a simultaneous algorithm has one gradient for both, so no rule for one")
    relax, params_tx = algorithm.relax, optax.with_extra_args_support(params_tx)
    objective = once.with_gradients(objective)

    def mean(tree):
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def price_of(arch: Arch, step: Array):
        return algorithm.penalty(arch, relax.derive(arch, step), step)

    def init(
        key: Key[Array, ""], params: Params, carry: tuple[Carry, Carry] = ((), ())
    ) -> SearchState:
        arch_key, key = jax.random.split(key)
        arch, params_opt = relax.init(arch_key), params_tx.init(params)
        params_opt = _ruled(params_opt, algorithm.rule.init(params))
        return SearchState(jnp.int32(0), key, params, carry, arch, params_opt, arch_tx.init(arch))

    def step(
        state: SearchState, train_batch: Batch, val_batch: Batch
    ) -> tuple[SearchState, Metrics]:
        # The training key serves the inner step of the hypergradient and the weight step alike:
        # what the former differentiates through is the step that the latter takes.
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 6)
        arch_mix_key, weight_mix_key, train_key, val_key, perturb_key, hypergrad_key = keys
        train_carry, val_carry = state.carry
        ruled: Any = state.params_opt
        params_opt, rule_state = ruled if isinstance(ruled, Ruled) else (ruled, None)

        def train_at(params: Params, mix: Mix):
            return objective(params, mix, train_carry, train_batch, train_key)

        # The average of what is the same on all devices is that same; but its transpose averages
        # the gradient.
        def train(params: Params, arch: Arch):
            loss, aux = train_at(params, relax.apply(mean(arch), arch_mix_key, state.step))
            return mean(loss), aux

        def val(params: Params, arch: Arch):
            mix = relax.apply(mean(arch), arch_mix_key, state.step)
            loss, aux = objective(params, mix, val_carry, val_batch, val_key)
            return mean(loss), aux

        def update_params(*gradients: Params) -> tuple[Params, optax.OptState]:
            params, opt_state = state.params, params_opt
            for gradient in gradients:
                updates, opt_state = params_tx.update(
                    mean(gradient), opt_state, params, batch=train_batch
                )
                params = optax.apply_updates(params, updates)
            return params, opt_state

        def weight_step(*gradients: Params) -> Params:
            return update_params(*gradients)[0]

        def update_arch(hypergradient: Arch) -> tuple[Any, optax.OptState]:
            updates, opt_state = arch_tx.update(hypergradient, state.arch_opt, state.arch)
            return optax.apply_updates(state.arch, updates), opt_state

        # No device's data has a part in it: it is the same on all of them without an average.
        slope, about = jax.grad(price_of, has_aux=True)(state.arch, state.step)
        if algorithm.simultaneous:
            (gradient, hypergradient), (train_carry, train_metrics) = jax.grad(
                train, argnums=(0, 1), has_aux=True
            )(state.params, state.arch)
            val_carry, val_metrics = val(state.params, state.arch)[1]
            hypergradient = optax.tree.add(hypergradient, slope)
            arch, arch_opt = update_arch(hypergradient)
        else:
            hypergradient, (val_carry, val_metrics) = algorithm.hypergrad(
                train, val, state.params, state.arch, weight_step, key=hypergrad_key, has_aux=True
            )
            hypergradient = optax.tree.add(hypergradient, slope)
            arch, arch_opt = update_arch(hypergradient)
            mix = relax.apply(arch, weight_mix_key, state.step)
            mix = algorithm.perturb(
                mix, lambda mix: mean(train_at(state.params, mean(mix))[0]), perturb_key, state.step
            )
            (gradient, (train_carry, train_metrics)), rule_state = algorithm.rule.gradient(
                train_at,
                lambda params: val(params, state.arch),
                state.params,
                mix,
                rule_state,
                state.step,
                mean,
            )
        params, new_opt = update_params(gradient)
        params_opt = _ruled(new_opt, rule_state)

        metrics = {f"train_{name}": value for name, value in train_metrics.items()}
        metrics |= {f"valid_{name}": value for name, value in (val_metrics | about).items()}
        metrics["arch_gradient_norm"] = optax.tree.norm(hypergradient)
        new = SearchState(
            state.step + 1, state.key, params, (train_carry, val_carry), arch, params_opt, arch_opt
        )
        return new, mean(metrics)

    def derive(state: SearchState) -> Mix:
        return relax.derive(state.arch, last_step(state))

    def price(state: SearchState) -> tuple[Float[Array, ""], Metrics]:
        return price_of(state.arch, last_step(state))

    return Search(init, once.folded(step), derive, price)


def last_step(state: SearchState) -> Int32[Array, ""]:
    """The step at which schedules stood when the state was trained last."""
    return jnp.maximum(state.step - 1, 0)
