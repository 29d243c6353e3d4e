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
    """By hand: the third process resumes at 6 of 8, the last one at 9."""
    deaths = [
        {"begun_in": ".", "begun_at": 0, "killed_in": ".", "killed_at": 8},
        {"begun_in": None, "begun_at": None, "killed_in": None, "killed_at": None},
        {"begun_in": ".", "begun_at": 6, "killed_in": ".", "killed_at": 11},
    ]
    kills.count_lost_steps(deaths, ".", 9)
    assert [death["lost_steps"] for death in deaths] == [2, 0, 2]


def test_the_steps_that_kills_lose_in_stages():
    """By hand: the second process goes from step 6 of stage 1 to step 4 of the last stage, the
    third dies in it at 7 after a start at 3, and the last one starts at 5.
    """
    deaths = [
        {"begun_in": "stage1", "begun_at": 0, "killed_in": "stage1", "killed_at": 8},
        {"begun_in": "stage1", "begun_at": 6, "killed_in": ".", "killed_at": 4},
        {"begun_in": ".", "begun_at": 3, "killed_in": ".", "killed_at": 7},
    ]
    kills.count_lost_steps(deaths, ".", 5)
    assert [death["lost_steps"] for death in deaths] == [2, 1, 2]
    logs = {"stage1": "", ".": "resumed at step 12, at once"}
    assert kills.first_stage(logs) == (".", 12)
    assert kills.first_stage(logs | {"stage1": "epoch 0 lr 1"}) == ("stage1", 0)
    assert kills.first_stage({"stage1": "", ".": "stage 1 of 2"}) == (None, None)
    # Nothing is lost where the next process begins with a later stage.
    kills.count_lost_steps(deaths[:1], ".", 0)
    assert deaths[0]["lost_steps"] == 0
