"""What a search is made of: its space, the algorithm that --algorithm names, alpha's optimiser."""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
import optax

from jaxdarts import algorithms, files, hypergrad, penalty, perturb, relax, spaces
from jaxdarts.bilevel import Algorithm
from jaxdarts.commands import latencies, sizes, stages
from jaxdarts.commands.published import (
    AGGREGATES,
    DRAWS_ONE,
    ONLY_FIRST_ORDER,
    entropy_weights,
    noise,
)
from jaxdarts.commands.published import METHODS as METHODS
from jaxdarts.commands.published import ONLY_ON_IMAGES as ONLY_ON_IMAGES
from jaxdarts.count import operation_costs
from jaxdarts.runs import Stop
from jaxdarts.space import Choices, Space
from jaxdarts.training.schedules import clip_by_global_norm
from jaxdarts.types import Hypergradient

NAMED = tuple(
    name
    for name, build in spaces.BY_NAME.items()
    if name != "darts" and (space := build()).supernet_size and space.cost
)
"""Spaces of images with a supernet, and with networks that `evaluate` trains; all but darts, which
has flags of its own.
"""
SPACE_SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **dict.fromkeys(
        ("nasbench201", "transnas_micro"),
        ({"layers": 1}, {"layers": 5, "weight_decay": 5e-4, "nesterov": True}),
    ),
    **dict.fromkeys(
        ("nasbench1shot1_s1", "nasbench1shot1_s2", "nasbench1shot1_s3"),
        ({"layers": 3}, {"layers": 9, "batch_size": 96}),
    ),
}
"""What a space changes in a preset: in a small one, and in one of the papers' setting."""


def settings(name: str, small: bool, space: str = "darts") -> dict[str, Any]:
    """Changes of a method to a preset; `small` for one that is not the papers' setting."""
    if name not in METHODS:
        return {}  # the parser of the command line says what there is
    method = METHODS[name]
    published = method.small if small else method.published
    if space == "nasbench201" and method.nasbench201 is not None:
        published = {} if small else method.nasbench201
    changes: dict[str, Any] = {**method.always, **method.on_images, **published, "algorithm": name}
    if space.startswith("nasbench1shot1"):
        changes = {flag: value for flag, value in changes.items() if flag not in TWO_CELLS}
    keep = changes.get("stage_keep")
    if keep and space in NAMED and max(map(len, stages.edges_of(space))) <= keep[0]:
        # Nothing is left to drop between stages: S1 to S4 have two or three candidates an edge.
        changes = {
            flag: value
            for flag, value in changes.items()
            if not flag.startswith("stage_") and flag != "carry_weights"
        }
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
    if name not in NAMED:
        return {}
    return {"space": name, **SPACE_SETTINGS.get(name, ({}, {}))[0 if small else 1]}


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
                return narrowed_to(cells_from_json(text))
        if source is not None and keep is not None:
            return strongest_of(source, keep)
        return spaces.BY_NAME[config.space]() if config.space in NAMED else darts_of(config)
    except (KeyError, OSError, ValueError) as error:
        raise Stop(str(error), 2) from error


def darts_of(config: Any) -> Space:
    """DARTS' space with the nodes and the operations that flags name."""
    try:
        return spaces.darts(config.nodes, config.ops)
    except ValueError as error:
        raise Stop(f"--ops={' '.join(config.ops)}: {error}", 2) from error


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
        for name in cells:
            mix, ops = alphas[name][-1], cells[name].ops
            kept = [
                np.sort(np.argsort(-row[: len(edge_ops)], kind="stable")[:keep])
                for row, edge_ops in zip(mix, ops, strict=True)
            ]
            ops = tuple(
                tuple(edge_ops[i] for i in indices)
                for edge_ops, indices in zip(ops, kept, strict=True)
            )
            cells[name] = cells[name]._replace(ops=ops)
        return narrowed_to(cells)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Stop(
            f"--candidates={run}: not the folder of a finished search with one seed: {error}", 2
        ) from error


def narrowed_to(cells: Mapping[str, Choices]) -> Space:
    """The space of these cells: those of a search whose edges lost candidates."""
    if "cell" in cells:
        return spaces.nasbench201(cells["cell"].ops)
    return spaces.of_cells(cells["normal"], cells["reduce"])


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
    if config.cost_of == "latency":
        costs = latencies.costs(config, space, num_classes, shape)
    else:
        both = operation_costs(space.cells, *sizes.evaluated(space), num_classes, shape)
        costs = both[config.cost_of == "multiply_adds"]
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
            f"--unrolled --algorithm={config.algorithm}: there is no exact second-order form of"
            " it; use --no_unrolled",
            2,
        )
    try:
        algorithm = METHODS[config.algorithm].make(config, space, 2 if config.unrolled else 1, ramp)
    except ValueError as error:
        raise Stop(f"--algorithm={config.algorithm}: {error}", 2) from error
    check_alpha(algorithm, config)
    if config.temperature_end != 1:
        annealed = relax.annealed(algorithm.relax, ramp(1.0, config.temperature_end))
        algorithm = algorithm._replace(relax=annealed)
    return with_parts(algorithm, config, space, ramp)


