"""Kill a program again and again: python experiments/benchmarks/kills.py --kills=20

python experiments/benchmarks/kills.py --program=discrete --kills=10

Runs a tiny program on the digits (or a text), once without interruption, then in a folder where
SIGKILL ends it at random moments (while it starts, compiles, computes or saves) and --resume goes
on. Prints what each kill lost, and whether the result is the same to the bit: records, mixes,
numbers, and the last checkpoint. --output keeps it all, with command, commit, versions, device.
"""

import dataclasses
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.runs import Stop


class Program(NamedTuple):
    """A program to kill.

    command: its words after `jaxdarts`.
    flags: of a tiny run; {epochs} and {checkpoint_freq} are filled in.
    trains: whether it has steps and checkpoints; others write down every finished part.
    """

    command: str
    flags: str
    trains: bool = True


TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect sep_conv_3x3 --init_channels=2 --no-unrolled"
    " --num_devices=1"
)
STEPWISE = " --report_freq=1 --epochs={epochs} --checkpoint_freq={checkpoint_freq}"
PAIRS = (("skip_connect", 0), ("sep_conv_3x3", 1))
CELL = jd.Genotype(PAIRS, (2,), PAIRS, (2,))
PROGRAMS = {
    "search": Program("search", TINY + STEPWISE),
    "evaluate": Program(
        "evaluate",
        "--arch={cell} --layers=1 --init_channels=2 --num_devices=1" + STEPWISE,
    ),
    "text": Program(
        "search",
        "--dataset=pydoc --nodes=1 --emsize=4 --bptt=70 --batch_size=512 --num_devices=1"
        " --ops none tanh identity --no-unrolled" + STEPWISE,
    ),
    "enas": Program(
        "enas",
        "--space=weight_sharing64 --init_channels=1 --policy_steps=2 --num_samples=3 --hidden=4"
        + STEPWISE,
    ),
    "discrete": Program(
        "discrete",
        "--evaluate=proxy --space=nasbench201 --dataset=digits --algorithm=random --runs=1"
        " --init_channels=2 --layers=1 --batch_size=16 --budget_evaluations=200",
        False,
    ),
    "score": Program("score", "--count=200 --scores=synflow --batch_size=16", False),
    "ensemble": Program(
        "evaluate",
        "--ensemble={cell},{cell},{cell} --layers=1 --init_channels=2 --epochs=2 --num_devices=1",
        False,
    ),
    "ranking": Program(
        "analyze ranking",
        "--init_channels=2 --layers=1 --epochs=2 --batch_size=8 --train_images=64"
        " --test_images=24 --instances=4 --truth_instances=2 --eval_freq=1 --last_steps=2"
        " --tune_epochs 2 --tune_steps 1 3 --groups 16 --prefixes 1 --prefix_epochs=3"
        " --truth_epochs=1",
        False,
    ),
    "compare": Program("compare", f"darts gdas --run_dir={{folder}} -- {TINY} --epochs=2", False),
}
NOT_COMPARED = frozenset(
    "seconds wall_time date command commit speed step_ms versions run_dir resume arguments".split()
)
"""Fields of JSON that tell of the time or of the place."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Kill a program at random moments and resume it."""

    program: Literal[
        "search",
        "evaluate",
        "text",
        "discrete",
        "enas",
        "score",
        "ensemble",
        "ranking",
        "compare",
    ] = "search"
    """What to kill."""
    kills: int = 20
    """How often."""
    epochs: int = 10
    """Passes over the data."""
    checkpoint_freq: int = 3
    """Steps between checkpoints, besides the one after every epoch."""
    seed: int = 0
    """Of the moments."""
    run_dir: str | None = None
    """Folder for both runs; default a temporary one."""
    cache_dir: str | None = None
    """Where compiled programs are kept from one start to the next; default in that folder."""
    output: str | None = None
    """JSON file to write everything to."""


class Whole(NamedTuple):
    """The run that nothing interrupts: its duration, and the steps of its first epoch."""

    seconds: float
    length: int


