import html
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from jaxdarts import genotypes, report

EDGES = [(source, target) for target in range(2, 6) for source in range(target)]
OPS = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
]
OPS.append("dil_conv_5x5")


def _arguments(name="DARTS_V2", epochs=50):
    rng = np.random.default_rng(0)
    records = [
        {
            "step": 391 * epoch,
            "epoch": epoch - 1,
            "train_loss": 2.0 / (1 + epoch),
            "valid_loss": 2.5 / (1 + epoch),
            "train_accuracy": epoch / 60,
            "valid_accuracy": epoch / 70,
            "learning_rate": 0.025 / (1 + epoch),
            "skip_normal": epoch // 10,
            "skip_reduce": epoch // 20,
            "steps_per_second": 3.0,
        }
        for epoch in range(1, epochs + 1)
    ]
    cells = ("normal", "reduce")
    return {
        "title": "A <search> & more",
        "config": {
            "dataset": "cifar10",
            "optim": {"lr": 0.025, "betas": (0.5, 0.999)},
            "note": "<b>bold</b>",
        },
        "records": records,
        "genotype": getattr(genotypes, name),
        "mixes": {cell: rng.dirichlet(np.ones(8), (epochs, 14)) for cell in cells},
        "edges": {cell: EDGES for cell in cells},
        "ops": {cell: OPS for cell in cells},
        "facts": {
            "dataset": "CIFAR-10",
            "parameters": 3349342,
            "multiply_adds": 528_400_000,
            "wall_time": 5025.0,
        },
    }


def _page(tmp_path, **changes):
    report.page.write(tmp_path / "report.html", **(_arguments() | changes))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def _fact(page, name):
    match = re.search(f"<dt>{re.escape(name)}</dt><dd>(.*?)</dd>", page)
    return match and match[1].replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_tables_and_pictures_without_a_cell(tmp_path):
    rows = [["ensemble", "size"], ["<full>", "3"], ["pruned", "2"]]
    picture = report.charts.curves({"a": [(0, 1), (1, 2)]}, title="A curve of one's own")
    nothing = {"records": (), "genotype": None, "mixes": {}, "edges": {}, "ops": {}}
    page = _page(tmp_path, **nothing, tables={"Full and pruned": rows}, pictures=[picture])
    assert "<h2>Full and pruned</h2>" in page and picture in page
    assert (
        '<th scope="col">size</th>' in page
        and '<th scope="row">&lt;full&gt;</th><td>3</td>' in page
    )
    assert "The cells" not in page and "Genotype" not in page


def test_page_shows_the_run(tmp_path):
    page = _page(tmp_path)
    assert "A &lt;search&gt; &amp; more" in page and "<b>" not in page
    assert str(genotypes.DARTS_V2) in html.unescape(page)
    for title in (
        "Loss",
        "Accuracy",
        "Learning rate of the weights",
        "Skip connections in the cell",
        "Normal cell",
        "Reduction cell",
        "Normal cell: mixture weights",
        "Reduction cell: mixture weights",
    ):
        assert f">{title}</text>" in page
    assert page.count("<svg") == 8
    assert "<td>(0.5, 0.999)</td>" in page and 'scope="row">optim.lr</th>' in page
    assert _fact(page, "Parameters") == "3 349 342"
    assert _fact(page, "Multiply adds") == "528 400 000"
    assert _fact(page, "Wall time") == "1:23:45"
    assert _fact(page, "Epochs") == "50"
    assert _fact(page, "Validation loss") == "0.04902"
    assert _fact(page, "Validation accuracy") == "71.43 %"
    assert _fact(page, "Skips, normal cell") == "2 of 8"
    assert _fact(page, "Skips, reduction cell") == "3 of 8"


def test_page_is_self_contained_and_small(tmp_path):
    page = _page(tmp_path)
    assert (
        "<script" not in page
        and "<link" not in page
        and "@import" not in page
        and "url(" not in page
    )
    links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert len(page) < 300_000


