"""Summary: what a downstream task found, as tables, JSON, pictures and one page, written all or nothing."""

from __future__ import annotations

import base64
import io
import os
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
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
SIGN_WORDS = "▲ better, ▼ worse, · undecided"
FIRST_PICTURES = ("scores", "label_curve")
MOST_PAIRS = 1500  # on a page


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
        figures: Pictures by file name without suffix, PNG where they are read back.
        tables: More tables by file name without suffix.
        found: One sentence of what was found; the page and the terminal open with it.
        main: Target and metric of each target that the terminal shows; by default the first metric of each.
        headline: Of these, what the finding is averaged over and the best row is sought by; empty: all.
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
    figures: Mapping[str, Figure | bytes] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: Sequence[str] = ()
    found: str = ""
    main: Sequence[tuple[str, str]] = ()
    headline: Sequence[tuple[str, str]] = ()
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
        shown = thinned([pair for pair in self.main_scores() if pair in wide.columns], MOST_COLUMNS)
        verdicts = self._verdicts(shown)
        longest = max(len(str(name)) for name in [*wide.index, *(name for name in verdicts if verdicts[name])])
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
        for name, signs in verdicts.items():
            cells = "".join(f" {sign:>{size}}" for sign in signs)
            lines.append(f"{_cut(name, width):<{width}}{cells}" if signs else name)
        more = "all scores and pairs: scores.csv, differences.csv, report.html"
        return "\n".join([*lines, "", *(line for note in self.notes for line in textwrap.wrap(note, SCREEN)), more])

    def write(self, out: str | Path, command: str = "", also: Callable[[Path], None] = lambda folder: None) -> Path:
        """Write the folder: scores.csv, differences.csv, table.txt, result.json, more tables, PNGs, maps, report.html.

        Args:
            out: New or empty.
            command: As typed, for the record.
            also: Writes more into the folder before it appears.

        Raises:
            EarthSSLError: If `out` is not empty, or the disk is full; nothing half-written stays.
        """
        folder = Path(out)
        refuse_filled(folder, "the task's results")
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        record = {
            "task": self.task, "title": self.title, "found": self.found, "convention": self.convention,
            "notes": list(self.notes), "main": self.main_scores(), "headline": list(self.headline),
            "speakers": list(self.speakers),
            "words": dict(self.words), "figures": list(self.figures), "tables": list(self.tables), **self.record,
            "versions": versions(), "command": command,
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
                also(making)
                if folder.exists():
                    folder.rmdir()
                os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return folder

    def main_scores(self) -> list[tuple[str, str]]:
        """Return the target and metric of what is shown first."""
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
        for row in self.told():
            own: dict[str, list[str]] = {}
            for reference in self.beaten(row):
                found = [cells.get((row, reference, *pair), "–") for pair in shown]
                if any(cell != "–" for cell in found):
                    at = row.rfind("[")
                    shorter = reference.removesuffix(row[at:]).rstrip().removeprefix(row[:at]) if at > 0 else reference
                    own[f"{row} − {shorter}"] = found
            lines |= own
        return {"": [], f"difference ({SIGN_WORDS})": [], **lines} if lines else {}

    def told(self) -> list[str]:
        """Return the pretrained rows whose differences are told on a screen."""
        names = [str(row) for row in dict.fromkeys(self.differences["row"])]
        return [name for name in names if name.startswith("pretrained") and (name in (self.speakers or names))]

    def beaten(self, row: str) -> list[str]:
        """Return what a row is told against on a screen.

        The pretrained rows among its references, its untrained twin or else the best untrained row, the best baseline,
        the raw input, the network from scratch.
        """
        known = list(dict.fromkeys(self.differences.loc[self.differences["row"] == row, "reference"]))
        wide = _wide(self.scores)
        mean = wide[[pair for pair in self.headline or self.main_scores() if pair in wide.columns]].mean(axis=1)
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

    def sections(self, pictures: Mapping[str, bytes]) -> list[Section]:
        """Return the parts of a page: one picture, the scores, verdicts (pairs fold away), more pictures and tables.

        Args:
            pictures: PNG by name.
        """
        drawn = {name: self._drawn(name, data) for name, data in pictures.items()}
        first = [name for name in FIRST_PICTURES if name in drawn] or list(drawn)[:1]
        return [
            Section("picture", "In one picture", joined(drawn[name] for name in first)),
            Section("scores", "Scores", self._score_tables()),
            Section("differences", "Paired differences", self._difference_tables()),
            Section("pictures", "More pictures", joined(html for name, html in drawn.items() if name not in first)),
            Section("tables", "More tables", joined(details(n, _plain_table(t)) for n, t in self.tables.items())),
        ]

    def top(self, title: str, *more: Any) -> Html:
        """Return the head of a page: what it is about, what was found, what must be known beside it."""
        badge = element("span", "synthetic data", class_="badge") if self.record.get("synthetic") else Html("")
        notes = element("div", bullets(self.notes), class_="warning") if self.notes else Html("")
        found = element("div", element("p", self.found), class_="verdict") if self.found else Html("")
        return element("header", element("h1", title, " ", badge), *more, found, notes)

    def _page(self, pictures: Mapping[str, bytes], record: Mapping[str, Any]) -> str:
        shown = facts((k, _short(v)) for k, v in plain(dict(record)).items())
        sections = [*self.sections(pictures), Section("record", "How this was made", shown)]
        foot = element("footer", f"earthssl probe, task {self.task}")
        return str(page(self.title, self.top(self.title), sections, foot))

    def _drawn(self, name: str, data: bytes) -> Html:
        words = self.words.get(name, name.replace("_", " "))
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return figure(element("img", src=source, style="max-width:100%", alt=words), words)

    def _score_tables(self) -> Html:
        """Return the main scores; all others fold away."""
        every = [(str(pair[0]), str(pair[1])) for pair in _wide(self.scores).columns]
        main = [pair for pair in self.main_scores() if pair in every]
        others = [pair for pair in every if pair not in main]
        folded = details(f"{len(others)} more columns", self._score_table(others, "")) if others else Html("")
        return joined([self._score_table(main or every, self.convention), folded])

    def _score_table(self, columns: Sequence[tuple[str, str]], caption: str) -> Html:
        wide, low, high = (_wide(self.scores, which) for which in ("value", "low", "high"))
        head = ["row", *[f"{target} {metric}".strip() for target, metric in columns]]
        body = [[row, *[_cell(*(t.loc[row, c] for t in (wide, low, high))) for c in columns]] for row in wide.index]
        return table(head, body, caption)

    def _difference_tables(self) -> Html:
        """Return the verdicts of the pretrained rows; of all pairs, folded away, those at the main targets first."""
        d = self.differences
        if not len(d):
            return Html("")
        shown = thinned([pair for pair in self.main_scores() if pair in _wide(self.scores).columns], MOST_COLUMNS)
        verdicts = [[row, *cells] for row, cells in self._verdicts(shown).items() if cells]
        head = ["row − reference", *[f"{target} {metric}".strip() for target, metric in shown]]
        parts = [table(head, verdicts, f"{SIGN_WORDS}.")] if verdicts else []
        pairs = pd.Series(list(zip(d["target"].astype(str), d["metric"].astype(str), strict=True)), d.index)
        main = pairs.isin(self.main_scores())
        kept = pd.concat([d[main], d[~main]]).head(MOST_PAIRS)
        body = [
            [one.row, one.reference, one.target, one.metric, _cell(one.value, one.low, one.high, True),
             element("span", one.verdict, class_=one.verdict)]
            for one in kept.itertuples()
        ]  # fmt: skip
        rest = f" {len(kept)} are shown; all are in differences.csv." if len(kept) < len(d) else ""
        caption = f"row − reference; better or worse only where the paired interval excludes zero.{rest}"
        columns = ["row", "reference", "target", "metric", "difference", "verdict"]
        return joined([*parts, details(f"{len(d)} pairs", table(columns, body, caption, text_columns=4))])


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


def _png(drawn: Figure | bytes) -> bytes:
    if isinstance(drawn, bytes):
        return drawn
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
