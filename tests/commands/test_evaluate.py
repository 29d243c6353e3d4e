"""The evaluation script: every way to name a cell, a run and what it leaves, interruption,
selection, the hand-off.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.commands import command_line, export
from jaxdarts.commands.analyze import planes, subjects
from jaxdarts.commands.evaluate import image_program, recipes
from jaxdarts.commands.evaluate import images as script
from jaxdarts.data import images, stream

ROOT = Path(__file__).parents[2]
CELL = jd.Genotype(
    (("sep_conv_3x3", 0), ("skip_connect", 1)),
    (2,),
    (("max_pool_3x3", 0), ("skip_connect", 1)),
    (2,),
)
TOPOLOGY = "|nor_conv_1x1~0|+|skip_connect~0|none~1|"
GRAPH = "ModelSpec(matrix=[[0, 1], [0, 0]], ops=['input', 'output'])"
EPOCH, TOTAL = 29, 58


@pytest.fixture(scope="session")
def tiny():
    cache = jax.config.jax_compilation_cache_dir
    return [
        f"--arch={CELL}",
        *"--layers=1 --init_channels=2 --epochs=2 --num_devices=1".split(),
        f"--cache_dir={cache}",
    ]


@pytest.fixture(scope="session")
def finished_run(tiny, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    script.main([*tiny, f"--run_dir={folder}"])
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Two classes of JPEGs of many sizes: 26 to train on, six steps an epoch, and 7 to test on."""
    pil = pytest.importorskip("PIL.Image")
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.RandomState(0)
    for part, num in (("train", 26), ("val", 7)):
        for i in range(num):
            path = root / part / ("bright", "dark")[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.randint(0, 128, (5, 5, 3)) + 127 * (i % 2)
            pil.fromarray(pixels.astype(np.uint8)).resize((40 + 3 * i, 90 - 2 * i)).save(path)
    return root


@pytest.fixture(scope="session")
def streaming(tiny, pictures):
    flags = (
        "--preset=imagenet --no-auxiliary --image_size=32 --batch_size=4 --layers=1"
        " --init_channels=2 --epochs=2"
    )
    return [*tiny, f"--dataset=folder:{pictures}", *flags.split()]


@pytest.fixture(scope="session")
def streamed(streaming, tmp_path_factory):
    """The run on streamed images that nothing interrupts."""
    folder = tmp_path_factory.mktemp("streamed") / "run"
    script.main([*streaming, f"--run_dir={folder}"])
    return folder


def stopped(arguments):
    with pytest.raises(script.Stop) as caught:
        script.main(arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text, caught.value.code


def assert_same(one, other):
    for name in ("test.json", "genotype.json", "network.json"):
        assert (one / name).read_text() == (other / name).read_text(), name
    mine, others = (np.load(run / "weights.npz") for run in (one, other))
    assert mine.files == others.files
    for name in mine.files:
        np.testing.assert_array_equal(mine[name], others[name])
    records = [
        [{**r, "seconds": 0} for r in jd.files.read_json_lines(run / "metrics.jsonl")]
        for run in (one, other)
    ]
    assert records[0] == records[1]


def test_what_a_run_leaves(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "config.json",
        "log.txt",
        "metrics.jsonl",
        "tensorboard",
        "genotype.json",
        "network.json",
    }
    assert names >= {"weights.npz", "report.html", "checkpoints", "test.json"}
    assert [
        record["step"] for record in jd.files.read_json_lines(finished_run / "metrics.jsonl")
    ] == [
        EPOCH,
        TOTAL,
    ]
    log = (finished_run / "log.txt").read_text()
    assert "test_acc" in log and f"genotype = {CELL}" in log and "param size = " in log
    assert jd.genotypes.from_json((finished_run / "genotype.json").read_text()) == CELL


def test_every_way_to_name_a_cell(finished_run, tmp_path):
    (tmp_path / "cell.txt").write_text(f"best = {CELL}\n")
    names = [
        str(CELL),
        str(finished_run),
        str(finished_run / "genotype.json"),
        str(tmp_path / "cell.txt"),
    ]
    assert [script.resolve(name) for name in names] == [CELL] * 4
    assert script.resolve("DARTS_V2") == jd.genotypes.DARTS_V2


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--arch=DARTS_V3"], "nearest are DARTS_V"),
        (["--arch=RNN_DARTS_V1"], "recurrent"),
        (
            [f"--arch={CELL._replace(normal=(('sep_conv_3x3', 0), ('sep_conv_3x3', 2)))}"],
            "normal[1]",
        ),
        (
            [f"--arch={TOPOLOGY}", "--auxiliary"],
            "--auxiliary: a network of NAS-Bench-201 has no auxiliary head",
        ),
        (
            [f"--arch={GRAPH}", "--auxiliary"],
            "--auxiliary: a network of NAS-Bench-101 has no auxiliary head",
        ),
        (
            ["--optimizer=rmsprop", "--schedule=linear"],
            "--schedule=linear: --optimizer=rmsprop has the cosine only",
        ),
        (
            [f"--arch={GRAPH}", "--drop_path_prob=0.1"],
            "--drop_path_prob=0.1: the benchmark's network drops nothing",
        ),
        (
            ["--arch=8:8:16:8:8", "--layers=3"],
            "--layers=3: the genotype itself says how wide and deep",
        ),
        (["--arch=8:8:16:8:9"], "--arch=8:8:16:8:9: channels[4] = 9"),
        (["--arch=|nor_conv_3x3~0|+|nor_conv_3x3~0|"], "node 2, '|nor_conv_3x3~0|', has 1 pairs"),
        ([f"--arch={TOPOLOGY}", "--dataset=npz:nowhere", "--layers=0"], "--layers=0"),
        (["--select", "DARTS_V2", TOPOLOGY], "--select: cells of NAS-Bench-201 and others"),
        (["--drop_path_prob=1"], "--drop_path_prob=1.0: must be at least 0 and below 1"),
        (["--epochs=0"], "--epochs=0"),
        (["--batch_size=5000", "--num_devices=1"], "larger than the training set"),
        (["--test_only"], "--checkpoint"),
        (["--test_only", "--checkpoint=/nowhere"], "holds no trained network"),
        (["--select", "nonsense", "--run_dir=SELECT"], "--select=nonsense"),
        (["--preset=imagenett"], "--preset=imagenett: there are digits"),
        (["--stream"], "--stream: digits holds no single images"),
        (["--color_jitter"], "--color_jitter: the images of digits have 1 channels"),
        (["--schedule=linear", "--epochs=5"], "needs more than 5 epochs"),
        (
            ["--schedule=linear", "--epochs=9", "--select_epochs=2", "--select", "DARTS_V1"],
            "needs more than 2 epochs",
        ),
        (["--decay=0"], "--decay=0.0: must be above 0 and at most 1"),
        (["--preset=imagenet", "--image_size=0"], "--image_size=0: must be positive"),
    ],
)
def test_bad_flags_leave_nothing(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, code = stopped(flags)
    assert message in text and code == 2
    assert not (tmp_path / "runs").exists()


def test_no_auxiliary_head_where_the_states_are_too_small(capsys):
    """Images of 8x8 leave 2x2 pixels, and those of 28x28 leave 7x7: the head needs 8."""
    for side, width in ((8, 8), (28, 28), (32, 28)):
        pixels = np.zeros((32, side, width, 1), np.uint8)
        part = images.Images(pixels, np.arange(32, dtype=np.int32) % 2)
        numbers = np.zeros(1, np.float32), np.ones(1, np.float32)
        dataset = images.Dataset("two", part, part, ("a", "b"), *numbers)
        config = script.Config(
            arch="DARTS_V2", auxiliary=True, layers=3, init_channels=4, batch_size=8, num_devices=1
        )
        program = image_program.build(config, jd.genotypes.DARTS_V2, dataset)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("trained without the auxiliary head: ") and "8x8 pixels" in line
        weights = jax.eval_shape(program.init).state.params
        assert "auxiliary_head" not in weights


def test_a_folder_without_a_genotype(tmp_path):
    text, code = stopped([f"--arch={tmp_path}"])
    assert "without genotype.json" in text and code == 2


def test_presets_follow_the_kind_of_cell():
    def start(*arguments):
        config = recipes.parse([*arguments], None)
        return (
            config.init_channels,
            config.layers,
            config.epochs,
            config.batch_size,
            config.auxiliary,
        )

    assert start("--dataset=cifar10") == (36, 20, 600, 96, True)
    assert start("--dataset=cifar10", f"--arch={TOPOLOGY}") == (16, 5, 200, 256, False)
    assert start("--dataset=any", "--select", TOPOLOGY, TOPOLOGY, "--layers=2") == (
        16,
        2,
        200,
        256,
        False,
    )
    assert start(f"--arch={TOPOLOGY}") == start() == (8, 3, 8, 48, False)


def test_a_cell_of_nasbench201(tiny, tmp_path):
    flags = [f"--arch={TOPOLOGY}", *tiny[1:], "--epochs=1", "--drop_path_prob=0.1"]
    script.main([*flags, f"--run_dir={tmp_path}/run"])
    genotype = jd.genotypes.parse(TOPOLOGY)
    assert jd.genotypes.from_json((tmp_path / "run" / "genotype.json").read_text()) == genotype
    log, page = ((tmp_path / "run" / name).read_text() for name in ("log.txt", "report.html"))
    params, _ = jd.network_cost(genotype, 2, 1, 10, (8, 8, 1))
    assert (
        f"param size = {params / 1e6:f}MB" in log
        and f"genotype = {TOPOLOGY}" in log
        and TOPOLOGY in page
    )
    test = images.load("digits").test
    apply, params = jd.load(tmp_path / "run")
    jd.export(tmp_path / "run", tmp_path / "network.bin")
    exported = jd.read_exported(tmp_path / "network.bin")(test.images[:5])
    logits = jax.jit(apply)(params, test.images)
    np.testing.assert_allclose(exported, logits[:5], atol=1e-4)
    predicted = np.argmax(logits, -1)
    accuracy = float(np.mean(predicted == test.labels))
    assert accuracy == pytest.approx(
        json.loads((tmp_path / "run" / "test.json").read_text())["accuracy"][0], abs=1e-6
    )
    # The confusion by its definition, from the network that the run has left.
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (test.labels, predicted), 1)
    saved = json.loads((tmp_path / "run" / "confusion.json").read_text())
    assert saved == {"class_names": list(map(str, range(10))), "counts": [counts.tolist()]}
    assert "Confusion of the classes" in page and "Accuracy of every class" in page


