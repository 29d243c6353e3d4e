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

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdarts import files, objectives, parallel, runs, spaces
from jaxdarts.commands import command_line, programs, texts
from jaxdarts.commands.evaluate import results as training_results
from jaxdarts.commands.evaluate.results import LOWER, records_of
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
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import Run, Stop
from jaxdarts.training import export as trained
from jaxdarts.training import text as train_text
from jaxdarts.training.text import TextState
from jaxdarts.types import Metrics, Params

Trained = runs.Training[TextState]


class Program(NamedTuple):
    """A training on a text.

    init: () -> the training that it starts from.
    steps: rows that a window is padded to -> (training, data, start and length) -> training.
    after_epoch: (state, validation loss, whether weights are averaged) -> state.
    losses: part of the text -> weights -> its loss in nats a word.
    devices: those that the steps are compiled for.
    data: the training stream, with a leading axis of devices.
    rows: those of the training stream.
    lengths: number of steps of every epoch.
    """

    init: Callable[[], runs.Training[TextState]]
    steps: dict[int, OnDevices]
    after_epoch: Callable[[TextState, Any, Any], TextState]
    losses: dict[str, Callable[[Params], float]]
    devices: list[jax.Device]
    data: Array | np.ndarray
    rows: int
    lengths: np.ndarray


def build(config: Config, genotype: RecurrentGenotype, words: text.Text) -> Program:
    """Puts the library's parts together for one configuration, on `runs.devices` of it."""
    devices = runs.devices(config)
    stream = texts.columns(words.train, config.batch_size, "batch_size")
    parts = {
        "valid": texts.columns(words.valid, config.eval_batch_size, "eval_batch_size"),
        "test": texts.columns(words.test, 1, "eval_batch_size"),
    }
    make = functools.partial(spaces.darts_rnn().network, genotype)
    net = texts.network(make, config, words)
    objective = objectives.language_model(net, config.alpha, config.beta)
    training = train_text.from_scratch(objective, texts.optimizer(config), axis_name=parallel.AXIS)

    def step_of(rows: int) -> OnDevices:
        def step(state, data, window):
            batch = text.window(data, window[0], window[1], rows)
            state, metrics = training.step(state, batch)
            # A loss that is not finite adds nothing.
            loss = jnp.where(metrics["reloads"] > 0, 0.0, metrics["loss"])
            return state, {"train_loss": loss, "train_reloads": metrics["reloads"]}

        return programs.compiled(step, devices, (0, None, None))

    def init():
        def of_seed(key):
            params_key, key = jax.random.split(key)
            params = alone.init(params_key, *net.example_inputs())["params"]
            return training.init(key, params, net.start(config.batch_size))

        return programs.start([config.seed], of_seed, ("train_loss", "train_reloads"))

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
        after_epoch=jax.jit(parallel.over_seeds(training.after_validation, (0, None, None))),
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
    genotype: RecurrentGenotype,
    words: text.Text,
    program: Program,
    run: Run,
    parts: tuple[str, ...] = ("valid", "test"),
) -> dict[str, float]:
    """Trains to the end, or goes on with what was saved; returns the perplexities of `parts`."""
    log = run.log

    def steps(epoch: int) -> Callable[[Trained, int], Trained]:
        drawn = windows(config, program.rows, epoch)
        on_devices = np.broadcast_to(drawn, (len(program.devices), *drawn.shape))
        padded = [min(rows for rows in program.steps if rows >= length) for length in drawn[:, 1]]
        return lambda training, i: program.steps[padded[i]](
            training, program.data, on_devices[:, i]
        )

    def end(training: Trained, epoch: runs.Epoch, records: Sequence[runs.Records]) -> Trained:
        state, (written,), reloads = parallel.first(training.state), records, "train_reloads"
        loss = program.losses["valid"](state.average)
        runs.finite(epoch.step, LOWER, valid_loss=loss)
        if epoch.means[reloads][0]:
            log.info("went back to the best weights %d times", epoch.means[reloads][0])
        losses = [record["valid_loss"] for record in written.all] + [loss]
        averaging = train_text.averaging_starts(losses, config.nonmono) is not None
        if epoch.complete:  # one cut short by --max_steps decides nothing
            if averaging and int(state.averaged[0]) == 0:
                log.info("Switching to ASGD")
            state = program.after_epoch(state, jnp.float32(loss), jnp.array(averaging))
            state = parallel.replicate(state, program.devices)
            training = dataclasses.replace(training, state=state)
        record = {
            "epoch": epoch.number,
            "learning_rate": config.learning_rate,
            "seconds": epoch.seconds,
            "averaging": float(averaging),
        }
        record |= {name: float(value[0]) for name, value in epoch.means.items()}
        record |= {"valid_loss": loss, "valid_perplexity": math.exp(loss)}
        written.write(epoch.step, record)
        texts.log_epoch(log, epoch.number, epoch.seconds, loss)
        return training

    def result(training: Trained, records: Sequence[runs.Records]) -> dict[str, float]:
        state = parallel.first(training.state)
        return finish(config, genotype, words, program, state, records[0].all, run, parts)

    task = runs.Task(
        init=program.init,
        lengths=program.lengths,
        devices=program.devices,
        about=lambda training: [
            f"genotype = {genotype}",
            f"param size = {num_params(training.state) / 1e6:f}MB",
        ],
        rate=lambda epoch: config.learning_rate,
        reset=texts.with_zeros("hidden"),
        steps=steps,
        averages=averages,
        shown=texts.shown,
        checked=lambda state: {"a weight": state.average},
        lower=LOWER,
        open_records=records_of(config, run, genotype),
        end=end,
        finish=result,
    )
    return runs.train(config, run, task)


