"""The scripts on texts: run folders, interruptions, bad input, devices."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxdarts as jd
from jaxdarts import runs, training
from jaxdarts.commands import command_line, methods, texts
from jaxdarts.commands.evaluate import command as evaluate_command
from jaxdarts.commands.evaluate import text as text_evaluation
from jaxdarts.commands.evaluate import text_recipes
from jaxdarts.commands.search import command as search_command
from jaxdarts.commands.search import text as text_search
from jaxdarts.data import text

CELL = "Genotype(recurrent=[('tanh', 0)], concat=[1])"
CALM = [
    "--learning_rate=1",
    "--dropout=0.2",
    "--dropoutx=0.2",
]  # what differs in the last bits stays there


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A folder with a text of nine words that follow each other in a circle, now and then a random
    one.
    """
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for part, size in (("train", 400), ("valid", 90), ("test", 60)):
        numbers = np.where(rng.random(size) < 0.8, np.arange(size) % 9, rng.integers(0, 9, size))
        (folder / f"{part}.txt").write_text(" ".join(f"word{i}" for i in numbers) + "\n")
    return folder


@pytest.fixture(scope="session")
def common(words):
    cache = f"--cache_dir={jax.config.jax_compilation_cache_dir}"
    sizes = "--batch_size=8 --emsize=4 --bptt=6 --num_devices=1 --report_freq=3".split()
    return [f"--dataset=text:{words}", *sizes, cache]


@pytest.fixture(scope="session")
def searched(common):
    return [*common, "--epochs=2", "--nodes=2", *CALM, "--ops", "none", "tanh", "identity"]


@pytest.fixture(scope="session")
def trained_flags(common):
    rest = (
        "--epochs=5 --eval_batch_size=3 --deviation=2 --max_seq_len_delta=4 --nonmono=1"
        " --learning_rate=20".split()
    )
    return [*common, f"--arch={CELL}", *rest]


@pytest.fixture(scope="session")
def finished_search(searched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    search_command.main([*searched, f"--run_dir={folder}"])
    return folder


@pytest.fixture(scope="session")
def finished_training(trained_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "run"
    evaluate_command.main([*trained_flags, f"--run_dir={folder}"])
    return folder


def results(folder):
    """What interruptions must not change."""
    records = jd.files.read_json_lines(folder / "metrics.jsonl")
    for record in records:
        assert record.pop("seconds") >= 0
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        saved = checkpoints.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )["state"]
    saved.pop("seconds")
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(saved):
        bits = (
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        leaves[jax.tree_util.keystr(path)] = np.asarray(bits)
    return records, step, leaves


def same(one, other):
    for first, second in zip(results(one)[:2], results(other)[:2]):
        assert first == second
    first, second = results(one)[2], results(other)[2]
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[name], err_msg=name)


def test_the_run_folder_of_a_search(finished_search):
    names = {path.name for path in finished_search.iterdir()}
    expected = (
        "config.json log.txt metrics.jsonl tensorboard alphas.npz genotype.json recurrent.svg"
        " report.html checkpoints"
    )
    assert names >= set(expected.split())
    genotype = jd.genotypes.from_json((finished_search / "genotype.json").read_text())
    assert isinstance(genotype, jd.genotypes.RecurrentGenotype) and len(genotype.recurrent) == 2
    records, step, leaves = results(finished_search)
    assert [record["epoch"] for record in records] == [0, 1] and step == records[-1]["step"]
    assert (
        records[1]["valid_perplexity"] == pytest.approx(np.exp(records[1]["valid_loss"]))
        and "averaging" not in records[0]
    )
    assert np.any(
        leaves[
            (
                "['state'].carry[0]"
                if "['state'].carry[0]" in leaves
                else next(k for k in leaves if "carry" in k)
            )
        ]
    )
    assert "Perplexity" in (finished_search / "report.html").read_text()
    with np.load(finished_search / "alphas.npz") as saved:
        assert saved["recurrent"].shape == (2, 3, 3)


def test_a_resumed_search_is_the_uninterrupted_one(searched, finished_search, tmp_path):
    for stop in (4, 11):
        folder = tmp_path / str(stop)
        search_command.main([*searched, f"--run_dir={folder}", f"--max_steps={stop}"])
        search_command.main([f"--resume={folder}", "--max_steps=0"])
        same(folder, finished_search)


@pytest.fixture(scope="session")
def tiny(common):
    sizes = "--epochs=1 --nodes=2 --bptt=3 --emsize=2".split()
    return [*common, *sizes, *CALM, "--ops", "relu", "identity"]


# A second derivative, an attack, a relaxation that draws, one without alpha.
KINDS = ("darts", "sdarts_adv", "drnas", "random_sharing")
FEW = "--attack_steps=1 --neighbours=1 --num_samples=2 --arch_learning_rate=0.1".split()


@pytest.mark.parametrize(
    "name", [name for name in methods.METHODS if name not in (*methods.ONLY_ON_IMAGES, *KINDS)]
)
def test_every_method_has_a_program(name, tiny):
    """It is traced, not compiled: `test_every_kind_of_method_searches` does that."""
    config = text_search.parse([*tiny, f"--algorithm={name}", *FEW])
    program = text_search.build(config, texts.load(config))
    data = jax.tree.map(lambda leaf: leaf[0], program.data)
    training, *inputs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),  # of one device
        (jax.eval_shape(program.init), data, np.zeros(4, np.int32)),
    )
    new = jax.eval_shape(program.step.mapped, training, *inputs)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, training)
    assert {"train_loss", "valid_loss", "arch_gradient_norm"} <= set(new.sums)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_searches(name, tiny, tmp_path):
    folder = tmp_path / "run"
    search_command.main([*tiny, f"--algorithm={name}", *FEW, f"--run_dir={folder}"])
    (record,) = jd.files.read_json_lines(folder / "metrics.jsonl")
    assert (
        record["step"] > 10 and np.isfinite(record["train_loss"]) and record["valid_perplexity"] > 1
    )
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["algorithm"] == name and np.isfinite(facts["found_cell_supernet_loss"])
    jd.genotypes.check(jd.genotypes.from_json((folder / "genotype.json").read_text()))
    assert (record["arch_gradient_norm"] > 0) == (
        name not in ("random_sharing", "fixed_alpha", "shapley_nas")
    )


