"""The script that trains, prunes and tests ensembles: every source of members, what it leaves,
going on, and its errors.
"""

import itertools
import json
import shutil
import signal

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.commands.ensemble import command as ensemble_command
from jaxdarts.commands.ensemble import members
from jaxdarts.commands.evaluate import command as evaluate_command
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.search import images as image_search
from jaxdarts.data import images
from jaxdarts.runs import Stop

# Without convolutions it compiles fast.
CELL = jd.Genotype(
    (("skip_connect", 0), ("skip_connect", 1)),
    (2,),
    (("avg_pool_3x3", 0), ("avg_pool_3x3", 1)),
    (2,),
)


@pytest.fixture(scope="module")
def cache():
    return f"--cache_dir={jax.config.jax_compilation_cache_dir}"


@pytest.fixture(scope="module")
def tiny(cache):
    return ["--num_devices=1", *"--layers=1 --init_channels=2 --epochs=1".split(), cache]


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    path = tmp_path_factory.mktemp("cell") / "genotype.json"
    path.write_text(jd.genotypes.to_json(CELL))
    return path


@pytest.fixture(scope="module")
def finished_run(tiny, cell, tmp_path_factory):
    """Three networks of one cell, in two seeds."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    evaluate_command.main(
        [f"--ensemble={cell},{cell},{cell}", "--num_seeds=2", *tiny, f"--run_dir={folder}"]
    )
    return folder


def rows(folder):
    return json.loads((folder / "ensemble.json").read_text())["rows"]


def test_what_an_ensemble_leaves(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "config.json",
        "log.txt",
        "ensemble.json",
        "report.html",
        "member-0",
        "member-1",
        "member-2",
    }
    assert {"seed-2", "seed-3", "logits.npz"} <= {
        path.name for path in (finished_run / "member-1").iterdir()
    }
    results = rows(finished_run)
    pie = {f"pie_{balance}" for balance in ("0", "0.25", "0.5", "0.75", "1")}
    assert results.keys() == {
        "full",
        "prs",
        "pap",
        "pap_as_published",
        "best_member",
        "pie_distributed_0.5",
        *pie,
    }
    assert [facts["size"] for facts in results["full"]] == [3, 3]
    assert (
        [facts["size"] for facts in results["prs"]]
        == [facts["size"] for facts in results["pie_0.5"]]
        == [2, 2]
    )
    assert all(
        a["held_accuracy"] >= b["held_accuracy"] for a, b in zip(results["pap"], results["full"])
    )
    page = (finished_run / "report.html").read_text()
    assert (
        "Full and pruned" in page
        and "pap_as_published" in page
        and "<svg" in page
        and "The found cells" not in page
    )


def test_numbers_from_the_networks_themselves(finished_run):
    """Members are those of the hand-off, trained on the first part; the full ensemble is the mean
    of their probabilities.
    """
    dataset = images.load("digits")
    fit, held = images.split(dataset.train, 0.8)
    for seed in range(2):
        total = 0
        for member in range(3):
            apply, params = jd.load(finished_run / f"member-{member}" / f"seed-{2 * member + seed}")
            total += jax.nn.softmax(jax.jit(apply)(params, dataset.test.images))
        accuracy = float(np.mean(np.argmax(total, -1) == dataset.test.labels))
        assert rows(finished_run)["full"][seed]["test_accuracy"] == pytest.approx(
            accuracy, abs=1 / 360
        )
    with np.load(finished_run / "member-0" / "logits.npz") as saved:
        assert saved["held"].shape == (2, held.num, 10) and saved["test"].shape == (2, 360, 10)
        accuracies = np.mean(np.argmax(saved["held"], -1) == held.labels, axis=1)
        assert not np.array_equal(saved["test"][0], saved["test"][1])
    np.testing.assert_allclose(
        json.loads((finished_run / "member-0" / "valid.json").read_text())["accuracy"],
        accuracies,
        atol=1e-6,
    )


def test_going_on_trains_nothing_and_prunes_anew(finished_run, tmp_path):
    before = rows(finished_run)
    logs = {path: path.read_bytes() for path in finished_run.glob("member-*/log.txt")}
    assert len(logs) == 3
    evaluate_command.main([f"--resume={finished_run}"])
    assert rows(finished_run) == before
    weighted = [
        f"--resume={finished_run}",
        "--size=1",
        "--mixture=weighted",
        "--adanet_lambda=0.01",
        f"--output={tmp_path}/out.json",
    ]
    evaluate_command.main(weighted)
    results = rows(finished_run)
    assert [facts["size"] for facts in results["pie_1"]] == [1, 1]
    assert not np.allclose(results["full"][0]["weights"], 1 / 3, atol=1e-3)
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == results
    evaluate_command.main(
        [f"--resume={finished_run}", "--size=0", "--mixture=uniform", "--adanet_lambda=0"]
    )
    assert rows(finished_run) == before
    assert logs == {path: path.read_bytes() for path in finished_run.glob("member-*/log.txt")}


def test_a_killed_one_goes_on_to_the_same(finished_run, tmp_path, monkeypatch):
    """Ctrl-C while the last member trains."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    shutil.rmtree(folder / "member-2")
    (folder / "ensemble.json").unlink()
    with (
        monkeypatch.context() as patch,
        pytest.raises(Stop, match=f"SIGINT: .*--resume={folder}") as caught,
    ):
        patch.setattr(image_evaluation, "train", interrupted)
        evaluate_command.main([f"--resume={folder}"])
    assert caught.value.code == 130 and not (folder / "ensemble.json").exists()
    evaluate_command.main([f"--resume={folder}"])
    assert rows(folder) == rows(finished_run)


