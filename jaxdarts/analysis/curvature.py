"""Curvature of a loss in the architecture parameters or the weights, and early stopping by it.

Zela, Elsken, Saikia, Marrakchi, Brox & Hutter, `Understanding and Robustifying Differentiable
Architecture Search <https://arxiv.org/abs/1909.09656>`_, ICLR 2020: the cells that DARTS finds get
worse as the dominant eigenvalue of the Hessian grows. They take it of the loss of one validation
batch, with the moments of that batch, plus 1/2 1e-3 |arch|^2, the weight decay of the architecture
parameters. Here `loss` is what the caller makes it: without that term eigenvalues are less by 1e-3.
"""

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from jaxdarts.types import Arch

Loss = Callable[[Arch], Float[Array, ""]]
"""Architecture parameters -> scalar, at fixed weights and on fixed images."""


def hessian_vector(loss: Loss, arch: Arch, v: Arch) -> Arch:
    """Product of the Hessian of `loss` at `arch` and `v`, shaped like both.

    Forward over reverse: the work of two to three gradients.
    """
    return jax.jvp(jax.grad(loss), (arch,), (v,))[1]


def hessian(loss: Loss, arch: Arch) -> Float[Array, "size size"]:
    """The Hessian over all numbers of `arch`, in the order of `ravel_pytree`.

    It takes `size` products with a vector, one by one.
    """
    flat, unravel = ravel_pytree(arch)
    return lax.map(
        lambda v: ravel_pytree(hessian_vector(loss, arch, unravel(v)))[0],
        jnp.eye(flat.size, dtype=flat.dtype),
    )


def dominant_eigenvalue(
    loss: Loss, arch: Arch, key: Key[Array, ""], num_steps: int = 20
) -> Float[Array, ""]:
    """The eigenvalue of largest magnitude, with its sign, of the Hessian of `loss` at `arch`.

    Published curves show the largest eigenvalue, which is the same unless the most negative one is
    larger in magnitude; at an architecture that descends its loss the dominant one is positive as a
    rule.

    Lanczos' method with full re-orthogonalisation: exact from as many steps as `arch` has numbers
    on; with fewer, never too large in magnitude, and closest for an eigenvalue that stands apart
    from the others, as the dominant one does.

    Args:
        loss: see `Loss`.
        arch: any tree of float arrays.
        key: what the first direction is drawn from.
        num_steps: products with the Hessian, of which each takes two to three gradients.
    """
    flat, _ = ravel_pytree(arch)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    values, _ = lanczos(lambda v: hessian_vector(loss, arch, v), arch, start, num_steps)
    return values[jnp.argmax(jnp.abs(values))]


def lanczos(
    product: Callable[[Any], Any], like: Any, start: Float[Array, " size"], num_steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    """Gauss quadrature of a symmetric matrix as seen from one vector v, by Lanczos iteration.

    sum_i weight_i f(node_i) is about v^T f(A) v / |v|^2.

    Exact for polynomials of a degree below twice the number of steps, and for every function once
    there are as many steps as the matrix has rows. (Golub & Meurant, Matrices, Moments and
    Quadrature, 1994.)

    Args:
        product: a tree -> the matrix times it.
        like: a tree of the shapes that `product` takes.
        start: v, in the order of `ravel_pytree`; not zero.
        num_steps: products; as many vectors are kept, against which every new one is made
          orthogonal.

    Returns:
        Nodes, which lie within the range of the eigenvalues, rising; and weights, which sum to one.
        Where the vectors span fewer than `num_steps` dimensions, zeros of weight zero fill up.
    """
    flat, unravel = ravel_pytree(like)
    num_steps = min(num_steps, flat.size)
    tiny = 10 * flat.size * jnp.finfo(flat.dtype).eps

    def one(carry, i):
        basis, v = carry
        basis = basis.at[i].set(v)
        w = ravel_pytree(product(unravel(v)))[0]
        diagonal, size = v @ w, jnp.linalg.norm(w)
        for _ in range(2):  # once more for what rounding left of the first time
            w = w - (basis @ w) @ basis
        off_diagonal = jnp.linalg.norm(w)
        # An invariant space is used up: from here on every vector and its row are zero, which adds
        # the eigenvalue zero alone.
        used_up = off_diagonal <= tiny * size
        v = jnp.where(used_up, 0, w / jnp.where(used_up, 1, off_diagonal))
        return (basis, v), (diagonal, jnp.where(used_up, 0, off_diagonal))

    first = jnp.zeros((num_steps, flat.size), flat.dtype), start / jnp.linalg.norm(start)
    _, (diagonal, off_diagonal) = lax.scan(one, first, jnp.arange(num_steps))
    beside = jnp.diag(off_diagonal[:-1], 1)
    nodes, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + beside + beside.T)
    return nodes, vectors[0] ** 2


