"""Scores of a network that has not been trained; the higher, the better it is said to be.

Each is a pure function of `apply(params, images) -> logits` [batch, classes], which may be any
differentiable JAX function, of its weights and of one batch: {"image": [batch, height, width,
channels], "label": [batch]} or the images alone. Examples may have any shape. Nothing is jitted
here: jit a score as a function of the mix, and one compilation scores all cells of a space
(`nn.nasbench201.Picked` takes operations' numbers instead of a mix, and computes no others):

>>> import jax
>>> from jaxdarts import proxies, spaces
>>> space = spaces.nasbench201()
>>> net = space.supernet(width=2, depth=1, num_classes=2)
>>> images = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
>>> mix = net.example_mix()  # nothing but zeros: no image reaches the output, so all look alike
>>> params = net.init(jax.random.key(1), images, mix)
>>> def score(mix):
...     return proxies.linear_regions(lambda params, x: net.apply(params, x, mix), params, images)
>>> print(jax.jit(score)(mix))
1.0

Norms should use the moments of the batch, as those of supernets do, and of networks with
`train=True`. Weights that a one-hot mix leaves unused add nothing to a supernet's scores by
gradients, but do to `l2_norm` and `parameters`. Compare any score with `parameters` and
`jaxdarts.operation_costs` before believing in it.

A score that cannot be taken is NaN or -inf, as said with each, and never inf; `discrete.ranked`
puts both last. NaN among weights or images makes the scores by gradients NaN.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxdarts.nn.ops import OPS
from jaxdarts.types import Batch, Params

Apply = Callable[[Any, Any], Array]
Score = Float[Array, ""]
Layers = Callable[[Params], list[Float[Array, "layers weights"]]]

# ---------------------------------------------------------------------------------------- gradients


def layers(params: PyTree[Array], ops: Iterable[str] = OPS) -> list[Float[Array, "layers weights"]]:
    """Weights of convolutions and linear layers, one a row: what the scores by weights see.

    Every array of two axes or more, except those whose name ends in scale, shift or bias. The
    weights of this library's cells have axes for cells and edges in front, and each entry of them
    is a layer; `ops` names the operations (`Space.ops` of a space with operations of your own). For
    other arrangements give the scores another function; it gets the weights and
    their gradients alike, so it must be linear.
    """
    matrices = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = _name(path)
        if leaf.ndim > 1 and not name.endswith(_NO_WEIGHTS):
            stacked = 2 if name.startswith(tuple(f"{op}_" for op in ops)) else 0
            matrices.append(leaf.reshape(math.prod(leaf.shape[:stacked]), -1))
    return matrices


_NO_WEIGHTS = ("scale", "shift", "bias")


def _name(path: Sequence) -> str:
    return str(getattr(path[-1], "key", path[-1])) if path else ""


def parameters(params: PyTree[Array]) -> int:
    """The number of all weights: the baseline that a score has to beat."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _gradient(apply: Apply, batch: Batch) -> Callable[[Params], Params]:
    """Gradient of the mean cross-entropy."""

    def loss(params):
        logits = apply(params, batch["image"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))

    return jax.grad(loss)


def _total(function: Callable[..., Array], *trees: Params, layers: Layers) -> Score:
    """The sum over all layers of a function of their weights (and gradients).

    The function maps [layers, weights] to [layers, ...].

    NaN where it is infinite: that is an overflow, which must not rank first.
    """
    rows = zip(*(layers(tree) for tree in trees), strict=True)
    total = sum((jnp.sum(function(*row)) for row in rows), start=jnp.zeros(()))
    return jnp.where(jnp.isinf(total), jnp.nan, total)


def _norms(rows: Float[Array, "layers weights"]) -> Float[Array, " layers"]:
    return jnp.linalg.norm(rows, axis=1)