@pytest.mark.parametrize(
    "flags", ["--algorithm=gdas --arch_warmup=1 --epochs=2", "--algorithm=random_sharing"]
)
def test_methods_go_on_where_they_were(flags, tiny, tmp_path):
    """Whatever the shape of alpha, and of what its optimiser keeps."""
    flags = [*tiny, *flags.split(), "--num_samples=2"]
    search_command.main([*flags, f"--run_dir={tmp_path}/whole"])
    search_command.main([*flags, f"--run_dir={tmp_path}/parts", "--max_steps=9"])
    search_command.main([f"--resume={tmp_path}/parts", "--max_steps=0"])
    same(tmp_path / "parts", tmp_path / "whole")
    assert (tmp_path / "parts" / "genotype.json").read_text() == (
        tmp_path / "whole" / "genotype.json"
    ).read_text()


def test_methods_start_from_their_settings(tiny):
    def parsed(*flags):
        return command_line.parse(
            list(flags), text_search.PRESETS, text_search.PTB, "", text_search.STARTS
        )

    assert parsed().unrolled and not parsed("--algorithm=milenas").unrolled
    assert (
        parsed("--algorithm=snas").tau_start == 1
        and parsed("--algorithm=random_sharing").derive == "samples"
    )
    assert (
        parsed("--dataset=ptb", "--algorithm=drnas").learning_rate == 20
        and parsed().arch_beta1 == 0.9
    )


@pytest.mark.parametrize("name", methods.ONLY_ON_IMAGES)
def test_methods_that_are_not_for_recurrent_cells(name, tiny):
    with pytest.raises(runs.Stop, match=f"--algorithm={name}: not for recurrent cells: .*[a-z]$"):
        search_command.main([*tiny, f"--algorithm={name}"])


