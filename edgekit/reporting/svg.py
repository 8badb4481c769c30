"""From an altair chart to an SVG that lives inside the report.

The drawing is static: no script travels in the report. Colours are CSS variables, so
the page's light and dark schemes apply to plots; a mark's description becomes its
tooltip.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

#: Width of every plot in CSS pixels: two side by side on a desk, one on a phone without shrinking much.
WIDTH = 440
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

_SVG = "http://www.w3.org/2000/svg"
#: What Vega draws with. Anything else in its output would be a surprise, and is left out.
_TAGS = {"svg", "g", "path", "rect", "line", "text", "tspan", "circle", "defs", "clipPath", "linearGradient", "stop"}
_DROPPED = re.compile(r"on.*|href|.*\}href|role|aria-.*|xlink.*|style|class|pointer-events|version", re.IGNORECASE)
_LONG_DECIMAL = re.compile(r"(-?\d+\.\d\d)\d+")
#: The reader's font may be wider than the one that texts are measured with here: they are drawn smaller by this.
DRAWN_TEXT = 12 / 13
_GEOMETRY = ("d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "r")

#: The look shared by all plots.
THEME: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "padding": {"left": 9, "right": 4, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink-2)",
        "labelFontSize": 13,
        "titleColor": "var(--ink-2)",
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "gridColor": "var(--grid)",
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
        "labelPadding": 6,
        "labelLimit": 130,
        "tickCount": 5,
    },
    "axisY": {"domain": False, "ticks": False},
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 13,
        "titleColor": "var(--ink-2)",
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "orient": "top",
        "symbolStrokeWidth": 2.5,
        "labelLimit": 150,
        "columns": 4,
    },
    "text": {"fontSize": 13, "color": "var(--ink)"},
}


def series_colour(index: int) -> str:
    """The CSS variable of the series with that number; colours repeat after eight."""
    return f"var(--s{index % 8})"


def draw(make: Callable[[], Any], *, name: str, description: str) -> str:
    """Draw a chart as an SVG element.

    Args:
        make: makes an altair chart without a width or a configuration of its own.
        name: unique in the page; prefixes the drawing's ids.
        description: what the plot shows, for those who do not see it.

    Returns:
        Markup that is safe to put into HTML as it is.
    """
    import vl_convert
    from altair.utils.schemapi import debug_mode

    # The charts are ours and tested: checking each against the schema would take longer than drawing it.
    with debug_mode(False):
        spec = make().to_dict(validate=False)
    spec["config"] = THEME
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["width"] = WIDTH
    return _embed(vl_convert.vegalite_to_svg(spec), name=name, description=description)


def _embed(text: str, *, name: str, description: str) -> str:
    ET.register_namespace("", _SVG)
    root = ET.fromstring(text)
    _clean(root, name)
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-label", description)
    return ET.tostring(root, encoding="unicode")


def _clean(element: ET.Element, name: str) -> None:
    label = element.get("aria-label")
    is_mark = element.get("role") == "graphics-symbol" and element.get("aria-roledescription") not in ("axis", "legend")
    for key in list(element.attrib):
        if _DROPPED.fullmatch(key):
            del element.attrib[key]
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif key in _GEOMETRY:
            element.set(key, _LONG_DECIMAL.sub(r"\1", value))
    if (size := element.get("font-size")) is not None:
        element.set("font-size", f"{float(size.removesuffix('px')) * DRAWN_TEXT:.4g}px")
    for child in list(element):
        tag = child.tag.removeprefix(f"{{{_SVG}}}")
        if tag not in _TAGS or _draws_nothing(child, tag):
            element.remove(child)
        else:
            _clean(child, name)
    if is_mark and label:
        tooltip = ET.Element(f"{{{_SVG}}}title")
        tooltip.text = label
        element.insert(0, tooltip)


def _draws_nothing(element: ET.Element, tag: str) -> bool:
    """Vega's empty backgrounds and foregrounds, half of a small drawing's bytes."""
    return tag == "path" and element.get("class") in ("background", "foreground") and not element.get("fill")
