"""A search that starts a second time reads its executables, and finds the same to the last bit."""

import os
import re
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
    environment = {**os.environ, "JAX_LOG_COMPILES": "1", **environment}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    out = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not out.returncode, out.stderr
    records = files.read_json_lines(folder / "metrics.jsonl")
    numbers = [{k: v for k, v in record.items() if k != "seconds"} for record in records]
    with np.load(folder / "alphas.npz") as alphas:
        traced = re.findall(r"Finished tracing \+ transforming take for pjit", out.stderr)
        return numbers, {name: alphas[name] for name in alphas}, len(traced)


@pytest.mark.slow
def test_a_second_start_traces_nothing_and_finds_the_same(tmp_path):
    cache = tmp_path / "cache"
    records, alphas, traced = searched(tmp_path / "first", cache)
    entries = sorted((cache / "executables").iterdir())
    # Of the step, of the evaluation, of the eigenvalue where it is asked for.
    assert traced and len(entries) >= 2
    again, alphas_again, traced = searched(tmp_path / "second", cache)
    assert sorted((cache / "executables").iterdir()) == entries
    assert not traced
    assert again == records
    for name, alpha in alphas.items():
        np.testing.assert_array_equal(alphas_again[name], alpha)
    without, alphas_again, traced = searched(tmp_path / "third", cache, **{executables.SWITCH: "0"})
    assert traced and without == records
    for name, alpha in alphas.items():
        np.testing.assert_array_equal(alphas_again[name], alpha)
