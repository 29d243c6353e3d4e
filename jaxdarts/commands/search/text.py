"""Search a recurrent cell on a text: jaxdarts search --dataset=ptb

Trains the weights of a supernet on the training part, and alpha, the parameters of its
architecture, on the validation part, a window of the text at a time. --algorithm names the method,
DARTS with the exact second-order gradient by default; pdarts, pc_darts, fair_darts, darts_minus,
lambda_darts and oles are for images only. --dataset=pydoc takes minutes on a CPU and needs no
download; the files of ptb and wikitext2 are read from --data_dir.

A run folder holds config.json, log.txt, metrics.jsonl, tensorboard/, alphas.npz, genotype.json, the
drawn cell, report.html and checkpoints/. An interrupted search continues with --resume=RUN;
jaxdarts evaluate --arch=RUN --dataset=ptb trains the cell.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdarts import objectives, parallel, runs, spaces
from jaxdarts.bilevel import Search, SearchState
from jaxdarts.commands import command_line, methods, programs, reproduce, texts
from jaxdarts.commands.search import flags as search_flags
from jaxdarts.commands.search import results as search_results
from jaxdarts.commands.search.history import History
from jaxdarts.commands.search.program import (
    LOWER,
    about,
    checked,
    records_of,
    searches,
    start_of,
)
from jaxdarts.data import text
from jaxdarts.parallel import OnDevices
from jaxdarts.runs import Run, Stop, flag
from jaxdarts.runs.flags import POSITIVE
from jaxdarts.space import Space, one_hot
from jaxdarts.spaces.darts_rnn import PRIMITIVES
from jaxdarts.training.text import over_stream
from jaxdarts.types import Mix


@dataclasses.dataclass(frozen=True)
class Config(search_flags.AlgorithmOptions, texts.Settings):
    """Search a recurrent cell by gradient descent; defaults come from the text's preset."""

    COMMAND: ClassVar[str] = "search"
    TOPIC: ClassVar[str] = "space"

    nodes: int = flag(8, "Number of nodes of the cell.", POSITIVE)
    ops: tuple[str, ...] = flag(
        PRIMITIVES,
        "Candidate activations of every edge, separated by blanks; their order is that of alpha's"
        " columns.",
    )
    arch_learning_rate: float = 3e-3
    arch_beta1: float = 0.9
    seed: int = 3

    def start(self) -> reproduce.Start:
        """What the flags were laid over."""
        return reproduce.start(self, PRESETS, PTB, STARTS)


PTB = Config(dataset="ptb")
PRESETS = {
    "pydoc": Config(
        epochs=8,
        batch_size=32,
        emsize=32,
        nodes=4,
        learning_rate=10.0,
        dropout=0.1,
        dropouth=0.0,
        dropoutx=0.1,
        dropouti=0.0,
        arch_learning_rate=0.03,
        report_freq=10,
    ),
    "ptb": PTB,
    "wikitext2": dataclasses.replace(PTB, dataset="wikitext2"),
}
"""What each text starts from; any other one starts from Penn Treebank's, the paper's, setting."""
STARTS = {
    "algorithm": lambda preset, value: dataclasses.replace(
        preset, **methods.text_settings(" ".join(value))
    )
}
"""The flags that change what the others start from."""

Searched = runs.Training[SearchState]


class Program(NamedTuple):
    """A search on a text.

    space: what is searched.
    init: () -> the training that it starts from.
    step: (training, data, window as in `windows`) -> training.
    warm_up_step: the same in the epochs of --arch_warmup, where alpha rests.
    derive: state -> the mix that alpha stands for, of every seed.
    evaluate: (weights, mix, data) -> validation loss in nats a word, of every seed.
    devices: those that the functions are compiled for.
    data: both streams, "train" and "valid", with a leading axis of devices.
    rows: those of the two streams.
    lengths: number of steps of every epoch.
    """

    space: Space
    init: Callable[[], runs.Training[SearchState]]
    step: OnDevices
    warm_up_step: OnDevices
    derive: Callable[[SearchState], Mix]
    evaluate: OnDevices
    devices: list[jax.Device]
    data: dict[str, Array | np.ndarray]
    rows: tuple[int, int]
    lengths: np.ndarray


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    if config.algorithm in methods.ONLY_ON_IMAGES:
        why = methods.ONLY_ON_IMAGES[config.algorithm]
        raise Stop(f"--algorithm={config.algorithm}: not for recurrent cells: {why}", 2)
    texts.check(config)
    return config


