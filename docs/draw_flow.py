"""Draw docs/flow.svg, the picture of the README: python docs/draw_flow.py [FILE].

The map is a month of the synthetic planet; the table and the scores are schematic and carry no numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import earthssl
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = Path(__file__).resolve().parent
INK, SOFT, LINE, PAPER, CARD = "#1d2733", "#5b6875", "#c9d1d9", "#ffffff", "#f6f8fa"
BLUE, TEAL, AMBER, GREY = "#2563a8", "#178a7a", "#d98b1f", "#b6bfc8"
WIDTH, HEIGHT = 13.2, 4.2  # inches
STEP, SIZE, TOP, BOTTOM = 2.17, 1.82, 4.0, 1.1  # of the six cards
CARDS = (
    ("source", "any gridded data,\none canonical form", "open_source"),
    ("store", "blocks of time, statistics\nof training only", "prepare"),
    ("pretrain", "pretext tasks on one\nencoder; no labels", "pretrain"),
    ("checkpoint", "safetensors and JSON,\nhashed, replayed", "verify"),
    ("probe", "the frozen encoder beside\nwhat it must beat", "probe"),
    ("report", "one page: what was found,\nintervals, verdicts", "report"),
)
BESIDE = (  # under the card of that number: verb, and what it does
    (0, "run", "all of it, from one YAML;\nkilled, it goes on"),
    (1, "plan", "memory, hours and disk,\nbefore a run"),
    (2, "audit", "is a pretext task more\nthan a trivial cue?"),
    (3, "pull · push · embed · export", "by address, to features,\nONNX, Fortran"),
    (4, "finetune", "own labels: head, last\nblocks, all, LoRA"),
    (5, "matrix", "pretext × downstream\n× layer"),
)


def left_of(card: int) -> float:
    """Return the left edge of a card, inches."""
    return 0.24 + card * STEP


def month() -> np.ndarray:
    """Return sea surface temperature anomalies of the tropical Pacific in a month of the planet, (row, column)."""
    data = earthssl.open_source("planet", years=4, seed=1, variables=["sst"], region=[-40, 40, 110, 290])
    anomaly = data["sst"].groupby("time.month") - data["sst"].groupby("time.month").mean()
    return np.asarray(anomaly.isel(time=17).values)


def panel(figure: Figure, card: int) -> Axes:
    """Return empty axes inside a card, 1 × 1 units."""
    width, height = SIZE - 0.3, 1.18
    axes = figure.add_axes(((left_of(card) + 0.15) / WIDTH, 2.3 / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], facecolor="none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def draw_field(axes: Axes, field: np.ndarray, hidden: np.ndarray | None = None) -> None:
    """Draw a map, with grey patches where it is hidden (rows and columns of patches)."""
    limit = float(np.nanmax(np.abs(field)))
    axes.add_patch(Rectangle((0, 0), 1, 1, color="#dfe3e7", lw=0, zorder=0))
    axes.imshow(field, extent=(0, 1, 0, 1), zorder=1, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto",
                interpolation="none")  # fmt: skip
    if hidden is None:
        return
    rows, columns = hidden.shape
    for i, j in zip(*np.nonzero(hidden), strict=True):
        axes.add_patch(Rectangle((j / columns, 1 - (i + 1) / rows), 1 / columns, 1 / rows, color=GREY, lw=0, zorder=2))
    for k in range(1, columns):
        axes.axvline(k / columns, color=PAPER, lw=0.8, zorder=3)
    for k in range(1, rows):
        axes.axhline(k / rows, color=PAPER, lw=0.8, zorder=3)


def draw_store(axes: Axes) -> None:
    """Draw three blocks of time with a gap between them, over the chunks of a few variables."""
    blocks = ((0.0, 0.56, BLUE, "train"), (0.62, 0.79, TEAL, "val"), (0.85, 1.0, AMBER, "test"))
    for low, high, colour, name in blocks:
        axes.add_patch(Rectangle((low, 0.0), high - low, 0.17, color=colour, lw=0))
        axes.text((low + high) / 2, 0.075, name, color=PAPER, ha="center", va="center", fontsize=7)
        for row in range(3):
            count = max(1, round((high - low) / 0.08))
            each = (high - low) / count
            for k in range(count):
                corner = (low + k * each, 0.29 + 0.245 * row)
                axes.add_patch(Rectangle(corner, each * 0.86, 0.19, color=colour, alpha=0.28 + 0.16 * row, lw=0))


def draw_checkpoint(axes: Axes) -> None:
    """Draw the files of the folder."""
    names = ("encoder.safetensors", "statistics.safetensors", "golden.safetensors", "record.json", "manifest.json")
    for k, name in enumerate(names):
        y = 0.9 - 0.2 * k
        axes.add_patch(FancyBboxPatch((0.01, y - 0.06), 0.05, 0.12, "round,pad=0.005", color=(BLUE, TEAL)[k > 2], lw=0))
        axes.text(0.12, y - 0.005, name, fontsize=6.9, family="DejaVu Sans Mono", color=INK, va="center")


def draw_probe(axes: Axes) -> None:
    """Draw scores with intervals, the pretrained encoder's last."""
    rows = (
        ("persistence", 0.3, GREY),
        ("PCA, ridge", 0.62, GREY),
        ("untrained", 0.68, AMBER),
        ("pretrained", 0.7, BLUE),
    )
    for k, (name, score, colour) in enumerate(rows):
        y = 0.88 - 0.245 * k
        axes.text(0, y, name, fontsize=7.2, color=INK, va="center")
        axes.plot([0.46 + 0.54 * (score - 0.17), 0.46 + 0.54 * (score + 0.17)], [y, y], color=colour, lw=2)
        axes.plot([0.46 + 0.54 * score], [y], "o", color=colour, ms=5)
    axes.axvline(0.46, color=LINE, lw=0.8)


