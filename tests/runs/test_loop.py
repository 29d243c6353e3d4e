"""The loop. Oracle: a training whose state sums up its own steps, so that every number can be
written down; what interrupts it changes nothing.
"""

import dataclasses
import json
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts import files, runs
from jaxdarts.commands import flags
from jaxdarts.runs import checkpoint, loop, task
from jaxdarts.runs.flags import POSITIVE

LENGTHS = np.array([3, 2, 3])


@dataclasses.dataclass(frozen=True)
class Config(flags.Saving, flags.Folder):
    """Flags of a toy."""

    COMMAND: ClassVar[str] = "toy"
    TOPIC: ClassVar[str] = "toy"

    dataset: str = runs.flag("toy", "Data set.")
    rate: float = runs.flag(0.5, "Rate of the memory.", POSITIVE)
    epochs: int = runs.flag(len(LENGTHS), "Number of epochs.", POSITIVE)
    report_freq: int = 2
    keep_checkpoints: int = 0
    cache_dir: str = ""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """value after n steps: sum of 2^-i times the number of step i in its epoch."""

    step: jax.Array
    value: jax.Array
    memory: jax.Array


class Killed(BaseException):
    """Stands for a death between two lines."""


def toy(run=None, kill_at=None, stop=None, reset=False):
    """A task without devices; `kill_at` is a step that never ends."""

    def steps(epoch):
        def take(training, i):
            state = training.state
            if int(state.step) == kill_at:
                raise Killed
            value = state.value + 2.0**-state.step * i
            state = State(state.step + 1, value, state.memory + 1)
            return runs.Training(state, {"loss": training.sums["loss"] + i})

        return take

    def end(training, epoch, records):
        facts = {"epoch": epoch.number, "complete": epoch.complete, "seconds": epoch.seconds}
        memory = int(training.state.memory)
        for one in records:
            one.write(epoch.step, {**facts, "loss": float(epoch.means["loss"]), "memory": memory})
        return training

    def averages(sums, count, step):
        means = {"loss": np.asarray(sums["loss"]) / count}
        runs.finite(step, "--rate", **means)
        return means

    return task.Task(
        init=lambda: runs.Training(
            State(jnp.int32(0), jnp.float32(0), jnp.int32(0)), {"loss": jnp.float32(0)}
        ),
        lengths=LENGTHS,
        steps=steps,
        averages=averages,
        checked=lambda state: {"a value": state.value},
        lower="--rate",
        end=end,
        finish=lambda training, records: float(training.state.value),
        open_records=lambda step: [runs.Records(run.folder, step)] if run else [],
        about=lambda training: [f"value = {training.state.value}, 100 %s"],
        rate=lambda epoch: 0.5**epoch,
        shown=lambda means: (f"loss {means['loss']:f}", {"loss": float(means["loss"])}),
        reset=(lambda state: dataclasses.replace(state, memory=jnp.int32(0)))
        if reset
        else task.no_reset,
        stopped=stop or task.never,
    )


NUMBERS = [i for length in LENGTHS for i in range(length)]
VALUE = sum(2.0**-n * i for n, i in enumerate(NUMBERS))
MEANS = [np.mean(range(length)) for length in LENGTHS]


def trained(folder, config=None, **options):
    config = config or Config(run_dir=str(folder))
    with runs.open_run(config, "toy") as run:
        return runs.train(config, run, toy(run, **options))


def resumed(folder, **settings):
    return dataclasses.replace(Config(), run_dir=str(folder), resume=str(folder), **settings)


def records(folder):
    rows = files.read_json_lines(folder / "metrics.jsonl")
    assert all(record.pop("seconds") >= 0 for record in rows)
    return rows


def log(folder):
    return [line[18:] for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines()]


