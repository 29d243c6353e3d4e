"""The algorithms that `search.py --algorithm` names, each with what its paper searches with."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import algorithms, files, hypergrad, penalty, relax, spaces
from jaxdarts.commands import checks, command_line
from jaxdarts.count import operation_costs
from jaxdarts.runs import Stop
from jaxdarts.search import Algorithm
from jaxdarts.space import Choices, Space

WITHOUT_NONE = spaces.PRIMITIVES[1:]


class Method(NamedTuple):
    """One algorithm.

    make: (configuration, space, order, ramp) -> Algorithm; ramp: (first value, last value) ->
    schedule over the epochs. always: settings that are part of the method. published: those of its
    paper's search on CIFAR-10, which a data set with a preset of its own size (digits) does
    without. on_images: settings that are part of the method where it searches on images.
    """

    make: Callable[[Any, Space, int, Callable], Algorithm]
    always: Mapping[str, Any] = {}
    published: Mapping[str, Any] = {}
    on_images: Mapping[str, Any] = {}


NAMED = (
    "s1",
    "s2",
    "s3",
    "s4",
    "nasbench201",
    "nasbench1shot1_s1",
    "nasbench1shot1_s2",
    "nasbench1shot1_s3",
)
"""Spaces that are what they are, by their names in `jaxdarts.spaces`."""
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
        lambda c, s, order, ramp: algorithms.random_sharing(s), {**FIRST, "derive": "samples"}
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
        {"epochs": 250, "batch_size": 256, "weight_decay": 5e-4},
    ),
    "snas": Method(
        lambda c, s, order, ramp: algorithms.snas(s, ramp(c.tau_start, c.tau_end)),
        {**FIRST, "tau_start": 1.0, "tau_end": 0.03},
        {"epochs": 150},
        ALL_IMAGES,
    ),
    "drnas": Method(
        lambda c, s, order, ramp: algorithms.drnas(s),
        FIRST,
        {
            "ops": WITHOUT_NONE,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "arch_warmup": 10,
        },
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
}
ONE_LEVEL = ("joint", "coordinate_descent", "snas", "drnas", "random_sharing")
"""Methods without a second-order form: one level, nothing to learn, or a draw whose second
derivative JAX does not have.
"""


ONLY_ON_IMAGES = {
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


@dataclasses.dataclass(frozen=True)
class AlgorithmOptions:
    """What an algorithm and the derivation of a cell may be told, on images and on texts."""

    FREE: ClassVar[str] = "derive num_samples"

    algorithm: Literal[tuple(METHODS)] = "darts"  # type: ignore[valid-type]
    """Search algorithm; the README lists them. Its paper's settings become the defaults of other
    flags."""
    unrolled: bool = True
    """Exact second-order hypergradient; --no-unrolled for the first order."""
    num_seeds: int = 1
    """Number of searches in one program, with seeds seed, seed + 1, ...; the best cell is the
    result."""
    arch_warmup: int = 0
    """Number of first epochs in which only the weights are trained."""
    arch_beta1: float = 0.5
    """Adam's first decay rate for alpha."""
    temperature_end: float = 1.0
    """Temperature of alpha after the last epoch; it falls from 1."""
    epsilon_alpha: float = 0.3
    """Largest perturbation of the mix in the last epoch; it rises from 0.03 (sdarts_rs,
    sdarts_adv)."""
    attack_steps: int = 7
    """Steps of the adversarial attack on the mix (sdarts_adv)."""
    lambda_valid: float = 1.0
    """Weight of the validation loss, beside the training loss (milenas)."""
    neighbours: int = 4
    """Number of neighbours in an architecture step (na_darts)."""
    distance: int = 1
    """Number of edges in which a neighbour differs (na_darts)."""
    aggregate: Literal[tuple(AGGREGATES)] = "mean"  # type: ignore[valid-type]
    """Statistic of the neighbourhood's performances that alpha ascends (na_darts): mean, median,
    minimum, or deviation (mean minus one deviation)."""
    radius: float = 1e-2
    """Length of an ascent step, in gradients (a2m)."""
    radius_steps: int = 1
    """Number of ascent steps (a2m)."""
    tau_start: float = 10.0
    """Gumbel-softmax temperature in the first epoch (gdas, snas)."""
    tau_end: float = 0.1
    """Gumbel-softmax temperature after the last epoch (gdas, snas)."""
    derive: Literal["strongest", "validation", "perturbation", "samples"] = "strongest"
    """How the cell is chosen: strongest (by the mix), validation (by validating the supernet),
    perturbation (by removing operations, DARTS+PT), samples (the best of random cells)."""
    num_samples: int = 100
    """Number of random cells of --derive=samples."""


