"""Curvature of the loss where a run ended: eigenvalues of its Hessian.

The dominant one is also shown along a search.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import files, report, runs
from jaxdarts.analysis import curvature
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.analyze.subjects import plain
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import POSITIVE


@dataclasses.dataclass(frozen=True)
class Curvature(subjects.Measured):
    """Eigenvalues of the Hessian of a loss where a run ended.

    A search that measured the dominant one shows it over the epochs.
    """

    COMMAND: ClassVar[str] = "analyze curvature"

    steps: int = flag(
        30,
        "Steps of Lanczos' method; each is a Hessian-vector product and costs two to three"
        " gradients.",
        POSITIVE,
    )
    probes: int = flag(4, "Number of random vectors; the density is the mean over them.", POSITIVE)


def curvature_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Curvature, arguments, Curvature.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        subject = subjects.subject(run, config)
        size = sum(leaf.size for leaf in jax.tree.leaves(subject.point))

        def product(v: Any, point: Any, subject=subject) -> Any:
            def one(batch):
                return curvature.hessian_vector(
                    lambda point: subject.loss(point, batch)[0], point, v
                )

            return jax.tree.map(lambda x: jnp.mean(x, 0), jax.lax.map(one, subject.batches))

        def probe(key: Any, point: Any, product=product) -> Any:
            return curvature.spectrum(lambda v: product(v, point), point, key[None], config.steps)

        keys, compiled = (
            jax.random.split(jax.random.key(config.seed), config.probes),
            runs.jitted(probe),
        )
        quadratures, bar = [], runs.writers.console(config.probes)
        try:
            for i, key in enumerate(keys):
                nodes, weights = jax.tree.map(np.asarray, compiled(key, subject.point))
                quadratures.append((nodes[0], weights[0]))
                bar.write(i + 1, {"largest": float(nodes.max()), "least": float(nodes.min())})
        finally:
            bar.close()
        nodes, weights = (np.stack(parts) for parts in zip(*quadratures, strict=True))
        if not np.all(np.isfinite(nodes)):
            raise Stop(f"{run.folder}: the Hessian is not finite")
        dominant = float(nodes.flat[np.abs(nodes).argmax()])
        trace = float(size * np.mean(np.sum(nodes * weights, -1)))
        low, high = float(nodes.min()), float(nodes.max())
        width = max(high - low, 1e-12) / 60
        points = np.linspace(low - 3 * width, high + 3 * width, 240)
        density = curvature.density(nodes, weights, points, width)
        logarithm = np.log10(np.maximum(density, density.max() * 1e-7))
        pictures = {
            "density": report.charts.curves(
                {"density": list(zip(points.tolist(), logarithm.tolist(), strict=True))},
                title="Density of eigenvalues",
                xlabel="eigenvalue",
                ylabel="log10 of the density",
            )
        }
        numbers = {
            "nodes": plain(nodes),
            "weights": plain(weights),
            "dominant": plain(dominant),
            "trace": plain(trace),
            "size": size,
            "deviation": plain(width),
        }
        along = trajectory(run)
        if along:
            numbers["trajectory"] = along
            averages = curvature.local_average([value for _, value in along])
            # Charts count epochs from 1.
            measured = [(epoch + 1, value) for epoch, value in along]
            averaged = [
                (epoch, float(value)) for (epoch, _), value in zip(measured, averages, strict=True)
            ]
            pictures["trajectory"] = report.charts.curves(
                {"measured": measured, "mean of 5": averaged},
                title="Dominant eigenvalue, with respect to alpha",
                xlabel="epoch",
            )
        section = report.sections.Section(
            subject.section("curvature"),
            f"Curvature in {subject.words}",
            f"Eigenvalues of the Hessian of the mean loss on {subject.images}, of {size} numbers:"
            f" Lanczos quadrature with {nodes.shape[1]} steps from {config.probes} random vectors,"
            f" every value widened by {width:.2g}. Without weight decay."
            + (
                " The eigenvalues along the search are those that it measured itself, with it."
                if along
                else ""
            ),
            {
                "Dominant eigenvalue": f"{dominant:.4g}",
                "Least": f"{low:.4g}",
                "Trace, estimated": f"{trace:.4g}",
            },
            pictures=pictures,
        )
        subjects.report(run, section, numbers)


def trajectory(run: subjects.Opened) -> list[tuple[float, float]]:
    """Epochs and dominant eigenvalues of a search that measured them (--eigenvalue_freq)."""
    path = run.folder / "metrics.jsonl"
    try:
        records = (
            files.read_json_lines(path, runs.writers.METRICS)
            if run.searched and path.exists()
            else []
        )
    except ValueError as error:
        raise runs.Stop(str(error)) from error
    return [
        (record["epoch"], record["eigenvalue"])
        for record in records
        if record.get("eigenvalue") is not None
    ]
