"""Figures as SVG inside the page: text stays text, and every colour is a CSS variable that follows light and dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

WIDTH = 360
"""Units of a figure's width, about the pixels of a phone's page: text of 10 units can be read there."""

INK, SOFT, LINE, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = tuple(f"#00001{number}" for number in range(1, 7))
"""Colours that mean nothing by themselves; the page's style sheet says what each is in light and in dark."""

ACCENT = (0, 114, 178)
"""Of pictures of spikes, on a clear ground: seen on light and on dark."""

MAPS_IN_A_ROW, NEURONS_IN_A_ROW = 8, 32

_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper"}
_VARIABLES |= {colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)}

_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"


@contextmanager
def style() -> Iterator[None]:
    """Draw quietly inside the block: no frames, thin lines, no background."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "snnrl",
        "font.size": 10,
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.grid.axis": "y",
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
        "lines.linewidth": 1.5,
        "legend.frameon": False,
        "legend.labelcolor": INK,
    }
    with matplotlib.rc_context(settings):
        yield


def blank(height: int = 230) -> Axes:
    """Return empty axes of a figure that is ``height`` units high."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none", layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_formatter(_short)
    return axes


def _short(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def look(number: int) -> dict[str, Any]:
    """Return colour, dash and marker of the series with this number: no two of the first 24 look alike."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 4,
    }


def legend(axes: Axes, columns: int = 3) -> None:
    """Name the series above the axes."""
    axes.get_figure(root=True).legend(loc="outside upper left", ncols=columns, fontsize=10, columnspacing=1.2)  # type: ignore[union-attr]


def to_svg(axes: Axes, name: str, text: str) -> str:
    """Return the figure as an SVG element whose ids begin with ``name`` and whose ``text`` screen readers read."""
    file = io.StringIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    opening = f'<svg role="img" aria-label="{_attribute(text)}" viewBox="0 0 {WIDTH} {_height(svg)}"'
    return re.sub(r"<svg[^>]*", f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink"', svg, count=1).rstrip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\\", "")


def _height(svg: str) -> str:
    found = re.search(r'viewBox="0 0 \S+ (\S+)"', svg)
    assert found is not None
    return found[1]


def to_png(picture: np.ndarray[Any, Any]) -> bytes:
    """Return a picture of bytes, grey ``(H, W)`` or ``(H, W, 3)`` or ``(H, W, 4)``, as a PNG file."""
    file = io.BytesIO()
    imsave(file, picture, format="png", cmap="gray", vmin=0, vmax=255)
    return file.getvalue()


def mosaic(spikes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return spikes as a picture ``(H, W, 4)``: maps ``(..., H, W)`` side by side, or a vector ``(N,)`` in rows.

    The most active neuron is full, silent ones are faint, the ground between tiles is clear.
    """
    if spikes.ndim > 1:
        maps, most = spikes.reshape(-1, *spikes.shape[-2:]), MAPS_IN_A_ROW
    else:
        maps, most = spikes[:, None, None], NEURONS_IN_A_ROW
    count, height, width = maps.shape
    columns = min(count, most)
    picture = np.zeros((-(-count // columns) * (height + 1), columns * (width + 1), 4), np.uint8)
    for number, share in enumerate(maps / max(maps.max(), 1e-9)):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        tile = picture[top : top + height, left : left + width]
        tile[..., :3], tile[..., 3] = ACCENT, np.rint(32 + 223 * share)
    return picture[:-1, :-1]