@dataclasses.dataclass(frozen=True)
class Options(AlgorithmOptions, command_line.ImageSettings):
    """Flags of searches in convolutional spaces."""

    FREE: ClassVar[str] = "derive_batches tune_steps max_skips flatness"

    space: Literal["darts", *NAMED] = "darts"  # type: ignore[valid-type]
    """Search space: darts (with --nodes and --ops), s1 to s4 (RobustDARTS), nasbench201 (--layers
    cells a stage), nasbench1shot1_s1 to _s3."""
    candidates: str | None = None
    """Run folder of a search; every edge keeps its --keep_ops strongest operations (P-DARTS)."""
    keep_ops: int = 5
    """Number of operations that --candidates keeps on an edge."""
    partial: int = 1
    """One channel in this number goes through the operations, the others bypass them (pc_darts)."""
    drop_path_prob: float = 0.0
    """Probability of dropping an edge in the last epoch; it rises linearly from zero (RobustDARTS).
    """
    zero_one_weight: float = 10.0
    """Weight of the loss that drives every operation to zero or one (fair_darts)."""
    auxiliary_skip: float = 1.0
    """Weight of the auxiliary skip connection in the first epoch; falls to zero (darts_minus)."""
    cost_weight: float = 0.0
    """Penalty for exceeding --cost_target by 100 %, in units of the validation loss; 0 for none."""
    cost_target: float = 3.3
    """Cost that is free, in millions of --cost_of, for the network that is trained (36 channels, 20
    cells)."""
    cost_of: Literal["parameters", "multiply_adds"] = "parameters"
    """Cost that --cost_weight penalises: parameters or multiply-adds."""
    eigenvalue_freq: int = 0
    """Epochs between measurements of the dominant eigenvalue of the Hessian in alpha; 0 for none (2
    in RobustDARTS)."""
    stop_eigenvalue: float = 0.0
    """Stop when the dominant eigenvalue has grown by this factor, and go back to the epoch before
    (1.3 in DARTS-ES); 0 for never."""
    stop_start: int = 10
    """Earliest epoch to which --stop_eigenvalue goes back."""
    adapt_weight_decay: float = 0.0
    """After such a stop, go on from that epoch with the weight decay times this factor, up to 0.03
    (10 in DARTS-ADA); 0 for no."""
    fork: str | None = None
    """Run folder of a search of one seed to go on from, with other settings, in a new folder."""
    fork_epoch: int = 0
    """Last epoch that --fork takes over; its checkpoint must have been kept (--keep_checkpoints=0).
    """
    stop_skips: int = 0
    """Stop when the normal cell has this number of skip connections; 0 for never."""
    stop_size: tuple[int, ...] = ()
    """Stop when the normal and the reduction cell have at most these numbers of convolutions (6 0
    in MiLeNAS); empty for never."""
    derive_batches: int = 0
    """Number of validation batches for each accuracy of --derive; 0 for all."""
    tune_steps: int = 0
    """Weight steps after every decision of --derive=validation or perturbation."""
    flatness: bool = False
    """Report the accuracy of the found cell's neighbours (one other operation) with the shared
    weights."""
    max_skips: int | None = None
    """Largest number of skip connections in the derived normal cell (2 in P-DARTS)."""


