"""enso: Niño 3.4 of later seasons from frozen features, beside everything that a forecaster must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ....ssl.checkpoint.manifest import checkpoint_folder
from ....ssl.checkpoint.read import read_record
from ....ssl.common.errors import EarthSSLError
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.equal_input import RAW
from ...evaluation.task import Decoders, Extras, Features, Task
from ...evaluation.window_labels import WindowLabels
from ...evaluation.window_task import WindowTask
from ...features.frozen_features import POOLINGS
from ...features.raw_window import RAW_WORDS
from ...metrics.paired_bootstrap import Statistic
from ...metrics.seasonal import SeasonalSkill, last_skilful_lead, std_ratio
from ...results.figures import band_figure
from ...results.numbers import thinned
from ...results.row import Role, Row, names_of
from ...results.target import Metric, Target, number_target
from .baselines import PUBLISHED, baseline_rows, whole_variables
from .labels import BLOCKS, EnsoLabels, later, sst_variable
from .monthly_ridge import HeadOptions, select_and_refit
from .state_labels import check_window
from .tested import MEAN, Tested, target_name

KNOWN = "best reachable (true state known)"
CHOSEN = "chosen"
SKILL = "skill"
SEASONS = ("DJF", "JFM", "FMA", "MAM", "AMJ", "MJJ", "JJA", "JAS", "ASO", "SON", "OND", "NDJ")
LIMS_DRAWN = ("cyclostationary LIM", "cyclostationary LIM, all variables")
BASELINES_DRAWN = ("persistence", *LIMS_DRAWN, "PCA", "raw window [ridge]")
SHOWN_LEADS = (1, 3, 6, 9, 12, 15, 18)
CONVENTION = (
    "Target: 3-month mean Niño 3.4 anomaly (5S–5N, 190–240E, area mean), centred `lead` months after the last "
    "input month. Anomalies from the calendar-month means of train start … validation end. Skill: mean over the "
    "12 target months of Pearson's r over the test years. Heads are ridge regressions on frozen features, "
    "settings chosen on the validation block, refitted on train + validation, read once on test. Intervals: "
    "paired bootstrap over blocks of test years, given these seeds; a row of several seeds scores the mean of its "
    "seeds' skills. An untrained twin has the weights that the pretraining of its seed began with. “[chosen]”: the "
    "pooling that did best on validation. Rows “fixed” are published baselines as they are, of 3 input months, and "
    "persistence and LIM start from the last one; all others see the encoder's window. "
    f"{RAW_WORDS} Curve over labels: whole years of initial months, "
    "settings chosen on the whole validation block, no refit."
)


@dataclass(frozen=True)
class EnsoConfig(TaskConfig):
    """What to forecast and how; store: monthly with sst or ssta over the Niño 3.4 box; see `TaskConfig` for the rest.

    Attributes:
        leads: Months from the last input month to the central target month.
        window: Most input months of any row, which sets the samples; null for the encoder's, at least 3.
        poolings: Of the features, see downstream/features/frozen_features.py.
        components: Numbers of principal components to try where a pooling needs one.
        head: What the ridge head may choose between; the same for every row.
        pca_window: Input months of the tuned PCA rows; null for the encoder's.
        since: First month of labels and of all that is fitted, such as "1980-01", where a variable of the store begins
            later than its training block; null for the block's own.
        other_grid: Take encoders that were pretrained on another region or a shifted grid of the same spacing. These
            need `other_statistics` too, as their climatology is of other cells.
    """

    task: str = "enso"
    leads: list[int] = field(default_factory=lambda: list(range(1, 19)))
    window: int | None = None
    poolings: list[str] = field(default_factory=lambda: list(POOLINGS))
    components: list[int] = field(default_factory=lambda: [10, 20])
    head: HeadOptions = field(default_factory=HeadOptions)
    pca_window: int | None = None
    since: str | None = None
    other_grid: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"poolings": POOLINGS})

    def sample_window(self, shape: EncoderConfig) -> int:
        """Return the months that the samples hold, given the shape of the encoders."""
        months = (shape.window, self.pca_window or 0, *[months for _, months in PUBLISHED])
        return self.window or max(months)


class Enso(WindowTask[EnsoConfig]):
    """Niño 3.4, one target a lead, and the mean over leads."""

    name = "enso"
    what = "Niño 3.4 of later seasons"
    several_blocks = True
    convention = CONVENTION
    Config = EnsoConfig

    def __init__(self, config: EnsoConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.other_grid = config.other_grid
        shape = config.encoder
        if config.checkpoints:
            shape = read_record(checkpoint_folder(Path(config.checkpoints[0]))).encoder
        sst = store.dataset([sst_variable(store.variables, store.path)])
        splits = store.splits if config.since is None else later(store.splits, config.since)
        self.enso = EnsoLabels.from_dataset(sst, splits, config.leads, config.sample_window(shape))
        self.leads = self.enso.leads
        self.gappy: list[str] = []  # variables that the baselines do without

    @cached_property
    def labels(self) -> Sequence[WindowLabels]:
        enso, used = self.enso, {part: self.enso.samples(part) for part in BLOCKS}
        rows = [{part: np.flatnonzero(own[j]) for part, own in used.items()} for j in range(len(self.leads))]
        return [
            WindowLabels(target_name(lead), values[:, None], own, enso.year, np.zeros((len(own["test"]), 1)))
            for lead, values, own in zip(self.leads, enso.target, rows, strict=True)
        ]

    def targets(self) -> Sequence[Target]:
        return targets(self.enso, self.config.block)

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        return [target for target in targets if target.name == MEAN]

    def shown(self, targets: Sequence[Target]) -> Sequence[Target]:
        return shown(self.leads, targets)

    def label_units(self) -> np.ndarray:
        """Return the years of initial months that are whole: each has a sample of every calendar month."""
        years, count = np.unique(self.enso.year[self.training_samples()], return_counts=True)
        return years[count == 12]

    def check(self, shape: EncoderConfig) -> None:
        check_window(self.enso, shape, self.name)

    def baselines(self, window: int) -> Iterable[Row]:
        others = [name for name in self.store.variables if name not in ("ssta", "sst")]
        extra = whole_variables(self.enso, {name: self.store.dataset([name])[name].values for name in others})
        self.gappy = [name for name in others if name not in extra]
        return baseline_rows(self.enso, self.config.pca_window or window, self.config.head, extra)

    def rehearsal(self) -> Enso:
        """Return the task one block earlier.

        Raises:
            EarthSSLError: If less than half of the training block, from `since` on, would be left.
        """
        if self.config.since is not None:
            begun = later(self.store.splits, self.config.since).train
            ends = (self.store.splits.earlier(self.store.step_days).train[1], *begun)
            # nanoseconds hold differences of 292 years
            last, start, end = (instant.astype("datetime64[us]") for instant in ends)
            if last - start < (end - start) / 2:
                raise EarthSSLError(
                    "enso.uncertainty: expected half of the training months from since on to be left for a rehearsal "
                    f"one block earlier, got {start.astype('datetime64[M]')}…{end.astype('datetime64[M]')}, of which "
                    f"it would end {last.astype('datetime64[M]')}; set uncertainty: false, or an earlier since"
                )
        made = super().rehearsal()
        assert isinstance(made, Enso)
        return made

    def missing(self) -> list[str]:
        said = f"Rows of all variables and of warm water do without {', '.join(self.gappy)}: some months have no value."
        return [*super().missing(), *([said] if self.gappy else [])]

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        labelled = None if units is None else np.isin(self.enso.year, units)
        return select_and_refit(
            self.enso, features, name=name, seed=seed, options=self.config.head, role=role, labelled=labelled
        )

    refitted = Task.refitted

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        return self.pooled(encoder, layers)

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        """Return a row for each pooling (layer chosen on validation), and one that chooses among all."""
        made = list(super().rows(encoder, layers))
        if len(made) > 1:
            best = max(made, key=lambda row: float(row.chosen["validation_score"]))
            made.append(replace(best, name=f"{encoder.kind} [{CHOSEN}]", chosen={**best.chosen, "pooling": best.name}))
        return made

    def speaks(self, row: Row) -> bool:
        frozen = row.role in (Role.PRETRAINED, Role.UNTRAINED)
        return not frozen or len(self.config.poolings) == 1 or row.name.endswith(f"[{CHOSEN}]")

    def curved(self, row: Row) -> bool:
        frozen = row.role in (Role.PRETRAINED, Role.UNTRAINED) and self.speaks(row)
        return frozen or row.name == f"{RAW} [{self.head}]"

    def validation_error(self) -> Callable[[Sequence[np.ndarray]], float]:
        enso = self.enso

        def error(found: Sequence[np.ndarray]) -> float:
            forecast = np.full(enso.target.shape, np.nan)
            for j, (label, own) in enumerate(zip(self.labels, found, strict=True)):
                forecast[j, label.rows["val"]] = own
            return -float(enso.validation_score(forecast).mean())

        return error

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        for row in super().trained(encoders, seeds, units):
            yield replace(row, forecast={**row.forecast, MEAN: np.concatenate(list(row.forecast.values()))})

    def known(self) -> Iterable[Row]:
        """Return the best reachable forecast, where the data are the synthetic planet's."""
        attributes = self.store.manifest["attributes"]
        if "planet" not in attributes:
            return
        enso, planet = self.enso, recorded_planet(attributes)
        wanted, fitted = enso.inits("test"), enso.inits("fit")
        forecast, own = np.full((2, *enso.target.shape), np.nan)
        for values, steps in ((forecast, wanted), (own, fitted)):
            values[:, steps] = planet.nino34_forecast(enso.time[steps].astype("datetime64[ns]"), list(enso.leads))
        # The planet's forecast is relative to its true climatology; anomalies here to the fit period's. The
        # offset is a constant of the calendar month, known from the fit period alone.
        for month in range(12):
            rows = fitted & (enso.month == month)
            offset = np.nanmean(own[:, rows] - enso.target[:, rows], axis=1, keepdims=True)
            forecast[:, enso.month == month] -= offset
        settings = {"members": 200, "what": "ensemble mean from the hidden true state"}
        yield enso.row(KNOWN, forecast, settings, role=Role.KNOWN)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        seasons = season_skill(self.enso, rows)
        years = self.targets()[0].units
        spoken = [row for row in rows if self.speaks(row)]
        return Extras(
            figures={"skill_by_lead": skill_figure(scores, spoken), "seasons": season_figure(seasons, spoken)},
            words={
                "skill_by_lead": "All-season skill r by lead; bands are 95 % intervals of a few rows. Overlapping "
                "bands do not mean equal rows: the rows are paired, so read the differences.",
                "seasons": "Correlation over the years by target season and lead; line: r = .5. Where skill drops "
                "along a diagonal, forecasts fail to cross the spring barrier. Single cells are not tested.",
            },
            tables={"seasons": seasons},
            notes=[reach(scores, drawn_names(spoken), self.leads)],
            datasets={"forecasts": forecasts(self.enso, rows)},
            record={"test_years": f"{years.min()}-{years.max()}", "window": self.enso.window},
        )

    def convention_text(self) -> str:
        """Return the convention; with several training blocks, what the anomalies are from."""
        several = len(self.enso.spans["fit"]) > 1
        return CONVENTION.replace("train start … validation end", "training and validation") if several else CONVENTION


