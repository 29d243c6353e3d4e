"""The algorithms that `jaxdarts search --algorithm` names, with the settings of their papers.

One row of `METHODS` for each; `methods` makes them, with the other flags of a search.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdarts import algorithms, hypergrad, spaces
from jaxdarts.bilevel import Algorithm
from jaxdarts.commands import stages
from jaxdarts.space import Space
from jaxdarts.types import Schedule

WITHOUT_NONE = spaces.PRIMITIVES[1:]


class Method(NamedTuple):
    """One algorithm.

    make: (configuration, space, order, ramp) -> Algorithm; ramp: (first value, last value) ->
    schedule over the epochs. always: settings that are part of the method. published: those of its
    paper's search on CIFAR-10, which a data set with a preset of its own size (digits) does
    without. nasbench201: those of its authors' search in NAS-Bench-201 instead, where they have
    one. small: what a data set with a preset of its own size has instead. on_images: settings that
    are part of the method where it searches on images.
    """

    make: Callable[[Any, Space, int, Callable], Algorithm]
    always: Mapping[str, Any] = {}
    published: Mapping[str, Any] = {}
    on_images: Mapping[str, Any] = {}
    small: Mapping[str, Any] = {}
    nasbench201: Mapping[str, Any] | None = None


FIRST = {"unrolled": False}
ALL_IMAGES = {"train_portion": 1.0}
"""One level learns from all images; a text has its validation part apart, which such a search only
looks at.
"""
AGGREGATES: dict[str, Callable] = {
    "mean": jnp.mean,
    "median": jnp.median,
    "minimum": jnp.min,
    "deviation": hypergrad.mean_minus_deviation,
}


def aligned_cells(config: Any, space: Space) -> dict[str, int]:
    """Number of a supernet's normal cells, or of all where there is one kind."""
    net: Any = space.supernet(width=1, depth=stages.of(config).layers, num_classes=1)
    return {name: number for name, number in net.num_cells().items() if name != "reduce"}


def noise(config: Any, ramp: Callable) -> Schedule:
    """SmoothDARTS' largest perturbation of the mix, which rises from 0.03."""
    return ramp(min(0.03, config.epsilon_alpha), config.epsilon_alpha)


def entropy_weights(config: Any, ramp: Callable) -> tuple[Schedule, Schedule]:
    """DA2S' weights of the entropies of operations and of edges."""
    weight, epochs = config.entropy_weight, config.epochs
    operations = algorithms.slow_start(weight, ramp(0.0, epochs), epochs, config.arch_warmup)
    return operations, ramp(0.0, 4 * weight)