def spectrum(
    product: Callable[[Any], Any], like: Any, keys: Key[Array, " probes"], num_steps: int = 40
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"]]:
    """Density of a symmetric matrix's eigenvalues, as nodes and weights.

    The method is stochastic Lanczos quadrature.

    The mean over random vectors of what `lanczos` sees from each: an unbiased estimate of (1/n)
    trace f(A) as far as the quadrature is exact. (Ghorbani, Krishnan & Xiao, `An Investigation into
    Neural Net Optimization via Hessian Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_,
    ICML 2019.)

    Args:
        product, like, num_steps: as in `lanczos`; `lambda v: hessian_vector(loss, params, v)` for a
          Hessian.
        keys: one for every random vector.
    """
    flat, _ = ravel_pytree(like)
    return lax.map(
        lambda key: lanczos(
            product, like, jax.random.normal(key, flat.shape, flat.dtype), num_steps
        ),
        keys,
    )


def density(
    nodes: Float[Array | np.ndarray, "probes steps"],
    weights: Float[Array | np.ndarray, "probes steps"],
    points: Float[np.ndarray, " points"],
    deviation: float,
) -> Float[np.ndarray, " points"]:
    """The density of eigenvalues at given points.

    Every node of `spectrum` is widened into a normal of a standard deviation.
    """
    apart = (np.asarray(points)[:, None, None] - np.asarray(nodes)[None]) / deviation
    bells = np.exp(-(apart**2) / 2) / (deviation * np.sqrt(2 * np.pi))
    return np.mean(np.sum(np.asarray(weights)[None] * bells, -1), -1)


def local_average(values: Sequence[SupportsFloat] | np.ndarray, window: int = 5) -> np.ndarray:
    """Running mean of a series: every value and its neighbours, half a window on either side.

    There are fewer neighbours where the series begins and ends.

    A search knows an average half a window later than its value. (RobustDARTS, src/utils.py,
    `EVLocalAvg`.)

    Raises:
        ValueError: if the window is even.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}: a centred window has an odd number of values")
    series, half = np.asarray(values, float), window // 2
    return np.array([series[max(i - half, 0) : i + half + 1].mean() for i in range(len(series))])


def stop_epoch(
    epochs: Sequence[int],
    eigenvalues: Sequence[SupportsFloat] | np.ndarray,
    start: int = 10,
    delta: int = 4,
    factor: float = 1.3,
) -> int | None:
    """The epoch to return to if the dominant eigenvalue has grown too fast by now, or None.

    The local average (window 5) over that of `delta` evaluations before must not exceed `factor`.
    The newest average is centred two evaluations back, so that with one every 2 epochs a search
    that stops after epoch e returns to epoch e - 4 - 8; not to one before `start`. Of a longer
    history the first stop counts.

    This is what the authors' code does and its scripts set (DARTS-ES). The paper compares epochs i
    - 5 and i, and stops where the ratio falls below 0.75, a factor of 1.333; the code's comments
    name 20 and 2 for `start` and `delta`.

    Args:
        epochs: when the eigenvalue was taken, evenly spaced. The code takes it once more after a
            search's last epoch, where there is nothing left to stop: leave that value out, unless
            it comes too early to be one of the others (49 after 48, 46, ...), which is seen and
            left out here.
        eigenvalues: one an epoch.

    Raises:
        ValueError: if the lengths differ, or the epochs are not evenly spaced.
    """
    if len(epochs) != len(eigenvalues):
        raise ValueError(f"{len(epochs)} epochs and {len(eigenvalues)} eigenvalues")
    gaps = np.diff(epochs)
    last_is_early = len(gaps) > 1 and 0 < gaps[-1] < gaps[0]
    count = len(epochs) - int(last_is_early)
    gaps = gaps[: max(count - 1, 0)]
    if any(gaps <= 0) or any(gaps != gaps[:1]):
        raise ValueError(
            f"epochs are {list(epochs)}: they must be evenly spaced, the last excepted"
        )
    averages = local_average(eigenvalues[:count])
    for now in range(delta, count - 2):  # the last two still lack neighbours
        before = now - delta
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = averages[now] / averages[before]
        if epochs[before] >= start and growth > factor:
            return epochs[before]
    return None
