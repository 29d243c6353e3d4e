"""Genotypes: published cells, readers and writers of the dialects, and the rules with the messages
that name them.
"""

import csv
import gzip
import json
import re

import pytest

from jaxdarts import genotypes
from jaxdarts.genotypes import (
    Genotype,
    RecurrentGenotype,
    TopologyGenotype,
    check,
    from_json,
    parse,
    to_json,
    to_nested,
    to_nni,
)

CELLS = {
    name: genotype
    for name, genotype in genotypes.PUBLISHED.items()
    if isinstance(genotype, Genotype)
}
TINY = Genotype(
    (("skip_connect", 0), ("sep_conv_3x3", 1)),
    (2,),
    (("max_pool_3x3", 0), ("avg_pool_3x3", 1)),
    (2,),
)
RNN = RecurrentGenotype((("tanh", 0), ("relu", 1)), (1, 2))
# The cell of NATS-Bench's size space: all six edges, three operations.
TOPOLOGY_TEXT = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
TOPOLOGY = TopologyGenotype(
    (
        ("nor_conv_3x3", 0),
        *(("nor_conv_3x3", 0), ("nor_conv_3x3", 1)),
        *(("skip_connect", 0), ("nor_conv_3x3", 1), ("nor_conv_3x3", 2)),
    )
)
# As the original prints it; written out here so that no helper of the module can hide a slip.
DARTS_V2_TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),"
    " ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),"
    " ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0),"
    " ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),"
    " ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
REST = "normal_concat=[2], reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1)], reduce_concat=[2])"


def refuses(function, argument, *words):
    with pytest.raises(ValueError) as error:
        function(argument)
    message = str(error.value)
    assert len(message) < 400, message
    for word in words:
        assert word in message, message


def nested(genotype):
    """The text of pt.darts."""
    fields = genotype._asdict()
    for name in ("normal", "reduce"):
        fields[name] = [list(fields[name][i : i + 2]) for i in range(0, len(fields[name]), 2)]
    return f"Genotype({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


def nni(genotype, wrap=False):
    """NNI's dictionary."""
    entries = {}
    for cell in ("normal", "reduce"):
        for i, (op, source) in enumerate(getattr(genotype, cell)):
            entries[f"{cell}/op_{2 + i // 2}_{i % 2}"] = op
            entries[f"{cell}/input_{2 + i // 2}_{i % 2}"] = [source] if wrap else source
    return entries


# ---------------------------------------------------------------------------------------- published


def test_published_names():
    names = {
        "DARTS_V1",
        "DARTS_V2",
        "DARTS",
        "NASNet",
        "AmoebaNet",
        "PC_DARTS_cifar",
        "PC_DARTS_image",
        "PCDARTS",
    }
    names |= {"PDARTS", "GDAS_V1", "SNAS", "DrNAS_cifar10", "DrNAS_imagenet"}
    names |= {"RNN_DARTS_V1", "RNN_DARTS_V2", "RNN_ENAS", "penn_random", "penn_pgd"}
    spaces = ["c10_s5"] + [f"{data}_s{i}" for data in ("c10", "c100", "svhn") for i in (1, 2, 3, 4)]
    names |= {f"{space}_{kind}" for space in spaces for kind in ("random", "pgd")}
    assert set(genotypes.PUBLISHED) == names
    assert all(
        getattr(genotypes, name) is genotype for name, genotype in genotypes.PUBLISHED.items()
    )
    assert genotypes.DARTS is genotypes.DARTS_V2 and genotypes.PCDARTS is genotypes.PC_DARTS_cifar
    assert len(set(genotypes.PUBLISHED.values())) == len(names) - 2
    with pytest.raises(TypeError):
        genotypes.PUBLISHED["mine"] = TINY


@pytest.mark.parametrize("name", genotypes.PUBLISHED)
def test_published_reads_back(name):
    genotype = genotypes.PUBLISHED[name]
    check(genotype)
    assert parse(str(genotype)) == parse(repr(genotype)) == from_json(to_json(genotype)) == genotype
    assert isinstance(parse(str(genotype)), type(genotype))
    assert {genotype: 1}[parse(str(genotype))] == 1