def test_seeds_in_one_program_equal_their_own_runs(tiny, tmp_path):
    flags = [*tiny, "--algorithm=gdas", "--derive=validation"]
    search_command.main([*flags, "--num_seeds=2", f"--run_dir={tmp_path}/both"])
    losses = []
    for seed in (3, 4):
        alone, seed_folder = tmp_path / f"alone-{seed}", tmp_path / "both" / f"seed-{seed}"
        search_command.main([*flags, f"--seed={seed}", f"--run_dir={alone}"])
        (record,), (expected,) = (
            jd.files.read_json_lines(folder / "metrics.jsonl") for folder in (seed_folder, alone)
        )
        for name in ("step", "train_loss", "valid_loss", "arch_gradient_norm"):
            assert record[name] == pytest.approx(expected[name], rel=1e-4)
        with (
            np.load(seed_folder / "alphas.npz") as seed_alphas,
            np.load(alone / "alphas.npz") as alone_alphas,
        ):
            np.testing.assert_allclose(
                seed_alphas["recurrent"], alone_alphas["recurrent"], atol=1e-5
            )
        assert (seed_folder / "genotype.json").read_text() == (alone / "genotype.json").read_text()
        losses.append(
            json.loads((seed_folder / "facts.json").read_text())["found_cell_supernet_loss"]
        )
        assert (seed_folder / "report.html").exists()
    assert losses[0] != pytest.approx(losses[1], abs=1e-5)
    best = tmp_path / "both" / f"seed-{3 + int(losses[1] < losses[0])}"
    assert (tmp_path / "both" / "genotype.json").read_text() == (best / "genotype.json").read_text()


@pytest.mark.parametrize("derive", ["perturbation", "samples"])
def test_a_finished_search_is_derived_in_another_way(derive, finished_search, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_search, folder)
    search_command.main([f"--resume={folder}", f"--derive={derive}", "--num_samples=3"])
    jd.genotypes.check(jd.genotypes.from_json((folder / "genotype.json").read_text()))


def test_training_resumed_before_and_after_the_averaging_began(
    trained_flags, finished_training, tmp_path, capsys
):
    records, total, leaves = results(finished_training)
    switch = next(i for i, record in enumerate(records) if record["averaging"])
    assert 0 < switch < len(records) - 1
    assert "Switching to ASGD" in (finished_training / "log.txt").read_text()
    best = min(record["valid_loss"] for record in records)
    assert next(leaf for name, leaf in leaves.items() if "best_loss" in name)[0] == pytest.approx(
        best
    )
    for stop in (records[switch]["step"] - 2, records[switch]["step"] + 1):
        folder = tmp_path / str(stop)
        evaluate_command.main([*trained_flags, f"--run_dir={folder}", f"--max_steps={stop}"])
        evaluate_command.main([f"--resume={folder}", "--max_steps=0"])
        same(folder, finished_training)
        assert (folder / "test.json").read_text() == (finished_training / "test.json").read_text()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(params, rows, hidden):
    """Mean cross-entropy in nats a word of `CELL` without dropout, by the cell's definition: of
    rows of words, each but the last followed by the next.
    """
    losses = []
    for words, targets in zip(rows[:-1], rows[1:], strict=True):
        joined = np.hstack([params["embedding"][words], hidden])
        gate, new = np.split(joined @ params["first"], 2, 1)
        hidden = hidden + sigmoid(gate) * (np.tanh(new) - hidden)
        gate, new = np.split(hidden @ params["nodes"][0], 2, 1)
        hidden = hidden + sigmoid(gate) * (np.tanh(new) - hidden)
        logits = hidden @ params["embedding"].T + params["bias"]
        losses.append(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(words)), targets])
    return np.mean(losses)


@pytest.fixture
def resume_with(monkeypatch):
    """(folder, field, value, flags): goes on with a run whose hidden states were overwritten."""

    def resume(folder, field, value, *flags):
        def overwritten(config, run, new):
            training, seconds = restored(config, run, new)
            filled = jax.tree.map(
                lambda leaf: jnp.full_like(leaf, value), getattr(training.state, field)
            )
            state = dataclasses.replace(training.state, **{field: filled})
            return dataclasses.replace(training, state=state), seconds

        restored = runs.loop.restored
        with monkeypatch.context() as patch:
            patch.setattr(runs.loop, "restored", overwritten)
            command = search_command if (folder / "space.json").exists() else evaluate_command
            command.main([f"--resume={folder}", *flags])
        return jd.files.read_json_lines(folder / "metrics.jsonl")[-1]["train_loss"]

    return resume


STILL = [f"--dropout{name}=0" for name in ("", "h", "x", "i", "e")]


