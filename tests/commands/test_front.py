"""Best cells under several limits. Oracles: brute force over a list, sums by hand."""

import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import limits
from jaxdarts.commands.search import front
from jaxdarts.commands.search.front import Point
from tests.test_limits import mixes


def point(accuracy, **costs):
    return Point("cell", costs, accuracy)


def test_a_cell_that_another_one_beats_is_not_on_the_front():
    points = [
        point(0.9, parameters=3.0, latency_ms=2.0),
        point(0.8, parameters=3.0, latency_ms=1.0),
        point(0.8, parameters=3.5, latency_ms=1.0),  # more parameters than the one before
        point(0.7, parameters=1.0, latency_ms=9.0),
        point(0.9, parameters=3.0, latency_ms=2.0),  # equals the first one
        point(0.6, parameters=2.0, latency_ms=9.0),
    ]
    assert front.undominated(points) == [True, True, False, True, True, False]


@pytest.mark.parametrize("space", [jd.spaces.darts(2), jd.spaces.nasbench201()])
def test_cells_go_from_the_strongest_to_the_cheapest(space):
    size = (4, 3, 10, (8, 8, 1)) if len(space.cells) > 1 else (4, 1, 10, (8, 8, 1))
    counted = dict(zip(("parameters", "multiply_adds"), space.costs(*size), strict=True))
    mix = mixes(space, 0)
    cells = front.under(space, mix, counted, 6)
    assert cells[0] == space.discretize(mix) and len(set(cells)) == len(cells) > 1
    for costs in counted.values():
        prices = [limits.total(space.cells, costs, cell) for cell in cells]
        assert min(prices) == limits.least(space.cells, costs)
    parameters, adds = jd.network_cost(cells[-1], *size)
    assert limits.total(space.cells, counted["parameters"], cells[-1]) == parameters
    assert limits.total(space.cells, counted["multiply_adds"], cells[-1]) == adds


def test_a_chart_has_a_dot_for_each_cell():
    points = [point(0.5 + 0.1 * i, parameters=float(i)) for i in range(3)]
    assert np.sum(front.undominated(points)) == 3
    assert front.chart(points, [True, False, True], "parameters").count("<circle") == 3
