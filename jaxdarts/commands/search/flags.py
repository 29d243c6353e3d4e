"""Flags of searches by gradient descent: the algorithm, and how the cell is derived."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxdarts.commands import checks, flags, stages
from jaxdarts.commands.methods import NAMED
from jaxdarts.commands.published import AGGREGATES, METHODS
from jaxdarts.commands.search import limited
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import BELOW_ONE, DEPTH, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How alpha, the architecture parameters, are trained."""

    TOPIC: ClassVar[str] = "architecture"

    arch_optimizer: Literal["adam", "sgd"] = flag(
        "adam", "Optimiser of alpha: adam, or sgd without momentum (gaea)."
    )
    arch_learning_rate: float = flag(3e-4, "Learning rate of alpha, constant.", NOT_NEGATIVE)
    arch_weight_decay: float = flag(
        1e-3,
        "Weight decay of alpha: this multiple of alpha is added to its gradient.",
        NOT_NEGATIVE,
    )
    arch_grad_clip: float = flag(
        math.inf,
        "Gradients of alpha are clipped to this global norm (5 in P-DARTS); inf for no clipping.",
        POSITIVE_OR_INFINITE,
    )
    arch_beta1: float = flag(0.5, "Adam's first decay rate for alpha.", BELOW_ONE)
    arch_warmup: int = flag(
        0, "Number of first epochs, of every stage, that train the weights only.", NOT_NEGATIVE
    )
    unrolled: bool = flag(
        True,
        "Take the gradient of alpha through one step of the weights (exact second order);"
        " --no_unrolled for the first order.",
    )
    temperature_end: float = flag(
        1.0, "Temperature of alpha after the last epoch; it falls from 1.", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Which algorithm searches, and its settings."""

    TOPIC: ClassVar[str] = "method"

    algorithm: Literal[tuple(METHODS)] = flag(  # type: ignore[valid-type]
        "darts",
        "Search algorithm. It changes the defaults of other flags: on images to its paper's"
        " settings, on digits and texts only what belongs to the method.",
    )
    perturbation: Literal["none", "random", "adversarial"] = flag(
        "none",
        "Perturbation of the mix before every step of the weights, with any method that mixes:"
        " none, random or adversarial (SmoothDARTS); its size is --epsilon_alpha.",
    )
    regularizer: Literal["none", "beta", "entropy"] = flag(
        "none",
        "Regularizer of alpha, with any method that learns alpha: none, beta (--beta_weight) or"
        " entropy (--entropy_weight).",
    )
    alpha_loss: Literal["method", "mixed", "neighbourhood", "uphill"] = flag(
        "method",
        "Loss that alpha descends, with any method of two levels: that of the method; mixed, with"
        " the training loss (milenas); that of the neighbourhood (na_darts); or uphill, at a worse"
        " alpha nearby (a2m).",
    )
    epsilon_alpha: float = flag(
        0.3,
        "Largest perturbation of the mix after the last epoch; it rises from 0.03 by equal steps,"
        " one an epoch (sdarts_rs, sdarts_adv).",
        NOT_NEGATIVE,
    )
    attack_steps: int = flag(
        7, "Steps of the adversarial attack on the mix (sdarts_adv).", POSITIVE
    )
    lambda_valid: float = flag(
        1.0, "Weight of the validation loss, beside the training loss (milenas).", NOT_NEGATIVE
    )
    neighbours: int = flag(
        4, "Number of neighbouring cells in an architecture step (na_darts).", NOT_NEGATIVE
    )
    distance: int = flag(
        1, "Number of edges in which a neighbouring cell differs (na_darts).", NOT_NEGATIVE
    )
    aggregate: Literal[tuple(AGGREGATES)] = flag(  # type: ignore[valid-type]
        "mean",
        "Statistic of the neighbouring cells' performances that alpha ascends (na_darts): mean,"
        " median, minimum, or deviation (mean minus one deviation).",
    )
    radius: float = flag(
        1e-2, "Length of an ascent step, as a multiple of the gradient (a2m).", NOT_NEGATIVE
    )
    radius_steps: int = flag(1, "Number of ascent steps (a2m).", POSITIVE)
    neumann_terms: int = flag(
        3,
        "Terms of the Neumann series that stands for the inverse Hessian (idarts).",
        POSITIVE._replace(most=1000),
    )
    beta_weight: float = flag(
        50.0,
        "Weight of the penalty of alpha's logsumexp after the last epoch; it rises from 0 by equal"
        " steps, one an epoch (beta_darts).",
        NOT_NEGATIVE,
    )
    entropy_weight: float = flag(
        0.1,
        "Weight of the entropy of every edge's operations after the last epoch; four times as much"
        " for the edges of a node; both rise from 0 (da2s).",
        NOT_NEGATIVE,
    )
    tau_start: float = flag(
        10.0, "Gumbel-softmax temperature in the first epoch (gdas, snas, reinmax).", POSITIVE
    )
    tau_end: float = flag(
        0.1, "Gumbel-softmax temperature after the last epoch (gdas, snas, reinmax).", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Derivation:
    """How the cell is chosen after the search."""

    TOPIC: ClassVar[str] = "derivation"

    derive: Literal["strongest", "validation", "perturbation", "shapley", "samples"] = flag(
        "strongest",
        "How the cell is chosen: strongest (by the mix), validation (by validating the supernet),"
        " perturbation (by removing operations, DARTS+PT), shapley (by removing them in random"
        " orders), samples (the best of random cells).",
        free=True,
    )
    shapley_orders: int = flag(
        10, "Number of random orders of --derive=shapley.", POSITIVE, free=True
    )
    num_samples: int = flag(100, "Number of random cells of --derive=samples.", POSITIVE, free=True)


@dataclasses.dataclass(frozen=True)
class AlgorithmOptions(Algorithm, Architecture, Derivation, flags.Seeds):
    """Flags of searches on images and on texts."""


@dataclasses.dataclass(frozen=True)
class Spaces:
    """Which search space."""

    TOPIC: ClassVar[str] = "space"

    space: Literal["darts", *NAMED] = flag(  # type: ignore[valid-type]
        "darts",
        "Search space: darts (with --nodes and --ops), s1 to s4 (RobustDARTS), nasbench201"
        " and transnas_micro (--layers cells a stage), nasbench1shot1_s1 to _s3.",
    )
    candidates: str | None = flag(
        None,
        "Run folder of an earlier search; the space keeps its --keep_ops strongest operations on"
        " each edge (P-DARTS); default none, all operations.",
    )
    keep_ops: int = flag(5, "Number of operations that --candidates keeps on an edge.", POSITIVE)


@dataclasses.dataclass(frozen=True)
class Stages:
    """A search in stages, each with the strongest operations of the one before."""

    TOPIC: ClassVar[str] = "stages"

    stage_keep: tuple[int, ...] = flag(
        (),
        "Numbers of operations that every edge keeps after the first stage, after the second, and"
        " so on (pdarts: 5 3; drnas: 4); each stage has --epochs epochs. Default one stage.",
        POSITIVE,
        bare=True,
    )
    stage_layers: tuple[int, ...] = flag(
        (),
        "Number of cells in each stage (pdarts: 5 11 17); default --layers in all.",
        DEPTH,
        bare=True,
    )
    stage_partial: tuple[int, ...] = flag(
        (),
        "Only 1/K of the channels go through the operations: K in each stage (drnas: 6 4); default"
        " --partial in all.",
        POSITIVE,
        bare=True,
    )
    stage_skip_dropout: tuple[float, ...] = flag(
        (),
        "Rate of dropout after skip connections at the start of each stage (pdarts: 0.1 0.4 0.7);"
        " default --skip_dropout in all.",
        BELOW_ONE,
        bare=True,
    )
    carry_weights: bool = flag(
        False,
        "Every stage goes on with the weights and alpha of the one before and with its schedule of"
        " the learning rate (drnas); --no_carry_weights to start anew (pdarts).",
    )
    stage: int = flag(
        0,
        "Number of the stage that a folder holds, which the search of all stages sets; 0 for the"
        " last one.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class ImageMethod:
    """Settings of algorithms that search on images only."""

    TOPIC: ClassVar[str] = "method"

    partial: int = flag(
        1,
        "Only 1/K of the channels go through the operations, where K is this number (K in"
        " PC-DARTS; 1: all).",
        POSITIVE,
    )
    drop_path_prob: float = flag(
        0.0,
        "Probability of dropping an edge in the last epoch; it changes linearly from"
        " --drop_path_start (RobustDARTS, snas).",
        BELOW_ONE,
    )
    drop_path_start: float = flag(
        0.0, "Probability of dropping an edge in the first epoch (0.3 in snas).", BELOW_ONE
    )
    skip_dropout: float = flag(
        0.0,
        "Rate of dropout after skip connections at the start of a stage; it falls linearly in the"
        " epochs of --arch_warmup, and after them exponentially, from its start again (pdarts).",
        BELOW_ONE,
    )
    zero_one_weight: float = flag(
        10.0,
        "Weight of the loss that drives every operation to zero or one (fair_darts).",
        NOT_NEGATIVE,
    )
    agreement: float = flag(
        0.4,
        "Mean cosine of an operation's training gradient with its sum with the validation gradient,"
        " below which its weights stop (oles).",
        BELOW_ONE,
    )
    agreement_batches: int = flag(
        20, "Number of steps whose cosines --agreement is compared with (oles).", POSITIVE
    )
    alignment_weight: float = flag(
        0.125,
        "Weight of the alignment of the cells' gradients in the last epoch; it rises from 0"
        " (lambda_darts).",
        NOT_NEGATIVE,
    )
    auxiliary_skip: float = flag(
        1.0,
        "Weight of the auxiliary skip connection in the first epoch; it falls to zero"
        " (darts_minus).",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Cost:
    """A penalty of large cells."""

    TOPIC: ClassVar[str] = "cost"

    cost_weight: float = flag(
        0.0,
        "Added to the loss of alpha for each 100 % above --cost_target; 0: none.",
        NOT_NEGATIVE,
    )
    cost_target: float = flag(
        3.3,
        "Expected cost up to which there is no penalty, in millions, of the space's published"
        " network (darts: 36 channels, 20 cells); in milliseconds, of the network that will be"
        " trained, with --cost_of=latency.",
        POSITIVE,
    )
    cost_of: Literal["parameters", "multiply_adds", "latency"] = flag(
        "parameters",
        "Cost that --cost_weight and --log_cost_weight penalise: parameters, multiply-adds, or the"
        " latency of --latency_table.",
    )
    log_cost_weight: float = flag(
        0.0,
        "Weight of the logarithm of the expected cost in the loss of alpha (1.5e-3 in snas); 0 for"
        " none.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a search stops early, and from which it goes on."""

    TOPIC: ClassVar[str] = "stopping"

    eigenvalue_freq: int = flag(
        0,
        "Epochs between measurements of the largest eigenvalue (by magnitude) of the Hessian of"
        " the validation loss with respect to alpha, also after the last epoch; 0: never (2 in"
        " RobustDARTS).",
        NOT_NEGATIVE,
    )
    stop_eigenvalue: float = flag(
        0.0,
        "Stop when the largest eigenvalue (average of five measurements) has grown by more than"
        " this factor over four measurements, and go back to the earlier of the two epochs (1.3 in"
        " DARTS-ES); 0: never.",
        NOT_NEGATIVE,
    )
    stop_start: int = flag(
        10, "Earliest epoch, counted from 0, to which --stop_eigenvalue goes back.", NOT_NEGATIVE
    )
    adapt_weight_decay: float = flag(
        0.0,
        "After a stop by --stop_eigenvalue, go on from that epoch with the weight decay times this"
        " factor, up to 0.03 (10 in DARTS-ADA); 0 for no.",
        NOT_NEGATIVE,
    )
    stop_skips: int = flag(
        0,
        "Stop when the normal cell has this number of skip connections or more; 0: never.",
        NOT_NEGATIVE,
    )
    stop_size: tuple[int, ...] = flag(
        (),
        "Stop when the normal and the reduction cell have at most these numbers of convolutions (6"
        " 0 in MiLeNAS); default never.",
        NOT_NEGATIVE,
    )
    fork: str | None = flag(
        None,
        "Run folder of a search of one seed to go on from, with other settings, in a new folder;"
        " default none.",
    )
    fork_epoch: int = flag(
        0,
        "Last epoch, counted from 0, that --fork takes over; its checkpoint must have been kept"
        " (--keep_checkpoints=0).",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class ImageDerivation:
    """How the cell is chosen after a search on images."""

    TOPIC: ClassVar[str] = "derivation"

    derive_batches: int = flag(
        0,
        "Number of validation batches for each accuracy of --derive; 0 for all.",
        NOT_NEGATIVE,
        free=True,
    )
    sample_batches: int = flag(
        10,
        "Number of validation batches for the first accuracy of each of the --num_samples cells,"
        " and for those of --ranked_cells; 0 for all.",
        NOT_NEGATIVE,
        free=True,
    )
    num_finalists: int = flag(
        10,
        "Number of best of the --num_samples cells that are validated again, on --derive_batches.",
        POSITIVE,
        free=True,
    )
    tune_steps: int | None = flag(
        None,
        "Steps of weights and alpha after every decision of --derive=perturbation or validation; 0"
        " decides all at once; default five epochs for perturbation (DARTS+PT), 0 for validation.",
        NOT_NEGATIVE,
        free=True,
    )
    flatness: bool = flag(
        False,
        "Report the accuracy, with the shared weights, of cells that differ from the found one in"
        " one operation.",
        free=True,
    )
    ranked_cells: int = flag(
        0,
        "Number of random cells whose accuracies, with the shared weights on --sample_batches"
        " batches, are written to ranked_cells.json; 0: none.",
        NOT_NEGATIVE,
        free=True,
    )
    max_skips: int | None = flag(
        None,
        "Largest number of skip connections in the derived normal cell (2 in P-DARTS); default"
        " any.",
        NOT_NEGATIVE,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Options(
    AlgorithmOptions, Spaces, Stages, ImageMethod, Cost, Stopping, ImageDerivation, limited.Flags
):
    """Flags of searches in convolutional spaces."""


def check(config: Any) -> None:
    """Refuses options that cannot work."""
    checks.check_flags(config)
    if config.stop_eigenvalue and not config.eigenvalue_freq:
        raise Stop(
            f"--stop_eigenvalue={config.stop_eigenvalue}: needs --eigenvalue_freq, 2 in the paper",
            2,
        )
    alone = config.space.startswith("nasbench")
    if config.stop_size and len(config.stop_size) != (1 if alone else 2):
        needed = "one number" if alone else "two numbers, of the normal and the reduction cell"
        raise Stop(f"--stop_size={' '.join(map(str, config.stop_size))}: needed is {needed}", 2)
    only_two = (
        "partial",
        "drop_path_prob",
        "drop_path_start",
        "skip_dropout",
        "candidates",
        "max_skips",
        "stage_keep",
        "stage_skip_dropout",
    )
    for name in only_two:
        if name in ("partial", "stage_keep") and config.space in ("nasbench201", "transnas_micro"):
            continue
        if alone and getattr(config, name) not in (1, 0.0, None, ()):
            raise Stop(f"--{name}={getattr(config, name)}: not in --space={config.space}", 2)
    if config.space.startswith("nasbench1shot1"):
        if config.algorithm == "lambda_darts":
            raise Stop(
                f"--algorithm=lambda_darts: all cells of --space={config.space} share one mix", 2
            )
        if config.derive in ("perturbation", "validation", "shapley"):
            raise Stop(
                f"--derive={config.derive}: decides edges, not which two to read; not in"
                f" --space={config.space}",
                2,
            )
        for name in ("cost_weight", "log_cost_weight"):
            if getattr(config, name):
                raise Stop(
                    f"--{name}={getattr(config, name)}: an operation has no price of its own in"
                    f" --space={config.space}",
                    2,
                )
        if config.layers < 3:
            raise Stop(
                f"--layers={config.layers}: --space={config.space} has three stages of one cell or"
                " more",
                2,
            )
    limited.check(config)
    stages.check(config)
    if config.num_seeds > 1 and (config.fork or config.adapt_weight_decay):
        raise Stop(
            f"--num_seeds={config.num_seeds}: seeds stop at epochs of their own; --fork and"
            " --adapt_weight_decay take one",
            2,
        )
    if config.adapt_weight_decay and (config.keep_checkpoints or not config.stop_eigenvalue):
        needed = "--stop_eigenvalue, which goes back in time, and --keep_checkpoints=0"
        raise Stop(f"--adapt_weight_decay={config.adapt_weight_decay}: needs {needed}", 2)
    if config.fork_epoch and not config.fork:
        raise Stop(f"--fork_epoch={config.fork_epoch}: needs --fork, the search to go on from", 2)
    if config.fork and not (Path(config.fork) / "checkpoints").is_dir():
        raise Stop(f"--fork={config.fork}: not the folder of a search", 2)
