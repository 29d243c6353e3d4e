"""Perturbations of the mix before a weight step.

SmoothDARTS trains the weights not at the mix but around it: E over noise (`random_noise`) or the
maximum over a box (`adversarial`) of the training loss, the noise added to the probabilities, not
to what they are the softmax of.

Chen & Hsieh, `Stabilizing Differentiable Architecture Search via Perturbation-based Regularization
<https://arxiv.org/abs/2002.05283>`_, ICML 2020, Eq. 5-8; details follow xiangning-chen/SmoothDARTS,
attacker/perturb.py.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdarts.space import Choices
from jaxdarts.types import Mix, Perturbation, Schedule, Step


def none(mix: Mix, loss: Callable, key: Key[Array, ""], step: Step) -> Mix:
    """Leaves the mix as it is."""
    return mix


def random_noise(cells: Mapping[str, Choices], epsilon: Schedule) -> Perturbation:
    """SDARTS-RS: noise uniform in [-epsilon, epsilon] on every weight, then `project`."""

    def perturb(mix, loss, key, step):
        shares, totals = _shares(mix)
        return _times(_moved(cells, shares, _noise(cells, key, epsilon(step))), totals)

    return perturb


def adversarial(
    cells: Mapping[str, Choices], epsilon: Schedule, num_steps: int = 7
) -> Perturbation:
    """SDARTS-ADV: projected gradient ascent of the training loss within a box.

    The box has half-width epsilon (L-infinity PGD).

    From a random start, `num_steps` steps along the gradient's sign, each 2 epsilon / num_steps
    long, cut back into the box and projected. Where the loss ends lower than at the mix itself, the
    mix stays as it was. The authors attack a network in evaluation mode, on running averages; a
    supernet here has none and uses the batch's moments, as in training.
    """

    def perturb(mix, loss, key, step):
        box = epsilon(step)
        shares, totals = _shares(mix)
        gradient_at = jax.grad(lambda at: loss(_times(at, totals)))

        def ascend(_, at):
            gradient = gradient_at(at)
            steps = {
                name: at[name] - shares[name] + 2 * box / num_steps * jnp.sign(gradient[name])
                for name in at
            }
            return _moved(
                cells, shares, {name: jnp.clip(step, -box, box) for name, step in steps.items()}
            )

        start = _moved(cells, shares, _noise(cells, key, box))
        worst = _times(jax.lax.fori_loop(0, num_steps, ascend, start), totals)
        higher = loss(worst) >= loss(mix)
        return {name: jnp.where(higher, worst[name], mix[name]) for name in mix}

    return perturb


def project(weights: Float[Array, "edges ops"]) -> Float[Array, "edges ops"]:
    """Projects back onto the simplex, row by row: clipped to [0, 1] and divided by the sum.

    A row of zeros keeps its largest entry.

    >>> project(jnp.array([[0.5, 1.5, -0.2], [-0.1, -0.2, -0.3]]))
    Array([[0.33333334, 0.6666667 , 0.        ],
           [1.        , 0.        , 0.        ]], dtype=float32)
    """
    clipped = jnp.clip(weights, 0, 1)
    largest = jax.nn.one_hot(jnp.argmax(weights, axis=1), weights.shape[1], dtype=weights.dtype)
    total = jnp.sum(clipped, axis=1, keepdims=True)
    clipped = jnp.where(total > 0, clipped, largest)
    return clipped / jnp.sum(clipped, axis=1, keepdims=True)


Rows = Mapping[str, Array]


def _shares(mix: Mix) -> tuple[Rows, Rows]:
    """Every row as probabilities, and its sum.

    With edge normalisation a row sums to its edge's weight. That stays clean, and only the choice
    among operations is perturbed; the paper combines the two methods without saying which.
    """
    totals = {name: jnp.sum(weights, axis=1, keepdims=True) for name, weights in mix.items()}
    # An edge without any weight (a cold softmax over edges, a drawn cell) stays without.
    totals = {
        name: jnp.where(total > jnp.finfo(total.dtype).tiny, total, 0)
        for name, total in totals.items()
    }
    shares = {
        name: jnp.where(totals[name] > 0, weights / jnp.where(totals[name] > 0, totals[name], 1), 0)
        for name, weights in mix.items()
    }
    return shares, totals


def _times(shares: Rows, totals: Rows) -> Rows:
    return {name: shares[name] * totals[name] for name in shares}


def _noise(cells: Mapping[str, Choices], key: Key[Array, ""], epsilon: Array | float) -> Rows:
    keys = jax.random.split(key, len(cells))
    return {
        n: epsilon * jax.random.uniform(k, cells[n].shape, minval=-1, maxval=1)
        for k, n in zip(keys, sorted(cells))
    }


def _moved(cells: Mapping[str, Choices], shares: Rows, shift: Rows) -> Rows:
    # Behind the end of a short row nothing is offered, and nothing may be added.
    return {n: project(jnp.where(cells[n].where(), shares[n] + shift[n], -jnp.inf)) for n in shares}
