"""Figures of the report as inline SVG: text stays text, and colours are the page's, so light and dark both work."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Matplotlib draws in stand-in colours; in the SVG they become the page's, which know light from dark.
VARIABLES = ("ink", "muted", "line", "raised", "c-blue", "c-red", "c-green", "c-amber", "c-pink", "c-sky", "c-grey")
INK, MUTED, LINE, RAISED, *CYCLE = (f"#0101{k:02x}" for k in range(len(VARIABLES)))
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
class Line:
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
        lines: What it shows; a panel without any is left out.
        zero: Whether the vertical axis must reach 0.
        top: Where the vertical axis must reach at least; None for no bound.
    """

    title: str
    lines: Sequence[Line]
    zero: bool = False
    top: float | None = None


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # The browser draws the text with its own fonts; what DejaVu lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _inline(figure: Figure, name: str, label: str) -> Markup:
    """Return a figure as an element of a page: own ids, the page's colours, no name spaces, no fixed size."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=160, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = svg.replace("xlink:href=", "href=")
    for colour, variable in zip((INK, MUTED, LINE, RAISED, *CYCLE), VARIABLES, strict=True):
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="0 0 ([\d.]+) [^"]*"', svg)
    assert view is not None
    # All figures share one size of type: a narrow one is not blown up to the page's width.
    style = f"max-width:{float(view.group(1)) * 1.73:.0f}px"
    head = f'<svg {view.group()} style="{style}" role="img" aria-label="{escape(label)}">'
    return Markup(head + svg[svg.index(">") + 1 :].strip())


def small_multiples(panels: Sequence[Panel], name: str, label: str) -> Markup:
    """Return small plots by step side by side, three or four in a row, with one legend for all; "" without lines."""
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return Markup("")
    columns = len(panels) if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    with _drawing():
        figure = Figure(figsize=(min(9.6, 4.2 * columns), 0.45 + 1.9 * rows), layout="constrained")
        handles: dict[str, Any] = {}
        for k, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, k + 1)
            for line in panel.lines:
                dashes, width = ((0, (3, 1.5)), 1.1) if line.faint else ("-", 1.5)
                (handles[line.label],) = axes.plot(
                    line.x, line.y, color=CYCLE[line.style % len(CYCLE)], linestyle=dashes, linewidth=width, zorder=3,
                    marker="o" if len(line.x) == 1 else "",
                )  # fmt: skip
            axes.set_title(panel.title)
            axes.margins(y=0.08)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.grid(True, color=LINE, linewidth=0.5, alpha=0.7)
            if panel.zero:
                axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
                axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(0.0, axes.get_ylim()[1]))
            if panel.top is not None:
                axes.set_ylim(top=max(1.04 * panel.top, axes.get_ylim()[1]))
            if k >= len(panels) - columns:
                axes.set_xlabel("step")
        if len(handles) > 1:
            figure.legend(
                handles.values(), handles, loc="outside upper left", ncols=min(4, len(handles)), frameon=False,
                fontsize=8.5, labelcolor=INK,
            )  # fmt: skip
        return _inline(figure, name, label)


def scale_of(truth: np.ndarray) -> float:
    """Return the end of a colour scale about 0 for departures: 98 % of them are smaller."""
    return (float(np.nanquantile(np.abs(truth), 0.98)) if np.isfinite(truth).any() else 1.0) or 1.0


def example_maps(
    fields: xr.Dataset,
    units: Mapping[str, str],
    land: np.ndarray,
    lat_bounds: np.ndarray,
    lon_bounds: np.ndarray,
    name: str,
) -> Markup:
    """Return a row of maps a variable: what the encoder was shown, what it rebuilt, the truth; one colour scale a row.

    Grey is no data at all; hidden cells are hatched.

    Args:
        fields: shown, rebuilt and truth, (variable, lat, lon), NaN where not to be drawn.
        units: Of the variables.
        land: Where a variable has no data at all, (variable, lat, lon).
        lat_bounds, lon_bounds: Of the cells.
        name: Of the drawing, unique on the page.
    """
    span = float(abs(lat_bounds[-1] - lat_bounds[0]) / (lon_bounds[-1] - lon_bounds[0]))
    height = float(np.clip(2.95 * span, 0.9, 2.6))
    variables = fields["variable"].values.tolist()
    with _drawing():
        figure = Figure(figsize=(9.6, (height + 0.45) * len(variables) + 0.2), layout="constrained")
        rows = figure.subplots(len(variables), 3, squeeze=False, sharex=True, sharey=True)
        for k, (row, variable) in enumerate(zip(rows, variables, strict=True)):
            top = scale_of(fields["truth"].values[k])
            for axes, title in zip(row, ("shown", "rebuilt", "truth"), strict=True):
                axes.patch.set(facecolor=RAISED, edgecolor=LINE, hatch="/////", linewidth=0)
                none = np.where(land[k], 1.0, np.nan)
                axes.pcolormesh(lon_bounds, lat_bounds, none, cmap="gray", vmin=0, vmax=1.7, rasterized=True)
                values = fields[title].values[k]
                mesh = axes.pcolormesh(
                    lon_bounds, lat_bounds, values, cmap="RdBu_r", vmin=-top, vmax=top, rasterized=True
                )
                axes.set_title(f"{variable}: {title}")
                axes.spines[:].set_visible(False)
                axes.tick_params(length=2)
            bar = figure.colorbar(mesh, ax=list(row), location="right", shrink=0.85, aspect=16, pad=0.01)
            bar.outline.set_visible(False)  # type: ignore[operator]
            bar.set_label(units.get(variable, ""), color=MUTED, fontsize=8.5)
            bar.ax.tick_params(length=2)
        for axes in rows[-1]:
            axes.set_xlabel("°E")
        for axes in rows[:, 0]:
            axes.set_ylabel("°N")
        return _inline(figure, name, "Masked, rebuilt and true fields")