def check_the_head_of_an_epoch(main, flags, length, field, resume_with, folder):
    """Whatever the first epoch, of so many steps, leaves in the hidden states has no influence on
    the second one; within an epoch it has.

    Returns the run, cut after the first step of the second epoch.
    """
    flags = [*flags, *STILL, "--learning_rate=1", "--keep_checkpoints=0"]
    cut = {extra: folder / str(extra) for extra in (0, 1, 2)}
    for extra, run in cut.items():
        main([*flags, f"--max_steps={length + extra}", f"--run_dir={run}"])
    on = f"--max_steps={length + 2}"
    expected = jd.files.read_json_lines(cut[2] / "metrics.jsonl")[-1]["train_loss"]
    assert resume_with(cut[0], field, 50, on) == expected
    shutil.copytree(cut[1], folder / "within")
    assert resume_with(folder / "within", field, 50, on) != expected
    return cut[1]


def cut_run(folder, length):
    """The state after the first epoch, and the loss of the step after it."""
    first, second = jd.files.read_json_lines(folder / "metrics.jsonl")
    assert (first["step"], second["step"]) == (length, length + 1)
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore())
        return checkpoints.restore(length, args=restore)["state"]["state"], second["train_loss"]


def test_every_epoch_of_a_training_begins_with_a_hidden_state_of_zeros(
    trained_flags, words, resume_with, tmp_path
):
    sizes = {"batch_size": 8, "bptt": 6, "deviation": 2.0, "max_seq_len_delta": 4}
    config = text_recipes.Config(dataset=f"text:{words}", **sizes)
    stream = text.streams(texts.load(config).train, 8)
    length = len(text_recipes.windows(config, len(stream), 0))
    run = check_the_head_of_an_epoch(
        evaluate_command.main, trained_flags, length, "hidden", resume_with, tmp_path
    )
    state, loss = cut_run(run, length)
    start, rows = text_recipes.windows(config, len(stream), 1)[0]
    params = {name: np.asarray(value[0], np.float64) for name, value in state["params"].items()}
    batch = stream[start : start + rows + 1]
    assert loss == pytest.approx(cross_entropy(params, batch, np.zeros((8, 4))), rel=1e-6)
    assert loss != pytest.approx(cross_entropy(params, batch, np.ones((8, 4))), rel=1e-5)


def test_every_epoch_of_a_search_begins_with_hidden_states_of_zeros(
    searched, words, resume_with, tmp_path
):
    config = text_search.Config(dataset=f"text:{words}", batch_size=8, bptt=6)
    loaded = texts.load(config)
    train, valid = (text.streams(part, 8) for part in (loaded.train, loaded.valid))
    length = len(text_search.windows(config, (len(train), len(valid)), 0))
    flags = [*searched, "--arch_learning_rate=0", "--no-unrolled"]
    run = check_the_head_of_an_epoch(
        search_command.main, flags, length, "carry", resume_with, tmp_path
    )
    state, loss = cut_run(run, length)
    start, rows = text_search.windows(config, (len(train), len(valid)), 1)[0][:2]
    ops = ("none", "tanh", "identity")
    net = jd.spaces.darts_rnn(2, ops).supernet(4, len(loaded.vocabulary))
    params = {name: jnp.asarray(value[0]) for name, value in state["params"].items()}
    mix = {"recurrent": jax.nn.softmax(jnp.asarray(state["arch"]["recurrent"][0]))}
    batch = jnp.asarray(train[start : start + rows + 1])
    zeros = jnp.zeros((8, 4))
    out = jax.jit(net.apply)({"params": params}, batch[:-1], zeros, mix, None, None, batch[1:])
    assert loss == pytest.approx(float(np.mean(out.losses)), rel=1e-5)


def test_a_training_that_diverges_ends_in_one_line(trained_flags, tmp_path):
    flags = [flag for flag in trained_flags if not flag.startswith("--learning_rate")]
    with pytest.raises(
        runs.Stop,
        match=(
            r"the loss is not finite in \d of \d+ steps: start again with a lower --learning_rate"
        ),
    ):
        evaluate_command.main([*flags, "--learning_rate=1e30", f"--run_dir={tmp_path}/run"])