def test_resume_is_exact(finished_run, tiny, tmp_path):
    script.main([*tiny, f"--run_dir={tmp_path}", "--max_steps=40"])
    script.main([f"--resume={tmp_path}", "--max_steps=0"])
    assert_same(tmp_path, finished_run)


@pytest.mark.slow
def test_killed_and_resumed(finished_run, tiny, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py")]
    with subprocess.Popen(
        [*command, *tiny, f"--run_dir={tmp_path}/run"], env=environment, stdout=subprocess.DEVNULL
    ) as child:
        while child.poll() is None and not (tmp_path / "run" / "checkpoints" / str(EPOCH)).exists():
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    script.main([f"--resume={tmp_path}/run"])
    assert_same(tmp_path / "run", finished_run)


def test_seeds_equal_their_own_runs(tiny, tmp_path):
    # After one epoch: what the rounding of two programs makes of the weights grows with every step.
    for seeds in (1, 2):
        script.main([*tiny, "--epochs=1", f"--num_seeds={seeds}", f"--run_dir={tmp_path}/{seeds}"])
    together, alone = (np.load(tmp_path / folder / "weights.npz") for folder in ("2/seed-0", "1"))
    for name in alone.files:
        np.testing.assert_allclose(together[name], alone[name], atol=5e-4)
    assert "over 2 seeds" in (tmp_path / "2" / "log.txt").read_text()


def test_selection_never_sees_the_test_set(tiny, tmp_path, monkeypatch):
    def spoiled(config, read):
        dataset = images.load("digits")
        return dataset._replace(
            test=dataset.test._replace(labels=np.zeros_like(dataset.test.labels))
        )

    pools = str(CELL._replace(normal=(("skip_connect", 0), ("max_pool_3x3", 1))))
    flags = [*tiny[1:], "--select_epochs=1", "--epochs=1", "--select", str(CELL), pools]
    script.main([*flags, f"--run_dir={tmp_path}/honest"])
    monkeypatch.setattr(script.datasets, "load", spoiled)
    script.main([*flags, f"--run_dir={tmp_path}/spoiled"])
    honest, other = (
        json.loads((tmp_path / name / "selection.json").read_text())
        for name in ("honest", "spoiled")
    )
    assert honest == other
    assert set(honest["scores"]) == {str(CELL), pools, "random-0"}
    assert honest["selected"] in (str(CELL), pools)


def test_loaded_exported_and_tested_again(finished_run, tmp_path, capsys):
    test = images.load("digits").test
    apply, params = jd.load(finished_run)
    logits = jax.jit(apply)(params, test.images)
    accuracy = float(np.mean(np.argmax(logits, -1) == test.labels))
    assert accuracy == pytest.approx(
        json.loads((finished_run / "test.json").read_text())["accuracy"][0], abs=1e-6
    )
    jd.export(finished_run, tmp_path / "network.bin")
    exported = jd.read_exported(tmp_path / "network.bin")
    np.testing.assert_allclose(exported(test.images[:5]), logits[:5], atol=1e-4)
    np.testing.assert_allclose(exported(test.images[:3]), logits[:3], atol=1e-4)
    script.main(["--test_only", f"--checkpoint={finished_run}"])
    assert f"test_acc {100 * accuracy:f}" in capsys.readouterr().out


def test_estimate_trains_and_writes_nothing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.main([*tiny, "--estimate"])
    out = capsys.readouterr().out
    params, adds = jd.network_cost(CELL, 2, 1, 10, (8, 8, 1))
    assert (
        f"{params:,}" in out
        and f"{adds:,}" in out
        and f"{EPOCH}, 2 epochs" in out
        and "MB a device" in out
    )
    assert not list(tmp_path.iterdir())


# Images that stream from a disk


def test_presets():
    def parse(*arguments):
        return command_line.parse(list(arguments), recipes.PRESETS, recipes.CIFAR, None)

    imagenet = recipes.PRESETS["imagenet"]
    assert parse("--dataset=imagenet2012") == imagenet
    for arguments in (["--preset=imagenet"], ["--preset", "imagenet", "--dataset", "imagenet2012"]):
        assert parse(*arguments) == dataclasses.replace(imagenet, preset="imagenet")
    assert parse("--dataset=npz:x", "--preset=mnist") == dataclasses.replace(
        recipes.PRESETS["mnist"], dataset="npz:x", preset="mnist"
    )
    assert parse() == recipes.PRESETS["digits"]


def test_rates_of_the_published_schedules():
    imagenet = recipes.PRESETS["imagenet"]
    np.testing.assert_allclose(
        image_program.rates(imagenet)[[0, 1, 249]], 0.1 * 0.97 ** np.array([0, 1, 249])
    )
    later = dataclasses.replace(imagenet, schedule="linear", batch_size=1024, learning_rate=0.5)
    np.testing.assert_allclose(
        image_program.rates(later)[[0, 5, 249]], [0.1, 0.5 * 240 / 245, 0.1 / 245]
    )
    assert image_program.rates(dataclasses.replace(later, batch_size=256))[0] == 0.5


def test_what_a_streamed_run_leaves(streamed, pictures, capsys):
    records = jd.files.read_json_lines(streamed / "metrics.jsonl")
    assert [(record["step"], record["learning_rate"]) for record in records] == [
        (6, 0.1),
        (12, pytest.approx(0.097)),
    ]
    facts = json.loads((streamed / "network.json").read_text())
    assert (
        facts["imagenet"]
        and facts["image_shape"] == [32, 32, 3]
        and facts["class_names"] == ["bright", "dark"]
    )
    params, _ = jd.network_cost(CELL, 2, 1, 2, (32, 32, 3), True)
    assert f"param size = {params / 1e6:f}MB" in (streamed / "log.txt").read_text()
    apply, params = jd.load(streamed)
    dataset = stream.load(f"folder:{pictures}", None, 32)
    accuracy = jd.training.export.accuracy(
        lambda images: jax.jit(apply)(params, images), dataset, 7
    )
    assert accuracy == pytest.approx(
        json.loads((streamed / "test.json").read_text())["accuracy"][0], abs=1e-6
    )
    flags = [
        f"--dataset=folder:{pictures}",
        "--preset=imagenet",
        "--batch_size=4",
    ]  # the run knows the size of its images
    script.main(["--test_only", f"--checkpoint={streamed}", *flags])
    assert f"test_acc {100 * accuracy:f}" in capsys.readouterr().out


@pytest.mark.parametrize("last", [4, 8])
def test_a_streamed_run_that_dies_within_an_epoch(streamed, streaming, tmp_path, monkeypatch, last):
    class Death(BaseException):
        pass

    def save(manager, step, *rest):
        real(manager, step, *rest)
        if step == last:
            raise Death

    real = jd.runs.checkpoint.save
    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(jd.runs.checkpoint, "save", save)
        script.main([*streaming, "--checkpoint_freq=4", f"--run_dir={tmp_path}"])
    assert not (tmp_path / "test.json").exists()
    script.main([f"--resume={tmp_path}"])
    assert_same(tmp_path, streamed)


def test_streamed_seeds_and_devices(streamed, streaming, devices, tmp_path):
    script.main([*streaming, "--num_seeds=2", "--num_devices=2", f"--run_dir={tmp_path}"])
    on_devices, expected = (
        np.load(folder / "weights.npz") for folder in (tmp_path / "seed-0", streamed)
    )
    for name in expected.files:
        np.testing.assert_allclose(
            on_devices[name], expected[name], rtol=5e-4, atol=5e-4
        )  # a variance of the stem is 23


def test_pictures_of_several_sizes_in_memory(tiny, pictures, tmp_path, capsys):
    """A broken one is left out, classes take turns, and the log tells what an accuracy is worth."""
    shutil.copytree(pictures, tmp_path / "pictures")
    broken = tmp_path / "pictures" / "train" / "dark" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:50])
    flags = "--image_size=8 --batch_size=4 --epochs=1 --no-auxiliary --balance_classes --no-flip"
    data = f"--dataset=folder:{tmp_path}/pictures"
    script.main([*tiny, *flags.split(), data, f"--run_dir={tmp_path}/run"])
    assert f"{broken} is no readable image" in capsys.readouterr().err
    facts = json.loads((tmp_path / "run" / "network.json").read_text())
    assert facts["image_shape"] == [8, 8, 3] and "shorter_side" not in facts
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"largest class bright {100 * 4 / 7:f}" in log
    counts = np.array(json.loads((tmp_path / "run" / "confusion.json").read_text())["counts"][0])
    for i, name in enumerate(("bright", "dark")):
        assert f"test_acc of {name} {100 * counts[i, i] / counts[i].sum():f}" in log
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Share of the largest class" in page
    assert not re.search("top.?5", page + log, re.IGNORECASE)  # always right for two classes
    # Analyses see the same pictures.
    run = subjects.open_run(f"{tmp_path}/run")
    subject = subjects.subject(run, planes.Plane(batch_size=7, part="test"))
    capsys.readouterr()
    _, accuracy = subject.mean_loss(subject.point)
    assert subject.batches["image"].shape == (1, 7, 8, 8, 3)
    assert float(accuracy) == pytest.approx(np.trace(counts) / 7)
    # The file for other programs: its size, its speed, and the same mistakes as in the report.
    capsys.readouterr()
    export.main([f"{tmp_path}/run", "--format=onnx", "--repeats=2"])
    shown, file = capsys.readouterr().out, tmp_path / "run" / "network.onnx"
    assert f"wrote {file}, {file.stat().st_size:,} bytes" in shown
    times = re.findall(r"^an image on one core, (ONNX Runtime|JAX) +([\d.]+) ms$", shown, re.M)
    assert [name for name, _ in times] == ["ONNX Runtime", "JAX"]
    assert all(float(milliseconds) > 0 for _, milliseconds in times)
    session = pytest.importorskip("onnxruntime").InferenceSession(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        test = images.load(data.removeprefix("--dataset="), size=8).test
    (logits,) = session.run(None, {"images": test.images})
    expected = np.zeros((2, 2), int)
    np.add.at(expected, (test.labels, logits.argmax(-1)), 1)
    np.testing.assert_array_equal(counts, expected)
    text, code = stopped([*tiny, data, "--image_size=224", f"--run_dir={tmp_path}/other"])
    assert "--image_size=224: pictures of this size are streamed" in text and code == 2


def test_an_image_that_cannot_be_read(streaming, tiny, pictures, tmp_path, capsys, monkeypatch):
    """Streamed or not, a broken picture is left out, and one line names it; one that breaks later
    ends the run.
    """
    shutil.copytree(pictures, tmp_path / "pictures")
    data = f"--dataset=folder:{tmp_path}/pictures"
    broken = tmp_path / "pictures" / "train" / "dark" / "1.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[:-50])
    for flags in ([*streaming, data], [*tiny, data, "--image_size=8"]):
        capsys.readouterr()
        dataset = script.load(recipes.check(recipes.parse(flags, None)))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: skipped a file that is no readable image: {broken}")
        assert (dataset.train.num, dataset.test.num) == (25, 7)
        assert np.bincount(dataset.train.labels).tolist() == [13, 12]
    broken.write_bytes(content)
    load = script.load

    def breaking(config):
        dataset = load(config)
        broken.write_bytes(content[:50])
        return dataset

    monkeypatch.setattr(script, "load", breaking)
    text, code = stopped([*streaming, data, f"--run_dir={tmp_path}/run"])
    assert (
        f"{broken} is no readable image" in text
        and f"--resume={tmp_path}/run" in text
        and code == 1
    )
    monkeypatch.undo()
    text, code = stopped([*streaming, f"--dataset=folder:{tmp_path}/none"])
    assert "none: no such folder" in text


def test_estimate_of_a_stream(streaming, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.main([*streaming, "--estimate"])
    out = capsys.readouterr().out
    assert (
        "6, 2 epochs" in out and f"{jd.network_cost(CELL, 2, 1, 2, (32, 32, 3), True)[1]:,}" in out
    )
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_the_stem(streaming, tmp_path):
    text, code = stopped([*streaming, "--image_size=36", f"--run_dir={tmp_path}/run"])
    assert "images of 36x36: height and width must be even" in text and code == 2


def test_selection_among_streamed_images(streaming, tmp_path):
    flags = ["--select_epochs=1", "--epochs=1", "--random_cells=0", "--select", str(CELL)]
    script.main([*streaming[1:], *flags, f"--run_dir={tmp_path}"])
    assert json.loads((tmp_path / "selection.json").read_text())["selected"] == str(CELL)
    assert (tmp_path / "select-0" / "valid.json").exists() and (tmp_path / "test.json").exists()


def test_rmsprop_of_the_benchmark():
    """Against TensorFlow's definition, step by step: the momentum is of scaled steps, the mean
    squares start from one.
    """
    config = recipes.parse(["--dataset=cifar10", f"--arch={GRAPH}", "--epochs=2"], None)
    settings = (
        config.optimizer,
        config.learning_rate,
        config.weight_decay,
        config.momentum,
        config.batch_size,
    )
    assert settings == ("rmsprop", 0.2, 1e-4, 0.9, 256)
    tx = image_program.OPTIMIZERS[config.optimizer](config, 3)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(5)
    squares, momentum, params = np.ones(5), np.zeros(5), weights
    state = tx.init(jnp.asarray(weights))
    for step in range(6):
        gradient = 100 * rng.standard_normal(5)  # nothing clips it
        updates, state = tx.update(jnp.asarray(gradient), state, jnp.asarray(weights))
        weights = weights + np.asarray(updates)
        decayed = gradient + 1e-4 * params
        squares = 0.9 * squares + 0.1 * decayed**2
        momentum = 0.9 * momentum + 0.1 * (1 + np.cos(np.pi * step / 6)) * decayed / np.sqrt(
            squares + 1
        )
        params = params - momentum
        np.testing.assert_allclose(weights, params, rtol=1e-4)
