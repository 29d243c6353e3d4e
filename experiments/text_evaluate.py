"""Train a recurrent cell on a text from scratch: python experiments/evaluate.py --arch=DARTS_V2 --dataset=ptb

--arch takes a published recurrent name (DARTS_V1, DARTS_V2, ENAS, penn_random, penn_pgd), a run folder of search.py, a JSON
file, or the text of a genotype. SGD turns into averaged SGD once the validation loss stops falling. Leaves a run folder:
config.json, log.txt, metrics.jsonl, tensorboard/, genotype.json, weights.npz (those that validated best), test.json,
report.html and checkpoints/. The test part is looked at once, after the last epoch.
"""

import contextlib
import dataclasses
import json
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdarts as jd
import recipes
import runs
import texts
from jaxdarts import train_text
from jaxdarts.data import text
from runs import Run, Stop


@dataclasses.dataclass(frozen=True)
class Config(texts.Settings):
    """Train one recurrent cell from scratch. Defaults are those of the text's preset."""

    arch: str = "DARTS_V2"
    """Published name, run folder of search.py, JSON file, or text of a genotype."""
    epochs: int = 8000
    """Passes over the text; published runs were ended by hand after some thousands."""
    batch_size: int = 64
    """Columns that the training text is cut into, over all devices."""
    eval_batch_size: int = 10
    """Columns that the validation text is cut into; the test text is one."""
    emsize: int = 850
    """Units of the embedding and of the hidden state."""
    deviation: float = 5.0
    """Standard deviation of a window's rows around --bptt."""
    max_seq_len_delta: int = 20
    """Rows that a window may have more than --bptt."""
    dropoute: float = 0.1
    """Dropout of whole words."""
    weight_decay: float = 8e-7
    """Multiple of the weights that is added to their gradient."""
    nonmono: int = 5
    """Epochs without a better validation loss after which the weights are averaged."""
    report_freq: int = 200
    """Steps between log lines."""
    seed: int = 1267
    """Determines everything that is random."""


PTB = Config(dataset="ptb")
PRESETS = {
    "pydoc": Config(
        epochs=15,
        batch_size=32,
        emsize=64,
        learning_rate=10.0,
        dropout=0.2,
        dropouth=0.1,
        dropoutx=0.2,
        dropouti=0.1,
        dropoute=0.0,
        nonmono=1,
        report_freq=20,
    ),
    "ptb": PTB,
    "wikitext2": dataclasses.replace(PTB, dataset="wikitext2", emsize=700, dropouth=0.15, weight_decay=5e-7),
}
"""What each text starts from; any other one starts from Penn Treebank's, the paper's, setting."""


class Program(NamedTuple):
    """The pure functions of a training, mapped over devices, and what they run on."""

    init: Any  # () -> {"state": TextState, "sums": metrics}, a leading axis of one seed
    steps: dict[int, Any]  # rows that a window is padded to -> (training, data, start and length) -> training
    judged: Any  # (state, validation loss, whether averaging is on) -> state
    losses: dict[str, Any]  # part -> (weights) -> loss of the whole part in nats a word
    devices: list
    data: Any  # a leading axis of devices
    rows: int  # of the training stream
    lengths: np.ndarray  # steps of every epoch


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    texts.check(config, "eval_batch_size nonmono", "deviation max_seq_len_delta")
    return config


def resolve(arch: str) -> jd.genotypes.RecurrentGenotype:
    """The recurrent genotype that a name, a run folder, a file or a text stands for; a name goes without its `RNN_`."""
    known = f"RNN_{arch}" in jd.genotypes.PUBLISHED
    genotype = recipes.named(f"RNN_{arch}" if known else arch)
    if not isinstance(genotype, jd.genotypes.RecurrentGenotype):
        raise Stop(f"--arch={arch}: not a recurrent cell, which a text needs", 2)
    return genotype


