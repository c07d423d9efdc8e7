"""Results and Run: what a probe folder and a pretraining folder hold, read back to be reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...ssl.common.errors import EarthSSLError, nearest
from ...ssl.common.files import read_json
from ..metrics.seasonal import last_skilful_lead

SCORES, DIFFERENCES, SEASONS = "scores.csv", "differences.csv", "seasons.csv"
COLUMNS = {
    SCORES: ("row", "seed", "lead", "metric", "value", "low", "high"),
    DIFFERENCES: ("row", "reference", "lead", "value", "low", "high", "verdict"),
    SEASONS: ("row", "lead", "target_month", "r"),
    "history.csv": ("step", "name", "value"),
}
NUMBERS = ("value", "low", "high", "r", "step", "target_month")
VERDICTS = ("better", "worse", "undecided")
MEAN = "mean"


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; low and high are NaN where none was computed."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class Difference:
    """One row less a reference, paired; verdict is better, worse or undecided."""

    row: str
    reference: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class RowInfo:
    """What a row of the comparison is.

    Attributes:
        name: As in the tables.
        kind: baseline, encoder or known.
        role: persistence, LIM, PCA, untrained, pretrained, scratch, known or other: its place in figures.
        seeds: Of its runs, as text; empty where nothing in it is random.
    """

    name: str
    kind: str
    role: str
    seeds: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """Return what tells rows of a role apart: "mean" of "pretrained [mean]"; "" where nothing does."""
        found = re.search(r"\[(.*)\]\s*$", self.name)
        return found.group(1) if found else ""


def role_of(name: str, kind: str) -> str:
    """Return the role that a row's name and kind tell of."""
    lower = name.lower()
    if kind == "known":
        return "known"
    for word in ("untrained", "scratch"):
        if word in lower:
            return word
    if kind == "encoder":
        return "pretrained"
    if re.search(r"\blim\b", lower):
        return "LIM"
    if lower == "persistence":
        return "persistence"
    return "PCA" if lower.startswith("pca") else "other"


