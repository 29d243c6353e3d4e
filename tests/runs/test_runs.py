"""What all scripts share. Oracles: the configurations themselves, figures by hand."""

import dataclasses
import math

import pytest

from jaxdarts import runs
from jaxdarts.commands import enas, optimizers, score
from jaxdarts.commands.analyze import ranking
from jaxdarts.commands.discrete import command as discrete_command
from jaxdarts.commands.ensemble import command as ensemble_command
from jaxdarts.commands.evaluate import recipes, text_recipes
from jaxdarts.commands.search import images as image_search
from jaxdarts.commands.search import text as text_search
from jaxdarts.runs import process


@pytest.mark.parametrize(
    "script",
    [
        discrete_command,
        enas,
        ensemble_command,
        recipes,
        score,
        image_search,
        text_recipes,
        text_search,
        ranking,
    ],
)
def test_what_a_resumed_run_may_change_is_among_its_flags(script):
    fields = {field.name for field in dataclasses.fields(script.Config)}
    assert {"run_dir", "resume", "data_dir", "cache_dir"} <= runs.free(script.Config) < fields
    assert "seed" not in runs.free(script.Config)
    assert set(runs.frozen(script.Config())) == fields - runs.free(script.Config)


def test_a_setting_is_free_only_where_its_script_says_so():
    assert "tune_steps" in runs.free(image_search.Config)  # of the cells that are derived
    assert "tune_steps" not in runs.free(ranking.Config)  # of the trainings themselves


def test_mean_and_deviation():
    assert runs.spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "deviation": pytest.approx(math.sqrt(7))}
    assert runs.spread([5.0]) == {"mean": 5.0, "deviation": None}
    assert runs.mean_and_deviation([0.01, 0.02, 0.06], 100, 2, " %") == "3.00 % +- 2.65 %"
    assert runs.mean_and_deviation([0.5]) == "0.500"


def test_the_cosine_between_two_rates():
    config = image_search.Config(epochs=4, learning_rate=0.5, learning_rate_min=0.1)
    assert [
        optimizers.cosine_rate(config, epoch, math.cos) for epoch in (0, 2, 4)
    ] == pytest.approx([0.5, 0.3, 0.1])
    assert [float(optimizers.cosine_rate(config, epoch)) for epoch in (0, 2, 4)] == pytest.approx(
        [0.5, 0.3, 0.1]
    )


@pytest.mark.parametrize(
    "path_flags",
    [["--output=/a/b.json"], ["--output", "/a/b.json"], ["--peer", "/a", "--output", "/b"], []],
)
def test_a_results_command_names_no_place(path_flags):
    assert process._without_paths(["--steps", "weight_step", *path_flags, "--profile"]) == [
        "--steps",
        "weight_step",
        "--profile",
    ]