def targets(enso: Tested, block: int) -> list[Target]:
    """Return the mean over leads, and each lead; the unit is a year, `block` of which are drawn together."""
    mean = Target(MEAN, enso.calendar()[0], [_skill(enso, None)], block)
    return [mean, *[_target(enso, j, block) for j in range(len(enso.leads))]]


def shown(leads: Sequence[int], targets: Sequence[Target]) -> list[Target]:
    """Return the mean over leads and the few leads that pictures and the terminal have room for."""
    mean, *own = targets
    usual = [target for lead, target in zip(leads, own, strict=True) if lead in SHOWN_LEADS]
    return [mean, *(usual or thinned(own, len(SHOWN_LEADS)))]


def reach(scores: pd.DataFrame, names: Sequence[str], leads: Sequence[int]) -> str:
    """Return in words up to which lead rows keep r of .5."""
    skill = scores[(scores["seed"] == "") & (scores["metric"] == SKILL)].pivot(
        index="row", columns="target", values="value"
    )
    by_lead = skill[[target_name(lead) for lead in leads]]
    last = {name: last_skilful_lead(by_lead.loc[name].to_numpy(), leads) for name in names if name != KNOWN}
    said = ", ".join(f"{name} {lead or 'none'}" for name, lead in last.items())
    return f"Last lead with r ≥ .5, months: {said}."


