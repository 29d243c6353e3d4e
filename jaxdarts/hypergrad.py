"""Gradients of the validation loss with respect to the architecture: d/da val(w'(a), a).

They differ in what the weights w' are taken to be. `first_order` holds them fixed; the others take one step (or several) of
the real optimiser on the training loss, w' = weight_step(grad_w train(w, a)), and differentiate through it: exactly
(`unrolled`, and `unrolled_by_grad`, its definition) or by the paper's `finite_difference`. All share one signature:

    hypergradient(train, val, params, arch, weight_step) -> gradient, shaped like `arch`

    train, val: (params, arch) -> scalar loss, on one training and one validation batch.
    params, arch: weights w and architecture parameters a.
    weight_step: gradient of the training loss -> weights after the step, clipping, momentum, decay and all.

With `has_aux=True` the losses return (scalar, aux) and the result is (gradient, aux of val), as in `jax.grad`. Inside `pmap`,
`weight_step` averages the gradients it is given over the devices and the caller averages the result: transposing the average
inside `weight_step` then averages every other term too.

Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search <https://arxiv.org/abs/1806.09055>`_, ICLR 2019.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdarts.types import Arch, Hypergradient, Loss, Params, WeightStep


def first_order(train: Loss, val: Loss, params: Params, arch: Arch, weight_step: WeightStep, *, has_aux: bool = False):
    """The weights do not depend on the architecture (the paper's xi = 0).

    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(first_order(None, val, -2.0, 2.0, None))
    -4.0
    """
    return jax.grad(val, argnums=1, has_aux=has_aux)(params, arch)


def unrolled(train: Loss, val: Loss, params: Params, arch: Arch, weight_step: WeightStep, *, has_aux: bool = False):
    """Exact gradient through one optimiser step (Eq. 6-7 of the paper, for any optimiser): the default.

    With g(w, a) = grad_w train and v = grad val at w' = weight_step(g), the chain rule gives

        d/da val = grad_a val(w', a) + (d g / d a)^T u,    u = (d weight_step / d g)^T v,

    and, second derivatives being symmetric, (d g / d a)^T u is the derivative of grad_a train along u in w. That takes one
    linearisation, whose primal pass also gives g: no third nested differentiation, and three gradients' work in all.

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(unrolled(train, val, -2.0, 2.0, lambda g: -2.0 - 0.5 * g))
    2.0
    """
    train_gradients = jax.grad(train, argnums=(0, 1), has_aux=has_aux)

    def at(weights):
        gradients = train_gradients(weights, arch)
        return gradients[0] if has_aux else gradients

    (gradient, _), derivative = jax.linearize(at, params)
    stepped, step_transpose = jax.vjp(weight_step, gradient)
    (v, direct), aux = _val_gradients(val, stepped, arch, has_aux)
    (u,) = step_transpose(v)
    _, mixed = derivative(u)
    result = jax.tree.map(jnp.add, direct, mixed)
    return (result, aux) if has_aux else result


def unrolled_by_grad(train: Loss, val: Loss, params: Params, arch: Arch, weight_step: WeightStep, *, has_aux: bool = False):
    """The definition: `jax.grad` of the validation loss after the step. Same value as `unrolled`, more memory and time."""
    return unrolled_steps(1)(train, val, params, arch, weight_step, has_aux=has_aux)


def unrolled_steps(num_steps: int) -> Hypergradient:
    """Exact gradient through `num_steps` optimiser steps on the training loss, by `jax.grad` of the whole.

    `weight_step` is then called with the gradients of all steps so far, in order.

    Raises:
        ValueError: if `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: an unrolled hypergradient takes at least 1 step")

    def hypergradient(train, val, params, arch, weight_step, *, has_aux=False):
        def after_steps(arch):
            weights, gradients = params, []
            for _ in range(num_steps):
                gradient = jax.grad(train, has_aux=has_aux)(weights, arch)
                gradients.append(gradient[0] if has_aux else gradient)
                weights = weight_step(*gradients)
            return val(weights, arch)

        return jax.grad(after_steps, has_aux=has_aux)(arch)

    return hypergradient


def finite_difference(train: Loss, val: Loss, params: Params, arch: Arch, weight_step: WeightStep, *, has_aux: bool = False):
    """The paper's approximation of `unrolled` (Eq. 8): a central difference of grad_a train, at distance 0.01 in weight space.

    Kept for comparison. On networks with relu and max pooling the two points lie across kinks, and the result can be off by
    several times its size, in exact arithmetic too.
    """
    train_weights = jax.grad(train, argnums=0, has_aux=has_aux)(params, arch)
    stepped, step_transpose = jax.vjp(weight_step, train_weights[0] if has_aux else train_weights)
    (v, direct), aux = _val_gradients(val, stepped, arch, has_aux)
    (u,) = step_transpose(v)
    # For SGD u is -lr v, so u / |u| is the paper's direction v / |v| up to the sign that the difference absorbs.
    norm = optax.tree.norm(u)
    radius = 0.01 / jnp.where(norm > 0, norm, 1.0)

    def train_arch(sign):
        weights = jax.tree.map(lambda w, d: w + sign * radius * d, params, u)
        gradient = jax.grad(train, argnums=1, has_aux=has_aux)(weights, arch)
        return gradient[0] if has_aux else gradient

    result = jax.tree.map(lambda d, up, down: d + (up - down) / (2 * radius), direct, train_arch(1), train_arch(-1))
    return (result, aux) if has_aux else result


def _val_gradients(val: Loss, params: Params, arch: Arch, has_aux: bool):
    """Gradients of the validation loss with respect to both arguments, and its auxiliary output or None."""
    out = jax.grad(val, argnums=(0, 1), has_aux=has_aux)(params, arch)
    return out if has_aux else (out, None)