def averages(sums: Metrics, count: int, step: int) -> runs.Means:
    """Means of the steps whose loss was finite, and the number of the others, "train_reloads"."""
    reloads = int(parallel.first(sums)["train_reloads"][0])
    if reloads > 3 and 2 * reloads >= count:
        raise Stop(
            f"the loss is not finite in {reloads} of {count} steps: start again with a lower"
            " --learning_rate"
        )
    means = texts.averages(sums, max(count - reloads, 1), step)
    return means | {"train_reloads": np.array([reloads])}


def num_params(state: TextState) -> int:
    """Number of weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def finish(
    config: Config,
    genotype: RecurrentGenotype,
    words: text.Text,
    program: Program,
    state: TextState,
    records: list[dict[str, Any]],
    run: Run,
    parts: tuple[str, ...],
) -> dict[str, float]:
    """Measures the weights that validated best, writes them and the report."""
    best = state.best if np.isfinite(state.best_loss[0]) else state.average
    losses = {part: program.losses[part](best) for part in parts}
    perplexities = {f"{part}_perplexity": math.exp(loss) for part, loss in losses.items()}
    last = parts[-1]
    shown = last, losses[last], last, perplexities[f"{last}_perplexity"]
    run.log.info("| End of training | %s loss %5.2f | %s ppl %8.2f", *shown)
    params = {name: leaf[0] for name, leaf in best.items()}
    trained.save_language_model(
        run.folder, genotype=genotype, params=params, vocabulary=words.vocabulary
    )
    facts = {"parameters": num_params(state), **perplexities}
    training_results.write_result(config, run, records, genotype, last, perplexities, facts)
    return perplexities


def select(config: Config, words: text.Text, folder: Path) -> RecurrentGenotype:
    """Trains every candidate for a short time and keeps the lowest validation perplexity."""
    candidates = {name: resolve(name, "--select") for name in config.select}
    candidates |= training_results.random_cells(config, next(iter(candidates.values())))
    short = dataclasses.replace(config, epochs=config.select_epochs, select=(), random_cells=0)

    def valid(run_config: Config, genotype: RecurrentGenotype, run: Run) -> float:
        return train(
            run_config, genotype, words, build(run_config, genotype, words), run, ("valid",)
        )["valid_perplexity"]

    way = training_results.same_command(folder)
    scores = training_results.trained(short, folder, "select", candidates, valid, way)
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
    perplexities: dict[str, float],
) -> None:
    """Trains random cells with the settings of the run's cell, and prints all results.

    They are trained in folders of the run.
    """

    def train_one(short: Config, cell: RecurrentGenotype, run: Run) -> dict[str, float]:
        return train(short, cell, words, build(short, cell, words), run)

    cells, alone = (
        training_results.random_cells(config, genotype),
        dataclasses.replace(config, random_cells=0),
    )
    way = runs.again(folder)  # going on with this run goes on with the random cells
    others = training_results.trained(alone, folder, "random", cells, train_one, way)
    results = {"--arch": perplexities, **others}
    print("perplexity: valid       test")
    for name, values in sorted(results.items(), key=lambda item: item[1]["valid_perplexity"]):
        print(
            f"{values['valid_perplexity']:17.2f}  {values['test_perplexity']:9.2f}  {name}",
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
    """Prints the parameters of the network and an estimate of the training; trains nothing.

    The estimate is that of the compiled step of the longest windows.
    """
    training, longest = jax.eval_shape(program.init), program.steps[max(program.steps)]
    print(f"parameters of the network    {num_params(training.state):,}")
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
