"""jaxdarts draw. Oracles: what the files start with, the texts of an SVG."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxdarts import files, genotypes, spaces
from jaxdarts.commands import draw, methods
from jaxdarts.runs import Stop
from tests.report.test_export import needs_cairo

SVG = "{http://www.w3.org/2000/svg}"


def texts(path):
    return ["".join(text.itertext()) for text in ET.parse(path).iter(f"{SVG}text")]


def drawn(path, *arguments):
    draw.main([*arguments, f"--output={path}"])
    return texts(path)


@pytest.fixture
def run(tmp_path):
    """What a search of two nodes leaves."""
    space, folder = spaces.darts(2, ("none", "skip_connect")), tmp_path / "run"
    folder.mkdir()
    records = [{"step": i, "epoch": i, "train_loss": 2.0 - i, "skip_normal": i} for i in range(2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "space.json").write_text(methods.space_to_json(space))
    mixes = {name: np.full((2, 5, 2), 0.5) for name in space.cells}
    files.replace_arrays(folder / "alphas.npz", {"step": np.arange(2), **mixes})
    cell = space.discretize({name: mix[-1] for name, mix in mixes.items()})
    (folder / "genotype.json").write_text(genotypes.to_json(cell))
    return folder


def test_a_published_cell(tmp_path):
    both = drawn(tmp_path / "a.svg", "DARTS_V2")
    assert {"Normal cell", "Reduction cell", "dil_conv_3x3"} <= set(both)
    assert "Normal cell" not in drawn(tmp_path / "b.svg", "DARTS_V2", "--cell=reduce")
    text = str(genotypes.DARTS_V2)
    assert drawn(tmp_path / "c.svg", text) == both


def test_the_pictures_of_a_run(run, tmp_path):
    assert "skip_connect" in drawn(tmp_path / "cell.svg", str(run))
    assert {"Loss", "Skip connections in the cell"} <= set(
        drawn(tmp_path / "curves.svg", str(run), "--what=curves")
    )
    assert "Loss" in drawn(tmp_path / "loss.svg", str(run), "--what=curves", "--curve=loss")
    weights = drawn(tmp_path / "weights.svg", str(run), "--what=weights")
    assert "Normal cell: mixture weights" in weights and weights.count("epoch") == 10


@needs_cairo
def test_formats(run, tmp_path, capsys):
    for suffix, head in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        for what in draw.PICTURES:
            path = tmp_path / f"{what}.{suffix}"
            draw.main([str(run), f"--what={what}", f"--output={path}"])
            assert path.read_bytes().startswith(head)
            assert f"wrote {path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["DARTS_V2", "--output=x.jpg"], "--output=x.jpg: name a file"),
        (["DARTS_V2", "--output=x"], "--output=x: name a file"),
        (["DARTS_V2", "--output=x.svg", "--cell=side"], "--cell=side: there are normal, reduce"),
        (["DARTS_V3", "--output=x.svg"], "nearest are DARTS_V"),
        (["nothing", "--output=x.svg", "--what=curves"], "nothing: not the folder of a run"),
        (["nothing", "--output=x.svg", "--what=weights"], "nothing: not the folder of a search"),
        (["DARTS_V2", "--output=x.svg", "--scale=0"], "--scale=0.0: must be from 0.1 to 100"),
        (["DARTS_V2", "--output=no/x.svg"], "--output=no/x.svg: must be a file in a folder"),
        (["DARTS_V2", "--output=x.svg", "--scale=nan"], "--scale=nan: must be from 0.1 to 100"),
        (["DARTS_V2", "--output=x.png", "--scale=1e-9"], "--scale=1e-09: must be from 0.1 to 100"),
        (["DARTS_V2", "--output=x.svg", "--size=3"], "--size"),
        (["DARTS_V2", "--output=x.svg", "--what=roc"], "what"),
        (["DARTS_V2"], "--output: name the file"),
        (["--output=x.svg"], "name what to draw"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop, match=message) as caught:
        draw.main(arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
