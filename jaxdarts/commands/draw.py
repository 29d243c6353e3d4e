"""Draw a cell, or the curves and mixture weights of a run, as a file for a paper.

    jaxdarts draw DARTS_V2 --output=cell.pdf
    jaxdarts draw runs/search-digits-20260102-030405 --what=curves --output=curves.png

The suffix of --output chooses PDF, PNG or SVG. PDF and PNG need CairoSVG: pip install
"jaxdarts[draw]".
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jaxdarts import files, report
from jaxdarts.commands import checks, command_line, methods
from jaxdarts.commands.evaluate import recipes
from jaxdarts.report import page
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import Bound

SCALE = Bound("must be from 0.1 to 100", lambda x: 0.1 <= x <= 100)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw a cell, or the curves and mixture weights of a run."""

    COMMAND: ClassVar[str] = "draw"
    TOPIC: ClassVar[str] = "subject"

    subject: str = flag(
        "",
        "Run folder, name of a published cell, JSON file, or text of a genotype.",
        positional=True,
    )
    output: str = flag("", "File to write (required); its suffix is .pdf, .png or .svg.")
    what: Literal["cell", "curves", "weights"] = flag(
        "cell", "Picture: the cell, the curves of a run, or the mixture weights of a search."
    )
    cell: str | None = flag(None, "Cell to draw, such as normal or reduce; default all.")
    curve: str | None = flag(None, "Title of the curve to draw, such as accuracy; default all.")
    scale: float = flag(3.0, "Pixels of a PNG for each unit of the picture.", SCALE)


def main(arguments: Sequence[str]) -> None:
    config = command_line.read(Config, arguments, Config(), __doc__)
    if not config.subject:
        raise Stop("name what to draw: a run folder, a published cell, a JSON file; see --help", 2)
    if not config.output:
        raise Stop("--output: name the file to write, which ends in .pdf, .png or .svg", 2)
    checks.check_flags(config)
    suffix = Path(config.output).suffix.lower()
    if suffix not in report.export.FORMATS:
        raise Stop(f"--output={config.output}: name a file that ends in .pdf, .png or .svg", 2)
    for name, kinds in (("cell", ("cell", "weights")), ("curve", ("curves",))):
        value = getattr(config, name)
        if value is not None and config.what not in kinds:
            raise Stop(f"--{name}={value}: only with --what={' or --what='.join(kinds)}", 2)
    pictures = PICTURES[config.what](config)
    picture = report.export.beside(pictures, columns=1 if config.what == "weights" else 2)
    try:
        report.export.save(config.output, picture, scale=config.scale)
    except report.export.Missing as error:
        raise Stop(f"--output={config.output}: {error}", 2) from error
    except OSError as error:
        raise Stop(f"--output={config.output}: cannot write there: {error}") from error
    print(f"wrote {config.output}")


def cell_pictures(config: Config) -> list[str]:
    """The cells of a genotype."""
    drawn = report.cells.cell(recipes.named(config.subject, "SUBJECT"))
    return _chosen(drawn, config.cell, "--cell")


def curve_pictures(config: Config) -> list[str]:
    """The curves of a run."""
    path = Path(config.subject) / "metrics.jsonl"
    try:
        records = files.read_json_lines(path)
    except (OSError, ValueError) as error:
        raise Stop(
            f"{config.subject}: not the folder of a run, no usable {path}: {error}", 2
        ) from error
    drawn = {title.lower(): picture for title, picture in page.curves(records).items()}
    if not drawn:
        raise Stop(f"{config.subject}: {path} holds no numbers to draw", 2)
    return _chosen(drawn, config.curve, "--curve")


def weight_pictures(config: Config) -> list[str]:
    """The mixture weights of a search over its epochs."""
    folder = Path(config.subject)
    try:
        cells = methods.cells_from_json(files.read_text(folder / "space.json"))
        mixes = files.read_arrays(folder / "alphas.npz")
        drawn = {
            name: page.heatmap(
                name,
                np.asarray(mixes[name]),
                {name: choices.edges},
                {name: choices.ops},
                recipes.named(config.subject, "SUBJECT"),
            )
            for name, choices in cells.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise Stop(f"{config.subject}: not the folder of a search: {error}", 2) from error
    return _chosen(drawn, config.cell, "--cell")


PICTURES = {"cell": cell_pictures, "curves": curve_pictures, "weights": weight_pictures}
"""What --what names: configuration -> pictures."""


def _chosen(drawn: dict[str, str], name: str | None, flag: str) -> list[str]:
    if name is None:
        return list(drawn.values())
    if name.lower() not in drawn:
        raise Stop(f"{flag}={name}: there are {', '.join(drawn)}", 2)
    return [drawn[name.lower()]]
