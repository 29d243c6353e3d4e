"""Flags that do nothing with a method are named. Oracle: the table of methods in docs/search.md."""

import re
from pathlib import Path

import pytest

from jaxdarts import runs, spaces
from jaxdarts.commands.methods import METHODS
from jaxdarts.commands.search import images, text, unread

DOCS = Path(__file__).parents[2] / "docs" / "search.md"
OTHER = {
    "epsilon_alpha": "0.37",
    "attack_steps": "3",
    "lambda_valid": "0.37",
    "neighbours": "3",
    "distance": "2",
    "aggregate": "minimum",
    "radius": "0.37",
    "radius_steps": "3",
    "neumann_terms": "5",
    "beta_weight": "0.37",
    "entropy_weight": "0.37",
    "tau_start": "0.37",
    "tau_end": "0.37",
    "zero_one_weight": "0.37",
    "agreement": "0.37",
    "agreement_batches": "3",
    "alignment_weight": "0.37",
    "auxiliary_skip": "0.37",
}
"""A value of every flag of a method that is no method's default."""


def documented():
    """The flags that the table names for each method."""
    rows = re.findall(r"^\| (`[a-z_0-9` ]+) \| [^|]+ \|([^|]*)\|$", DOCS.read_text(), re.MULTILINE)
    table = {}
    for names, flags in rows:
        for name in re.findall(r"`(\w+)`", names):
            if name in METHODS:
                table[name] = set(re.findall(r"`--(\w+)`", flags)) & OTHER.keys()
    table["sdarts_rs"].discard("attack_steps")  # of the other method in its row
    return table


def searched(algorithm, *flags):
    return images.parse(["--dataset=digits", f"--algorithm={algorithm}", *flags])


def named(config):
    """The flags that do nothing; the space is of no matter."""
    return unread.unread(config, spaces.darts(2))


@pytest.mark.parametrize("algorithm", METHODS)
def test_every_flag_but_a_method_s_own_does_nothing(algorithm):
    table, flags = documented(), [f"--{name}={value}" for name, value in OTHER.items()]
    assert table.keys() == METHODS.keys()
    config = searched(algorithm, *flags)
    assert set(named(config)) & OTHER.keys() == OTHER.keys() - table[algorithm]
    assert named(searched(algorithm)) == []


def test_every_flag_of_a_method_is_in_the_table_of_this_test():
    added = {"algorithm", "perturbation", "regularizer", "alpha_loss", *unread._OF_THE_NETWORK}
    declared = runs.declared(images.Config).items()
    assert {name for name, one in declared if one.topic == "method"} == OTHER.keys() | added


def test_a_flag_that_another_flag_reads_does_something():
    flags = ["--perturbation=random", "--epsilon_alpha=0.37", "--beta_weight=0.37"]
    assert named(searched("darts", *flags)) == ["beta_weight"]
    flags += ["--regularizer=beta", "--alpha_loss=mixed", "--lambda_valid=0.37"]
    assert named(searched("darts", *flags)) == []


def test_flags_of_alpha_where_there_is_none():
    assert named(searched("random_sharing", "--arch_learning_rate=0.37")) == ["arch_learning_rate"]
    assert named(searched("darts", "--arch_learning_rate=0.37")) == []


def test_the_line():
    assert unread.warnings(searched("darts", "--radius=0.5"), spaces.darts()) == [
        "warning: --radius=0.5 does nothing with --algorithm=darts"
    ]
    config = text.parse(["--dataset=ptb", "--algorithm=darts", "--lambda_valid=0.5"])
    assert unread.warnings(config, spaces.darts_rnn()) == [
        "warning: --lambda_valid=0.5 does nothing with --algorithm=darts"
    ]
