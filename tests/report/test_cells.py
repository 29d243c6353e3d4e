import base64
import io
import math
import random
import re
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdarts import genotypes, report, spaces
from jaxdarts.report import charts

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet")


def _random_cells(count):
    """Cells of 1 to 7 nodes, with partial concats and parallel edges."""
    rng = random.Random(0)
    for i in range(count):
        nodes = 1 + i % 7
        ops = ("sep_conv_5x5", "skip_connect", "none", "conv_7x1_1x7")
        edges = [(rng.choice(ops), rng.randrange(2 + k // 2)) for k in range(2 * nodes)]
        concat = sorted(rng.sample(range(2, 2 + nodes), rng.randint(1, nodes)))
        yield pytest.param(edges, concat, id=f"random{i}")


def _published_cells():
    for name in NAMES:
        genotype = getattr(genotypes, name)
        yield pytest.param(genotype.normal, genotype.normal_concat, id=f"{name}-normal")
        yield pytest.param(genotype.reduce, genotype.reduce_concat, id=f"{name}-reduce")


CELLS = [*_published_cells(), *_random_cells(21)]


def _boxes(root):
    """Bounds (left, top, right, bottom) of the labels and of the states."""
    labels, states = [], []
    for rect in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        (labels if rect.get("rx") == "10" else states).append((x, y, x + width, y + height))
    return labels, states


def _samples(path):
    """Points along a path of M, L and C commands."""
    points, here = [], None
    for command, text in re.findall(r"([MLC])([^MLC]*)", path.get("d")):
        numbers = [float(v) for v in re.findall(r"-?[\d.]+", text)]
        ends = np.array(numbers).reshape(-1, 2)
        t = np.linspace(0, 1, 40)[:, None]
        if command == "L":
            points.extend(here + t * (ends[0] - here))
        elif command == "C":
            a, b, c = ends
            points.extend(
                (1 - t) ** 3 * here + 3 * t * (1 - t) ** 2 * a + 3 * t**2 * (1 - t) * b + t**3 * c
            )
        here = ends[-1]
    return np.array(points)


def _inside(points, box, slack=1.0):
    left, top, right, bottom = box
    x, y = points.T
    return bool(
        ((x > left + slack) & (x < right - slack) & (y > top + slack) & (y < bottom - slack)).any()
    )


def _overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("edges, concat", CELLS)
def test_cell_is_legible(edges, concat):
    root = ET.fromstring(report.cells.graph(edges, concat, title="Cell"))
    labels, states = _boxes(root)
    nodes = len(edges) // 2
    assert len(labels) == len(edges) and len(states) == nodes + 3
    boxes = labels + states
    assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    _, _, width, height = map(float, root.get("viewBox").split())
    assert all(0 <= b[0] and b[2] <= width and 30 <= b[1] and b[3] <= height for b in boxes)
    lines = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert len(lines) == len(edges) + len(concat)
    assert len({path.get("d") for path in lines}) == len(lines)
    for path in lines:
        points = _samples(path)
        assert not any(_inside(points, box) for box in states)
        # A curve of an operation runs through its own label, a line to the output through none.
        assert sum(_inside(points, box) for box in labels) == (path.get("stroke") != "currentColor")


@pytest.mark.parametrize("edges, concat", CELLS)
def test_parallel_edges_keep_apart(edges, concat):
    root = ET.fromstring(report.cells.graph(edges, concat))
    lines = [path for path in root.iter(f"{SVG}path") if path.get("stroke-width") == "1.6"]
    for a in range(len(edges)):
        for b in range(a):
            if a // 2 == b // 2 and edges[a][1] == edges[b][1]:
                first, second = _samples(lines[a]), _samples(lines[b])
                gaps = np.linalg.norm(first[:, None] - second, axis=-1).min(1)
                assert gaps.min() > 3


def test_cell_names_what_it_draws():
    root = ET.fromstring(
        report.cells.graph(genotypes.DARTS_V2.normal, genotypes.DARTS_V2.normal_concat)
    )
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    ops = [op for op, _ in genotypes.DARTS_V2.normal]
    assert sorted(texts) == sorted([*ops, "ck−2", "ck−1", "2", "3", "4", "5", "ck"])


def test_colors_tell_families_apart_and_carry_white_text():
    ops = ("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "skip_connect", "conv_7x1_1x7")
    colors = [report.cells.look(op)[0] for op in ops]
    assert len(set(colors)) == len(ops)
    assert (
        report.cells.look("avg_pool_3x3")[0] == colors[2]
        and report.cells.look("none")[0] == colors[3]
    )
    for color in colors:
        channels = np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) > 4.5


def test_cell_is_deterministic_and_takes_lists():
    edges, concat = genotypes.NASNet.reduce, genotypes.NASNet.reduce_concat
    assert report.cells.graph(edges, concat) == report.cells.graph(
        [list(e) for e in edges], list(concat)
    )


def test_text_is_escaped():
    nasty = '<script>alert("1")</script>&\x00_{2}'
    for svg in (
        report.cells.graph([(nasty, 0), ("a", 1)], [2], title=nasty),
        report.charts.curves({nasty: [(0, 1)]}, title=nasty, xlabel=nasty, ylabel=nasty),
        report.heatmaps.heatmap(np.ones((1, 1, 1)), [nasty], [nasty], title=nasty),
    ):
        assert "<script" not in svg
        shown = ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]
        assert nasty.replace("\x00", "\ufffd") in shown


@pytest.mark.parametrize(
    "edges, concat, message",
    [
        ([], [2], "0 edges"),
        ([("a", 0)], [2], "1 edges; a cell needs 2"),
        ([("a", 0), ("b", 2)], [2], "feeds state 2 from state 2"),
        ([("a", 0), ("b", -1)], [2], "from state -1"),
        ([("a", 0), ("b", 1)], [3], "concat names state 3"),
    ],
)
@pytest.mark.parametrize("function", [report.cells.graph, report.cells.dot])
def test_bad_cells_are_refused(function, edges, concat, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(edges, concat)


def test_genotype_draws_every_cell():
    assert list(report.cells.cell(genotypes.DARTS_V2)) == ["normal", "reduce"]
    recurrent = report.cells.cell(genotypes.RNN_DARTS_V1)
    assert list(recurrent) == ["recurrent"]
    labels, states = _boxes(ET.fromstring(recurrent["recurrent"]))
    assert len(labels) == 8 and len(states) == 10
    topology = report.cells.cell(
        genotypes.parse("|none~0|+|none~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|")
    )
    assert list(topology) == ["cell"]
    root = ET.fromstring(topology["cell"])
    labels, states = _boxes(root)
    assert len(labels) == 6 and len(states) == 5
    assert (
        sum(
            path.get("stroke-opacity") == "0.4" and path.get("stroke-width") == "1.6"
            for path in root.iter(f"{SVG}path")
        )
        == 3
    )


GRAPHS = [
    "ModelSpec(matrix=[[0, 1], [0, 0]], ops=['input', 'output'])",
    # Every vertex reads all before it, but for two: nine edges.
    (
        "ModelSpec(matrix=[[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0,"
        " 0, 0, 0, 0]], ops=['input', 'conv3x3-bn-relu', 'conv1x1-bn-relu', 'maxpool3x3',"
        " 'output'])"
    ),
    # The second vertex is read by none.
    (
        "ModelSpec(matrix=[[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], "
        "ops=['input', 'maxpool3x3', 'conv3x3-bn-relu', 'output'])"
    ),
]


@pytest.mark.parametrize(
    "text", [*GRAPHS, *(str(spaces.nasbench101().sample(jax.random.key(i))) for i in range(12))]
)
def test_graph_of_operations_is_legible(text):
    genotype = genotypes.parse(text)
    [(name, picture)] = report.cells.cell(genotype).items()
    assert name == "cell"
    matrix, ops = genotypes.pruned(genotype)
    root = ET.fromstring(picture)
    labels, states = _boxes(root)
    boxes = labels + states
    assert len(boxes) == len(ops)
    assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    _, _, width, height = map(float, root.get("viewBox").split())
    assert all(0 <= b[0] and b[2] <= width and 30 <= b[1] and b[3] <= height for b in boxes)
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert sorted(texts) == sorted([*ops, "Cell"])
    lines = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert len(lines) == len({path.get("d") for path in lines}) == sum(map(sum, matrix))
    edges = []
    for path in lines:
        points = _samples(path)
        assert not any(_inside(points, box) for box in boxes)
        (x, y), (right, top) = points[0], points[-1] + [5, 0]  # the arrowhead's length
        [source] = [
            v for v, box in enumerate(boxes) if abs(x - box[2]) < 0.1 and box[1] < y < box[3]
        ]
        [target] = [
            v for v, box in enumerate(boxes) if abs(right - box[0]) < 0.1 and box[1] < top < box[3]
        ]
        edges.append((source, target))
    assert sorted(edges) == [
        (u, v) for u, row in enumerate(matrix) for v, edge in enumerate(row) if edge
    ]


def test_sizes_are_drawn_to_scale():
    [(name, picture)] = report.cells.cell(genotypes.parse("8:16:24:32:64")).items()
    root = ET.fromstring(picture)
    heights = [float(rect.get("height")) for rect in root.iter(f"{SVG}rect")]
    assert name == "channels" and heights == [2 * channels for channels in (8, 16, 24, 32, 64)]
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert sorted(texts) == sorted(
        ["Channels", "8", "16", "24", "32", "64", *["cell"] * 3, *["reduction"] * 2]
    )
    _, _, width, height = map(float, root.get("viewBox").split())
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 < x and x + w < width and 30 < y and y + h < height


def test_dot_quotes():
    text = report.cells.dot([('a"b\\', 0), ("c", 1)], [2])
    assert r's0 -> s2 [label="a\"b\\"];' in text and text.count("{") == text.count("}")


def _lines(svg):
    return [p for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("stroke-width") == "2"]


def test_curves_break_at_gaps():
    ys = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0]
    svg = report.charts.curves({"loss": list(enumerate(ys))})
    assert len(_lines(svg)) == 2
    assert svg.count("<circle") == 1
    assert "nan" not in svg and "inf" not in svg


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"a": []},
        {"a": [(0, math.nan)]},
        {"a": [(3, 4.5)]},
        {"a": [(0, 0), (1, 0)]},
        {"a": [(0, -1e9)]},
    ],
)
def test_curves_take_degenerate_series(series):
    svg = report.charts.curves(series, title="T", xlabel="x", ylabel="y")
    ET.fromstring(svg)
    finite = any(math.isfinite(y) for points in series.values() for _, y in points)
    assert ("no data" in svg) != finite


