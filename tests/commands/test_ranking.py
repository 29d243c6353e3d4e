"""The study of rankings as a script: run folder, tables and plots, a killed run, bad input."""

import json

import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.analysis import ranking, sharing
from jaxdarts.commands.analyze import agreement
from jaxdarts.commands.analyze import command as analyze
from jaxdarts.commands.analyze import ranking as study
from jaxdarts.runs import Stop
from jaxdarts.spaces.weight_sharing64 import NAMES

SMALL = [
    *"--init_channels=2 --layers=1 --epochs=2 --batch_size=8 --train_images=16 --test_images=24"
    " --instances=2".split(),
    *"--truth_instances=2 --eval_freq=1 --last_steps=2 --tune_epochs 2 --tune_steps 1 3 --groups"
    " 16 --prefixes 1".split(),
    *"--prefix_epochs=3 --truth_epochs=1 --cache_dir=".split(),
]


def test_study(tmp_path, capsys):
    uncut, output = tmp_path / "whole", tmp_path / "result.json"
    analyze.main(["ranking", *SMALL, f"--run_dir={uncut}", f"--output={output}"])
    summary = json.loads((uncut / "summary.json").read_text(encoding="utf-8"))
    assert json.loads(output.read_text(encoding="utf-8")) == summary
    assert str(tmp_path) not in json.dumps(summary)
    assert "| 16 similar groups | 2 |" in capsys.readouterr().out
    for name in ("s_tau", "gt_tau", "groups", "prefixes", "tuned"):
        assert (uncut / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
    records = jd.files.read_json_lines(uncut / "records.jsonl")
    assert len(records) == 3 * 2 + 64 * 2 + 2 * 2 * 16 + 2
    # The table again, from the records, by the definitions.
    alone = np.zeros((2, 64))
    for r in records:
        if r["study"] == "alone":
            alone[r["instance"], r["members"]] = r["accuracies"][-1]
    assert list(summary["truth"]["accuracies"].values()) == pytest.approx(
        alone.mean(axis=0), abs=1e-5
    )
    seeds = [r for r in records if r["study"] == "seeds"]
    assert [r["members"] for r in seeds] == [list(range(64))] * 2
    last = np.array([r["accuracies"][-1] for r in seeds])
    row = summary["studies"]["seeds"]
    taus = ranking.gt_tau(last, alone.mean(axis=0))
    assert row["gt_tau"][-1] == pytest.approx({"mean": taus.mean(), "deviation": taus.std(ddof=1)})
    assert row["s_tau"][-1] == pytest.approx(ranking.s_tau(last)._asdict())
    assert (
        np.shape(seeds[0]["last"]) == (2, 64) and seeds[0]["last"][-1] == seeds[0]["accuracies"][-1]
    )
    assert np.shape(seeds[0]["tuned"]["2"]) == (2, 64)
    assert {
        r["study"]: r["epochs"]
        for r in records
        if r["study"] in ("alone", "seeds", "1 shared cells")
    } == {
        "alone": [1],
        "seeds": [1, 2],
        "1 shared cells": [1, 2, 3],
    }
    # A training that was killed is done again, to the same numbers, and nothing else.
    path, text = uncut / "records.jsonl", (uncut / "records.jsonl").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:30], encoding="utf-8")
    analyze.main(["ranking", f"--resume={uncut}"])
    assert [{**r, "seconds": 0} for r in jd.files.read_json_lines(path)] == [
        {**r, "seconds": 0} for r in records
    ]
    with pytest.raises(Stop, match=r"the run has tune_steps=\(1, 3\), not \(1,\)"):
        analyze.main(["ranking", f"--resume={uncut}", "--tune_steps", "1"])
    path.write_text("broken\n" + text, encoding="utf-8")
    with pytest.raises(Stop, match="records.jsonl.*line 1.*remove it to start again"):
        analyze.main(["ranking", f"--resume={uncut}"])


def test_trainings():
    config = study.Config(instances=2, truth_instances=1, groups=(4,))
    planned = study.trainings(config)
    assert len({(t.study, t.instance, t.group) for t in planned}) == len(planned)
    assert {t.seed for t in planned if t.study == "seeds"} == {0, 1}
    orders = [t for t in planned if "orders" in t.study]
    assert {t.seed for t in orders} == {0} and {(t.rule, t.order) for t in orders} == {
        (rule, i) for rule in ("one", "every") for i in (0, 1)
    }
    random = [t.members for t in planned if t.study == "4 random groups" and t.instance == 1]
    assert [list(m) for m in random] == sharing.random_groups(4)
    assert sum(t.study == "alone" for t in planned) == len(NAMES)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--prefixes", "3"], "--prefixes: 3 is not between 0 and --layers=2"),
        (["--truth_epochs=0"], "--truth_epochs=0: must be positive"),
        (["--groups", "3"], "--groups: 3 groups: 64 models do not split"),
        (["--instances=1"], "--instances=1: agreement is measured between instances"),
        (["--tune_epochs", "11"], "--tune_epochs: 11 is not between 1 and --epochs=10"),
        (
            ["--tune_steps", "2", "1"],
            "--tune_steps: 2 1 are not in ascending order",
        ),
        (["--train_images=5000"], "--train_images=5000: digits has 1437"),
        (["--batch_size=2000"], "--batch_size=2000: there are 1437 training images"),
        (["--last_steps=10000"], "--last_steps=10000: a training has 220"),
        (["--learning_rate=0"], "--learning_rate=0.0: must be positive"),
    ],
)
def test_bad_input(flags, message, tmp_path):
    with pytest.raises(Stop, match=message):
        analyze.main(["ranking", *flags, f"--run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_commands(capsys):
    analyze.main([])
    assert "ranking" in capsys.readouterr().out
    with pytest.raises(Stop, match="rankin: no analysis; there are .*ranking"):
        analyze.main(["rankin"])


def test_no_last_steps():
    """--last_steps=0 leaves records without them, of groups too."""
    records = [
        {
            "study": "2 similar groups",
            "instance": 0,
            "members": members,
            "accuracies": [[0.5] * 32],
            "last": [],
        }
        for members in sharing.similar_groups(2)
    ]
    study = agreement.joined(records)
    assert study["last"].shape == (1, 0, 64) and (study["accuracies"] == 0.5).all()
