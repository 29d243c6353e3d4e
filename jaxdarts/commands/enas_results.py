"""The result of a search by ENAS: the cell, how it compares with random ones, drawings, facts."""

import json
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdarts import files, parallel, report, runs
from jaxdarts.discrete import enas
from jaxdarts.space import Space, one_hot

if TYPE_CHECKING:
    from jaxdarts.commands.enas import Config, Program


def finish(
    config: "Config",
    program: "Program",
    training: runs.Training[enas.EnasState],
    data: Any,
    records: list[dict[str, Any]],
    run: runs.Run,
) -> None:
    """Derives the cell, compares the policy's cells with random ones, and writes the results."""
    state, space = parallel.first(training.state), program.space
    key, num_batches = (
        jax.random.fold_in(jax.random.key(config.seed), 2),
        program.sizes[1] // config.batch_size,
    )
    indices = np.arange(num_batches * config.batch_size, dtype=np.int32).reshape(num_batches, 1, -1)

    def score(mix) -> float:
        mix = parallel.replicate(dict(mix), program.devices)
        accuracies = [
            parallel.first(program.evaluate(training.state.params, mix, data, batch))
            for batch in indices
        ]
        return float(np.mean(np.asarray(accuracies)))

    scores: list[float] = []

    def kept(mix) -> float:
        scores.append(score(mix))
        return scores[-1]

    mix, accuracy = enas.best_of(program.policy, state.policy, key, config.num_samples, kept)
    uniform = [
        score(one_hot(space.cells, space.sample(k)))
        for k in jax.random.split(key, config.num_samples)
    ]
    genotype = space.discretize(mix)
    facts = {
        "dataset": config.dataset,
        "space": config.space,
        "epochs": len(records),
        "found_cell_supernet_accuracy": accuracy,
        "policy_cells_supernet_accuracy": float(np.mean(scores)),
        "random_cells_supernet_accuracy": float(np.mean(uniform)),
        "best_random_cell_supernet_accuracy": float(np.max(uniform)),
        "supernet_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "wall_time": sum(record["seconds"] for record in records),
        "genotype": str(genotype),
    }
    write = files.replace_text
    # An own form: genotypes of the 64-model space name operations that NAS-Bench-201's cells have
    # not.
    write(run.folder / "genotype.json", json.dumps(genotype._asdict()) + "\n")
    for name, svg in drawn(space, genotype).items():
        write(run.folder / f"{name}.svg", svg)
    series = {
        name: [(r["epoch"] + 1, r[name]) for r in records if name in r]
        for name in ("reward", "baseline")
    }
    write(
        run.folder / "reward.svg",
        report.charts.curves(
            series, title="Accuracy of the policy's cells", xlabel="epoch", ylabel="fraction"
        ),
    )
    write(run.folder / "facts.json", json.dumps({**facts, **runs.versions()}, indent=2) + "\n")
    run.log.info("supernet accuracy of the found cell %f", 100 * accuracy)
    run.log.info(
        "mean of the policy's %f, of random cells %f",
        *(100 * float(np.mean(accuracies)) for accuracies in (scores, uniform)),
    )
    run.log.info("genotype = %s", genotype)


def drawn(space: Space, genotype: Any) -> dict[str, str]:
    """The cells as SVG; where a space has but one, with the output of that space."""
    if "cell" not in space.cells:
        return report.cells.cell(genotype)
    choices = space.cells["cell"]
    triples = [(op, *edge) for (op, _), edge in zip(genotype.cell, choices.edges, strict=True)]
    return {
        "cell": report.cells.graph(
            triples, choices.concat, inputs=report.cells.INPUTS[1:], title="Cell"
        )
    }
