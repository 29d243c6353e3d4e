"""The search script: flags, run folder, interruptions of every kind, bad input, seeds, devices."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import jaxdarts as jd
from jaxdarts import limits
from jaxdarts.commands import command_line, latencies
from jaxdarts.commands.search import image_program, summary
from jaxdarts.commands.search import images as script
from jaxdarts.runs import Stop
from tests.commands.test_measure import content_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "search.py"

EPOCH, TOTAL = 22, 44  # steps: 718 of the digits in batches of 32, two epochs
TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect sep_conv_3x3 --init_channels=2 --no-unrolled"
    " --epochs=2".split()
)


@pytest.fixture(scope="session")
def tiny():
    """Flags of a search that takes seconds; this process and its children share the suite's
    compiled programs.
    """
    return [*TINY, "--num_devices=1", f"--cache_dir={jax.config.jax_compilation_cache_dir}"]


@pytest.fixture(scope="session")
def tinier(tiny):
    """The same without the convolution, for what has to be compiled anew."""
    return [flag for flag in tiny if flag != "sep_conv_3x3"]


@pytest.fixture(scope="session")
def finished_run(tiny, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    script.main([*tiny, f"--run_dir={folder}"])
    return folder


def plain(leaf):
    """An array that NumPy can compare; random keys become their bits."""
    return np.asarray(
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
    )


def results(folder):
    """What interruptions must not change: records but for their seconds, mixes, genotype, the last
    checkpoint.
    """
    records = jd.files.read_json_lines(folder / "metrics.jsonl")
    for record in records:
        assert record.pop("seconds") >= 0
    with np.load(folder / "alphas.npz") as saved:
        alphas = {name: saved[name] for name in saved.files}
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        saved = checkpoints.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )["state"]
    saved.pop("seconds")
    leaves = {
        jax.tree_util.keystr(path): plain(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }
    return records, alphas, (folder / "genotype.json").read_text(), step, leaves


def assert_same(folder, other):
    (records, alphas, genotype, step, leaves), expected = results(folder), results(other)
    assert records == expected[0]
    assert alphas["step"].tolist() == [record["step"] for record in records]
    for actual, wanted in ((alphas, expected[1]), (leaves, expected[4])):
        assert actual.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(actual[name], wanted[name], err_msg=name)
    assert (genotype, step) == expected[2:4]


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def stopped(arguments) -> tuple[str, int]:
    """The line that a run ends with, and its exit code."""
    with pytest.raises(script.Stop) as caught:
        script.main(arguments)
    message = str(caught.value)
    assert message and "\n" not in message and "Traceback" not in message
    return message, caught.value.code


# What a run leaves behind


def test_run_folder(finished_run):
    names = (
        "config.json log.txt metrics.jsonl tensorboard alphas.npz genotype.json normal.svg"
        " reduce.svg report.html"
    )
    for name in [*names.split(), "checkpoints/22", "checkpoints/44"]:
        assert (finished_run / name).exists(), name
    assert not list(finished_run.rglob("*tmp*"))
    config = json.loads((finished_run / "config.json").read_text())
    assert config["init_channels"] == 2 and config["batch_size"] == 32 and "resume" not in config
    records, alphas, genotype, step, _ = results(finished_run)
    assert [(record["step"], record["epoch"]) for record in records] == [(EPOCH, 0), (TOTAL, 1)]
    assert step == TOTAL
    assert alphas["normal"].shape == (2, 2, 3)
    np.testing.assert_allclose(alphas["normal"].sum(-1), 1, rtol=1e-6)
    space = jd.spaces.darts(1, ("none", "skip_connect", "sep_conv_3x3"))
    assert jd.genotypes.from_json(genotype) == space.discretize(
        {k: v[-1] for k, v in alphas.items() if k != "step"}
    )
    assert "Wall time" in (finished_run / "report.html").read_text()


def test_log_speaks_the_classic_dialect(finished_run):
    log = (finished_run / "log.txt").read_text()
    for pattern in (
        r"args = Namespace\(.*dataset='digits', ",
        r"param size = 0\.\d{6}MB",
        r"epoch 1 lr 5\.050000e-02",
        r"train 009 \d\.\d{6}e\+00 \d+\.\d{6} \d+\.\d{6}",
        r"train_acc \d+\.\d{6}",
        r"valid_acc \d+\.\d{6}",
        r"genotype = Genotype\(normal=\[\(",
        r"compiling the step, which can take minutes; the next start reads /",
        r"the first step took \d+\.\d s",
    ):
        assert re.search(rf"^\d\d/\d\d \d\d:\d\d:\d\d [AP]M {pattern}", log, re.M), pattern


@pytest.mark.parametrize("flags", [["--unrolled"], ["--dtype=bfloat16", "--cutout", "--remat"]])
def test_options_that_change_the_computation(tinier, tmp_path, flags):
    script.main([*tinier, *flags, "--max_steps=2", "--checkpoint_freq=1", f"--run_dir={tmp_path}"])
    assert [record["step"] for record in jd.files.read_json_lines(tmp_path / "metrics.jsonl")] == [
        2
    ]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}
    assert "--max_steps=2 of 44 steps are done" in (tmp_path / "log.txt").read_text()


def test_estimate_trains_and_writes_nothing(tinier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script.main([*tinier, "--estimate", "--remat"])
    out = capsys.readouterr().out
    for text in (
        "parameters of the supernet   \\d+\n",
        "steps an epoch               22",
        "MB a device",
        "--remat saves",
    ):
        assert re.search(text, out), text
    assert not list(tmp_path.iterdir())


# Flags


@pytest.mark.parametrize("dataset, epochs", [("digits", "10"), ("cifar10", "50")])
def test_help_explains_every_flag_and_shows_the_preset(capsys, dataset, epochs):
    with pytest.raises(SystemExit) as caught:
        script.main([f"--dataset={dataset}", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(script.Config):
        assert f"--{field.name}" in text
    assert f"Passes over the images that train the weights. (default: {epochs})" in text


def test_help_from_the_shell():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dataset", "cifar10", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "") and "(default: cifar10)" in " ".join(
        done.stdout.replace("│", "").split()
    )


def test_both_spellings_of_a_flag():
    def parse(arguments):
        return command_line.parse(arguments, script.PRESETS, script.CIFAR, None)

    expected = dataclasses.replace(
        script.PRESETS["mnist"], init_channels=3, ops=("none", "skip_connect")
    )
    for arguments in (
        ["--dataset=mnist", "--init_channels=3", "--ops", "none", "skip_connect"],
        ["--dataset", "mnist", "--init-channels", "3", "--ops", "none", "skip_connect"],
    ):
        assert parse(arguments) == expected
    assert parse(["--dataset=npz:x"]) == dataclasses.replace(script.CIFAR, dataset="npz:x")


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--epochs=0", "--epochs=0: must be positive"),
        ("--learning_rate=nan", "--learning_rate=nan: must be positive"),
        ("--max_steps=-1", "--max_steps=-1: must not be negative"),
        ("--seed=-1", "--seed=-1: must not be negative"),
        ("--seed=2147483648", "--seed=2147483648: must be at most 2147483647"),
        ("--train_portion=1.1", "--train_portion=1.1: must be above 0 and at most 1"),
        ("--train_portion=0.0001", "leaves a part empty"),
        ("--num_devices=99", "--num_devices=99: this machine has"),
        (
            "--batch_size=720",
            (
                "--batch_size=720: larger than a part of the training set (718 images for the"
                " weights, 719"
            ),
        ),
        ("--ops none no_such_op", "no_such_op"),
        ("--ops none", "more than none"),
        ("--dataset=npz:/nowhere/x.npz", "no such file"),
        ("--dataset=no_such_set", "unknown data set 'no_such_set'"),
        ("--dataset=", "--dataset="),
        ("--resume=/nowhere", "--resume=/nowhere: not the folder of a run"),
    ],
)
def test_bad_flags_end_in_one_line_before_anything_is_written(tmp_path, flags, message):
    text, code = stopped([*flags.split(), f"--run_dir={tmp_path}/run"])
    assert message in text and code != 0
    assert not list(tmp_path.iterdir())


def test_a_batch_that_does_not_divide_over_the_devices(devices):
    assert stopped(["--batch_size=30", "--num_devices=4"]) == (
        "--batch_size=30: does not divide over 4 devices",
        2,
    )


@pytest.mark.parametrize("flag", ["--epochs=many", "--no_such_flag=1"])
def test_flags_that_tyro_refuses(flag):
    with pytest.raises(script.Stop) as caught:
        script.main([flag])
    assert caught.value.code == 2 and flag.split("=")[0] in str(caught.value)


# Files


def test_odd_images_at_a_reduction(tmp_path):
    images, labels = np.zeros((64, 10, 10, 1), np.uint8), np.arange(64) % 3
    np.savez(
        tmp_path / "odd.npz",
        images_train=images,
        labels_train=labels,
        images_test=images,
        labels_test=labels,
    )
    text, code = stopped(
        [f"--dataset=npz:{tmp_path}/odd.npz", "--batch_size=4", f"--run_dir={tmp_path}/run"]
    )
    assert text == (
        f"--dataset=npz:{tmp_path}/odd.npz: images of 10x10: height and width must be even before"
        " every reduction of the network; the next size is 12x12"
    )
    assert code == 2
    assert not (tmp_path / "run").exists()


def pictures(folder, *sides):
    """A folder of pictures, 8 of each class and side."""
    for name in ("one", "two"):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "test" / name).mkdir(parents=True)
        for i, side in enumerate(sides * 8):
            picture = Image.fromarray(np.full((side, side + 2), 9 * i, np.uint8))
            for part in ("train", "test"):
                picture.save(folder / part / name / f"{i}.png")
    return f"--dataset=folder:{folder}"


def test_pictures_of_several_sizes(tmp_path, monkeypatch):
    data, run = pictures(tmp_path / "data", 10, 14), f"--run_dir={tmp_path / 'run'}"
    text, code = stopped([data, "--batch_size=4", run])
    assert text.endswith("or be resized and cut to N x N: --image_size=N") and code == 1
    text, code = stopped([data, "--batch_size=4", "--image_size=10", run])
    assert text.endswith("the next size is 12x12: --image_size=12") and code == 2
    built = []
    monkeypatch.setattr(script, "search", lambda config, *rest: built.append((config, *rest)))
    script.main([data, "--batch_size=4", "--image_size=12", run])
    (config, dataset, program, _), *_ = built
    assert dataset.train.images.shape[1:] == (12, 12, 1)
    assert program.data["train"]["image"].shape == (16, 12, 12, 1)
    script.main([f"--resume={tmp_path / 'run'}"])
    assert built[1][0].image_size == 12 and built[1][1].train.images.shape[1:] == (12, 12, 1)
    command = summary.next_command(config, Path("x"))
    assert command.endswith(" --image_size=12") and "--stream" not in command


def test_a_folder_that_holds_a_run_is_left_alone(finished_run, tiny):
    before = contents(finished_run)
    text, code = stopped([*tiny, f"--run_dir={finished_run}"])
    assert f"holds a run; continue it with --resume={finished_run}" in text and code == 2
    assert contents(finished_run) == before


def test_a_folder_that_cannot_be_made(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    text, code = stopped([*tiny, f"--run_dir={tmp_path}/file/run"])
    assert "cannot write there" in text and code == 1


def test_resume_with_another_configuration(finished_run, tiny):
    before = contents(finished_run)
    text, code = stopped([f"--resume={finished_run}", "--init_channels=4"])
    assert (
        text == f"--resume={finished_run}: the run has init_channels=2, not 4; leave the flag out"
        and code == 2
    )
    assert contents(finished_run) == before


@pytest.mark.parametrize("change", ["{", "[]", '{"ops": ["none"], "no_such_setting": 1}', None])
def test_resume_of_a_folder_without_a_usable_configuration(tmp_path, change):
    if change is not None:
        (tmp_path / "config.json").write_text(change)
    text, code = stopped([f"--resume={tmp_path}"])
    assert "not the folder of a run" in text and code == 2


def test_a_checkpoint_of_another_configuration(finished_run, tmp_path):
    run = copy(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"momentum": 0.5}))
    before = {path: data for path, data in contents(run).items() if path.name != "log.txt"}
    text, code = stopped([f"--resume={run}"])
    assert "was written with momentum=0.9, this run has momentum=0.5" in text and code == 2
    assert "older" not in text
    assert {path: data for path, data in contents(run).items() if path.name != "log.txt"} == before


def test_a_loss_that_is_no_number_is_never_saved(tinier, tmp_path):
    text, code = stopped(
        [*tinier, "--learning_rate=1e20", "--checkpoint_freq=3", f"--run_dir={tmp_path}"]
    )
    assert "is not finite at step" in text and "--learning_rate" in text and code == 1
    assert not (tmp_path / "metrics.jsonl").read_text()
    for path in (tmp_path / "checkpoints").iterdir():
        assert int(path.name) < int(text.split("at step ")[1].split(":")[0])


# Interruptions: each ends, after --resume, in the very result of the run that nothing interrupted


class Killed(BaseException):
    """Stands for a death between two lines of the script."""


def copy(source, target):
    shutil.copytree(source, target)
    return target


def on_call(monkeypatch, owner, name, number, action):
    """Does something just before the `number`-th call of a function; that call then goes through,
    unless it raised.
    """
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, replacement)


def die():
    raise Killed


def test_resume_of_a_finished_run_only_writes_the_report(finished_run, tmp_path):
    run = copy(finished_run, tmp_path / "run")
    (run / "report.html").unlink()
    script.main([f"--resume={run}"])
    assert (
        "resumed at step 44: nothing is left to do but the report" in (run / "log.txt").read_text()
    )
    assert (run / "report.html").exists()
    assert_same(run, finished_run)


@pytest.mark.parametrize("steps", [5, 30])
def test_max_steps_then_on(finished_run, tiny, tmp_path, steps):
    script.main([*tiny, f"--max_steps={steps}", f"--run_dir={tmp_path}"])
    assert (tmp_path / "report.html").exists()
    assert [record["step"] for record in results(tmp_path)[0]] == sorted({min(steps, EPOCH), steps})
    script.main([f"--resume={tmp_path}", "--max_steps=0"])
    assert_same(tmp_path, finished_run)


@pytest.mark.parametrize(
    "owner, name, number",
    [
        ("checkpoint", "save", 1),  # before the first checkpoint: from the beginning
        ("checkpoint", "save", 2),  # in the middle of the second epoch
        ("checkpoint", "save", 5),  # after the first epoch's record
        ("records", "write", 2),  # after the second epoch's alphas, before its record
    ],
)
def test_death_between_two_writes(finished_run, tiny, tmp_path, monkeypatch, owner, name, number):
    with monkeypatch.context() as patch:
        on_call(
            patch,
            {"checkpoint": jd.runs.checkpoint, "records": script.runs.Records}[owner],
            name,
            number,
            die,
        )
        with pytest.raises(Killed):
            script.main([*tiny, "--checkpoint_freq=5", f"--run_dir={tmp_path}"])
    script.main([f"--resume={tmp_path}"])
    assert_same(tmp_path, finished_run)


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("number, step", [(1, 11), (2, 21), (3, 22)])
def test_signals_save_and_leave(
    finished_run, tiny, tmp_path, monkeypatch, sent, code, number, step
):
    def send():
        os.kill(os.getpid(), sent)
        time.sleep(0.2)  # the listener is a thread

    if sent == signal.SIGINT and number != 1:
        pytest.skip("one of the two signals will do")
    with monkeypatch.context() as patch:
        # The bar is written after steps 10, 20 and 22, the epoch's last.
        patch.setattr(script.runs.loop.time, "monotonic", lambda: 0.0)
        on_call(patch, script, "averages", number, send)
        text, actual = stopped([*tiny, "--report_freq=10", f"--run_dir={tmp_path}"])
    assert (
        text == f"{sent.name} at step {step} of 44: saved; continue with --resume={tmp_path}"
        and actual == code
    )
    script.main([f"--resume={tmp_path}"])
    assert_same(tmp_path, finished_run)


def test_lost_alphas_are_told_and_start_anew(finished_run, tmp_path):
    run = copy(finished_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "44")  # back to the first epoch
    path = run / "alphas.npz"
    path.write_bytes(path.read_bytes()[:50])
    script.main([f"--resume={run}", "--max_steps=23"])
    assert "alphas.npz starts anew" in (run / "log.txt").read_text()
    assert results(run)[1]["step"].tolist() == [22, 23]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", None])
def test_files_of_a_finished_search_that_are_damaged(finished_run, tmp_path, content):
    """Their last entries follow from the checkpoint, and are made again."""
    run = copy(finished_run, tmp_path / "run")
    names = ("alphas.npz", "sizes.json", "genotype.json", "space.json", "facts.json")
    for name in names if content is None else (*names, "metrics.jsonl"):
        (run / name).unlink() if content is None else (run / name).write_bytes(content)
    if content:  # no record of a killed process either, but all of it
        (run / "metrics.jsonl").write_bytes(b"")
    script.main([f"--resume={run}"])
    for name in ("genotype.json", "space.json"):
        assert (run / name).read_bytes() == (finished_run / name).read_bytes()
    with np.load(run / "alphas.npz") as made, np.load(finished_run / "alphas.npz") as expected:
        assert sorted(made) == sorted(expected)
        for array in made:
            np.testing.assert_array_equal(made[array], expected[array][1:])
    (size,) = json.loads((run / "sizes.json").read_text()).values()
    records, expected = (
        [{**r, "seconds": 0} for r in jd.files.read_json_lines(one / "metrics.jsonl")]
        for one in (run, finished_run)
    )
    assert records == (expected if content is None else expected[1:])
    assert (size["epoch"], size["valid_accuracy"]) == (1, expected[1]["valid_accuracy"])
    assert "alphas.npz starts anew" in (run / "log.txt").read_text()


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **more}


def start(*arguments, **more):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env=environment(**more),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def kill(process):
    process.kill()
    process.communicate()


def wait_for(process, condition, seconds=120):
    """Polls until the condition holds; the process may end first."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_and_resumed_again_and_again(finished_run, tiny, tmp_path):
    log, checkpoints = tmp_path / "log.txt", tmp_path / "checkpoints"

    def half_saved():
        return list(checkpoints.glob("*.orbax-checkpoint-tmp"))

    def logged(text, count):
        return lambda: log.exists() and log.read_text().count(text) >= count

    # Its own cache: an entry that is cut off in the middle would stay so.
    process = start(
        *tiny[:-1], f"--cache_dir={tmp_path}/cache", "--checkpoint_freq=1", f"--run_dir={tmp_path}"
    )
    wait_for(process, logged("compiling", 1))
    kill(process)
    assert not checkpoints.exists() or not half_saved()
    torn = 0
    for _ in range(4):  # the save may win the race
        process = start(f"--resume={tmp_path}", tiny[-1], "--checkpoint_freq=1")
        wait_for(
            process,
            lambda: (
                half_saved()
                and (checkpoints / "3").exists()
                or len(list(checkpoints.glob("*"))) > 2
            ),
        )
        kill(process)
        torn += bool(half_saved())
        if torn:
            break
    assert torn
    process = start(f"--resume={tmp_path}", tiny[-1], "--checkpoint_freq=2")
    wait_for(process, logged("train_acc", 1))
    time.sleep(np.random.default_rng(os.getpid()).uniform(0, 0.5))
    kill(process)
    script.main([f"--resume={tmp_path}", tiny[-1]])
    assert not half_saved()
    assert_same(tmp_path, finished_run)


