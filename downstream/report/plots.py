"""Figures of the report as inline SVG: text stays text, and colours are the page's, so light and dark both work."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..results.html import Html, escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib draws in stand-in colours; in the SVG they become the page's, which know light from dark.
INK, MUTED, LINE, PAPER, LAND, RAISED = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
BLUE, AMBER, RED, GREEN, GREY, PINK, SKY = (
    "#010102", "#010103", "#010104", "#010105", "#010106", "#010107", "#010108",
)  # fmt: skip
VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", LAND: "land", RAISED: "raised", BLUE: "c-blue",
    AMBER: "c-amber", RED: "c-red", GREEN: "c-green", GREY: "c-grey", PINK: "c-pink", SKY: "c-sky",
}  # fmt: skip
CYCLE = (BLUE, RED, GREEN, AMBER, PINK, SKY, GREY)
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "earthssl",
    "text.parse_math": False,  # a $ in a row's name is a dollar
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True, eq=False)
class Series:
    """A line of a plot.

    Attributes:
        label: What it is called.
        x, y: Its points.
        style: Index into `CYCLE`.
        faint: Drawn thin and dashed: what stands beside the thing itself.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    style: int = 0
    faint: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """One small plot among several.

    Attributes:
        title: Over it.
        series: Its lines.
        zero: Whether the vertical axis must reach 0.
        top: Where the vertical axis must reach at least; None for no bound.
    """

    title: str
    series: Sequence[Series]
    zero: bool = False
    top: float | None = None


@dataclass(frozen=True, eq=False)
class Map:
    """One variable as shown, rebuilt and true, (rows, columns) each, NaN where not to be drawn, with a unit."""

    name: str
    unit: str
    fields: dict[str, np.ndarray]
    land: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))


@contextmanager
def _canvas(width: float, height: float, name: str, sink: list[Html], label: str) -> Iterator[Figure]:
    """Give a new figure (inches), and put it into `sink` as SVG afterwards."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # The browser draws the text with its own fonts; what DejaVu lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        buffer = io.StringIO()
        plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(buffer, format="svg", dpi=160, metadata=plain)
    sink.append(_inline(buffer.getvalue(), name, label))


def _inline(svg: str, name: str, label: str) -> Html:
    """Return an SVG file as an element of a page: own ids, the page's colours, no name spaces, no fixed size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = svg.replace("xlink:href=", "href=")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="0 0 ([\d.]+) [^"]*"', svg)
    assert view is not None
    # All figures share one size of type: a narrow one is not blown up to the page's width.
    style = f"max-width:{float(view.group(1)) * 1.73:.0f}px"
    head = f'<svg {view.group()} style="{style}" role="img" aria-label="{escaped(label)}">'
    return Html(head + svg[svg.index(">") + 1 :].strip())


def _axes_of(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel())


def _draw(axes: Axes, series: Series) -> None:
    axes.plot(
        series.x, series.y, color=CYCLE[series.style % len(CYCLE)], linestyle=(0, (3, 1.5)) if series.faint else "-",
        linewidth=1.1 if series.faint else 1.5, zorder=3, label=series.label,
    )  # fmt: skip


def _bar(figure: Figure, mesh: Any, axes: list[Axes], label: str, **place: Any) -> None:
    where: dict[str, Any] = {"location": "bottom", "shrink": 0.6, "aspect": 40, "pad": 0.03} | place
    bar = figure.colorbar(mesh, ax=axes, **where)
    bar.outline.set_visible(False)
    bar.set_label(label, color=MUTED, fontsize=8.5)
    bar.ax.tick_params(length=2)


def small_multiples(panels: Sequence[Panel], name: str, label: str, x_label: str = "step") -> Html:
    """Return small plots side by side, three or four in a row, with one legend for all."""
    from matplotlib.ticker import MaxNLocator

    sink: list[Html] = []
    columns = len(panels) if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    with _canvas(min(9.6, 4.2 * columns), 0.45 + 1.9 * rows, name, sink, label) as figure:
        axes = _axes_of(figure, rows, columns)
        handles: dict[str, Any] = {}
        for one, panel in zip(axes, panels, strict=False):
            for series in panel.series:
                _draw(one, series)
                handles[series.label] = one.lines[-1]
                if len(series.x) == 1:
                    one.lines[-1].set_marker("o")
            one.set_title(panel.title)
            one.margins(y=0.08)
            one.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            one.yaxis.grid(True, color=LINE, linewidth=0.5, alpha=0.7)
            if panel.zero:
                one.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
                one.set_ylim(min(0.0, one.get_ylim()[0]), max(0.0, one.get_ylim()[1]))
            if panel.top is not None:
                one.set_ylim(top=max(1.04 * panel.top, one.get_ylim()[1]))
        for one in axes[max(0, len(panels) - columns) : len(panels)]:
            one.set_xlabel(x_label)
        for one in axes[len(panels) :]:
            one.set_axis_off()
        if len(handles) > 1:
            figure.legend(
                handles.values(), handles, loc="outside upper left", ncols=min(4, len(handles)), frameon=False,
                fontsize=8.5, labelcolor=INK,
            )  # fmt: skip
    return sink[0]


def example_maps(maps: Sequence[Map], lat_bounds: np.ndarray, lon_bounds: np.ndarray, name: str) -> Html:
    """Return a row of maps a variable: what the encoder was shown, what it rebuilt, the truth; one colour scale a row.

    Grey is no data at all; hidden cells are hatched.
    """
    sink: list[Html] = []
    span = float(abs(lat_bounds[-1] - lat_bounds[0]) / (lon_bounds[-1] - lon_bounds[0]))
    height = float(np.clip(2.95 * span, 0.9, 2.6))
    with _canvas(9.6, (height + 0.45) * len(maps) + 0.2, name, sink, "Masked, rebuilt and true fields") as figure:
        rows = figure.subplots(len(maps), 3, squeeze=False, sharex=True, sharey=True)
        for row, shown in zip(rows, maps, strict=True):
            truth = np.abs(shown.fields["truth"])
            top = float(np.nanquantile(truth, 0.98)) if np.isfinite(truth).any() else 1.0
            for axes, (title, values) in zip(row, shown.fields.items(), strict=True):
                axes.patch.set(facecolor=RAISED, edgecolor=LINE, hatch="/////", linewidth=0)
                land = np.where(shown.land, 1.0, np.nan)
                axes.pcolormesh(lon_bounds, lat_bounds, land, cmap="gray", vmin=0, vmax=1.7, rasterized=True)
                mesh = axes.pcolormesh(
                    lon_bounds, lat_bounds, values, cmap="RdBu_r", vmin=-top or -1, vmax=top or 1, rasterized=True
                )
                axes.set_title(f"{shown.name}: {title}")
                axes.spines[:].set_visible(False)
                axes.tick_params(length=2)
            _bar(figure, mesh, list(row), shown.unit, location="right", shrink=0.85, aspect=16, pad=0.01)
        for axes in rows[-1]:
            axes.set_xlabel("°E")
        for axes in rows[:, 0]:
            axes.set_ylabel("°N")
    return sink[0]
