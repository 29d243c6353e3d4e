"""The results of a search in words: the head of the report and the last sentence of the log.

The head has figures, warnings and commands.
"""

import contextlib
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts.commands import degenerate, latencies, reproduce, sizes
from jaxdarts.commands.sizes import evaluated
from jaxdarts.count import network_cost
from jaxdarts.data.images import ARRAYS
from jaxdarts.report import page
from jaxdarts.space import Space

GAP = (
    "the supernet's weights were trained for the mix of all operations, not for this cell alone, so"
    " a gap is normal; only training from scratch (jaxdarts evaluate) tells how good the cell is"
)
COSTS = {
    "parameters": "{:.3f} million parameters",
    "multiply_adds": "{:.3f} million multiply-adds",
    "latency": "a latency of {:.3f} ms",
}
"""What --cost_of names, as a number of millions or of milliseconds."""


def costs(
    genotype: Any, space: Space, config: Any, num_classes: int, shape: tuple[int, int, int]
) -> dict[str, int]:
    """Parameters and multiply-adds of the network of a cell.

    They are given at the published size, and at the size that `jaxdarts evaluate` trains; those
    that cannot be built for images of that shape are left out.
    """
    stem, costs_by_name = sizes.has_imagenet_stem(space, config.dataset), {}
    for name, size, large in (
        ("", evaluated(space), False),
        ("trained_", sizes.trained(config, space), stem),
    ):
        with contextlib.suppress(ValueError):
            cost = network_cost(genotype, *size, num_classes, shape, large)
            costs_by_name |= {f"{name}parameters": cost[0], f"{name}multiply_adds": cost[1]}
    return costs_by_name


def latency(
    genotype: Any, space: Space, config: Any, num_classes: int, shape: tuple[int, int, int]
) -> dict[str, float]:
    """Milliseconds of the network of a cell; nothing where there is no --latency_table."""
    if getattr(config, "latency_table", None) is None:
        return {}
    known = latencies.costs(config, space, num_classes, shape)
    return {"latency_ms": latencies.of_genotype(known, space, genotype)}


def labelled(facts: Mapping[str, Any], space: Space, config: Any) -> dict[str, Any]:
    """Facts with the size of the network in the names of its costs, as the report shows them."""
    names = {
        "found_cell_supernet_loss": "Loss of the found cell with the supernet's weights",
        "random_cells_supernet_loss": "Mean loss of random cells with the supernet's weights",
        "found_cell_supernet_accuracy": "Accuracy of the found cell, supernet's weights",
        "discretisation_gap_accuracy": "Accuracy lost from the mix to the cell",
        "largest_class_share": "Largest class",
        "latency_ms": "Latency of the network to train, ms, by the table",
    }
    if "parameters" in facts or "trained_parameters" in facts:
        published, trained = (
            sizes.words(space, size) for size in (evaluated(space), sizes.trained(config, space))
        )
        names["parameters"] = f"Parameters of the network at {published}"
        names["multiply_adds"] = f"Multiply-adds of the network at {published}"
        if trained == published:
            facts = {key: value for key, value in facts.items() if not key.startswith("trained_")}
        names["trained_parameters"] = f"Parameters of the network to train, at {trained}"
        names["trained_multiply_adds"] = f"Multiply-adds of the network to train, at {trained}"
    shown = {names.get(key, key): value for key, value in facts.items()}
    if "discretisation_gap_accuracy" in facts:
        gap = 100 * facts["discretisation_gap_accuracy"]
        shown[names["discretisation_gap_accuracy"]] = f"{gap:.2f} points"
    for key in ("found_cell_supernet_accuracy", "largest_class_share"):
        if key in facts:
            shown[names[key]] = page.shown("accuracy", facts[key])
    return shown


