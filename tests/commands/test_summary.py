"""What a search tells its user. Oracles: the parser of the command line, hand-made facts, counts of
built networks.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.commands import command_line, reproduce, sizes
from jaxdarts.commands.evaluate import recipes, text_recipes
from jaxdarts.commands.evaluate import results as training_results
from jaxdarts.commands.search import images, summary, text
from jaxdarts.report.page import Confusion

SEARCHES = [
    [],
    ["--dataset=cifar10", "--epochs=3"],
    ["--dataset=cifar10", "--algorithm=pc_darts", "--seed=7"],
    ["--dataset=digits", "--algorithm=gdas", "--space=nasbench201", "--no-flip"],
    ["--preset=cifar10", "--dataset=npz:my file.npz", "--ops", "none", "skip_connect", "--remat"],
    ["--stop_size", "6", "0", "--unrolled", "--learning_rate=1e-3", "--data_dir=a b"],
]


@pytest.mark.parametrize("arguments", SEARCHES)
def test_the_command_of_a_search_reads_as_its_configuration(arguments):
    parts = (images.PRESETS, images.CIFAR, None, images.STARTS)
    config = command_line.parse(arguments, *parts)
    words = shlex.split(reproduce.command("search", config, config.start()))
    assert words[:2] == ["jaxdarts", "search"]
    assert command_line.parse(words[2:], *parts) == config


def test_the_command_of_a_training_reads_as_its_configuration():
    config = recipes.parse(["--arch=DARTS_V1", "--dataset=cifar10", "--epochs=9"], None)
    words = shlex.split(reproduce.command("evaluate", config, config.start()))
    assert recipes.parse(words[2:], None) == config
    topology = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    config = recipes.parse([f"--arch={topology}", "--dataset=cifar10"], None)
    words = shlex.split(reproduce.command("evaluate", config, config.start()))
    assert recipes.parse(words[2:], None) == config and len(words) == 4
    config = recipes.parse([f"--arch={jd.genotypes.DARTS_V2}"], None)
    words = shlex.split(reproduce.command("evaluate", config, config.start()))
    assert recipes.parse(words[2:], None) == config


def test_the_commands_of_texts_read_as_their_configurations():
    for module, kind, starts in ((text, "search", text.STARTS), (text_recipes, "evaluate", {})):
        parts = (module.PRESETS, module.PTB, None, starts)
        config = command_line.parse(["--dataset=pydoc", "--epochs=3"], *parts)
        words = shlex.split(reproduce.command(kind, config, config.start()))
        assert command_line.parse(words[2:], *parts) == config


def test_what_differs_from_the_preset():
    parts = (images.PRESETS, images.CIFAR, None, images.STARTS)
    arguments = ["--dataset=cifar10", "--algorithm=pc_darts", "--seed=7", "--run_dir=x"]
    config = command_line.parse(arguments, *parts)
    changes = {name: (old, new) for name, old, new in reproduce.changed(config, config.start())}
    assert changes["algorithm"] == ("darts", "pc_darts") and changes["seed"] == ("2", "7")
    assert changes["batch_size"] == ("64", "256")  # what the algorithm changes
    assert not {"run_dir", "dataset", "epochs"} & changes.keys()


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "imagenet2012", "npz:x.npz"])
def test_the_size_to_train_is_that_of_evaluate(dataset):
    cells = [
        (jd.spaces.darts(), jd.genotypes.Genotype),
        (jd.spaces.nasbench201(), jd.genotypes.TopologyGenotype),
        (jd.spaces.nasbench1shot1_s1(), jd.genotypes.GraphGenotype),
    ]
    for space, kind in cells:
        preset = command_line.preset("", dataset, *recipes.presets_of(kind))
        assert sizes.trained(images.Config(dataset=dataset), space) == (
            preset.init_channels,
            preset.layers,
        )
        stem = preset.network == "imagenet" and kind is jd.genotypes.Genotype
        assert sizes.has_imagenet_stem(space, dataset) == stem


def test_costs_are_those_of_built_networks():
    space = jd.spaces.darts()
    costs = summary.costs(
        jd.genotypes.DARTS_V2, space, images.Config(dataset="digits"), 10, (8, 8, 1)
    )
    net = space.network(jd.genotypes.DARTS_V2, 8, 3, 10, auxiliary=False)
    assert costs["trained_parameters"] == jd.count_params(net, (8, 8, 1))
    labels = summary.labelled(costs, space, images.Config(dataset="digits"))
    name = "Parameters of the network to train, at 8 channels and 3 cells"
    assert labels[name] == costs["trained_parameters"]
    assert labels["Parameters of the network at 36 channels and 20 cells"] == costs["parameters"]
    # A network of eight cells cannot halve such images; one of a single cell was searched.
    costs = summary.costs(
        jd.genotypes.DARTS_V2, space, images.Config(dataset="npz:x.npz"), 10, (10, 10, 1)
    )
    assert not costs
    costs = {"dataset": "digits"} | FACTS
    assert "parameters at" not in summary.sentence(costs, space, images.Config(dataset="digits"))
    # One size is named once.
    costs = summary.costs(
        jd.genotypes.DARTS_V2, space, images.Config(dataset="cifar10"), 10, (32, 32, 3)
    )
    assert len(summary.labelled(costs, space, images.Config(dataset="cifar10"))) == 2


FACTS = {
    "found_cell_supernet_loss": 1.0,
    "random_cells_supernet_loss": 2.0,
    "found_cell_supernet_accuracy": 0.8,
    "largest_class_share": 0.5,
    "parameters": 3_000_000,
}
GOOD_CELL = {"normal": ["sep_conv_3x3"] * 4, "reduce": ["skip_connect"] * 4}


def warned(facts=FACTS, cell=GOOD_CELL, **settings):
    config = images.Config(**settings)
    return summary.warnings(config, facts, cell)


def test_nothing_is_warned_of_a_good_cell():
    assert warned() == [] and warned(cost_weight=1.0, cost_target=3.3) == []
    assert warned(cost_target=0.1) == []  # no weight, no target


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"cell": {"normal": ["skip_connect"] * 3 + ["sep_conv_3x3"]}}, "3 of its 4 operations"),
        ({"cell": {"normal": ["max_pool_3x3"] * 4}}, "4 have no weights"),
        ({"cost_weight": 1.0, "cost_target": 2.5}, "misses --cost_target=2.5.*3.000 million"),
        (
            {
                "cost_weight": 1.0,
                "cost_target": 2.5,
                "cost_of": "latency",
                "facts": FACTS | {"latency_ms": 2.6},
            },
            "misses --cost_target=2.5: its network has a latency of 2.600 ms. Raise",
        ),
        ({"facts": FACTS | {"found_cell_supernet_loss": 2.5}}, "worse than random cells"),
        ({"facts": FACTS | {"found_cell_supernet_accuracy": 0.5}}, "largest class, 50.00%"),
    ],
)
def test_what_is_warned_of(changes, words):
    (warning,) = warned(**changes)
    assert re.search(words, warning)


def test_a_training_that_predicts_one_class_is_warned_of():
    names = ["cat", "dog"]
    confusion, cell = Confusion(np.array([[0, 2], [0, 6]]), names), jd.genotypes.DARTS_V2
    (warning,) = training_results.warnings(cell, "test", confusion)
    assert "75.00%" in warning and "dog" in warning
    confusion = Confusion(np.array([[2, 0], [1, 5]]), names)
    assert not training_results.warnings(cell, "test", confusion)
    assert not training_results.warnings(cell, "test", None)


def test_the_last_sentence_and_the_next_command():
    space = jd.spaces.darts()
    facts = FACTS | {"trained_parameters": 6194}
    line = summary.sentence(facts, space, images.Config(dataset="digits"))
    assert "validation accuracy 80.00%" in line and "better than random cells" in line
    assert "6,194 parameters at 8 channels and 3 cells" in line
    worse = summary.sentence(
        facts | {"found_cell_supernet_loss": 3.0}, space, images.Config(dataset="digits")
    )
    assert "not better than random cells" in worse
    config = images.Config(dataset="npz:a b.npz", data_dir="d")
    words = shlex.split(summary.next_command(config, Path("my run")))
    assert words[2:] == ["--arch=my run", "--dataset=npz:a b.npz", "--data_dir=d"]
    assert sizes.evaluated(space) == (36, 20)


def test_quoted_words_are_one_word_of_a_shell():
    for word in ("a", "a b", "it's", "$HOME's", "`x`'", "a\"b'c", "Genotype(normal=[('a', 0)])"):
        assert shlex.split(reproduce.quoted(word)) == [word]
    assert reproduce.quoted("('a', 0)") == "\"('a', 0)\""


RNN_CELL = jd.genotypes.RecurrentGenotype((("identity", 0), ("identity", 1)), (1, 2))


def test_a_degenerate_cell_is_warned_of_after_its_training_too():
    pairs = (("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 0), ("sep_conv_3x3", 2))
    cell = jd.Genotype(pairs, (2, 3), jd.genotypes.DARTS_V2.reduce[:4], (2, 3))
    (warning,) = training_results.warnings(cell, "test", None)
    assert warning.startswith("The normal cell degenerates: 3 of its 4 operations are skip")
    confusion = Confusion(np.array([[5, 0], [3, 0]]), ("a", "b"))
    assert len(training_results.warnings(cell, "test", confusion)) == 2
    assert training_results.warnings(jd.genotypes.DARTS_V2, "test", None) == []
    assert training_results.warnings(RNN_CELL, "test", None) == []