METHODS: dict[str, Method] = {
    "darts": Method(lambda c, s, order, ramp: algorithms.darts(s, order)),
    "finite_difference": Method(lambda c, s, order, ramp: algorithms.finite_difference(s), FIRST),
    "sdarts_rs": Method(
        lambda c, s, order, ramp: algorithms.sdarts_rs(s, noise(c, ramp), order),
        FIRST,
        {"ops": WITHOUT_NONE},
    ),
    "sdarts_adv": Method(
        lambda c, s, order, ramp: algorithms.sdarts_adv(s, noise(c, ramp), c.attack_steps, order),
        FIRST,
        {"ops": WITHOUT_NONE},
    ),
    "milenas": Method(
        lambda c, s, order, ramp: algorithms.milenas(s, order, c.lambda_valid), FIRST
    ),
    "idarts": Method(
        lambda c, s, order, ramp: algorithms.idarts(s, c.neumann_terms),
        FIRST,
        nasbench201={"weight_decay": 5e-4, "nesterov": True},
    ),
    "na_darts": Method(
        lambda c, s, order, ramp: algorithms.na_darts(
            s, c.neighbours, c.distance, AGGREGATES[c.aggregate], order
        ),
        FIRST,
    ),
    "a2m": Method(
        lambda c, s, order, ramp: algorithms.a2m(s, c.radius, c.radius_steps, order), FIRST
    ),
    "joint": Method(lambda c, s, order, ramp: algorithms.joint(s), FIRST, on_images=ALL_IMAGES),
    "coordinate_descent": Method(
        lambda c, s, order, ramp: algorithms.coordinate_descent(s), FIRST, on_images=ALL_IMAGES
    ),
    "random_sharing": Method(
        lambda c, s, order, ramp: algorithms.random_sharing(s),
        {**FIRST, "derive": "samples"},
        {"num_samples": 1000},
        # One batch of 512 for each of 100 cells.
        nasbench201={
            "epochs": 250,
            "num_samples": 100,
            "sample_batches": 8,
            "num_finalists": 1,
        },
    ),
    "fixed_alpha": Method(
        lambda c, s, order, ramp: algorithms.fixed_alpha(s),
        {**FIRST, "derive": "perturbation"},
        {"ops": WITHOUT_NONE},
        nasbench201={"epochs": 100, "weight_decay": 3e-4, "nesterov": False},
    ),
    "shapley_nas": Method(
        lambda c, s, order, ramp: algorithms.fixed_alpha(s),
        {**FIRST, "derive": "shapley"},
        # Contributions on 1,024 images.
        {
            "ops": WITHOUT_NONE,
            "batch_size": 256,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "partial": 4,
            "derive_batches": 4,
        },
        nasbench201={"derive_batches": 16},
    ),
    "pc_darts": Method(
        lambda c, s, order, ramp: algorithms.pc_darts(s, order),
        FIRST,
        {
            "batch_size": 256,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "arch_warmup": 15,
        },
        {"partial": 4},
    ),
    "gdas": Method(
        lambda c, s, order, ramp: algorithms.gdas(s, ramp(c.tau_start, c.tau_end), order),
        {**FIRST, "tau_start": 10.0, "tau_end": 0.1},
        {"epochs": 250, "batch_size": 256, "weight_decay": 5e-4, "nesterov": True},
        nasbench201={"epochs": 250},
    ),
    "reinmax": Method(
        lambda c, s, order, ramp: algorithms.reinmax(s, ramp(c.tau_start, c.tau_end)),
        {**FIRST, "tau_start": 1.0, "tau_end": 1.0},
        {"epochs": 250, "batch_size": 256, "weight_decay": 5e-4, "nesterov": True},
        nasbench201={"epochs": 250},
    ),
    "snas": Method(
        lambda c, s, order, ramp: algorithms.snas(s, ramp(c.tau_start, c.tau_end)),
        {**FIRST, "tau_start": 1.0, "tau_end": 0.03},
        {
            "epochs": 150,
            "drop_path_start": 0.3,
            "drop_path_prob": 0.3,
            "log_cost_weight": 1.5e-3,
        },
        ALL_IMAGES,
        nasbench201={"epochs": 150},
    ),
    "drnas": Method(
        lambda c, s, order, ramp: algorithms.drnas(s),
        FIRST,
        {
            "ops": WITHOUT_NONE,
            "epochs": 25,
            "init_channels": 36,
            "layers": 20,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "arch_warmup": 10,
            "stage_keep": (4,),
            "stage_partial": (6, 4),
            "carry_weights": True,
        },
        small={
            "arch_warmup": 4,
            "stage_keep": (4,),
            "stage_partial": (4, 2),
            "carry_weights": True,
        },
        nasbench201={
            "epochs": 100,
            "learning_rate": 0.025,
            "learning_rate_min": 1e-3,
            "arch_learning_rate": 3e-4,
            "weight_decay": 3e-4,
            "nesterov": False,
        },
    ),
    "pdarts": Method(
        lambda c, s, order, ramp: algorithms.darts(s, order),
        FIRST,
        {
            "epochs": 25,
            "batch_size": 96,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "arch_warmup": 10,
            "stage_layers": (5, 11, 17),
        },
        {
            "stage_keep": (5, 3),
            "stage_skip_dropout": (0.1, 0.4, 0.7),
            "arch_grad_clip": 5.0,
            "max_skips": 2,
        },
        {"arch_warmup": 4, "stage_layers": (3, 4, 5)},
    ),
    "fair_darts": Method(
        lambda c, s, order, ramp: algorithms.fair_darts(s, c.zero_one_weight, order),
        FIRST,
        {
            "ops": WITHOUT_NONE,
            "batch_size": 128,
            "learning_rate": 0.005,
            "arch_learning_rate": 3e-3,
            "arch_beta1": 0.9,
        },
    ),
    "darts_minus": Method(
        lambda c, s, order, ramp: algorithms.darts_minus(s, ramp(c.auxiliary_skip, 0.0), order),
        FIRST,
    ),
    "beta_darts": Method(
        lambda c, s, order, ramp: algorithms.beta_darts(s, ramp(0.0, c.beta_weight), order),
        FIRST,
        {"ops": WITHOUT_NONE},
        nasbench201={"epochs": 100, "weight_decay": 3e-4, "nesterov": False},
    ),
    "gaea": Method(
        # Weights of edges belong to partial channels, as in PC-DARTS.
        lambda c, s, order, ramp: algorithms.gaea(s, getattr(c, "partial", 1) > 1, order),
        {
            **FIRST,
            "arch_optimizer": "sgd",
            "arch_learning_rate": 0.1,
            "arch_weight_decay": 0.0,
        },
        {"partial": 4, "batch_size": 256, "learning_rate": 0.1, "learning_rate_min": 0.0},
        nasbench201={
            "epochs": 25,
            "init_channels": 24,
            "weight_decay": 3e-4,
            "nesterov": False,
        },
    ),
    "da2s": Method(
        lambda c, s, order, ramp: algorithms.da2s(s, *entropy_weights(c, ramp), order),
        FIRST,
        {"ops": WITHOUT_NONE, "arch_warmup": 7},
        nasbench201={"arch_warmup": 7},
    ),
    "lambda_darts": Method(
        lambda c, s, order, ramp: algorithms.lambda_darts(
            s,
            aligned_cells(c, s),
            ramp(0.0, c.alignment_weight * c.epochs / max(c.epochs - 1, 1)),
        ),
        FIRST,
        {"ops": WITHOUT_NONE},
        small={"layers": 4},  # of three cells one is normal
        nasbench201={
            "epochs": 100,
            "weight_decay": 3e-4,
            "nesterov": False,
            "arch_learning_rate": 1e-4,
            "alignment_weight": 0.25,
        },
    ),
    "oles": Method(
        lambda c, s, order, ramp: algorithms.oles(s, c.agreement, c.agreement_batches), FIRST
    ),
}
ONLY_FIRST_ORDER = (
    "finite_difference",
    "idarts",
    "joint",
    "coordinate_descent",
    "snas",
    "drnas",
    "random_sharing",
    "fixed_alpha",
    "shapley_nas",
    "reinmax",
    "oles",
    "lambda_darts",
)
"""Methods without an exact second-order form.

They are an approximation of it, have one level or nothing to learn, draw with a second derivative
that JAX does not have, or have a gradient that is none of a function or a rule for that of weights.
"""