def start(config: Config, folder: Path) -> subprocess.Popen:
    """The program in a process of its own: in a new folder, or on from where it was killed."""
    program = PROGRAMS[config.program]
    values = {
        **dataclasses.asdict(config),
        "folder": shlex.quote(str(folder)),
        "cell": shlex.quote(str(folder.parent / "cell.json")),
    }
    words = shlex.split(program.flags.format(**values))
    if config.program == "compare":
        words += [f"--cache_dir={config.cache_dir}"]
    elif (folder / "config.json").exists():  # killed before that, there is nothing yet to resume
        words = [f"--resume={folder}", f"--cache_dir={config.cache_dir}"]
    else:
        words += [f"--run_dir={folder}", f"--cache_dir={config.cache_dir}"]
    command = [sys.executable, "-m", "jaxdarts", *program.command.split(), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> None:
    """Waits for a process that should end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise Stop(f"a program that was not killed ended with {process.returncode}: {errors}")


def log_of(folder: Path) -> str:
    """The log so far."""
    return (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""


def last_step(log: str, length: int) -> int:
    """The last step that a log tells of, 0 before the first; epochs have `length` steps."""
    epoch, step = 0, 0
    for kind, number in re.findall(r"(epoch|train) (\d+) ", log):
        epoch, step = (
            (int(number), step) if kind == "epoch" else (epoch, epoch * length + int(number) + 1)
        )
    return step


def killed(
    process: subprocess.Popen,
    program: Program,
    folder: Path,
    chance: random.Random,
    uninterrupted: Whole,
) -> dict[str, Any] | None:
    """Kills a program: one time in five while it starts, otherwise after its first step, or in the
    time that it has; None if it was done before.
    """
    before = log_of(folder)
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 10))
    elif program.trains:
        while "the first step took" not in log_of(folder)[len(before) :] and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.expovariate(1 / 0.7))
    else:
        time.sleep(chance.uniform(0, uninterrupted.seconds))
    process.kill()
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise Stop(f"a program ended with {process.returncode} before it was killed: {errors}")
    log = log_of(folder)[len(before) :]
    torn = any(path.name.endswith("tmp") for path in folder.rglob("*"))
    if not program.trains:
        return {"begun_at": None, "killed_at": None, "in_a_save": torn, "before_a_step": not log}
    begun, last = begun_at(log), last_step(log, uninterrupted.length)
    return {
        "begun_at": begun,
        "killed_at": last or begun,
        "in_a_save": torn,
        "before_a_step": not last,
    }


def begun_at(log: str) -> int | None:
    """The step that a search starts from by its log, None if it does not tell yet."""
    resumed = re.search(r"resumed at step (\d+)", log)
    return int(resumed[1]) if resumed else 0 if "epoch 0" in log else None


def timeless(value: Any) -> Any:
    """JSON without the fields that tell of the time or of the place."""
    if isinstance(value, dict):
        return {n: timeless(v) for n, v in value.items() if n not in NOT_COMPARED}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    """All that a program leaves behind, but for the time that it took."""
    values: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "checkpoints" in path.parts or path.name == "config.json":
            continue
        if path.suffix == ".json":
            values[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            for number, line in enumerate(path.read_text().splitlines()):
                values[f"{name} {number}"] = timeless(json.loads(line))
        elif path.suffix == ".npz":
            for array, content in jd.files.read_arrays(path).items():
                values[f"{name} {array}"] = content.tobytes()
        elif path.suffix == ".csv":
            values[name] = path.read_text()
    for path in sorted(folder.rglob("checkpoints")):
        values |= newest(path, str(path.relative_to(folder)))
    return values


def newest(folder: Path, name: str) -> dict[str, Any]:
    """The arrays of the newest checkpoint."""
    with jd.runs.checkpoint.open_folder(folder) as checkpoints:
        step = checkpoints.latest_step()
        tree = checkpoints.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))[
            "state"
        ]
    tree.pop("seconds")
    values = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        bits = jax.random.key_data(leaf) if jd.parallel.is_key(leaf) else leaf
        values[f"{name} {step}{jax.tree_util.keystr(path)}"] = np.asarray(bits).tobytes()
    return values


def measure(config: Config) -> dict[str, Any]:
    """Both runs, and what the kills did."""
    chance, folder = random.Random(config.seed), Path(str(config.run_dir))
    program, begun = PROGRAMS[config.program], time.monotonic()
    (folder / "cell.json").write_text(jd.genotypes.to_json(CELL))
    finished(start(config, folder / "whole"))
    seconds, length = time.monotonic() - begun, 0
    if program.trains:
        length = jd.files.read_json_lines(folder / "whole" / "metrics.jsonl")[0]["step"]
    uninterrupted, deaths, torn = Whole(seconds, length), [], folder / "torn"
    while len(deaths) < config.kills:
        death = killed(start(config, torn), program, torn, chance, uninterrupted)
        if death is None:
            print(f"the program was done after {len(deaths)} of {config.kills} kills", flush=True)
            break
        deaths.append(death)
        print(json.dumps(death), flush=True)
    finished(start(config, torn))
    again = int((re.findall(r"resumed at step (\d+)", log_of(torn)) or [0])[-1])
    for death in reversed(
        deaths
    ):  # one that died before it knew its step lost nothing, and tells nothing of the one before
        death["lost_steps"] = 0 if death["killed_at"] is None else death["killed_at"] - again
        again = again if death["begun_at"] is None else death["begun_at"]
    expected, actual = results(folder / "whole"), results(torn)
    differing = [
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    ]
    return {
        "program": config.program,
        "kills": deaths,
        "in_a_save": sum(death["in_a_save"] for death in deaths),
        "before_a_step": sum(death["before_a_step"] for death in deaths),
        "checkpoint_interval": config.checkpoint_freq,
        "most_steps_lost": max((death["lost_steps"] for death in deaths), default=0),
        "compared": len(expected),
        "differing": sorted(differing),
    }


def main(arguments: list[str]) -> None:
    config = tyro.cli(Config, args=arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.run_dir or temporary
        config = dataclasses.replace(
            config, run_dir=folder, cache_dir=config.cache_dir or f"{folder}/cache"
        )
        figures = measure(config)
    if config.output:
        Path(config.output).write_text(json.dumps({**runs.versions(), **figures}, indent=1) + "\n")
    line = (
        f"{config.program}: {len(figures['kills'])} kills, {figures['in_a_save']} of them in a"
        f" save: at most {figures['most_steps_lost']} steps lost"
    )
    if figures["differing"] or figures["most_steps_lost"] > config.checkpoint_freq:
        raise Stop(f"{line}; differing: {', '.join(figures['differing']) or 'nothing'}")
    print(f"{line}, nothing differs in {figures['compared']} results")


if __name__ == "__main__":
    runs.start(main)
