"""Summary: what a downstream task found, as tables, JSON, pictures and one page, written all or nothing."""

from __future__ import annotations

import base64
import io
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.files import disk_full_is_clear, refuse_filled, write_json, write_text
from ...ssl.common.versions import versions
from .label_efficiency import curve_means, efficiency_words, target_pairs
from .maps import MapFigure, Maps
from .numbers import number, plain, thinned
from .page import Section, look_command, page

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SCORES = ("row", "seed", "target", "metric", "value", "low", "high")
DIFFERENCES = ("row", "reference", "target", "metric", "value", "low", "high", "verdict")
SCREEN = 100  # columns of a terminal
LEAST = 8  # of these for a number: "+0.123 ▲"
MOST_COLUMNS = 8  # targets shown there; of more, some evenly chosen
SIGNS = {"better": "▲", "worse": "▼", "undecided": "·"}
SIGN_WORDS = "▲ better, ▼ worse, · undecided"
FIRST_PICTURES = ("scores", "label_curve")
SCORE_WORDS = "Scores of every row, best first; bars are 95 % intervals over test units."
MOST_PAIRS = 1500  # on a page
MAPS_OF = "map_"  # and the name of a picture: its maps as NetCDF


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
        maps: What pictures show, by the names of these; those of a `MapFigure` are taken from it.
        notes: What the reader must know beside the numbers.
        reachable: Name of the row of the best reachable skill, where it is known.
        unit: What labels are counted by, such as "20 year"; for the curve over labels.
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
    maps: Mapping[str, Maps] = field(default_factory=dict)
    reachable: str = ""
    unit: tuple[int, str] = (0, "")

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
        shown = thinned(self._shown(), MOST_COLUMNS)
        scores, verdicts = _wide(self.scores)[shown].dropna(how="all"), self._verdicts(shown)
        pairs = [f"{row} − {reference}" for row, reference, _ in verdicts]
        shares = [(f"{row}: share of reachable", cells) for row, cells in self._shares(scores)]
        count = max(1, len(shown))
        longest = max(len(str(name)) for name in [*self.scores["row"], *pairs, *(name for name, _ in shares)])
        width = min(longest, max(44, SCREEN - 15 * count), SCREEN - (LEAST + 1) * count)
        size = max(LEAST, min(14, (SCREEN - width) // count - 1))

        def line(name: str, cells: Iterable[str]) -> str:
            return f"{_cut(name, width):<{width}}" + "".join(f" {cell:>{size}}" for cell in cells)

        lines = [*textwrap.wrap(self.title, SCREEN), *textwrap.wrap(self.found, SCREEN), ""]
        metrics = list(dict.fromkeys(metric for _, metric in shown))
        both = len(metrics) > 1 and len({target for target, _ in shown}) > 1
        heads = [
            (textwrap.wrap(target if both or len(metrics) == 1 else metric, size) or [""]) + [_cut(metric, size)] * both
            for target, metric in shown
        ]
        high = max(map(len, heads), default=1)
        corners = [""] * (high - 1) + [metrics[0] if len(metrics) == 1 else ""]
        heads = [[""] * (high - len(one)) + one for one in heads]  # level at the bottom
        lines += [line(corner, [one[k] for one in heads]) for k, corner in enumerate(corners)]
        lines += [
            line(str(row), map(number, values)) for row, values in zip(scores.index, scores.to_numpy(), strict=True)
        ]
        lines += ["", f"difference ({SIGN_WORDS})"] * bool(verdicts)
        apart = any(len(pair) > width for pair in pairs)
        told = None
        for pair, (row, reference, cells) in zip(pairs, verdicts, strict=True):
            lines += [row] * (apart and row != told)
            lines.append(line(f"  − {reference}" if apart else pair, cells))
            told = row
        lines += [line(name, cells) for name, cells in shares]
        lines += self._curve_lines()
        more = "all scores and pairs: scores.csv, differences.csv, report.html"
        return "\n".join([*lines, "", *(line for note in self.notes for line in textwrap.wrap(note, SCREEN)), more])

    def _shares(self, wide: pd.DataFrame) -> list[tuple[str, list[str]]]:
        """Return the share of the best reachable skill of the pretrained rows, where that is above a twentieth."""
        if self.reachable not in wide.index:
            return []
        best = wide.loc[self.reachable].to_numpy(float, copy=True)
        best[best <= 0.05] = np.nan
        return [(row, [f"{share:.0%}" if share == share else "–" for share in wide.loc[row].to_numpy(float) / best])
                for row in self.told() if row in wide.index]  # fmt: skip

    def _curve_lines(self) -> list[str]:
        """Return the curve over labels: the mean over the targets by share of the labels; none without a curve."""
        means = self._curve()
        if means is None:
            return []
        shown = means[thinned(list(means.columns), MOST_COLUMNS)]
        width = min(max(len(str(row)) for row in means.index), SCREEN - (LEAST + 1) * shown.shape[1])
        count, unit = self.unit
        heads = [f"{share * count:.3g}" if count else f"{share:.0%}" for share in shown.columns]
        of = f"training {unit}s with labels" if count else "share of the training labels"
        lines = ["", f"the same by {of}, mean over {means.attrs['targets']} target(s)"]
        lines.append(" " * width + "".join(f" {head:>{LEAST}}" for head in heads))
        lines += [
            f"{_cut(str(row), width):<{width}}" + "".join(f" {number(value):>{LEAST}}" for value in values)
            for row, values in zip(shown.index, shown.to_numpy(), strict=True)
        ]
        return [*lines, *(line for words in self._efficiency() for line in textwrap.wrap(words, SCREEN))]

    def _averaged(self) -> list[tuple[str, str]]:
        """Return the target and metric of each target that the curve is averaged over."""
        return list(self.headline or self.main_scores())

    def _curve(self) -> pd.DataFrame | None:
        """Return the curve over labels, see `curve_means`; None where there are not two shares."""
        if "label_curve" not in self.tables:
            return None
        means = curve_means(self.tables["label_curve"], self._averaged())
        return means if means.shape[1] > 1 else None

    def _efficiency(self) -> list[str]:
        """Return how many times fewer labels the pretrained rows need than what they beat at every target averaged."""
        means, d = self._curve(), self.differences
        if means is None:
            return []
        lost = d[target_pairs(d).isin(self._averaged()) & (d["verdict"] != "better")]
        not_beaten = set(zip(lost["row"], lost["reference"], strict=True))
        found = [
            efficiency_words(means, row, [other for other in self.beaten(row) if (row, other) not in not_beaten])
            for row in self.told()
        ]
        return [words for words in found if words]

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
                for name, own in self.mapped().items():
                    own.dataset().to_netcdf(making / f"{MAPS_OF}{name}.nc")
                pictures = {name: png(drawn) for name, drawn in self.figures.items()}
                for name, data in pictures.items():
                    (making / f"{name}.png").write_bytes(data)
                write_text(making / "table.txt", self.text() + "\n")
                write_json(making / "result.json", plain(record))
                write_text(making / "report.html", self._page(pictures, record, folder))
                also(making)
                if folder.exists():
                    folder.rmdir()
                os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return folder

    def mapped(self) -> dict[str, Maps]:
        """Return the maps behind pictures by the names of these."""
        own = {name: drawn.maps for name, drawn in self.figures.items() if isinstance(drawn, MapFigure)}
        return {**{name: one for name, one in own.items() if one is not None}, **self.maps}

    def main_scores(self) -> list[tuple[str, str]]:
        """Return the target and metric of what is shown first."""
        if self.main:
            return [(str(target), str(metric)) for target, metric in self.main]
        pairs = zip(self.scores["target"].astype(str), self.scores["metric"].astype(str), strict=True)
        first: dict[str, str] = {}
        for target, metric in pairs:
            first.setdefault(target, metric)
        return list(first.items())

    def _shown(self) -> list[tuple[str, str]]:
        """Return those of the main scores that the table has."""
        there = set(_wide(self.scores).columns)
        return [pair for pair in self.main_scores() if pair in there]

    def _verdicts(self, shown: Sequence[tuple[str, str]]) -> list[tuple[str, str, list[str]]]:
        """Return the pretrained rows, what matters most, and the differences with their verdicts as signs."""
        d = self.differences.assign(target=self.differences["target"].astype(str))
        cells = {
            (one.row, one.reference, one.target, one.metric): f"{number(one.value, True)} {SIGNS[str(one.verdict)]}"
            for one in d.itertuples()
        }
        lines = []
        for row in self.told():
            head, bracket, rest = row.rpartition("[")
            for reference in self.beaten(row):
                found = [cells.get((row, reference, *pair), "–") for pair in shown]
                if any(cell != "–" for cell in found):
                    shorter = reference.removesuffix(bracket + rest).rstrip().removeprefix(head) if head else reference
                    lines.append((row, shorter, found))
        return lines

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
        wide = wide[[pair for pair in self.headline or self.main_scores() if pair in wide.columns]]
        asked = wide.loc[:, wide.loc[row].notna()] if row in wide.index else wide
        twin = row.replace("pretrained", "untrained", 1)

        def best(names: list[str]) -> list[str]:
            """Return the best by its mean over the row's targets; where no rival has all, over those of all."""
            own = asked.loc[names].dropna(how="all")
            whole = own.dropna()
            own = whole if len(whole) else own.dropna(axis=1)
            return [str(own.mean(axis=1).idxmax())] if own.size else []

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
        words = {"scores": SCORE_WORDS, **self.words}
        if fewer := self._efficiency():
            words["label_curve"] = " ".join([words.get("label_curve", ""), *fewer])
        maps = self.mapped()
        drawn = {
            name: (words.get(name, name.replace("_", " ")), base64.b64encode(data).decode(), maps.get(name))
            for name, data in pictures.items()
        }
        first = [name for name in FIRST_PICTURES if name in drawn] or list(drawn)[:1]
        every = [(str(pair[0]), str(pair[1])) for pair in _wide(self.scores).columns]
        main = self._shown()
        others = [pair for pair in every if pair not in main] if main else []
        scores = {
            "convention": self.convention,
            "main": self._score_table(main or every),
            "others": self._score_table(others) if others else None,
        }
        tables = [
            (
                name,
                list(found),
                [[number(v) for v in row] for row in found.head(200).itertuples(index=False)],
                len(found),
            )
            for name, found in self.tables.items()
        ]
        return [
            Section("picture", "In one picture", [drawn[name] for name in first]),
            Section("scores", "Scores", scores),
            Section("differences", "Paired differences", self._pairs()),
            Section("pictures", "More pictures", [one for name, one in drawn.items() if name not in first]),
            Section("tables", "More tables", tables),
        ]

    def head(self) -> dict[str, Any]:
        """Return what a page opens with, as its template names it."""
        return {
            "title": self.title,
            "synthetic": self.record.get("synthetic"),
            "found": self.found,
            "notes": self.notes,
            "task": self.task,
        }

    def _page(self, pictures: Mapping[str, bytes], record: Mapping[str, Any], folder: Path) -> str:
        config = self.record.get("config", {})
        first = next(iter(config.get("checkpoints") or [config.get("checkpoint", "")]))
        look = look_command(str(config.get("store") or ""), str(folder), str(first or ""))
        made = Section("record", "How this was made", plain(record))
        return page([*self.sections(pictures), made], look=look, **self.head())

    def _score_table(self, columns: Sequence[tuple[str, str]]) -> tuple[list[str], list[list[Any]]]:
        """Return the head and body of a table of scores with their intervals."""
        wide, low, high = (_wide(self.scores, which)[list(columns)] for which in ("value", "low", "high"))
        cells = zip(wide.index, wide.to_numpy(), low.to_numpy(), high.to_numpy(), strict=True)
        body = [[row, *map(_cell, *values)] for row, *values in cells]
        return ["row", *map(_heading, columns)], body

    def _pairs(self) -> dict[str, Any]:
        """Return the verdicts of the pretrained rows, and all pairs, those at the main targets first."""
        d = self.differences
        if not len(d):
            return {}
        shown = thinned(self._shown(), MOST_COLUMNS)
        main = target_pairs(d).isin(self.main_scores())
        kept = pd.concat([d[main], d[~main]]).head(MOST_PAIRS)
        return {
            "columns": list(map(_heading, shown)),
            "verdicts": [[f"{row} − {other}", *cells] for row, other, cells in self._verdicts(shown)],
            "count": len(d),
            "pairs": [
                [one.row, one.reference, one.target, one.metric, _cell(one.value, one.low, one.high, True), one.verdict]
                for one in kept.itertuples()
            ],
        }


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


def _cell(value: Any, low: Any, high: Any, signed: bool = False) -> tuple[str, str]:
    """Return a number and its interval in words, "" where there is none."""
    both = pd.notna(low) and pd.notna(high)
    return number(value, signed), f"[{number(low, signed)}, {number(high, signed)}]" if both else ""


def _heading(pair: tuple[str, str]) -> str:
    return " ".join(pair).strip()


def png(drawn: Figure | bytes) -> bytes:
    """Return a picture as PNG; what is one already stays as it is."""
    if isinstance(drawn, bytes):
        return drawn
    buffer = io.BytesIO()
    # No date or version inside: the same figure is the same bytes.
    drawn.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _cut(text: str, size: int) -> str:
    """Return a text of at most that length: names differ in how they begin and end."""
    end = (size - 1) // 2
    return text if len(text) <= size else f"{text[: size - 1 - end]}…{text[len(text) - end :]}"
