"""Train a recurrent cell on a text from scratch: jaxdarts evaluate --arch=DARTS_V2 --dataset=ptb

The cell, --arch, is a published one (DARTS_V1, DARTS_V2, ENAS, penn_random, penn_pgd), that of a
search's run folder or of a JSON file, or the text of a genotype. SGD turns into averaged SGD once
the validation loss stops falling. The test part is looked at once, after the last epoch. Two other
uses: --select trains several cells for a short time and goes on with the one of the lowest
validation perplexity; --test_only --checkpoint=RUN tests a trained language model again.

A run folder holds config.json, log.txt, metrics.jsonl, tensorboard/, genotype.json, network.json,
weights.npz (those that validated best) and vocabulary.json (jaxdarts.load reads the three),
test.json, report.html and checkpoints/. An interrupted training continues with --resume=RUN.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import files, genotypes, objectives, parallel, runs, spaces
from jaxdarts.commands import command_line, texts
from jaxdarts.commands.evaluate import results as training_results
from jaxdarts.commands.evaluate.text_recipes import (
    PRESETS,
    PTB,
    Config,
    check,
    paddings,
    resolve,
    windows,
)
from jaxdarts.data import text
from jaxdarts.genotypes import RecurrentGenotype
from jaxdarts.runs import Run, Stop
from jaxdarts.training import export as trained
from jaxdarts.training import text as train_text


class Program(NamedTuple):
    """The pure functions of a training, mapped over devices, and what they run on."""

    init: Any  # () -> {"state": TextState, "sums": metrics}, a leading axis of one seed
    steps: dict[
        int, Any
    ]  # rows that a window is padded to -> (training, data, start and length) -> training
    judged: Any  # (state, validation loss, whether averaging is on) -> state
    losses: dict[str, Any]  # part -> (weights) -> loss of the whole part in nats a word
    devices: list
    data: Any  # a leading axis of devices
    rows: int  # of the training stream
    lengths: np.ndarray  # steps of every epoch


def build(config: Config, genotype: genotypes.RecurrentGenotype, words: text.Text) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = runs.devices(config)
    stream = texts.columns(words.train, config.batch_size, "batch_size")
    parts = {
        "valid": texts.columns(words.valid, config.eval_batch_size, "eval_batch_size"),
        "test": texts.columns(words.test, 1, "eval_batch_size"),
    }
    net: Any = spaces.darts_rnn().network(
        genotype,
        config.emsize,
        len(words.vocabulary),
        dropouts=config.dropouts,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat,
    )
    objective = objectives.language_model(net, config.alpha, config.beta)
    training = train_text.from_scratch(objective, texts.optimizer(config), axis_name=parallel.AXIS)

    def step_of(rows: int):
        def step(carry, data, window):
            state, metrics = training.step(
                carry["state"], text.window(data, window[0], window[1], rows)
            )
            metrics["loss"] = jnp.where(
                metrics["reloads"] > 0, 0.0, metrics["loss"]
            )  # a loss that is no number adds nothing
            return {
                "state": state,
                "sums": {name: carry["sums"][name] + metrics[name[6:]] for name in carry["sums"]},
            }

        return over_devices(over_seeds(step, (0, None, None)), devices, donate=(0,))

    def init():
        params_key, key = jax.random.split(jax.random.key(config.seed))
        params = alone.init(params_key, *net.example_inputs())["params"]
        state = training.init(key, params, net.start(config.batch_size))
        return {
            "state": parallel.stack([state]),
            "sums": {name: jnp.zeros(1) for name in ("train_loss", "train_reloads")},
        }

    over_seeds, over_devices = parallel.over_seeds, parallel.over_devices
    alone = net.clone(axis_name=None)
    mean_loss = train_text.over_stream(objectives.language_model(alone), config.bptt)

    def loss_over(part: np.ndarray):
        def loss(params, stream):
            return mean_loss(
                jax.tree.map(lambda w: w[0], params), {}, alone.start(stream.shape[1]), stream
            )

        compiled = runs.jitted(loss)
        return lambda params: float(compiled(params, part))

    return Program(
        init=init,
        steps={rows: step_of(rows) for rows in paddings(config)},
        judged=jax.jit(over_seeds(training.judged, (0, None, None))),
        losses={name: loss_over(part) for name, part in parts.items()},
        devices=devices,
        data=parallel.split(stream, len(devices), axis=1),
        rows=len(stream),
        lengths=np.array(
            [len(windows(config, len(stream), epoch)) for epoch in range(config.epochs)]
        ),
    )


def train(
    config: Config,
    genotype: Any,
    words: text.Text,
    program: Program,
    run: Run,
    parts: tuple[str, ...] = ("valid", "test"),
) -> dict[str, float]:
    """Trains to the end, or goes on with what was saved; returns the perplexities of `parts`."""
    log, lengths = run.log, program.lengths
    training, seconds = runs.restored(config, run, program.init())
    records = runs.Records(
        run.folder, runs.kept_step(config, int(training["state"].step[0]), lengths)
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(training["state"].params))
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("genotype = %s", genotype)
    log.info("param size = %fMB", size / 1e6)
    files.replace_text(run.folder / "genotype.json", genotypes.to_json(genotype))

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, config.learning_rate)
        places = windows(config, program.rows, epoch)
        on_devices = np.broadcast_to(places, (len(program.devices), *places.shape))
        padded = [min(rows for rows in program.steps if rows >= length) for length in places[:, 1]]
        return lambda training, i: program.steps[padded[i]](
            training, program.data, on_devices[:, i]
        )

    def check(tree, step):
        leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree["state"].average)])
        runs.finite(step, "--learning_rate", **{"a weight": leaves})

    def averages(sums, count, step):
        reloads = int(parallel.first(sums)["train_reloads"][0])
        if reloads > 3 and 2 * reloads >= count:
            raise Stop(
                f"the loss is not finite in {reloads} of {count} steps: start again with a lower"
                " --learning_rate"
            )
        return texts.averages(sums, max(count - reloads, 1), step) | {
            "train_reloads": np.array([reloads])
        }

    def end(training, means, epoch, step, seconds):
        state = parallel.first(training["state"])
        loss = program.losses["valid"](state.average)
        runs.finite(step, "--learning_rate", valid_loss=np.asarray(loss))
        if means["train_reloads"][0]:
            log.info("went back to the best weights %d times", means["train_reloads"][0])
        losses = [record["valid_loss"] for record in records.all] + [loss]
        averaging = train_text.averaging_starts(losses, config.nonmono) is not None
        if (
            step == runs.ends(config, lengths)[epoch]
        ):  # one cut short by --max_steps decides nothing
            if averaging and int(state.averaged[0]) == 0:
                log.info("Switching to ASGD")
            state = program.judged(state, jnp.float32(loss), jnp.array(averaging))
            training["state"] = parallel.replicate(state, program.devices)
        record = {
            "epoch": epoch,
            "learning_rate": config.learning_rate,
            "seconds": seconds,
            "averaging": float(averaging),
        }
        record |= {name: float(value[0]) for name, value in means.items()}
        records.write(step, record | {"valid_loss": loss, "valid_perplexity": math.exp(loss)})
        texts.log_epoch(log, epoch, seconds, loss)

    try:
        training = parallel.replicate(training, program.devices)
        training = runs.epochs(
            config,
            run,
            training,
            seconds,
            lengths,
            begin=begin,
            averages=averages,
            check=check,
            end=end,
            shown=texts.shown,
        )
        return finish(
            config,
            genotype,
            words,
            program,
            parallel.first(training["state"]),
            records,
            run,
            size,
            parts,
        )
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already
            records.close()


def finish(
    config, genotype, words, program, state, records, run, size: int, parts
) -> dict[str, float]:
    """Judges the weights that validated best, writes them and the report."""
    best = state.best if np.isfinite(state.best_loss[0]) else state.average
    losses = {part: program.losses[part](best) for part in parts}
    perplexities = {f"{part}_perplexity": math.exp(loss) for part, loss in losses.items()}
    judged = parts[-1]
    shown = judged, losses[judged], judged, perplexities[f"{judged}_perplexity"]
    run.log.info("| End of training | %s loss %5.2f | %s ppl %8.2f", *shown)
    params = {name: leaf[0] for name, leaf in best.items()}
    trained.save_language_model(
        run.folder, genotype=genotype, params=params, vocabulary=words.vocabulary
    )
    facts = {"parameters": size, **perplexities}
    training_results.write_result(config, run, records.all, genotype, judged, perplexities, facts)
    return perplexities


def select(config: Config, words: text.Text, folder: Path) -> RecurrentGenotype:
    """Trains every candidate for a short time and keeps the lowest validation perplexity."""
    candidates = {name: resolve(name, "--select") for name in config.select}
    candidates |= training_results.random_cells(config, next(iter(candidates.values())))
    short = dataclasses.replace(config, epochs=config.select_epochs, select=(), random_cells=0)

    def valid(own: Config, genotype: RecurrentGenotype, run: Run) -> float:
        return train(own, genotype, words, build(own, genotype, words), run, ("valid",))[
            "valid_perplexity"
        ]

    scores = training_results.trained(short, folder, "select", candidates, valid)
    return candidates[
        training_results.selected(
            folder, scores, config.select, min, "validation perplexity {:9.2f}".format
        )
    ]


def baseline(
    config: Config,
    genotype: RecurrentGenotype,
    words: text.Text,
    folder: Path,
    own: dict[str, float],
) -> None:
    """Trains random cells with the settings that the run's cell had, in folders of the run, and
    prints how all did.
    """

    def train_one(short: Config, cell: RecurrentGenotype, run: Run) -> dict[str, float]:
        return train(short, cell, words, build(short, cell, words), run)

    cells, alone = (
        training_results.random_cells(config, genotype),
        dataclasses.replace(config, random_cells=0),
    )
    try:
        results = {
            "--arch": own,
            **training_results.trained(alone, folder, "random", cells, train_one),
        }
    except Stop as stop:  # going on with this run goes on with the random cells
        raise Stop(re.sub(r"(--resume=.*)[/\\]random-\d+$", r"\1", str(stop)), stop.code) from stop
    print("perplexity: valid       test")
    for name, found in sorted(results.items(), key=lambda item: item[1]["valid_perplexity"]):
        print(
            f"{found['valid_perplexity']:17.2f}  {found['test_perplexity']:9.2f}  {name}",
            flush=True,
        )
    files.replace_text(folder / "baseline.json", json.dumps(results, indent=1) + "\n")


def test_again(config: Config) -> None:
    """Tests a trained language model on the validation and the test part of a text."""
    if not config.checkpoint:
        raise Stop("--test_only: name the run with --checkpoint=RUN", 2)
    try:
        known = trained.vocabulary(config.checkpoint)
    except ValueError as error:
        raise Stop(f"--checkpoint={config.checkpoint}: {error}", 2) from error
    words = texts.load(config)
    if known != words.vocabulary:
        sizes = f"{len(known):,} words, that of {config.dataset} has {len(words.vocabulary):,}"
        raise Stop(
            f"--checkpoint={config.checkpoint}: trained on another text: its vocabulary has {sizes}"
            " or others",
            2,
        )
    for part, tokens, batch_size in (
        ("valid", words.valid, config.eval_batch_size),
        ("test", words.test, 1),
    ):
        try:
            print(
                f"{part} ppl {trained.perplexity(config.checkpoint, tokens, batch_size):f}",
                flush=True,
            )
        except ValueError as error:
            raise Stop(f"--eval_batch_size={batch_size}: {error}", 2) from error


def estimate(config: Config, program: Program) -> None:
    """Prints what a training would take, from the compiled step of the longest windows; trains
    nothing.
    """
    training, longest = jax.eval_shape(program.init), program.steps[max(program.steps)]
    print(
        "parameters of the network   "
        f" {sum(leaf.size for leaf in jax.tree.leaves(training['state'].params)):,}"
    )
    arguments = (training, program.data[0], np.zeros(2, np.int32))
    runs.estimate(
        config, longest, program.devices, arguments, program.lengths, programs=len(program.steps)
    )


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, PRESETS, PTB, __doc__))
    runs.use_cache(config)
    if config.test_only:
        return test_again(config)
    if not config.select:
        config = dataclasses.replace(
            config, arch=str(resolve(config.arch))
        )  # the run folder tells all there is to know
    words = texts.load(config)
    if config.select and not config.estimate:
        folder = runs.folder_of(config, "eval")
        arch = str(select(config, words, folder))
        config = dataclasses.replace(
            config, arch=arch, select=(), random_cells=0, run_dir=str(folder)
        )
    genotype = resolve(config.arch)
    program = build(config, genotype, words)
    if config.estimate:
        return estimate(config, program)
    with runs.open_run(config, "eval") as opened:
        config = dataclasses.replace(config, run_dir=str(opened.folder))
        perplexities = train(config, genotype, words, program, opened)
    if config.random_cells:
        baseline(config, genotype, words, opened.folder, perplexities)