def test_page_is_deterministic_and_replaced_as_a_whole(tmp_path):
    first = _page(tmp_path)
    assert _page(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="mixes has a cell 'normal'"):
        _page(tmp_path, edges={})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == first


@pytest.mark.parametrize("key", [key for key in _arguments(epochs=1)["records"][0]])
def test_any_key_may_be_missing_or_null(tmp_path, key):
    records = _arguments(epochs=4)["records"]
    for record in records:
        del record[key]
    assert "nan" not in _page(tmp_path, records=records)
    for record in records:
        record[key] = None
    assert "nan" not in _page(tmp_path, records=records)


def test_a_gap_does_not_hide_the_last_value(tmp_path):
    records = _arguments(epochs=3)["records"]
    records[-1]["valid_loss"] = None
    assert _fact(_page(tmp_path, records=records), "Validation loss") == "0.8333"


def test_page_of_nothing_but_a_genotype(tmp_path):
    page = _page(tmp_path, records=[], mixes={}, edges={}, ops={}, facts={}, config={})
    assert page.count("<svg") == 2
    assert "Curves" not in page and "Mixture weights" not in page and "Configuration" not in page


def test_page_of_a_recurrent_cell(tmp_path):
    edges = [(source, target) for target in range(1, 9) for source in range(target)]
    page = _page(
        tmp_path,
        genotype=genotypes.RNN_DARTS_V1,
        mixes={"recurrent": np.full((5, 36, 5), 0.2)},
        edges={"recurrent": edges},
        ops={"recurrent": ["none", "tanh", "relu", "sigmoid", "identity"]},
    )
    assert "Recurrent cell" in page and "state 0 is the input" in page and "Skips," not in page


def test_page_of_a_topology(tmp_path):
    genotype = genotypes.parse(
        "|none~0|+|none~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    )
    mixes = {"cell": np.full((5, 6, 5), 0.2)}
    edges, ops = (
        [(source, target) for target in range(1, 4) for source in range(target)],
        genotypes.TOPOLOGY_OPS,
    )
    page = _page(tmp_path, genotype=genotype, mixes=mixes, edges={"cell": edges}, ops={"cell": ops})
    assert (
        "state 0 is the input" in page
        and _fact(page, "Skips, cell") == "1 of 6"
        and str(genotype) in html.unescape(page)
    )


def test_facts_given_win_over_facts_derived(tmp_path):
    page = _page(tmp_path, facts={"epochs": "25 of 50", "valid_loss": 9.0})
    assert _fact(page, "Epochs") == "25 of 50" and _fact(page, "Valid loss") == "9"
    assert _fact(page, "Validation loss") is None


SUMMARY = report.page.Summary(
    figures={"validation_accuracy": 0.5, "Parameters at 8 channels and 3 cells": 12345},
    warnings=["The <normal> cell degenerates."],
    next_command="jaxdarts evaluate --arch=run",
    command="jaxdarts search --epochs=3",
    changed=[("epochs", "10", "3")],
)


def test_a_summary_leads_and_the_rest_is_folded(tmp_path):
    page = _page(tmp_path, summary=SUMMARY)
    marks = [
        "The &lt;normal&gt; cell degenerates.",
        "<dt>Validation accuracy</dt><dd>50.00\N{NARROW NO-BREAK SPACE}%",
        "<dd>12\N{NARROW NO-BREAK SPACE}345",
        "<pre>jaxdarts evaluate --arch=run</pre>",
        "Normal cell</text>",
        "<summary>All figures</summary>",
        "<h2>Curves</h2>",
        "<summary>Genotype</summary>",
        "<pre>jaxdarts search --epochs=3</pre>",
        '<th scope="row">epochs</th><td>10</td><td>3</td>',
        "<summary>Configuration</summary>",
    ]
    at = [page.index(mark) for mark in marks]
    assert at == sorted(at) and "<details open" not in page
    bare = _page(tmp_path)
    assert "Warning" not in bare and "Next command" not in bare and "All figures" not in bare


def test_epochs_count_from_one():
    records = [{"epoch": 0, "a": 1.0}, {"epoch": 1, "a": None}, {"epoch": 2, "a": 3.0}]
    points = report.page.points(records, "a", 10)
    assert [x for x, _ in points] == [1, 2, 3] and points[0][1] == 10 and points[2][1] == 30
    assert np.isnan(points[1][1])


def test_a_heat_map_marks_what_the_cell_keeps():
    mix = np.full((3, 14, 8), 0.1)
    arguments = ("normal", mix, {"normal": EDGES}, {"normal": OPS})
    picture = report.page.heatmap(*arguments, genotypes.DARTS_V2)
    frames = re.findall('<rect [^>]*fill="none"[^>]*stroke-width="2"', picture)
    arrows = re.findall('<path d="M[^"]*l-7,-4v8z"', picture)
    assert len(frames) == len(arrows) == 8
    bold = re.findall('text-anchor="end"[^>]*font-weight="600">(.*?)<', picture)
    assert sorted(bold) == sorted(op for op, _ in genotypes.DARTS_V2.normal)
    assert picture.count(">epoch<") == 14
    none = report.page.heatmap(*arguments, None)
    assert 'stroke-width="2"' not in none and "l-7,-4v8z" not in none


COUNTS = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])


