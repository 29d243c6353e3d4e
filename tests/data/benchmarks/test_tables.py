"""Tables of NATS-Bench's sizes, NAS-Bench-101 and the design spaces. Oracles: files written here by
other encoders.
"""

import base64
import json
import math
import struct
import sys
import types

import jax
import numpy as np
import pytest
from tensorboardX.record_writer import masked_crc32c

import jaxdarts as jd
from jaxdarts.commands import nats_to_csv
from jaxdarts.data.benchmarks import nasbench101, nds, tabular
from jaxdarts.data.tfds import tfrecord
from jaxdarts.genotypes import GraphGenotype, fingerprint, parse
from jaxdarts.runs import Stop
from tests.genotypes.test_graphs import ASKED, C1, FIRST, STORED, graph

# ------------------------------------------------------------------------------- NATS-Bench's sizes

SIZES_HEADER = "arch_str,cifar10_valid_12,cifar10_valid_90,cifar10_test_90,train_seconds_90"


def test_sizes(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text(
        f"{SIZES_HEADER}\n8:8:8:8:8,66.48,76.888,79.79,319.5\n8:8:40:32:40,79.3,86.8,89.51,301.2\n"
    )
    table, genotype = tabular.read_sizes(path), parse("8:8:8:8:8")
    assert (
        table[genotype] == tabular.SizeRow(66.48, 76.888, 79.79, pytest.approx(319.5 * 12 / 90))
        and len(table) == 2
    )
    assert tabular.evaluate(table, genotype) == jd.Trial(
        genotype, 66.48, 79.79, pytest.approx(42.6)
    )
    assert tabular.column(path, "cifar10_test_90")[parse("8:8:40:32:40")] == 89.51
    with pytest.raises(ValueError, match="the table has 2 cells, and 8:8:8:8:16 is none of them"):
        tabular.evaluate(table, parse("8:8:8:8:16"))
    with pytest.raises(ValueError, match="no column 'cifar10_valid_200'"):
        tabular.read(path)
    path.write_text(f"{SIZES_HEADER}\n8:8:8:8:9,1,1,1,1\n")
    with pytest.raises(ValueError, match=r"line 2: channels\[4\] = 9"):
        tabular.read_sizes(path)
    path.write_text(f"{SIZES_HEADER}\n|none~0|,1,1,1,1\n")
    with pytest.raises(
        ValueError, match=r"line 2: \|none~0\| is no network of NATS-Bench's size space"
    ):
        tabular.read_sizes(path)


class Api:
    """What `nats_to_csv` asks of the authors' package; numbers tell the question apart."""

    def __len__(self):
        return 2

    def arch(self, index):
        return ("8:8:8:8:8", "8:8:8:16:32")[index]

    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        assert iepoch is None and is_random is False
        base = index + {"cifar10-valid": 10, "cifar10": 20}[dataset] + {"12": 0.25, "90": 0.5}[hp]
        return {"valid-accuracy": base, "test-accuracy": base + 40, "train-all-time": base + 90}

    def get_cost_info(self, index, dataset, hp="12"):
        return {"params": 0.5}


def test_the_benchmarks_files_become_a_table(tmp_path, monkeypatch):
    folder = tmp_path / "NATS-sss-v1_0-50262-simple"
    folder.mkdir()
    calls = []
    package = types.SimpleNamespace(
        create=lambda *arguments, **options: calls.append((arguments, options)) or Api()
    )
    monkeypatch.setitem(sys.modules, "nats_bench", package)
    nats_to_csv.main([str(folder), str(tmp_path / "table.csv")])
    assert calls == [((str(folder), "sss"), {"fast_mode": True, "verbose": False})]
    table = tabular.read_sizes(tmp_path / "table.csv")
    # Validation and time on half of the training images, the test accuracy after a training on all.
    assert table[parse("8:8:8:16:32")] == tabular.SizeRow(
        11.25, 11.5, 61.5, pytest.approx(101.5 * 12 / 90)
    )
    with pytest.raises(Stop, match="not a folder named like NATS-tss"):
        nats_to_csv.main([str(tmp_path / "elsewhere"), str(tmp_path / "table.csv")])
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(Stop, match="pip install nats_bench"):
        nats_to_csv.main([str(folder), str(tmp_path / "table.csv")])


# ------------------------------------------------------------------------------------- record files


def framed(data: bytes) -> bytes:
    """One record, its checksums by tensorboardX."""
    length = struct.pack("<Q", len(data))
    return (
        length
        + struct.pack("<I", masked_crc32c(length))
        + data
        + struct.pack("<I", masked_crc32c(data))
    )


def test_one_long_record_beside_many_short_ones(monkeypatch):
    """Short ones are not padded to the length of the longest; the memory is bounded."""
    monkeypatch.setattr(tfrecord, "_TOGETHER", 1000)
    rng, sizes = np.random.default_rng(0), []
    records = [rng.bytes(n) for n in (0, 3, 900, 10, 1500, 7, *range(40), 200, 0)]
    inner = tfrecord._checksums_of_sorted

    def measured(group):
        sizes.append(len(group) * len(group[0]))
        return inner(group)

    monkeypatch.setattr(tfrecord, "_checksums_of_sorted", measured)
    assert tfrecord.masked_checksums(records).tolist() == [masked_crc32c(r) for r in records]
    assert sorted(sizes)[-2:] == [900, 1500] or max(sizes) == 1500
    assert sum(size > 1000 for size in sizes) == 1
    batches = list(tfrecord._batches((0, record, 0) for record in records))
    assert [data for batch in batches for _, data, _ in batch] == records
    assert all(sum(len(data) for _, data, _ in batch[:-1]) <= 1000 for batch in batches)


def test_records_and_their_checksums(tmp_path):
    rng = np.random.default_rng(0)
    records = [rng.bytes(n) for n in (0, 1, 5, 5, 64, 300, 2)]
    assert tfrecord.masked_checksums(records).tolist() == [
        masked_crc32c(record) for record in records
    ]
    path = tmp_path / "file.tfrecord"
    content = b"".join(map(framed, records))
    path.write_bytes(content)
    assert list(tfrecord.read(path)) == records
    path.write_bytes(b"")
    assert list(tfrecord.read(path)) == []
    start = 3 * 16 + 6  # of the fourth record
    for position, message in (
        (start, f"the length of the record at byte {start} is wrong"),
        (start + 9, f"the length of the record at byte {start} is wrong"),
        (start + 14, f"the record at byte {start} does not have its checksum"),
        (len(content) - 1, "does not have its checksum"),
    ):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(ValueError, match=f"is damaged.*{message}"):
            list(tfrecord.read(path))
    for end, message in ((5, "has no length"), (len(content) - 1, "is not whole")):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=f"is cut off.*{message}"):
            list(tfrecord.read(path))


