"""Pictures as files for a paper: SVG, PDF or PNG.

PDF and PNG are made by CairoSVG, an optional dependency (`pip install "jaxdarts[draw]"`).
"""

import base64
import importlib
import io
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from jaxdarts import files
from jaxdarts.report import svg

FORMATS = (".svg", ".pdf", ".png")
INK = "#1a1a1a"
"""Colour of text and lines on white paper."""
_SVG = "http://www.w3.org/2000/svg"
# Widths of characters that labels with subscripts consist of, as fractions of the font's size
# (DejaVu Sans).
_WIDTHS = {"c": 0.55, "t": 0.39, "k": 0.58, svg.MINUS: 0.84, ",": 0.32, " ": 0.32, "h": 0.63}


class Missing(ImportError):
    """Packages that make PDF and PNG are missing; the message says how to install them."""


def save(path: str | os.PathLike, picture: str, *, scale: float = 3.0) -> None:
    """Writes a picture as the file's suffix says: .svg, .pdf or .png.

    Args:
        path: the file; it is replaced as a whole or not at all.
        picture: SVG text of this package.
        scale: pixels of a PNG for each unit of the picture.

    Raises:
        Missing: for PDF and PNG, if CairoSVG or the cairo library is not installed.
        ValueError: if the suffix is another one.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path.name}: the suffix must be one of {', '.join(FORMATS)}")
    picture = portable(picture)
    if suffix == ".svg":
        files.replace_text(path, picture)
        return
    try:
        # Here: it is optional, and loads the cairo library.
        cairosvg = importlib.import_module("cairosvg")
    except ImportError as error:
        raise Missing(
            f'{suffix} needs CairoSVG: pip install "jaxdarts[draw]", or write an .svg file'
        ) from error
    except OSError as error:
        raise Missing(
            f"{suffix} needs the cairo library (apt install libcairo2, brew install cairo), or"
            " write an .svg file"
        ) from error
    options = {"bytestring": picture.encode()}
    if suffix == ".pdf":
        data = cairosvg.svg2pdf(**options)
    else:
        data = cairosvg.svg2png(**options, scale=scale, background_color="#ffffff")
    files.replace_bytes(path, data)


def beside(pictures: Sequence[str], *, columns: int = 2, gap: float = 24.0) -> str:
    """Several pictures as one, in rows from left to right.

    Raises:
        ValueError: if there is none.
    """
    if not pictures:
        raise ValueError("no pictures to put side by side")
    if len(pictures) == 1:
        return pictures[0]
    parts, width, y = [], 0.0, 0.0
    for start in range(0, len(pictures), columns):
        x, row = 0.0, 0.0
        for picture in pictures[start : start + columns]:
            view = ET.fromstring(picture).attrib["viewBox"].split()
            wide, high = float(view[2]), float(view[3])
            inner = picture[picture.index(">") + 1 : picture.rindex("</svg>")]
            parts.append(svg.tag("g", inner, transform=f"translate({x:.1f} {y:.1f})"))
            x, row = x + wide + gap, max(row, high)
        width, y = max(width, x - gap), y + row + gap
    return svg.picture(width, y - gap, parts, "pictures side by side")


def portable(picture: str) -> str:
    """The picture with plain fonts, dark ink, subscripts and pixels that every program draws alike.

    Programs other than browsers take the first font of a list only, centre every part of a text for
    itself, and smooth pixels.
    """
    ET.register_namespace("", _SVG)
    root = ET.fromstring(picture)
    root.set("color", INK)
    for element in root.iter():
        family = element.get("font-family")
        if family:
            element.set("font-family", "monospace" if family == svg.MONO else "sans-serif")
        if element.tag == f"{{{_SVG}}}image":
            _sharpen(element)
    for parent in list(root.iter()):
        for element in list(parent):
            if element.tag == f"{{{_SVG}}}text" and len(element):
                _spread(parent, element)
    return ET.tostring(root, encoding="unicode") + "\n"


def _sharpen(image: ET.Element) -> None:
    """Repeats the pixels of an embedded PNG, so that a program that smooths it blurs nothing."""
    from PIL import Image

    start, data = image.get("href", "").split(",", 1)
    stream = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(data))) as pixels:
        sides = zip(pixels.size, (image.get("width"), image.get("height")), strict=True)
        size = [number * math.ceil(4 * float(side or 0) / number) for number, side in sides]
        pixels.resize((size[0], size[1]), Image.Resampling.NEAREST).save(stream, "PNG")
    image.set("href", f"{start},{base64.b64encode(stream.getvalue()).decode()}")
    image.set("image-rendering", "optimizeSpeed")


def _spread(parent: ET.Element, text: ET.Element) -> None:
    """Puts a text element in place of each part of one with subscripts."""
    size, x, y = (float(text.get(name, 0)) for name in ("font-size", "x", "y"))
    spans = [(span.text or "", float(span.get("font-size", size))) for span in text]
    widths = [sum(_WIDTHS.get(one, 0.62) for one in part) * high for part, high in spans]
    if text.get("text-anchor") == "middle":
        x -= sum(widths) / 2
    at = list(parent).index(text)
    parent.remove(text)
    for k, ((part, high), width) in enumerate(zip(spans, widths, strict=True)):
        options = {
            **{name: value for name, value in text.attrib.items() if name != "text-anchor"},
            "x": f"{x:.2f}",
            "y": f"{y + (3.5 if high < size else 0):.2f}",
            "font-size": f"{high:g}",
        }
        one = ET.Element(f"{{{_SVG}}}text", options)
        one.text = re.sub(r"^ | $", "\N{NO-BREAK SPACE}", part)
        parent.insert(at + k, one)
        x += width