def test_the_table_of_classes(tmp_path):
    confusion = report.page.Confusion(COUNTS, ["<cat>", "dog", "bird"])
    page = _page(tmp_path, confusion=confusion)
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>((?:<td>.*?</td>)+)</tr>', page)
    row_texts = {name: re.findall("<td>(.*?)</td>", cells) for name, cells in rows}
    space = "\N{NARROW NO-BREAK SPACE}"
    assert row_texts["&lt;cat&gt;"] == ["4", f"75.00{space}%", "dog (1 of 4)"]
    assert row_texts["dog"] == ["0", "", ""]
    assert row_texts["bird"] == ["8", f"50.00{space}%", "&lt;cat&gt; (2 of 8)"]
    assert "Confusion of the classes" in page
    many = report.page.Confusion(np.eye(101), [str(i) for i in range(101)])
    assert "Confusion of the classes" not in _page(tmp_path, confusion=many)


def test_a_confusion_matrix_holds_its_counts():
    picture = report.heatmaps.confusion(COUNTS, ["a", "b", "c"])
    numbers = re.findall(r'fill="#(?:fff|000)">(\d+)<', picture)
    assert sorted(numbers) == ["1", "2", "2", "3", "4"]
    for classes in (1, 2, 21, 100):
        ET.fromstring(
            report.heatmaps.confusion(np.eye(classes), [f"class {i}" * 3 for i in range(classes)])
        )
    with pytest.raises(ValueError, match="2 classes need"):
        report.heatmaps.confusion(COUNTS, ["a", "b"])


def test_counts_are_drawn_as_steps():
    points = [(1, 0), (2, 0), (3, 2)]
    lines = [
        re.findall('d="(M[^"]*L[^"]*)"', report.charts.curves({"a": points}, steps=steps))[0]
        for steps in (False, True)
    ]
    slope, stairs = ([pair.split(",") for pair in line[1:].split("L")] for line in lines)
    assert len(slope) == 3
    for (x0, y0), (x1, y1) in zip(stairs, stairs[1:]):
        assert x0 == x1 or y0 == y1
    assert stairs[0] == slope[0] and stairs[-1] == slope[-1]


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_page_in_a_browser(tmp_path):
    _page(tmp_path)
    flags = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
    ]
    address = f"file://{tmp_path}/report.html"
    dom = subprocess.run(
        [*flags, "--dump-dom", address], capture_output=True, timeout=60, check=True
    ).stdout.decode()
    assert str(genotypes.DARTS_V2) in html.unescape(dom)
    shot = tmp_path / "page.png"
    subprocess.run(
        [*flags, "--window-size=1280,1600", f"--screenshot={shot}", address],
        capture_output=True,
        timeout=60,
        check=True,
    )
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 200