@pytest.mark.parametrize("name", CELLS)
def test_published_reads_back_from_other_dialects(name):
    genotype = CELLS[name]
    assert parse(nested(genotype)) == genotype
    # The dictionary does not hold the concat: all nodes make the output.
    nodes = tuple(range(2, 2 + len(genotype.normal) // 2))
    expected = genotype._replace(normal_concat=nodes, reduce_concat=nodes)
    assert parse(str(nni(genotype))) == parse(f"arch = {nni(genotype, wrap=True)}") == expected
    assert parse(json.dumps(nni(genotype), indent=1)) == expected
    assert (expected == genotype) == (name not in ("NASNet", "AmoebaNet"))


def test_darts_v2_by_hand():
    assert str(genotypes.DARTS_V2) == f"{genotypes.DARTS_V2}" == DARTS_V2_TEXT
    assert genotypes.DARTS_V2.normal[6:] == (("skip_connect", 0), ("dil_conv_3x3", 2))


def test_large_cells_by_hand():
    assert genotypes.AmoebaNet.reduce[-2:] == (("conv_7x1_1x7", 0), ("sep_conv_3x3", 5))
    assert genotypes.AmoebaNet.reduce_concat == (3, 4, 6) and genotypes.NASNet.normal_concat == (
        2,
        3,
        4,
        5,
        6,
    )
    assert genotypes.NASNet.normal[6:8] == (
        ("avg_pool_3x3", 0),
        ("avg_pool_3x3", 0),
    )  # one source twice
    assert (
        genotypes.RNN_ENAS.concat == (2, 5, 6, 9, 10, 11)
        and len(genotypes.RNN_ENAS.recurrent) == 11
    )
    assert genotypes.RNN_DARTS_V2.recurrent[5] == ("sigmoid", 5)


def test_skips_of_collapsed_search():
    assert [op for op, _ in genotypes.svhn_s1_random.normal].count("skip_connect") == 7


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        "DARTS_V2 = {}",
        "11/22 03:00:01 AM genotype = {}",
        "2026-11-22 03:00:01,123 INFO best: {}  # epoch 49",
        "\n\t  {}\n\n",
    ],
)
def test_what_may_stand_around(frame):
    assert parse(frame.format(DARTS_V2_TEXT)) == genotypes.DARTS_V2
    assert parse(frame.format(nni(genotypes.DARTS_V2))) == genotypes.DARTS_V2