def test_a_trained_model_loaded_exported_and_tested_again(
    finished_training, words, tmp_path, capsys
):
    perplexities = json.loads((finished_training / "test.json").read_text())
    assert 1 < perplexities["test_perplexity"] < 30 and perplexities["valid_perplexity"] > 1
    loaded = text.load(f"text:{words}")
    assert training.export.vocabulary(finished_training) == loaded.vocabulary
    assert training.export.perplexity(finished_training, loaded.test) == pytest.approx(
        perplexities["test_perplexity"], rel=1e-5
    )
    assert training.export.perplexity(finished_training, loaded.valid, 3) == pytest.approx(
        perplexities["valid_perplexity"], rel=1e-5
    )

    # By hand, from the logits of the plain function.
    apply, params = jd.load(finished_training)
    assert (
        set(params) == {"embedding", "bias", "first", "nodes"} and params["embedding"].shape[1] == 4
    )
    column = loaded.test[:, None]
    logits, hidden = jax.jit(apply)(params, column[:-1])
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), column[1:, :, None], axis=2)
    assert np.exp(-log_p.mean()) == pytest.approx(perplexities["test_perplexity"], rel=1e-5)
    apply = jax.jit(apply)
    half, between = apply(params, column[:20])
    rest, last = apply(params, column[20:-1], between)
    np.testing.assert_allclose(np.concatenate([half, rest]), logits, atol=1e-5)
    np.testing.assert_allclose(last, hidden, atol=1e-5)

    jd.export(finished_training, tmp_path / "model.bin")
    exported = jd.read_exported(tmp_path / "model.bin")
    for tokens in (column[:-1], column[:8].reshape(4, 2)):
        start = np.zeros((tokens.shape[1], 4), np.float32)
        for actual, expected in zip(exported(tokens, start), apply(params, tokens), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5)

    evaluate_command.main(
        [
            f"--dataset=text:{words}",
            "--test_only",
            f"--checkpoint={finished_training}",
            "--eval_batch_size=3",
        ]
    )
    printed = capsys.readouterr().out
    shown = re.fullmatch(r"valid ppl (\S+)\ntest ppl (\S+)\n", printed)
    assert shown and [float(value) for value in shown.groups()] == pytest.approx(
        [perplexities["valid_perplexity"], perplexities["test_perplexity"]], rel=1e-5
    )


def test_trainings_that_cannot_be_tested_again(finished_training, words, tmp_path):
    for flags, message in (
        ([f"--dataset=text:{words}", "--test_only"], "--checkpoint=RUN"),
        (
            [f"--dataset=text:{words}", "--test_only", f"--checkpoint={tmp_path}"],
            "holds no trained network",
        ),
        (
            ["--dataset=pydoc", "--test_only", f"--checkpoint={finished_training}"],
            "another text: its vocabulary has 10 words",
        ),
        (
            ["--test_only", f"--checkpoint={finished_training}"],
            "holds a language model, no image classifier",
        ),
    ):
        with pytest.raises(runs.Stop, match=message):
            evaluate_command.main(flags)


