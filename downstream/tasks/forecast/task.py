"""forecast: fields of the whole globe some steps ahead, by a frozen or fine-tuned encoder and what it must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import ZERO_SHOT, Contender
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.patches import MOST_VALUES, POOLINGS, PatchGrid, encoder_features, raw_features, raw_patches
from ...features.predictable import predictable_directions
from ...heads.patch_ridge import PENALTIES
from ...metrics.weatherbench import published
from ...results.row import Role, Row
from ...results.target import Target
from ...training.fine_tuning import FinetuneConfig
from ...training.from_scratch import SCRATCH
from .baselines import (
    BASES,
    CCA,
    COMPONENTS,
    DAMPED,
    MEAN,
    OF_ANOMALY,
    PATCH_PCA,
    PCA,
    UNFITTED,
    WEEKLY,
    Damped,
    Forecast,
    bases_of,
)
from .figures import error_by_lead, one_forecast, spectra
from .linear import States, feature_ridge, linear_direct, linear_iterative, patch_components, patch_head, window_states
from .network import fine_tuned, from_scratch
from .samples import BLOCKS, UNITS, ForecastSamples
from .scores import Scored, forecast_targets, forms_table, places_of, score, spectrum_table, target_name

DIRECT, ITERATIVE = "linear regression, direct", "linear regression, iterative"
FEWEST_YEARS = 2
AT_ONCE = 256  # windows that a decoder is given
CONVENTION = (
    "Target: fields `lead` after the last input step; a sample belongs to its target's block. Everything is fitted on "
    "train, chosen on validation (layer, pooling, penalty, components, steps of training, and base: the future "
    "anomaly, its change from the present one, or its departure from damped persistence), and read once on test; "
    "nothing is refitted. Zero-shot: the forecast head of pretraining, nothing fitted. "
    "Patch head: from the features of a patch, its tokens or its raw cells, to the same patch "
    "ahead. Raw window, and random features and principal components of it: not the globe, but the cells of a patch "
    "over all steps and of the eight patches about it at the last, averaged over square blocks beyond "
    f"{MOST_VALUES} values. "
    "persistence: of the field, as published by WeatherBench; persistence of the anomaly: on the climatology "
    "of the target's season and hour. skill: 1 − squared error over that of the calendar climatology; rmse: "
    "WeatherBench 2's (cell areas, root after the time mean); acc: WeatherBench 2's, of each forecast, about the "
    "training climatology, then averaged. std ratio: spread of forecast over true anomalies (of the best forecast in "
    "squared error: r); slope: of truth on forecast (of the best forecast: 1). WeatherBench 1's forms: forms.csv; "
    "spectra: spectrum.csv. Label curve: training samples of some units only, for everything that is fitted but the "
    "climatology and components. Intervals: paired bootstrap over units of test targets, given these seeds."
)


@dataclass(frozen=True)
class ForecastConfig(TaskConfig):
    """What to forecast and how; see `TaskConfig` for the rest.

    Attributes:
        leads: Steps ahead.
        variables: To be forecast; null for all of the store's.
        poolings: Of the tokens of a place over the window: last, mean+last.
        bases: What heads predict: the future "anomaly", its "change" from the present, its "departure" from damped
            persistence; where several, validation chooses for each variable and lead.
        penalties: Of the patch head, multiples of n.
        raw_values: Whether the head on the encoder also sees the last step's raw values of the patch.
        components: Numbers of principal components of the global state to try.
        finetune: How pretrained encoders are trained on.
        finetune_seeds: Number of pretrained encoders, in their order, that are fine-tuned.
        unit: Independent unit of bootstrap and label curve: auto (years of monthly data, else weeks), week, month,
            year.
        block: Units drawn together.
    """

    task: str = "forecast"
    leads: list[int] = field(default_factory=lambda: [1, 2, 3])
    variables: list[str] | None = None
    poolings: list[str] = field(default_factory=lambda: list(POOLINGS))
    bases: list[str] = field(default_factory=lambda: list(BASES))
    penalties: list[float] = field(default_factory=lambda: list(PENALTIES))
    raw_values: bool = False
    components: list[int] = field(default_factory=lambda: list(COMPONENTS))
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    finetune_seeds: int = 1
    unit: str = "auto"
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"poolings": POOLINGS, "bases": BASES, "unit": UNITS, "leads": "≥ 1", "penalties": "> 0",
                    "finetune_seeds": "≥ 0"})  # fmt: skip


class ForecastTask(Task[ForecastConfig]):
    """Fields ahead, one target a variable and lead.

    Attributes:
        scored: Every form of every row's scores, by name and seed, as the rows are made.
    """

    name = "forecast"
    what = "Forecasts"
    convention = CONVENTION
    Config = ForecastConfig
    head = "patch head"

    def __init__(self, config: ForecastConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.leads = sorted(set(config.leads))
        self._samples = ForecastSamples.of(store, config.leads, 1, config.variables)
        self.unit = self._samples.unit_kind(config.unit)
        self._of_window: dict[int, ForecastSamples] = {}
        self.scored: dict[tuple[str, int | str | None], Scored] = {}
        self._shown: dict[str, np.ndarray] = {}

    def seeing(self, window: int) -> ForecastSamples:
        """Return the samples of forecasts that see so many steps; their targets are the same for all."""
        if window not in self._of_window:
            self._of_window[window] = self._samples.seeing(window)
        return self._of_window[window]

    @property
    def own(self) -> ForecastSamples:
        """The samples of this table."""
        return self.seeing(self.shape.window)

    @property
    def grid(self) -> PatchGrid:
        """How the globe is cut in this table."""
        return PatchGrid(self.store, self.shape.patch[1:])

    @cached_property
    def states(self) -> States:
        """Principal components of the global state."""
        return States.of(self.own)

    def targets(self) -> Sequence[Target]:
        return forecast_targets(self.own, self.config.unit, self.config.block, self.config.uncertainty)

    def training_samples(self) -> np.ndarray:
        return np.unique(np.concatenate([self.own.inits("train", lead) for lead in self.own.leads]))

    def label_units(self) -> np.ndarray:
        return np.unique(self.own.units(self.own.joint("train"), 0, self.config.unit))

    def samples(self) -> Mapping[str, Any]:
        own = self.own
        return {block: {own.label(lead): len(own.inits(block, lead)) for lead in own.leads} for block in BLOCKS}

    def raw(self, window: int) -> np.ndarray:
        return raw_patches(self._samples.fields, self.grid, window, self._samples.times).at_all(len(self.store.times))

    def baselines(self, window: int) -> Iterable[Row]:
        samples, config = self.own, self.config
        for name, make in UNFITTED.items():
            forecast = make(samples)
            if forecast is not None:
                yield self._row(name, Role.BASELINE, forecast, {}, reference=name != MEAN)
        bases = bases_of(samples, config.bases)
        for name, made in (
            (DAMPED, Damped.fit(samples)),
            (DIRECT, linear_direct(samples, self.states, bases)),
            (ITERATIVE, linear_iterative(samples, self.states, config.components)),
            (PCA, feature_ridge(samples, self._components(), bases)),
            (CCA, feature_ridge(samples, predictable_directions(self.store, window, self.leads), bases)),
        ):
            yield self._row(name, Role.BASELINE, made, made.settings)
        width = self.encoders()[0].encoder.width
        patches = {"PCA": patch_components(samples, self.grid, width).at_all(len(self.store.times))}
        yield self.fitted(PATCH_PCA, Role.BASELINE, patches)

    def _components(self) -> dict[str, np.ndarray]:
        return window_states(self.states, self.config.components, self.own.window)

    def fitted(
        self, name: str, role: Role, features: Features, seed: int | str | None = None, units: np.ndarray | None = None
    ) -> Row:
        return self._headed(name, role, features, seed, self._of(self.own, units), self.grid)

    def _of(self, samples: ForecastSamples, units: np.ndarray | None) -> ForecastSamples:
        return samples if units is None else samples.trained_on(units, self.config.unit)

    def _headed(
        self, name: str, role: Role, features: Features, seed: int | str | None, samples: ForecastSamples,
        grid: PatchGrid, bases: Sequence[str] | None = None,
    ) -> Row:  # fmt: skip
        """Return the row of the shared head on features of patches at all steps, (time, place, feature)."""
        own = bases_of(samples, bases or self.config.bases)
        head = patch_head(samples, grid, features, own, self.config.penalties)
        followed = self.config.fractions and self.curved(Row(name, role, {}))
        kept = {one.features: features[one.features] for one in head.chosen.values()} if followed else {}
        return self._row(name, role, head, head.settings, seed, samples, features=kept)

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        yield from self.zero_shot(encoder)
        name, shape = f"{encoder.kind} [{self.head}]", encoder.encoder.config
        samples = self.seeing(shape.window)
        grid = PatchGrid(self.store, shape.patch[1:])
        found = encoder_features(
            encoder.encoder, self.store, samples.fields, samples.every(), layers, self.config.poolings,
            f"{name}, seed {encoder.seed}",
        )  # fmt: skip
        named = {f"layer {layer + 1}, {pooling}": tokens for (layer, pooling), tokens in found.items()}
        if self.config.raw_values:
            raw = raw_features(samples.fields, grid, 1, samples.times)
            named = {f"{what}, raw values": tokens.joined(raw) for what, tokens in named.items()}
        features = {what: tokens.at_all(len(self.store.times)) for what, tokens in named.items()}
        yield self._headed(name, Role(encoder.kind), features, encoder.seed, samples, grid)

    def zero_shot(self, encoder: Contender) -> Iterable[Row]:
        decoder, samples = self.decoder(encoder), self.seeing(encoder.encoder.config.window)
        ahead = decoder.ahead
        if ahead is None or not set(self.leads) <= set(decoder.leads):
            return

        def forecast(inits: np.ndarray, lead: int) -> np.ndarray:
            parts = []
            for part in np.array_split(inits, -(-len(inits) // AT_ONCE)):
                steps = part[:, None] + np.arange(1 - samples.window, 1)
                parts.append(ahead(samples.fields[steps], samples.times[steps], lead)[:, samples.positions])
            return np.concatenate(parts)

        yield self._row(ZERO_SHOT, Role.PRETRAINED, forecast, {}, encoder.seed, samples)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config, samples = self.config, self._of(self.own, units)
        damped = Damped.fit(samples)
        for seed in range(config.scratch.seeds if seeds is None else seeds):
            made = from_scratch(samples, self.grid, damped, self.shape, config.scratch, seed)
            yield self._row(SCRATCH, Role.SCRATCH, made, made.settings, seed, samples)
        pretrained = [one for one in encoders if one.kind == Role.PRETRAINED] if seeds is None else []
        for one in pretrained[: config.finetune_seeds]:
            name = f"pretrained, fine-tuned ({config.finetune.mode})"
            label = f"{name}, seed {one.seed}"
            made = fine_tuned(samples, self.grid, damped, one.encoder, config.finetune, one.seed, label)
            yield self._row(name, Role.TUNED, made, made.settings, one.seed)

    def curved(self, row: Row) -> bool:
        return super().curved(row) or row.name in (DAMPED, PCA)

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        """Return a row anew from some units; features and bases are of those chosen with all of them."""
        samples = self._of(self.own, units)
        if row.name == DAMPED:
            return self._row(DAMPED, row.role, Damped.fit(samples), {}, samples=samples)
        bases = list(dict.fromkeys(one["base"] for one in row.chosen.values()))
        if row.name == PCA:
            chosen = {one["features"] for one in row.chosen.values()}
            features = {name: values for name, values in self._components().items() if name in chosen}
            made = feature_ridge(samples, features, bases_of(samples, bases))
            return self._row(PCA, row.role, made, {}, samples=samples)
        return self._headed(row.name, row.role, row.features, row.seed, samples, self.grid, bases)

    def _row(
        self, name: str, role: Role, forecast: Forecast, chosen: Mapping[str, Any], seed: int | str | None = None,
        samples: ForecastSamples | None = None, reference: bool = True, features: Features | None = None,
    ) -> Row:  # fmt: skip
        """Return the row of a forecast: of every test field, what the metrics are made of."""
        used = samples or self.own
        whole = used.only is None
        places = places_of(used) if whole and self.config.uncertainty else None
        found = score(forecast, used, forms=whole, places=places)
        if whole:
            self.scored[name, seed] = found
            if role is not Role.BASELINE or name in (OF_ANOMALY, DIRECT, PCA):
                self._shown.setdefault(name, forecast(*self._map_of(used))[0, 0])
        told, fields = (
            {target_name(variable, lead, used): values for (variable, lead), values in of.items()}
            for of in (found.sums, found.fields)
        )
        return Row(name, role, told, seed, chosen, reference, features=features or {}, fields=fields)

    def _map_of(self, samples: ForecastSamples) -> tuple[np.ndarray, int]:
        """Return one initial step from the middle of the test block, and the middle lead."""
        lead = samples.leads[len(samples.leads) // 2]
        inits = samples.inits("test", lead)
        return inits[len(inits) // 2 : len(inits) // 2 + 1], lead

    def title(self) -> str:
        own, shape = self.own, self.store.grid.shape
        units = ", ".join(f"{name} ({own.unit(name)})" for name in own.names)
        return super().title().replace(self.what, f"{self.what} of {units}, {shape[0]}×{shape[1]}")

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        own, store = self.own, self.store
        tables = {"forms": forms_table(self.scored, own), "spectrum": spectrum_table(self.scored, own)}
        (init,), lead = self._map_of(own)
        known = own.weight[0] > 0
        maps = {"truth": own.truth(np.array([init]), lead)[0, 0],
                **{name: np.where(known, field, np.nan) for name, field in self._shown.items()}}  # fmt: skip
        figures = {"rmse_by_lead": error_by_lead(scores, own), "one_forecast": one_forecast(maps, own, int(init), lead)}
        spectrum = spectra(self.scored, own)
        if spectrum is not None:
            figures["spectrum_ratio"] = spectrum
        notes = self._notes([row.name for row in rows])
        known_scores = published(store.manifest["source"], store.synthetic, store.grid, store.splits, own.names)
        if len(known_scores):
            tables["published_weatherbench1"] = known_scores
            notes.append("published WeatherBench 1 numbers on this data: published_weatherbench1.csv; compare wb1_rmse")
        record = {"unit": own.unit_kind(self.config.unit), "window": own.window}
        return Extras(figures=figures, tables=tables, notes=notes, record=record)

    def _notes(self, names: Sequence[str]) -> list[str]:
        """Return what limits the numbers."""
        store, samples = self.store, self.own
        said = [
            "patch heads know nothing of their neighbours' output: seams between patches add power at small scales, "
            "which the spectrum shows and which is no skill"
        ]
        training = samples.times[samples.inside("train")]
        years = float(np.diff(training[[0, -1]].astype("datetime64[s]"))[0] / np.timedelta64(1, "D")) / 365.25
        if years < FEWEST_YEARS:
            said.append(
                f"tiny: training is {years:.2g} years, {len(training)} steps; the climatology and every fit are as "
                "rough as that, and the numbers say nothing about other seasons or years"
            )
        if store.statistics.groups == "hour" and not store.statistics.harmonics:
            said.append(
                "the calendar climatology is the training mean of each hour of the day: the record is too short for a "
                "cycle of the year"
            )
        short = [path for path, one in self.decoded.items() if not set(self.leads) <= set(one.leads)]
        if short:
            said.append(f"No zero-shot row for {', '.join(short)}: pretraining did not forecast all of these leads.")
        if WEEKLY not in names and store.statistics.groups == "hour":
            said.append("no weekly climatology: training does not hold every week of the year that is forecast")
        lead = samples.leads[-1]
        count = len(np.unique(samples.units(samples.inits("test", lead), lead, self.config.unit)))
        if count < 10:
            kind = samples.unit_kind(self.config.unit)
            said.append(f"intervals rest on {count} {kind}s of test: too few to trust their width")
        return said
