"""The benchmark of kills, on the program that starts fastest."""

import json
import os

import pytest

import kills
from jaxdarts.runs import Stop


@pytest.mark.slow
def test_a_killed_program_ends_with_the_same_results(tmp_path):
    """One kill is one inside a save, since every run of the benchmark has one of them."""
    output = tmp_path / "kills.json"
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    kills.main(["--program=score", "--kills=1", f"--output={output}", f"--cache_dir={cache}"])
    [row] = json.loads(output.read_text())["rows"]
    assert row["program"] == "score" and row["number"] == len(row["kills"]) == row["in_a_save"] == 1
    assert row["differing"] == [] and row["compared"] >= 2
    assert {"command", "commit", "versions", "device"} <= row.keys()


def test_no_kills_are_no_result():
    with pytest.raises(Stop, match="--kills=0: must be positive"):
        kills.main(["--kills=0"])


def test_the_steps_that_kills_lose():
    """By hand: the second process resumes at 6 of 8, the last one at 9."""
    log = "resumed at step 6\nresumed at step 9\n"
    deaths = [
        {"begun_at": 0, "killed_at": 8},
        {"begun_at": None, "killed_at": None},
        {"begun_at": 6, "killed_at": 11},
    ]
    kills.count_lost_steps(deaths, log)
    assert [death["lost_steps"] for death in deaths] == [2, 0, 2]
