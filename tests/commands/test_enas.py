"""The script of ENAS: run folder, exact resume, bad input."""

import json

import pytest

import jaxdarts as jd
from jaxdarts.commands import enas as script
from jaxdarts.runs import Stop

FLAGS = [
    *"--space=weight_sharing64 --init_channels=1 --epochs=2 --batch_size=16 --policy_steps=2"
    " --policy_samples=2".split(),
    *"--num_samples=3 --hidden=4 --cache_dir= --report_freq=2".split(),
]


@pytest.fixture
def few(monkeypatch):
    """64 digits."""
    digits = jd.data.images.load("digits")
    train, _ = jd.data.images.split(digits.train, 64.5 / digits.train.num)
    monkeypatch.setattr(script.datasets, "load", lambda config: digits._replace(train=train))


def test_a_rate_that_rises_again():
    config = script.Config(learning_rate=1.0, learning_rate_min=0.1, cosine_epochs=2, epochs=9)
    rates = [script.learning_rate(config, epoch) for epoch in range(5)]
    assert [float(rate) for rate in rates] == pytest.approx([1.0, 0.55, 0.1, 0.55, 1.0], abs=1e-6)


def test_run_folder_and_resume(few, tmp_path, capsys):
    uncut, cut = tmp_path / "whole", tmp_path / "cut"
    script.main([*FLAGS, f"--run_dir={uncut}"])
    assert "genotype = |" in capsys.readouterr().out
    names = ("facts.json", "genotype.json", "cell.svg", "reward.svg", "config.json", "log.txt")
    assert all((uncut / name).exists() for name in names)
    facts = json.loads((uncut / "facts.json").read_text(encoding="utf-8"))
    assert (
        0 <= facts["policy_cells_supernet_accuracy"] <= facts["found_cell_supernet_accuracy"] <= 1
    )
    records = jd.files.read_json_lines(uncut / "metrics.jsonl")
    assert [record["step"] for record in records] == [2, 4] and 0 < records[1]["entropy"] < 3 * 1.4
    script.main([*FLAGS, f"--run_dir={cut}", "--max_steps=3"])
    script.main([f"--resume={cut}", "--max_steps=0"])
    ignored = {"seconds"}
    assert [
        {k: r[k] for k in r.keys() - ignored}
        for r in jd.files.read_json_lines(cut / "metrics.jsonl")
    ] == [{k: r[k] for k in r.keys() - ignored} for r in records]
    again = json.loads((cut / "facts.json").read_text(encoding="utf-8"))
    assert {k: facts[k] for k in facts if k.endswith(("accuracy", "genotype"))} == {
        k: again[k] for k in again if k.endswith(("accuracy", "genotype"))
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--space=nasbench"], "invalid choice 'nasbench' for argument '--space'"),
        (["--batch_size=1000"], "--batch_size=1000: the halves have 718 and 719 images"),
        (
            ["--train_portion=1"],
            "--train_portion: portion 1.0 of 1437 examples leaves a part empty",
        ),
        (["--baseline_decay=1"], "--baseline_decay=1.0: must be at least 0 and below 1"),
        (["--policy_samples=0"], "--policy_samples=0: must be positive"),
        (
            ["--space=darts", "--layers=12", "--dataset=digits", "--init_channels=0"],
            "--init_channels=0: must be positive",
        ),
    ],
)
def test_bad_input(flags, message, tmp_path):
    with pytest.raises(Stop, match=message):
        script.main([*flags, f"--run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_space_whose_supernet_has_one_path(few, tmp_path, monkeypatch):
    """NAS-Bench-201's supernet computes what the policy draws, and no other operation."""
    nets, original = [], script.objectives.classification

    def classification(net):
        nets.append(net)
        return original(net)

    monkeypatch.setattr(script.objectives, "classification", classification)
    flags = "--space=nasbench201 --layers=1 --max_steps=2".split()
    script.main([*FLAGS, *flags, f"--run_dir={tmp_path / 'run'}"])
    (net,) = nets
    assert net.one_path
    (record,) = jd.files.read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert record["step"] == 2 and 0 < record["train_loss"] < 10
