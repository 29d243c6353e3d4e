"""Gradients of the validation loss with respect to the architecture: d/da val(w'(a), a).

They differ in what the weights w' are taken to be. `first_order` holds them fixed; the others take
one step (or several) of the real optimiser on the training loss, w' = weight_step(grad_w train(w,
a)), and differentiate through it: exactly (`unrolled`, and `unrolled_by_grad`, its definition) or
by the paper's `finite_difference`. All share one signature:

    hypergradient(train, val, params, arch, weight_step) -> gradient, shaped like `arch`

    train, val: (params, arch) -> scalar loss, on one training and one validation batch.
    params, arch: weights w and architecture parameters a.
    weight_step: gradient of the training loss -> weights after the step, clipping, momentum, decay
    and all.

With `has_aux=True` the losses return (scalar, aux) and the result is (gradient, aux of val), as in
`jax.grad`. What draws at random takes a `key`. Inside `pmap` the losses are those of all devices in
value and in their gradient by `arch`, and `weight_step` averages the gradients it is given:
`bilevel_search` hands them over so.

Three more methods change the loss that the architecture descends, and leave the rest to an `inner`
hypergradient of that loss: `mixed_level` adds the training loss, `neighbourhood` aggregates over
similar architectures, `flat_minimum` looks uphill.

Liu, Simonyan & Yang, `DARTS: Differentiable Architecture Search
<https://arxiv.org/abs/1806.09055>`_, ICLR 2019.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxdarts.space import Choices
from jaxdarts.types import Arch, Hypergradient, Loss, Params, WeightStep


def none(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """Zero hypergradient, at no cost: the architecture rests.

    The validation batch is not looked at. What `val` returns besides its loss is zero too.

    >>> val = lambda w, a: (a * w, {"accuracy": w})
    >>> gradient, aux = none(None, val, -2.0, 2.0, None, has_aux=True)
    >>> float(gradient), float(aux["accuracy"])
    (0.0, 0.0)
    """
    zeros = optax.tree.zeros_like(arch)
    if not has_aux:
        return zeros
    _, aux = jax.eval_shape(val, params, arch)
    return zeros, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), aux)


def first_order(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """The weights do not depend on the architecture (the paper's xi = 0).

    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(first_order(None, val, -2.0, 2.0, None))
    -4.0
    """
    return jax.grad(val, argnums=1, has_aux=has_aux)(params, arch)


def unrolled(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """Exact gradient through one optimiser step: the default.

    Eq. 6-7 of the paper, for any optimiser.

    With g(w, a) = grad_w train and v = grad val at w' = weight_step(g), the chain rule gives

        d/da val = grad_a val(w', a) + (d g / d a)^T u,    u = (d weight_step / d g)^T v,

    and, second derivatives being symmetric, (d g / d a)^T u is the derivative of grad_a train along
    u in w: one jvp, no third nested differentiation, and about four gradients' work in all. To
    linearise train's gradient when g is computed would save one of them, and costs more than that:
    all that the derivative needs is then kept over the whole validation pass, three times the
    memory (on a CPU the step was a fifth slower).

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(unrolled(train, val, -2.0, 2.0, lambda g: -2.0 - 0.5 * g))
    2.0
    """

    def of(gradients):
        return gradients[0] if has_aux else gradients

    stepped, step_transpose = jax.vjp(
        weight_step, of(jax.grad(train, has_aux=has_aux)(params, arch))
    )
    (v, direct), aux = _val_gradients(val, stepped, arch, has_aux)
    # Behind the barrier the second look at the training batch starts anew; else XLA would keep all
    # of the first one for it.
    u, params = lax.optimization_barrier((*step_transpose(v), params))
    train_arch = jax.grad(train, argnums=1, has_aux=has_aux)
    _, mixed = jax.jvp(lambda weights: of(train_arch(weights, arch)), (params,), (u,))
    result = jax.tree.map(jnp.add, direct, mixed)
    return (result, aux) if has_aux else result


def unrolled_by_grad(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """Definition of `unrolled`: `jax.grad` of the validation loss after the step.

    The value is that of `unrolled`, for more memory and time.
    """
    return unrolled_steps(1)(train, val, params, arch, weight_step, has_aux=has_aux)


def unrolled_steps(num_steps: int) -> Hypergradient:
    """Exact gradient through `num_steps` optimiser steps on the training loss.

    It is `jax.grad` of the whole.

    `weight_step` is then called with the gradients of all steps so far, in order.

    Raises:
        ValueError: if `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(
            f"num_steps is {num_steps}: an unrolled hypergradient takes at least 1 step"
        )

    def hypergradient(train, val, params, arch, weight_step, *, key=None, has_aux=False):
        def after_steps(arch):
            weights, gradients = params, []
            for _ in range(num_steps):
                gradient = jax.grad(train, has_aux=has_aux)(weights, arch)
                gradients.append(gradient[0] if has_aux else gradient)
                weights = weight_step(*gradients)
            return val(weights, arch)

        return jax.grad(after_steps, has_aux=has_aux)(arch)

    return hypergradient


def finite_difference(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """The paper's approximation of `unrolled` (Eq. 8) by a central difference.

    It is a difference of grad_a train, at distance 0.01 in weight space.

    Kept for comparison. On networks with relu and max pooling the two points lie across kinks, and
    the result can be off by several times its size, in exact arithmetic too.
    """
    train_weights = jax.grad(train, argnums=0, has_aux=has_aux)(params, arch)
    stepped, step_transpose = jax.vjp(weight_step, train_weights[0] if has_aux else train_weights)
    (v, direct), aux = _val_gradients(val, stepped, arch, has_aux)
    (u,) = step_transpose(v)
    # For SGD u is -lr v, so u / |u| is the paper's direction v / |v| up to the sign that the
    # difference absorbs.
    norm = optax.tree.norm(u)
    radius = 0.01 / jnp.where(norm > 0, norm, 1.0)

    def train_arch(sign):
        weights = jax.tree.map(lambda w, d: w + sign * radius * d, params, u)
        gradient = jax.grad(train, argnums=1, has_aux=has_aux)(weights, arch)
        return gradient[0] if has_aux else gradient

    result = jax.tree.map(
        lambda d, up, down: d + (up - down) / (2 * radius), direct, train_arch(1), train_arch(-1)
    )
    return (result, aux) if has_aux else result


def single_level(
    train: Loss,
    val: Loss,
    params: Params,
    arch: Arch,
    weight_step: WeightStep,
    *,
    key=None,
    has_aux: bool = False,
):
    """The gradient of the training loss: no second level. The validation loss is only looked at.

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> float(single_level(train, None, -2.0, 2.0, None))
    8.0
    """
    gradient = jax.grad(train, argnums=1, has_aux=has_aux)(params, arch)
    return (gradient[0], val(params, arch)[1]) if has_aux else gradient


def mixed_level(weight: float = 1.0, inner: Hypergradient = first_order) -> Hypergradient:
    """MiLeNAS: the architecture descends train + weight * val (Eq. 5).

    `inner` says at which weights.

    Zero is `single_level`, and the larger the weight, the nearer to bilevel optimisation. The
    paper's second-order formula has the weight on the training term instead; for 1, the value of
    all published results, they agree, and we follow Eq. 5.

    He, Ye, Shen & Zhang, `MiLeNAS <https://arxiv.org/abs/2003.12238>`_, CVPR 2020.

    >>> train = lambda w, a: w**2 - 2 * a * w + a**2
    >>> val = lambda w, a: a * w - 2 * a + 1
    >>> float(mixed_level(3.0)(train, val, -2.0, 2.0, None))
    -4.0
    """

    def change(train: Loss, val: Loss, key) -> Loss:
        def loss(params, arch):
            (of_train, _), (of_val, aux) = train(params, arch), val(params, arch)
            return of_train + weight * of_val, aux

        return loss

    return _changed(change, inner)


def neighbourhood(
    neighbours: Callable[[Key[Array, ""], Arch], Arch],
    aggregate: Callable[[Float[Array, " neighbours"]], Float[Array, ""]] = jnp.mean,
    inner: Hypergradient = first_order,
) -> Hypergradient:
    """NA-DARTS: the architecture ascends the performance of its neighbourhood, not its own.

    The idea is the paper's; of the paper only the abstract was at hand, so neighbourhood and
    aggregates are a reconstruction.

    Wang, Cao, Li & Kitani, `Neighborhood-Aware Neural Architecture Search
    <https://arxiv.org/abs/2105.06369>`_, BMVC 2021.

    Args:
        neighbours: (key, architecture) -> architectures with a leading axis, of which the first is
          the architecture itself.
        aggregate: of the performances, which are the losses with the sign changed: `jnp.mean`,
          `jnp.median`, `jnp.min`, ...
        inner: the hypergradient of the aggregate.
    """

    def change(train: Loss, val: Loss, key) -> Loss:
        def loss(params, arch):
            # One after another, and each anew in the backward pass: compiled once, with the memory
            # of one.
            losses, aux = jax.lax.map(
                jax.checkpoint(lambda one: val(params, one)), neighbours(key, arch)
            )
            return -aggregate(-losses), jax.tree.map(lambda x: x[0], aux)

        return loss

    return _changed(change, inner)


def mean_minus_deviation(performances: Float[Array, " neighbours"]) -> Float[Array, ""]:
    """An aggregate of `neighbourhood`: their mean less one deviation.

    Where all are the same, the deviation has a derivative of zero.
    """
    variance = jnp.var(performances)
    spread = variance > 0
    return jnp.mean(performances) - jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 0)


def permuted_edges(
    cells: Mapping[str, Choices], num_neighbours: int = 4, distance: int = 1
) -> Callable[[Key[Array, ""], Arch], Arch]:
    """Neighbours that give other operations to `distance` edges.

    The rows of these edges are rotated by a random number of positions.

    A rotated row stands for another operation, stays on the simplex and depends on the architecture
    linearly, so a gradient flows through. Edges are drawn among those of all cells.

    Args:
        cells: the space's cells; the architecture is {cell: [edges, ops]}.
        num_neighbours: besides the architecture itself.
        distance: edges that change.

    Raises:
        ValueError: if a number is negative, or there are fewer edges than `distance`.
    """
    names = sorted(cells)
    counts = [len(cells[name].edges) for name in names]
    if num_neighbours < 0 or not 0 <= distance <= sum(counts):
        raise ValueError(
            f"{num_neighbours} neighbours at distance {distance}: neither may be negative, nor the"
            f" distance above {sum(counts)}"
        )
    lengths = np.array([len(ops) for name in names for ops in cells[name].ops])

    def rotated(key, arch):
        edge_key, shift_key = jax.random.split(key)
        changed = jax.random.permutation(edge_key, sum(counts)) < distance
        shifts = jnp.where(
            changed, jax.random.randint(shift_key, lengths.shape, 1, np.maximum(lengths, 2)), 0
        )
        out, row = {}, 0
        for name, count in zip(names, counts, strict=True):
            columns, row_lengths = np.arange(arch[name].shape[1]), lengths[row : row + count, None]
            moved = (columns[None] + shifts[row : row + count, None]) % row_lengths
            out[name] = jnp.take_along_axis(
                arch[name], jnp.where(columns[None] < row_lengths, moved, columns[None]), axis=1
            )
            row += count
        return out

    def neighbours(key, arch):
        others = (
            jax.vmap(rotated, (0, None))(jax.random.split(key, num_neighbours), arch)
            if num_neighbours
            else None
        )
        unmoved = jax.tree.map(lambda a: a[None], dict(arch))
        return (
            jax.tree.map(lambda a, b: jnp.concatenate([a, b]), unmoved, others)
            if num_neighbours
            else unmoved
        )

    return neighbours


def flat_minimum(
    radius: float = 1e-2, num_steps: int = 1, inner: Hypergradient = first_order
) -> Hypergradient:
    """A2M: gradient of the validation loss at an architecture a few steps uphill.

    The direction is g + radius * H g, gradient and Hessian of the validation loss taken `num_steps`
    steps uphill, a -> a + radius * grad val(a).

    The paper takes H g by a central difference; here it is exact, as the gradient of |g|^2 / 2.

    A2M / FlatDARTS, `arXiv 2503.10404 <https://arxiv.org/abs/2503.10404>`_; radius and steps are
    its code's.
    """

    def change(train: Loss, val: Loss, key) -> Loss:
        def loss(params, arch):
            slope_of = jax.grad(val, argnums=1, has_aux=True)
            for _ in range(num_steps):
                # The way up is a constant: it is at its end that derivatives are taken.
                slope = lax.stop_gradient(slope_of(params, arch)[0])
                arch = jax.tree.map(lambda a, g: a + radius * g, arch, slope)
            value, aux = val(params, arch)
            steepness = optax.tree.norm(slope_of(params, arch)[0], squared=True)
            return value + radius / 2 * steepness, aux

        return loss

    return _changed(change, inner)


def _changed(change: Callable, inner: Hypergradient) -> Hypergradient:
    """`inner` for a changed loss: the one that `change` makes of train, val and key.

    All of them are losses with auxiliary output.
    """

    def hypergradient(train, val, params, arch, weight_step, *, key=None, has_aux=False):
        losses = (
            (train, val) if has_aux else [lambda *args, f=f: (f(*args), ()) for f in (train, val)]
        )
        inner_key = None
        if key is not None:
            key, inner_key = jax.random.split(key)
        result = inner(
            losses[0], change(*losses, key), params, arch, weight_step, key=inner_key, has_aux=True
        )
        return result if has_aux else result[0]

    return hypergradient


def _val_gradients(val: Loss, params: Params, arch: Arch, has_aux: bool):
    """Gradients of the validation loss with respect to both arguments.

    The result also has its auxiliary output or None.
    """
    out = jax.grad(val, argnums=(0, 1), has_aux=has_aux)(params, arch)
    return out if has_aux else (out, None)
