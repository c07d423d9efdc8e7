"""analogues: what came after the most alike states of training, as a forecast with its spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ....ssl.common.errors import EarthSSLError, check_known
from ....ssl.sources.weather.recorded import of_weather
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import PCA, RANDOM
from ...evaluation.task import Decoders, Extras, Features, Task
from ...evaluation.window_labels import WindowLabels, block_rows, of_same_samples
from ...evaluation.window_task import WindowTask
from ...features.eof import window_components
from ...features.frozen_features import POOLINGS
from ...features.predictable import predictable_directions
from ...heads.base import Samples, choose
from ...heads.linear import RidgeHead
from ...heads.neighbours import METRICS
from ...heads.scaling import SCALINGS
from ...results.ensemble_target import dressed, ensemble_target, parts_of
from ...results.row import Role, Row
from ...results.target import Target
from ..indices.label_table import LEAD, label_season, labels_of
from .search import Chosen, Search

PERSISTENCE, DAMPED = "persistence", "damped persistence"
RIDGE = "[ridge]"
CONVENTION = (
    "Forecast of a date: the mean of what came after its analogues, the most alike states of the library ({units} "
    "calendar years of training, {first} … {last}), and their spread; targets are departures from the season. "
    "Analogues lie more than {exclude:g} days from each other and from the date{season}. Features, scaling, distance "
    "and number of analogues are chosen for each target by the squared error of the mean on the validation block, see "
    "choices.csv; nothing is refitted with it. Scalings, components and predictable directions are fitted on all "
    "training steps. Skill: 1 - squared error / that of the season. CRPS: of the members as they are; other rows have "
    "the quantiles of their residuals about their forecast (of training; of validation for ridge). Intervals: years "
    "drawn in blocks of {block}."
)


@dataclass(frozen=True)
class AreaConfig:
    """A mean over an area.

    Attributes:
        variable: Of the store.
        box: South, north, west, east, degrees; the east may be smaller where the box crosses 0°E.
    """

    variable: str
    box: list[float]

    def __post_init__(self) -> None:
        if len(self.box) != 4:
            raise EarthSSLError(f"analogues.areas: expected a box of south, north, west, east, got {self.box}")


@dataclass(frozen=True)
class AnaloguesConfig(TaskConfig):
    """Settings of the task, beside those of every task.

    Attributes:
        labels: CSV as of the task `indices`; null takes the labels of the weather planet that the store was made from.
        columns: Those to be told; none: all of `labels`, or of the planet where neither areas nor fields are named.
        areas: Area means to be told at every lead, by name.
        fields: Variables whose whole field is to be told at every lead.
        leads: Steps ahead of areas and fields, and those that the predictable directions are fitted for; a column says
            its own lead, in days (height_3d).
        neighbours: Numbers of analogues to choose from.
        scalings: Of the features, to choose from: raw, standardised, whitened.
        metrics: Distances to choose from: euclidean, cosine.
        exclude_days: Analogues lie further than this from the date and from each other.
        season_days: Analogues come from within so many days of the date in the year; null: from the whole year.
        poolings: Of the features.
        components: Of the tokens and of the window, to choose from.
        ridge: Whether ridge on the components of the window, and on every encoder's features, stands beside.
    """

    task: str = "analogues"
    labels: str | None = None
    columns: list[str] = field(default_factory=list)
    areas: dict[str, AreaConfig] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    leads: list[int] = field(default_factory=lambda: [1, 2, 3])
    neighbours: list[int] = field(default_factory=lambda: [5, 10, 20, 40, 80])
    scalings: list[str] = field(default_factory=lambda: list(SCALINGS))
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    exclude_days: float = 5.0
    season_days: float | None = None
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs"])
    components: list[int] = field(default_factory=lambda: [5, 10, 20, 40, 80])
    ridge: bool = True
    random_seeds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"poolings": POOLINGS, "scalings": SCALINGS, "metrics": METRICS, "leads": "≥ 1", "neighbours": "≥ 2",
                    "exclude_days": "≥ 0", "season_days": "(0, 183]"})  # fmt: skip


class Analogues(WindowTask[AnaloguesConfig]):
    """One target a column, and one an area or field and lead."""

    name = "analogues"
    what = "Analogue forecasts"
    convention = CONVENTION
    head = "analogues"
    Config = AnaloguesConfig
    fit_steps = 4000

    def __init__(self, config: AnaloguesConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.leads, self.components = config.leads, config.components
        self._table = None
        if config.labels or config.columns or not (config.areas or config.fields):
            if not (config.labels or of_weather(store.manifest["attributes"])):
                raise EarthSSLError(
                    "analogues: expected areas, fields, or a table of labels to be told, got none; set one"
                )
            self._table = labels_of(store, config.labels, config.columns)
        for where, named in (("fields", config.fields), ("areas", [one.variable for one in config.areas.values()])):
            if named:
                check_known(f"analogues.{where}", named, store.variables)
        self._now: dict[str, np.ndarray] = {}  # value of the present, by target, (time, cell)
        self._weights: dict[str, np.ndarray] = {}  # of its cells
        self._dates: dict[str, np.ndarray] = {}  # steps of the analogues of each row, of the first target

    @property
    def _columns(self) -> list[str]:
        if self._table is None:
            return []
        return self.config.columns or [str(name) for name in self._table.columns]

    @cached_property
    def labels(self) -> Sequence[WindowLabels]:
        return [*self._of_columns(), *self._of_fields()]

    def _of_columns(self) -> Iterator[WindowLabels]:
        times = self.store.times.astype("datetime64[ns]")
        for name in self._columns:
            assert self._table is not None
            values = self._table[name].to_numpy()
            rows = block_rows(self.store, self.shape.window, 0, np.isfinite(values))
            found = LEAD.match(name)
            here = f"{found[1]}_0d" if found else ""
            now = self._table[here].to_numpy() if here in self._table else None
            now = None if now is None else np.nan_to_num(now - label_season(times, now, rows["train"]))
            departure = values - label_season(times, values, rows["train"])
            departure[np.abs(departure) < 1e-9 * np.nanmax(np.abs(values))] = 0  # rounding is nothing that varies
            yield self._label(name, departure, rows, now)

    def _of_fields(self) -> Iterator[WindowLabels]:
        if not (self.config.areas or self.config.fields):
            return
        store = self.store
        fields = store.read_all()
        boxes = {name: (one.variable, store.grid.box(*one.box)) for name, one in self.config.areas.items()}
        whole = np.ones(store.shape[2:], dtype=bool)
        for name, (variable, box) in (boxes | {f"{one} field": (one, whole) for one in self.config.fields}).items():
            k = store.variables.index(variable)
            own = fields[:, k]
            known = box & np.isfinite(own).all(axis=0)
            if not known.any():
                raise EarthSSLError(
                    f"analogues, {name}: expected cells of {variable} that are known at all steps, got none; take "
                    "another area, or fill the gaps"
                )
            values, weight = (own * store.statistics.scale[k])[:, known].astype(np.float64), store.grid.area[known]
            if name in boxes:
                values, weight = (values @ (weight / weight.sum()))[:, None], np.ones(1)
            for lead in self.config.leads:
                rows = block_rows(store, self.shape.window, lead, np.ones(len(own), dtype=bool))
                yield self._label(f"{name}, lead {lead}", np.roll(values, -lead, axis=0), rows, values, weight)

    def _label(
        self, name: str, values: np.ndarray, rows: dict[str, np.ndarray], now: np.ndarray | None,
        weight: np.ndarray | None = None,
    ) -> WindowLabels:  # fmt: skip
        values = values.reshape(len(values), -1)
        years = self.store.times.astype("datetime64[Y]").astype(int) + 1970
        for part in ("train", "test"):
            if not (np.ptp(values[rows[part]], axis=0) > 0).any():
                raise EarthSSLError(
                    f"analogues, {name}: expected what varies in the {part} block, got a constant; leave it out"
                )
        self._weights[name] = np.ones(1) if weight is None else weight
        if now is not None:
            self._now[name] = now.reshape(len(now), -1)
        rows["fit"] = rows["train"]
        return WindowLabels(name, values, rows, years, np.zeros((len(rows["test"]), values.shape[1])))

    def training_samples(self) -> np.ndarray:
        return self.training_windows()

    def predictable(self, window: int) -> Features:
        return predictable_directions(self.store, window, self.config.leads)

    def targets(self) -> Sequence[Target]:
        usual = self._climatology
        return [
            ensemble_target(one.name, usual[one.name], one.units[one.rows["test"]], self.config.block,
                            centred=one.values.shape[1] == 1)
            for one in self.labels
        ]  # fmt: skip

    @cached_property
    def _climatology(self) -> dict[str, np.ndarray]:
        none = {one.name: np.zeros_like(one.values) for one in self.labels}
        return {one.name: self._dressed(one, none[one.name], "train") for one in self.labels}

    def _dressed(self, label: WindowLabels, forecast: np.ndarray, block: str) -> np.ndarray:
        """Return the parts of forecasts at all steps, (time, cell), with the residuals of a block about them."""
        own, test = label.rows[block], label.rows["test"]
        residuals = label.values[own] - forecast[own]
        return dressed(forecast[test], residuals, label.values[test], self._weights[label.name])

    @cached_property
    def _search(self) -> Search:
        config = self.config
        days = self.store.times.astype("datetime64[s]").astype(np.float64) / 86400
        return Search(days, self.training_samples(), config.neighbours, config.metrics, config.scalings,
                      config.exclude_days, config.season_days)  # fmt: skip

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        """Return the row of analogues in features, see `Task.fitted`; units are the years of the library."""
        search, forecast, chosen, kept = self._search, {}, {}, {}
        for group in of_same_samples(self.labels):  # they share the search
            library, test = group[0].rows["train"], group[0].rows["test"]
            if units is not None:
                library = library[np.isin(group[0].units[library], units)]
            choices = search.choose(group, [self._weights[one.name] for one in group], features, library)
            found = self._found(features, library, test, choices)
            for label, choice in zip(group, choices, strict=True):
                own = found[choice.features, choice.scaling, choice.metric][:, : choice.neighbours]
                forecast[label.name] = self._parts(label, own)
                chosen[label.name] = {"features": choice.features, "scaling": choice.scaling, "metric": choice.metric,
                                      "neighbours": choice.neighbours, "validation_error": choice.error}  # fmt: skip
                kept[choice.features] = features[choice.features]
                if units is None and label is self.labels[0]:
                    self._dates.setdefault(name, own)
        return Row(name, role, forecast, seed, chosen, features=kept)

    def _found(
        self, features: Features, library: np.ndarray, test: np.ndarray, choices: Sequence[Chosen]
    ) -> dict[tuple[str, str, str], np.ndarray]:
        """Return the steps of the analogues of the test dates for each distance that was chosen, searched once."""
        made: dict[tuple[str, str, str], np.ndarray] = {}
        for name in dict.fromkeys(one.features for one in choices):
            wanted = [one for one in choices if one.features == name]
            for scaling, space in self._search.spaces(features[name]):
                for metric in {one.metric for one in wanted if one.scaling == scaling}:
                    most = max(one.neighbours for one in wanted if (one.scaling, one.metric) == (scaling, metric))
                    own = made[name, scaling, metric] = self._search.found(space, library, test, most, metric)
                    if own.min() < 0:
                        raise EarthSSLError(
                            f"analogues.neighbours: expected {most} analogues of every test date, got "
                            f"{(own >= 0).sum(axis=1).min()} for some; lower neighbours, or widen season_days"
                        )
        return made

    def _parts(self, label: WindowLabels, found: np.ndarray) -> np.ndarray:
        truth = label.values[label.rows["test"]]
        return parts_of(lambda part: label.values[found[part]], found.shape[1], truth, self._weights[label.name])

    refitted = Task.refitted

    def baselines(self, window: int) -> Iterable[Row]:
        yield Row("climatology", Role.BASELINE, self._climatology)
        plain, damped = {}, {}
        for label in self.labels:
            now, train = self._now.get(label.name), label.rows["train"]
            if now is not None:
                x, y = now[train], label.values[train]
                slope = (x * y).sum(axis=0) / np.maximum((x * x).sum(axis=0), np.finfo(float).tiny)
                plain[label.name] = self._dressed(label, now, "train")
                damped[label.name] = self._dressed(label, slope * now, "train")
        if plain:
            yield Row(PERSISTENCE, Role.BASELINE, plain)
            yield Row(DAMPED, Role.BASELINE, damped)
        if self.config.ridge:
            made = window_components(self.raw(window), self.training_samples(), self.components)
            yield self._ridge(f"{PCA} {RIDGE}", Role.BASELINE, made)

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        features = self.embedded(encoder, layers)[self.head]
        yield self.fitted(f"{encoder.kind} [{self.head}]", Role(encoder.kind), features, encoder.seed)
        if self.config.ridge:
            yield self._ridge(f"{encoder.kind} {RIDGE}", Role(encoder.kind), features, encoder.seed)

    def _ridge(self, name: str, role: Role, features: Features, seed: Any = None) -> Row:
        """Return the row of a linear forecast from features, with the residuals of validation about it."""
        head, forecast, chosen = RidgeHead(), {}, {}
        for label in self.labels:
            root = np.sqrt(self._weights[label.name])
            samples = {
                part: {key: Samples(values[own], label.values[own] * root, own) for key, values in features.items()}
                for part, own in label.rows.items()
            }
            choice = choose(head, samples["train"], samples["val"])
            told = np.zeros_like(label.values)
            for part in ("val", "test"):
                queries = samples[part][choice.candidate]
                made = head.predict(samples["train"][choice.candidate], queries, [choice.setting])[0]
                told[label.rows[part]] = made / root
            forecast[label.name] = self._dressed(label, told, "val")
            chosen[label.name] = {"features": choice.candidate, "setting": choice.setting,
                                  "validation_error": choice.error}  # fmt: skip
        return Row(name, role, forecast, seed, chosen)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        """Return networks from scratch on the targets that are one number: a single value, without spread."""
        for row in super().trained(encoders, seeds, units):
            told = {one.name: _single(row.forecast[one.name], one.values[one.rows["test"]]) for one in self.learnt()}
            yield replace(row, forecast=told)

    def learnt(self) -> Sequence[WindowLabels]:
        return [one for one in self.labels if one.values.shape[1] == 1]

    def curved(self, row: Row) -> bool:
        return bool(row.features) and not row.name.startswith(RANDOM)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        """Return what each row chose, and the dates of the analogues of the first target."""
        choices = [
            {"row": row.name, "seed": "" if row.seed is None else row.seed, "target": target, **own}
            for row in rows if row.name.endswith(f"[{self.head}]") for target, own in row.chosen.items()
        ]  # fmt: skip
        words = "What validation chose: features, their scaling, the distance, how many analogues, and the error there."
        return Extras(
            tables={"choices": pd.DataFrame(choices)}, words={"choices": words}, datasets={"analogues": self._dataset()}
        )

    def _dataset(self) -> xr.Dataset:
        first, times = self.labels[0], self.store.times.astype("datetime64[ns]")
        most = max((found.shape[1] for found in self._dates.values()), default=0)
        dates = np.full((len(self._dates), len(first.rows["test"]), most), np.datetime64("NaT"), dtype="datetime64[ns]")
        for k, found in enumerate(self._dates.values()):
            dates[k, :, : found.shape[1]] = times[found]
        coords = {"row": list(self._dates), "time": times[first.rows["test"]], "analogue": np.arange(1, most + 1)}
        return xr.Dataset({"date": (("row", "time", "analogue"), dates)}, coords, {"target": first.name})

    def convention_text(self) -> str:
        units, season = self.label_units(), self.config.season_days
        return self.convention.format(
            units=len(units), first=units[0], last=units[-1], block=self.config.block, exclude=self.config.exclude_days,
            season="" if season is None else f", within {season:g} days of it in the year",
        )  # fmt: skip


def _single(forecast: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return parts_of(lambda part: forecast[part][:, None, None], 1, truth, np.ones(1))