def test_curves_stay_in_the_picture():
    rng = np.random.default_rng(0)
    svg = report.charts.curves(
        {f"series {i}": list(enumerate(rng.normal(0, 10.0**i, 30))) for i in range(9)}
    )
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    for path in _lines(svg):
        points = np.array(re.findall(r"([\d.-]+),([\d.-]+)", path.get("d")), float)
        assert (points >= 0).all() and (points <= [width, height]).all()
    strokes = {(p.get("stroke"), p.get("stroke-dasharray")) for p in _lines(svg)}
    assert len(strokes) == 9


@pytest.mark.parametrize(
    "values, labels",
    [
        ([0.0, 50.0], ["0", "10", "20", "30", "40", "50"]),
        ([0.001, 0.025], ["0.000", "0.005", "0.010", "0.015", "0.020", "0.025"]),
        ([0, 2], ["0", "1", "2"]),
        ([-1.0, 0.9], ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        ([3e6, 9e6], ["2e6", "4e6", "6e6", "8e6", "1e7"]),
        ([], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_round(values, labels):
    assert charts.tick_labels(charts.ticks(values)) == labels


@pytest.mark.parametrize(
    "low, high", [(0.9981, 0.9993), (1e6 + 1, 1e6 + 2.5), (-3e-9, 7e-9), (5.0, 5.0), (1e300, 3e300)]
)
def test_ticks_enclose_the_values(low, high):
    ticks = charts.ticks([low, high])
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low and ticks[-1] >= high * (1 - 1e-12)
    assert len(set(charts.tick_labels(ticks))) == len(ticks)


def _pictures(svg):
    for image in ET.fromstring(svg).iter(f"{SVG}image"):
        data = image.get("href").removeprefix("data:image/png;base64,")
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_heatmap_pictures_hold_the_values():
    values = np.zeros((3, 2, 2))
    values[2, 0, 1] = 1.0
    values[0, 1, 0] = np.nan
    svg = report.heatmaps.heatmap(
        values, ["0->2", "1->2"], ["none", "skip_connect"], title="Normal"
    )
    scale, first, second = _pictures(svg)
    low, high = scale[0, 0].tolist(), scale[0, -1].tolist()
    assert first.shape == (2, 3, 3)
    assert first[1].tolist() == [low, low, high] and first[0].tolist() == [low] * 3
    assert second[0].tolist() == [[128, 128, 128], low, low]
    assert "0-&gt;2" in svg and "Normal" in svg


def test_heatmap_of_a_whole_search_is_small():
    values = np.random.default_rng(0).dirichlet(np.ones(8), (50, 14))
    svg = report.heatmaps.heatmap(
        values, [str(i) for i in range(14)], [f"operation_{i}" for i in range(8)]
    )
    assert len(svg) < 60_000
    assert len(list(_pictures(svg))) == 15


def test_heatmap_takes_other_operations_on_each_edge():
    svg = report.heatmaps.heatmap(np.ones((4, 2, 3)) / 3, ["a", "b"], [["x", "y"], ["p", "q", "r"]])
    assert [picture.shape[:2] for picture in _pictures(svg)][1:] == [(2, 4), (3, 4)]


def test_heatmap_of_no_epochs():
    ET.fromstring(report.heatmaps.heatmap(np.zeros((0, 2, 3)), ["a", "b"], ["x", "y", "z"]))


@pytest.mark.parametrize(
    "shape, rows, columns",
    [
        ((4, 2), ["a", "b"], ["x"]),
        ((4, 2, 1), ["a"], ["x"]),
        ((4, 2, 1), ["a", "b"], ["x", "y"]),
        ((4, 2, 1), ["a", "b"], [["x"]]),
    ],
)
def test_heatmap_refuses_labels_that_do_not_fit(shape, rows, columns):
    with pytest.raises(ValueError, match="need"):
        report.heatmaps.heatmap(np.zeros(shape), rows, columns)