def season_skill(enso: Tested, rows: Sequence[Row]) -> pd.DataFrame:
    """Return r by target season, mean over seeds: columns row, lead, target_month (1 to 12), r."""
    found = seasonal(rows, enso).season_skill()
    names = names_of(rows)
    means = [found[[k for k, row in enumerate(rows) if row.name == name]].mean(axis=0) for name in names]
    index = pd.MultiIndex.from_product([names, enso.leads, range(1, 13)], names=["row", "lead", "target_month"])
    return pd.Series(np.stack(means).ravel(), index, name="r").reset_index()


def seasonal(rows: Sequence[Row], enso: Tested, j: int | None = None) -> SeasonalSkill:
    """Return the skill of rows at the j-th lead, or averaged over leads, as a function of the samples' weights."""
    name = MEAN if j is None else target_name(enso.leads[j])
    return SeasonalSkill(np.stack([row.forecast[name] for row in rows]), enso.of_test(enso.target)[name],
                         *enso.calendar(j))  # fmt: skip


def forecasts(enso: Tested, rows: Sequence[Row]) -> xr.Dataset:
    """Return all forecasts of the test samples beside what was observed, K, dims (row, lead, init_time).

    What was observed is an anomaly from `climatology`: their sum is Niño 3.4 itself.
    """
    names = pd.Index([f"{row.name}|{row.seed}" for row in rows], name="row")
    said = xr.concat([enso.array(row.forecast) for row in rows], names)
    usual = enso.array(enso.of_test(enso.usual_target)).assign_attrs(long_name="3-month mean Niño 3.4, climatology")
    return xr.Dataset({"forecast": said, "observed": enso.array(enso.of_test(enso.target)), "climatology": usual})