def test_sigterm_while_compiling_ends_at_once(finished_run, tiny, tmp_path):
    flags = [*tiny[:-1], f"--cache_dir={tmp_path}/cache"]  # an empty one
    process = start(*flags, f"--run_dir={tmp_path}/run")
    log = tmp_path / "run" / "log.txt"
    wait_for(process, lambda: log.exists() and "compiling" in log.read_text())
    process.terminate()
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 143
    assert errors == f"search.py: SIGTERM: ended at once; continue with --resume={tmp_path}/run\n"
    script.main([f"--resume={tmp_path}/run", tiny[-1]])
    assert_same(tmp_path / "run", finished_run)


# A full disk


def test_no_space_for_the_records(finished_run, tiny, tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        on_call(patch, np, "savez", 2, full)
        text, code = stopped([*tiny, f"--run_dir={tmp_path}"])
    assert "No space left on device" in text and f"--resume={tmp_path}" in text and code == 1
    assert not list(tmp_path.rglob("*tmp*"))
    script.main([f"--resume={tmp_path}"])
    assert_same(tmp_path, finished_run)


@pytest.mark.parametrize("number, lost", [(2, "checkpoint"), (3, "record")])
def test_a_full_disk(finished_run, tiny, tmp_path, monkeypatch, capfd, number, lost):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system to fill: {mounted.stderr.strip()}")
    filler = tmp_path / "filler"

    def fill():
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass

    try:
        with monkeypatch.context() as patch:
            patch.setattr(script.runs.loop.time, "monotonic", lambda: 0.0)
            on_call(
                patch, script, "averages", number, fill
            )  # after step 20, or after the epoch's last step
            flags = ["--report_freq=10", "--checkpoint_freq=7", f"--run_dir={tmp_path}/run"]
            text, code = stopped([*tiny, *flags])
        assert f"--resume={tmp_path}/run" in text and code == 1
        assert ("disk is full" if lost == "checkpoint" else "No space left") in text, text
        assert "Traceback" not in capfd.readouterr().err
        filler.unlink()
        script.main([f"--resume={tmp_path}/run"])
        assert_same(tmp_path / "run", finished_run)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


# Seeds and devices


@pytest.fixture(scope="session")
def three_steps(tiny, tmp_path_factory):
    """Runs of three steps, by seed."""
    folders = {}
    for seed in (2, 3):
        folders[seed] = tmp_path_factory.mktemp("seed") / "run"
        script.main([*tiny, f"--seed={seed}", "--max_steps=3", f"--run_dir={folders[seed]}"])
    return folders


def assert_close(folder, other, tolerance):
    (records, alphas, genotype, *_), expected = results(folder), results(other)
    assert genotype == expected[2]
    for name in ("normal", "reduce"):
        np.testing.assert_allclose(alphas[name], expected[1][name], atol=tolerance)
    for name in ("train_loss", "valid_loss"):
        assert records[-1][name] == pytest.approx(expected[0][-1][name], abs=tolerance)


def test_seeds_in_one_program_equal_their_own_runs(three_steps, tiny, tmp_path):
    script.main([*tiny, "--num_seeds=2", "--max_steps=3", f"--run_dir={tmp_path}"])
    for seed, folder in three_steps.items():
        records, alphas, genotype, *_ = results(folder)
        seed_folder = tmp_path / f"seed-{seed}"
        assert (seed_folder / "genotype.json").read_text() == genotype
        assert (seed_folder / "report.html").exists() and (seed_folder / "normal.svg").exists()
        with np.load(seed_folder / "alphas.npz") as saved:
            for name in ("normal", "reduce"):
                np.testing.assert_allclose(saved[name], alphas[name], atol=1e-5)
        actual = jd.files.read_json_lines(seed_folder / "metrics.jsonl")[-1]
        assert actual["train_loss"] == pytest.approx(records[-1]["train_loss"], abs=1e-5)
    losses = {
        seed: json.loads((tmp_path / f"seed-{seed}" / "facts.json").read_text())
        for seed in three_steps
    }
    best = min(losses, key=lambda seed: losses[seed]["found_cell_supernet_loss"])
    assert (tmp_path / "genotype.json").read_text() == (
        tmp_path / f"seed-{best}" / "genotype.json"
    ).read_text()
    assert not np.allclose(
        results(three_steps[2])[1]["normal"], results(three_steps[3])[1]["normal"], atol=1e-5
    )


def test_four_devices_equal_one(three_steps, tiny, tmp_path, devices):
    script.main([*tiny, "--max_steps=3", "--num_devices=4", f"--run_dir={tmp_path}"])
    assert_close(tmp_path, three_steps[2], 1e-4)


def test_limits_of_the_network_that_is_trained(tmp_path, capsys):
    """A finished search gets limits: its cell is another one, under them at the size given."""
    folder = tmp_path / "run"
    cache = f"--cache_dir={jax.config.jax_compilation_cache_dir}"
    ops = "--ops none skip_connect sep_conv_3x3".split()
    flags = ["--layers=1", "--nodes=1", *ops, "--init_channels=2", "--epochs=1", "--max_steps=2"]
    script.main([*flags, "--no-unrolled", "--num_devices=1", cache, f"--run_dir={folder}"])
    with pytest.raises(Stop, match="--max_parameters=0.0001: the smallest network of 4 channels"):
        script.main([f"--resume={folder}", "--max_parameters=0.0001", "--trained_channels=4"])
    sizes = {}
    for limit in (1.0, 0.0025, 0.0016):
        extra = [f"--max_parameters={limit}", "--trained_channels=4", "--trained_layers=3"]
        script.main([f"--resume={folder}", *extra, "--max_multiply_adds=1"])
        facts = json.loads((folder / "facts.json").read_text())
        cell = jd.genotypes.from_json((folder / "genotype.json").read_text())
        sizes[limit] = jd.count.network_cost(cell, 4, 3, 10, (8, 8, 1))
        assert facts["trained_parameters"] == sizes[limit][0] <= 1e6 * limit
    assert sizes[1.0][0] >= sizes[0.0025][0] >= sizes[0.0016][0] == 1566  # skips everywhere
    table, searched = tmp_path / "latency.json", jd.spaces.darts(1, tuple(ops[1:]))
    table.write_text(json.dumps(content_of(searched, 4, 3, (8, 8, 1))))
    known = latencies.of_table(latencies.read(str(table)), searched)
    least = limits.least(searched.cells, known) / 1e6
    extra = [f"--resume={folder}", f"--latency_table={table}", "--trained_channels=4"]
    extra += ["--trained_layers=3", "--max_parameters=1", "--max_multiply_adds=1"]
    with pytest.raises(Stop, match="--max_latency_ms=0.01: .* has a latency of .* ms; lower"):
        script.main([*extra, "--max_latency_ms=0.01"])
    script.main([*extra, f"--max_latency_ms={1.01 * least}", "--front=3"])
    facts = json.loads((folder / "facts.json").read_text())
    cell = jd.genotypes.from_json((folder / "genotype.json").read_text())
    assert facts["latency_ms"] == pytest.approx(latencies.of_genotype(known, searched, cell))
    assert least <= facts["latency_ms"] <= 1.01 * least
    front = json.loads((folder / "analysis" / "front.json").read_text())["numbers"]["cells"]
    assert min(one["latency_ms"] for one in front) == pytest.approx(least)
    assert len(front) == len({one["genotype"] for one in front}) > 1
    assert any(one["on_the_front"] for one in front)
    report = (folder / "report.html").read_text()
    assert "Accuracy against size and latency" in report and "by the table" in report
    printed = capsys.readouterr().out
    assert "the strongest cell is larger" in printed and "--init_channels=4 --layers=3" in printed
    with pytest.raises(
        Stop, match="--max_parameters=1 --derive=samples|--max_parameters=1.0 --der"
    ):
        script.main([*flags, "--max_parameters=1", "--derive=samples", f"--run_dir={tmp_path}/x"])


def test_classes_take_turns_in_both_halves():
    """A rare class comes as often as a common one, to the weights and to alpha alike."""
    labels = np.array([0] * 9 + [1] * 3), np.array([0] * 8 + [1] * 2 + [2] * 2)
    config = script.Config(balance_classes=True, batch_size=6, num_seeds=2)
    order = image_program.epoch_order(config, labels, jax.devices()[:1], 3)
    for of_part, numbers in zip(labels, (order.train, order.val), strict=True):
        assert numbers.shape == (1, 2, 2, 6)
        for seed in np.asarray(numbers).reshape(2, -1):
            counts = np.bincount(of_part[seed])
            assert counts.max() - counts.min() <= 1, counts
    assert (order.train[0, 0] != order.train[0, 1]).any()