def test_ranges_tuples_and_lines():
    text = DARTS_V2_TEXT.replace("[2, 3, 4, 5]", "range(2, 6)")
    assert parse(text) == parse(text.replace("[", "(").replace("]", ")")) == genotypes.DARTS_V2
    assert (
        parse(text.replace(", ", ",\n  ").replace("Genotype(", "Genotype (\n"))
        == genotypes.DARTS_V2
    )
    assert parse("Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 3))") == RNN
    assert parse("Genotype(recurrent=[['tanh', 0], ['relu', 1]], concat=(2, 1))") == RNN._replace(
        concat=(2, 1)
    )
    assert str(RNN) == "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=[1, 2])"


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').getcwd()",
        "[('skip_connect', 0), ('sep_conv_3x3', print('seen'))]",
        "[('skip_connect', 0) for _ in range(2)]",
        "[('skip_connect', 0)] * 2",
        "sorted(range(2))",
        "OPS",
        "(lambda: 1)()",
        "range(2, stop=4)",
        "range('a')",
        "range(1, 9, 0)",
        "f'{print(1)}'",
    ],
)
def test_nothing_is_evaluated(value, capsys):
    refuses(parse, f"Genotype(normal={value}, {REST}", "must be a literal", "nothing is evaluated")
    refuses(parse, f"{{'normal/op_2_0': {value}}}", "must be a literal", "nothing is evaluated")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no genotype in ''", "expected Genotype(...)"]),
        ("DARTS_V2", ["no genotype in 'DARTS_V2'"]),
        ("MyGenotype(normal=[])", ["no genotype"]),
        (
            f"{DARTS_V2_TEXT}\n{DARTS_V2_TEXT}",
            ["not exactly one complete genotype", "invalid syntax"],
        ),
        (f"{DARTS_V2_TEXT}, 1", ["more than one genotype"]),
        (f"{DARTS_V2_TEXT}()", ["more than one genotype"]),
        (f"os.{DARTS_V2_TEXT}", ["unexpected 'os.' before"]),
        (f"'{DARTS_V2_TEXT}'", ['unexpected "\'" before']),
        (f"import os\nx = {DARTS_V2_TEXT}", ["unexpected 'import os\\nx = ' before"]),
        (DARTS_V2_TEXT[:-1], ["not exactly one complete genotype", "never closed"]),
        ("Genotype()", ["'normal' is missing", "normal, normal_concat, reduce, reduce_concat"]),
        ("Genotype([], [], [], [])", ["normal is empty"]),
        ("Genotype([], [], [], [], [])", ["5 fields without names", "normal_concat"]),
        ("Genotype([], [], normal=[], reduce=[])", ["field 'normal' is given twice"]),
        ("Genotype(**{})", ["must be written name=value"]),
        ("Genotype(recurrent=[('tanh', 0)])", ["'concat' is missing", "recurrent, concat"]),
        ("Genotype(normal=1, normal=2)", ["field 'normal' is given twice"]),
        (f"Genotype(norml=[], {REST}", ["unknown field 'norml'", "did you mean 'normal'?"]),
        (
            f"Genotype(normal=[('re\\lu', 0)], {REST}",
            ["not exactly one complete genotype", "escape"],
        ),
        ("Genotype(\0)", ["not exactly one complete genotype"]),
        ("Genotype('\ud800')", ["not exactly one complete genotype"]),
        (
            f"Genotype(normal=[[('skip_connect', 0)], [('skip_connect', 0)]], {REST}",
            ["normal[0] = ", "has 1 pairs", "two"],
        ),
        (f"Genotype(normal=[[('noise', 0)] * 3], {REST}", ["must be a literal"]),
        ("{1, 2}", ["more than one genotype, or something else"]),
        ("{[]: 1}", ["must be a literal"]),
        ("{**a}", ["must be a literal"]),
        ("{}", ["'normal' is missing"]),
        ("{'normal': [], 'normal_concat': []}", ["'reduce' is missing"]),
        ("{'layer_1': 3}", ["layer_1", "is none of", "normal/op_2_0", "normal_n2_p0"]),
        ("{1: 3}", ["is none of"]),
        ("{'normal/op_2_0': 'noise', 'normal/op_2_0': 'noise'}", ["a key twice"]),
        (str(nni(TINY) | {"width": 36}), ["unknown key 'width'", "'normal/op_2_0'"]),
        (str(nni(TINY) | {3: 36}), ["unknown key 3"]),
        (str(nni(TINY) | {"normal/op_3_0": "noise"}), ["lacks 'normal/input_3_0'"]),
        (
            str(nni(TINY) | {"reduce/input_2_1": [0, 1]}),
            ["reduce[1] = ('avg_pool_3x3', [0, 1])", "must be an int"],
        ),
        (
            str(nni(TINY) | {"reduce/input_2_1": 2}),
            ["reduce[1] = ('avg_pool_3x3', 2): state 2 may only read states 0 to 1"],
        ),
    ],
)
def test_malformed_text(text, words):
    refuses(parse, text, *words)


@pytest.mark.parametrize(
    "unit", ["[", "(", "{", "{1:", "-", "not ", "a.", "1+", "1**", "f(", "lambda:", "a[0]"]
)
def test_deep_text(unit):
    for size in (1_000, 99_000):
        refuses(parse, f"Genotype(normal={unit * (size // len(unit))}1)")
    refuses(from_json, unit * (99_000 // len(unit)))


def test_long_text():
    refuses(parse, DARTS_V2_TEXT + " " * 100_000, "characters is no genotype; at most 100000")
    refuses(from_json, " " * 100_001, "100001 characters")
    refuses(
        parse,
        f"Genotype(recurrent=[('{'a' * 90_000}', 0)], concat=[1])",
        "recurrent[0] = ('aaa",
        "unknown operation",
    )
    for number in ("0x" + "f" * 90_000, "9" * 90_000):
        refuses(parse, f"Genotype(recurrent=[('tanh', {number})], concat=[1])")
    refuses(
        parse,
        f"Genotype(recurrent=[('tanh', 0)], concat=range(1, {10**30}))",
        "concat[1] = 2",
        "states 1 to 1",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["'' is not JSON"]),
        ("{", ["is not JSON"]),
        ("[]", ["must be a JSON object"]),
        ("null", ["must be a JSON object"]),
        ("{}", ["'normal' is missing"]),
        (
            to_json(TINY).replace('"reduce":', '"reduced":'),
            ["unknown field 'reduced'", "did you mean 'reduce'?"],
        ),
        (to_json(TINY).replace('"reduce":', '"normal":'), ["given twice among normal"]),
        (to_json(RNN).replace('"concat"', '"normal_concat"'), ["unknown field 'normal_concat'"]),
        (
            to_json(TINY).replace('"sep_conv_3x3", 1', '"sep_conv_3x3", 1.0'),
            ["normal[1]", "must be an int, not float"],
        ),
        (
            to_json(TINY).replace('"sep_conv_3x3", 1', '"sep_conv_3x3", true'),
            ["normal[1]", "must be an int, not bool"],
        ),
        (to_json(TINY).replace("[2]", "2"), ["normal_concat = 2 must be a tuple"]),
        (
            '{"normal": "abcd", "normal_concat": [2], "reduce": [], "reduce_concat": [2]}',
            ["normal = 'abcd' must be a tuple"],
        ),
    ],
)
def test_malformed_json(text, words):
    refuses(from_json, text, *words)


