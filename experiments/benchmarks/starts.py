"""Time from the command line to the end of the first step of a search, the first time and later.

    python experiments/benchmarks/starts.py --output=experiments/results/starts_cpu.json

Starts the exact second-order search of the published supernet on random images, in processes of
their own: from an empty cache, from JAX's cache of compiled programs, and from whole executables
(docs/speed.md). Every start is killed after its first step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import runs
from jaxdarts.runs import executables

SEARCH = Path(__file__).parents[1] / "search.py"
PUBLISHED = "--init_channels=16 --layers=8 --nodes=4 --batch_size=16 --unrolled --num_devices=1"


def start(folder: Path, cache: Path, switch: str, flags: list[str]) -> dict[str, float]:
    """Seconds from a process' beginning to its first step's begin and end."""
    environment = {**os.environ, executables.SWITCH: switch, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(SEARCH), f"--run_dir={folder}", f"--cache_dir={cache}", *flags]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    begin, lines, seconds = time.monotonic(), [], {}
    with subprocess.Popen(command, env=environment, **pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "compiling the step, which" in line:
                seconds["before_the_step"] = time.monotonic() - begin
            if "the first step took" in line:
                seconds["total"] = time.monotonic() - begin
                process.kill()
                break
    if "total" not in seconds:
        sys.exit(f"starts.py: the search ended before its first step:\n{''.join(lines)[-2000:]}")
    return seconds


def measure(flags: list[str], repeats: int) -> list[dict[str, Any]]:
    """A line for each kind of start, printed as soon as it is there."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        root, random = Path(name), np.random.default_rng(0)
        images, labels = random.integers(0, 256, (256, 32, 32, 3), np.uint8), np.arange(256) % 10
        arrays = {"images_train": images, "labels_train": labels}
        arrays |= {"images_test": images[:16], "labels_test": labels[:16]}
        np.savez(root / "random.npz", **arrays)
        flags = [f"--dataset=npz:{root / 'random.npz'}", "--epochs=2", *flags]
        number = 0
        for switch, kind in (("0", "JAX's cache"), ("1", "executables")):
            cache = root / f"cache{switch}"
            for what, count in ((f"first, {kind} empty", 1), (f"later, {kind}", repeats)):
                times = []
                for _ in range(count):
                    number += 1
                    times.append(start(root / f"run{number}", cache, switch, flags))
                line = {"what": what, "starts": times}
                for part in ("before_the_step", "total"):
                    line[f"{part}_seconds"] = statistics.median(one[part] for one in times)
                line["cache_mb"] = (
                    sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6
                )
                print(json.dumps(line), flush=True)
                results.append(line)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="later starts of each kind")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("flags", nargs="*", help="flags of the search, after --")
    arguments = parser.parse_args()
    lines = measure([*PUBLISHED.split(), *arguments.flags], arguments.repeats)
    if arguments.output:
        result = {**runs.versions(), "lines": lines}
        Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