def test_a_signal_names_the_ensemble(tiny, cell, tmp_path, monkeypatch):
    """And not the member in whose training it comes."""

    def interrupted(config, genotype, dataset, program, run, part):
        raise run.leave(signal.SIGTERM, 1, 2)

    monkeypatch.setattr(image_evaluation, "build", lambda *arguments: None)
    monkeypatch.setattr(image_evaluation, "train", interrupted)
    with pytest.raises(
        Stop,
        match=f"SIGTERM at step 1 of 2: saved; continue with --resume={tmp_path}/run$",
    ) as caught:
        evaluate_command.main([f"--ensemble={cell},{cell}", *tiny, f"--run_dir={tmp_path}/run"])
    assert caught.value.code == 143 and (tmp_path / "run" / "member-0" / "config.json").exists()


def test_networks_of_evaluation_runs_and_cells_together(finished_run, tiny, cell, tmp_path):
    """Networks that are there are loaded, a folder of seeds gives as many, and neither is trained
    again.
    """
    folder = tmp_path / "run"
    evaluate_command.main(
        [
            f"--ensemble={finished_run / 'member-0'},{finished_run / 'member-1' / 'seed-2'}",
            *tiny,
            f"--run_dir={folder}",
        ]
    )
    assert rows(folder)["full"][0]["members"] == [
        str(finished_run / "member-0" / "seed-0"),
        str(finished_run / "member-0" / "seed-1"),
        str(finished_run / "member-1" / "seed-2"),
    ]
    assert not list(folder.glob("member-*/checkpoints"))
    assert "may have been trained on the held-out images" in (folder / "log.txt").read_text()


def test_checkpoints_of_a_supernet(cache, tmp_path):
    flags = (
        "--layers=1 --nodes=1 --ops none skip_connect avg_pool_3x3 --init_channels=2 --epochs=3"
        " --no-unrolled"
    )
    searched = tmp_path / "search"
    image_search.main(
        [
            *flags.split(),
            "--num_devices=1",
            "--num_seeds=2",
            "--keep_checkpoints=0",
            f"--run_dir={searched}",
            cache,
        ]
    )
    folder = tmp_path / "run"
    flags = [
        "--num_seeds=2",
        "--num_devices=1",
        "--fit_portion=0.5",
        cache,
    ]  # held out is what the search validates on
    evaluate_command.main([f"--ensemble=supernet:{searched}", f"--run_dir={folder}", *flags])
    results = rows(folder)
    assert [facts["size"] for facts in results["full"]] == [3, 3]
    assert "parameters" not in results["full"][0]
    # The last member is the found cell, of which the search has measured the same, in the same
    # batches.
    labels = images.split(images.load("digits").train, 0.5)[1].labels
    in_full_batches = len(labels) // 32 * 32
    with np.load(folder / "member-0" / f"step-{3 * (718 // 32)}" / "logits.npz") as saved:
        right = (np.argmax(saved["held"], -1) == labels)[:, :in_full_batches]
    for seed in range(2):
        facts = json.loads((searched / f"seed-{2 + seed}" / "facts.json").read_text())
        assert facts["found_cell_supernet_accuracy"] == pytest.approx(
            float(np.mean(right[seed])), abs=1.5 / in_full_batches
        )
    with pytest.raises(Stop, match="a search with 2 seeds; use --num_seeds=2"):
        evaluate_command.main(
            [f"--ensemble=supernet:{searched}", f"--run_dir={tmp_path / 'other'}", *flags[1:]]
        )
    both = [source.name for source in members.sources(str(searched))]
    assert both == [str(searched / "seed-2"), str(searched / "seed-3")]


