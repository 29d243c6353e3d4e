"""Search a recurrent cell on a text: python experiments/search.py --dataset=ptb

Alternates exact second-order architecture steps on the validation part with weight steps on the training part, a window of
the text at a time. Leaves a run folder as for images, with recurrent.svg. --dataset=pydoc takes minutes on a CPU and needs no
download; ptb and wikitext2 are read from --data_dir.
"""

import contextlib
import dataclasses
import math
import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import findings
import jaxdarts as jd
import methods
import runs
import texts
from jaxdarts.data import text
from jaxdarts.spaces.darts_rnn import PRIMITIVES
from runs import Run, Stop


@dataclasses.dataclass(frozen=True)
class Config(texts.Settings):
    """Search a recurrent cell by gradient descent (DARTS). Defaults are those of the text's preset."""

    unrolled: bool = True
    """Exact second-order hypergradient; --no-unrolled for the first-order one."""
    algorithm: Literal["darts", "sdarts_rs", "sdarts_adv"] = "darts"
    """Search algorithm; the other two perturb the mix in every weight step (SmoothDARTS, published with --no-unrolled)."""
    epsilon_alpha: float = 0.3
    """Largest perturbation of the mix in the last epoch; from 0.03 in the first."""
    attack_steps: int = 7
    """Steps of an attack (sdarts_adv)."""
    nodes: int = 8
    """Nodes of the cell."""
    ops: tuple[str, ...] = PRIMITIVES
    """Candidate activations of every edge, in the order of the columns of alpha, separated by spaces."""
    arch_learning_rate: float = 3e-3
    """Learning rate of alpha (Adam), constant."""
    arch_weight_decay: float = 1e-3
    """Multiple of alpha that is added to its gradient."""
    seed: int = 3
    """Determines everything that is random."""


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


class Program(NamedTuple):
    """The pure functions of a search, mapped over devices, and what they run on."""

    space: jd.Space
    init: Any  # () -> {"state": SearchState, "sums": metrics}, a leading axis of one seed
    step: Any  # (training, data, window) -> training; window: start and length, in training and in validation
    derive: Any  # state -> the mix that it stands for
    evaluate: Any  # (params, mix, data) -> validation loss in nats a word
    devices: list
    data: Any  # a leading axis of devices
    rows: tuple[int, int]  # of the two streams
    lengths: np.ndarray  # steps of every epoch


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    texts.check(config, "nodes attack_steps", "arch_learning_rate arch_weight_decay epsilon_alpha")
    return config


def build(config: Config, words: text.Text) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = jax.local_devices()[: config.num_devices]
    try:
        space = jd.spaces.darts_rnn(config.nodes, config.ops)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    streams = {part: texts.columns(getattr(words, part), config.batch_size, "batch_size") for part in ("train", "valid")}
    rows = len(streams["train"]), len(streams["valid"])
    lengths = np.array([len(windows(config, rows, epoch)) for epoch in range(config.epochs)])
    net = space.supernet(
        config.emsize,
        len(words.vocabulary),
        dropouts=config.dropouts,
        dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS,
        remat=config.remat,
    )
    objective = jax.jit(jd.objectives.language_model(net, config.alpha, config.beta))
    mean_steps = int(lengths.mean())

    def ramp(first, last):
        return jd.algorithms.by_epoch(first, last, config.epochs, mean_steps)

    algorithm = methods.METHODS[config.algorithm].make(config, space, 2 if config.unrolled else 1, ramp)
    arch_tx = optax.chain(optax.add_decayed_weights(config.arch_weight_decay), optax.adam(config.arch_learning_rate))
    search = jd.bilevel_search(objective, algorithm, texts.optimizer(config), arch_tx, axis_name=jd.parallel.AXIS)

    def step(training, data, window):
        state, axis = training["state"], jd.parallel.AXIS
        # The state is the same on every device, so the hidden states in it are those of the whole batch.
        carry = jax.tree.map(lambda hidden: jd.parallel.part(hidden, axis), state.carry)
        train = text.window(data["train"], window[0], window[1], config.bptt)
        valid = text.window(data["valid"], window[2], window[3], config.bptt) | {"regularisation": jnp.float32(0)}
        state, metrics = search.step(dataclasses.replace(state, carry=carry), train, valid)
        state = dataclasses.replace(state, carry=jax.tree.map(lambda h: jd.parallel.whole(h, axis), state.carry))
        return {"state": state, "sums": {name: training["sums"][name] + value for name, value in metrics.items()}}

    over_stream = jd.objectives.over_stream(objective, config.bptt)

    def evaluate(params, mix, data):
        start = net.start(data["valid"].shape[1])
        return jax.lax.pmean(over_stream(params, mix, start, data["valid"]), jd.parallel.AXIS)

    def init():
        params_key, search_key = jax.random.split(jax.random.key(config.seed))
        params = net.clone(axis_name=None).init(params_key, *net.example_inputs())["params"]
        start = net.start(config.batch_size)
        sums = {name: jnp.zeros(1) for name in ("train_loss", "valid_loss", "arch_gradient_norm")}
        return {"state": jd.parallel.stack([search.init(search_key, params, (start, start))]), "sums": sums}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    return Program(
        space=space,
        init=init,
        step=over_devices(over_seeds(step, (0, None, None)), devices, donate=(0,)),
        derive=lambda state: over_seeds(algorithm.relax.derive)(state.arch),
        evaluate=over_devices(over_seeds(evaluate, (0, 0, None)), devices),
        devices=devices,
        data={part: jd.parallel.split(stream, len(devices), axis=1) for part, stream in streams.items()},
        rows=rows,
        lengths=lengths,
    )