@dataclass(frozen=True, eq=False)
class Results:
    """A probe folder.

    Attributes:
        folder: Where it lies.
        record: `probe.json`.
        rows: In the order of the record.
        scores: Columns row, seed, lead (int), metric, value, low, high; seed is "" for the mean over seeds.
        differences: Columns row, reference, lead (text, "mean" for the mean over leads), value, low, high, verdict.
        seasons: Columns row, lead (int), target_month, r; None where the probe wrote none.
    """

    folder: Path
    record: dict[str, Any]
    rows: tuple[RowInfo, ...]
    scores: pd.DataFrame
    differences: pd.DataFrame
    seasons: pd.DataFrame | None

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """Return the results in a folder.

        Raises:
            EarthSSLError: If the folder, a file or a column is missing, a row has no skill, or a verdict
                contradicts its interval.
        """
        path = Path(folder)
        if not path.is_dir():
            raise EarthSSLError(f"expected a probe folder at {path}, found none; make one with `earthssl probe`")
        record = read_json(path / "probe.json", "a probe's record")
        if not isinstance(record, dict) or not record.get("rows"):
            raise EarthSSLError(f"{path / 'probe.json'}: expected a record with 'rows', found none; probe again")
        rows = _rows(record["rows"])
        scores = _leads_as_numbers(_table(path / SCORES), path / SCORES)
        differences = _table(path / DIFFERENCES)
        seasons = _table(path / SEASONS) if (path / SEASONS).is_file() else None
        if seasons is not None:
            seasons = _leads_as_numbers(seasons, path / SEASONS)
        results = cls(path, record, rows, scores, differences, seasons)
        _check_verdicts(results.pairs, path / DIFFERENCES)
        for row in rows:
            if not len(results.curve(row.name)):
                raise EarthSSLError(
                    f"{path / SCORES}: expected the skill of row '{row.name}' (its mean over seeds), found none"
                    + (nearest(row.name, scores["row"].unique()) or "; probe again")
                )
        return results

    @property
    def leads(self) -> list[int]:
        """Return all leads, ascending."""
        skill = self.scores[self.scores["metric"] == "skill"]
        return sorted(int(lead) for lead in skill["lead"].unique())

    @property
    def references(self) -> list[str]:
        """Return the rows that others were compared with, in the order of the differences."""
        return [str(name) for name in self.differences["reference"].unique()]

    @property
    def synthetic(self) -> bool:
        """Whether the data probed on are the synthetic planet."""
        return bool(self.record.get("synthetic", False))

    def of_role(self, role: str) -> list[RowInfo]:
        """Return the rows of a role."""
        return [row for row in self.rows if row.role == role]

    def primary(self, role: str) -> RowInfo | None:
        """Return the row that stands for a role: the variant chosen on validation, else the plainest name."""
        rows = self.of_role(role)
        chosen = [row for row in rows if row.variant == "chosen"]
        return min(chosen or rows, key=lambda row: len(row.name), default=None)

    def twin(self, row: RowInfo, role: str = "untrained") -> RowInfo | None:
        """Return the row of another role with the same variant (pooling), else that role's primary row."""
        same = [other for other in self.of_role(role) if other.variant == row.variant]
        return same[0] if same else self.primary(role)

    def key_references(self, row: RowInfo) -> list[str]:
        """Return the references that count for a row: its untrained twin, tuned PCA, scratch, LIM, persistence.

        Every reference, where none of these was compared with.
        """
        pca = [other for other in self.of_role("PCA") if "fixed" not in other.name] or self.of_role("PCA")
        others = [self.twin(row), *pca, *[self.primary(role) for role in ("scratch", "LIM", "persistence")]]
        wanted = [other.name for other in others if other is not None and other.name != row.name]
        return [name for name in wanted if name in self.references] or [n for n in self.references if n != row.name]

    def curve(self, row: str, metric: str = "skill", seed: str = "") -> pd.DataFrame:
        """Return value, low and high by lead (the index) of a row: by default its mean over seeds."""
        s = self.scores
        chosen = s[(s["row"] == row) & (s["metric"] == metric) & (s["seed"] == seed)]
        return chosen.set_index("lead")[["value", "low", "high"]].sort_index()

    def mean_skill(self, row: str) -> float:
        """Return a row's skill averaged over leads."""
        return float(self.curve(row)["value"].mean())

    def last_lead(self, row: str) -> int | None:
        """Return the last lead before r first falls below .5, None if the first lead is below."""
        curve = self.curve(row)["value"]
        return last_skilful_lead(curve.to_numpy(), [int(lead) for lead in curve.index])

    def difference(self, row: str, reference: str, lead: int | str = MEAN) -> Difference | None:
        """Return a paired difference, None where it was not computed."""
        return self.pairs.get((row, reference, str(lead)))

    @cached_property
    def pairs(self) -> dict[tuple[str, str, str], Difference]:
        """All differences by row, reference and lead."""
        d = self.differences
        columns = (d[name] for name in ("row", "reference", "lead", "value", "low", "high", "verdict"))
        return {
            (row, reference, lead): Difference(row, reference, Estimate(value, low, high), verdict)
            for row, reference, lead, value, low, high, verdict in zip(*columns, strict=True)
        }

    def season_map(self, row: str) -> np.ndarray | None:
        """Return r by target month and lead, (12, leads), NaN where missing; None if there is none."""
        if self.seasons is None:
            return None
        chosen = self.seasons[self.seasons["row"] == row]
        if not len(chosen):
            return None
        table = chosen.pivot_table(index="target_month", columns="lead", values="r", dropna=False)
        return table.reindex(index=range(1, 13), columns=self.leads).to_numpy(dtype=float)


