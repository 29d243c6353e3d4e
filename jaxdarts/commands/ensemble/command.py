"""Train, prune and test an ensemble of cells (SAEP): jaxdarts evaluate --ensemble=RUN,RUN,...

Members, separated by commas and of any kinds: run folders of searches, whose cells are trained (of
all seeds; a cell that is named twice is trained twice, with other seeds); published names and JSON
files, likewise; run folders of trainings, whose networks are taken as they are; supernet:RUN, the
cells after every epoch of a search that kept its checkpoints (--keep_checkpoints=0), with the
supernet's weights. Or the ensemble grows, one member at a time: grow:dense (SAEP's dense networks)
or grow:NAME (networks of a cell, the next one may have a cell more).

Members are trained on the first --fit_portion of the training images, pruned on the rest, and
tested on the test images, with --num_seeds seeds. The run folder holds a folder for every member,
ensemble.json and report.html. An ensemble that was interrupted, or that is to be pruned in another
way, continues with --resume=RUN.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import ensembles, files, report, runs
from jaxdarts.commands import checks, command_line, datasets, flags
from jaxdarts.commands.ensemble import members
from jaxdarts.commands.ensemble.members import GROW, SUPERNET, MemberOutputs, Parts
from jaxdarts.commands.evaluate import recipes
from jaxdarts.data import images
from jaxdarts.ensembles import growth
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import INSIDE_ONE, NOT_NEGATIVE, POSITIVE, WITHIN_ONE


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The members of an ensemble and how it is pruned."""

    TOPIC: ClassVar[str] = "ensemble"

    ensemble: str = flag(
        "",
        "Members, separated by commas: run folders of searches or trainings, published cells, JSON"
        " files, supernet:RUN (the cells of a search after each epoch). Or grow:dense, or grow: and"
        " one cell.",
    )
    fit_portion: float = flag(
        0.8,
        "Fraction of the training images on which members are trained; the ensemble is pruned on"
        " the others.",
        INSIDE_ONE,
    )
    size: int = flag(
        0,
        "Number of members that random and information pruning keep; 0 for half of them. While an"
        " ensemble grows they remove one at a time.",
        NOT_NEGATIVE,
        free=True,
    )
    balance: float = flag(
        0.5,
        "Lambda of the distributed information criterion: accuracy at 0, diversity at 1. The"
        " centralised one is run at 0, 0.25, 0.5, 0.75 and 1.",
        WITHIN_ONE,
        free=True,
    )
    machines: int = flag(
        2,
        "Number of parts in which the distributed information criterion chooses.",
        POSITIVE,
        free=True,
    )
    mixture: Literal["uniform", "weighted"] = flag(
        "uniform",
        "Weights of the members: uniform (mean of probabilities; of logits while the ensemble"
        " grows) or weighted (weights of AdaNet's objective on the held-out images).",
        free=True,
    )
    adanet_lambda: float = flag(
        0.0,
        "AdaNet's penalty of a member's weight, times the square root of its depth.",
        NOT_NEGATIVE,
        free=True,
    )
    adanet_beta: float = flag(
        0.0, "AdaNet's constant penalty of a member's weight.", NOT_NEGATIVE, free=True
    )
    iterations: int = flag(
        11, "Number of members that are added while the ensemble grows.", POSITIVE, free=True
    )
    hidden: int = flag(32, "Units of a hidden layer of a dense network.", POSITIVE)
    dense_steps: int = flag(
        454,
        "Training steps of a dense network; 11 iterations of 454 make the published 5000.",
        POSITIVE,
    )
    dense_learning_rate: float = flag(
        0.003, "Learning rate of a dense network (RMSProp).", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Config(Ensemble, recipes.Training, flags.Output):
    """Train an ensemble, prune it, test it. Defaults are those of the data set's preset for a
    single cell.
    """

    COMMAND: ClassVar[str] = "evaluate"
    KIND: ClassVar[str] = "ensemble"


SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = {
    "size": "members",
    "test_accuracy": "test acc. (%)",
    "held_accuracy": "held-out acc. (%)",
    "parameters": "parameters",
    "disagreement": "disagreement",
    "disagreement_with_label": "with label",
    "vote_entropy": "vote entropy",
    "variation": "VI",
}
"""What is reported of an ensemble; the last four on the test images."""


def over(preset: recipes.Config) -> Config:
    """An ensemble's settings over a single cell's preset."""
    return Config(
        **{
            field.name: getattr(preset, field.name)
            for field in dataclasses.fields(recipes.Training)
        }
    )


def parse(arguments: Sequence[str] | command_line.Line) -> Config:
    """Flags over the preset for the kind of cell, as recipes.parse."""
    line = command_line.look(arguments)
    cells = [
        part.removeprefix(GROW)
        for part in names(line.value("ensemble"))
        if not part.startswith(SUPERNET) and part != f"{GROW}dense"
    ]
    kinds = {
        type(source.genotype)
        for cell in (() if line.saved else cells)
        for source in members.sources(cell)
        if source.genotype is not None
    }
    if len(kinds) > 1 and kinds & set(recipes.BENCHMARKS):
        raise Stop(
            "--ensemble: cells of NAS-Bench-201 and others, which are trained in different ways;"
            " train them apart",
            2,
        )
    kind = kinds.pop() if len(kinds) == 1 else None
    presets, fallback = recipes.presets_of(kind)
    starts = {name: over(one) for name, one in presets.items()}
    return command_line.parse(line, starts, over(fallback), __doc__)


def names(ensemble: str) -> list[str]:
    """The members that --ensemble names."""
    members = [part.strip() for part in ensemble.split(",")]
    if any(members) and not all(members):
        raise Stop(f"--ensemble={ensemble}: a name is missing between commas", 2)
    return [name for name in members if name]


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_flags(config)
    recipes.check(members.member_config(config, "", config.seed, Path(config.run_dir or "runs")))
    for name in ("stream", "estimate"):
        if getattr(config, name):
            raise Stop(f"--{name}: not of an ensemble; try it with a single cell", 2)
    if not names(config.ensemble):
        raise Stop("--ensemble: name its members, separated by commas", 2)
    if len(names(config.ensemble)) > 1 and any(
        part.startswith(GROW) for part in names(config.ensemble)
    ):
        raise Stop(f"--ensemble={config.ensemble}: an ensemble that grows has no other members", 2)
    return config


# ------------------------------------------------------------------------------------------ pruning


def all_members(key, probabilities, labels, weights) -> tuple[int, ...]:
    """The full ensemble, as a criterion."""
    return tuple(range(len(probabilities)))


def best_member(key, probabilities, labels, weights) -> tuple[int, ...]:
    """The single member with the least error, the first of equals, as a criterion."""
    return (int(np.argmin(np.mean(np.argmax(probabilities, -1) != labels[None], axis=1))),)


def criteria(config: Config, size: int | None) -> dict[str, ensembles.pruning.Criterion]:
    """Every way to prune, by its name in the results; random and information pruning leave `size`
    members.
    """
    return {
        "full": all_members,
        "prs": ensembles.pruning.prs(size),
        "pap": ensembles.pruning.pap,
        "pap_as_published": ensembles.pruning.pap_as_published,
        **{f"pie_{balance:g}": ensembles.pruning.pie(balance, size) for balance in SWEEP},
        f"pie_distributed_{config.balance:g}": ensembles.pruning.pie_distributed(
            config.balance, config.machines, size
        ),
    }


def ensemble_facts(
    outputs: Sequence[MemberOutputs], seed: int, parts: Parts, test: np.ndarray, held: np.ndarray
) -> dict[str, Any]:
    """What is reported of some members in one seed, who say `held` and `test` together, [images,
    classes].
    """
    labels, classes = parts.dataset.test.labels, len(parts.dataset.class_names)
    votes = np.stack([np.argmax(one.test[seed], -1) for one in outputs])
    return {
        "members": [one.name for one in outputs],
        "size": len(outputs),
        "test_accuracy": float(np.mean(np.argmax(test, -1) == labels)),
        "held_accuracy": float(np.mean(np.argmax(held, -1) == parts.held.labels)),
        **(
            {"parameters": sum(one.parameters for one in outputs)}
            if all(one.parameters for one in outputs)
            else {}
        ),
        "disagreement": ensembles.pruning.disagreement(votes),
        "disagreement_with_label": ensembles.pruning.disagreement_with_label(votes, labels),
        "vote_entropy": ensembles.pruning.vote_entropy(votes, classes),
        "variation": ensembles.pruning.variation(votes, classes),
    }


def pruned_ensembles(
    config: Config, outputs: list[MemberOutputs], seed: int, parts: Parts
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to prune one seed's members, and what it gives."""
    held, test = (
        np.stack([getattr(one, name)[seed] for one in outputs]) for name in ("held", "test")
    )
    probabilities, uniform = np.asarray(jax.nn.softmax(held)), config.mixture == "uniform"
    size = config.size or -(-len(outputs) // 2)
    if size > len(outputs):
        raise Stop(f"--size={size}: there are {len(outputs)} members", 2)

    def weights_of(chosen: list[int]) -> np.ndarray:
        penalties = jnp.array([penalty(config, outputs[i].depth) for i in chosen])
        return np.asarray(
            weigh(config)(jnp.asarray(held[chosen]), jnp.asarray(parts.held.labels), penalties)
        )

    everybody = weights_of(list(range(len(outputs))))
    for name, criterion in {**criteria(config, size), "best_member": best_member}.items():
        chosen = list(criterion(key_of(config, seed), probabilities, parts.held.labels, everybody))
        weights = weights_of(chosen)
        together = [
            jax.nn.softmax(logits[chosen]) if uniform else logits[chosen] for logits in (test, held)
        ]
        facts = ensemble_facts(
            [outputs[i] for i in chosen], seed, parts, *(mixture(one, weights) for one in together)
        )
        yield name, {**facts, "weights": weights.tolist()}


def mixture(predictions: Any, weights: np.ndarray) -> np.ndarray:
    """What an ensemble predicts: the weighted sum of its members' predictions."""
    return np.asarray(ensembles.pruning.mixture(jnp.asarray(predictions), jnp.asarray(weights)))


def key_of(config: Config, seed: int) -> Any:
    """A key for what is random about pruning, one a seed."""
    return jax.random.fold_in(jax.random.key(config.seed + seed), 4)


def penalty(config: Config, depth: int) -> float:
    """AdaNet's, of a member's absolute weight."""
    return config.adanet_lambda * depth**0.5 + config.adanet_beta


def weigh(config: Config) -> growth.Weigh:
    """How the members are weighed."""
    return ensembles.pruning.uniform_weights if config.mixture == "uniform" else LEARNED


LEARNED = jax.jit(ensembles.pruning.learned_weights)


def grown_ensembles(
    config: Config, train: Callable[[int, int], MemberOutputs], start: int, seed: int, parts: Parts
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The ensembles that grow in one seed, pruned in every way, and what they give."""
    for name, criterion in criteria(config, None).items():
        trained: dict[tuple[int, int], MemberOutputs] = {}

        def ask(iteration: int, depth: int, trained=trained) -> growth.Member:
            one = trained[iteration, depth] = train(iteration, depth)
            assert one.fit is not None  # it is asked for wherever an ensemble grows
            return growth.Member(depth, one.fit[seed], one.held[seed])

        steps = growth.grow(
            key_of(config, seed),
            ask,
            parts.fit.labels,
            parts.held.labels,
            start=start,
            criterion=None if name == "full" else criterion,
            weigh=weigh(config),
            strength=config.adanet_lambda,
            constant=config.adanet_beta,
        )
        last = next(itertools.islice(steps, config.iterations - 1, None))
        kept = [trained[i, last.members[i].depth] for i in last.kept]
        weights = np.array(last.weights, np.float32)
        test, held = (
            mixture(np.stack([getattr(one, part)[seed] for one in kept]), weights)
            for part in ("test", "held")
        )
        depths = [one.depth for one in last.members]
        yield (
            name,
            {
                **ensemble_facts(kept, seed, parts, test, held),
                "weights": list(last.weights),
                "depths": depths,
            },
        )


# --------------------------------------------------------------------------------------------- runs


def gathered(config: Config, folder: Path, parts: Parts, log: Any) -> list[MemberOutputs]:
    """What all members say; trains those that have not been."""
    outputs: list[MemberOutputs] = []
    for part in names(config.ensemble):
        if part.startswith(SUPERNET):
            outputs += members.supernet(config, part, folder / f"member-{len(outputs)}", parts)
            continue
        for source in members.sources(part):
            member_folder, number = folder / f"member-{len(outputs)}", len(outputs)
            if source.run is not None:
                log.info(
                    "member %d: %s, as it is; it may have been trained on the held-out images",
                    number,
                    source.name,
                )
                one = members.network(config, source.name, [source.run], member_folder, parts)
                repeats = (config.num_seeds, 1, 1)
                outputs.append(
                    one._replace(held=np.tile(one.held, repeats), test=np.tile(one.test, repeats))
                )
            else:
                log.info("member %d: %s", number, source.name)
                seed = config.seed + number * config.num_seeds
                outputs.append(
                    members.cell(config, source.name, source.genotype, seed, member_folder, parts)
                )
    if len(outputs) < 2:
        raise Stop(f"--ensemble={config.ensemble}: one member is no ensemble", 2)
    return outputs


def measured(
    config: Config, folder: Path, parts: Parts, log: Any
) -> dict[str, list[dict[str, Any]]]:
    """For every way to prune, what it gives in each seed."""
    [first, *_] = names(config.ensemble)
    if first.startswith(GROW):
        what = first.removeprefix(GROW)
        genotype = None if what == "dense" else recipes.resolve(what, "--ensemble")

        @functools.cache
        def train(iteration: int, depth: int) -> MemberOutputs:
            member_folder, seed = (
                folder / f"member-{iteration}-depth-{depth}",
                config.seed + iteration * config.num_seeds,
            )
            log.info("candidate %d of depth %d", iteration, depth)
            if genotype is None:
                return members.dense(config, depth, seed, member_folder, parts)
            layered = dataclasses.replace(config, layers=depth)
            return members.cell(
                layered, f"{what}, {depth} cells", genotype, seed, member_folder, parts, grows=True
            )

        pairs = [
            grown_ensembles(config, train, 0 if genotype is None else 1, seed, parts)
            for seed in range(config.num_seeds)
        ]
    else:
        outputs = gathered(config, folder, parts, log)
        pairs = [pruned_ensembles(config, outputs, seed, parts) for seed in range(config.num_seeds)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, facts in itertools.chain(*pairs):
        rows.setdefault(name, []).append(facts)
    return rows


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """The results as text, the first row naming the columns."""
    columns = [
        column
        for column in COLUMNS
        if all(column in facts for row in rows.values() for facts in row)
    ]
    lines = [["ensemble", *(COLUMNS[column] for column in columns)]]
    for name, row in rows.items():
        cells = []
        for column in columns:
            values = [facts[column] for facts in row]
            scale, digits = (
                (100, 2)
                if column.endswith("accuracy")
                else (1, {"size": 1, "parameters": 0}.get(column, 3))
            )
            cells.append(runs.mean_and_deviation(values, scale, digits))
        lines.append([name, *cells])
    return lines


def sweep(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Test accuracy of the information criterion over lambda, against the full ensemble and random
    pruning.
    """

    def mean(name: str) -> float:
        return 100 * float(np.mean([facts["test_accuracy"] for facts in rows[name]]))

    series = {
        "information": [(balance, mean(f"pie_{balance:g}")) for balance in SWEEP],
        **{
            text: [(SWEEP[0], mean(name)), (SWEEP[-1], mean(name))]
            for text, name in (("full", "full"), ("random", "prs"))
        },
    }
    return report.charts.curves(
        series, title="Pruned by information", xlabel="lambda", ylabel="test accuracy (%)"
    )


def finish(config: Config, folder: Path, rows: dict[str, list[dict[str, Any]]], log: Any) -> None:
    """Writes the results and the report, and prints the table."""
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("output", "run_dir", "resume")
    }
    text = (
        json.dumps({**runs.versions(), "ensemble": config.ensemble, "rows": rows}, indent=1) + "\n"
    )
    for path in [folder / "ensemble.json", *([Path(config.output)] if config.output else [])]:
        files.replace_text(path, text)
    lines = table(rows)
    full, pap = ([facts["test_accuracy"] for facts in rows[name]] for name in ("full", "pap"))
    report.page.write(
        folder / "report.html",
        title=f"Ensemble on {config.dataset}",
        config=settings,
        records=(),
        genotype=None,
        mixes={},
        edges={},
        ops={},
        facts={
            "dataset": config.dataset,
            "members": max(facts["size"] for facts in rows["full"]),
            "seeds": config.num_seeds,
            "full_accuracy": float(np.mean(full)),
            "accuracy-pruned_accuracy": float(np.mean(pap)),
        },
        tables={"Full and pruned": lines},
        pictures=[sweep(rows)],
    )
    for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]]:
        print("| " + " | ".join(line) + " |", flush=True)
    log.info("report %s", folder / "report.html")


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(parse(arguments))
    runs.use_cache(config)
    dataset = datasets.load(config)
    try:
        parts = Parts(dataset, *images.split(dataset.train, config.fit_portion))
    except ValueError as error:
        raise Stop(f"--fit_portion={config.fit_portion}: {error}", 2) from error
    with runs.open_study(config, "ensemble") as (folder, log):
        finish(config, folder, measured(config, folder, parts, log), log)