def l2_norm(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """The sum of the norms of all layers' weights.

    Of the arguments only `params` and `layers` matter.

    This and `grad_norm`, `plain`, `snip` and `grasp` follow Abdelfattah, Mehrotra, Dudziak & Lane,
    `Zero-Cost Proxies for Lightweight NAS <https://arxiv.org/abs/2101.08134>`_, ICLR 2021, with the
    mean cross-entropy of one batch as the loss. They are 0 for a network without layers (see
    `layers`).
    """
    return _total(_norms, params, layers=layers)


def grad_norm(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """The sum of the norms of all layers' gradients; see `l2_norm`.

    0 if nothing reaches the output.
    """
    return _total(_norms, _gradient(apply, batch)(params), layers=layers)


def plain(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """The sum of weight times gradient; see `l2_norm`.

    It is rounding in layers that a batch norm follows: the loss is invariant there.
    """
    return _total(jnp.multiply, params, _gradient(apply, batch)(params), layers=layers)


def snip(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """The sum of |weight times gradient| (Lee, Ajanthan & Torr, ICLR 2019); see `l2_norm`.

    0 if nothing reaches the output.
    """
    return _total(
        lambda w, g: jnp.abs(w * g), params, _gradient(apply, batch)(params), layers=layers
    )


def grasp(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """Minus the sum of weight times (Hessian times gradient); see `l2_norm`.

    Wang, Zhang & Grosse, ICLR 2020.

    The Hessian is that of the layers' weights. 0, which is no low score here, if nothing reaches
    the output.
    """
    gradient = _gradient(apply, batch)
    fixed = gradient(params)
    product = jax.grad(lambda params: _total(jnp.multiply, fixed, gradient(params), layers=layers))(
        params
    )
    return -_total(jnp.multiply, params, product, layers=layers)


def fisher(
    apply: Callable[[Params, Array, Any], Array], params: Params, batch: Batch, taps: PyTree[Array]
) -> Score:
    """Fisher score: half a sum over weights of squared output times gradient.

    Half the sum over weights of the mean over images of (sum over pixels of output times
    gradient)^2, of their channel.

    Turner, Crowley, O'Boyle, Storkey & Gray, `BlockSwap <https://arxiv.org/abs/1906.04113>`_, ICLR
    2020, as in the zero-cost proxies (`l2_norm`), where a channel counts once for each of its
    weights. 0 if nothing reaches the output, NaN where it overflows.

    Args:
        apply: (params, images, taps) -> logits. `nn.taps` says what a tap does to the output of a
            layer; its `of_layers` makes taps for Flax modules of `nn.Conv` and `nn.Dense`, and
            `nn.nasbench201` has them as its collection `taps`.
        params, batch: as in `l2_norm`.
        taps: zeros, [..., batch, channels].
    """

    def loss(taps):
        logits = apply(params, batch["image"], taps)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))

    total = sum(jnp.sum(jnp.square(slope)) for slope in jax.tree.leaves(jax.grad(loss)(taps))) / (
        2 * batch["image"].shape[0]
    )
    return jnp.where(jnp.isinf(total), jnp.nan, total)


def synflow(apply: Apply, params: Params, images: Array, layers: Layers = layers) -> Score:
    """The sum of |weight times derivative of the summed logits|.

    It is for absolute weights and one image of ones.

    Tanaka, Kunin, Yamins & Ganguli, NeurIPS 2020, as in the zero-cost proxies (`l2_norm`), in
    float64 where that is enabled, as there. NaN where it overflows, as it does in float32 for deep
    networks without norms.

    What `apply` does is done, its norms too: this is the variant `synflow_bn`, with the moments of
    that image or with the running averages, as `apply` has it, these not made absolute. For the
    published variant give an `apply` without norms. On NAS-Bench-201 the authors' network keeps the
    batch norms of its two residual blocks, in train mode, and its cells' convolutions have biases:
    `nn.nasbench201.Picked` with normed=False, residual_normed=True and biased=True, which gives
    their number.

    Args:
        images: [batch, ...]; only the shape of an example matters.
    """
    absolute = jax.tree.map(lambda w: jnp.abs(w).astype(jnp.result_type(float)), params)
    ones = jnp.ones((1, *images.shape[1:]), jnp.result_type(float))
    flow = jax.grad(lambda params: jnp.sum(apply(params, ones)))(absolute)
    return _total(lambda w, g: jnp.abs(w * g), absolute, flow, layers=layers)


def zico(apply: Apply, params: Params, batches: Sequence[Batch], layers: Layers = layers) -> Score:
    """ZiCo: the sum over layers of ln of the sum of mean |gradient| / deviation over batches.

    Li, Yang, Bhardwaj & Marculescu, `ZiCo <https://arxiv.org/abs/2301.11300>`_, ICLR 2023. Weights
    whose gradients are the same in all batches do not count, and neither do layers without others:
    0 if nothing reaches the output. NaN where it overflows.

    Args:
        batches: two or more of one size; the authors take two.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(dict, batches))
    gradients = jax.lax.map(lambda batch: layers(_gradient(apply, batch)(params)), stacked)
    total = jnp.zeros(())
    for rows in gradients:
        deviation = jnp.std(rows, axis=0)
        counts = deviation != 0
        ratio = jnp.mean(jnp.abs(rows), axis=0) / jnp.where(counts, deviation, 1)
        sums = jnp.sum(jnp.where(counts, ratio, 0), axis=1)
        total += jnp.sum(jnp.where(sums == 0, 0, jnp.log(jnp.where(sums == 0, 1, sums))))
    return jnp.where(jnp.isinf(total), jnp.nan, total)


def gradsign(apply: Apply, params: Params, batch: Batch, layers: Layers = layers) -> Score:
    """GradSign: the sum over weights of |examples with a positive gradient - with a negative one|.

    Zhang & Jia, `GradSign <https://arxiv.org/abs/2110.08616>`_, ICLR 2022. Each example goes
    through the network alone, so norms use the moments of one example, as in the authors' code. 0
    if nothing reaches the output.
    """

    def add(total, example):
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        signs = [jnp.sign(rows) for rows in layers(_gradient(apply, alone)(params))]
        return [a + b for a, b in zip(total, signs)], None

    zeros = [jnp.zeros_like(rows) for rows in layers(params)]
    examples = {name: batch[name] for name in ("image", "label")}
    total, _ = jax.lax.scan(add, zeros, examples)
    return sum((jnp.sum(jnp.abs(rows)) for rows in total), start=jnp.zeros(()))


# ---------------------------------------------------------------------------------- Gaussian inputs


def gaussian(key: Key[Array, ""], params: Params) -> Params:
    """Random weights for `zen`.

    Standard normal ones where there are two axes or more, scales of 1, shifts and biases of 0.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    drawn = []
    for path, leaf in leaves:
        key, leaf_key = jax.random.split(key)
        name = _name(path)
        if leaf.ndim > 1 and not name.endswith(_NO_WEIGHTS):
            drawn.append(jax.random.normal(leaf_key, leaf.shape, leaf.dtype))
        else:
            drawn.append(jnp.full_like(leaf, 1.0 if name.endswith("scale") else 0.0))
    return jax.tree.unflatten(structure, drawn)


def kaiming(key: Key[Array, ""], params: Params, ops: Iterable[str] = OPS) -> Params:
    """Random weights for `az_nas`: normal ones of variance 2 / fan-in; see `gaussian`.

    `ops` as in `layers`.
    """
    prefixes = tuple(f"{op}_" for op in ops)

    def scale(path, leaf):
        name = _name(path)
        if leaf.ndim < 2 or name.endswith(_NO_WEIGHTS):
            return leaf
        stacked = 2 if name.startswith(prefixes) else 0
        return leaf * math.sqrt(2 / math.prod(leaf.shape[stacked:-1]))

    return jax.tree_util.tree_map_with_path(scale, gaussian(key, params))


def zen(
    features: Callable[[Params, Array], tuple[Array, PyTree[Array]]],
    params: Params,
    images: Array,
    key: Key[Array, ""],
    distance: float = 0.01,
) -> Score:
    """Zen score: ln of how far the last map moves with its image, plus terms of the batch norms.

    The terms are the sum over batch norms of ln of the deviation of their inputs.

    Lin et al., `Zen-NAS <https://arxiv.org/abs/2102.01063>`_, ICCV 2021: standard normal images, of
    which there are 16 there and the mean of 32 repetitions is taken (map this over keys). The
    distance between two maps is the sum of absolute differences, in the mean over images; the
    variance of a norm is that of its whole input, the mean over channels. -inf if nothing reaches
    the map, NaN where it overflows.

    Args:
        features: (params, images) -> (the map before the global average [batch, ...], the batch's
            variances of all norms [..., channels], an entry a norm). With `nn.nasbench201.Picked`:
            the collections `features` and `variances`. Of Flax's own `nn.BatchNorm` with momentum 0
            the new `batch_stats` have them as `var`.
        params: standard normal weights, scales of 1, no shifts (`gaussian`).
        images: [batch, ...]; only the shape matters.
        key: what the images are drawn from.
        distance: how far they move, in their own deviations.
    """
    first, second = (
        jax.random.normal(noise_key, images.shape, images.dtype)
        for noise_key in jax.random.split(key)
    )
    map_, variances = features(params, first)
    moved, _ = features(params, first + distance * second)
    change = jnp.mean(jnp.sum(jnp.abs(map_ - moved).reshape(images.shape[0], -1), axis=1))
    deviations = sum(
        (
            jnp.sum(jnp.log(jnp.mean(variance, axis=-1))) / 2
            for variance in jax.tree.leaves(variances)
        ),
        start=jnp.zeros(()),
    )
    total = jnp.log(change) + deviations
    return jnp.where(jnp.isposinf(total), jnp.nan, total)


# ---------------------------------------------------------------------------------------------- one
# row for each example


def _correlations(apply: Apply, params: Params, images: Array) -> Float[Array, "batch batch"]:
    slopes = jax.grad(lambda images: jnp.sum(apply(params, images)))(images)
    return jnp.corrcoef(slopes.reshape(images.shape[0], -1))


def jacob_cov(apply: Apply, params: Params, images: Array) -> Score:
    """Score from the eigenvalues v of the correlations of the examples' Jacobians.

    Minus the sum of ln(v + 1e-5) + 1 / (v + 1e-5).

    The Jacobian of an example is the derivative of the sum of all logits with respect to it,
    [batch, pixels]. The score of the first version of the paper of `naswot`, under its later name.
    NaN if a Jacobian is constant, as where no image reaches the logits, or if rounding makes an
    eigenvalue fall below -1e-5; equal examples score about -1e5.
    """
    shifted = jnp.linalg.eigvalsh(_correlations(apply, params, images)) + 1e-5
    return -jnp.sum(jnp.log(shifted) + 1 / shifted)


def epe_nas(apply: Apply, params: Params, batch: Batch) -> Score:
    """The sum over classes of |sum of ln(|c| + 1e-5)|.

    c are the correlations of the Jacobians (`jacob_cov`) of its examples.

    Lopes, Alirezazadeh & Alexandre, `EPE-NAS <https://arxiv.org/abs/2102.08099>`_, 2021, the
    formula for up to 100 classes. NaN if a Jacobian is constant.

    Raises:
        ValueError: for more classes.
    """
    classes = jax.eval_shape(apply, params, batch["image"]).shape[-1]
    if classes > 100:
        raise ValueError(
            f"the logits have {classes} classes: EPE-NAS has another formula for more than 100"
        )
    logs = jnp.log(jnp.abs(_correlations(apply, params, batch["image"])) + 1e-5)
    members = jax.nn.one_hot(batch["label"], classes, dtype=logs.dtype)
    return jnp.sum(jnp.abs(jnp.einsum("ic,ij,jc->c", members, logs, members)))


def ntk_condition(apply: Apply, params: Params, images: Array, layers: Layers = layers) -> Score:
    """Minus the condition number of the neural tangent kernel: -1 at best.

    It is the ratio of the largest eigenvalue to the smallest.

    The kernel, [batch, batch], has the products of the gradients of the examples' summed logits.
    Chen, Gong & Wang, ICLR 2021 (see `linear_regions`). -inf where rounding leaves no positive
    smallest eigenvalue, and for NaN.
    """
    logits, pull = jax.vjp(lambda params: jnp.sum(apply(params, images), axis=1), params)

    def row(cotangent):
        return jnp.concatenate([gradient.ravel() for gradient in layers(pull(cotangent)[0])])

    gradients = jax.lax.map(row, jnp.eye(logits.shape[0], dtype=logits.dtype))
    values = jnp.linalg.eigvalsh(gradients @ gradients.T)
    return jnp.where(values[0] > 0, -values[-1] / values[0], -jnp.inf)