# ------------------------------------------------------------------------------------ NAS-Bench-101


def training(
    genotype: GraphGenotype,
    epochs: int,
    valid: float,
    test: float,
    seconds: float,
    evaluations: int = 3,
) -> bytes:
    """One record as the benchmark writes it: a protocol buffer put together byte by byte."""

    def double(number, value):
        return bytes([number << 3 | 1]) + struct.pack("<d", value)

    def evaluation(share):
        numbers = (epochs * share, seconds * share, 0.99, valid * share, test * share)
        fields = (
            b"".join(double(i, value) for i, value in enumerate(numbers, 1)) + b"\x32\x01x"
        )  # and a checkpoint's path
        return b"\x0a" + bytes([len(fields)]) + fields

    parameters, varint = 300, b"\xac\x02"
    assert parameters == (varint[0] & 0x7F) | varint[1] << 7
    message = (
        b"".join(map(evaluation, (0, 0.5, 1)[:evaluations]))
        + b"\x10"
        + varint
        + double(3, 2 * seconds)
    )
    adjacency = "".join(str(entry) for row in genotype.matrix for entry in row)
    fields = [
        fingerprint(genotype),
        epochs,
        adjacency,
        ",".join(genotype.ops),
        base64.b64encode(message).decode(),
    ]
    return framed(json.dumps(fields).encode())


def test_nasbench101(tmp_path):
    path = tmp_path / "some.tfrecord"
    trainings = [training(STORED, 108, 0.9 + i / 100, 0.8 + i / 100, 1000 + i) for i in range(3)]
    trainings += [training(STORED, 4, 0.5 + i / 100, 0.4, 40) for i in range(3)] + [
        training(FIRST, 4, 0.25, 0.25, 30)
    ]
    trainings += [training(FIRST, 108, 0.75, 0.5, 900), training(FIRST, 36, 0.1, 0.1, 1)]
    path.write_bytes(b"".join(trainings))
    table = nasbench101.read(path)
    assert len(table) == 2 and list(table) == [STORED, FIRST]
    assert table[STORED] == pytest.approx((91, 81, 1001, 300))
    # Any description of the cell will do, also one with vertices that do not matter.
    assert tabular.evaluate(table, ASKED) == jd.Trial(
        ASKED, table[STORED].value, table[STORED].final, table[STORED].seconds
    )
    short = nasbench101.read(path, epochs=4)
    assert short[ASKED] == pytest.approx((51, 81, 40, 300)) and short[FIRST] == pytest.approx(
        (25, 50, 30, 300)
    )
    for other in (graph("010 001 000", C1), graph("010 000 000", C1), parse("8:8:8:8:8")):
        assert other not in table
        with pytest.raises(ValueError, match="the table has 2 cells, and .* is none of them"):
            tabular.evaluate(table, other)


