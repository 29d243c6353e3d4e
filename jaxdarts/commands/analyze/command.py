"""jaxdarts analyze: looks into finished runs; the first word names the analysis."""

from collections.abc import Callable

from jaxdarts.commands.analyze import (
    comparison,
    convergence,
    curvatures,
    perturbation,
    planes,
    ranking,
    tables,
)
from jaxdarts.commands.ensemble import command as ensemble_command
from jaxdarts.runs import Stop

COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "topology": (tables.topology_of_runs, "width and depth of the cells; variants of them"),
    "mixture": (tables.mixture_of_runs, "entropy of a search's mix, stability of its ranks"),
    "landscape": (planes.landscape_of_runs, "loss and accuracy on a plane of weights or alpha"),
    "variance": (planes.variance_of_runs, "variance of the gradient between batches, on a plane"),
    "curvature": (curvatures.curvature_of_runs, "eigenvalues of the loss's Hessian"),
    "perturbation": (
        perturbation.perturbation_of_runs,
        "accuracy of a search's supernet at mixes near its end",
    ),
    "convergence": (convergence.convergence_of_runs, "short trainings of variants of the cell"),
    "compare": (comparison.main, "one page of several runs and published cells"),
    "ranking": (ranking.main, "how well shared weights rank the cells of a small space"),
    "ensemble": (ensemble_command.main, "the same as jaxdarts evaluate --ensemble"),
}
"""Name of each analysis: (function of the words after it, summary)."""


def main(arguments: list[str]) -> None:
    if arguments[:1] in ([], ["-h"], ["--help"]):
        return print(usage())
    name, *rest = arguments
    if name not in COMMANDS:
        raise Stop(f"{name}: no analysis; there are {', '.join(COMMANDS)}", 2)
    analyse, _ = COMMANDS[name]
    analyse(rest)


def usage() -> str:
    """The analyses with a line each."""
    rows = [f"  {name:12} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxdarts analyze ANALYSIS [RUN ...] [flags]",
            "",
            *rows,
            "",
            "All but the last three write numbers (JSON) and pictures (SVG) into RUN/analysis and",
            "show them in RUN/report.html; a second time replaces the first.",
            "All but ranking and ensemble take RUN.",
            "jaxdarts analyze ANALYSIS --help lists the flags.",
        ]
    )
