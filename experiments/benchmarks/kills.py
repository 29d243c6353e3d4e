"""Kill a program again and again: python experiments/benchmarks/kills.py --program=search

Runs a tiny program on the digits (or a text) once without interruption. Then SIGKILL ends it at
random moments (while it starts, compiles, computes or saves), and it is resumed until it ends by
itself. The results must be equal: arrays and checkpoints to the bit, records and tables but for
times. A program that ends before its kill is started in a new folder, until there are --kills
kills, at least one of them inside a save, and one in every stage of a search in stages. --output
adds a row to a JSON file of all programs.
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
    flags: of a tiny run; {epochs}, {checkpoint_freq}, {folder} and {cell} are filled in.
    trains: whether it has steps and checkpoints; others write down every finished part.
    pause: mean seconds between the first sign of work and the kill.
    stages: folders of the stages of a search, "." for the run folder, where the last one is.
    """

    command: str
    flags: str
    trains: bool = True
    pause: float = 0.7
    stages: tuple[str, ...] = (".",)


TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect sep_conv_3x3 --init_channels=2 --no-unrolled"
    " --num_devices=1"
)
STEPWISE = " --report_freq=1 --epochs={epochs} --checkpoint_freq={checkpoint_freq}"
PAIRS = (("skip_connect", 0), ("sep_conv_3x3", 1))
CELL = jd.Genotype(PAIRS, (2,), PAIRS, (2,))
PROGRAMS = {
    "search": Program("search", TINY + STEPWISE),
    "stages": Program(
        "search",
        TINY.replace("init_channels=2", "init_channels=4")
        + " --algorithm=drnas --stage_keep 2 --stage_partial 2 1"
        + STEPWISE,
        stages=("stage1", "."),
    ),
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
    "score": Program("score", "--count=200 --scores=synflow --layers=1 --batch_size=16", False),
    "ensemble": Program(
        "evaluate",
        "--ensemble={cell},{cell},{cell} --layers=1 --init_channels=2 --epochs=2 --num_devices=1",
        False,
        2,
    ),
    "ranking": Program(
        "analyze ranking",
        "--init_channels=2 --layers=1 --epochs=2 --batch_size=8 --train_images=64"
        " --test_images=24 --instances=4 --truth_instances=2 --eval_freq=1 --last_steps=2"
        " --tune_epochs 2 --tune_steps 1 3 --groups 16 --prefixes 1 --prefix_epochs=3"
        " --truth_epochs=1",
        False,
        10,
    ),
    "compare": Program(
        "compare", f"darts gdas --run_dir={{folder}} -- {TINY} --epochs=2", False, 3
    ),
}
NOT_COMPARED = frozenset(
    "seconds wall_time date command commit speed step_ms versions run_dir resume arguments".split()
)
"""Fields of JSON that tell of the time or of the place."""
START_SECONDS = 8
"""Longest time that a program takes from its start to its first work, about."""
ROUNDS = 10
"""How often a program may end before its kill, one after the other."""
SAVER = """
import os, signal, sys

folder, count, last = sys.argv[1], 0, int(sys.argv[2])

def dying(rename):
    def renamed(source, target, *rest, **names):
        global count
        if os.path.abspath(target).startswith(folder + os.sep):
            count += 1
            if count == last:
                print("died before the rename to", os.path.relpath(target, folder), file=sys.stderr,
                      flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, *rest, **names)
    return renamed

os.replace, os.rename = dying(os.replace), dying(os.rename)
sys.argv = sys.argv[:1] + sys.argv[3:]

from jaxdarts.__main__ import main

try:
    main()
finally:
    print("renames:", count, file=sys.stderr, flush=True)
"""
"""Runs jaxdarts; all that is saved as a whole is written aside and renamed, and this program kills
itself just before the rename of a number that it is given.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Kill a program at random moments and resume it."""

    program: Literal[
        "search",
        "stages",
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
    kills: int = 10
    """How often."""
    epochs: int = 5
    """Passes over the data, of programs with steps."""
    checkpoint_freq: int = 3
    """Steps between checkpoints, besides the one after every epoch."""
    seed: int = 0
    """Of the moments."""
    run_dir: str | None = None
    """Folder for all runs; default a temporary one."""
    cache_dir: str | None = None
    """Where compiled programs are kept from one start to the next; default in that folder."""
    output: str | None = None
    """JSON file to which the result is added, in place of an earlier one of the same program."""


def start(config: Config, folder: Path, dies_at: int = 0) -> subprocess.Popen:
    """The program in a process of its own: in a new folder, or on from where it was killed.

    dies_at: number of the save inside which it kills itself; 0 for none.
    """
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
    command = [sys.executable, "-c", SAVER, str(folder), str(dies_at)]
    command += [*program.command.split(), *words]
    return subprocess.Popen(
        command,
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> str:
    """Waits for a process that should end well; what it wrote as errors."""
    _, errors = process.communicate()
    if process.returncode:
        raise Stop(f"a program that was not killed ended with {process.returncode}: {errors}")
    return errors


def logs_of(program: Program, folder: Path) -> dict[str, str]:
    """The log of every stage so far."""
    paths = {stage: folder / stage / "log.txt" for stage in program.stages}
    return {stage: path.read_text() if path.exists() else "" for stage, path in paths.items()}


def new_logs(program: Program, folder: Path, before: dict[str, str]) -> dict[str, str]:
    """What has been added to the logs of the stages."""
    return {stage: log[len(before[stage]) :] for stage, log in logs_of(program, folder).items()}


def last_step(log: str, length: int) -> int:
    """The last step that a log tells of, 0 before the first; epochs have `length` steps."""
    epoch, step = 0, 0
    for kind, number in re.findall(r"(epoch|train) (\d+) ", log):
        epoch, step = (
            (int(number), step) if kind == "epoch" else (epoch, epoch * length + int(number) + 1)
        )
    return step


def begun_at(log: str) -> int | None:
    """The step that a search starts from by its log, None if it does not tell yet."""
    resumed = re.search(r"resumed at step (\d+)", log)
    return int(resumed[1]) if resumed else 0 if "epoch 0" in log else None


def first_stage(logs: dict[str, str]) -> tuple[str | None, int | None]:
    """The first stage that a process has worked at, by its logs, and the step it starts from."""
    steps = {stage: begun_at(log) for stage, log in logs.items()}
    return next(((stage, step) for stage, step in steps.items() if step is not None), (None, None))


def works(
    program: Program, folder: Path, logs: dict[str, str], begun: float, stage: str | None
) -> bool:
    """Whether a process that began at a time has done some work after its start, at a stage or
    after it; `logs` are those before it.
    """
    if program.trains:
        later = program.stages[program.stages.index(stage or program.stages[0]) :]
        new = new_logs(program, folder, logs)
        return any("the first step took" in new[one] for one in later)
    paths = [*folder.rglob("*.json"), *folder.rglob("*.jsonl"), *folder.rglob("*.csv")]
    paths = [path for path in paths if path.name != "config.json"]
    with_times = (path.stat().st_mtime for path in paths if path.exists())
    return any(changed > begun for changed in with_times)


def killed(
    config: Config,
    folder: Path,
    chance: random.Random,
    saves: int,
    way: str,
    stage: str | None = None,
) -> dict[str, Any] | None:
    """Starts a program and kills it; None if it was done before.

    way: "start" for a kill while it starts, "work" for one after its first step or finished part,
      "save" for one inside a random save of `saves`.
    stage: which must have begun before a kill at work.
    """
    program, begun = PROGRAMS[config.program], time.time()
    logs = logs_of(program, folder)
    process = start(config, folder, chance.randint(1, saves) if way == "save" else 0)
    if way == "start":
        time.sleep(chance.uniform(0, START_SECONDS))
    if way == "work":
        while process.poll() is None and not works(program, folder, logs, begun, stage):
            time.sleep(0.01)
        time.sleep(chance.expovariate(1 / program.pause))
    if way != "save":
        process.kill()
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise Stop(f"a program ended with {process.returncode} before it was killed: {errors}")
    saving = re.search("died before the rename to (.*)", errors)
    death: dict[str, Any] = {"seconds": round(time.time() - begun, 2), "kind": way}
    death["saving"] = saving[1] if saving else None
    if program.trains:
        logs = new_logs(program, folder, logs)
        records = jd.files.read_json_lines(folder.parent / "uninterrupted" / "metrics.jsonl")
        death["begun_in"], death["begun_at"] = first_stage(logs)
        worked = [one for one in program.stages if begun_at(logs[one]) is not None]
        death["killed_in"], death["killed_at"] = None, None
        if worked:
            log = logs[worked[-1]]
            steps = begun_at(log) or 0, last_step(log, records[0]["step"])
            death["killed_in"], death["killed_at"] = worked[-1], max(steps)
    return death


def count_lost_steps(deaths: list[dict[str, Any]], stage: str | None, resumed: int | None) -> None:
    """Notes in each kill how many steps were taken again after it.

    A process that died before it knew its step lost nothing, and tells nothing of the one before.
    Nor is anything lost where the next process begins with a later stage.

    stage, resumed: where the process began that nothing killed, and at which step.
    """
    for death in reversed(deaths):
        again = death["killed_at"] is not None and death["killed_in"] == stage
        death["lost_steps"] = death["killed_at"] - resumed if again else 0
        if death["begun_at"] is not None:
            stage, resumed = death["begun_in"], death["begun_at"]


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
        if path.name.endswith(".tmp"):
            values[name] = "a file that a killed save has left"
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
    tree.pop("seconds", None)
    values = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        bits = jax.random.key_data(leaf) if jd.parallel.is_key(leaf) else leaf
        values[f"{name} {step}{jax.tree_util.keystr(path)}"] = np.asarray(bits).tobytes()
    return values


def measure(config: Config) -> dict[str, Any]:
    """The uninterrupted run, and rounds of kills until there are enough of them."""
    chance, folder = random.Random(config.seed), Path(str(config.run_dir)).resolve()
    program = PROGRAMS[config.program]
    planned = [*program.stages[: config.kills]] if len(program.stages) > 1 else []
    (folder / "cell.json").write_text(jd.genotypes.to_json(CELL))
    begun = time.monotonic()
    errors = finished(start(config, folder / "uninterrupted"))
    renames = re.search(r"^renames: (\d+)$", errors, re.M)
    assert renames is not None  # SAVER prints it
    saves, expected = int(renames[1]), results(folder / "uninterrupted")
    print(f"uninterrupted: {time.monotonic() - begun:.0f} s, {saves} saves", flush=True)
    deaths: list[dict[str, Any]] = []
    differing: set[str] = set()
    rounds, late, late_in_a_row = 0, 0, 0
    while len(deaths) < config.kills:
        here: list[dict[str, Any]] = []
        killed_folder = folder / f"killed-{rounds}"
        rounds += 1
        while len(deaths) + len(here) < config.kills:
            left = config.kills - len(deaths) - len(here)
            no_save = not any(death["saving"] for death in (*deaths, *here))
            [way] = chance.choices(("start", "work", "save"), (2, 5, 3))
            way = "save" if left == 1 and no_save else way
            stage = planned[0] if planned else None
            way = "work" if stage else way
            logs = logs_of(program, killed_folder)
            death = killed(config, killed_folder, chance, saves, way, stage)
            if death is None:
                late, late_in_a_row = late + 1, late_in_a_row + 1
                break
            here.append(death)
            planned = planned[1:]
            late_in_a_row = 0
            print(json.dumps(death), flush=True)
        else:
            logs = logs_of(program, killed_folder)
            finished(start(config, killed_folder))
        if program.trains:
            count_lost_steps(here, *first_stage(new_logs(program, killed_folder, logs)))
        deaths += here
        actual = results(killed_folder)
        differing |= {
            name
            for name in expected.keys() | actual.keys()
            if expected.get(name) != actual.get(name)
        }
        print(f"round {rounds}: {len(here)} kills, {len(differing)} results differ", flush=True)
        if late_in_a_row >= ROUNDS:
            raise Stop(f"{config.program} was done before its kill {ROUNDS} times in a row")
    killed_in = [death.get("killed_in") for death in deaths]
    by_stage = {"in_stages": {stage: killed_in.count(stage) for stage in program.stages}}
    return {
        "program": config.program,
        "kills": deaths,
        "number": len(deaths),
        "in_a_save": sum(death["saving"] is not None for death in deaths),
        "while_starting": sum(death["kind"] == "start" for death in deaths),
        "too_late": late,
        **(by_stage if len(program.stages) > 1 else {}),
        "rounds": rounds,
        "checkpoint_interval": config.checkpoint_freq,
        "most_steps_lost": max((death.get("lost_steps", 0) for death in deaths), default=0),
        "compared": len(expected),
        "differing": sorted(differing),
    }


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a program's result to a file of many, in place of an earlier one."""
    rows = jd.files.read_json(path, dict)["rows"] if path.exists() else []
    rows = [one for one in rows if one["program"] != row["program"]]
    jd.files.replace_text(path, json.dumps({"rows": [*rows, row]}, indent=1) + "\n")


def main(arguments: list[str]) -> None:
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.kills < 1:
        raise Stop(f"--kills={config.kills}: must be positive", 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.run_dir or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = dataclasses.replace(
            config, run_dir=folder, cache_dir=config.cache_dir or f"{folder}/cache"
        )
        figures = measure(config)
    if config.output:
        add_row(Path(config.output), {**runs.versions(), **figures})
    line = (
        f"{config.program}: {figures['number']} kills, {figures['in_a_save']} of them in a"
        f" save: at most {figures['most_steps_lost']} steps lost"
    )
    if figures["differing"] or figures["most_steps_lost"] > config.checkpoint_freq:
        raise Stop(f"{line}; differing: {', '.join(figures['differing']) or 'nothing'}")
    print(f"{line}, nothing differs in {figures['compared']} results")


if __name__ == "__main__":
    runs.start(main)