def learnt(algorithm: Algorithm) -> Any:
    """The shapes of the alpha that a method learns; empty where it has none."""
    return jax.eval_shape(algorithm.relax.init, jax.random.key(0))


def check_alpha(algorithm: Algorithm, config: Any) -> None:
    """Refuses flags that change alpha where the method has none."""
    if learnt(algorithm):
        return
    for name, nothing in (("temperature_end", 1), ("cost_weight", 0), ("log_cost_weight", 0)):
        value = getattr(config, name, nothing)
        if value != nothing:
            raise Stop(
                f"--{name}={value} --algorithm={config.algorithm}: the method has no alpha; leave"
                f" --{name} out",
                2,
            )


def with_parts(algorithm: Algorithm, config: Any, space: Space, ramp: Callable) -> Algorithm:
    """An algorithm with the loss of alpha, perturbation and regularizer that flags add."""
    cells, named = space.cells, f"--algorithm={config.algorithm}"
    alpha = learnt(algorithm)
    if config.alpha_loss != "method":
        given, reason = f"--alpha_loss={config.alpha_loss} {named}", None
        if not alpha:
            reason = "the method has no alpha"
        elif algorithm.hypergrad is hypergrad.single_level:
            reason = "the method has one level: alpha descends the training loss"
        elif config.algorithm == LOSSES[config.alpha_loss]:
            reason = "the method has it already"
        elif config.alpha_loss == "uphill" and config.algorithm in ("drnas", "reinmax"):
            reason = "it needs a second derivative of the draw, which the method does not have"
        elif config.alpha_loss == "neighbourhood" and any(map(is_tree, alpha.values())):
            reason = "the method learns weights of edges too, and a neighbour has other operations"
        if reason:
            raise Stop(f"{given}: {reason}; leave --alpha_loss out", 2)
        algorithm = algorithm._replace(hypergrad=descended(algorithm.hypergrad, config, cells))
    if config.perturbation != "none":
        given, reason = f"--perturbation={config.perturbation} {named}", None
        if algorithm.perturb is not perturb.none:
            reason = "the method has a perturbation of its own"
        elif algorithm.simultaneous:
            reason = "weights and alpha take one step at one mix"
        elif config.algorithm in DRAWS_ONE:
            reason = "the method draws one operation an edge, which is no mix to perturb"
        if reason:
            raise Stop(f"{given}: {reason}; leave --perturbation out", 2)
        size = noise(config, ramp)
        algorithm = algorithm._replace(
            perturb=perturb.random_noise(cells, size)
            if config.perturbation == "random"
            else perturb.adversarial(cells, size, config.attack_steps)
        )
    if config.regularizer != "none":
        given, reason = f"--regularizer={config.regularizer} {named}", None
        if (config.algorithm, config.regularizer) in (("beta_darts", "beta"), ("da2s", "entropy")):
            reason = "the method has it already"
        elif not alpha:
            reason = "the method has no alpha"
        if reason:
            raise Stop(f"{given}: {reason}; leave --regularizer out", 2)
        price = (
            penalty.beta_decay(cells, ramp(0.0, config.beta_weight))
            if config.regularizer == "beta"
            else penalty.entropy(cells, *entropy_weights(config, ramp))
        )
        algorithm = algorithm._replace(penalty=penalty.both(algorithm.penalty, price))
    return algorithm


def is_tree(value: Any) -> bool:
    """Whether a cell's alpha has parts, such as weights of operations and of edges."""
    return not jax.tree_util.all_leaves([value])


LOSSES = {"mixed": "milenas", "neighbourhood": "na_darts", "uphill": "a2m"}
"""The method that each --alpha_loss is from."""


def descended(inner: Hypergradient, config: Any, cells: Mapping[str, Choices]) -> Hypergradient:
    """A method's gradient of the loss that --alpha_loss names."""
    if config.alpha_loss == "mixed":
        return hypergrad.mixed_level(config.lambda_valid, inner)
    if config.alpha_loss == "uphill":
        return hypergrad.flat_minimum(config.radius, config.radius_steps, inner)
    try:
        neighbours = hypergrad.permuted_edges(cells, config.neighbours, config.distance)
    except ValueError as error:
        raise Stop(f"--alpha_loss=neighbourhood: {error}", 2) from error
    return hypergrad.neighbourhood(neighbours, AGGREGATES[config.aggregate], inner)


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