def check_algorithm(config: AlgorithmOptions) -> None:
    """Refuses what images and texts refuse alike."""
    checks.check_numbers(
        config,
        positive=(
            "num_seeds temperature_end attack_steps radius_steps tau_start tau_end num_samples"
        ),
        not_negative="arch_warmup arch_beta1 epsilon_alpha lambda_valid neighbours distance radius",
    )
    if config.arch_beta1 >= 1:
        raise Stop(f"--arch_beta1={config.arch_beta1}: must be below 1", 2)


def check(config: Any) -> None:
    """Refuses options that cannot work."""
    check_algorithm(config)
    checks.check_numbers(
        config,
        positive="partial keep_ops cost_target",
        not_negative=(
            "drop_path_prob zero_one_weight auxiliary_skip cost_weight eigenvalue_freq"
            " stop_eigenvalue stop_start stop_skips derive_batches tune_steps adapt_weight_decay"
            " fork_epoch"
        ),
    )
    if config.drop_path_prob >= 1:
        raise Stop(f"--drop_path_prob={config.drop_path_prob}: must be below 1", 2)
    if config.stop_eigenvalue and not config.eigenvalue_freq:
        raise Stop(
            f"--stop_eigenvalue={config.stop_eigenvalue}: needs --eigenvalue_freq, 2 in the paper",
            2,
        )
    alone = config.space.startswith("nasbench")
    if config.stop_size and len(config.stop_size) != (1 if alone else 2):
        needed = "one number" if alone else "two numbers, of the normal and the reduction cell"
        raise Stop(f"--stop_size={' '.join(map(str, config.stop_size))}: needed is {needed}", 2)
    for name in ("partial", "drop_path_prob", "candidates", "max_skips"):
        if alone and getattr(config, name) not in (1, 0.0, None):
            raise Stop(f"--{name}={getattr(config, name)}: not in --space={config.space}", 2)
    if config.space.startswith("nasbench1shot1"):
        if config.derive in ("perturbation", "validation"):
            raise Stop(
                f"--derive={config.derive}: decides edges, not which two to read; not in"
                f" --space={config.space}",
                2,
            )
        if config.cost_weight:
            raise Stop(
                f"--cost_weight={config.cost_weight}: an operation has no price of its own in"
                f" --space={config.space}",
                2,
            )
        if config.layers < 3:
            raise Stop(
                f"--layers={config.layers}: --space={config.space} has three stages of one cell or"
                " more",
                2,
            )
    if config.num_seeds > 1 and (config.fork or config.adapt_weight_decay):
        raise Stop(
            f"--num_seeds={config.num_seeds}: seeds stop at epochs of their own; --fork and"
            " --adapt_weight_decay take one",
            2,
        )
    if config.adapt_weight_decay and (config.keep_checkpoints or not config.stop_eigenvalue):
        needed = "--stop_eigenvalue, which goes back in time, and --keep_checkpoints=0"
        raise Stop(f"--adapt_weight_decay={config.adapt_weight_decay}: needs {needed}", 2)
    if config.max_skips is not None and config.max_skips < 0:
        raise Stop(f"--max_skips={config.max_skips}: must not be negative", 2)


def settings(name: str, small: bool) -> dict[str, Any]:
    """What a method changes in a preset; `small` for one that is not the papers' setting."""
    if name not in METHODS:
        return {}  # the parser of the command line says what there is
    method = METHODS[name]
    return {
        **method.always,
        **method.on_images,
        **({} if small else method.published),
        "algorithm": name,
    }


def text_settings(name: str) -> dict[str, Any]:
    """What a method changes in the preset of a text; the papers' own settings are for images."""
    return {**METHODS[name].always, "algorithm": name} if name in METHODS else {}


def space_settings(name: str, small: bool) -> dict[str, Any]:
    """What a space changes in a preset: the size of the benchmarks' supernets, and what their
    searches are published with.
    """
    if name.startswith("nasbench1shot1"):
        return {"space": name, "layers": 3 if small else 9} | ({} if small else {"batch_size": 96})
    if name != "nasbench201":
        return {}
    return {"space": name, "layers": 1 if small else 5} | ({} if small else {"weight_decay": 5e-4})