def test_json_layout():
    text = to_json(TINY)
    assert text.endswith("]\n}\n") and text.count("\n") == 6
    assert json.loads(text) == {
        "normal": [["skip_connect", 0], ["sep_conv_3x3", 1]],
        "normal_concat": [2],
        "reduce": [["max_pool_3x3", 0], ["avg_pool_3x3", 1]],
        "reduce_concat": [2],
    }
    refuses(to_json, TINY._replace(reduce_concat=()), "reduce_concat = ()")


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("name", CELLS)
def test_published_written_in_other_dialects(name):
    genotype = CELLS[name]
    assert parse(to_nested(genotype)) == genotype
    if name in ("NASNet", "AmoebaNet"):
        refuses(
            to_nni,
            genotype,
            "_concat = (4, 5, 6): NNI's dictionary cannot tell it from all nodes",
            "(2, 3, 4, 5, 6)",
        )
    else:
        assert parse(to_nni(genotype)) == genotype
        assert json.loads(to_nni(genotype)) == nni(genotype)


def test_writers_by_hand():
    assert (
        to_nested(TINY)
        == "Genotype(normal=[[('skip_connect', 0), ('sep_conv_3x3', 1)]], normal_concat=[2], "
        "reduce=[[('max_pool_3x3', 0), ('avg_pool_3x3', 1)]], reduce_concat=[2])"
    )
    lines = to_nni(TINY).splitlines()
    assert (
        lines[:3] == ["{", '  "normal/op_2_0": "skip_connect",', '  "normal/input_2_0": 0,']
        and len(lines) == 10
    )


def test_what_the_dialects_cannot_express():
    for other in (RNN, TOPOLOGY):
        refuses(to_nested, other, f"a {type(other).__name__} has no form as nested lists")
        refuses(to_nni, other, f"a {type(other).__name__} has no form as NNI's dictionary")
    refuses(
        to_nni,
        TINY._replace(normal=TWO, normal_concat=(3, 2)),
        "normal_concat = (3, 2)",
        "all nodes in order, (2, 3)",
    )
    for writer in (to_nested, to_nni):
        refuses(writer, TINY._replace(reduce=()), "reduce is empty")


# ------------------------------------------------------------------------------------ NAS-Bench-201


def test_topology():
    assert str(TOPOLOGY) == TOPOLOGY_TEXT
    assert parse(TOPOLOGY_TEXT) == parse(repr(TOPOLOGY)) == from_json(to_json(TOPOLOGY)) == TOPOLOGY
    assert {TOPOLOGY: 1}[parse(TOPOLOGY_TEXT)] == 1
    assert parse(f"11/22 03:00:01 AM best = {TOPOLOGY_TEXT}  # index 13714") == TOPOLOGY
    assert parse("INFO | arch: | none ~ 0 | + | none~0 | skip_connect~1|\n").cell[2] == (
        "skip_connect",
        1,
    )