def test_random_cells_beside_the_found_one(
    trained_flags, finished_training, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(finished_training, folder)
    started = []

    def broken(config, genotype, words, program, run):
        started.append(config.run_dir)
        raise run.leave(signal.SIGTERM, 3, 9)

    with monkeypatch.context() as patch:  # the run's own cell, then the first random one
        unbroken = text_evaluation.train
        patch.setattr(
            text_evaluation,
            "train",
            lambda config, *rest: (broken if config.run_dir.endswith("random-0") else unbroken)(
                config, *rest
            ),
        )
        with pytest.raises(runs.Stop, match=f"continue with --resume={folder}$"):
            evaluate_command.main([f"--resume={folder}", "--random_cells=1"])
    assert started == [f"{folder}/random-0"]
    evaluate_command.main([f"--resume={folder}", "--random_cells=1"])
    table = json.loads((folder / "baseline.json").read_text())
    assert table["--arch"] == json.loads((finished_training / "test.json").read_text())
    assert table["random-0"] == json.loads((folder / "random-0" / "test.json").read_text())
    assert f"{table['random-0']['test_perplexity']:.2f}  random-0" in capsys.readouterr().out
    config = json.loads((folder / "random-0" / "config.json").read_text())
    cell = jd.genotypes.parse(config["arch"])
    assert len(cell.recurrent) == 1 and config["epochs"] == 5


def test_selection_by_validation(trained_flags, tmp_path, capsys):
    flags = [flag for flag in trained_flags if not flag.startswith(("--arch", "--epochs"))]
    other = CELL.replace("tanh", "identity")
    flags += [
        "--epochs=2",
        "--select_epochs=1",
        "--random_cells=1",
        f"--run_dir={tmp_path}",
        "--select",
        CELL,
        other,
    ]
    evaluate_command.main(flags)
    scores = json.loads((tmp_path / "selection.json").read_text())
    assert set(scores["scores"]) == {CELL, other, "random-0"}
    assert scores["selected"] == min((CELL, other), key=lambda name: scores["scores"][name])
    assert str(jd.genotypes.from_json((tmp_path / "genotype.json").read_text())) == str(
        jd.genotypes.parse(scores["selected"])
    )
    for i, name in enumerate((CELL, other, "random-0")):
        candidate_folder = tmp_path / f"select-{i}"
        # The test part is for the one that is selected.
        assert not (candidate_folder / "test.json").exists()
        assert (
            json.loads((candidate_folder / "valid.json").read_text())["valid_perplexity"]
            == scores["scores"][name]
        )
    assert (
        tmp_path / "test.json"
    ).exists() and f"selected {scores['selected']}" in capsys.readouterr().out


def test_devices_search_what_one_does(searched, finished_search, tmp_path, devices):
    search_command.main([*searched, f"--run_dir={tmp_path}/run", "--num_devices=2"])
    actual, expected = (
        jd.files.read_json_lines(folder / "metrics.jsonl")
        for folder in (tmp_path / "run", finished_search)
    )
    for one, other in zip(actual, expected, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "main, flags, message",
    [
        (search_command.main, ["--dataset=text:/nowhere"], "no train.txt in /nowhere"),
        (search_command.main, ["--batch_size=160"], "are too short a text for a batch of 160"),
        (
            search_command.main,
            ["--ops", "tanh", "gelu"],
            "they must be different ones of none, tanh",
        ),
        (search_command.main, ["--dropouth=1"], "--dropouth=1.0: must be at least 0 and below 1"),
        (search_command.main, ["--bptt=1"], "--bptt=1: must be 2 or more"),
        (evaluate_command.main, ["--arch=NASNet"], "--arch=NASNet: not a recurrent cell"),
        (
            evaluate_command.main,
            ["--eval_batch_size=50"],
            "--eval_batch_size=50: 91 words are too short",
        ),
        (evaluate_command.main, ["--nonmono=0"], "--nonmono=0: must be positive"),
    ],
)
def test_bad_input_is_one_line(common, main, flags, message):
    with pytest.raises(runs.Stop, match=message):
        main([*common, *flags])


def test_recurrent_cells_need_texts():
    with pytest.raises(runs.Stop, match="a recurrent cell, which is trained on texts"):
        evaluate_command.main(["--arch=RNN_DARTS_V2", "--dataset=digits"])


def test_published_names():
    assert text_recipes.resolve("DARTS_V1") == jd.genotypes.RNN_DARTS_V1
    assert text_recipes.resolve("ENAS") == text_recipes.resolve("RNN_ENAS") == jd.genotypes.RNN_ENAS
    assert text_recipes.resolve("penn_pgd") == jd.genotypes.penn_pgd


def test_published_settings():
    config = text_search.PTB
    assert (config.emsize, config.batch_size, config.learning_rate, config.grad_clip) == (
        300,
        256,
        20,
        0.25,
    )
    assert text_recipes.PRESETS["wikitext2"].emsize == 700 and text_recipes.PTB.dropouts == (
        0.1,
        0.2,
        0.75,
        0.25,
        0.75,
    )
    assert text_recipes.paddings(text_recipes.PTB) == [35, 40, 55]
    windows = text_recipes.windows(text_recipes.PTB, 10_000, 0)
    assert windows[:, 1].max() <= 55 and windows[:-1, 1].min() >= 5
    valid = text_search.windows(text_search.PTB, (3631, 288), 0)
    assert (valid[:, 2] + valid[:, 3] <= 287).all() and (valid[:, 3] >= 1).all()


def test_estimates(searched, trained_flags, capsys):
    search_command.main([*searched, "--estimate"])
    evaluate_command.main([*trained_flags, "--estimate"])
    assert capsys.readouterr().out.count("steps an epoch") == 2
