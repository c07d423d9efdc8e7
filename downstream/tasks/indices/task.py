"""indices: numbers by time (a regional height, a jet's latitude, blocked or not) from frozen features of windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, check_known
from ....ssl.fields.splits import PARTS
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.weather.labels import HARMONICS
from ....ssl.sources.weather.reachable import REACHABLE, forecast_labels
from ....ssl.sources.weather.recorded import recorded_weather
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import PREDICTABLE, RANDOM
from ...evaluation.kernel_forecast import INPUTS, kernel_forecasts
from ...evaluation.task import Decoders, Extras, Features
from ...evaluation.window_labels import WindowLabels, block_rows, labelled_times
from ...evaluation.window_task import WindowTask
from ...features.eof import window_components
from ...features.frozen_features import POOLINGS
from ...features.predictable import predictable_directions
from ...heads.trained import MlpHead
from ...metrics.classes import frequencies, one_hot
from ...results.row import Role, Row
from ...results.scores import tables
from .heat_waves import MEAN, HeatWavesConfig, heat_wave_labels, lim_means
from .label_table import LEAD, label_season, labels_of

PERSISTENCE, REACHED = "damped persistence", "the true model"
LIM = "LIM"
KERNEL = "forecast of the fields by a kernel"
MLP = f"[{MlpHead.name}]"
MOST_CLASSES = 10  # of a column; more are numbers
CONVENTION = (
    "Target: each column as a departure from its season (mean and, from 100 labels on, {harmonics} harmonics of the "
    "year, fitted on the labelled training steps). Skill: 1 - squared error / that of the season. Labels of {units} "
    "calendar years ({first} … {last}) train the heads; features, layer and penalty are chosen on the validation "
    "block, and nothing is refitted with it. Principal components and predictable directions are fitted on all "
    "training steps, labelled or not, and so are forecasts of the fields by a kernel. Intervals: years drawn in blocks "
    "of {block}."
)


@dataclass(frozen=True)
class IndicesConfig(TaskConfig):
    """Settings of the task, beside those of every task.

    Attributes:
        labels: CSV with a column `time` and columns of numbers, at the last step of each window; null takes the labels
            of the weather planet that the store was made from.
        heat_waves: Labels made from the store itself, in place of `labels`: see `HeatWavesConfig`.
        columns: Those to be told; none: all. A name such as height_3d says its lead, in days.
        labelled: First and last date ("1983": the whole year) of the training labels; null for all of the block.
        ahead: Steps ahead that the predictable directions and the kernel's forecasts of the fields are fitted for.
        kernel: Whether a head on forecasts of the fields by a kernel stands beside: the strongest row without network.
        mlp: Whether an MLP with one hidden layer reads every encoder's features too, stopped and damped as validation
            says, and how much it gains over the linear head is told: what the features hold that is not linear in them.
        poolings: Of the features.
        components: Of the tokens and of the window, to choose from.
        reachable_members: Ensemble of the true model beside the table (weather planet only); 0 leaves it out.
        reachable_noise: Error of the states it starts from, as a share of their natural spread.
    """

    task: str = "indices"
    labels: str | None = None
    heat_waves: HeatWavesConfig = field(default_factory=HeatWavesConfig)
    columns: list[str] = field(default_factory=list)
    labelled: list[str] | None = None
    ahead: list[int] = field(default_factory=lambda: [1, 2, 3])
    kernel: bool = True
    mlp: bool = False
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs"])
    components: list[int] = field(default_factory=lambda: [20, 80, 400])
    reachable_members: int = 0
    reachable_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"poolings": POOLINGS, "ahead": "≥ 1", "reachable_members reachable_noise": "≥ 0"})
        if self.heat_waves.variable and self.labels is not None:
            raise EarthSSLError("indices: expected labels or heat_waves.variable, got both; leave one of them out")
        if not self.heat_waves.variable and self.heat_waves != HeatWavesConfig():
            raise EarthSSLError("indices.heat_waves.variable: expected whose heat waves they are, got none; set it")
        self.expect(self.labelled is None or len(self.labelled) == 2, "a first and a last date, or null", "labelled")


class Indices(WindowTask[IndicesConfig]):
    """One target a column."""

    name = "indices"
    what = "Numbers by time"
    convention = CONVENTION
    Config = IndicesConfig
    fit_steps = 4000

    def __init__(self, config: IndicesConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.leads = config.ahead
        self.components = config.components
        if config.heat_waves.variable:
            self.table = heat_wave_labels(store, config.heat_waves)
            ahead = [str(name) for name in self.table if not str(name).endswith("_0d")]
            if config.columns:
                check_known("indices.columns", config.columns, [str(name) for name in self.table])
        else:
            self.table = labels_of(store, config.labels, config.columns)
            ahead = [str(name) for name in self.table.columns]
        self.columns = config.columns or ahead

    @cached_property
    def labels(self) -> Sequence[WindowLabels]:
        times = self.store.times.astype("datetime64[ns]")
        years = times.astype("datetime64[Y]").astype(int) + 1970
        inside = labelled_times(self.store, "indices.labelled", self.config.labelled)
        made = []
        for name in self.columns:
            values = self.table[name].to_numpy()
            known = np.isfinite(values) & inside
            rows = block_rows(self.store, self.shape.window, 0, known)
            rows["fit"] = rows["train"]
            departure = (values - label_season(times, values, rows["train"]))[:, None]
            made.append(WindowLabels(name, departure, rows, years, np.zeros((len(rows["test"]), 1))))
        return made

    def classified(self) -> Sequence[WindowLabels]:
        """Return the columns as classes; their climatology: frequencies by calendar month, all of training.

        Raises:
            EarthSSLError: If a column has other numbers than 0, 1, … of at most ten classes, each in training.
        """
        times, made = self.store.times, []
        month = times.astype("datetime64[M]").astype(int) % 12
        for label in self.labels:
            values = self.table[label.name].to_numpy()
            known = np.concatenate([label.rows[part] for part in PARTS])
            classes = _classes(label.name, values, label.rows["train"], known)
            usual = frequencies(classes[label.rows["train"]], classes.max() + 1, month[label.rows["train"]], 12)
            names = tuple(str(k) for k in range(classes.max() + 1))
            made.append(replace(label, values=one_hot(classes, len(names)), classes=names,
                                climatology=usual[month[label.rows["test"]]]))  # fmt: skip
        return made

    def known_features(self, window: int) -> Mapping[str, Features]:
        forecast = self._kernel_forecasts(window)
        return {PREDICTABLE: self.predictable(window), **({KERNEL: forecast} if forecast else {})}

    def predictable(self, window: int) -> Features:
        return predictable_directions(self.store, window, self.config.ahead, self.config.components)

    def training_samples(self) -> np.ndarray:
        return self.training_windows()

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        yield from super().rows(encoder, layers)
        if self.config.mlp:
            head, features = MlpHead(classifies=False, seed=encoder.seed), self.embedded(encoder, layers)[self.head]
            yield self.by_head(head, f"{encoder.kind} [{head.name}]", Role(encoder.kind), features, encoder.seed)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        """Return what the MLP gains over the linear head on the features of the same encoders, paired."""
        kinds = list(dict.fromkeys(row.role.value for row in rows if row.name.endswith(MLP)))
        if not kinds:
            return Extras()
        targets, parts = self.targets(), []
        for kind in kinds:
            names = [f"{kind} {MLP}", f"{kind} [{self.head}]"]
            own = [row for row in rows if row.name in names]
            parts.append(tables(targets, own, draws=self.config.draws, references=names[1:])[1])
        first = {(target.name, target.metrics[0].name) for target in targets}
        # The encoder of the table alone is told in words: the pretrained one, where there is one.
        notes = [
            f"MLP − linear, {kinds[0]}, {one.target}, {one.metric}: {one.value:+.3f} "
            f"[{one.low:+.3f}, {one.high:+.3f}], {one.verdict}"
            for one in parts[0].itertuples()
            if (one.target, one.metric) in first
        ]
        return Extras(tables={"mlp_gain": pd.concat(parts, ignore_index=True)}, notes=notes)

    def speaks(self, row: Row) -> bool:
        return not row.name.endswith(MLP)

    def baselines(self, window: int) -> Iterable[Row]:
        yield Row("climatology", Role.BASELINE, {one.name: one.climatology[:, 0] for one in self.labels})
        now = {one.name: self._present(one.name) for one in self.labels}
        if any(found is not None for found in now.values()):
            yield self._persistence(now)
        if self.config.heat_waves.variable:
            yield self._lim()
        if forecast := self._kernel_forecasts(window):
            yield self.fitted(f"{KERNEL} [{self.head}]", Role.BASELINE, forecast)

    def _kernel_forecasts(self, window: int) -> Features:
        if not self.config.kernel:
            return {}
        raw, training = self.raw(window), self.training_samples()
        fitted = training[np.isin(training, np.flatnonzero(self.fitted_steps()))]
        (components,) = window_components(raw, fitted, [min(INPUTS, raw.shape[-1], len(fitted))]).values()
        validation = np.flatnonzero(self.store.splits.inside(self.store.times, "val"))
        wanted = np.unique(np.concatenate([rows for one in self.labels for rows in one.rows.values()]))
        return kernel_forecasts(components, training, validation, self.config.ahead, wanted)

    def _present(self, name: str) -> np.ndarray | None:
        """Return the column that a label at a lead is of the present day, where the table has it."""
        found = LEAD.match(name)
        here = f"{found[1]}_0d" if found and int(found[2]) else ""
        return self.table[here].to_numpy() if here in self.table else None

    def _persistence(self, now: Mapping[str, np.ndarray | None]) -> Row:
        """Return a regression of each label on its present value; a label without one keeps its season."""
        times, forecast = self.store.times.astype("datetime64[ns]"), {}
        for label in self.labels:
            values = now[label.name]
            forecast[label.name] = label.climatology[:, 0]
            if values is not None:
                x = np.nan_to_num(values - label_season(times, values, label.rows["train"]))
                y, train = label.values[:, 0], label.rows["train"]
                slope = x[train] @ y[train] / max(x[train] @ x[train], np.finfo(float).tiny)
                forecast[label.name] = slope * x[label.rows["test"]]
        return Row(PERSISTENCE, Role.BASELINE, forecast)

    def _lim(self) -> Row:
        """Return a regression of each label on the mean anomaly that linear inverse models forecast for its day."""
        present = self.table[f"{MEAN}_0d"].to_numpy()
        found = lim_means(self.store, present, self.config.heat_waves.leads)
        forecast, chosen = {}, {}
        for label in self.labels:
            lead = LEAD.match(label.name)
            forecast[label.name] = label.climatology[:, 0]
            if lead is None or int(lead[2]) not in found:
                continue
            tried = {}
            for count, said in found[int(lead[2])].items():
                x, y = np.nan_to_num(said), label.values[:, 0]
                train, val = label.rows["train"], label.rows["val"]
                slope = x[train] @ y[train] / max(x[train] @ x[train], np.finfo(float).tiny)
                tried[count] = float(np.mean((slope * x[val] - y[val]) ** 2)), slope * x[label.rows["test"]]
            best = min(tried, key=lambda count: tried[count][0])
            forecast[label.name], chosen[label.name] = tried[best][1], {"eofs": best}
        return Row(LIM, Role.BASELINE, forecast, chosen=chosen)

    def known(self) -> Iterable[Row]:
        if not self.config.reachable_members:
            return
        planet = recorded_weather(self.store.manifest["attributes"])
        times, forecast = self.store.times.astype("datetime64[ns]"), {}
        wanted = [(label, found[1], int(found[2])) for label in self.labels
                  if (found := LEAD.match(label.name)) and found[1] in REACHABLE]  # fmt: skip
        if not wanted:
            return
        leads = sorted({lead for _, _, lead in wanted})
        starts = np.unique(np.concatenate([label.rows["test"] for label, _, _ in wanted]))
        made = forecast_labels(planet, times[starts], leads, self.config.reachable_members, self.config.reachable_noise)
        for label, name, lead in wanted:
            test = label.rows["test"]
            said = made[name][np.searchsorted(starts, test), leads.index(lead)]
            usual = label_season(times, self.table[label.name].to_numpy(), label.rows["train"])
            forecast[label.name] = np.nan_to_num(said - usual[test])
        yield Row(f"{REACHED}, {self.config.reachable_members} members", Role.KNOWN, forecast)

    def curved(self, row: Row) -> bool:
        return bool(row.features) and row.name != f"{RANDOM} [{self.head}]" and not row.name.endswith(MLP)

    def check(self, shape: EncoderConfig) -> None:
        if shape.window > self.store.splits.embargo_days + 1:
            raise EarthSSLError(
                f"indices: expected windows shorter than the gap between the blocks, got {shape.window} steps"
            )
        waves = self.config.heat_waves
        reach = shape.window + max(waves.leads) + waves.days + waves.gap - 1
        if waves.variable and self.store.splits.embargo_days < reach:
            raise EarthSSLError(
                f"indices.heat_waves: expected gaps between the blocks of {reach} days or more (window + longest lead "
                f"+ days + gap - 1), got {self.store.splits.embargo_days:g}; prepare with --splits.embargo_days {reach}"
            )

    def convention_text(self) -> str:
        units = self.label_units()
        return self.convention.format(
            harmonics=HARMONICS, units=len(units), first=units[0], last=units[-1], block=self.config.block
        )


def _classes(name: str, values: np.ndarray, training: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the class of each step, 0 where it is not known; refuse numbers that are none."""
    found = np.unique(values[known])
    whole = np.array_equal(found, found.astype(int)) and found.min() >= 0 and found.max() < MOST_CLASSES
    seen = np.unique(values[training])
    if not whole or len(seen) < 2 or not np.array_equal(seen, np.arange(len(seen))) or found.max() > seen.max():
        told = ", ".join(f"{value:g}" for value in (seen if whole else found)[:4])
        raise EarthSSLError(
            f"indices.columns: expected classes 0, 1, … in '{name}', at most {MOST_CLASSES} and each with an example "
            f"in the training block, got {told}{' …' if len(found) > 4 else ''}; choose a column of classes, or widen "
            "the labelled years"
        )
    return np.nan_to_num(np.where(np.isin(np.arange(len(values)), known), values, 0)).astype(int)
