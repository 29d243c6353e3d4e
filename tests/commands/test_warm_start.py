"""A search that starts a second time reads its executables, and finds the same to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdarts import files
from jaxdarts.runs import executables

SCRIPT = Path(__file__).parents[2] / "experiments" / "search.py"
FLAGS = "--layers=1 --nodes=1 --init_channels=2 --epochs=2 --max_steps=50 --num_devices=1".split()


def searched(folder, cache, **environment):
    command = [sys.executable, str(SCRIPT), *FLAGS, f"--run_dir={folder}", f"--cache_dir={cache}"]
    environment = {**os.environ, **environment}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    out = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not out.returncode, out.stderr
    records = files.read_json_lines(folder / "metrics.jsonl")
    numbers = [{k: v for k, v in record.items() if k != "seconds"} for record in records]
    return numbers, files.read_arrays(folder / "alphas.npz")


def entries(cache):
    """The number of every file, which a file that is written again has not, and when it was used
    last.
    """
    facts = [(path, path.stat()) for path in (cache / "executables").iterdir()]
    return {path.name: (one.st_ino, one.st_mtime_ns) for path, one in facts}


def equal(one, other):
    assert one[0] == other[0]
    for name, alpha in one[1].items():
        np.testing.assert_array_equal(other[1][name], alpha)


@pytest.mark.slow
def test_a_second_start_reads_what_the_first_compiled_and_finds_the_same(tmp_path):
    cache = tmp_path / "cache"
    first = searched(tmp_path / "first", cache)
    written = entries(cache)
    assert len(written) >= 2  # of the step and of the evaluation
    equal(searched(tmp_path / "second", cache), first)
    read = entries(cache)
    assert read.keys() == written.keys()
    assert all(read[name][0] == written[name][0] for name in read)
    assert all(read[name][1] > written[name][1] for name in read)
    equal(searched(tmp_path / "third", cache, **{executables.SWITCH: "0"}), first)
    assert entries(cache) == read
