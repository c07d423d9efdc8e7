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

from ..evaluation.html import Html, escaped

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
# Colour, dash and marker: any two series differ in two of the three, for readers who see no colour.
STYLES = {
    "pretrained": (BLUE, "-", "o"),
    "untrained": (AMBER, (0, (5, 2)), "s"),
    "PCA": (RED, (0, (3, 1.5, 1, 1.5)), "^"),
    "LIM": (GREEN, (0, (1, 1.2)), "D"),
    "persistence": (GREY, (0, (1, 1.2)), "v"),
    "scratch": (PINK, (0, (5, 2)), "X"),
    "known": (INK, (0, (6, 3)), ""),
    "other": (SKY, "-", "P"),
}
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
SEASONS = ("DJF", "JFM", "FMA", "MAM", "AMJ", "MJJ", "JJA", "JAS", "ASO", "SON", "OND", "NDJ")


@dataclass(frozen=True, eq=False)
class Series:
    """A line of a plot.

    Attributes:
        label: What it is called.
        x, y: Its points.
        low, high: Interval, drawn as a band; None for none.
        style: Key of `STYLES`, or an index into `CYCLE`.
        faint: Drawn thin and dashed: what stands beside the thing itself.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: str | int = 0
    faint: bool = False

    @property
    def look(self) -> tuple[Any, Any, str]:
        """Return colour, dash and marker."""
        if isinstance(self.style, str):
            return STYLES[self.style]
        return CYCLE[self.style % len(CYCLE)], (0, (3, 1.5)) if self.faint else "-", ""


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


def _draw(axes: Axes, series: Series, *, markers: bool = True, band: float = 0.15) -> None:
    colour, dash, marker = series.look
    hero = series.style == "pretrained"
    if series.low is not None and series.high is not None and np.isfinite(series.low).any():
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=band, linewidth=0)
    axes.plot(
        series.x, series.y, color=colour, linestyle=dash, marker=marker if markers else "",
        markersize=4.6 if hero else 3.6, linewidth=2.2 if hero else 1.1 if series.faint else 1.5,
        zorder=4 if hero else 3, label=series.label,
    )  # fmt: skip


def _spread(values: Sequence[float], gap: float) -> np.ndarray:
    """Return positions as near to the values as they can be with `gap` between neighbours."""
    order = np.argsort(values)
    placed = np.asarray(values, dtype=float)[order]
    for _ in range(200):
        close = np.diff(placed) < gap - 1e-9
        if not close.any():
            break
        push = np.where(close, (gap - np.diff(placed)) / 2, 0.0)
        placed[:-1] -= push
        placed[1:] += push
    out = np.empty(len(values))
    out[order] = placed
    return out


def _label_ends(axes: Axes, series: Sequence[Series], inches: float) -> None:
    """Write each line's name at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    drawn = [s for s in series if np.isfinite(s.y).any()]
    ends = [float(s.y[np.isfinite(s.y)][-1]) for s in drawn]
    right = max(float(s.x[-1]) for s in drawn)
    step = (right - min(float(s.x[0]) for s in drawn)) * 0.02 or 0.1
    for s, end, place in zip(drawn, ends, _spread(ends, 0.165 * (high - low) / inches), strict=True):
        colour = s.look[0]
        axes.plot([right + 0.4 * step, right + 1.6 * step], [end, place], color=colour, linewidth=0.7, clip_on=False)
        weight = "bold" if s.style == "pretrained" else "normal"
        axes.text(right + 2 * step, place, s.label, color=colour, va="center", fontsize=8.6, weight=weight)
    axes.set_xlim(right=right + step)