def build(config: Config, genotype: jd.genotypes.RecurrentGenotype, words: text.Text) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = jax.local_devices()[: config.num_devices]
    stream = texts.columns(words.train, config.batch_size, "batch_size")
    parts = {
        "valid": texts.columns(words.valid, config.eval_batch_size, "eval_batch_size"),
        "test": texts.columns(words.test, 1, "eval_batch_size"),
    }
    net = jd.spaces.darts_rnn().network(
        genotype,
        config.emsize,
        len(words.vocabulary),
        dropouts=config.dropouts,
        dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS,
        remat=config.remat,
    )
    objective = jd.objectives.language_model(net, config.alpha, config.beta)
    training = train_text.from_scratch(objective, texts.optimizer(config), axis_name=jd.parallel.AXIS)

    def step_of(rows: int):
        def step(carry, data, window):
            state, metrics = training.step(carry["state"], text.window(data, window[0], window[1], rows))
            metrics["loss"] = jnp.where(metrics["reloads"] > 0, 0.0, metrics["loss"])  # a loss that is no number adds nothing
            return {"state": state, "sums": {name: carry["sums"][name] + metrics[name[6:]] for name in carry["sums"]}}

        return over_devices(over_seeds(step, (0, None, None)), devices, donate=(0,))

    def init():
        params_key, key = jax.random.split(jax.random.key(config.seed))
        params = alone.init(params_key, *net.example_inputs())["params"]
        state = training.init(key, params, net.start(config.batch_size))
        return {"state": jd.parallel.stack([state]), "sums": {name: jnp.zeros(1) for name in ("train_loss", "train_reloads")}}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    alone = net.clone(axis_name=None)
    over_stream = jd.objectives.over_stream(jd.objectives.language_model(alone), config.bptt)

    def loss_over(part: np.ndarray):
        def loss(params, stream):
            return over_stream(jax.tree.map(lambda w: w[0], params), {}, alone.start(stream.shape[1]), stream)

        compiled = jax.jit(loss, compiler_options=jd.parallel.compiler_options(devices[0].platform))
        return lambda params: float(compiled(params, part))

    return Program(
        init=init,
        steps={rows: step_of(rows) for rows in paddings(config)},
        judged=jax.jit(over_seeds(training.judged, (0, None, None))),
        losses={name: loss_over(part) for name, part in parts.items()},
        devices=devices,
        data=jd.parallel.split(stream, len(devices), axis=1),
        rows=len(stream),
        lengths=np.array([len(windows(config, len(stream), epoch)) for epoch in range(config.epochs)]),
    )


def paddings(config: Config) -> list[int]:
    """Rows that windows are padded to: few, as each is a program of its own, and near the windows' own."""
    return sorted({config.bptt, config.bptt + min(5, config.max_seq_len_delta), config.bptt + config.max_seq_len_delta})


def windows(config: Config, rows: int, epoch: int) -> np.ndarray:
    """Start and length of one epoch's windows, [steps, 2]."""
    longest = config.bptt + config.max_seq_len_delta
    shortest = min(5, config.bptt)
    found = text.random_windows(config.seed, epoch, rows, config.bptt, config.deviation, shortest, longest)
    return np.stack(found, axis=1).astype(np.int32)