def test_bad_files_of_nasbench101(tmp_path):
    path = tmp_path / "some.tfrecord"
    good = training(FIRST, 108, 0.9, 0.9, 1)
    for content, message in (
        (b"", "has no trainings of 108 epochs"),
        (good + framed(b"[1, 2]"), "record 1 is no training of NAS-Bench-101"),
        (good + framed(b'["a", 108, "0100", "input,output", "!"]'), "record 1 is no training"),
        (good + framed(b'["a", 108, "0100", "input,output", "AAAA"]'), "record 1 is no training"),
        (training(FIRST, 108, 0.9, 0.9, 1, evaluations=2), "record 0 .* 2 evaluations, not 3"),
        (training(FIRST, 108, math.nan, 0.9, 1), "record 0: .*nan, .* which no training gives"),
        (training(FIRST, 108, 0.9, 90.0, 1), "record 0: .*90.0, .* which no training gives"),
        (good.replace(b"0100110", b"1100110"), "is damaged"),
        (framed(good[12:-4].replace(b"0100110", b"1100110")), r"record 0: matrix\[0\]\[0\] = 1"),
        (training(FIRST, 4, 0.9, 0.9, 1), "no training of 108 epochs of ModelSpec"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            nasbench101.read(path, 4 if "of 108 epochs of" in message else 108)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match="epochs is 5: the benchmark has trainings of 4, 12, 36, 108"
    ):
        nasbench101.read(path, 5)


# ------------------------------------------------------------------------------------ design spaces


def record(error=7.5, **changes):
    normal = [["skip_connect", 0], ["sep_conv_3x3", 1], ["none", 0], ["dil_conv_5x5", 2]]
    cells = {
        "normal": normal,
        "normal_concat": [2, 3],
        "reduce": [["none", 0], ["none", 1]],
        "reduce_concat": [2],
    }
    net = {"genotype": {**cells, **changes}, "width": 4, "depth": 3, "aux": False}
    return {
        "net": net,
        "params": 1234,
        "flops": 5678,
        "test_ep_top1": [90.0, error],
        "min_test_top1": 6.0,
    }


@pytest.mark.parametrize(
    "wrap", [lambda records: records, lambda records: {"top": records[:1], "mid": records[1:]}]
)
def test_trainings_of_a_design_space(wrap, tmp_path):
    path = tmp_path / "DARTS.json"
    wider = record(10)
    wider["net"]["width"] = 8
    path.write_text(json.dumps(wrap([record(), wider])))
    table = nds.read(path)
    (first, row), (second, _) = table.items()
    assert row[:2] == (92.5, 92.5) and math.isnan(row.seconds) and row[3:] == (1234, 5678)
    assert first.genotype.normal[2] == ("none", 0) and (first.width, first.depth, second.width) == (
        4,
        3,
        8,
    )
    assert tabular.evaluate(table, second)[:3] == (second, 90, 90)
    with pytest.raises(
        ValueError, match="what its trial takes is not known; the budget must be one of evaluations"
    ):
        jd.discrete.search(
            iter_of(first), lambda design: tabular.evaluate(table, design), seconds=10
        )
    assert (
        len(
            jd.discrete.search(
                iter_of(first), lambda design: tabular.evaluate(table, design), evaluations=1
            )
        )
        == 1
    )
    # The network, in which nothing enters the reduction cell's node.
    net = nds.network(first)
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    logits, _ = jax.eval_shape(net.apply, shapes, np.zeros((2, 8, 8, 3), np.float32))
    assert logits.shape == (2, 10)


def iter_of(design):
    yield design


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "a list of records is expected"),
        ({"top": []}, "has no trainings of a design space"),
        ([record(), record()], "record 1: a network that an earlier record has trained too"),
        ([record(math.nan)], "record 0: the last test_ep_top1 is nan"),
        ([{**record(), "test_ep_top1": []}], "record 0: IndexError"),
        (
            [record(normal=[["sep_conv", 0], ["none", 1]])],
            r"record 0: normal\[0\] = .*unknown operation",
        ),
        ([record(normal=[["none", 0], ["none", 2]])], r"record 0: .*state 2 may only read"),
        ([{**record(), "net": {"block_type": "res"}}], "record 0: a network without a genotype"),
        (
            [{**record(), "net": {**record()["net"], "width": 4.5}}],
            "record 0: width is 4.5, not a positive number",
        ),
    ],
)
def test_bad_design_spaces(content, message, tmp_path):
    path = tmp_path / "DARTS.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        nds.read(path)
