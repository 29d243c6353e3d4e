"""The loss around the point where a run ended, and the variance of its gradient there.

The variance is that from batch to batch.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import report, runs
from jaxdarts.analysis import landscape, variance
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.analyze.subjects import Subject, plain
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import POSITIVE, at_least

MOVES = {
    "weights": (
        "random directions whose filters are as long as those of the weights (Li et al. 2018);"
        " biases, scales and shifts of batch norms and running averages stay as they are"
    ),
    "alpha": "random directions with a length of one on every edge; the weights stay as they are",
}


@dataclasses.dataclass(frozen=True)
class Plane(subjects.Measured):
    """Loss and accuracy on a line or a plane through a run's end."""

    COMMAND: ClassVar[str] = "analyze landscape"

    grid: int = flag(
        21,
        "Number of points along each direction; with an odd number the run's own weights are one of"
        " them.",
        at_least(3),
    )
    span: float = flag(1.0, "Half the side of the grid, in lengths of a direction.", POSITIVE)
    dimensions: Literal[1, 2] = flag(2, "Dimensions of the grid: 1 for a line, 2 for a plane.")
    together: int = flag(
        1, "Number of points that are computed at once; 1 is best on a CPU.", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Variance(Plane):
    """Variance of the gradient between batches, on a line or a plane through a run's end."""

    COMMAND: ClassVar[str] = "analyze variance"

    grid: int = 9


def landscape_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Plane, arguments, Plane.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        subject = subjects.subject(run, config)
        loss, accuracy = on_grid(config, subject, subject.mean_loss, "loss")
        middle, _ = runs.jitted(subject.mean_loss)(subject.point)
        numbers = {
            "loss": plain(loss),
            "accuracy": plain(accuracy),
            "loss_of_the_run": plain(middle),
            **settings(config),
        }
        rough = float(np.nanmax(loss) - np.nanmin(loss))
        section = report.sections.Section(
            subject.section("landscape"),
            f"Loss around {subject.words}",
            f"Loss and accuracy on {subject.images}, along {MOVES[subject.what]}; the run's end is"
            " in the middle.",
            {"Loss in the middle": f"{float(middle):.4g}", "Largest less least": f"{rough:.4g}"},
            pictures=pictures(config, {"Loss": loss, "Accuracy, percent": 100 * accuracy}),
        )
        subjects.report(run, section, numbers)


def variance_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Variance, arguments, Variance.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        subject = subjects.subject(run, config)
        size = sum(leaf.size for leaf in jax.tree.leaves(subject.point))
        if len(subject.batches["label"]) < 2:
            raise Stop(
                f"--images={config.images}: one batch has no variance; ask for more images or a"
                " smaller --batch_size",
                2,
            )

        def measured(point: Any, subject=subject):
            gradient = jax.grad(lambda point, batch: subject.loss(point, batch)[0])
            return variance.gradients(lambda batch: gradient(point, batch), subject.batches)

        spread, squared_mean = on_grid(config, subject, measured, "variance")
        numbers = {
            "variance": plain(spread),
            "squared_mean": plain(squared_mean),
            "size": size,
            **settings(config),
        }
        at_end = variance.Gradients(*runs.jitted(measured)(subject.point))
        numbers |= {
            "variance_of_the_run": plain(at_end.variance),
            "squared_mean_of_the_run": plain(at_end.squared_mean),
        }
        section = report.sections.Section(
            subject.section("variance"),
            f"Variance of the gradient in {subject.words}",
            f"Over {subject.images}: the mean over the batches of |g - mean of g|^2, summed over"
            f" all {size} numbers and not divided by them; along {MOVES[subject.what]}.",
            {
                "Variance in the middle": f"{at_end.variance:.4g}",
                "Squared mean gradient": f"{at_end.squared_mean:.4g}",
                "Mean of the grid": f"{float(np.nanmean(spread)):.4g}",
            },
            pictures=pictures(config, {"Variance": spread}),
        )
        subjects.report(run, section, numbers)


def on_grid(config: Plane, subject: Subject, function: Any, shown: str) -> list[np.ndarray]:
    """Values of a function of the point on the grid, [grid] or [grid, grid] each.

    A row of it is one call, shown in the bar as it goes.
    """
    keys = jax.random.split(jax.random.key(config.seed), config.dimensions)
    directions = [subject.direction(key) for key in keys]
    points = landscape.grid(config.grid, config.span, config.dimensions)

    def row(point, directions, points):
        return landscape.values(function, point, directions, points, config.together)

    compiled, bar, rows = runs.jitted(row), runs.writers.console(len(points)), []
    width = config.grid if config.dimensions == 2 else -(-config.grid // 8)
    padded = np.concatenate(
        [points, np.repeat(points[-1:], -len(points) % width, 0)]
    )  # one shape, one compilation
    try:
        for start in range(0, len(padded), width):
            rows.append(
                jax.tree.map(
                    np.asarray,
                    compiled(subject.point, directions, jnp.asarray(padded[start : start + width])),
                )
            )
            bar.write(min(start + width, len(points)), {shown: float(np.mean(rows[-1][0]))})
    finally:
        bar.close()
    joined = [np.concatenate(parts)[: len(points)] for parts in zip(*rows, strict=True)]
    return [array.reshape([config.grid] * config.dimensions) for array in joined]


def settings(config: Plane) -> dict[str, Any]:
    """Where the numbers lie: row i, column j is at (axis[j], axis[i])."""
    return {"axis": plain(np.linspace(-config.span, config.span, config.grid)), "seed": config.seed}


def pictures(config: Plane, values: dict[str, np.ndarray]) -> dict[str, str]:
    """A curve, or a contour and a surface, of each."""
    axis, plots = np.linspace(-config.span, config.span, config.grid), {}
    for title, array in values.items():
        name = title.partition(",")[0].lower()
        if config.dimensions == 1:
            line = list(zip(axis.tolist(), array.tolist(), strict=True))
            plots[name] = report.charts.curves(
                {title: line}, title=title, xlabel="along the direction"
            )
            continue
        labels = {"title": title, "xlabel": "direction 1", "ylabel": "direction 2"}
        plots[f"{name}-contour"] = report.surfaces.contour(array, axis, axis, **labels)
        if title != "Accuracy, percent":
            plots[f"{name}-surface"] = report.surfaces.surface(array, axis, axis, **labels)
    return plots