def test_every_string_of_the_benchmark(shared):
    with gzip.open(shared / "data" / "nasbench201" / "cifar10.csv.gz", "rt") as file:
        strings = [row["arch_str"] for row in csv.DictReader(file)]
    parsed = {parse(string) for string in strings}
    assert len(strings) == len(parsed) == 5**6
    assert {str(genotype) for genotype in parsed} == set(strings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "|none~0|+|none~0|",
            ["node 2, '|none~0|', has 1 pairs; it reads states 0 to 1, each once"],
        ),
        ("|none~0|none~0|", ["node 1", "has 2 pairs; it reads states 0 to 0"]),
        (
            "|none~0|+|none~1|none~0|",
            ["cell[1] = ('none', 1): node 2 reads states 0 to 1, each once and in this order"],
        ),
        ("|none~0|+|none~0|none~2|", ["cell[2] = ('none', 2): node 2 reads states 0 to 1"]),
        (
            "|nor_conv3x3~0|",
            [
                "cell[0] = ('nor_conv3x3', 0): unknown operation (did you mean 'nor_conv_3x3'?);"
                " known are none"
            ],
        ),
        ("|sep_conv_3x3~0|", ["cell[0] = ('sep_conv_3x3', 0): unknown operation"]),
        (
            "|none~0|+|none~0|none|",
            ["node 2", "has 'none'; expected an operation, '~' and its source state"],
        ),
        ("|none~x|", ["node 1", "has 'none~x'"]),
        ("|none~0", ["node 1, '|none~0', must stand between bars"]),
        ("|none~0||none~0|none~1|", ["node 1", "has ''"]),
        ("|none~0|+", ["node 2, '', must stand between bars"]),
        ("|none~0|\n|none~0|", ["node 1", "must stand between bars"]),
        ("arch|none~0|", ["unexpected 'arch' before"]),
        (f"|none~{'9' * 5000}|", ["has 'none~999"]),
    ],
)
def test_malformed_topology(text, words):
    refuses(parse, text, *words)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ((), ["cell is empty"]),
        ([("none", 0)], ["must be a tuple"]),
        ((("none", 0), ("none", 0)), ["cell has 2 pairs: node 2 lacks state 1; it reads 0 to 1"]),
        (
            (("none", 0), ("none", 1), ("none", 0)),
            ["cell[1] = ('none', 1): node 2 reads states 0 to 1"],
        ),
        ((("none", False),), ["cell[0] = ('none', False)", "must be an int, not bool"]),
        ((("none", 0, 1),), ["cell[0] = ('none', 0, 1)", "and its source state"]),
    ],
)
def test_rules_of_topologies(cell, words):
    refuses(check, TopologyGenotype(cell), *words)
    with pytest.raises(ValueError, match="unknown operation"):
        check(TOPOLOGY, ("none", "skip_connect"))


# -------------------------------------------------------------------------------------------- rules

