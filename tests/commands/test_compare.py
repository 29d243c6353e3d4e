"""The script that compares algorithms, on searches of seconds."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import genotypes, runs
from jaxdarts.commands import compare
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import Stop


def test_a_table_of_two_algorithms(tmp_path, capsys):
    flags = (
        "--layers=1 --nodes=1 --ops none skip_connect --init_channels=2 --epochs=2 --num_devices=1"
        " --no-unrolled --num_seeds=2"
    )
    shared = [
        "--",
        *flags.split(),
        "--eigenvalue_freq=1",
        f"--cache_dir={jax.config.jax_compilation_cache_dir}",
    ]
    rows_given = [
        "darts",
        "milenas --lambda_valid=2",
        f"--run_dir={tmp_path}/runs",
        f"--output={tmp_path}/table.json",
        f"--page={tmp_path}/table.html",
    ]
    compare.main([*rows_given, *shared])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "darts",
        "milenas --lambda_valid=2",
    ]
    result = json.loads((tmp_path / "table.json").read_text())
    for row in result["rows"].values():
        assert {"valid_loss", "found_cell_supernet_accuracy", "eigenvalue", "skips"} <= set(row)
        assert all(
            len(values) == 2 and np.all(np.isfinite(values))
            for name, values in row.items()
            if name != "step_ms"
        )
    page = (tmp_path / "table.html").read_text()
    assert "milenas --lambda_valid=2" in page and "Dominant eigenvalue of the Hessian" in page

    # Searches that are finished are not repeated.
    before = (tmp_path / "runs" / "darts" / "log.txt").read_bytes()
    compare.main([*rows_given, *shared])
    assert (tmp_path / "runs" / "darts" / "log.txt").read_bytes() == before
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == result["rows"]

    # Other settings are no continuation, whatever the folder holds.
    for flags in (["--seed=77"], ["--num_seeds=3"], ["--epochs=3"]):
        with pytest.raises(
            Stop, match=f"runs/darts: holds a search with {flags[0][2:6]}"
        ) as caught:
            compare.main([*rows_given, *shared, *flags])
        assert caught.value.code == 2
    assert (tmp_path / "runs" / "darts" / "log.txt").read_bytes() == before


def test_cells_looked_up_in_a_table(tmp_path, capsys):
    """Every cell's accuracy is the number of its skip connections times 10, and its place apart."""
    space = jd.spaces.nasbench201()
    ops, lines = space.cells["cell"].ops[0], ["arch_str,a_test_200,b_test_200"]
    for i, picks in enumerate(itertools.product(range(len(ops)), repeat=6)):
        mix = {"cell": np.eye(len(ops))[list(picks)]}
        text = str(space.discretize(mix))
        lines.append(f"{text},{10 * picks.count(ops.index('skip_connect'))},{i}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    given = [f"--run_dir={tmp_path}/runs", f"--table={table}", f"--output={tmp_path}/out.json"]
    given += [f"--page={tmp_path}/out.html"]
    shared = [
        *("--", "--space=nasbench201", "--init_channels=2", "--epochs=2", "--num_devices=1"),
        *("--max_steps=4", "--no_unrolled", f"--cache_dir={jax.config.jax_compilation_cache_dir}"),
        *("--ranked_cells=12", "--sample_batches=1"),
    ]
    compare.main(["darts", *given, *shared])
    head, _, row = [line for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    result = json.loads((tmp_path / "out.json").read_text())
    values, every = result["rows"]["darts"], result["every_cell"]
    assert values["a_test"] == [10 * skips for skips in values["skips"]]
    columns = [name.strip() for name in head.split("|")]
    assert columns[-6:-1] == ["a test", "a tau", "b test", "b tau", "ms/step"]
    assert float(row.split("|")[-6].split()[0]) == values["a_test"][0]

    # Kendall's tau from its definition (tau-b, over all pairs).
    ranking = json.loads((tmp_path / "runs" / "darts" / "ranked_cells.json").read_text())
    assert len(set(ranking["cells"])) == len(ranking["accuracy"]) == 12
    true = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
    signs = [
        np.sign(np.subtract.outer(of_all, of_all))
        for of_all in (np.array(ranking["accuracy"]), np.array([true[c] for c in ranking["cells"]]))
    ]
    tau = np.sum(signs[0] * signs[1]) / np.sqrt(np.sum(signs[0] ** 2) * np.sum(signs[1] ** 2))
    np.testing.assert_allclose(values["a_tau"], [tau], rtol=1e-6)

    page = (tmp_path / "out.html").read_text()
    for text in ("a tau", "True test accuracy on a, mean of seeds", "Skip connections in the cell"):
        assert text in page
    assert page.count("<svg") >= 2 * 2 + 2 + 1  # two data sets, validation and skips, the cell
    (of_epochs,) = values["b_test_of_every_epoch"]
    assert of_epochs[-1] == values["b_test"][0]
    assert every["b"]["best"] == len(ops) ** 6 - 1
    np.testing.assert_allclose(every["b"]["mean"], (len(ops) ** 6 - 1) / 2)

    folder = tmp_path / "runs" / "darts"
    for name, content, message in (
        ("ranked_cells.json", b'{"cells": ["|none~0|"], "accuracy": []}', "ranked_cells.json does"),
        ("ranked_cells.json", b'{"cells": 3}', "ranked_cells.json.*cells"),
        ("alphas.npz", (tmp_path / "other.npz"), "alphas.npz has no array cell"),
    ):
        np.savez(tmp_path / "other.npz", normal=np.zeros((1, 6, 5)))
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        with pytest.raises(Stop, match=message):
            compare.main(["darts", *given, *shared])
        (folder / name).write_bytes(before)

    table.write_text("\n".join(lines[:2]) + "\n")
    for flags, message in (
        (["darts", *given, *shared], "is not in the table"),
        (["darts", *given, *shared, "--space=darts"], "--space=darts, and the table is of nasben"),
        (["darts", *given[:1], "--table=none.csv", *shared], "--table: .*none.csv"),
        (["darts", *given, "--", "--dataset=pydoc"], "--dataset=pydoc, and the table is of nasb"),
    ):
        with pytest.raises(Stop, match=message) as caught:
            compare.main(flags)
        assert caught.value.code == 2


def test_an_interrupted_comparison_goes_on_with_the_same_command(tmp_path, monkeypatch, capsys):
    """Searches are replaced by functions that write what the table reads."""
    monkeypatch.chdir(tmp_path)
    searches: list[tuple[str, str]] = []

    def main(line):
        config = image_search.parse(line)
        folder = Path(config.run_dir)
        searches.append((config.algorithm, "--resume" if config.resume else "--run_dir"))
        if not config.resume:
            folder, log = runs.open_folder(config, "search")
            runs.writers.close_logger(log)
        if config.algorithm == "gdas" and not config.resume:
            raise Stop(f"SIGINT at step 3 of 9: saved; continue with --resume={folder}", 130)
        record = {"step": 5, "epoch": 0, "seconds": 1.0, "valid_loss": 2.0}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        (folder / "genotype.json").write_text(genotypes.to_json(genotypes.DARTS_V1))
        (folder / "facts.json").write_text("{}")

    monkeypatch.setattr(image_search, "main", main)
    command = ["darts", "gdas", "--", "--epochs=2", "--num_devices=1"]
    with pytest.raises(Stop) as caught:
        compare.main(command)
    assert str(caught.value) == "SIGINT at step 3 of 9: saved; the same command continues it"
    assert caught.value.code == 130
    assert "| darts | 2.000 |" in capsys.readouterr().out  # printed when it was there
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("compare-digits-")
    compare.main(command)
    assert searches == [("darts", "--run_dir"), ("gdas", "--run_dir"), ("gdas", "--resume")]
    assert [row.split("|")[1] for row in capsys.readouterr().out.splitlines()[2:]] == [
        " darts ",
        " gdas ",
    ]
    with pytest.raises(Stop):  # in a folder of its own
        compare.main([*command[:-2], "--epochs=3", "--num_devices=1"])
    assert len(searches) == 4 + 1 and len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "facts.json", "genotype.json"])