def draw_report(axes: Axes) -> None:
    """Draw a page with a headline, a curve and a table."""
    axes.add_patch(FancyBboxPatch((0.17, 0.0), 0.66, 1.0, "round,pad=0,rounding_size=0.03", fc=PAPER, ec=LINE, lw=1))
    axes.add_patch(Rectangle((0.24, 0.87), 0.36, 0.05, color=INK, lw=0))
    axes.add_patch(Rectangle((0.24, 0.79), 0.52, 0.025, color=LINE, lw=0))
    x = np.linspace(0, 1, 40)
    for start, fall, colour in ((0.3, 2.2, GREY), (0.31, 1.2, AMBER), (0.31, 1.0, BLUE)):
        axes.plot(0.25 + 0.5 * x, 0.42 + start * np.exp(-fall * x), color=colour, lw=1.5)
    for row in range(3):
        for column in range(3):
            axes.add_patch(Rectangle((0.24 + 0.19 * column, 0.25 - 0.09 * row), 0.14, 0.03, color=LINE, lw=0))


def draw(file: Path) -> None:
    """Write the picture."""
    with matplotlib.rc_context({"svg.hashsalt": "earthssl", "font.family": "DejaVu Sans", "svg.fonttype": "path"}):
        composed().savefig(file, metadata={"Date": None, "Creator": None})


def composed() -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=PAPER)
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    page.axis("off")
    for card, (name, what, verb) in enumerate(CARDS):
        x = left_of(card)
        page.add_patch(
            FancyBboxPatch((x, BOTTOM), SIZE, TOP - BOTTOM, "round,pad=0,rounding_size=0.1", fc=CARD, ec=LINE, lw=1)
        )
        page.text(x + 0.15, TOP - 0.3, name, fontsize=12.5, weight="bold", color=INK, va="center")
        page.text(x + 0.15, 2.16, what, fontsize=7.9, color=SOFT, va="top", linespacing=1.35)
        page.add_patch(
            FancyBboxPatch((x + 0.15, BOTTOM + 0.17), SIZE - 0.3, 0.3, "round,pad=0,rounding_size=0.06", fc=INK, lw=0)
        )
        page.text(x + SIZE / 2, BOTTOM + 0.312, verb, fontsize=8.6, family="DejaVu Sans Mono", color=PAPER, ha="center",
                  va="center")  # fmt: skip
        if card:
            ends = ((x - (STEP - SIZE) + 0.03, 2.89), (x - 0.03, 2.89))
            page.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=13, color=INK, lw=1.6))
    for card, verb, what in BESIDE:
        x = left_of(card)
        page.plot([x + SIZE / 2] * 2, [BOTTOM, 0.82], color=LINE, lw=1.2)
        page.text(x + SIZE / 2, 0.64, verb, fontsize=7.9 if len(verb) > 12 else 8.6, family="DejaVu Sans Mono",
                  color=BLUE, ha="center", va="center", weight="bold")  # fmt: skip
        page.text(x + SIZE / 2, 0.48, what, fontsize=7.6, color=SOFT, ha="center", va="top", linespacing=1.35)
    field = month()
    hidden = np.random.default_rng(5).random((4, 6)) < 0.5
    draw_field(panel(figure, 0), field)
    draw_store(panel(figure, 1))
    draw_field(panel(figure, 2), field, hidden)
    draw_checkpoint(panel(figure, 3))
    draw_probe(panel(figure, 4))
    draw_report(panel(figure, 5))
    return figure


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "flow.svg")
