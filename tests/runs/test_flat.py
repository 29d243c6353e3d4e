"""Memory, open files and compiled programs of long runs do not grow, in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxdarts.runs.executables import SWITCH

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
MEGABYTES_PER_PART = 12
"""What a run may grow by from the second half of its records to their end: an allocator's play."""


class Sample(NamedTuple):
    """What a process has at a time: lines of its records, bytes of memory, open files."""

    lines: int
    memory: int
    files: int


def sampled(arguments: list[str], records: Path) -> list[Sample]:
    """Runs jaxdarts, and looks at it ten times a second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxdarts", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        stdout=subprocess.DEVNULL,
    )
    samples, system = [], Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            pages = int((system / "statm").read_text().split()[1])
            opened = len(os.listdir(system / "fd"))
        except OSError:  # it has just ended
            break
        lines = records.read_bytes().count(b"\n") if records.exists() else 0
        samples.append(Sample(lines, pages * PAGE, opened))
        time.sleep(0.1)
    assert process.wait() == 0
    return samples


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    "name, flags, records, count",
    [
        (
            "search",
            "--layers=1 --nodes=1 --ops none skip_connect --init_channels=2 --no-unrolled"
            " --num_devices=1 --batch_size=16 --epochs=24",
            "metrics.jsonl",
            24,
        ),
        (
            "discrete",
            "--evaluate=proxy --space=nasbench201 --dataset=digits --algorithm=rea --runs=1"
            " --init_channels=2 --layers=1 --batch_size=16 --budget_evaluations=1000",
            "history.jsonl",
            1000,
        ),
    ],
)
def test_a_long_run_is_flat(name, flags, records, count, tmp_path):
    """1,056 steps of a search with a checkpoint after each of 24 epochs, 1,000 trials."""
    folder = tmp_path / "run"
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    words = [name, *flags.split(), f"--run_dir={folder}", f"--cache_dir={cache}"]
    samples = sampled(words, folder / records)
    assert samples[-1].lines == count
    # The first third warms up; the report at the end is another program.
    middle = [one for one in samples if count / 3 <= one.lines < 2 * count / 3]
    last = [one for one in samples if 2 * count / 3 <= one.lines < count]
    assert len(middle) > 3 and len(last) > 3
    growth = np.median([one.memory for one in last]) - np.median([one.memory for one in middle])
    assert growth < MEGABYTES_PER_PART * 2**20, f"{growth / 2**20:.1f} MiB"
    # Not the largest numbers: a look that falls into the writing of a checkpoint sees its files.
    files = [np.median([one.files for one in part]) for part in (middle, last)]
    assert files[1] <= files[0], files


TINY = "--nodes=1 --ops none skip_connect --init_channels=2 --layers=1 --no-unrolled"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        f"search {TINY} --num_devices=1",
        "search --dataset=pydoc --nodes=1 --emsize=4 --batch_size=512 --num_devices=1"
        " --ops none tanh identity --no-unrolled",
        "evaluate --arch=DARTS_V2 --layers=1 --init_channels=4 --num_devices=1",
    ],
)
def test_more_epochs_compile_nothing_more(words, tmp_path):
    """What is compiled in every epoch is kept in memory for ever."""
    counts = []
    for epochs in (2, 4):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "jaxdarts", *words.split()),
                *(f"--epochs={epochs}", f"--run_dir={tmp_path / str(epochs)}"),
                f"--cache_dir={os.environ['JAX_COMPILATION_CACHE_DIR']}",
            ],
            # The second process would load what the first one compiled.
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_LOG_COMPILES": "1", SWITCH: "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        counts.append(done.stderr.count("Finished XLA compilation"))
    assert counts[0] == counts[1] > 0