def windows(config: Config, rows: tuple[int, int], epoch: int) -> np.ndarray:
    """One epoch's windows, [steps, 4]: start and length in the training stream, start and length in the validation stream.

    The validation window starts where the training window does, modulo the length of its stream, and has as many rows as are
    left there (the official code's always has --bptt).
    """
    start, length = text.random_windows(config.seed, epoch, rows[0], config.bptt)
    valid = start % (rows[1] - 1)
    return np.stack([start, length, valid, np.minimum(length, rows[1] - 1 - valid)], axis=1).astype(np.int32)


def estimate(config: Config, words: text.Text) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    program = build(config, words)
    training, start = jax.eval_shape(program.init), time.time()
    data = jax.tree.map(lambda leaf: leaf[0], program.data)
    megabytes = runs.memory(program.step, len(program.devices), (training, data, np.zeros(4, np.int32)))
    print(f"parameters of the supernet   {findings.num_params(config, training):,}")
    print(f"steps an epoch               about {program.lengths.mean():,.0f}, {config.epochs} epochs")
    print(f"memory of a step             {megabytes:,.1f} MB a device")
    print(f"compilation                  {time.time() - start:.0f} s")


def main(arguments: list[str]) -> None:
    config = check(runs.parse(arguments, PRESETS, PTB, __doc__))
    runs.use_cache(config)
    words = texts.load(config)
    if config.estimate:
        return estimate(config, words)
    program = build(config, words)
    with runs.open_run(config, "search") as opened:
        search(dataclasses.replace(config, run_dir=str(opened.folder)), words, program, opened)


def search(config: Config, words: text.Text, program: Program, run: Run) -> None:
    """The search itself: epochs of steps, an evaluation and a checkpoint after each, the report in the end."""
    log, lengths = run.log, program.lengths
    training, seconds = runs.restored(config, run, program.init())
    step, total = int(training["state"].step[0]), runs.total_steps(config, lengths)
    history = findings.History(run.folder, runs.kept_step(config, step, lengths), program.space, log)
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("param size = %fMB", findings.num_params(config, training) / 1e6)
    log.info("run folder %s", run.folder)
    jd.metrics.replace_text(run.folder / "space.json", methods.space_to_json(program.space))
    if config.resume:
        log.info("resumed at step %d%s", step, f" of {total}" if step < total else ": nothing is left to do but the report")

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, config.learning_rate)
        places = windows(config, program.rows, epoch)
        on_devices = np.broadcast_to(places, (len(program.devices), *places.shape))
        return lambda training, i: program.step(training, program.data, on_devices[:, i])

    def check(tree, step):
        for name, part in (("a weight", tree["state"].params), ("alpha", tree["state"].arch)):
            leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])
            runs.finite(step, "--learning_rate or --arch_learning_rate", **{name: leaves})

    def end(training, means, epoch, step, seconds):
        mixes = {name: np.asarray(mix) for name, mix in program.derive(jd.parallel.first(training["state"])).items()}
        loss = validate(program, training, mixes)
        mix = {name: mix[0] for name, mix in mixes.items()}
        genotype = program.space.discretize(mix)
        record = {"epoch": epoch, "learning_rate": config.learning_rate, "seconds": seconds}
        record |= {name: float(value[0]) for name, value in means.items()}
        record |= {"valid_loss": loss, "valid_perplexity": math.exp(loss)}
        history.write(step, record, mix, genotype)
        texts.log_epoch(log, epoch, seconds, loss)
        log.info("genotype = %s", genotype)

    try:
        training = jd.parallel.replicate(training, program.devices)
        training = runs.epochs(
            config,
            run,
            training,
            seconds,
            lengths,
            begin=begin,
            averages=texts.averages,
            check=check,
            end=end,
            shown=texts.shown,
        )
        finish(config, words, program, training, history, log)
        history.records.close()
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already
            history.records.close()


def validate(program: Program, training: Any, mixes: Any) -> float:
    """Loss of the weights at a mix over the whole validation text."""
    mixes = jd.parallel.replicate(dict(mixes), program.devices)
    loss = program.evaluate(training["state"].params, mixes, program.data)
    return float(jd.parallel.first(loss)[0])


def finish(config: Config, words: text.Text, program: Program, training: Any, history: findings.History, log: Any) -> None:
    """Derives the cell, compares it with random ones under the shared weights, draws it and writes the report."""
    space = program.space
    genotype = space.discretize(history.mix())
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 8)
    cells = [genotype, *map(space.sample, keys)]
    found, *others = (validate(program, training, texts.stacked(jd.one_hot(space.cells, cell))) for cell in cells)
    log.info("supernet loss of the found cell %f, of %d random cells %f to %f", found, len(keys), min(others), max(others))
    facts = {
        "dataset": config.dataset,
        "algorithm": config.algorithm,
        "epochs": len(history.records.all),
        "vocabulary": len(words.vocabulary),
        "supernet_parameters": findings.num_params(config, jd.parallel.first(training)),
        "found_cell_supernet_loss": found,
        "random_cells_supernet_loss": float(np.mean(others)),
        "wall_time": sum(record["seconds"] for record in history.records.all),
    }
    findings.write_result(config, history, genotype, config.seed, facts, log)