def test_steps_records_and_log_lines(tmp_path):
    assert trained(tmp_path) == VALUE
    assert [(r["step"], r["epoch"], r["loss"], r["memory"]) for r in records(tmp_path)] == [
        (3, 0, MEANS[0], 3),
        (5, 1, MEANS[1], 5),
        (8, 2, MEANS[2], 8),
    ]
    lines = [re.sub(r"\d+\.\d s$", "T s", line) for line in log(tmp_path)]
    assert lines[0].startswith("args = Namespace(") and "dataset='toy'" in lines[0]
    assert lines[1:] == [
        "value = 0.0, 100 %s",
        f"run folder {tmp_path}",
        "epoch 0 lr 1.000000e+00",
        "compiling the step, which can take minutes",
        "the first step took T s",
        "train 001 loss 0.500000",
        "train 002 loss 1.000000",
        "epoch 1 lr 5.000000e-01",
        "train 000 loss 0.000000",
        "train 001 loss 0.500000",
        "epoch 2 lr 2.500000e-01",
        "train 000 loss 0.000000",
        "train 002 loss 1.000000",
    ]


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 6, 7])
def test_a_run_that_is_cut_and_goes_on_is_the_whole_run(tmp_path, last):
    value = trained(tmp_path, Config(run_dir=str(tmp_path), max_steps=last))
    assert value == sum(2.0**-n * i for n, i in enumerate(NUMBERS[:last]))
    assert records(tmp_path)[-1]["step"] == last
    assert records(tmp_path)[-1]["complete"] == (last in np.cumsum(LENGTHS))
    assert f"--max_steps={last} of 8 steps are done" in log(tmp_path)
    assert trained(tmp_path, resumed(tmp_path)) == VALUE
    assert [r["loss"] for r in records(tmp_path)] == MEANS
    assert f"resumed at step {last} of 8" in log(tmp_path)


@pytest.mark.parametrize("freq, kill_at, back", [(0, 4, 3), (2, 7, 6), (1, 1, 1), (5, 2, None)])
def test_a_killed_run_goes_on_from_its_newest_checkpoint(tmp_path, freq, kill_at, back):
    with pytest.raises(Killed):
        trained(tmp_path, Config(run_dir=str(tmp_path), checkpoint_freq=freq), kill_at=kill_at)
    assert trained(tmp_path, resumed(tmp_path)) == VALUE
    assert [r["loss"] for r in records(tmp_path)] == MEANS
    assert f"resumed at step {back or 0} of 8" in log(tmp_path)


def test_a_finished_run_only_finishes_again(tmp_path):
    trained(tmp_path)
    assert trained(tmp_path, resumed(tmp_path), kill_at=8) == VALUE
    assert "resumed at step 8: nothing is left to do but the report" in log(tmp_path)


def test_a_reason_to_stop_holds_on_resuming(tmp_path):
    def stop(written):
        return "two epochs will do" if len(written[0].all) > 1 else None

    value = sum(2.0**-n * i for n, i in enumerate(NUMBERS[:5]))
    assert trained(tmp_path, stop=stop) == value
    assert log(tmp_path)[-1] == "the search stops: two epochs will do"
    assert trained(tmp_path, resumed(tmp_path), stop=stop) == value
    assert len(records(tmp_path)) == 2


def test_an_epoch_begins_with_the_state_that_the_task_resets(tmp_path):
    trained(tmp_path / "whole", reset=True)
    assert [r["memory"] for r in records(tmp_path / "whole")] == LENGTHS.tolist()
    folder = tmp_path / "cut"
    trained(folder, Config(run_dir=str(folder), max_steps=4), reset=True)
    trained(folder, resumed(folder), reset=True)
    assert records(folder) == records(tmp_path / "whole")


def test_what_is_not_finite_is_never_saved(tmp_path):
    config = Config(run_dir=str(tmp_path))
    with runs.open_run(config, "toy") as run:
        broken = toy(run)._replace(
            checked=lambda state: {"a value": {"b": state.value, "c": [state.value / 0]}}
        )
        with pytest.raises(runs.Stop, match="a value is not finite at step 3: .* a lower --rate;"):
            runs.train(config, run, broken)
        assert not run.checkpoints.all_steps()