def skill_by_lead(series: Sequence[Series], leads: Sequence[int], name: str) -> Html:
    """Return skill by lead with bands and the line r = .5."""
    sink: list[Html] = []
    with _canvas(9.6, 4.3, name, sink, "Skill by lead") as figure:
        axes = figure.subplots()
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.text(leads[0], 0.512, "r = .5", color=MUTED, fontsize=8, va="bottom")
        for one in series:
            _draw(axes, one, band=0.16 if one.style == "pretrained" else 0.1)
        _lead_axis(axes, leads)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
        axes.set_ylabel("all-season skill, r")
        _label_ends(axes, series, 3.7)
    return sink[0]


def differences_by_lead(series: Sequence[Series], subject: str, leads: Sequence[int], name: str) -> Html:
    """Return paired differences by lead, a panel a reference, all on one scale; above 0 the subject is ahead."""
    sink: list[Html] = []
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    with _canvas(9.6, 0.4 + 2.0 * rows, name, sink, "Paired differences by lead") as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, one in zip(panels, series, strict=False):
            axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
            _draw(axes, one, band=0.22)
            axes.set_title(f"minus {one.label}", color=one.look[0])
            _lead_axis(axes, leads)
            axes.set_xlabel("")
        for axes in panels[len(series) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(series) - columns) : len(series)]:
            axes.set_xlabel("lead (months)")
            axes.tick_params(labelbottom=True)
        for axes in panels[::columns]:
            axes.set_ylabel("difference in r")
    return sink[0]


def _lead_axis(axes: Axes, leads: Sequence[int]) -> None:
    axes.set_xticks([lead for lead in leads if lead == leads[0] or lead % 3 == 0] if len(leads) > 7 else list(leads))
    axes.set_xlabel("lead (months)")
    axes.yaxis.grid(True, color=LINE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)


def season_maps(maps: dict[str, np.ndarray], leads: Sequence[int], name: str) -> Html:
    """Return r by target season and lead, a panel a row, and the first less the second where there are two."""
    sink: list[Html] = []
    panels = list(maps.items())
    with _canvas(9.6, 3.5, name, sink, "Skill by target season and lead") as figure:
        count = len(panels) + (len(panels) == 2)
        axes = figure.subplots(1, count, squeeze=False, sharey=True).ravel()
        for one, (title, values) in zip(axes, panels, strict=False):
            mesh = _season_panel(one, values, leads, title, "viridis", 0.0, 1.0)
            _half_line(one, values, leads)
        _bar(figure, mesh, list(axes[: len(panels)]), "r (below 0 shown as 0)")
        if len(panels) == 2:
            gap = panels[0][1] - panels[1][1]
            top = max(0.1, float(np.nanquantile(np.abs(gap), 0.98))) if np.isfinite(gap).any() else 0.1
            mesh = _season_panel(axes[2], gap, leads, "difference (left − middle)", "PuOr_r", -top, top)
            _bar(figure, mesh, [axes[2]], "difference in r")
    return sink[0]


def _season_panel(
    axes: Axes, values: np.ndarray, leads: Sequence[int], title: str, colours: str, low: float, high: float
) -> Any:
    x = np.arange(len(leads) + 1) - 0.5
    mesh = axes.pcolormesh(x, np.arange(13) - 0.5, values, cmap=colours, vmin=low, vmax=high, rasterized=True)
    ticks = [k for k, lead in enumerate(leads) if lead == leads[0] or lead % 3 == 0 or len(leads) <= 7]
    axes.set_xticks(ticks, [str(leads[k]) for k in ticks])
    axes.set_yticks(range(12), SEASONS)
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.tick_params(length=0)
    axes.set_xlabel("lead (months)")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    return mesh


def _half_line(axes: Axes, values: np.ndarray, leads: Sequence[int]) -> None:
    """Draw where r crosses .5."""
    finite = values[np.isfinite(values)]
    if len(leads) > 1 and finite.size and finite.min() < 0.5 < finite.max():
        axes.contour(np.arange(len(leads)), np.arange(12), values, levels=[0.5], colors="white", linewidths=1.4)


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
                _draw(one, series, markers=False)
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
