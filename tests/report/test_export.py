"""Pictures as files. Oracles: the file formats' first bytes, pixels."""

import importlib
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from jaxdarts import genotypes, report
from jaxdarts.report import export

SVG = "{http://www.w3.org/2000/svg}"
CELLS = list(report.cells.cell(genotypes.DARTS_V2).values())


def has_cairo() -> bool:
    try:
        importlib.import_module("cairosvg")
    except (ImportError, OSError):
        return False
    return True


needs_cairo = pytest.mark.skipif(not has_cairo(), reason="needs CairoSVG and the cairo library")


def size(picture):
    return [float(number) for number in ET.fromstring(picture).get("viewBox").split()[2:]]


def test_pictures_stand_side_by_side():
    one = export.beside(CELLS, gap=10)
    (first, second), (width, height) = map(size, CELLS), size(one)
    assert (width, height) == (first[0] + second[0] + 10, max(first[1], second[1]))
    below = export.beside(CELLS, columns=1, gap=10)
    assert size(below) == [max(first[0], second[0]), first[1] + second[1] + 10]
    texts = "".join("".join(text.itertext()) for text in ET.fromstring(one).iter(f"{SVG}text"))
    assert "Normal cell" in texts and "Reduction cell" in texts
    assert export.beside(CELLS[:1]) == CELLS[0]
    with pytest.raises(ValueError, match="no pictures"):
        export.beside([])


def test_a_portable_picture_has_plain_fonts_and_one_text_for_each_part():
    picture = export.portable(CELLS[0])
    root = ET.fromstring(picture)
    assert root.get("color") == export.INK
    assert {e.get("font-family") for e in root.iter()} == {None, "monospace", "sans-serif"}
    assert not list(root.iter(f"{SVG}tspan"))


def test_the_parts_of_a_label_do_not_overlap():
    root = ET.fromstring(export.portable(CELLS[0]))
    pairs = list(zip(root.iter(f"{SVG}text"), list(root.iter(f"{SVG}text"))[1:]))
    labels = [(a, b) for a, b in pairs if a.text == "c" and b.text.startswith("k")]
    assert len(labels) == 3
    for letter, index in labels:
        # The letter c is 0.55 of its size wide in DejaVu Sans.
        assert float(index.get("x")) - float(letter.get("x")) >= 0.5 * 13
        assert float(index.get("y")) - float(letter.get("y")) == pytest.approx(3.5)


@needs_cairo
def test_the_suffix_chooses_the_format(tmp_path):
    for suffix, head in (
        (".svg", b"<svg"),
        (".pdf", b"%PDF"),
        (".png", b"\x89PNG"),
        (".PNG", b"\x89PNG"),
    ):
        path = tmp_path / f"cell{suffix}"
        export.save(path, CELLS[0], scale=2)
        assert path.read_bytes().startswith(head)
    with Image.open(tmp_path / "cell.png") as image:
        assert list(image.size) == [2 * number for number in size(CELLS[0])]
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[0, 0].tolist() == [255] * 3
    blue = bytes.fromhex("0067a5")
    assert (pixels == list(blue)).all(-1).sum() > 1000  # the labels of separable convolutions
    assert len(list(tmp_path.iterdir())) == 4


@needs_cairo
def test_pixels_stay_sharp(tmp_path):
    values = np.zeros((2, 1, 2))
    values[1, 0, 1] = 1.0
    export.save(tmp_path / "x.png", report.heatmaps.heatmap(values, ["0->2"], ["a", "b"]), scale=1)
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).reshape(-1, 3)
    yellow = (pixels == report.heatmaps.VIRIDIS[-1]).all(-1).sum()
    # A quarter of a picture of 132 x 26, but for what antialiasing takes of its border.
    assert 66 * 13 - 160 < yellow < 66 * 13 + 40


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cell.jpg: the suffix must be one of .svg, .pdf, .png"):
        export.save(tmp_path / "cell.jpg", CELLS[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error, way", [(ModuleNotFoundError("x"), "pip install"), (OSError("x"), "cairo library")]
)
def test_what_is_missing_is_said(error, way, tmp_path, monkeypatch):
    def missing(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(export.Missing, match=re.escape(way)):
        export.save(tmp_path / "cell.pdf", CELLS[0])
    export.save(tmp_path / "cell.svg", CELLS[0])  # which needs nothing
    assert [path.name for path in tmp_path.iterdir()] == ["cell.svg"]
