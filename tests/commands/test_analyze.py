"""The script that looks into runs, on runs of seconds."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.analysis import topology
from jaxdarts.commands.analyze import command as analyze_command
from jaxdarts.commands.analyze import tables
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.search import images as image_search
from jaxdarts.runs import Stop
from tests.browser import assert_readable, needs_browser


@pytest.fixture(scope="session")
def cache():
    return f"--cache_dir={jax.config.jax_compilation_cache_dir}"


@pytest.fixture(scope="session")
def searched(cache, tmp_path_factory):
    """Two seeds of a search."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    flags = (
        "--layers=1 --nodes=1 --ops none skip_connect --init_channels=2 --epochs=2 --num_devices=1"
        " --no-unrolled --num_seeds=2"
    )
    image_search.main([*flags.split(), "--eigenvalue_freq=1", cache, f"--run_dir={folder}"])
    return folder


@pytest.fixture(scope="session")
def trained(searched, cache, tmp_path_factory):
    """The training of a cell that the search found."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = f"--layers=1 --init_channels=2 --epochs=1 --num_devices=1 --run_dir={folder}".split()
    image_evaluation.main([f"--arch={searched / 'seed-2'}", *flags, cache])
    return folder


def cell_of(run):
    return jd.genotypes.from_json((run / "genotype.json").read_text())


def numbers(folder, name):
    saved = json.loads((folder / "analysis" / f"{name}.json").read_text())
    assert saved["command"] and saved["versions"]["jax"] and "/tmp" not in saved["command"]
    for picture in saved["pictures"]:
        assert (folder / "analysis" / f"{name}-{picture}.svg").read_text().startswith("<svg")
    return saved["numbers"]


def page(folder):
    return (folder / "report.html").read_text()


def test_a_trained_cell(trained, cache):
    before = page(trained)
    few = ["--images=96", cache]
    analyze_command.main(["landscape", str(trained), "--grid=3", *few])
    plane = numbers(trained, "landscape")
    assert np.shape(plane["loss"]) == np.shape(plane["accuracy"]) == (3, 3) and plane["axis"] == [
        -1,
        0,
        1,
    ]
    np.testing.assert_allclose(plane["loss"][1][1], plane["loss_of_the_run"], rtol=1e-4)
    # The middle is what the library's own functions make of the run.
    apply, params = jd.load(trained)
    test = jd.data.images.load("digits").test
    logits = np.asarray(jax.jit(apply)(params, test.images[:96]), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(96), test.labels[:96]]
    np.testing.assert_allclose(plane["loss_of_the_run"], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        plane["accuracy"][1][1], np.mean(logits.argmax(-1) == test.labels[:96]), rtol=1e-5
    )

    analyze_command.main(["variance", str(trained), "--grid=3", "--dimensions=1", *few])
    line = numbers(trained, "variance")
    np.testing.assert_allclose(line["variance"][1], line["variance_of_the_run"], rtol=1e-4)
    assert min(line["variance"]) > 0

    analyze_command.main(["curvature", str(trained), "--steps=6", "--probes=2", *few])
    spectrum = numbers(trained, "curvature")
    assert np.shape(spectrum["nodes"]) == (2, 6) and spectrum["dominant"] in np.ravel(
        spectrum["nodes"]
    )
    np.testing.assert_allclose(np.sum(spectrum["weights"], -1), 1, rtol=1e-4)

    analyze_command.main(["topology", str(trained)])
    shapes = numbers(trained, "topology")
    assert shapes["pattern"][0]["width"] == 1 and jd.genotypes.parse(shapes["adapted"]) == cell_of(
        trained
    )

    after = page(trained)
    for name in ("landscape", "variance", "curvature", "topology"):
        assert f'<section id="{name}"' in after and name not in before
    analyze_command.main(["topology", str(trained)])
    assert page(trained) == after


def test_convergence(trained, cache, capsys):
    flags = "--each=1 -- --epochs=1 --layers=1 --init_channels=2 --num_devices=1".split()
    analyze_command.main(["convergence", str(trained), *flags, cache])
    assert "this cell: test accuracy" in capsys.readouterr().out
    cells = numbers(trained, "convergence")["cells"]
    assert list(cells) == ["this cell", "1: 1c, 2"]
    other = jd.genotypes.parse(cells["1: 1c, 2"]["genotype"])
    assert other != cell_of(trained) and topology.topology(other.normal) == (1, 2)
    # Trained as evaluate.py trains.
    evaluated = json.loads((trained / "test.json").read_text())
    np.testing.assert_allclose(cells["this cell"]["test_loss"], evaluated["loss"], rtol=1e-4)
    np.testing.assert_allclose(
        cells["this cell"]["test_accuracy"], evaluated["accuracy"], rtol=1e-4
    )
    # What was trained is not trained again.
    analyze_command.main(["convergence", str(trained), *flags, cache])
    assert "this cell: test accuracy" not in capsys.readouterr().out
    assert numbers(trained, "convergence")["cells"] == cells


def test_a_search(searched, cache):
    seed = searched / "seed-3"
    analyze_command.main(["mixture", str(seed)])
    mix = numbers(seed, "mixture")
    assert np.shape(mix["normal"]["entropy"]) == (2, 2) and mix["normal"]["seeds"]["count"] == 2
    assert (
        mix["discretisation_gap_accuracy"]
        == json.loads((seed / "facts.json").read_text())["discretisation_gap_accuracy"]
    )
    analyze_command.main(["landscape", str(seed), "--grid=3", "--images=64", cache])
    plane = numbers(seed, "landscape-alpha")
    np.testing.assert_allclose(plane["loss"][1][1], plane["loss_of_the_run"], rtol=1e-4)
    analyze_command.main(
        [
            "landscape",
            str(seed),
            "--of=weights",
            "--part=test",
            "--dimensions=1",
            "--grid=3",
            "--images=64",
            cache,
        ]
    )
    line = numbers(seed, "landscape")
    np.testing.assert_allclose(line["loss"][1], line["loss_of_the_run"], rtol=1e-4)
    assert (
        line["loss"][0] != line["loss"][2] and abs(line["loss"][1] - plane["loss"][1][1]) > 1e-6
    )  # of other images
    analyze_command.main(["curvature", str(seed), "--images=64", "--probes=1", cache])
    curved = numbers(seed, "curvature-alpha")
    assert [epoch for epoch, _ in curved["trajectory"]] == [0, 1] and curved["size"] == 8
    few = ["--images=64", "--draws=2", "--attack_steps=2", "--epsilons", "0", "0.3", cache]
    analyze_command.main(["perturbation", str(seed), *few])
    moved = numbers(seed, "perturbation")
    for kind in ("random", "worst"):  # no noise is the mix itself
        np.testing.assert_allclose(moved[kind]["loss"][0], plane["loss_of_the_run"], rtol=1e-4)
    assert moved["worst"]["loss"][1] > moved["worst"]["loss"][0]
    assert moved["random"]["loss"][1] not in (moved["random"]["loss"][0], moved["worst"]["loss"][1])
    assert '<section id="mixture"' in page(seed) and "Dominant eigenvalue" in page(seed)
    assert "<section id=" not in page(searched / "seed-2")
    # The report that a resumed run writes again shows them too.
    shown = page(seed)
    image_search.main([f"--resume={searched}"])
    assert page(seed).count("<section id=") == shown.count("<section id=") == 5


def test_cells_of_a_search_in_a_table(tmp_path):
    ops = jd.spaces.nasbench201().cells["cell"].ops[0]
    mixes = np.full((2, 6, 5), 0.1, np.float32)
    mixes[0, :, ops.index("nor_conv_3x3")] = mixes[1, :, ops.index("skip_connect")] = 0.6
    cells = [
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    ]
    cells.append(cells[0].replace("nor_conv_3x3", "skip_connect"))
    table = tmp_path / "table.csv"
    lines = [
        "arch_str,cifar10_valid_12,cifar10_valid_200,cifar10_test_200,train_seconds_200",
        f"{cells[0]},80,90,93.5,100",
    ]
    table.write_text("\n".join([*lines, f"{cells[1]},50,60,54.25,10"]) + "\n")
    assert tables.in_table({"cell": mixes}, str(table)) == [
        {"cell": cells[0], "skip_connections": 0, "valid": 90, "test": 93.5},
        {"cell": cells[1], "skip_connections": 6, "valid": 60, "test": 54.25},
    ]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(Stop, match=r"--table=.*table.csv: has no \|skip_connect~0"):
        tables.in_table({"cell": mixes}, str(table))
    with pytest.raises(Stop, match="--table: of searches in NAS-Bench-201"):
        tables.in_table({"normal": mixes, "reduce": mixes}, str(table))


@needs_browser
def test_runs_side_by_side(searched, trained, tmp_path):
    analyze_command.main(["mixture", str(searched / "seed-2")])
    output = tmp_path / "comparison.html"
    analyze_command.main(["compare", str(searched), str(trained), "DARTS_V2", f"--output={output}"])
    text = output.read_text()
    for name in (
        "darts on digits, seed 2",
        "darts on digits, seed 3",
        "trained cell on digits, seed 0",
        "DARTS_V2",
    ):
        assert text.count(name) > 1
    for title in (
        "Test error of the cell",
        "Error of the cell with shared weights",
        "Kendall&#39;s tau between the ranks",
    ):
        assert title in text, title
    assert_readable(text, tmp_path)
    assert_readable(page(searched / "seed-2"), tmp_path)


def stopped(*arguments):
    with pytest.raises(Stop) as caught:
        analyze_command.main(list(arguments))
    assert "\n" not in str(caught.value) and caught.value.code
    return str(caught.value)


def test_one_line_for_what_is_wrong(searched, trained, tmp_path):
    run, seed = str(trained), str(searched / "seed-2")
    assert "landscapes: no analysis; there are topology" in stopped("landscapes", run)
    assert "not the folder of a run" in stopped("topology", str(tmp_path))
    assert "a run of 2 seeds; name one" in stopped("mixture", str(searched))
    assert "--of=alpha" in stopped("landscape", run, "--of=alpha")
    assert "--part=valid" in stopped("variance", run, "--part=valid")
    assert "--images=5 --batch_size=48: no full batch" in stopped("landscape", run, "--images=5")
    assert "--grid=2" in stopped("landscape", run, "--grid=2")
    assert "one batch has no variance" in stopped("variance", run, "--images=48")
    assert "no usable space.json" in stopped("mixture", run)
    assert "--widths=9.0 --each=3" in stopped("convergence", run, "--widths", "9")
    assert "no such folder, and no published cell; the nearest are DARTS_V2" in stopped(
        "compare", "DARTS_V22"
    )
    assert "name one run folder" in stopped("topology")
    assert "must be positive" in stopped("curvature", seed, "--steps=0")
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "analysis").mkdir(exist_ok=True)
    (copy / "analysis" / "broken.json").write_text("{")
    assert "broken.json is no analysis" in stopped("topology", str(copy))