DRAWS_ONE = ("gdas", "reinmax", "random_sharing")
"""Methods whose mix has one operation an edge."""
ONLY_ON_IMAGES = {
    "lambda_darts": "a recurrent network has a single cell, whose gradients align with no other's",
    "oles": "an activation has no weights, so there is nothing of an operation to stop",
    "pdarts": "no activation is a skip connection, and a recurrent cell has no depth to grow",
    # All activations of an edge read one matrix product: leaving units out would save nothing, and
    # what would remain of the method, a weight for every edge, is not PC-DARTS.
    "pc_darts": (
        "the activations of a node share one matrix product, so partial channels have nothing to"
        " save"
    ),
    # Sigmoids let several operations and edges win, and drive each to zero or one. A node of a
    # recurrent cell keeps one pair of many near one, chosen by what is left of a saturated sigmoid.
    # Its cure is for skip connections, which there are none of.
    "fair_darts": "a node keeps a single activation on a single edge, so several cannot win",
    # What the auxiliary connection stands in for, s_j itself, is in every edge already: the highway
    # around the activation. `identity` is none: it is the candidate h = s W that the gate lets in.
    "darts_minus": (
        "no activation is a skip connection: the gate of every node has one around each of them"
    ),
}
"""Methods that make no sense in a recurrent cell, and why."""