def build(config: Config, words: text.Text) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = runs.devices(config)
    try:
        space = spaces.darts_rnn(config.nodes, config.ops)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    streams = {
        part: texts.columns(getattr(words, part), config.batch_size, "batch_size")
        for part in ("train", "valid")
    }
    rows = len(streams["train"]), len(streams["valid"])
    lengths = np.array([len(windows(config, rows, epoch)) for epoch in range(config.epochs)])
    net = texts.network(space.supernet, config, words)
    objective = jax.jit(objectives.language_model(net, config.alpha, config.beta))
    steps_per_epoch = int(lengths.mean())  # schedules by the epoch take them as equally long
    algorithm = methods.of_space(config, space, steps_per_epoch)
    arch_tx = methods.optimizer(config, steps_per_epoch)
    search, warm_up = searches(objective, algorithm, texts.optimizer(config), arch_tx)

    def step_of(search: Search) -> OnDevices:
        def step(state, data, window):
            axis = parallel.AXIS
            # The state is the same on every device, so the hidden states in it are those of the
            # whole batch.
            carry = jax.tree.map(lambda hidden: parallel.part(hidden, axis), state.carry)
            train = text.window(data["train"], window[0], window[1], config.bptt)
            valid = text.window(data["valid"], window[2], window[3], config.bptt) | {
                "regularisation": jnp.float32(0)
            }
            state, metrics = search.step(dataclasses.replace(state, carry=carry), train, valid)
            carry = jax.tree.map(lambda hidden: parallel.gather(hidden, axis), state.carry)
            return dataclasses.replace(state, carry=carry), metrics

        return programs.compiled(step, devices, (0, None, None))

    mean_loss = over_stream(objective, config.bptt)

    def evaluate(params, mix, data):
        start = net.start(data["valid"].shape[1])
        return jax.lax.pmean(mean_loss(params, mix, start, data["valid"]), parallel.AXIS)

    def init():
        def params_of(key):
            return net.clone(axis_name=None).init(key, *net.example_inputs())["params"]

        start = net.start(config.batch_size)
        metrics = ("train_loss", "valid_loss", "arch_gradient_norm")
        return start_of(config, search, params_of, metrics, (start, start))

    return Program(
        space=space,
        init=init,
        step=step_of(search),
        warm_up_step=step_of(warm_up),
        derive=parallel.over_seeds(search.derive),
        evaluate=programs.evaluation(evaluate, devices, (0, 0, None)),
        devices=devices,
        data={
            part: parallel.split(stream, len(devices), axis=1) for part, stream in streams.items()
        },
        rows=rows,
        lengths=lengths,
    )


def windows(config: Config, rows: tuple[int, int], epoch: int) -> np.ndarray:
    """Windows of one epoch, [steps, 4].

    Start and length in the training stream, start and length in the validation stream.

    They are the same for all seeds, so that the epochs of all have as many steps. The validation
    window starts where the training window does, modulo the length of its stream, and has as many
    rows as are left there (the official code's always has --bptt).
    """
    start, length = text.random_windows(0, epoch, rows[0], config.bptt)
    valid = start % (rows[1] - 1)
    return np.stack([start, length, valid, np.minimum(length, rows[1] - 1 - valid)], axis=1).astype(
        np.int32
    )


def estimate(config: Config, words: text.Text) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    program = build(config, words)
    training, data = jax.eval_shape(program.init), jax.tree.map(lambda leaf: leaf[0], program.data)
    print(f"parameters of the supernet   {search_results.num_params(config, training):,}")
    runs.estimate(
        config,
        program.step,
        program.devices,
        (training, data, np.zeros(4, np.int32)),
        program.lengths,
    )


def parse(arguments: Sequence[str] | command_line.Line) -> Config:
    """The configuration of a command line."""
    return command_line.parse(arguments, PRESETS, PTB, __doc__, STARTS)


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(parse(arguments))
    runs.use_cache(config)
    words = texts.load(config)
    if config.estimate:
        return estimate(config, words)
    program = build(config, words)
    with runs.open_run(config, "search") as opened:
        search(dataclasses.replace(config, run_dir=str(opened.folder)), words, program, opened)


