"""The algorithms that `jaxdarts search --algorithm` names, with the settings of their papers."""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import algorithms, files, hypergrad, penalty, relax, spaces
from jaxdarts.commands import stages
from jaxdarts.count import operation_costs
from jaxdarts.runs import Stop
from jaxdarts.search import Algorithm
from jaxdarts.space import Choices, Space
from jaxdarts.training.schedules import clip_by_global_norm

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


NAMED = tuple(
    name
    for name, build in spaces.BY_NAME.items()
    if name != "darts" and (space := build()).supernet_size and space.cost
)
"""Spaces of images with a supernet, and with networks that `evaluate` trains; all but darts, which
has flags of its own.
"""
SPACE_SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nasbench201": ({"layers": 1}, {"layers": 5, "weight_decay": 5e-4, "nesterov": True}),
    **dict.fromkeys(
        ("nasbench1shot1_s1", "nasbench1shot1_s2", "nasbench1shot1_s3"),
        ({"layers": 3}, {"layers": 9, "batch_size": 96}),
    ),
}
"""What a space changes in a preset: in a small one, and in one of the papers' setting."""
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
METHODS: dict[str, Method] = {
    "darts": Method(lambda c, s, order, ramp: algorithms.darts(s, order)),
    "sdarts_rs": Method(
        lambda c, s, order, ramp: algorithms.sdarts_rs(
            s, ramp(min(0.03, c.epsilon_alpha), c.epsilon_alpha), order
        ),
        FIRST,
        {"ops": WITHOUT_NONE},
    ),
    "sdarts_adv": Method(
        lambda c, s, order, ramp: algorithms.sdarts_adv(
            s, ramp(min(0.03, c.epsilon_alpha), c.epsilon_alpha), c.attack_steps, order
        ),
        FIRST,
        {"ops": WITHOUT_NONE},
    ),
    "milenas": Method(
        lambda c, s, order, ramp: algorithms.milenas(s, order, c.lambda_valid), FIRST
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
        lambda c, s, order, ramp: algorithms.da2s(
            s,
            algorithms.slow_start(c.entropy_weight, ramp(0.0, c.epochs), c.epochs, c.arch_warmup),
            ramp(0.0, 4 * c.entropy_weight),
            order,
        ),
        FIRST,
        {"ops": WITHOUT_NONE, "arch_warmup": 7},
        nasbench201={"arch_warmup": 7},
    ),
    "oles": Method(
        lambda c, s, order, ramp: algorithms.oles(s, c.agreement, c.agreement_batches),
        FIRST,
        {"ops": WITHOUT_NONE},
        nasbench201={"weight_decay": 3e-4, "nesterov": False},
    ),
}
ONLY_FIRST_ORDER = (
    "joint",
    "coordinate_descent",
    "snas",
    "drnas",
    "random_sharing",
    "fixed_alpha",
    "shapley_nas",
    "reinmax",
    "oles",
)
"""Methods without a second-order form: one level, nothing to learn, a draw whose second derivative
JAX does not have, a gradient that is none of a function, or a rule for the weights' gradient.
"""


