"""Tables about a run's cells and its mixture weights that need no computation.

Topology, and how a search came to decide.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxdarts import genotypes, report, spaces
from jaxdarts.analysis import mixture, topology
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.analyze.subjects import plain
from jaxdarts.commands.discrete import evaluators
from jaxdarts.data.benchmarks import tabular
from jaxdarts.genotypes import Genotype
from jaxdarts.report.page import CELLS
from jaxdarts.runs import Stop, flag

PUBLISHED = (
    "NASNet",
    "AmoebaNet",
    "SNAS",
    "DARTS_V1",
    "DARTS_V2",
    "PC_DARTS_cifar",
    "PDARTS",
    "GDAS_V1",
)


@dataclasses.dataclass(frozen=True)
class Topology(subjects.Options):
    """Width and depth of a run's cells (Shu et al. 2020) beside published ones and all that there
    are; variants of them.
    """

    COMMAND: ClassVar[str] = "analyze topology"

    each: int = flag(
        3,
        "Number of variants with other connections for every width; analysis/topology.json lists"
        " their genotypes.",
        subjects.VARIANTS,
    )


@dataclasses.dataclass(frozen=True)
class Mixture(subjects.OfSearches):
    """How decided a search is, what its cell keeps of the mix, and how stable the ranks of its
    operations are.
    """

    COMMAND: ClassVar[str] = "analyze mixture"

    table: str = flag(
        "",
        "CSV file of NAS-Bench-201's accuracies; shows the accuracy of the cell after every epoch"
        " (a search in that space); default none.",
    )


def topology_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Topology, arguments, Topology.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        genotype = subjects.genotype_of(run)
        if not isinstance(genotype, Genotype):
            raise Stop(
                f"{name}: width and depth are defined for cells with two inputs, not for a"
                f" {type(genotype).__name__}",
                2,
            )
        known: dict[str, Any] = {name: genotypes.PUBLISHED[name] for name in PUBLISHED}
        rows = topology.pattern({"this run": genotype, **known})
        nodes = len(genotype.normal) // 2
        counts = topology.counts(nodes)
        dots = {"all connections": [(shape.width, shape.depth) for shape in counts]}
        for cell in topology.CELLS:
            cell_topology = topology.topology(getattr(genotype, cell))
            dots[CELLS[cell].lower()] = [(cell_topology.width, cell_topology.depth)]
        others = variants(genotype, config)
        numbers = {
            "pattern": rows,
            "counts": [[shape.width, shape.depth, count] for shape, count in counts.items()],
            "adapted": str(topology.adapted(genotype)),
            "variants": [
                {"genotype": str(v), **topology.topology(v.normal)._asdict()} for v in others
            ],
        }
        table = [
            [
                row["name"],
                CELLS[row["cell"]].removesuffix(" cell").lower(),
                f"{row['width']:g} of {row['nodes']}",
                str(row["depth"]),
                f"{100 * row['wider']:.0f} %",
                f"{100 * row['shallower']:.0f} %",
            ]
            for row in rows
        ]
        derived_normal = rows[0]
        section = report.sections.Section(
            "topology",
            "Topology",
            "Width: channels of the nodes that the inputs feed, in multiples of a node's; depth:"
            " edges on the longest path to the output (Shu et al. 2020). Cells that searches"
            f" return tend to be wide and shallow. The share of all {sum(counts.values())}"
            f" connections of {nodes} nodes (of as many as the cell has, for others) that are"
            " more so:",
            {
                "Width, normal cell": f"{derived_normal['width']:g} of {nodes}",
                "Depth, normal cell": str(derived_normal["depth"]),
                "Wider connections": f"{100 * derived_normal['wider']:.0f} %",
                "Shallower connections": f"{100 * derived_normal['shallower']:.0f} %",
            },
            [
                report.sections.Table(
                    "This run's cells and published ones",
                    ["cells", "kind", "width", "depth", "wider", "shallower"],
                    table,
                )
            ],
            {
                "shapes": report.charts.scatter(
                    dots, title="Width and depth", xlabel="width, nodes", ylabel="depth, edges"
                )
            },
        )
        subjects.report(run, section, numbers)


def variants(genotype: Genotype, config: Topology) -> list[Genotype]:
    """Re-connected cells of every width, as many as there are up to --each."""
    cells, rng = [], np.random.default_rng(config.seed)
    for width in sorted({shape.width for shape in topology.counts(len(genotype.normal) // 2)}):
        for each in range(config.each, 0, -1):
            try:
                cells += topology.variants(genotype, rng, [width], each, draws=2000)
                break
            except ValueError:
                continue  # a rare width of a small cell has fewer different ones
    return cells


def mixture_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Mixture, arguments, Mixture.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        cells = subjects.space_of(run)
        mixes = subjects.mixes_of(run.folder, cells)
        others = [folder for folder in siblings(run) if folder != run.folder]
        pictures, numbers, facts, curves, kept = {}, {}, {}, {}, {}
        for cell, choices in cells.items():
            title, mix = CELLS[cell], mixes[cell]
            entropy = mixture.entropy(mix, choices)
            labels = [f"{source}\N{RIGHTWARDS ARROW}{target}" for source, target in choices.edges]
            pictures[f"{cell}-entropy"] = report.heatmaps.matrix(
                entropy.T, labels, title=title, xlabel=f"epochs 1 to {len(mix)}", ylabel="entropy"
            )
            to_last = [mixture.agreement(one, mix[-1], choices) for one in mix]
            to_next = [
                mixture.agreement(one, other, choices) for one, other in zip(mix[:-1], mix[1:])
            ]
            short = title.removesuffix(" cell").lower()
            curves[f"{short}, to the last"] = [
                (epoch, agreement["tau"]) for epoch, agreement in enumerate(to_last, 1)
            ]
            curves[f"{short}, to the next"] = [
                (epoch, agreement["tau"]) for epoch, agreement in enumerate(to_next, 1)
            ]
            kept[short] = [
                (epoch, mixture.kept_share(one, choices)) for epoch, one in enumerate(mix, 1)
            ]
            numbers[cell] = {
                "entropy": plain(entropy),
                "tau_to_last": plain([agreement["tau"] for agreement in to_last]),
                "same_as_last": plain([agreement["same"] for agreement in to_last]),
                "tau_to_next": plain([agreement["tau"] for agreement in to_next]),
                "kept_share": plain([share for _, share in kept[short]]),
            }
            facts[f"Entropy, {title.lower()}"] = f"{float(entropy[-1].mean()):.3g}"
            facts[f"Kept share, {title.lower()}"] = f"{kept[short][-1][1]:.3g}"
            if others:
                last = [mix[-1], *(subjects.mixes_of(folder, cells)[cell][-1] for folder in others)]
                between = mixture.mean_agreement(last, choices)
                numbers[cell]["seeds"] = {
                    "count": len(last),
                    **{key: plain(value) for key, value in between.items()},
                }
                facts[f"Tau between {len(last)} seeds, {title.lower()}"] = f"{between['tau']:.3g}"
        gap = gap_of(run)
        if gap is not None:
            numbers["discretisation_gap_accuracy"] = gap
            facts["Accuracy lost by discretising"] = f"{100 * gap:.2f} points"
        pictures["kept"] = report.charts.curves(
            kept, title="Share of the mix that the cell keeps", xlabel="epoch"
        )
        if config.table:
            trained = numbers["table"] = in_table(mixes, config.table)
            tested = [one["test"] for one in trained]
            points = {"in the table": list(enumerate(tested, 1))}
            pictures["table"] = report.charts.curves(
                points, title="Test accuracy of the cell", xlabel="epoch"
            )
            facts["Test accuracy in the table"] = f"{tested[-1]:.2f} %, at best {max(tested):.2f} %"
            facts["Skip connections"] = (
                f"{trained[-1]['skip_connections']} of {len(cells['cell'].edges)}"
            )
        pictures["ranks"] = report.charts.curves(
            curves,
            title="Stability of ranks",
            xlabel="epoch",
            ylabel="Kendall's tau, mean of edges",
        )
        section = report.sections.Section(
            "mixture",
            "Mixture weights",
            "Entropy of the weights of every edge, 1 for equal weights and 0 for one operation; the"
            " share of all weight that lies on what the derived cell keeps; and how alike the"
            " operations of an edge are ranked by one epoch and by another. The accuracy lost is"
            " that of the shared weights on the validation images, from the mix to the cell.",
            facts,
            pictures=pictures,
        )
        subjects.report(run, section, numbers)


def in_table(mixes: Mapping[str, np.ndarray], path: str) -> list[dict[str, Any]]:
    """The cell of every epoch, its skip connections, and its accuracies after a whole training."""
    if set(mixes) != {"cell"}:
        raise Stop("--table: of searches in NAS-Bench-201, whose networks have one kind of cell", 2)
    rows, space, results = evaluators.opened("table", path, tabular.read), spaces.nasbench201(), []
    for mix in mixes["cell"]:
        genotype = space.discretize({"cell": mix})
        if genotype not in rows:
            raise Stop(f"--table={path}: has no {genotype}", 2)
        skips = sum(op == "skip_connect" for op, _ in genotype.cell)
        row = rows[genotype]
        results.append(
            {
                "cell": str(genotype),
                "skip_connections": skips,
                "valid": row.valid_200,
                "test": row.test_200,
            }
        )
    return results


def siblings(run: subjects.Opened) -> list[Path]:
    """The folders of all seeds of a run that have mixture weights."""
    if run.root == run.folder:
        return [run.folder]
    return sorted(folder for folder in run.root.glob("seed-*") if (folder / "alphas.npz").exists())


def gap_of(run: subjects.Opened) -> float | None:
    """Accuracy with the shared weights that was lost when the mix became a cell.

    None for a search that is not finished.
    """
    facts = subjects.facts_of(run)
    return facts.get("discretisation_gap_accuracy")