@pytest.mark.parametrize(
    "content", [b"", b'{"step": 5, "seconds": null, "skips": "many"}', b"[1]", b"\xff", b"{"]
)
def test_a_damaged_file_of_a_finished_search_is_named(name, content, tmp_path):
    line = ["--epochs=2", "--num_devices=1"]
    row = compare.row_of("darts", line, tmp_path)
    row.folder.mkdir()
    (row.folder / "metrics.jsonl").write_text('{"step": 5, "epoch": 0, "seconds": 1.0}\n')
    (row.folder / "genotype.json").write_text(genotypes.to_json(genotypes.DARTS_V1))
    (row.folder / "facts.json").write_text("{}")
    assert compare.searched(row)["skips"] == [3]
    (row.folder / name).write_bytes(content)
    with pytest.raises(Stop) as caught:
        compare.searched(row)
    assert caught.value.code == 2 and "\n" not in str(caught.value)
    assert name in str(caught.value) and "--resume=" in str(caught.value)


def test_an_unknown_algorithm():
    with pytest.raises(Stop, match="gdas2: no algorithm of jaxdarts search; there are darts"):
        compare.main(["darts", "gdas2"])


def test_a_page_that_cannot_be_written_is_refused_before_the_searches(tmp_path):
    for page in (tmp_path / "missing" / "page.html", tmp_path):
        with pytest.raises(Stop, match=f"--page={page}: must be a file in a folder that is there"):
            compare.main(["darts", f"--page={page}", f"--run_dir={tmp_path}/runs"])
    assert not list(tmp_path.iterdir())