def train(config: Config, genotype: Any, words: text.Text, program: Program, run: Run) -> float:
    """Trains to the end, or goes on with what was saved; returns the test perplexity."""
    log, lengths = run.log, program.lengths
    training, seconds = runs.restored(config, run, program.init())
    records = runs.Records(run.folder, runs.kept_step(config, int(training["state"].step[0]), lengths))
    size = sum(leaf.size for leaf in jax.tree.leaves(training["state"].params))
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("genotype = %s", genotype)
    log.info("param size = %fMB", size / 1e6)
    jd.metrics.replace_text(run.folder / "genotype.json", jd.genotypes.to_json(genotype))

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, config.learning_rate)
        places = windows(config, program.rows, epoch)
        on_devices = np.broadcast_to(places, (len(program.devices), *places.shape))
        padded = [min(rows for rows in program.steps if rows >= length) for length in places[:, 1]]
        return lambda training, i: program.steps[padded[i]](training, program.data, on_devices[:, i])

    def check(tree, step):
        leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree["state"].average)])
        runs.finite(step, "--learning_rate", **{"a weight": leaves})

    def averages(sums, count, step):
        reloads = int(jd.parallel.first(sums)["train_reloads"][0])
        if reloads > 3 and 2 * reloads >= count:
            raise Stop(f"the loss is not finite in {reloads} of {count} steps: start again with a lower --learning_rate")
        return texts.averages(sums, max(count - reloads, 1), step) | {"train_reloads": np.array([reloads])}

    def end(training, means, epoch, step, seconds):
        state = jd.parallel.first(training["state"])
        loss = program.losses["valid"](state.average)
        runs.finite(step, "--learning_rate", valid_loss=np.asarray(loss))
        if means["train_reloads"][0]:
            log.info("went back to the best weights %d times", means["train_reloads"][0])
        losses = [record["valid_loss"] for record in records.all] + [loss]
        averaging = train_text.averaging_starts(losses, config.nonmono) is not None
        if step == runs.ends(config, lengths)[epoch]:  # one cut short by --max_steps decides nothing
            if averaging and int(state.averaged[0]) == 0:
                log.info("Switching to ASGD")
            state = program.judged(state, jnp.float32(loss), jnp.array(averaging))
            training["state"] = jd.parallel.replicate(state, program.devices)
        record = {"epoch": epoch, "learning_rate": config.learning_rate, "seconds": seconds, "averaging": float(averaging)}
        record |= {name: float(value[0]) for name, value in means.items()}
        records.write(step, record | {"valid_loss": loss, "valid_perplexity": math.exp(loss)})
        texts.log_epoch(log, epoch, seconds, loss)

    try:
        training = jd.parallel.replicate(training, program.devices)
        training = runs.epochs(
            config, run, training, seconds, lengths, begin=begin, averages=averages, check=check, end=end, shown=texts.shown
        )
        return finish(config, genotype, words, program, jd.parallel.first(training["state"]), records, run, size)
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already
            records.close()


def finish(config, genotype, words, program, state, records, run, size: int) -> float:
    """Tests the weights that validated best, writes them and the report."""
    best = state.best if np.isfinite(state.best_loss[0]) else state.average
    losses = {part: loss(best) for part, loss in program.losses.items()}
    perplexities = {f"{part}_perplexity": math.exp(loss) for part, loss in losses.items()}
    run.log.info("| End of training | test loss %5.2f | test ppl %8.2f", losses["test"], perplexities["test_perplexity"])
    np.savez(run.folder / "weights.npz", **{name: np.asarray(leaf[0]) for name, leaf in best.items()})
    jd.metrics.replace_text(run.folder / "vocabulary.json", json.dumps(words.vocabulary, ensure_ascii=False) + "\n")
    jd.metrics.replace_text(run.folder / "test.json", json.dumps(perplexities, indent=1) + "\n")
    jd.report.write(
        run.folder / "report.html",
        title=f"Evaluation on {config.dataset}",
        config=dataclasses.asdict(config),
        records=records.all,
        genotype=genotype,
        mixes={},
        edges={},
        ops={},
        facts={
            "dataset": config.dataset,
            "parameters": size,
            **perplexities,
            "wall_time": sum(record["seconds"] for record in records.all),
        },
        sections=runs.analyses(run.folder),
    )
    run.log.info("report %s", run.folder / "report.html")
    return perplexities["test_perplexity"]


def estimate(config: Config, program: Program) -> None:
    """Prints what a training would take, from the compiled step of the longest windows; trains nothing."""
    training, start = jax.eval_shape(program.init), time.time()
    longest = program.steps[max(program.steps)]
    megabytes = runs.memory(longest, len(program.devices), (training, program.data[0], np.zeros(2, np.int32)))
    size = sum(leaf.size for leaf in jax.tree.leaves(training["state"].params))
    print(f"parameters of the network    {size:,}")
    print(f"steps an epoch               about {program.lengths.mean():,.0f}, {config.epochs} epochs")
    print(f"memory of a step             {megabytes:,.1f} MB a device")
    print(f"compilation                  {time.time() - start:.0f} s, for {len(program.steps)} lengths of windows")


def main(arguments: list[str]) -> None:
    config = check(runs.parse(arguments, PRESETS, PTB, __doc__))
    runs.use_cache(config)
    genotype = resolve(config.arch)
    config = dataclasses.replace(config, arch=str(genotype))  # the run folder tells all there is to know
    words = texts.load(config)
    program = build(config, genotype, words)
    if config.estimate:
        return estimate(config, program)
    with runs.open_run(config, "eval") as opened:
        train(dataclasses.replace(config, run_dir=str(opened.folder)), genotype, words, program, opened)