def space_of(config: Any) -> Space:
    """The search space that a configuration asks for."""
    by_name = {name: getattr(spaces, name) for name in NAMED}
    try:
        if config.candidates:
            return strongest_of(Path(config.candidates), config.keep_ops)
        return (
            by_name[config.space]()
            if config.space in by_name
            else spaces.darts(config.nodes, config.ops)
        )
    except ValueError as error:
        raise Stop(str(error), 2) from error


def space_to_json(space: Space) -> str:
    """The cells of a space, for `cells_from_json`."""
    return (
        json.dumps({name: choices._asdict() for name, choices in space.cells.items()}, indent=2)
        + "\n"
    )


def cells_from_json(text: str) -> dict[str, Choices]:
    """The cells that `space_to_json` wrote.

    Raises:
        ValueError: if it did not write this.
    """

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    try:
        saved = json.loads(text).items()
        return {
            name: Choices(**{field: tuples(value) for field, value in own.items()})
            for name, own in saved
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not the cells of a space: {error}") from error


def strongest_of(run: Path, keep: int) -> Space:
    """The space of a finished search with its strongest operations only, on every edge `keep` of
    them, in their order.
    """
    try:
        cells = cells_from_json((run / "space.json").read_text(encoding="utf-8"))
        alphas = files.read_arrays(run / "alphas.npz")
        narrowed = []
        for name in ("normal", "reduce"):
            mix, ops = alphas[name][-1], cells[name].ops
            kept = [
                np.sort(np.argsort(-row[: len(own)], kind="stable")[:keep])
                for row, own in zip(mix, ops, strict=True)
            ]
            ops = tuple(
                tuple(own[i] for i in indices) for own, indices in zip(ops, kept, strict=True)
            )
            narrowed.append(cells[name]._replace(ops=ops))
    except (OSError, ValueError, KeyError) as error:
        raise Stop(
            f"--candidates={run}: not the folder of a finished search with one seed: {error}", 2
        ) from error
    return spaces.of_cells(*narrowed)


def evaluated(space: Space) -> tuple[int, int]:
    """Width and depth of the network that parameters and multiply-adds are told of: the papers' for
    CIFAR-10.
    """
    return next(
        (size for cell, size in {"cell": (16, 5), "ops": (128, 3)}.items() if cell in space.cells),
        (36, 20),
    )


def make(
    config: Options,
    space: Space,
    steps_per_epoch: int,
    num_classes: int,
    shape: tuple[int, int, int],
) -> Algorithm:
    """The algorithm that a configuration asks for, on images of a shape in so many classes."""
    algorithm = of_space(config, space, steps_per_epoch)
    if config.cost_weight:
        costs = operation_costs(space.cells, *evaluated(space), num_classes, shape)[
            config.cost_of == "multiply_adds"
        ]
        price = penalty.cost(space.cells, costs, config.cost_target * 1e6, config.cost_weight)
        algorithm = algorithm._replace(penalty=penalty.both(algorithm.penalty, price))
    return algorithm


def of_space(config: Any, space: Space, steps_per_epoch: int) -> Algorithm:
    """The algorithm that a configuration asks for, in any space; `config` has the fields of
    `AlgorithmOptions` and `epochs`.
    """

    def ramp(first: float, last: float):
        return algorithms.by_epoch(first, last, config.epochs, steps_per_epoch)

    if config.unrolled and config.algorithm in ONE_LEVEL:
        raise Stop(
            f"--unrolled --algorithm={config.algorithm}: there is no second-order form of it; use"
            " --no-unrolled",
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
    tx = optax.chain(
        optax.add_decayed_weights(config.arch_weight_decay),
        optax.adam(config.arch_learning_rate, b1=config.arch_beta1, b2=0.999),
    )
    if config.arch_warmup:
        tx = optax.conditionally_mask(
            tx, lambda step, **_: step >= config.arch_warmup * steps_per_epoch
        )
    return tx