def test_a_part_of_a_larger_program_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert runs.train_unattended(toy()) == VALUE
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_a_checkpoint_of_before_there_was_a_training(tmp_path):
    """Run folders of 2026 and before hold a dictionary of state, sums and seconds."""
    config, state = Config(run_dir=str(tmp_path)), State(jnp.int32(4), jnp.float32(7), jnp.int32(2))
    old = {"state": state, "sums": {"loss": jnp.float32(9)}, "seconds": jnp.float32(2.5)}
    with runs.open_run(config, "toy") as run:
        saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert "resume" not in saved
        checkpoint.save(run.checkpoints, 4, old, runs.frozen(config))
    config = resumed(tmp_path)
    with runs.open_run(config, "toy") as run:
        training, seconds = loop.restored(config, run, toy(run).init())
    assert isinstance(training, runs.Training) and isinstance(training.state, State)
    values = (training.state.step, training.state.value, training.state.memory)
    assert (*map(float, values), float(training.sums["loss"]), seconds) == (4, 7, 2, 9, 2.5)


@pytest.mark.parametrize(
    "step, epoch, position, kept", [(0, 0, 0, 0), (2, 0, 2, 0), (3, 1, 0, 3), (7, 2, 2, 5)]
)
def test_where_a_step_is(step, epoch, position, kept):
    assert loop.epoch_and_position(step, LENGTHS) == (epoch, position)
    assert runs.kept_step(step, LENGTHS, 0) == kept
    assert runs.kept_step(step, LENGTHS, step) == (step or kept)
    assert runs.total_steps(LENGTHS, 0) == 8 == runs.total_steps(LENGTHS, 9)


def garble(folder):
    """Damages the largest file of a checkpoint."""
    files_of = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files_of, key=lambda path: path.stat().st_size)
    largest.write_bytes(np.random.default_rng(0).bytes(largest.stat().st_size))


def test_a_damaged_newest_checkpoint_costs_an_epoch(tmp_path):
    """The run goes on from the one before, to the same end, and can be resumed again."""
    assert trained(tmp_path) == VALUE
    expected = records(tmp_path)
    for aside in ("damaged-8", "damaged-8-1"):
        garble(tmp_path / "checkpoints" / "8")
        assert trained(tmp_path, resumed(tmp_path)) == VALUE
        assert records(tmp_path) == expected
        (line,) = [line for line in log(tmp_path) if line.endswith(aside)]
        assert line.startswith("warning: cannot read checkpoint 8 in ")
        assert "the run goes on from step 5" in line
    assert trained(tmp_path, resumed(tmp_path)) == VALUE
    assert "resumed at step 8: nothing is left to do but the report" in log(tmp_path)


def test_no_intact_checkpoint_ends_in_one_line(tmp_path):
    trained(tmp_path, Config(run_dir=str(tmp_path), max_steps=5))
    for folder in (tmp_path / "checkpoints").iterdir():
        garble(folder)
    with pytest.raises(runs.Stop, match="cannot read checkpoint 5 in .*another --run_dir$") as end:
        trained(tmp_path, resumed(tmp_path))
    assert end.value.code == 2
    assert not list((tmp_path / "checkpoints").glob("damaged-*"))


@pytest.mark.parametrize("lost", ["", "first", "last"])
def test_lost_records_of_a_finished_run(tmp_path, lost):
    """The last one is made again from the checkpoint; the log tells how many are lost."""
    trained(tmp_path)
    path, expected = tmp_path / "metrics.jsonl", records(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = {"": [], "first": [1, 2], "last": [0, 1]}[lost]
    path.write_text("".join(lines[i] for i in kept), encoding="utf-8")
    assert trained(tmp_path, resumed(tmp_path)) == VALUE
    assert records(tmp_path) == [expected[i] for i in sorted({*kept, 2})]
    number = 3 - len(kept)
    assert f"warning: records of {number} of 3 epochs are lost" in log(tmp_path)
    again = [line for line in log(tmp_path) if line.startswith("the record of step 8 is made")]
    assert len(again) == (lost != "first")


def test_records_lost_in_the_middle_of_a_run(tmp_path):
    trained(tmp_path, Config(run_dir=str(tmp_path), max_steps=4))
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    assert trained(tmp_path, resumed(tmp_path)) == VALUE
    assert [record["step"] for record in records(tmp_path)] == [5, 8]
