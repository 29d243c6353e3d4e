"""Gradients of the validation loss at weights that training no longer moves, by implicit means.

Where the training loss is least, w*(a) = argmin_w train(w, a), the implicit function theorem gives

    d/da val(w*(a), a) = grad_a val - (d grad_w train / d a)^T H^-1 grad_w val,

with the Hessian H of the training loss by the weights. Both functions of this module take the
weights as they are for w*, look at them with one training and one validation batch, and use only
products with H: `neumann` by a series whose rate is the optimiser's, `conjugate_gradient` by
solving a linear system. They are hypergradients like those of `jaxdarts.hypergrad`.

Lorraine, Vicol & Duvenaud, `Optimizing Millions of Hyperparameters by Implicit Differentiation
<https://arxiv.org/abs/1911.02590>`_, AISTATS 2020.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import lax

from jaxdarts.types import Arch, Hypergradient, Loss, Params


def neumann(num_terms: int = 3) -> Hypergradient:
    """Implicit gradient with H^-1 as a Neumann series whose terms are steps of the optimiser.

    The sum of rate (I - rate H)^k over k < `num_terms` stands for H^-1. The rate is what
    `weight_step` multiplies a gradient by, clipping and all; it does not see weight decay, which is
    no part of the training loss. One term is `hypergrad.unrolled` with both losses at the weights
    before the step. The series converges where the rate is below 2 / (largest eigenvalue of H), and
    no eigenvalue is negative.

    Zhang et al., `iDARTS <https://arxiv.org/abs/2106.10784>`_, ICML 2021; three terms are those of
    its code on NAS-Bench-201 (K = 2), which takes them after four steps on other batches, and the
    derivative by the architecture by a finite difference.

    Raises:
        ValueError: if `num_terms` is not positive.

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> [float(neumann(terms)(train, val, -2.0, 2.0, lambda g: -2 - 0.25 * g)) for terms in (1, 2)]
    [-3.0, -2.5]
    """
    if num_terms < 1:
        raise ValueError(f"num_terms is {num_terms}: a series has at least 1 term")

    def hypergradient(train, val, params, arch, weight_step, *, key=None, has_aux=False):
        train_loss, val_loss = _without_aux(train, has_aux), _with_aux(val, has_aux)
        slope = jax.grad(train_loss)(params, arch)
        _, step_transpose = jax.vjp(weight_step, slope)
        (v, direct), aux = jax.grad(val_loss, argnums=(0, 1), has_aux=True)(params, arch)
        (term,) = step_transpose(v)

        def next_term(carry, _):
            term, total = carry
            (change,) = step_transpose(_hessian_product(train_loss, params, arch)(term))
            term = optax.tree.add(term, change)
            return (term, optax.tree.add(total, term)), None

        (_, total), _ = lax.scan(next_term, (term, term), length=num_terms - 1)
        result = optax.tree.add(direct, _mixed_product(train_loss, params, arch, total))
        return (result, aux) if has_aux else result

    return hypergradient


def conjugate_gradient(
    num_steps: int = 5, damping: float = 0.0, axis_name: str | None = None
) -> Hypergradient:
    """Implicit gradient that solves (H + damping I) x = grad_w val by conjugate gradients.

    The optimiser has no part in it. A network far from its minimum has negative eigenvalues in H,
    which the method is not made for: `damping` above the most negative one's size makes it one.

    Pedregosa, `Hyperparameter Optimization with Approximate Gradient
    <https://arxiv.org/abs/1602.02355>`_, ICML 2016.

    Args:
        num_steps: of the solver, one product with H each.
        damping: added to every eigenvalue of H.
        axis_name: the mapped axis where the hypergradient runs inside `jax.pmap`, as of
            `bilevel_search`.

    Raises:
        ValueError: if `num_steps` is not positive, or `damping` is negative.

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(conjugate_gradient()(train, val, -2.0, 2.0, None))
    -2.0
    """
    if num_steps < 1 or damping < 0:
        raise ValueError(
            f"{num_steps} steps with damping {damping}: at least 1 step, no negative damping"
        )

    def mean(tree):
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def hypergradient(train, val, params, arch, weight_step, *, key=None, has_aux=False):
        train_loss, val_loss = _without_aux(train, has_aux), _with_aux(val, has_aux)
        (v, direct), aux = jax.grad(val_loss, argnums=(0, 1), has_aux=True)(params, arch)
        product = _hessian_product(train_loss, params, arch)

        def damped(x):
            return jax.tree.map(lambda h, x: h + damping * x, mean(product(x)), x)

        solution, _ = jax.scipy.sparse.linalg.cg(damped, mean(v), tol=1e-7, maxiter=num_steps)
        mixed = _mixed_product(train_loss, params, arch, solution)
        result = optax.tree.sub(direct, mixed)
        return (result, aux) if has_aux else result

    return hypergradient


def _without_aux(loss: Loss, has_aux: bool) -> Callable[[Params, Arch], Any]:
    """The loss alone."""
    return (lambda params, arch: loss(params, arch)[0]) if has_aux else loss


def _with_aux(loss: Loss, has_aux: bool) -> Loss:
    """The loss with auxiliary output, () where there is none."""
    return loss if has_aux else lambda params, arch: (loss(params, arch), ())


def _hessian_product(loss: Loss, params: Params, arch: Arch) -> Callable[[Params], Params]:
    """x -> H x, with the Hessian of the loss by the weights; on one device its part of the mean."""

    def product(x: Params) -> Params:
        return jax.jvp(lambda weights: jax.grad(loss)(weights, arch), (params,), (x,))[1]

    return product


def _mixed_product(loss: Loss, params: Params, arch: Arch, x: Params) -> Arch:
    """(d grad_w loss / d a)^T x: the derivative of grad_a loss along x in the weights."""
    return jax.jvp(lambda weights: jax.grad(loss, argnums=1)(weights, arch), (params,), (x,))[1]