def _skill(enso: Tested, j: int | None) -> Metric:
    return Metric(SKILL, partial(seasonal, enso=enso, j=j))


def _target(enso: Tested, j: int, block: int) -> Target:
    """Return the target at the j-th lead; the unit is the year of the target's central month."""
    name, truth = target_name(enso.leads[j]), enso.target[j, enso.tested[j]]
    times = enso.time[enso.tested[j]]
    plain = number_target(name, truth, np.zeros(len(truth)), enso.calendar(j)[0], block, times)

    def ratio(rows: Sequence[Row]) -> Statistic:
        said = np.stack([row.forecast[name] for row in rows])
        return lambda w: std_ratio(said, truth, w)

    rmse = replace(plain.metrics[-1], compared=False)
    return replace(plain, metrics=[_skill(enso, j), rmse, Metric("std_ratio", ratio, compared=False)])


def drawn_names(rows: Sequence[Row]) -> list[str]:
    """Return the few rows that a picture can hold: every kind of network, and some baselines."""
    return names_of([row for row in rows if row.name in BASELINES_DRAWN or row.role is not Role.BASELINE])


def skill_figure(scores: pd.DataFrame, rows: Sequence[Row]) -> Figure:
    """Return all-season skill by lead with intervals of the frozen rows, and the line r = .5."""
    roles = {row.name: row.role for row in rows}
    means = scores[(scores["seed"] == "") & (scores["metric"] == SKILL) & (scores["target"] != MEAN)]
    means = pd.concat([means[means["row"] == name] for name in drawn_names(rows)])
    means.loc[~means["row"].map(roles).isin([Role.PRETRAINED, Role.UNTRAINED]), ["low", "high"]] = np.nan
    by_lead = means["target"].str.removeprefix("lead ").astype(int)
    drawn = band_figure(means.assign(used=by_lead, target="all-season r"), roles, "lead (months)", "linear")
    drawn.axes[0].axhline(0.5, color="0.5", lw=0.8, ls="--", zorder=0)
    return drawn


def season_figure(seasons: pd.DataFrame, rows: Sequence[Row]) -> Figure:
    """Return r by target season and lead of the frozen rows and the tuned PCA.

    Args:
        seasons: Columns row, lead, target_month, r.
        rows: Those that may be drawn.
    """
    wanted = names_of([row for row in rows if row.name == "PCA" or row.role in (Role.PRETRAINED, Role.UNTRAINED)])
    figure = Figure(figsize=(1.2 + 3.0 * len(wanted), 3.6), layout="constrained")
    panels = figure.subplots(1, len(wanted), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, wanted, strict=True):
        values = seasons[seasons["row"] == name].pivot(index="target_month", columns="lead", values="r")
        leads, found = [int(lead) for lead in values.columns], values.to_numpy(float)
        mesh = axes.imshow(found, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(_ticks(leads), [str(leads[k]) for k in _ticks(leads)])
        axes.set_yticks(range(12), SEASONS, fontsize=8)
        axes.set_xlabel("lead (months)")
        finite = found[np.isfinite(found)]
        if len(leads) > 1 and finite.size and finite.min() < 0.5 < finite.max():
            axes.contour(found, levels=[0.5], colors="white", linewidths=1.2)
        axes.set_title(name, fontsize=9, loc="left")
    figure.colorbar(mesh, ax=list(panels), label="r (below 0 shown as 0)", shrink=0.8)
    return figure


def _ticks(leads: Sequence[int]) -> list[int]:
    """Return the positions of the leads that are written out: of many, the first and every third month."""
    return [k for k, lead in enumerate(leads) if len(leads) <= 7 or k == 0 or lead % 3 == 0]