def test_growing_dense_networks(cache, tmp_path):
    flags = ["--num_devices=1", "--iterations=4", "--dense_steps=30", "--hidden=4", cache]
    evaluate_command.main(["--ensemble=grow:dense", *flags, f"--run_dir={tmp_path}/run"])
    results = rows(tmp_path / "run")
    assert [facts["size"] for facts in results["full"]] == [4]
    assert [facts["size"] for facts in results["pie_0.5"]] == [
        3
    ]  # one goes before the fourth comes
    for facts in results["full"]:
        assert all(
            deeper - depth in (0, 1) for depth, deeper in itertools.pairwise([0, *facts["depths"]])
        )
    assert "best_member" not in results
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("member-*")}
    evaluate_command.main([f"--resume={tmp_path}/run"])
    assert rows(tmp_path / "run") == results
    assert kept == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("member-*")
    }


def test_growing_networks_of_a_cell(tiny, cell, tmp_path):
    evaluate_command.main(
        [
            f"--ensemble=grow:{cell}",
            *tiny,
            "--num_seeds=2",
            "--iterations=1",
            f"--run_dir={tmp_path}/run",
        ]
    )
    assert all(facts["depths"][0] in (1, 2) for facts in rows(tmp_path / "run")["full"])
    assert {path.name for path in (tmp_path / "run").glob("member-*")} == {
        "member-0-depth-1",
        "member-0-depth-2",
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--ensemble=DARTS_V3"],
            "--ensemble=DARTS_V3: no such file, and no published cell; the nearest are DARTS_V",
        ),
        (["--ensemble=,"], "--ensemble: name its members"),
        (["--ensemble=grow:dense,DARTS_V2"], "has no other members"),
        (["--ensemble=grow:DARTS_V3"], "no published cell"),
        (["--ensemble=supernet:nowhere"], "not the folder of a search"),
        (["--ensemble=DARTS_V2", "--fit_portion=1"], "--fit_portion=1.0: must lie between"),
        (["--ensemble=DARTS_V2", "--balance=2"], "--balance=2.0: must lie between"),
        (["--ensemble=DARTS_V2", "--machines=0"], "--machines=0: must be positive"),
        (["--ensemble=DARTS_V2", "--estimate"], "--estimate: not of an ensemble"),
        (["--ensemble=DARTS_V2", "--epochs=0"], "--epochs=0"),
    ],
)
def test_bad_flags(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop) as caught:
        evaluate_command.main([*flags, "--num_devices=1"])
    assert message in str(caught.value) and "\n" not in str(caught.value) and caught.value.code == 2
    assert not list(tmp_path.glob("runs/*/member-*"))


def test_another_data_sets_network(finished_run, tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8), np.arange(40) % 3
    np.savez(
        tmp_path / "set.npz",
        images_train=pixels,
        labels_train=labels,
        images_test=pixels,
        labels_test=labels,
    )
    flags = [
        f"--dataset=npz:{tmp_path}/set.npz",
        "--num_devices=1",
        "--batch_size=8",
        f"--run_dir={tmp_path}/run",
    ]
    with pytest.raises(Stop, match="a network for 10 classes of images"):
        evaluate_command.main([f"--ensemble={finished_run / 'member-0'}", *flags])
    assert ensemble_command.COLUMNS.keys() >= {"size", "test_accuracy", "variation"}
