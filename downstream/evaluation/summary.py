"""Summary: what a downstream task found, as tables, JSON, pictures and one page, written all or nothing."""

from __future__ import annotations

import base64
import io
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, refuse_filled, write_json, write_text
from ...ssl.common.versions import versions
from .html import Html, Section, bullets, details, element, facts, figure, joined, page, table
from .numbers import number, plain, thinned

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SCORES = ("row", "seed", "target", "metric", "value", "low", "high")
DIFFERENCES = ("row", "reference", "target", "metric", "value", "low", "high", "verdict")
SCREEN = 100  # columns of a terminal
MOST_COLUMNS = 8  # targets shown there; of more, some evenly chosen
SIGNS = {"better": "▲", "worse": "▼", "undecided": "·"}


@dataclass(frozen=True, eq=False)
class Summary:
    """The result of one downstream task.

    Attributes:
        task: Its name.
        title: One line: task, data, and whether they are synthetic.
        convention: What the numbers mean: target, anomalies, split, selection, intervals.
        scores: Columns row, seed ("" for none, or for the mean over seeds), target (lead, threshold, mask …),
            metric, value, low, high (NaN where there is no interval).
        differences: Columns row, reference, target, metric, value, low, high, verdict (better, worse, undecided).
        record: What the run was: split, source, synthetic, samples, seconds, config, …; plain values.
        figures: Pictures by file name without suffix.
        tables: More tables by file name without suffix.
        found: One sentence of what was found; the page and the terminal open with it.
        main: Target and metric of each target that the terminal shows; by default the first metric of each.
        speakers: Names of the pretrained rows whose verdicts the terminal shows; empty: all.
        words: What a picture shows, for captions and for readers who do not see it, by its name.
        datasets: Maps to be kept as NetCDF, by file name without suffix.
        notes: What the reader must know beside the numbers.
    """

    task: str
    title: str
    convention: str
    scores: pd.DataFrame
    differences: pd.DataFrame
    record: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: Sequence[str] = ()
    found: str = ""
    main: Sequence[tuple[str, str]] = ()
    speakers: Sequence[str] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, xr.Dataset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, found, wanted in (
            ("scores", self.scores, SCORES),
            ("differences", self.differences, DIFFERENCES),
        ):
            missing = [column for column in wanted if column not in found]
            if missing:
                raise EarthSSLError(f"{self.task}.{name}: expected the columns {', '.join(wanted)}, missing {missing}")
        if not len(self.scores) or not np.isfinite(self.scores["value"].to_numpy(float)).any():
            raise EarthSSLError(f"{self.task}: expected scores, got none that is finite")

    def text(self) -> str:
        """Return what fits a screen: what was found, the main score of each row at each target, and the verdicts.

        Everything else stays in the files and on the page.
        """
        wide = _wide(self.scores)
        shown = thinned([pair for pair in self._main() if pair in wide.columns], MOST_COLUMNS)
        verdicts = self._verdicts(shown)
        longest = max(len(str(row)) for row in [*wide.index, *verdicts, "difference"])
        width = min(max(44, SCREEN - 15 * len(shown)), longest)
        size = max(8, min(14, (SCREEN - width) // max(1, len(shown)) - 1))
        metrics = list(dict.fromkeys(metric for _, metric in shown))
        lines = [self.title, *textwrap.wrap(self.found, SCREEN), ""]
        several = len(metrics) > 1 and len({target for target, _ in shown}) > 1
        names = [target if several or len(metrics) == 1 else metric for target, metric in shown]
        lines += _heads(names, size, width, metrics[0] if len(metrics) == 1 else "")
        if several:
            lines.append(" " * width + "".join(f" {_cut(metric, size):>{size}}" for _, metric in shown))
        for row, values in wide[shown].dropna(how="all").iterrows():
            cells = "".join(f" {number(v):>{size}}" for v in values)
            lines.append(f"{_cut(str(row), width):<{width}}{cells}")
        for row, values in verdicts.items():
            cells = "".join(f" {cell:>{size}}" for cell in values)
            lines.append(f"{_cut(row, width):<{width}}{cells}")
        more = "all scores and pairs: scores.csv, differences.csv, report.html"
        return "\n".join([*lines, "", *(line for note in self.notes for line in textwrap.wrap(note, SCREEN)), more])

    def write(self, out: str | Path, command: str = "") -> Path:
        """Write the folder: scores.csv, differences.csv, table.txt, result.json, more tables, PNGs, maps, report.html.

        Raises:
            EarthSSLError: If `out` is not empty, or the disk is full; nothing half-written stays.
        """
        folder = Path(out)
        refuse_filled(folder, "the task's results")
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        record = {
            "task": self.task, "title": self.title, "convention": self.convention, "notes": list(self.notes),
            **self.record, "versions": versions(), "command": command,
        }  # fmt: skip
        try:
            with disk_full_is_clear(folder):
                making.mkdir(parents=True)
                write_text(making / "scores.csv", self.scores[list(SCORES)].to_csv(index=False))
                write_text(making / "differences.csv", self.differences[list(DIFFERENCES)].to_csv(index=False))
                for name, found in self.tables.items():
                    write_text(making / f"{name}.csv", found.to_csv(index=False))
                for name, maps in self.datasets.items():
                    maps.to_netcdf(making / f"{name}.nc")
                pictures = {name: _png(drawn) for name, drawn in self.figures.items()}
                for name, data in pictures.items():
                    (making / f"{name}.png").write_bytes(data)
                write_text(making / "table.txt", self.text() + "\n")
                write_json(making / "result.json", plain(record))
                write_text(making / "report.html", self._page(pictures, record))
                if folder.exists():
                    folder.rmdir()
                os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return folder

    def _main(self) -> list[tuple[str, str]]:
        if self.main:
            return [(str(target), str(metric)) for target, metric in self.main]
        pairs = zip(self.scores["target"].astype(str), self.scores["metric"].astype(str), strict=True)
        first: dict[str, str] = {}
        for target, metric in pairs:
            first.setdefault(target, metric)
        return list(first.items())

    def _verdicts(self, shown: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
        """Return lines of the pretrained rows' differences from what matters most, with their verdicts as signs."""
        d = self.differences.assign(target=self.differences["target"].astype(str))
        cells = {
            (one.row, one.reference, one.target, one.metric): f"{number(one.value, True)} {SIGNS[str(one.verdict)]}"
            for one in d.itertuples()
        }
        lines: dict[str, list[str]] = {}
        told = [str(row) for row in dict.fromkeys(d["row"]) if not self.speakers or row in self.speakers]
        for row in (name for name in told if name.startswith("pretrained")):
            own: dict[str, list[str]] = {}
            for reference in self.beaten(row):
                found = [cells.get((row, reference, *pair), "–") for pair in shown]
                if any(cell != "–" for cell in found):
                    at = row.rfind("[")
                    shorter = reference.removesuffix(row[at:]).rstrip().removeprefix(row[:at]) if at > 0 else reference
                    own[f"{row} − {shorter}"] = found
            lines |= own
        return {"": [], "difference (▲ better, ▼ worse, · undecided)": [], **lines} if lines else {}

    def beaten(self, row: str) -> list[str]:
        """Return what a row is told against on a screen.

        The pretrained rows among its references, its untrained twin or else the best untrained row, the best baseline,
        the raw input, the network from scratch.
        """
        known = list(dict.fromkeys(self.differences.loc[self.differences["row"] == row, "reference"]))
        wide = _wide(self.scores)
        mean = wide[[pair for pair in self._main() if pair in wide.columns]].mean(axis=1)
        twin = row.replace("pretrained", "untrained", 1)

        def best(names: list[str]) -> list[str]:
            there = [name for name in names if pd.notna(mean[name])]
            return [str(mean[there].idxmax())] if there else []

        own = [name for name in known if name.startswith("pretrained")]
        untrained = [name for name in known if name.startswith("untrained")]
        plain = [name for name in known if not name.startswith(("pretrained", "untrained", "same network"))]
        raw = [name for name in known if name.startswith(("raw window", "same network"))]
        twins = [twin] if twin in known else best(untrained)
        return list(dict.fromkeys([*own, *twins, *best(plain), *raw]))

    def _page(self, pictures: Mapping[str, bytes], record: Mapping[str, Any]) -> str:
        wide = _wide(self.scores)
        intervals = _wide(self.scores, "low"), _wide(self.scores, "high")
        columns: list[tuple[str, str]] = [(str(column[0]), str(column[1])) for column in wide.columns]
        head = ["row", *[f"{target} {metric}".strip() for target, metric in columns]]
        body = [
            [row, *[_cell(wide.loc[row, c], intervals[0].loc[row, c], intervals[1].loc[row, c]) for c in wide.columns]]
            for row in wide.index
        ]
        drawn = [
            figure(
                element("img", src=f"data:image/png;base64,{base64.b64encode(data).decode()}", style="max-width:100%",
                        alt=self.words.get(name, name)),
                self.words.get(name, name.replace("_", " ")),
            )
            for name, data in pictures.items()
        ]  # fmt: skip
        first, *rest = drawn or [Html("")]
        pairs = self._difference_table()
        sections = [
            Section("picture", "In one picture", first),
            Section("scores", "Scores", table(head, body, self.convention)),
            Section("pictures", "More pictures", joined(rest)),
            Section(
                "differences",
                "Paired differences",
                details(f"{len(self.differences)} pairs", pairs) if pairs else Html(""),
            ),
            Section("tables", "More tables", joined(details(n, _plain_table(t)) for n, t in self.tables.items())),
            Section("record", "How this was made", facts((k, _short(v)) for k, v in plain(dict(record)).items())),
        ]
        badge = element("span", "synthetic data", class_="badge") if record.get("synthetic") else Html("")
        notes = element("div", bullets(self.notes), class_="warning") if self.notes else Html("")
        found = element("div", element("p", self.found), class_="verdict") if self.found else Html("")
        top = joined([element("h1", self.title, " ", badge), found, notes])
        foot = element("footer", f"earthssl probe, task {self.task}")
        return str(page(self.title, Html(element("header", top)), sections, foot))

    def _difference_table(self) -> Html:
        d = self.differences
        if not len(d):
            return Html("")
        body = [
            [one.row, one.reference, one.target, one.metric, _cell(one.value, one.low, one.high, True),
             element("span", one.verdict, class_=one.verdict)]
            for one in d.itertuples()
        ]  # fmt: skip
        caption = "row − reference; better or worse only where the paired interval excludes zero, else undecided."
        return table(["row", "reference", "target", "metric", "difference", "verdict"], body, caption, text_columns=4)


def _wide(scores: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    """Return rows × (target, metric) of the means over seeds, both in the order they came."""
    own = scores[scores["seed"].fillna("").astype(str) == ""]
    own = own if len(own) else scores
    rows = list(dict.fromkeys(own["row"]))
    columns = list(dict.fromkeys(zip(own["target"].astype(str), own["metric"].astype(str), strict=True)))
    made = own.assign(target=own["target"].astype(str)).pivot_table(
        index="row", columns=["target", "metric"], values=column, aggfunc="first", dropna=False
    )
    return made.reindex(index=rows, columns=pd.MultiIndex.from_tuples(columns))


def _cell(value: Any, low: Any, high: Any, signed: bool = False) -> Html:
    interval = ""
    if pd.notna(low) and pd.notna(high):
        interval = element("span", f"[{number(low, signed)}, {number(high, signed)}]", class_="interval")
    return joined([number(value, signed), interval])


def _plain_table(found: pd.DataFrame) -> Html:
    body = [[number(v) for v in row] for row in found.head(200).itertuples(index=False)]
    return table(list(found.columns), body, f"{len(found)} rows; the first 200 are shown")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 600 else text[:600] + " …"


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    # No date or version inside: the same figure is the same bytes.
    drawn.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _heads(names: Sequence[str], size: int, width: int, corner: str) -> list[str]:
    """Return the headings of columns as lines, long ones over several, the last line level with the corner's words."""
    folded = [textwrap.wrap(name, size) or [""] for name in names]
    high = max(len(parts) for parts in folded)
    rows = zip(*[[""] * (high - len(parts)) + parts for parts in folded], strict=True)
    corners = [""] * (high - 1) + [_cut(corner, width)]
    return [f"{left:<{width}}" + "".join(f" {part:>{size}}" for part in row)
            for left, row in zip(corners, rows, strict=True)]  # fmt: skip


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