TWO = TINY.normal + (("noise", 1), ("dil_conv_5x5", 2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"normal": TWO + (("noise", 0),)}, ["normal has 5 pairs", "every node needs exactly two"]),
        ({"normal": ()}, ["normal is empty", "one node at least"]),
        (
            {"reduce": [*TINY.reduce]},
            ["reduce = [('max_pool", "must be a tuple", "parse(str(genotype))"],
        ),
        (
            {"normal": (("noise", 0), ["noise", 0])},
            ["normal[1] = ['noise', 0]", "a tuple of an operation's name"],
        ),
        (
            {"normal": (("noise", 0), ("noise", 0, 1))},
            ["normal[1] = ('noise', 0, 1)", "and its source state"],
        ),
        ({"normal": ((0, "noise"), ("noise", 0))}, ["normal[0] = (0, 'noise')"]),
        (
            {"normal": TWO[:3] + (("sep_conv_3x3", 7),)},
            ["normal[3] = ('sep_conv_3x3', 7): state 3 may only read states 0 to 2"],
        ),
        (
            {"normal": (("noise", 2), ("noise", 0))},
            ["normal[0] = ('noise', 2): state 2 may only read states 0 to 1"],
        ),
        (
            {"reduce": (("noise", 0), ("noise", -1))},
            ["reduce[1] = ('noise', -1): state 2 may only read"],
        ),
        (
            {"reduce": (("noise", True), ("noise", 0))},
            ["reduce[0] = ('noise', True)", "must be an int, not bool"],
        ),
        (
            {"reduce": (("None", 0), ("noise", 0))},
            ["reduce[0] = ('None', 0)", "unknown operation (did you mean 'none'?)"],
        ),
        (
            {"normal": (("sep_conv3x3", 0), ("noise", 0))},
            [
                "normal[0] = ('sep_conv3x3', 0): unknown operation (did you mean 'sep_conv_3x3'?);"
                " known are"
            ],
        ),
        ({"normal": (("tanh", 0), ("noise", 0))}, ["normal[0] = ('tanh', 0): unknown operation"]),
        ({"normal_concat": ()}, ["normal_concat = ()", "one state at least"]),
        ({"normal_concat": range(2, 3)}, ["normal_concat = range(2, 3) must be a tuple"]),
        (
            {"normal_concat": (1, 2)},
            ["normal_concat[0] = 1: the nodes of this cell make states 2 to 2"],
        ),
        ({"normal": TWO, "normal_concat": (3, 4)}, ["normal_concat[1] = 4", "states 2 to 3"]),
        ({"normal": TWO, "normal_concat": (2, 3, 2)}, ["normal_concat[2] = 2", "only once"]),
        ({"reduce_concat": (2.0,)}, ["reduce_concat[0] = 2.0", "must be an int, not float"]),
    ],
)
def test_rules_of_cells(fields, words):
    genotype = TINY._replace(**fields)
    refuses(check, genotype, *words)
    refuses(to_json, genotype, *words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"recurrent": (("tanh", 0), ("relu", 2))},
            ["recurrent[1] = ('relu', 2): state 2 may only read states 0 to 1"],
        ),
        (
            {"recurrent": (("tanh", 1), ("relu", 1))},
            ["recurrent[0] = ('tanh', 1): state 1 may only read states 0 to 0"],
        ),
        (
            {"recurrent": (("none", 0), ("relu", 1))},
            ["recurrent[0] = ('none', 0)", "searches only"],
        ),
        (
            {"recurrent": (("sigmod", 0), ("relu", 1))},
            ["did you mean 'sigmoid'?", "tanh, relu, sigmoid, identity"],
        ),
        (
            {"recurrent": (("sep_conv_3x3", 0), ("relu", 1))},
            ["recurrent[0] = ('sep_conv_3x3', 0): unknown operation"],
        ),
        (
            {"recurrent": (("tanh", 0), ("relu", False))},
            ["recurrent[1] = ('relu', False)", "not bool"],
        ),
        ({"recurrent": ()}, ["recurrent is empty"]),
        ({"concat": (0, 1)}, ["concat[0] = 0: the nodes of this cell make states 1 to 2"]),
        ({"concat": (1, 1)}, ["concat[1] = 1", "only once"]),
    ],
)
def test_rules_of_recurrent_cells(fields, words):
    refuses(check, RNN._replace(**fields), *words)


