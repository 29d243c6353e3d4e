"""The few elements of SVG that cells and charts are made of.

No ids, style sheets or scripts. Text outside boxes has the colour ``currentColor``, preset to a
grey that reads on white and on black; a page may overrule it with ``svg { color: inherit }``.
"""

import html
import math
import re
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
MONO = "ui-monospace, Menlo, 'DejaVu Sans Mono', Consolas, monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
TITLE = {"font_weight": 600}


def tag(name: str, body: str = "", /, **attributes: object) -> str:
    """Writes an SVG element.

    `stroke_width` becomes `stroke-width`, None is left out, everything is escaped.
    """
    text = ""
    for key, value in attributes.items():
        if isinstance(value, (int, float)):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        if value is not None:
            text += f' {key.replace("_", "-")}="{escaped(str(value))}"'
    return f"<{name}{text}>{body}</{name}>" if body else f"<{name}{text}/>"


def escaped(text: str) -> str:
    """Text for XML."""
    # XML 1.0 has no way to write most control characters.
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text))


def label(
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    anchor=None,
    subscripts: bool = False,
    **attributes,
) -> str:
    """Text at a place; with `subscripts` `c_{k-2}` is set with one."""
    body = "" if subscripts else escaped(text)
    # By `dy`, because not every browser knows `baseline-shift`.
    for i, part in enumerate(re.split(r"_\{(.*?)\}", text) if subscripts else ()):
        if i % 2:
            body += tag("tspan", escaped(part.replace("-", MINUS)), dy=3.5, font_size=10)
        elif part:
            body += tag("tspan", escaped(part), dy=-3.5 if i else None)
    return tag("text", body, x=x, y=y, font_size=size, text_anchor=anchor, **attributes)


def picture(width: float, height: float, parts: Sequence[str], name: str) -> str:
    """One SVG element; `name` is what a screen reader says of it."""
    width, height = math.ceil(width), math.ceil(height)
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    text = {
        "color": "#757575",
        "fill": "currentColor",
        "font_family": SANS,
        "role": "img",
        "aria_label": name,
    }
    return (
        tag("svg", "\n".join(["", *parts, ""]), xmlns="http://www.w3.org/2000/svg", **size, **text)
        + "\n"
    )
