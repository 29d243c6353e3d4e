"""The evaluation script: every way to name a cell, a run and what it leaves, interruption, selection, the hand-off."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import evaluate as script
import jaxdarts as jd
from jaxdarts.data import images

ROOT = Path(__file__).parents[1]
CELL = jd.Genotype((("sep_conv_3x3", 0), ("skip_connect", 1)), (2,), (("max_pool_3x3", 0), ("skip_connect", 1)), (2,))
TOPOLOGY = "|nor_conv_1x1~0|+|skip_connect~0|none~1|"
EPOCH, TOTAL = 29, 58


@pytest.fixture(autouse=True)
def same_cache():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def tiny():
    cache = jax.config.jax_compilation_cache_dir
    return [f"--arch={CELL}", *"--layers=1 --init_channels=2 --epochs=2 --num_devices=1".split(), f"--cache_dir={cache}"]


@pytest.fixture(scope="session")
def whole(tiny, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    script.main([*tiny, f"--run_dir={folder}"])
    return folder


def stopped(arguments):
    with pytest.raises(script.Stop) as caught:
        script.main(arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text, caught.value.code


def assert_same(one, other):
    for name in ("test.json", "genotype.json", "network.json"):
        assert (one / name).read_text() == (other / name).read_text(), name
    mine, theirs = (np.load(run / "weights.npz") for run in (one, other))
    assert mine.files == theirs.files
    for name in mine.files:
        np.testing.assert_array_equal(mine[name], theirs[name])
    records = [[{**r, "seconds": 0} for r in jd.metrics.read_json_lines(run / "metrics.jsonl")] for run in (one, other)]
    assert records[0] == records[1]


def test_what_a_run_leaves(whole):
    names = {path.name for path in whole.iterdir()}
    assert names >= {"config.json", "log.txt", "metrics.jsonl", "tensorboard", "genotype.json", "network.json"}
    assert names >= {"weights.npz", "report.html", "checkpoints", "test.json"}
    assert [record["step"] for record in jd.metrics.read_json_lines(whole / "metrics.jsonl")] == [EPOCH, TOTAL]
    log = (whole / "log.txt").read_text()
    assert "test_acc" in log and f"genotype = {CELL}" in log and "param size = " in log
    assert jd.genotypes.from_json((whole / "genotype.json").read_text()) == CELL


def test_every_way_to_name_a_cell(whole, tmp_path):
    (tmp_path / "cell.txt").write_text(f"best = {CELL}\n")
    names = [str(CELL), str(whole), str(whole / "genotype.json"), str(tmp_path / "cell.txt")]
    assert [script.resolve(name) for name in names] == [CELL] * 4
    assert script.resolve("DARTS_V2") == jd.genotypes.DARTS_V2


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--arch=DARTS_V3"], "nearest are DARTS_V"),
        (["--arch=RNN_DARTS_V1"], "recurrent"),
        ([f"--arch={CELL._replace(normal=(('sep_conv_3x3', 0), ('sep_conv_3x3', 2)))}"], "normal[1]"),
        (["--auxiliary"], "leave it out"),
        ([f"--arch={TOPOLOGY}", "--auxiliary"], "--auxiliary: a network of NAS-Bench-201 has no auxiliary head"),
        (["--arch=|nor_conv_3x3~0|+|nor_conv_3x3~0|"], "node 2, '|nor_conv_3x3~0|', has 1 pairs"),
        ([f"--arch={TOPOLOGY}", "--dataset=npz:nowhere", "--layers=0"], "--layers=0"),
        (["--select", "DARTS_V2", TOPOLOGY], "--select: cells of NAS-Bench-201 and others"),
        (["--drop_path_prob=1"], "--drop_path_prob=1.0: must be below 1"),
        (["--epochs=0"], "--epochs=0"),
        (["--batch_size=5000", "--num_devices=1"], "larger than the training set"),
        (["--test_only"], "--checkpoint"),
        (["--test_only", "--checkpoint=/nowhere"], "holds no trained network"),
        (["--select", "nonsense", "--run_dir=SELECT"], "--select=nonsense"),
    ],
)
def test_bad_flags_leave_nothing(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, code = stopped(flags)
    assert message in text and code == 2
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_genotype(tmp_path):
    text, code = stopped([f"--arch={tmp_path}"])
    assert "without genotype.json" in text and code == 2


def test_presets_follow_the_kind_of_cell():
    def start(*arguments):
        config = script.parse([*arguments])
        return config.init_channels, config.layers, config.epochs, config.batch_size, config.auxiliary

    assert start("--dataset=cifar10") == (36, 20, 600, 96, True)
    assert start("--dataset=cifar10", f"--arch={TOPOLOGY}") == (16, 5, 200, 256, False)
    assert start("--dataset=any", "--select", TOPOLOGY, TOPOLOGY, "--layers=2") == (16, 2, 200, 256, False)
    assert start(f"--arch={TOPOLOGY}") == start() == (8, 3, 8, 48, False)


def test_a_cell_of_nasbench201(tiny, tmp_path):
    flags = [f"--arch={TOPOLOGY}", *tiny[1:], "--epochs=1", "--drop_path_prob=0.1"]
    script.main([*flags, f"--run_dir={tmp_path}/run"])
    genotype = jd.genotypes.parse(TOPOLOGY)
    assert jd.genotypes.from_json((tmp_path / "run" / "genotype.json").read_text()) == genotype
    log, page = ((tmp_path / "run" / name).read_text() for name in ("log.txt", "report.html"))
    params, _ = jd.network_cost(genotype, 2, 1, 10, (8, 8, 1))
    assert f"param size = {params / 1e6:f}MB" in log and f"genotype = {TOPOLOGY}" in log and TOPOLOGY in page
    test = images.load("digits").test
    apply, params = jd.load(tmp_path / "run")
    accuracy = float(np.mean(np.argmax(jax.jit(apply)(params, test.images), -1) == test.labels))
    assert accuracy == pytest.approx(json.loads((tmp_path / "run" / "test.json").read_text())["accuracy"][0], abs=1e-6)


def test_resume_is_exact(whole, tiny, tmp_path):
    script.main([*tiny, f"--run_dir={tmp_path}", "--max_steps=40"])
    script.main([f"--resume={tmp_path}", "--max_steps=0"])
    assert_same(tmp_path, whole)


def test_killed_and_resumed(whole, tiny, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py")]
    with subprocess.Popen([*command, *tiny, f"--run_dir={tmp_path}/run"], env=environment, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None and not (tmp_path / "run" / "checkpoints" / str(EPOCH)).exists():
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    script.main([f"--resume={tmp_path}/run"])
    assert_same(tmp_path / "run", whole)


def test_seeds_equal_their_own_runs(whole, tiny, tmp_path):
    script.main([*tiny, "--num_seeds=2", f"--run_dir={tmp_path}"])
    ours, theirs = (np.load(folder / "weights.npz") for folder in (tmp_path / "seed-0", whole))
    for name in theirs.files:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-3)
    assert "over 2 seeds" in (tmp_path / "log.txt").read_text()


def test_selection_never_sees_the_test_set(tiny, tmp_path, monkeypatch):
    def spoiled(config):
        dataset = images.load("digits")
        return dataset._replace(test=dataset.test._replace(labels=np.zeros_like(dataset.test.labels)))

    flags = [*tiny[1:], "--select_epochs=1", "--epochs=1", "--select", str(CELL), "DARTS_V1"]
    script.main([*flags, f"--run_dir={tmp_path}/honest"])
    monkeypatch.setattr(script.runs, "load", spoiled)
    script.main([*flags, f"--run_dir={tmp_path}/spoiled"])
    honest, other = (json.loads((tmp_path / name / "selection.json").read_text()) for name in ("honest", "spoiled"))
    assert honest == other
    assert set(honest["scores"]) == {str(CELL), "DARTS_V1", "random-0"}
    assert honest["selected"] in (str(CELL), "DARTS_V1")


def test_loaded_exported_and_tested_again(whole, tmp_path, capsys):
    test = images.load("digits").test
    apply, params = jd.load(whole)
    logits = jax.jit(apply)(params, test.images)
    accuracy = float(np.mean(np.argmax(logits, -1) == test.labels))
    assert accuracy == pytest.approx(json.loads((whole / "test.json").read_text())["accuracy"][0], abs=1e-6)
    jd.export(whole, tmp_path / "network.bin")
    exported = jd.read_exported(tmp_path / "network.bin")
    np.testing.assert_allclose(exported(test.images[:5]), logits[:5], atol=1e-4)
    np.testing.assert_allclose(exported(test.images[:3]), logits[:3], atol=1e-4)
    script.main(["--test_only", f"--checkpoint={whole}"])
    assert f"test_acc {100 * accuracy:f}" in capsys.readouterr().out


def test_estimate_trains_and_writes_nothing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.main([*tiny, "--estimate"])
    out = capsys.readouterr().out
    params, adds = jd.network_cost(CELL, 2, 1, 10, (8, 8, 1))
    assert f"{params:,}" in out and f"{adds:,}" in out and f"{EPOCH}, 2 epochs" in out and "MB a device" in out
    assert not list(tmp_path.iterdir())