ONLY_ON_IMAGES = {
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


def settings(name: str, small: bool, space: str = "darts") -> dict[str, Any]:
    """Changes of a method to a preset; `small` for one that is not the papers' setting."""
    if name not in METHODS:
        return {}  # the parser of the command line says what there is
    method = METHODS[name]
    published = method.small if small else method.published
    if space == "nasbench201" and method.nasbench201 is not None:
        published = {} if small else method.nasbench201
    changes = {**method.always, **method.on_images, **published, "algorithm": name}
    if space.startswith("nasbench1shot1"):
        changes = {flag: value for flag, value in changes.items() if flag not in TWO_CELLS}
    return changes


TWO_CELLS = ("drop_path_start", "drop_path_prob", "log_cost_weight")
"""Settings of a paper's search that its cells have, and those of NAS-Bench-1Shot1 have not."""


def text_settings(name: str) -> dict[str, Any]:
    """Settings of a text's preset that a method changes.

    The papers' own settings are for images.
    """
    return {**METHODS[name].always, "algorithm": name} if name in METHODS else {}


def space_settings(name: str, small: bool) -> dict[str, Any]:
    """Settings of a preset that a space changes.

    They are the size of the benchmarks' supernets, and what their searches are published with.
    """
    if name not in SPACE_SETTINGS:
        return {}
    return {"space": name, **SPACE_SETTINGS[name][0 if small else 1]}


def space_of(config: Any) -> Space:
    """The search space that a configuration asks for.

    One that another run has narrowed is the run's own, once it has written that down.
    """
    stage = stages.of(config)
    source, keep = stage.before, stage.keep
    if config.candidates:
        source, keep = Path(config.candidates), config.keep_ops
    try:
        if source is not None and config.run_dir:
            with contextlib.suppress(FileNotFoundError):
                text = files.read_text(Path(config.run_dir) / "space.json")
                cells = cells_from_json(text)
                return spaces.of_cells(cells["normal"], cells["reduce"])
        if source is not None and keep is not None:
            return strongest_of(source, keep)
        return (
            spaces.BY_NAME[config.space]()
            if config.space in NAMED
            else spaces.darts(config.nodes, config.ops)
        )
    except (KeyError, OSError, ValueError) as error:
        raise Stop(str(error), 2) from error


def space_to_json(space: Space) -> str:
    """The cells of a space, for `cells_from_json`."""
    return (
        json.dumps({name: choices._asdict() for name, choices in space.cells.items()}, indent=2)
        + "\n"
    )


class SavedChoices(TypedDict):
    """A cell of space.json, as of `space.Choices`."""

    edges: tuple[tuple[int, int], ...]
    ops: tuple[tuple[str, ...], ...]
    concat: tuple[int, ...]
    num_inputs: NotRequired[int]
    kept: NotRequired[int | None]
    picks: NotRequired[tuple[int, ...] | None]


def cells_from_json(text: str) -> dict[str, Choices]:
    """The cells that `space_to_json` wrote.

    Raises:
        ValueError: if it did not write this.
    """

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    try:
        saved = files.parse_json(text, "space.json")
        saved = files.fitting(saved, dict[str, SavedChoices], "space.json")
        return {
            name: Choices(**{field: tuples(value) for field, value in fields.items()})
            for name, fields in saved.items()
        }
    except TypeError as error:
        raise ValueError(f"not the cells of a space: {error}") from error


def strongest_of(run: Path, keep: int) -> Space:
    """The space of a finished search with its strongest operations only.

    Every edge has `keep` of them, in their order.
    """
    try:
        cells = cells_from_json(files.read_text(run / "space.json"))
        alphas = files.read_arrays(run / "alphas.npz")
        narrowed = []
        for name in ("normal", "reduce"):
            mix, ops = alphas[name][-1], cells[name].ops
            kept = [
                np.sort(np.argsort(-row[: len(edge_ops)], kind="stable")[:keep])
                for row, edge_ops in zip(mix, ops, strict=True)
            ]
            ops = tuple(
                tuple(edge_ops[i] for i in indices)
                for edge_ops, indices in zip(ops, kept, strict=True)
            )
            narrowed.append(cells[name]._replace(ops=ops))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Stop(
            f"--candidates={run}: not the folder of a finished search with one seed: {error}", 2
        ) from error
    return spaces.of_cells(*narrowed)


def evaluated(space: Space) -> tuple[int, int]:
    """Width and depth of the networks whose parameters and multiply-adds are reported.

    They are the papers' for CIFAR-10.
    """
    assert space.size is not None  # every space with a supernet has one
    return space.size


def make(
    config: Any,
    space: Space,
    steps_per_epoch: int,
    num_classes: int,
    shape: tuple[int, int, int],
) -> Algorithm:
    """The algorithm that a configuration asks for, on images of a shape and a number of classes."""
    algorithm = of_space(config, space, steps_per_epoch)
    if not (config.cost_weight or config.log_cost_weight):
        return algorithm
    costs = operation_costs(space.cells, *evaluated(space), num_classes, shape)[
        config.cost_of == "multiply_adds"
    ]
    prices = []
    if config.cost_weight:
        prices = [penalty.cost(space.cells, costs, config.cost_target * 1e6, config.cost_weight)]
    if config.log_cost_weight:
        prices += [penalty.log_cost(space.cells, costs, config.log_cost_weight)]
    return algorithm._replace(penalty=functools.reduce(penalty.both, prices, algorithm.penalty))


def of_space(config: Any, space: Space, steps_per_epoch: int) -> Algorithm:
    """The algorithm that a configuration asks for, in any space.

    `config` has the fields of `AlgorithmOptions` and `epochs`.
    """

    def ramp(first: float, last: float):
        return algorithms.by_epoch(first, last, config.epochs, steps_per_epoch)

    if config.unrolled and config.algorithm in ONLY_FIRST_ORDER:
        raise Stop(
            f"--unrolled --algorithm={config.algorithm}: there is no second-order form of it; use"
            " --no_unrolled",
            2,
        )
    try:
        algorithm = METHODS[config.algorithm].make(config, space, 2 if config.unrolled else 1, ramp)
    except ValueError as error:
        raise Stop(f"--algorithm={config.algorithm}: {error}", 2) from error
    if config.temperature_end != 1:
        annealed = relax.annealed(algorithm.relax, ramp(1.0, config.temperature_end))
        algorithm = algorithm._replace(relax=annealed)
    return algorithm


def optimizer(config: Any, steps_per_epoch: int) -> optax.GradientTransformation:
    """The published optimiser of alpha, which rests for --arch_warmup epochs."""
    clip = [] if math.isinf(config.arch_grad_clip) else [clip_by_global_norm(config.arch_grad_clip)]
    rate = config.arch_learning_rate
    tx = optax.chain(
        *clip,
        optax.add_decayed_weights(config.arch_weight_decay),
        optax.sgd(rate)
        if config.arch_optimizer == "sgd"
        else optax.adam(rate, b1=config.arch_beta1, b2=0.999),
    )
    if config.arch_warmup:
        tx = optax.conditionally_mask(
            tx, lambda step, **_: step >= config.arch_warmup * steps_per_epoch
        )
    return tx
