"""Kill a search again and again: python experiments/benchmarks/kills.py --kills=20

Searches a tiny cell on the digits, once without interruption, then in a folder where SIGKILL ends
it at random moments (while it starts, compiles, computes or saves) and --resume goes on. Prints
what each kill lost, and whether the result is the same to the bit: records, mixes, genotype and the
last checkpoint. --output keeps it all, with command, commit, versions, device.
"""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro

import jaxdarts as jd
from jaxdarts import runs
from jaxdarts.runs import Stop

TINY = (
    "--layers=1 --nodes=1 --ops none skip_connect sep_conv_3x3 --init_channels=2 --no-unrolled"
    " --num_devices=1"
)
STEPS = 22  # an epoch's


@dataclasses.dataclass(frozen=True)
class Config:
    """Kill a search at random moments and resume it."""

    kills: int = 20
    """How often."""
    epochs: int = 10
    """Passes of 22 steps."""
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


def start(config: Config, *arguments: str) -> subprocess.Popen:
    """A search in a process of its own."""
    script = Path(__file__).parents[1] / "search.py"
    command = [sys.executable, str(script), *arguments, f"--cache_dir={config.cache_dir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> None:
    """Waits for a process that should end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise Stop(f"a search that was not killed ended with {process.returncode}: {errors}")


def log_of(folder: Path) -> str:
    """The log so far."""
    return (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""


def last_step(log: str) -> int:
    """The last step that a log tells of, 0 before the first."""
    epoch, step = 0, 0
    for kind, number in re.findall(r"(epoch|train) (\d+) ", log):
        epoch, step = (
            (int(number), step) if kind == "epoch" else (epoch, epoch * STEPS + int(number) + 1)
        )
    return step


def killed(process: subprocess.Popen, folder: Path, chance: random.Random) -> dict[str, Any] | None:
    """Kills a search: one time in five while it starts, otherwise some steps after its first; None
    if it was done before.
    """
    before = log_of(folder)
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 10))
    else:
        while "the first step took" not in log_of(folder)[len(before) :] and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.expovariate(1 / 0.7))
    process.kill()
    process.communicate()
    if process.returncode == 0:
        return None
    log = log_of(folder)[len(before) :]
    begun, torn = begun_at(log), bool(list((folder / "checkpoints").glob("*tmp*")))
    return {
        "begun_at": begun,
        "killed_at": last_step(log) or begun,
        "in_a_save": torn,
        "before_a_step": not last_step(log),
    }


def begun_at(log: str) -> int | None:
    """The step that a search starts from by its log, None if it does not tell yet."""
    resumed = re.search(r"resumed at step (\d+)", log)
    return int(resumed[1]) if resumed else 0 if "epoch 0" in log else None


def results(folder: Path) -> dict[str, Any]:
    """All that a search leaves behind, but for the time that it took."""
    records = jd.files.read_json_lines(folder / "metrics.jsonl")
    values: dict[str, Any] = {
        f"record {record['step']}": {**record, "seconds": 0} for record in records
    }
    values["genotype"] = (folder / "genotype.json").read_text()
    with np.load(folder / "alphas.npz") as saved:
        values |= {f"alphas {name}": saved[name].tobytes() for name in saved.files}
    with jd.runs.checkpoint.open_folder(folder / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        tree = checkpoints.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))[
            "state"
        ]
    tree.pop("seconds")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        bits = jax.random.key_data(leaf) if jd.parallel.is_key(leaf) else leaf
        values[f"checkpoint {step}{jax.tree_util.keystr(path)}"] = np.asarray(bits).tobytes()
    return values


def measure(config: Config) -> dict[str, Any]:
    """Both runs, and what the kills did."""
    chance, folder = random.Random(config.seed), Path(str(config.run_dir))
    flags = [
        *TINY.split(),
        "--report_freq=1",
        f"--epochs={config.epochs}",
        f"--checkpoint_freq={config.checkpoint_freq}",
    ]
    finished(start(config, *flags, f"--run_dir={folder}/whole"))
    deaths, torn = [], folder / "torn"
    while len(deaths) < config.kills:
        resume = (
            torn / "config.json"
        ).exists()  # killed before that, there is nothing yet to resume
        process = (
            start(config, f"--resume={torn}")
            if resume
            else start(config, *flags, f"--run_dir={torn}")
        )
        death = killed(process, torn, chance)
        if death is None:
            raise Stop(
                f"the search was done after {len(deaths)} of {config.kills} kills; try more"
                " --epochs"
            )
        deaths.append(death)
        print(json.dumps(death), flush=True)
    finished(start(config, f"--resume={torn}"))
    again = int(re.findall(r"resumed at step (\d+)", log_of(torn))[-1])
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
        "kills": deaths,
        "in_a_save": sum(death["in_a_save"] for death in deaths),
        "before_a_step": sum(death["before_a_step"] for death in deaths),
        "checkpoint_interval": config.checkpoint_freq,
        "most_steps_lost": max(death["lost_steps"] for death in deaths),
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
        f"{config.kills} kills, {figures['in_a_save']} of them in a save: at most"
        f" {figures['most_steps_lost']} steps lost"
    )
    if figures["differing"] or figures["most_steps_lost"] > config.checkpoint_freq:
        raise Stop(f"{line}; differing: {', '.join(figures['differing']) or 'nothing'}")
    print(f"{line}, nothing differs in {figures['compared']} results")


if __name__ == "__main__":
    runs.start(main)