def search(config: Config, words: text.Text, program: Program, run: Run) -> None:
    """Runs a search on texts: epochs of steps, and the report in the end.

    There is an evaluation and a checkpoint after each epoch.
    """
    log = run.log

    def steps(epoch: int) -> Callable[[Searched, int], Searched]:
        drawn = windows(config, program.rows, epoch)
        on_devices = np.broadcast_to(drawn, (len(program.devices), *drawn.shape))
        step = program.warm_up_step if epoch < config.arch_warmup else program.step
        return lambda training, i: step(training, program.data, on_devices[:, i])

    def end(training: Searched, epoch: runs.Epoch, history: Sequence[History]) -> Searched:
        mixes = {
            name: np.asarray(mix)
            for name, mix in program.derive(parallel.first(training.state)).items()
        }
        losses = validate(program, training, mixes)
        runs.finite(epoch.step, LOWER, valid_loss=losses)
        for seed, (one, mix) in enumerate(
            zip(history, search_results.split_seeds(mixes), strict=True)
        ):
            loss, genotype = float(losses[seed]), program.space.discretize(mix)
            record = {
                "epoch": epoch.number,
                "learning_rate": config.learning_rate,
                "seconds": epoch.seconds,
            }
            record |= {name: float(value[seed]) for name, value in epoch.means.items()}
            record |= {"valid_loss": loss, "valid_perplexity": math.exp(loss)}
            one.write(epoch.step, record, mix, genotype)
            if config.num_seeds > 1:
                log.info("seed %d", config.seed + seed)
            texts.log_epoch(log, epoch.number, epoch.seconds, loss)
            log.info("genotype = %s", genotype)
        return training

    task = runs.Task(
        init=program.init,
        lengths=program.lengths,
        devices=program.devices,
        about=about(config, program.space),
        rate=lambda epoch: config.learning_rate,
        reset=texts.with_zeros("carry"),
        steps=steps,
        averages=texts.averages,
        shown=texts.shown,
        checked=checked,
        lower=LOWER,
        open_records=records_of(config, run, program.space),
        end=end,
        finish=lambda training, history: finish(config, words, program, training, history, run),
    )
    runs.train(config, run, task)


def validate(
    program: Program, training: Searched, mixes: Mapping[str, Array | np.ndarray]
) -> np.ndarray:
    """Loss of the weights at a mix over the whole validation text, [seeds]."""
    mixes = parallel.replicate(dict(mixes), program.devices)
    return np.asarray(parallel.first(program.evaluate(training.state.params, mixes, program.data)))


def finish(
    config: Config,
    words: text.Text,
    program: Program,
    training: Searched,
    history: Sequence[History],
    run: Run,
) -> None:
    """Derives the cells, compares them with random ones, and writes the reports.

    The comparison is under the shared weights; the cells are drawn.
    """
    space, log = program.space, run.log
    mixes = parallel.stack([seed_history.mix() for seed_history in history])
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    mixes = search_results.chosen(
        config, space, mixes, lambda mixes: -validate(program, training, mixes), key
    )
    found_cells = [space.discretize(mix) for mix in search_results.split_seeds(mixes)]
    others, losses = search_results.random_cells(config, space), []
    for candidates in [found_cells, *([other] * len(found_cells) for other in others)]:
        mixes = parallel.stack([one_hot(space.cells, genotype) for genotype in candidates])
        losses.append(validate(program, training, mixes))
    sentences = []
    for seed, (genotype, seed_history) in enumerate(zip(found_cells, history, strict=True)):
        compared = search_results.losses_beside_random([loss[seed] for loss in losses], log)
        facts = {
            "dataset": config.dataset,
            "algorithm": config.algorithm,
            "epochs": len(seed_history.records.all),
            "vocabulary": len(words.vocabulary),
            "supernet_parameters": search_results.num_params(config, parallel.first(training)),
            **compared,
            "wall_time": sum(record["seconds"] for record in seed_history.records.all),
        }
        sentences.append(
            search_results.write_result(
                config, seed_history, genotype, config.seed + seed, facts, log
            )
        )
    search_results.write_best(
        config, run.folder, found_cells, [float(loss) for loss in losses[0]], log, sentences
    )
