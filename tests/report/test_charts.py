"""Charts of functions of two numbers, points, matrices. Oracles: a plane and a paraboloid, whose
level lines are known.
"""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxdarts import report
from jaxdarts.report import surfaces

SVG = "{http://www.w3.org/2000/svg}"
AXIS = np.linspace(-1, 1, 9)
X, Y = np.meshgrid(AXIS, AXIS)
LABELS = {"title": "Loss", "xlabel": "direction 1", "ylabel": "direction 2"}


def texts(text):
    return [element.text for element in ET.fromstring(text).iter(f"{SVG}text")]


def test_level_lines_of_a_plane():
    """Linear interpolation is exact there: every end lies on 2 x - y = 0.3, and the segments add up
    to the line's length.
    """
    segments = surfaces.level_line(2 * X - Y, AXIS, AXIS, 0.3)
    for ends in segments:
        for x, y in ends:
            assert abs(2 * x - y - 0.3) < 1e-12
    length = sum(math.dist(*ends) for ends in segments)
    assert abs(length - math.dist((-0.35, -1), (0.65, 1))) < 1e-12


def test_level_lines_of_a_paraboloid():
    segments = surfaces.level_line(X**2 + Y**2, AXIS, AXIS, 0.5)
    radii = [math.hypot(*end) for ends in segments for end in ends]
    # On a diagonal of a square of side h the linear interpolation of x^2 + y^2 is off by 2 (2 h^2)
    # / 8 at most.
    assert max(abs(radius**2 - 0.5) for radius in radii) <= 0.25**2 / 2
    # Closed: every point is an end of two segments.
    ends = [(round(x, 9), round(y, 9)) for pair in segments for x, y in pair]
    assert all(ends.count(end) % 2 == 0 for end in set(ends))
    assert abs(sum(math.dist(*pair) for pair in segments) - 2 * math.pi * math.sqrt(0.5)) < 0.1


def test_level_lines_leave_out_what_is_not_finite():
    values = X.copy()
    values[0, 0] = np.nan
    assert surfaces.level_line(np.full((3, 3), np.nan), AXIS[:3], AXIS[:3], 0.0) == []
    assert all(
        math.isfinite(v)
        for ends in surfaces.level_line(values, AXIS, AXIS, -0.9)
        for end in ends
        for v in end
    )


@pytest.mark.parametrize("function", [report.surfaces.contour, report.surfaces.surface])
def test_surfaces_are_pictures(function):
    labels = texts(function(0.2 + X**2 + Y**2, AXIS, AXIS, **LABELS))
    assert "Loss" in labels and any("direction 1" in text for text in labels) and "1.0" in labels
    # A range of more than 30 gets powers for levels.
    assert {"1", "10", "100"} <= set(texts(function(np.exp(4 * (X**2 + Y**2)) - 0.9, AXIS, AXIS)))
    ET.fromstring(function(np.where(X > 0, np.nan, 1.0), AXIS, AXIS))
    ET.fromstring(function(np.full(X.shape, np.nan), AXIS, AXIS))
    assert "<script>" not in function(
        X, AXIS, AXIS, title="<script>", xlabel="<script>", ylabel="<script>"
    )
    for values, xs in ((X, AXIS[:-1]), (X[:1], AXIS), (X[0], AXIS)):
        with pytest.raises(ValueError, match="values have shape"):
            function(values, xs, AXIS)


def test_a_surface_has_every_square_behind_those_in_front():
    text = report.surfaces.surface(X + 3 * Y, AXIS, AXIS)
    squares = [
        np.array([[float(v) for v in pair.split(",")] for pair in points.split()])
        for points in re.findall(r'<polygon points="(.*?)"', text)
    ]
    assert len(squares) == 64
    assert squares[0].mean(0)[1] < squares[-1].mean(0)[1]
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups())
    every = np.concatenate(squares)
    assert every.min() >= 0 and every[:, 0].max() <= width and every[:, 1].max() <= height
    missing = report.surfaces.surface(np.where((X == 0) & (Y == 0), np.nan, X), AXIS, AXIS)
    assert missing.count("<polygon") == 60  # the four squares around the point


def test_every_point_of_a_scatter_is_a_dot():
    root = ET.fromstring(
        report.charts.scatter({"a": [(0, 1), (1, 2), (1, 2.5)], "b": [(0.5, 1.5)]}, title="T")
    )
    assert len(list(root.iter(f"{SVG}circle"))) == 4
    assert not [path for path in root.iter(f"{SVG}path") if "L" in path.get("d")]


def test_a_matrix():
    text = report.heatmaps.matrix(
        np.eye(3), ["x", "y", "<z>"], title="Entropy", xlabel="epochs", ylabel="share", limit=2.0
    )
    assert {"x", "y", "<z>", "Entropy", "epochs", "share", "0", "2"} == set(texts(text))
    ET.fromstring(report.heatmaps.matrix(np.zeros((0, 4)), []))
    with pytest.raises(ValueError, match="2 row labels"):
        report.heatmaps.matrix(np.eye(3), ["x", "y"])