@dataclass(frozen=True, eq=False)
class Run:
    """A pretraining run's folder.

    Attributes:
        name: Name of the folder.
        folder: Where it lies.
        identity: The config it ran with.
        record: `run.json`: what it took.
        history: Columns step, name, value.
        example: File with a masked and rebuilt window, None where there is none.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    record: dict[str, Any]
    history: pd.DataFrame
    example: Path | None

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Return the run in a folder.

        Raises:
            EarthSSLError: If the folder or a file in it is missing, or the run did not finish.
        """
        path = Path(folder)
        if not path.is_dir():
            raise EarthSSLError(f"expected a pretraining run at {path}, found no folder; make one, or mend `runs`")
        config = read_json(path / "config.json", "a run's config")
        if not (path / "run.json").is_file():
            raise EarthSSLError(f"expected a finished run at {path}, found no run.json; finish it with --resume")
        example = path / "example.nc"
        return cls(
            name=path.resolve().name,
            folder=path,
            identity=config.get("identity", {}),
            record=read_json(path / "run.json", "a run's record"),
            history=_table(path / "history.csv"),
            example=example if example.is_file() else None,
        )

    @property
    def seed(self) -> str:
        """Return the seed, as text."""
        return str(self.identity.get("training", {}).get("seed", "not recorded"))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of one name of the history."""
        chosen = self.history[self.history["name"] == name].sort_values("step", kind="stable")
        return chosen["step"].to_numpy(dtype=float), chosen["value"].to_numpy(dtype=float)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the history that begin with a prefix, sorted, the prefix taken off."""
        names = self.history["name"].astype(str).unique()
        return sorted(name[len(prefix) :] for name in names if name.startswith(prefix))


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, told apart by its parent folder where two folders share one."""
    names = [run.name for run in runs]
    longer = [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs]
    return [full if names.count(short) > 1 else short for short, full in zip(names, longer, strict=True)]


def _rows(items: Sequence[Any]) -> tuple[RowInfo, ...]:
    """Return the rows of a record, in which a row of several seeds comes once for each."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for item in items:
        if not isinstance(item, dict) or not {"name", "kind"} <= set(item):
            raise EarthSSLError(f"probe.json: expected rows with 'name' and 'kind', got {item!r}; probe again")
        found = seeds.setdefault((str(item["name"]), str(item["kind"])), [])
        if item.get("seed") is not None:
            found.append(str(item["seed"]))
    return tuple(RowInfo(name, kind, role_of(name, kind), tuple(own)) for (name, kind), own in seeds.items())


def _table(file: Path) -> pd.DataFrame:
    """Return a CSV file; text columns stay text, so that no name is taken for a missing value.

    Raises:
        EarthSSLError: If it is missing, cannot be parsed, or lacks a column.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise EarthSSLError(f"expected {file}, found no such file; run the verb that writes it again") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise EarthSSLError(f"{file}: expected a CSV table, but it cannot be parsed ({error})") from None
    missing = [column for column in COLUMNS[file.name] if column not in table]
    if missing:
        raise EarthSSLError(
            f"{file}: expected the column '{missing[0]}', got {', '.join(map(str, table.columns))}; write it again"
        )
    for column in NUMBERS:
        if column in table:
            table[column] = _numbers(table[column], file)
    return table


def _numbers(column: pd.Series, file: Path) -> pd.Series:
    try:
        return column.replace("", "nan").astype(float)
    except (ValueError, TypeError):
        raise EarthSSLError(f"{file}: expected numbers in column '{column.name}', got text; write it again") from None


def _leads_as_numbers(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    single = table[table["lead"] != MEAN]
    return single.assign(lead=_numbers(single["lead"], file).astype(int))


def _check_verdicts(pairs: dict[tuple[str, str, str], Difference], file: Path) -> None:
    """Raise where a verdict is none, or claims what its interval does not carry."""
    for (row, reference, lead), one in pairs.items():
        low, high = one.estimate.low, one.estimate.high
        bad = one.verdict not in VERDICTS
        bad |= one.verdict == "better" and not low >= 0
        bad |= one.verdict == "worse" and not high <= 0
        if bad:
            raise EarthSSLError(
                f"{file}: expected better, worse or undecided as the interval [{low}, {high}] has it, got "
                f"'{one.verdict}' for '{row}' against '{reference}' at lead {lead}; probe again"
            )
