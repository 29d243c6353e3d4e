"""What a search finds and leaves behind: records of every epoch, reasons to stop, the derived
cells, the report.
"""

import dataclasses
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np

from jaxdarts import derive, files, genotypes, parallel, report, runs
from jaxdarts.analysis import curvature, flatness
from jaxdarts.commands import stages
from jaxdarts.commands.degenerate import convolutions, degenerate, operations
from jaxdarts.commands.search import front, limited, summary
from jaxdarts.commands.search.history import History
from jaxdarts.data import images
from jaxdarts.space import Space, one_hot


def validate(program, params, mixes, data, config, max_batches: int = 0) -> dict[str, np.ndarray]:
    """Means over the validation half, [seeds] each: the batches' own statistics, no augmentation.

    The official code validates on augmented images; nothing is trained here, so we look at them as
    they are.
    """
    batches = program.sizes[1] // config.batch_size
    batches = min(batches, max_batches or batches)
    indices = np.arange(batches * config.batch_size, dtype=np.int32).reshape(batches, -1)
    indices = parallel.here(parallel.split(indices, len(program.devices), axis=1), program.devices)
    mixes, sums = parallel.replicate(dict(mixes), program.devices), {}
    for i in range(batches):
        metrics = parallel.first(program.evaluate(params, mixes, data, indices[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / batches for name, value in sums.items()}


def finish_epoch(
    config,
    program,
    training,
    data,
    means,
    history: Sequence[History],
    log,
    step: int,
    facts: Mapping[str, float],
) -> None:
    """Validates, derives every seed's genotype and writes it all down."""
    epoch, state = facts["epoch"], parallel.first(training.state)
    mixes = {name: np.asarray(mix) for name, mix in program.derive(state).items()}
    valid = validate(program, training.state.params, mixes, data, config)
    runs.finite(step, "--learning_rate or --arch_learning_rate", valid_loss=valid["loss"])
    extra = {}
    learnt = bool(jax.tree.leaves(state.arch))  # random search has no alpha, and no curvature in it
    if (
        learnt
        and config.eigenvalue_freq
        and (epoch % config.eigenvalue_freq == 0 or epoch == config.epochs - 1)
    ):
        last = (
            np.arange(config.batch_size)
            + (program.sizes[1] // config.batch_size - 1) * config.batch_size
        )
        last = parallel.here(
            parallel.split(last.astype(np.int32), len(program.devices)), program.devices
        )
        extra["eigenvalue"] = np.asarray(
            parallel.first(program.eigenvalue(training.state, data, last))
        )
    for seed, seed_history in enumerate(history):
        mix = {name: values[seed] for name, values in mixes.items()}
        genotype = program.space.discretize(mix)
        record = dict(facts)
        record |= {
            name: float(value[seed])
            for name, value in (means | extra).items()
            if name != "valid_loss"
        }
        record |= {f"valid_{name}": float(value[seed]) for name, value in valid.items()}
        chosen = operations(program.space, genotype)
        for cell, ops in chosen.items():
            record[f"skip_{cell}"] = ops.count("skip_connect")
            record[f"parameter_free_{cell}"] = len(ops) - convolutions(ops)
        seed_history.write(step, record, mix, genotype)
        if config.num_seeds > 1:
            log.info("seed %d", config.seed + seed)
        log.info("train_acc %f", 100 * record["train_accuracy"])
        log.info("valid_acc %f", 100 * record["valid_accuracy"])
        for name in ("eigenvalue", "valid_expected_cost"):
            if name in record:
                log.info("%s %f", name, record[name])
        log.info("genotype = %s", genotype)
        main, ops = next(iter(chosen.items()))  # the normal cell, where there are two
        wrong = degenerate(record, main, len(ops))
        if wrong:
            log.info("%s", wrong)


LARGEST_DECAY = 0.03
"""The largest weight decay of DARTS-ADA (RobustDARTS)."""


def runs_to_its_end(config: Any) -> bool:
    """Whether a search of DARTS-ADA has the largest weight decay, at which nothing stops it."""
    factor = config.adapt_weight_decay
    return bool(factor) and config.weight_decay * factor > LARGEST_DECAY * 1.001


def stop_of(config: Any, history: History) -> tuple[int, str] | None:
    """When a seed's search was to stop: the epoch whose architecture counts, and why.

    Pure in what was recorded.
    """
    records, main = history.records.all, next(iter(history.space.cells))
    for i, record in enumerate(records):
        epoch = int(record["epoch"])
        if config.stop_skips and record[f"skip_{main}"] >= config.stop_skips:
            return epoch, f"the {main} cell has {record[f'skip_{main}']:.0f} skip connections"
        cells = {cell: c for cell, c in history.space.cells.items() if c.picks is None}
        lengths = {
            cell: len(c.edges) if c.kept is None else c.kept * c.num_nodes
            for cell, c in cells.items()
        }
        sizes = [length - record[f"parameter_free_{cell}"] for cell, length in lengths.items()]
        if config.stop_size and all(
            size <= limit for size, limit in zip(sizes, config.stop_size, strict=True)
        ):
            return (
                epoch,
                f"the cells have {' and '.join(f'{size:.0f}' for size in sizes)} convolutions",
            )
        if (
            config.stop_eigenvalue
            and not runs_to_its_end(config)
            and record.get("eigenvalue") is not None
            and epoch % config.eigenvalue_freq == 0
        ):
            seen = [
                r
                for r in records[: i + 1]
                if r.get("eigenvalue") is not None and r["epoch"] % config.eigenvalue_freq == 0
            ]
            epochs, values = [int(r["epoch"]) for r in seen], [r["eigenvalue"] for r in seen]
            back = curvature.stop_epoch(
                epochs, values, config.stop_start, factor=config.stop_eigenvalue
            )
            if back is not None:
                return (
                    back,
                    (
                        f"the dominant eigenvalue has grown {config.stop_eigenvalue} times; back to"
                        f" epoch {back}"
                    ),
                )
    return None


def stopped(config: Any, history: Sequence[History]) -> str | None:
    """Why the whole search stops, once every seed has a reason."""
    stops = [stop_of(config, seed_history) for seed_history in history]
    return (
        "; ".join(f"epoch {stop[0]}: {stop[1]}" for stop in stops if stop) if all(stops) else None
    )


def steps_of_tuning(config: Any, steps_per_epoch: int) -> int:
    """Steps after every decision of --derive; five epochs in DARTS+PT."""
    if config.tune_steps is None:
        return 5 * steps_per_epoch if config.derive == "perturbation" else 0
    return config.tune_steps


def derived(
    config, program, training, data, history: Sequence[History], run: runs.Run
) -> dict[str, np.ndarray]:
    """The mixes that become genotypes, [seeds, edges, ops] for each cell, as --derive says."""
    state = training.state
    epochs = [stop[0] if (stop := stop_of(config, one)) else None for one in history]
    seed_mixes = [history.mix(epoch) for history, epoch in zip(history, epochs, strict=True)]
    mixes = {name: np.stack([mix[name] for mix in seed_mixes]) for name in program.space.cells}
    key = jax.random.fold_in(jax.random.key(config.seed), 3)

    def score(mixes, batches=config.derive_batches):
        mixes = {name: np.asarray(mix, np.float32) for name, mix in mixes.items()}
        return validate(program, state.params, mixes, data, config, batches)["accuracy"]

    def first_look(mixes):
        return score(mixes, config.sample_batches)

    def tune(mixes, undecided):
        nonlocal state, count, order
        fixed = {name: np.asarray(mix, np.float32) for name, mix in mixes.items()}
        decided = {name: ~edges for name, edges in undecided.items()}
        fixed, decided = (parallel.replicate(tree, program.devices) for tree in (fixed, decided))
        for _ in range(steps):
            if number := run.interruption.leaving(True):
                raise run.leave(number, count, steps * (num_decisions - 1))
            epoch, i = divmod(count, program.steps_per_epoch)
            if i == 0:  # orders that the search itself has not seen
                order = program.order(config.epochs + epoch)
            batches = order.train[:, :, i], order.val[:, :, i], order.keys
            state = program.tune(state, fixed, decided, data, *batches)
            count += 1
        runs.finite(count, "--learning_rate or --arch_learning_rate", weights=state.params)
        return {
            name: np.asarray(mix) for name, mix in program.derive(parallel.first(state)).items()
        }

    steps = steps_of_tuning(config, program.steps_per_epoch)
    count, order, cells = 0, program.order(config.epochs), program.space.cells
    num_decisions = derive.num_decisions(cells)
    tunes = steps and config.derive in ("perturbation", "validation")
    if tunes:
        state = program.tune_init(state)
        run.log.info(
            "--derive=%s: %d decisions, %d steps after each but the last",
            config.derive,
            num_decisions,
            steps,
        )
    mixes = chosen(config, program.space, mixes, score, key, tune if tunes else None, first_look)
    if config.max_skips is not None:
        restricted = [
            derive.with_fewer_skips(program.space, mix, config.max_skips)
            for mix in split_seeds(mixes)
        ]
        mixes = {name: np.stack([mix[name] for mix in restricted]) for name in cells}
    return mixes


def chosen(
    config,
    space: Space,
    mixes,
    score: derive.Score,
    key,
    tune=None,
    first_look: derive.Score | None = None,
) -> Any:
    """The mixes of all seeds after --derive has had its say; `score` of mixes, [seeds], is larger
    for better ones. `first_look` is a cheaper one, of drawn cells.
    """
    if config.derive == "perturbation":
        return derive.by_perturbation(space.cells, mixes, score, key, tune)
    if config.derive == "validation":
        return derive.by_validation(space.cells, mixes, score, key, tune)
    if config.derive == "shapley":
        return derive.by_shapley(space.cells, mixes, score, key, config.shapley_orders)
    if config.derive == "samples":
        keys = list(jax.random.split(key, config.num_samples))
        if first_look is None:
            return derive.by_samples(space, score, keys, config.num_seeds)
        finalists = config.num_finalists
        return derive.by_samples(space, score, keys, config.num_seeds, first_look, finalists)
    return mixes


def random_cells(config: Any, space: Space, number: int = 8) -> list:
    """What a found cell is compared with under the shared weights."""
    return [
        space.sample(key)
        for key in jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), number)
    ]


def losses_beside_random(losses: Sequence[Any], log: logging.Logger) -> dict[str, float]:
    """Facts about a found cell's loss under the shared weights, the first one, and those of random
    cells.
    """
    found_loss, *others = map(float, losses)
    log.info(
        "supernet loss of the found cell %f, of %d random cells %f to %f",
        found_loss,
        len(others),
        min(others),
        max(others),
    )
    return {
        "found_cell_supernet_loss": found_loss,
        "random_cells_supernet_loss": float(np.mean(others)),
    }


def write_best(
    config: Any,
    folder: Path,
    found_cells: list,
    losses: list[float],
    log: logging.Logger,
    sentences: Sequence[str],
) -> None:
    """Of several seeds' cells, the one with the lowest validation loss is the run's result; ends
    with a sentence about it and the next command.
    """
    best = int(np.argmin(losses))
    if len(found_cells) > 1:
        files.replace_text(folder / "genotype.json", genotypes.to_json(found_cells[best]))
        for seed, (genotype, loss) in enumerate(zip(found_cells, losses, strict=True)):
            log.info(
                "seed %d supernet loss of the found cell %f genotype = %s",
                config.seed + seed,
                loss,
                genotype,
            )
        log.info(
            "seed %d has the best cell by validation: %s",
            config.seed + best,
            folder / "genotype.json",
        )
    log.info("%s", sentences[best])
    if not getattr(config, "stage", 0):  # another stage follows
        log.info("train the found cell: %s", summary.next_command(config, folder))


def split_seeds(mixes: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every seed's own mix."""
    return [
        {name: values[seed] for name, values in mixes.items()}
        for seed in range(len(next(iter(mixes.values()))))
    ]


def finish(
    config,
    program,
    dataset: images.Dataset,
    training,
    data,
    history: Sequence[History],
    run: runs.Run,
) -> None:
    """Derives the cells, compares them with random ones under the shared weights, draws them and
    writes the reports.
    """
    log = run.log
    space, params = program.space, training.state.params
    mixes = derived(config, program, training, data, history, run)
    if config.front:

        def accuracy(mixes):
            return validate(program, params, mixes, data, config)["accuracy"]

        folders = [one.folder for one in history]
        front.write(config, space, dataset, split_seeds(mixes), accuracy, folders, log)
    mixes = limited.under_limits(config, space, dataset, mixes, log)
    found_cells = [space.discretize(mix) for mix in split_seeds(mixes)]
    others, alone = random_cells(config, space), []
    for candidates in [found_cells, *([other] * len(found_cells) for other in others)]:
        mixes = parallel.stack([one_hot(space.cells, genotype) for genotype in candidates])
        alone.append(validate(program, params, mixes, data, config))
    flat = (
        neighbourhoods(config, program, params, data, found_cells, alone[0]["accuracy"])
        if config.flatness
        else [{}] * len(found_cells)
    )
    if config.ranked_cells:
        write_ranking(config, program, params, data, [one.folder for one in history])
    sentences = []
    for seed, (genotype, seed_history) in enumerate(zip(found_cells, history, strict=True)):
        accuracy = float(alone[0]["accuracy"][seed])
        gap = float(seed_history.records.all[-1]["valid_accuracy"]) - accuracy
        losses = losses_beside_random([metrics["loss"][seed] for metrics in alone], log)
        log.info(
            "supernet accuracy of the found cell %f, %f below that of the mix",
            100 * accuracy,
            100 * gap,
        )
        if gap > 0:
            log.info("(%s)", summary.GAP)
        shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
        facts = {
            "dataset": config.dataset,
            "algorithm": config.algorithm,
            "epochs": len(seed_history.records.all),
            "supernet_parameters": num_params(config, parallel.first(training)),
            **summary.costs(genotype, space, config, classes, shape),
            **summary.latency(genotype, space, config, classes, shape),
            **losses,
            "found_cell_supernet_accuracy": accuracy,
            "discretisation_gap_accuracy": gap,
            "largest_class_share": summary.largest_class_share(dataset.train.labels),
            **flat[seed],
            "wall_time": stages.seconds_before(config)
            + sum(record["seconds"] for record in seed_history.records.all),
        }
        sentences.append(
            write_result(config, seed_history, genotype, config.seed + seed, facts, log)
        )
    losses = [float(loss) for loss in alone[0]["loss"]]
    write_best(config, run.folder, found_cells, losses, log, sentences)


class Ranking(TypedDict):
    """How the shared weights rank random cells: genotypes as text, and accuracies, fractions."""

    cells: list[str]
    accuracy: list[float]


RANKING = "ranked_cells.json"


def write_ranking(config, program, params, data, folders: Sequence[Path]) -> None:
    """Writes accuracies of random cells with the shared weights, in the folder of every seed.

    All seeds have the same cells.
    """
    cells = program.space.cells
    drawn = random_cells(config, program.space, config.ranked_cells)
    accuracies = []
    for genotype in drawn:
        mixes = parallel.stack([one_hot(cells, genotype)] * len(folders))
        metrics = validate(program, params, mixes, data, config, config.sample_batches)
        accuracies.append(metrics["accuracy"])
    for folder, accuracy in zip(folders, np.transpose(accuracies), strict=True):
        ranking = Ranking(cells=[str(one) for one in drawn], accuracy=accuracy.tolist())
        files.replace_text(folder / RANKING, json.dumps(ranking, indent=1) + "\n")


def write_result(
    config: Any,
    history: History,
    genotype: Any,
    seed: int,
    facts: dict[str, Any],
    log: logging.Logger,
) -> str:
    """Writes the derived cell of one seed, as JSON and drawn, the facts about it and the report;
    images and texts alike.

    Returns what was found, in a sentence.
    """
    folder, space = history.folder, history.space
    cells, chosen = space.cells, operations(space, genotype)
    wrong = summary.warnings(config, facts, chosen)
    for warning in wrong:
        log.info("warning: %s", warning)
    files.replace_text(folder / "genotype.json", genotypes.to_json(genotype))
    for name, svg in report.cells.cell(genotype).items():
        files.replace_text(folder / f"{name}.svg", svg)
    files.replace_text(folder / "facts.json", json.dumps(facts, indent=2) + "\n")
    report.page.write(
        folder / "report.html",
        title=f"Search on {config.dataset}, seed {seed}",
        config=dataclasses.asdict(config),
        records=history.records.all,
        genotype=genotype,
        mixes={name: np.stack(values) for name, values in history.alphas.items() if name in cells},
        edges={name: choices.edges for name, choices in cells.items()},
        ops={name: choices.ops for name, choices in cells.items()},
        facts=summary.labelled(facts, space, config),
        sections=runs.analyses(folder),
        summary=summary.head(config, facts, space, folder, wrong),
        links=stages.reports(config),
    )
    log.info("genotype = %s", genotype)
    log.info("report %s", folder / "report.html")
    return summary.sentence(facts, space, config)


def neighbourhoods(
    config, program, params, data, found_cells: list, accuracies: np.ndarray
) -> list[dict[str, float]]:
    """How flat every seed's cell is; seeds are evaluated together, neighbour by neighbour."""
    cells = program.space.cells
    shells = [flatness.shell(cells, genotype) for genotype in found_cells]
    scores = []
    for neighbours in itertools.zip_longest(*shells):
        mixes = parallel.stack(
            [
                one_hot(cells, other or cell)
                for other, cell in zip(neighbours, found_cells, strict=True)
            ]
        )
        scores.append(
            validate(program, params, mixes, data, config, config.derive_batches)["accuracy"]
        )
    return [
        flatness.flatness(float(accuracy), [float(score[seed]) for score in scores[: len(shell)]])
        for seed, (accuracy, shell) in enumerate(zip(accuracies, shells, strict=True))
    ]


def num_params(config: Any, training) -> int:
    """Weights of one seed's supernet."""
    return sum(leaf.size for leaf in jax.tree.leaves(training.state.params)) // config.num_seeds
