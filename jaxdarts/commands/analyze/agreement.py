"""Results of the study of rankings: tau among instances and with the truth.

They are written as numbers, a table and plots. ranking.py runs the study.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdarts import report
from jaxdarts.analysis import ranking
from jaxdarts.runs import spread
from jaxdarts.spaces.weight_sharing64 import NAMES, PUBLISHED_ACCURACIES

TRUTH = "alone"
"""The study in which every child is trained alone."""


def joined(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The records of one study as arrays.

    They are `accuracies` [instances, evaluations, models] and `last` [instances, steps, models].
    """
    out = {}
    for name in ("accuracies", "last"):
        rows = len(records[0][name])
        values = np.full((1 + max(r["instance"] for r in records), rows, len(NAMES)), np.nan)
        for record in records:
            accuracies = np.reshape(
                record[name], (rows, len(record["members"]))
            )  # no rows without --last_steps
            values[record["instance"]][:, record["members"]] = accuracies
        out[name] = values
    return out


def summarize(config: Any, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Summary of all studies, from their records."""
    names = list(dict.fromkeys(record["study"] for record in records))
    studies = {
        name: joined([record for record in records if record["study"] == name]) for name in names
    }
    alone = studies[TRUTH]["accuracies"][:, -1]
    truth = alone.mean(axis=0)
    best = np.argsort(-truth, kind="stable")
    out: dict[str, Any] = {
        "truth": {
            "accuracies": dict(zip(NAMES, truth.round(5).tolist())),
            "best": [NAMES[i] for i in best[:8]],
            "worst": NAMES[best[-1]],
            "tau_with_published": ranking.kendall_tau(truth, np.array(PUBLISHED_ACCURACIES)),
        },
        "studies": {},
    }
    for name, study in studies.items():
        values, last = study["accuracies"], study["last"]
        epochs = next(record["epochs"] for record in records if record["study"] == name)
        others = (
            [np.delete(alone, i, axis=0).mean(axis=0) for i in range(len(alone))]
            if len(alone) > 1
            else None
        )
        # A child alone is compared with what the other instances make of it, else with itself.
        truths = [truth] * len(values) if name != TRUTH else others
        row: dict[str, Any] = {"instances": len(values), "epochs": epochs}
        if len(values) > 1:
            row["s_tau"] = [ranking.s_tau(values[:, e])._asdict() for e in range(len(epochs))]
        if truths is not None:
            taus = np.array(
                [
                    ranking.gt_tau(accuracies, t)
                    for accuracies, t in zip(values, truths, strict=True)
                ]
            )
            row["gt_tau"] = [spread(column) for column in taus.T]
            row |= {
                f"t{n}r": spread(
                    np.array(
                        [
                            ranking.best_of_top(v[-1], t, n)
                            for v, t in zip(values, truths, strict=True)
                        ]
                    )
                )
                for n in (1, 3)
            }
            if last.shape[1]:
                per_step = np.array(
                    [
                        ranking.gt_tau(accuracies, t)
                        for accuracies, t in zip(last, truths, strict=True)
                    ]
                )
                row["gt_tau_of_last_steps"] = {
                    "mean": spread(per_step.mean(axis=1)),
                    "deviation": spread(per_step.std(axis=1)),
                }
        row["mean_accuracy"] = float(values[:, -1].mean())
        row["seconds"] = sum(record["seconds"] for record in records if record["study"] == name)
        out["studies"][name] = row
    shared = [record for record in records if record["study"] == "seeds"]
    if shared and len(shared[0]["epochs"]) > 1:
        between = [ranking.s_tau(values)._asdict() for values in studies["seeds"]["accuracies"]]
        out["s_tau_between_epochs_of_an_instance"] = between
    if shared and config.tune_epochs and config.tune_steps:
        out["tuned"] = {
            epoch: {
                str(steps): spread(
                    ranking.gt_tau(np.array([r["tuned"][epoch][i] for r in shared]), truth)
                )
                for i, steps in enumerate(config.tune_steps)
            }
            for epoch in shared[0]["tuned"]
        }
    return out


def table(summary: Mapping[str, Any]) -> list[str]:
    """The studies as lines of Markdown, after the last epoch."""

    def text(value: Mapping[str, float | None] | None, digits: int = 3) -> str:
        if value is None:
            return ""
        deviation = "" if value["deviation"] is None else f" +- {value['deviation']:.{digits}f}"
        return f"{value['mean']:.{digits}f}{deviation}"

    lines = [
        (
            "| | instances | S-Tau (max, min) | GT-Tau | T1R | T3R | GT-Tau of the last steps, its"
            " deviation |"
        ),
        "|" + " --- |" * 7,
    ]
    for name, row in summary["studies"].items():
        agreement = row["s_tau"][-1] if "s_tau" in row else None
        s_tau = "{mean:.3f} ({maximum:.3f}, {minimum:.3f})".format(**agreement) if agreement else ""
        gt_tau = text(row["gt_tau"][-1]) if "gt_tau" in row else ""
        last = row.get("gt_tau_of_last_steps")
        of_steps = f"{text(last['mean'])}, {text(last['deviation'])}" if last else ""
        ranks = [text(row.get(f"t{n}r"), 1) for n in (1, 3)]
        lines.append(
            "| " + " | ".join([name, str(row["instances"]), s_tau, gt_tau, *ranks, of_steps]) + " |"
        )
    return lines


def plots(summary: Mapping[str, Any]) -> dict[str, str]:
    """The studies' curves as SVG, by name."""
    studies = summary["studies"]

    def over_epochs(field: str) -> dict[str, list]:
        curves = {
            name: row
            for name, row in studies.items()
            if field in row and not name.endswith(("groups", "shared cells"))
        }
        return {
            name: [(e, v["mean"]) for e, v in zip(row["epochs"], row[field], strict=True)]
            for name, row in curves.items()
        }

    out = {
        "s_tau": report.charts.curves(
            over_epochs("s_tau"), title="Agreement of instances", xlabel="epoch", ylabel="S-Tau"
        ),
        "gt_tau": report.charts.curves(
            over_epochs("gt_tau"), title="Agreement with the truth", xlabel="epoch", ylabel="GT-Tau"
        ),
    }
    series: dict[str, list] = {}
    for kind in ("random", "similar"):
        curves = {
            int(name.split()[0]): row for name, row in studies.items() if f" {kind} groups" in name
        }
        if curves:
            ends = {1: studies["seeds"], **curves, len(NAMES): studies[TRUTH]}
            series[kind] = [
                (math.log2(m), row["gt_tau"][-1]["mean"])
                for m, row in ends.items()
                if "gt_tau" in row
            ]
    if series:
        out["groups"] = report.charts.curves(
            series,
            title="Partial sharing",
            xlabel="log2 of the number of groups",
            ylabel="GT-Tau after the last epoch",
        )
    parts = {
        int(name.split()[0]): row
        for name, row in studies.items()
        if name.endswith("shared cells") and "gt_tau" in row
    }
    if parts:
        points = [(cells, row["gt_tau"][-1]["mean"]) for cells, row in sorted(parts.items())]
        out["prefixes"] = report.charts.curves(
            {"": points},
            title="Sharing the first cells",
            xlabel="shared cells",
            ylabel="GT-Tau after the last epoch",
        )
    if "tuned" in summary:
        seeds_study = studies["seeds"]
        before = {
            str(e): v["mean"]
            for e, v in zip(seeds_study["epochs"], seeds_study["gt_tau"], strict=True)
        }
        curves = {
            f"from epoch {epoch}": [
                (0, before.get(epoch, math.nan)),
                *((int(s), v["mean"]) for s, v in values.items()),
            ]
            for epoch, values in summary["tuned"].items()
        }
        out["tuned"] = report.charts.curves(
            curves, title="Each child trained on alone", xlabel="mini-batches", ylabel="GT-Tau"
        )
    return out
