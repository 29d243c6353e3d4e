"""HTML reports of runs, drawings of cells, and charts, all as SVG."""

from jaxdarts.report import cells as cells
from jaxdarts.report import charts as charts
from jaxdarts.report import comparison as comparison
from jaxdarts.report import export as export
from jaxdarts.report import heatmaps as heatmaps
from jaxdarts.report import page as page
from jaxdarts.report import sections as sections
from jaxdarts.report import surfaces as surfaces
from jaxdarts.report import svg as svg