def test_check_with_operations():
    check(genotypes.DARTS_V2, ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"))
    check(genotypes.DARTS_V2, iter(genotypes.OPS))
    check(RNN, {"tanh", "relu"})
    with pytest.raises(
        ValueError, match=re.escape("normal[7] = ('dil_conv_3x3', 2): unknown operation")
    ):
        check(genotypes.DARTS_V2, ("max_pool_3x3", "skip_connect", "sep_conv_3x3"))
    empty = TINY._replace(normal=(("none", 0), ("none", 1)))
    check(empty)
    check(empty, ("none", *genotypes.OPS))
    refuses(lambda cell: check(cell, genotypes.OPS), empty, "normal[0] = ('none', 0)", "unknown")


def test_check_of_something_else():
    refuses(
        check,
        DARTS_V2_TEXT,
        "is not a Genotype, RecurrentGenotype, TopologyGenotype, SizeGenotype, GraphGenotype or"
        " ChoiceGenotype",
    )
    refuses(
        check,
        tuple(TINY),
        "is not a Genotype, RecurrentGenotype, TopologyGenotype, SizeGenotype, GraphGenotype or"
        " ChoiceGenotype",
    )


def test_order_is_kept():
    genotype = TINY._replace(normal=TWO, normal_concat=(3, 2))
    assert parse(str(genotype)) == from_json(to_json(genotype)) == genotype
    assert parse(str(TINY._replace(normal=[*TINY.normal]))) == TINY


# ------------------------------------------------------------------------- variants of other code

OLD_NNI = {
    "normal_n2_p0": "dilconv5x5",
    "normal_n2_p1": ["sepconv3x3"],
    "normal_n2_switch": ["normal_n2_p1", "normal_n2_p0"],
    "normal_n3_p0": "none",
    "normal_n3_p1": "maxpool",
    "normal_n3_p2": "avgpool",
    "normal_n3_switch": [0, 2],
    "reduce_n2_p0": "maxpool",
    "reduce_n2_p1": "skipconnect",
    "reduce_n2_switch": ["reduce_n2_p0", "reduce_n2_p1"],
}


def test_keys_of_older_nni():
    cell = parse(str(OLD_NNI))
    assert cell == from_json(json.dumps(OLD_NNI)) == parse(json.dumps(OLD_NNI))
    assert cell.normal == (
        ("sep_conv_3x3", 1),
        ("dil_conv_5x5", 0),
        ("none", 0),
        ("avg_pool_3x3", 2),
    )
    assert cell.normal_concat == (2, 3) and cell.reduce_concat == (2,)
    assert cell.reduce == (("max_pool_3x3", 0), ("skip_connect", 1))


def test_forms_of_choices_in_older_nni():
    """True and false for each candidate in NNI's order; with the values of its search space."""
    masked = {
        "normal_n2_p0": [one == 6 for one in range(7)],
        "normal_n2_p1": [one == 3 for one in range(8)],
        "normal_n3_p0": [one == 7 for one in range(8)],
        "normal_n3_switch": [True, False, True],
        "reduce_n2_switch": [True, True],
    }
    valued = {name: {"_value": value, "_idx": 0} for name, value in OLD_NNI.items()}
    cell = parse(json.dumps(OLD_NNI))
    assert parse(json.dumps(valued)) == cell
    assert parse(json.dumps(OLD_NNI | masked)) == cell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normal_n2_switch": None}, ["lacks 'normal_n2_switch'"]),
        ({"normal_n2_switch": ["normal_n2_p0"]}, ["normal_n2_switch", "a list of two"]),
        ({"normal_n2_switch": ["normal_n2_p0", "normal_n2_p0"]}, ["a list of two"]),
        ({"normal_n2_switch": ["normal_n2_p0", "normal_n2_p2"]}, ["normal_n2_p2", "node 2 reads"]),
        ({"normal_n2_switch": [True, False]}, ["['normal_n2_p0']", "a list of two"]),
        ({"normal_n3_switch": [True, True]}, ["a list of two"]),
        ({"normal_n2_p0": [True, True, *[False] * 5]}, ["['maxpool', 'avgpool']", "no operation"]),
        ({"normal_n2_p0": {"_value": "pool"}}, ["'pool' is no operation"]),
        ({"normal_n2_p0": None}, ["normal_n2_p0 = None", "maxpool"]),
        ({"normal_n2_p0": [True, False]}, ["normal_n2_p0", "maxpool"]),
        ({"normal_n9_p0": "maxpool"}, ["lacks 'normal_n4_switch'"]),
        ({"reduce_n2_switch": None, "reduce_n2_p0": None, "reduce_n2_p1": None}, ["lacks"]),
        ({"other": 1}, ["unknown key 'other'"]),
    ],
)
def test_malformed_keys_of_older_nni(changes, words):
    entries = {k: v for k, v in (OLD_NNI | changes).items() if v is not None}
    refuses(parse, str(entries), *words)


