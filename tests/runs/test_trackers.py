"""Trackers get every step once, whatever interrupts a run.

Oracles: a stand-in for wandb that takes calls down; Trackio's own database, where it is installed.
"""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxdarts import runs
from jaxdarts.commands import checks
from jaxdarts.commands.search import images
from jaxdarts.runs import Stop, trackers

ROOT = Path(__file__).parents[2]


class Wandb(types.ModuleType):
    """What we call of wandb: runs by id, and the keywords of every `init`."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.started, self.finished = {}, [], 0

    def init(self, **names):
        self.started.append(names)
        steps = self.runs.setdefault(names["id"], [])

        def log(values, step):
            assert not steps or step > steps[-1][0]
            steps.append((step, values))

        def finish():
            self.finished += 1

        return types.SimpleNamespace(log=log, finish=finish)


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_resumed_run_goes_on_in_its_tracker_without_a_doubled_step(tmp_path, wandb):
    records = runs.Records(tmp_path / "run", 0, "wandb", {"epochs": 3})
    for step in (2, 4, 6):
        records.write(step, {"epoch": step // 2, "loss": 1 / step})
    # The process dies here; its newest checkpoint is that of step 4.
    records.writer.close()
    records = runs.Records(tmp_path / "run", 4, "wandb", {"epochs": 3})
    records.write(6, {"epoch": 3, "loss": 1 / 6})
    records.write(8, {"epoch": 4, "loss": 1 / 8})
    records.close()
    records.close()
    (steps,) = wandb.runs.values()
    assert [(step, values["epoch"]) for step, values in steps] == [(2, 1), (4, 2), (6, 3), (8, 4)]
    assert [record["step"] for record in records.all] == [2, 4, 6, 8] and wandb.finished == 2
    one, other = wandb.started
    assert one == other and one["resume"] == "allow" and one["config"] == {"epochs": 3}
    assert (one["project"], one["name"], one["group"]) == ("jaxdarts", "run", None)
    assert one["dir"] == str(tmp_path / "run")


def test_a_tracker_that_comes_later_gets_all_steps(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    records = runs.Records(tmp_path, 0, "none")
    records.write(1, {"loss": 0.5})
    records.write(2, {"loss": float("nan")})  # null in metrics.jsonl
    records.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    runs.Records(tmp_path, 2, "wandb").close()
    assert list(wandb.runs.values()) == [[(1, {"loss": 0.5}), (2, {})]]
    assert wandb.started[0]["project"] == "mine"


def test_tensorboard_is_the_default(tmp_path):
    runs.Records(tmp_path, 0).close()
    assert (tmp_path / "tensorboard").is_dir() and images.Config().tracker == "tensorboard"


def test_seeds_are_runs_of_one_group(tmp_path, wandb):
    run = tmp_path / "search-1"
    (run / "seed-3").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    runs.Records(run / "seed-3", 0, "wandb").close()
    assert wandb.started[0]["name"] == "search-1-seed-3"
    assert wandb.started[0]["group"] == "search-1"
    assert trackers.label(run) == ("search-1", None)


@pytest.mark.parametrize("name, line", trackers.INSTALL.items())
def test_a_missing_package_is_one_line_before_any_work(name, line, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Stop) as caught:
        checks.check_flags(images.Config(tracker=name))
    assert str(caught.value) == f"--tracker={name}: needs {name}: {line}"
    assert caught.value.code == 2
    checks.check_flags(images.Config(tracker="none"))


def test_an_error_of_a_tracker_is_one_line(tmp_path, wandb, monkeypatch):
    def init(**names):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(Stop, match="^--tracker=wandb: no API key configured; go on with .*none$"):
        runs.Records(tmp_path, 0, "wandb")


@pytest.mark.parametrize("content", ["", "[]", '{"wandb": 3}', '{"wandb": {"id": "a"}}'])
def test_a_damaged_tracker_json_is_one_line(content, tmp_path, wandb):
    (tmp_path / "tracker.json").write_text(content)
    with pytest.raises(Stop, match="tracker.json.*; remove it to begin a new run there") as caught:
        runs.Records(tmp_path, 0, "wandb")
    assert caught.value.code == 2 and "\n" not in str(caught.value)


PROGRAM = """
import json, os, sys, time
from pathlib import Path
from jaxdarts import runs
folder, resume_step, steps, end = json.loads(sys.argv[1])
seeds = [Path(folder) / f"seed-{seed}" for seed in (2, 3)]
records = [runs.Records(seed, resume_step, "trackio", {"epochs": 3}) for seed in seeds]
for step in steps:
    for i, one in enumerate(records):
        one.write(step, {"loss": i + 1 / step})
if end == "killed":
    time.sleep(2)  # Trackio writes twice a second
    os._exit(9)
for one in records:
    one.close()
"""


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_keeps_two_seeds_through_a_death(tmp_path):
    folder, kept = tmp_path / "run", tmp_path / "trackio"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    environment = os.environ | {"TRACKIO_DIR": str(kept), "PYTHONPATH": str(ROOT)}
    for arguments, code in (((0, (2, 4, 6), "killed"), 9), ((4, (6, 8), "closed"), 0)):
        command = [sys.executable, "-c", PROGRAM, json.dumps([str(folder), *arguments])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    with sqlite3.connect(kept / "jaxdarts.db") as database:
        rows = database.execute("select run_name, run_id, step, metrics from metrics").fetchall()
    database.close()
    assert len({identity for _, identity, _, _ in rows}) == 2
    for i, seed in enumerate((2, 3)):
        own = sorted(row for row in rows if row[0].startswith(f"run-seed-{seed}-"))
        assert [row[2] for row in own] == [2, 4, 6, 8]
        assert [json.loads(row[3])["loss"] for row in own] == [i + 1 / n for n in (2, 4, 6, 8)]
