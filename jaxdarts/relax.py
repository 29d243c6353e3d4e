"""Relaxations: from architecture parameters to a mix, the operations' weights on every edge."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

from jaxdarts.space import Choices
from jaxdarts.types import Arch, Mix, Schedule, Step

Cells = Mapping[str, Choices]


class Derive(Protocol):
    """The mix that architecture parameters stand for, at a step."""

    def __call__(self, arch: Arch, step: Step | None = None) -> Mix: ...


class Relaxation(NamedTuple):
    """Parametrisation of an architecture.

    init: key -> architecture parameters.
    apply: (architecture parameters, key, step) -> the mix to train with; it may be drawn at random.
    derive: (architecture parameters[, step]) -> the mix that they stand for, nothing drawn. It is
    validated, priced and made a genotype of. The step is the number of weight updates so far; only
    what changes with it (`annealed`) needs it.
    one_path: whether what `apply` gives has one operation an edge at most, and no gradient but by
    the weight of that one: a supernet may compute no other (`nn.path`).
    """

    init: Callable[[Key[Array, ""]], Arch]
    apply: Callable[[Arch, Key[Array, ""], Step], Mix]
    derive: Derive
    one_path: bool = False


def softmax(cells: Cells, scale: float = 1e-3, mirrored: bool = False) -> Relaxation:
    """A softmax over the operations of every edge (Eq. 2 of Liu, Simonyan & Yang, DARTS, 2019).

    With `mirrored` the gradient by the parameters is that by the mix itself: as if the derivative
    of the softmax were one. A step of plain gradient descent with rate r then multiplies every
    weight by exp(-r gradient) and divides a row by its sum: exponentiated gradient on the simplex.

    Args:
        cells: the space's `Space.cells`.
        scale: deviation of the initial parameters. The paper starts at zero, the official code
            (followed here) at 1e-3 times a standard normal, which also decides the ties of an
            untrained cell.
        mirrored: see above (Li et al., GAEA, 2021).
    """

    def derive(arch, step=None):
        mix = {name: _softmax(alpha, cells[name]) for name, alpha in arch.items()}
        return {name: _straight(mix[name], arch[name]) for name in mix} if mirrored else mix

    return Relaxation(
        lambda key: _normal(cells, key, scale), lambda arch, key, step: derive(arch), derive
    )


def sigmoid(cells: Cells) -> Relaxation:
    """Every operation has a weight of its own between 0 and 1; all start at one half.

    Chu, Zhou, Zhang & Li, `Fair DARTS <https://arxiv.org/abs/1911.12126>`_, ECCV 2020.
    """

    def derive(arch, step=None):
        return {
            name: jnp.where(cells[name].where(), jax.nn.sigmoid(alpha), 0)
            for name, alpha in arch.items()
        }

    return Relaxation(
        lambda key: _normal(cells, key, 0.0), lambda arch, key, step: derive(arch), derive
    )


def edge_softmax(cells: Cells, scale: float = 1e-3, mirrored: bool = False) -> Relaxation:
    """A softmax over operations times a softmax over the edges that enter a node.

    Parameters are {cell: {"ops", "edges"}}. `mirrored` as in `softmax`, for both.

    Xu et al., `PC-DARTS <https://arxiv.org/abs/1907.05737>`_, ICLR 2020, Eq. 4 (edge
    normalisation).
    """

    def init(key):
        ops_key, edges_key = jax.random.split(key)
        ops, keys = _normal(cells, ops_key, scale), jax.random.split(edges_key, len(cells))
        edges = {
            n: scale * jax.random.normal(k, (len(cells[n].edges),))
            for k, n in zip(keys, sorted(cells))
        }
        return {name: {"ops": ops[name], "edges": edges[name]} for name in cells}

    def derive(arch, step=None):
        mix = {}
        for name, weights in arch.items():
            targets = np.array([target for _, target in cells[name].edges])
            entering = targets[:, None] == targets[None]  # the edges that enter the same node
            betas = jax.nn.softmax(jnp.where(entering, weights["edges"][None], -jnp.inf), axis=1)
            ops, of_edge = _softmax(weights["ops"], cells[name]), jnp.diag(betas)
            if mirrored:
                ops, of_edge = _straight(ops, weights["ops"]), _straight(of_edge, weights["edges"])
            mix[name] = ops * of_edge[:, None]
        return mix

    return Relaxation(init, lambda arch, key, step: derive(arch), derive)


def gumbel(
    cells: Cells, temperature: Schedule, hard: bool = False, scale: float = 1e-3
) -> Relaxation:
    """Operations drawn from the softmax by Gumbel noise.

    The mix is softmax((log softmax(a) + g) / temperature).

    Xie et al., `SNAS <https://arxiv.org/abs/1812.09926>`_, ICLR 2019. With `hard` the draw is
    rounded to one operation and keeps the gradient of the unrounded one: Dong & Yang, `GDAS
    <https://arxiv.org/abs/1910.04465>`_, CVPR 2019.

    Args:
        cells: the space's `Space.cells`.
        temperature: by step.
        hard: one operation an edge. Rows of sources (`Choices.picks`) stay soft, as in
          NAS-Bench-1Shot1's GDAS.
        scale: deviation of the initial parameters.
    """
    plain = softmax(cells, scale)

    def apply(arch, key, step):
        mix, keys = {}, jax.random.split(key, len(arch))
        for cell_key, (name, alpha) in zip(keys, sorted(arch.items())):
            noise = jax.random.gumbel(cell_key, alpha.shape)
            # The softmax' denominator is the same for a whole row, so `a` serves as its logarithm.
            soft = _softmax((alpha + noise) / temperature(step), cells[name])
            one_hot = jax.nn.one_hot(jnp.argmax(soft, axis=1), soft.shape[1], dtype=soft.dtype)
            rounded = hard and cells[name].picks is None
            mix[name] = one_hot + soft - lax.stop_gradient(soft) if rounded else soft
        return mix

    return plain._replace(apply=apply)


def drawn(cells: Cells, temperature: Schedule, scale: float = 1e-3) -> Relaxation:
    """One drawn operation an edge, the only one that is looked at: GDAS as its authors compute it.

    The weights are those of a hard `gumbel`, w = onehot(k) + soft - (soft as a constant). There the
    weight of every operation i of an edge with the output y has the gradient <dL/dy, o_i(x)>. The
    authors' code computes the drawn one alone and adds the others' weights, which are zero, as
    numbers, y = w_k o_k(x) + sum of w_i over i != k: each of these has the gradient sum(dL/dy).

    The mix has a column more than there are operations, [edges, ops + 1]: the number that is added
    to all entries of an edge's output.

    Dong & Yang, `GDAS <https://arxiv.org/abs/1910.04465>`_, CVPR 2019, and their code.

    Args:
        cells: the space's `Space.cells`.
        temperature: by step.
        scale: deviation of the initial parameters.

    Raises:
        ValueError: for a space with rows of sources (`Choices.picks`), whose edges have no output
            of their own.
    """
    if any(choices.picks is not None for choices in cells.values()):
        raise ValueError("this space draws sources too: use a hard gumbel")
    hard = gumbel(cells, temperature, hard=True, scale=scale)

    def apply(arch, key, step):
        mix = {}
        for name, weights in hard.apply(arch, key, step).items():
            picks = lax.stop_gradient(weights) > 0.5
            of_drawn = jnp.sum(jnp.where(picks, weights, 0), axis=1, keepdims=True)
            # The weights of a row sum to one.
            others = lax.stop_gradient(of_drawn) - of_drawn
            mix[name] = jnp.concatenate([jnp.where(picks, of_drawn, 0), others], axis=1)
        return mix

    return hard._replace(apply=apply, one_path=True)


def reinmax(cells: Cells, temperature: Schedule, scale: float = 1e-3) -> Relaxation:
    """One drawn operation an edge, with a gradient of second order: ReinMax (Heun's method).

    With p the softmax of a row, D the draw and q = (D + softmax(a / temperature)) / 2 the gradient
    by a row of parameters is 2 J(q) g - J(p) g / 2, where g is that by the mix, and J(w) g is
    w (g - the sum of w g), as a softmax has it. Straight-through has J(p) g.

    Liu, Dong, Liu, Yu & Gao, `Bridging Discrete and Backpropagation
    <https://arxiv.org/abs/2304.08612>`_, NeurIPS 2023, and their code.

    Args:
        cells: the space's `Space.cells`.
        temperature: by step; of the gradient alone, published 1 and above. The draw is at 1.
        scale: deviation of the initial parameters. Rows of sources (`Choices.picks`) stay soft.
    """
    plain = softmax(cells, scale)

    def apply(arch, key, step):
        mix, keys = dict(plain.derive(arch)), jax.random.split(key, len(arch))
        for cell_key, (name, alpha) in zip(keys, sorted(arch.items())):
            if cells[name].picks is not None:
                continue
            soft = lax.stop_gradient(mix[name])
            warm = lax.stop_gradient(_softmax(alpha / temperature(step), cells[name]))
            best = jnp.argmax(jnp.log(soft) + jax.random.gumbel(cell_key, alpha.shape), axis=1)
            draw = jax.nn.one_hot(best, alpha.shape[1], dtype=alpha.dtype)
            line = 2 * _along((draw + warm) / 2, alpha) - _along(soft, alpha) / 2
            mix[name] = _straight(draw, line)
        return mix

    return plain._replace(apply=apply)


def dirichlet(cells: Cells, scale: float = 1e-3) -> Relaxation:
    """Operations' weights drawn from a Dirichlet distribution, differentiably.

    Concentrations are elu(a) + 1.

    A genotype is made of softmax(a), as in the authors' code; on an edge the order is that of the
    distribution's means.

    Chen et al., `DrNAS <https://arxiv.org/abs/2006.10355>`_, ICLR 2021.
    """

    def apply(arch, key, step):
        mix, keys = {}, jax.random.split(key, len(arch))
        for cell_key, (name, alpha) in zip(keys, sorted(arch.items())):
            mix[name] = _softmax(_log_gamma(cell_key, alpha), cells[name])
        return mix

    return softmax(cells, scale)._replace(apply=apply)


def held(relaxation: Relaxation, mix: Mix, decided: Mapping[str, Array]) -> Relaxation:
    """A relaxation in which decided edges have fixed weights; DARTS+PT trains so between decisions.

    Args:
        relaxation: that of the other edges.
        mix: the weights of the decided edges; its other rows are not read.
        decided: mask of the edges of each cell, [edges].
    """

    def fixed(new: Mix) -> Mix:
        out = {}
        for name, weights in new.items():
            # A column for what is added to an edge (`drawn`) is zero where the edge is decided.
            padded = jnp.pad(mix[name], ((0, 0), (0, weights.shape[1] - mix[name].shape[1])))
            out[name] = jnp.where(decided[name][:, None], padded, weights)
        return out

    return relaxation._replace(
        apply=lambda arch, key, step: fixed(relaxation.apply(arch, key, step)),
        derive=lambda arch, step=None: fixed(relaxation.derive(arch, step)),
        one_path=False,
    )


def uniform(cells: Cells) -> Relaxation:
    """Nothing to learn: all operations of an edge have one weight. DARTS+PT with alpha that rests.

    What was trained so is derived by validation, not from the mix, in which all is equal.

    Wang, Cheng, Chen, Tang & Hsieh, `Rethinking Architecture Selection in Differentiable NAS
    <https://arxiv.org/abs/2108.04392>`_, ICLR 2021.
    """

    def derive(arch, step=None):
        return {
            name: _softmax(jnp.zeros(choices.shape), choices) for name, choices in cells.items()
        }

    return Relaxation(lambda key: {}, lambda arch, key, step: derive(arch), derive)


def uniform_path(cells: Cells) -> Relaxation:
    """Nothing to learn: in every step the mix of a random genotype.

    Random search with weight sharing: Li & Talwalkar, `Random Search and Reproducibility for NAS
    <https://arxiv.org/abs/1902.07638>`_, UAI 2019. What was trained so is derived by validating
    drawn cells, not from the mix, in which all is equal.
    """

    def apply(arch, key, step):
        mix, keys = {}, jax.random.split(key, len(cells))
        for cell_key, (name, choices) in zip(keys, sorted(cells.items())):
            edge_key, op_key = jax.random.split(cell_key)
            if choices.picks is not None:
                noise = jnp.where(choices.where(), jax.random.uniform(op_key, choices.shape), -1.0)
                ranks = jnp.argsort(jnp.argsort(-noise, axis=1), axis=1)
                mix[name] = (ranks < np.array(choices.picks)[:, None]).astype(noise.dtype)
                continue
            ops = jax.random.categorical(op_key, jnp.where(choices.derivable(), 0.0, -jnp.inf))
            draws = jax.random.uniform(edge_key, (len(choices.edges),))
            targets = np.array([target for _, target in choices.edges])
            same = targets[:, None] == targets[None]
            rank = jnp.sum(same & (draws[None] > draws[:, None]), axis=1)
            kept = len(targets) if choices.kept is None else choices.kept
            mix[name] = jax.nn.one_hot(ops, choices.shape[1]) * (rank < kept)[:, None]
        return mix

    one_path = all(choices.picks is None for choices in cells.values())
    return uniform(cells)._replace(apply=apply, one_path=one_path)


def annealed(relaxation: Relaxation, temperature: Schedule) -> Relaxation:
    """Any relaxation at a temperature: its parameters are divided by it before they are used.

    The DARTS paper's proposal for closing the gap between the relaxed and the discrete cell
    (section 5). What is derived is as cold as what is trained, so `derive` needs the step.

    Raises:
        ValueError: from `derive` without a step.
    """

    def cooled(arch, step):
        return jax.tree.map(lambda a: a / temperature(step), arch)

    def derive(arch, step=None):
        if step is None:
            raise ValueError("an annealed mix depends on the step: derive(arch, step)")
        return relaxation.derive(cooled(arch, step), step)

    return relaxation._replace(
        apply=lambda arch, key, step: relaxation.apply(cooled(arch, step), key, step),
        derive=derive,
    )


def auxiliary_skip(relaxation: Relaxation, cells: Cells, amount: Schedule) -> Relaxation:
    """A skip connection beside every edge, out of the competition and faded out.

    `amount` is added to its weight.

    Chu et al., `DARTS- <https://arxiv.org/abs/2009.01027>`_, ICLR 2021. On strided edges the
    authors give the auxiliary connection weights of its own; here it shares those of the skip
    connection.

    Raises:
        ValueError: if an edge has no `skip_connect`.
    """
    skips = {
        name: choices.where(lambda op: op == "skip_connect") for name, choices in cells.items()
    }
    for name, is_skip in skips.items():
        if not is_skip.any(1).all():
            edge = cells[name].edges[int(np.argmin(is_skip.any(1)))]
            raise ValueError(
                f"{name}: edge {edge} offers no skip_connect, whose weight the auxiliary one is"
                " added to"
            )

    def apply(arch, key, step):
        return {
            name: mix + amount(step) * skips[name]
            for name, mix in relaxation.apply(arch, key, step).items()
        }

    return relaxation._replace(apply=apply, one_path=False)


LOWEST = -60.0
"""Of a parameter of `dirichlet`: exp(-it) times a logarithm is a number in single precision."""


def _log_gamma(key: Key[Array, ""], alpha: Array) -> Array:
    """Logarithms of draws from gamma distributions with the shapes elu(alpha) + 1.

    A shape below one is exp(alpha): `elu` rounds it to zero from -17 on. Small draws underflow, so
    they are taken from a draw for the shape plus one, times u^(1 / shape), u uniform: in logarithms
    all of it is finite, and so are the derivatives.
    """
    gamma_key, uniform_key = jax.random.split(key)
    low = alpha < 0
    exponent = jnp.where(low, jnp.maximum(alpha, LOWEST), 0)
    shape = jnp.where(low, jnp.exp(exponent) + 1, alpha + 1)
    logs = jax.random.loggamma(gamma_key, shape)
    return logs - jnp.where(
        low, jax.random.exponential(uniform_key, alpha.shape) * jnp.exp(-exponent), 0
    )


def _normal(cells: Cells, key: Key[Array, ""], scale: float) -> Arch:
    keys = jax.random.split(key, len(cells))
    return {
        name: scale * jax.random.normal(k, cells[name].shape)
        for k, name in zip(keys, sorted(cells))
    }


def _along(weights: Array, parameters: Array) -> Array:
    """A linear function of the parameters with the derivatives of a softmax that has the weights.

    The weights count as constant.
    """
    return weights * (parameters - jnp.sum(weights * parameters, axis=1, keepdims=True))


def _straight(values: Array, parameters: Array) -> Array:
    """The values, with a derivative by the parameters of one."""
    return lax.stop_gradient(values) + (parameters - lax.stop_gradient(parameters))


def _softmax(logits: Array, choices: Choices) -> Array:
    used = choices.where()
    return jax.nn.softmax(logits if used.all() else jnp.where(used, logits, -jnp.inf))
