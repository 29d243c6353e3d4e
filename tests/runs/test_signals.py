"""Signals: SIGTERM, SIGINT and SIGHUP end every program in the same way: what is finished is saved,
one line tells how to continue, and the exit code is 128 and the number of the signal.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdarts import runs
from jaxdarts.commands import compare, enas, score
from jaxdarts.commands.analyze import ranking
from jaxdarts.commands.discrete import command as discrete
from jaxdarts.commands.ensemble import command as ensemble
from jaxdarts.commands.evaluate import command as evaluate
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import signals

ROOT = Path(__file__).parents[2]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
each_signal = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of a toy."""

    dataset: str = runs.flag("toy", "Data.")
    run_dir: str | None = runs.flag(None, "Folder.", free=True)
    resume: str | None = runs.flag(None, "Folder of a run.", free=True)
    keep_checkpoints: int = runs.flag(0, "Number of checkpoints.", free=True)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(5)  # Python looks for signals here
    raise AssertionError("no signal came")


@each_signal
def test_a_study_ends_in_one_line(number, tmp_path):
    folder, before = tmp_path / "a run", [signal.getsignal(one) for one in NUMBERS]
    with (
        pytest.raises(runs.Stop) as caught,
        runs.open_study(Config(run_dir=str(folder)), "toy"),
    ):
        send(number)
    assert str(caught.value) == (
        f"{number.name}: what is finished is saved; continue with --resume='{folder}'"
    )
    assert caught.value.code == 128 + number
    assert [signal.getsignal(one) for one in NUMBERS] == before
    assert f"{number.name}: leaving; once more ends at once" in (folder / "log.txt").read_text()


@each_signal
def test_a_training_is_asked(number, tmp_path):
    with runs.open_run(Config(run_dir=str(tmp_path / "run")), "toy") as run:
        run.asked.stepped.set()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not run.asked.leaving(True) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run.asked.leaving(True) == number
        stop = run.leave(number, 3, 9)
    assert str(stop).endswith(f"saved; continue with --resume={tmp_path / 'run'}")
    assert stop.code == 128 + number


def work(number):
    """What stands for the work of a program: the signal comes in the middle of it."""

    def work(*arguments):
        (run,) = [one for one in arguments if isinstance(one, runs.Run)] or [None]
        if run is None:
            send(number)
        run.asked.stepped.set()
        os.kill(os.getpid(), number)
        time.sleep(0.2)  # the listener is a thread
        raise run.leave(run.asked.leaving(True), 1, 2)

    return work


PROGRAMS = {
    # program: (main, flags, module and name of the function that does the work)
    "score": (score.main, "--count=2", (score, "score")),
    "discrete": (
        discrete.main,
        "--evaluate=proxy --space=nasbench201 --dataset=digits --budget_evaluations=2",
        (discrete, "search"),
    ),
    "ranking": (ranking.main, "", (ranking, "train")),
    "ensemble": (ensemble.main, "--ensemble=DARTS_V1,DARTS_V2 --layers=2", (ensemble, "measured")),
    "enas": (enas.main, "", (enas, "search")),
    "search": (image_search.main, "--num_devices=1 --layers=1", (image_search, "search")),
    "evaluate": (
        evaluate.main,
        "--arch=DARTS_V2 --num_devices=1 --layers=1",
        (image_evaluation, "train"),
    ),
}


@each_signal
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_ends_alike(program, number, tmp_path, monkeypatch):
    """The work itself is replaced; nothing is compiled."""
    main, words, (module, name) = PROGRAMS[program]
    monkeypatch.setattr(module, "build", lambda *arguments: None, raising=False)
    monkeypatch.setattr(module, name, work(number))
    with pytest.raises(runs.Stop) as caught:
        main([*words.split(), f"--run_dir={tmp_path / 'a run'}"])
    assert str(caught.value).startswith(f"{number.name}")
    way = shlex.quote(str(tmp_path / "a run"))
    assert str(caught.value).endswith(f"saved; continue with --resume={way}")
    assert caught.value.code == 128 + number


@each_signal
def test_the_short_trainings_of_select(number, tmp_path, monkeypatch):
    """The run has no folder to resume yet: the same command goes on with what is there."""
    monkeypatch.setattr(image_evaluation, "build", lambda *arguments: None)
    monkeypatch.setattr(image_evaluation, "train", work(number))
    words = ["--select", "DARTS_V1", "DARTS_V2", "--num_devices=1", "--layers=1"]
    with pytest.raises(runs.Stop) as caught:
        evaluate.main([*words, f"--run_dir={tmp_path / 'a run'}"])
    assert str(caught.value) == (
        f"{number.name} at step 1 of 2: saved; continue with the same command and"
        f" --run_dir='{tmp_path / 'a run'}'"
    )
    assert caught.value.code == 128 + number
    assert (tmp_path / "a run" / "select-0" / "config.json").exists()
    with pytest.raises(runs.Stop, match="at step 1 of 2: saved"):  # it does go on
        evaluate.main([*words, f"--run_dir={tmp_path / 'a run'}"])


@each_signal
@pytest.mark.parametrize("between", [True, False])
def test_a_comparison(between, number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_search, "build", lambda *arguments: None)
    monkeypatch.setattr(image_search, "search", work(number))
    if between:

        def searched(row):
            raise signals.Interrupted(number)

        monkeypatch.setattr(compare, "searched", searched)
    with pytest.raises(runs.Stop) as caught:
        compare.main(["darts", f"--run_dir={tmp_path / 'a run'}", "--", "--num_devices=1"])
    assert str(caught.value).startswith(number.name)
    assert str(caught.value).endswith("the same command continues it")
    assert caught.value.code == 128 + number


SCRIPT = """
import os, signal, sys, time
from jaxdarts.runs import process, signals

def main(arguments):
    number = getattr(signal, arguments[0])
    if arguments[1] == "early":
        os.kill(os.getpid(), number)
    else:
        with signals.interrupting("go on", __import__("logging").getLogger()):
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except KeyboardInterrupt:
                os.kill(os.getpid(), number)
    time.sleep(5)
    print("still here")

process.start(main)
"""


@pytest.mark.parametrize(
    "name, when, line",
    [
        ("SIGTERM", "early", "SIGTERM: ended before there was anything to save"),
        ("SIGHUP", "early", "SIGHUP: ended before there was anything to save"),
        ("SIGTERM", "twice", "SIGTERM: ended at once; go on"),
    ],
)
def test_a_process(name, when, line, tmp_path):
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), name, when],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (128 + getattr(signal, name), "")
    assert done.stderr.splitlines()[-1] == f"toy.py: {line}"


def test_a_closed_terminal_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signals.obeyed() == (signal.SIGTERM, signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signals.obeyed() == NUMBERS
