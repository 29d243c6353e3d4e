"""The table of NAS-Bench-201. Oracles: rows written by hand, the benchmark's own count of unique
cells and best accuracies.
"""

import gzip
import itertools

import pytest

import jaxdarts as jd
from jaxdarts.data.benchmarks import tabular
from jaxdarts.genotypes import TOPOLOGY_OPS, TopologyGenotype

HEADER = (
    "index,arch_str,cifar10_valid_200,cifar10_test_200,"
    "cifar10_valid_12,params_millions,train_seconds_200"
)
A = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
    "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
)
B = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"
ROWS = [f"0,{A},81.9827,85.8633,63.364,0.129306,1444.22", f"1,{B},10,10.5,9.5,nan,600"]


def write(path, *lines, header=HEADER):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_reads_plain_and_packed_files(tmp_path):
    plain = write(tmp_path / "table.csv", *ROWS)
    packed = tmp_path / "packed.csv"  # the name does not say so
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tabular.read(plain)
    assert table == tabular.read(packed)
    # 12 of the 200 epochs: 1444.22 * 0.06.
    a, b = (jd.genotypes.parse(text) for text in (A, B))
    assert table[a] == tabular.Row(63.364, 81.9827, 85.8633, pytest.approx(86.6532))
    assert tabular.evaluate(table, b) == jd.Trial(b, 9.5, 10.5, 36.0)
    assert tabular.evaluate(table, b, 12) == jd.Trial(b, 9.5, 10.5, 36.0, epochs=12)
    assert tabular.evaluate(table, b, 200) == jd.Trial(b, 10.0, 10.5, 600.0, epochs=200)
    with pytest.raises(
        ValueError, match="the table has trainings of 12 and of 200 epochs, none of 90"
    ):
        tabular.evaluate(table, b, 90)
    column = tabular.column(plain, "params_millions")
    assert column[a] == 0.129306 and column[b] != column[b]


def test_a_cell_that_the_table_lacks(tmp_path):
    table = tabular.read(write(tmp_path / "table.csv", ROWS[0]))
    with pytest.raises(
        ValueError, match=r"the table has 1 cells, and \|nor_conv_3x3~0\|.* is none of them"
    ):
        tabular.evaluate(table, jd.genotypes.parse(B))


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "a header and no cells"),
        (
            [ROWS[0].replace("skip_connect~2", "skip_conect~2")],
            r"line 2: cell\[5\] = .*unknown operation .did you mean 'skip_c",
        ),
        (
            [ROWS[0], ROWS[1].replace("none~2", "none")],
            "line 3: .* has 'none'; expected an operation",
        ),
        ([ROWS[0], ROWS[0]], r"line 3: \|avg_pool.* is in line 2 too"),
        ([ROWS[0].replace("63.364", "high")], "line 2: cifar10_valid_12 is 'high', not a number"),
        (
            [ROWS[0].replace("63.364", "nan")],
            "line 2: cifar10_valid_12 is nan, which no training gives",
        ),
        ([ROWS[0].replace("1444.22", "-1")], "train_seconds_200 is -1.0"),
        ([ROWS[0].replace("63.364", "100.5")], "cifar10_valid_12 is 100.5, which no training"),
        (["0"], "line 2: no genotype in ''"),
        ([ROWS[0][:90]], "line 2: "),
        (["0,|none~0|+|none~0|none~1|,1,1,1,1,1"], "which has three nodes and six edges"),
    ],
)
def test_bad_lines_are_named(lines, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        tabular.read(write(tmp_path / "table.csv", *lines))
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    path = write(tmp_path / "table.csv", ROWS[0])
    with pytest.raises(
        ValueError, match="no column 'cifar100_valid_12'; there are index, arch_str"
    ):
        tabular.read(path, "cifar100")
    with pytest.raises(ValueError, match="no column 'arch_str'"):
        tabular.read(
            write(tmp_path / "other.csv", ROWS[0], header=HEADER.replace("arch_str", "cell"))
        )
    with pytest.raises(FileNotFoundError):
        tabular.read(tmp_path / "none.csv")
    packed = gzip.compress(path.read_bytes())
    for content in (packed[:60], packed[:20] + b"\xff" * 20 + packed[40:], b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or no table"):
            tabular.read(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no column 'arch_str'"):
        tabular.read(path)


def test_unique_cells():
    cells = (
        TopologyGenotype(tuple(zip(ops, (0, 0, 1, 0, 1, 2))))
        for ops in itertools.product(TOPOLOGY_OPS, repeat=6)
    )
    assert len({tabular.canonical(cell) for cell in cells}) == 6466


def test_the_real_table(shared):
    """The maxima are those of the benchmark's publication; equal cells differ by the noise of their
    trainings only.
    """
    table = tabular.read(shared / "data" / "nasbench201" / "cifar10.csv.gz")
    assert len(table) == 15625 and {str(genotype).count("~") for genotype in table} == {6}
    assert round(max(row.valid_200 for row in table.values()), 3) == 91.607
    assert round(max(row.test_200 for row in table.values()), 3) == 94.373
    space = jd.spaces.nasbench201()
    assert all(jd.space.locate(space.cells, genotype) for genotype in itertools.islice(table, 100))
    # 12,000 simulated seconds are a hundred evaluations, as in the benchmark.
    assert 100 < 12000 / (sum(row.seconds for row in table.values()) / len(table)) < 115