def largest_class_share(labels: np.ndarray) -> float:
    """The share of the images that belong to the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def warnings(
    config: Any,
    facts: Mapping[str, Any],
    chosen: Mapping[str, Sequence[str]],
) -> list[str]:
    """Warnings that a user should read before the cell is trained.

    Args:
        config: the configuration of the search.
        facts: as in facts.json.
        chosen: the operations of every cell.
    """
    wrong = []
    text = degenerate.warning(chosen)
    if text:
        wrong.append(f"{text}: stop earlier (--stop_skips) or use another algorithm.")
    loss, random_loss = facts["found_cell_supernet_loss"], facts["random_cells_supernet_loss"]
    if loss > 1.01 * random_loss:  # less than a percent is chance
        wrong.append(
            "With the supernet's weights the found cell is worse than random cells: validation loss"
            f" {loss:.3f}, mean of random cells {random_loss:.3f}."
        )
    weight, target = getattr(config, "cost_weight", 0.0), getattr(config, "cost_target", math.inf)
    kind = getattr(config, "cost_of", "")
    cost = facts.get("latency_ms") if kind == "latency" else facts.get(kind)
    if weight and cost is not None:
        cost = cost if kind == "latency" else cost / 1e6
        if cost > target:
            wrong.append(
                f"The cell misses --cost_target={target:g}: its network has"
                f" {COSTS[kind].format(cost)}. Raise --cost_weight or the target."
            )
    accuracy, share = (
        facts.get(key) for key in ("found_cell_supernet_accuracy", "largest_class_share")
    )
    if accuracy is not None and share is not None and accuracy <= share:
        wrong.append(
            f"The validation accuracy of the found cell, {accuracy:.2%}, does not beat the share of"
            f" the largest class, {share:.2%}."
        )
    return wrong


def next_command(config: Any, folder: Path) -> str:
    """The command that trains the cell of a search."""
    if config.dataset.startswith(ARRAYS):
        return reproduce.call("evaluate", {})
    flags = [f"--arch={folder}", f"--dataset={config.dataset}"]
    flags += [f"--data_dir={config.data_dir}"] if config.data_dir else []
    if getattr(config, "image_size", None) is not None:
        flags += ["--stream"] if config.image_size == sizes.STREAMED else []
        flags += [f"--image_size={config.image_size}"]
    if getattr(config, "trained_channels", None):
        flags += [f"--init_channels={config.trained_channels}"]
    if getattr(config, "trained_layers", None):
        flags += [f"--layers={config.trained_layers}"]
    return shlex.join(["jaxdarts", "evaluate", *flags])


def sentence(facts: Mapping[str, Any], space: Space, config: Any) -> str:
    """The result of a search, in one sentence."""
    loss, random_loss = facts["found_cell_supernet_loss"], facts["random_cells_supernet_loss"]
    order = "better" if loss < random_loss else "not better"
    if "found_cell_supernet_accuracy" in facts:
        what = f"validation accuracy {facts['found_cell_supernet_accuracy']:.2%}"
    else:
        what = f"validation perplexity {math.exp(loss):.2f}"
    text = (
        f"the found cell has {what} with the supernet's weights, {order} than random cells (loss"
        f" {loss:.3f} against {random_loss:.3f})"
    )
    if "trained_parameters" in facts:
        size = sizes.words(space, sizes.trained(config, space))
        text += f"; its network has {facts['trained_parameters']:,} parameters at {size}"
        if "latency_ms" in facts:
            text += f", and takes {facts['latency_ms']:.3g} ms by the table of latencies"
    return text


def head(
    config: Any,
    facts: Mapping[str, Any],
    space: Space,
    folder: Path,
    wrong: Sequence[str],
) -> page.Summary:
    """The head of the report of a search."""
    figures: dict[str, Any] = {}
    if "found_cell_supernet_accuracy" in facts:
        accuracy = facts["found_cell_supernet_accuracy"]
        figures["Validation accuracy of the cell, with the supernet's weights"] = page.shown(
            "accuracy", accuracy
        )
    else:
        perplexity = math.exp(facts["found_cell_supernet_loss"])
        figures["Validation perplexity of the cell, with the supernet's weights"] = perplexity
    named = labelled(facts, space, config)
    shown = "Parameters of", "Latency of"
    figures |= {name: value for name, value in named.items() if name.startswith(shown)}
    start = config.start()
    return page.Summary(
        figures=figures,
        warnings=wrong,
        next_command=next_command(config, folder),
        command=reproduce.command("search", config, start),
        changed=reproduce.changed(config, start),
    )