TINY_TEXT = (
    "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1)], reduce_concat=[2])"
)
MODEL = "ModelSpec(matrix=[[0, 1, 0], [0, 0, 1], [0, 0, 0]], ops=['input', 'maxpool3x3', 'output'])"
STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("genotypes." + TINY_TEXT, TINY_TEXT),
        ("best = cnn.genotypes." + TINY_TEXT, TINY_TEXT),
        ("11/22 03:00:01 AM genotype = genotypes." + TINY_TEXT, TINY_TEXT),
        (TINY_TEXT[:-1] + ", connectN=None, connects=None)", TINY_TEXT),
        ("genotype = gt." + TINY_TEXT, TINY_TEXT),
        (re.sub(r"\w+=", "", TINY_TEXT), TINY_TEXT),
        (re.sub(r"matrix=|ops=", "", MODEL[:-1]) + ", 'channels_last')", MODEL),
        ("Genotype([('tanh', 0), ('relu', 1)], range(1, 3))", str(RNN)),
        (TINY_TEXT.replace("[2]", "list(range(2, 3))"), TINY_TEXT),
        (TINY_TEXT.replace("[2]", "np.arange(2, 3)"), TINY_TEXT),
        (TINY_TEXT.replace("', 0)", "', tensor(0, device='cuda:0'))"), TINY_TEXT),
        (TINY_TEXT.replace("[2]", "torch.tensor([2])"), TINY_TEXT),
        (json.dumps(TINY._asdict() | {"connectN": None}), TINY_TEXT),
        (TINY_TEXT.replace("', 0)", "', np.int64(0))"), TINY_TEXT),
        (TINY_TEXT.replace("[2]", "range(np.int64(2), numpy.int32(3))"), TINY_TEXT),
        (TINY_TEXT.replace("'skip_connect'", "np.str_('skip_connect')"), TINY_TEXT),
        ("\ufeff" + TINY_TEXT, TINY_TEXT),
        ("api." + MODEL, MODEL),
        (MODEL[:-1] + ", data_format='channels_last')", MODEL),
        (MODEL.replace("[[", "np.array([[").replace("]],", "]]),"), MODEL),
        (f"Structure(4 nodes with {STRING})", STRING),
        (f"arch = Structure(4 nodes with {STRING} )", STRING),
    ],
)
def test_variants_that_say_the_same(text, plain):
    assert parse(text) == parse(plain)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("genotypes.other " + TINY_TEXT.replace("Genotype", "x.Cell"), ["no genotype"]),
        (f"Structure(4 nodes with {STRING}", ["lacks the bracket"]),
        (f"Structure(5 nodes with {STRING})", ["has 4 nodes, not 5"]),
        (TINY_TEXT[:-1] + ", connectN=3)", ["unknown field 'connectN'"]),
        (TINY_TEXT.replace("', 0)", "', np.int64(0, 1))"), ["must be a literal"]),
        (TINY_TEXT.replace("', 0)", "', os.system('x'))"), ["must be a literal"]),
        (TINY_TEXT.replace("', 0)", "', tensor(0, run=f()))"), ["must be a literal"]),
        (json.dumps({"normal_n2_p0": [True, False]}), ["lacks 'normal_n2_switch'"]),
        (TINY_TEXT[:-1] + ", data_format='channels_last')", ["unknown field 'data_format'"]),
    ],
)
def test_variants_that_are_refused(text, words):
    refuses(parse, text, *words)


@pytest.mark.parametrize("form", [parse, from_json])
def test_none_is_an_operation(form):
    cell = TINY._replace(normal=(("none", 1), ("sep_conv_3x3", 0)))
    assert form(str(cell) if form is parse else to_json(cell)) == cell


# ------------------------------------------------------------------------------------- dead nodes


@pytest.mark.parametrize("nodes", [4, 5])
def test_a_pair_for_every_edge_is_refused(nodes):
    every = [("sep_conv_3x3", j) for i in range(nodes) for j in range(2 + i)]
    for name in ("normal", "reduce"):
        fields = {**TINY._asdict(), name: every, f"{name}_concat": list(range(2, 2 + nodes))}
        text = f"Genotype({', '.join(f'{key}={value}' for key, value in fields.items())})"
        refuses(parse, text, f"{name} has {len(every)} pairs", f"every edge of {nodes} nodes")
        refuses(from_json, json.dumps(fields), f"{name} has {len(every)} pairs")


@pytest.mark.parametrize("nodes", [2, 8])
def test_a_pair_for_every_edge_of_a_recurrent_cell_is_refused(nodes):
    every = tuple(("tanh", j) for i in range(nodes) for j in range(i + 1))
    cell = RecurrentGenotype(every, tuple(range(1, nodes + 1)))
    words = f"recurrent has {len(every)} pairs", f"every edge of {nodes} nodes"
    refuses(parse, f"Genotype(recurrent={[*every]}, concat={[*cell.concat]})", *words)
    refuses(from_json, json.dumps(cell._asdict()), *words)


def test_dead_nodes_are_named():
    dead = (*TINY.normal, ("sep_conv_3x3", 0), ("skip_connect", 2), ("sep_conv_3x3", 0)) * 1
    cell = TINY._replace(normal=(*dead, ("skip_connect", 3)), normal_concat=(2,))
    with pytest.warns(UserWarning, match=r"normal: nodes 3, 4 are no part of the output"):
        assert parse(str(cell)) == cell
    read_by_others = cell._replace(normal_concat=(4,))  # 4 reads 3, which reads 2
    assert parse(str(read_by_others)) == read_by_others
    cell = RNN._replace(concat=(1,))
    with pytest.warns(UserWarning, match=r"recurrent: node 2 is no part"):
        assert from_json(to_json(cell)) == cell


def test_published_cells_have_no_dead_nodes():
    for cell in genotypes.PUBLISHED.values():  # a warning is an error here
        assert parse(str(cell)) == cell
