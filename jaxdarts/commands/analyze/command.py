"""Look into finished runs: jaxdarts analyze landscape runs/eval-digits-20260102-030405

    topology      width and depth of the cells, beside published ones; variants with other
    connections mixture       entropy of the mixture weights, what the cell keeps of them, stability
    of ranks      (searches) landscape     loss and accuracy on a plane, of weights or of alpha
    variance      variance of the gradient between batches, on a plane curvature     eigenvalues of
    the loss's Hessian, in the weights or in alpha convergence   short trainings of the cell and of
    variants with other connections compare       one page of several runs and published cells, side
    by side ranking       how well shared weights rank the 64 cells of a small space, from trainings
    of its own ensemble      ensembles of runs, pruned; the same as evaluate.py --ensemble

Each but the last three writes numbers (JSON) and pictures (SVG) into RUN/analysis and shows them in
the run's report.html; a second time replaces the first. `analyze.py NAME --help` explains its
flags. A table of several algorithms from one command is compare.py's.
"""

from collections.abc import Callable

from jaxdarts.commands.analyze import comparison, convergence, curvatures, planes, ranking, tables
from jaxdarts.commands.ensemble import command as ensemble_command
from jaxdarts.runs import Stop

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "topology": tables.topology_of_runs,
    "mixture": tables.mixture_of_runs,
    "landscape": planes.landscape_of_runs,
    "variance": planes.variance_of_runs,
    "curvature": curvatures.curvature_of_runs,
    "convergence": convergence.convergence_of_runs,
    "compare": comparison.main,
    "ranking": ranking.main,
    "ensemble": ensemble_command.main,
}
"""What the first word of the command line names; each takes the rest."""


def main(arguments: list[str]) -> None:
    if arguments[:1] in ([], ["-h"], ["--help"]):
        return print(__doc__)
    if arguments[0] not in COMMANDS:
        raise Stop(f"{arguments[0]}: no analysis; there are {', '.join(COMMANDS)}", 2)
    COMMANDS[arguments[0]](arguments[1:])
