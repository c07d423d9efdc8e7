"""forecast: fields of the whole globe some steps ahead, by a frozen or fine-tuned encoder and what it must beat."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.common.files import refuse_filled
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender, contenders, layers_to_read
from ...evaluation.summary import Summary
from ...features.patches import POOLINGS, PatchFeatures, PatchGrid, encoder_features, raw_features
from ...heads.patch_ridge import PENALTIES
from ...metrics.weatherbench import published
from ...training.fine_tuning import FinetuneConfig
from .baselines import (
    BASES,
    CALENDAR,
    COMPONENTS,
    DAMPED,
    MEAN,
    NAME,
    OF_ANOMALY,
    PATCH_PCA,
    PCA,
    PERSISTENCE,
    WEEKLY,
    Damped,
    Forecast,
    anomaly_persistence,
    bases_of,
    calendar_climatology,
    mean_climatology,
    persistence,
    weekly_climatology,
)
from .figures import error_by_lead, one_forecast, spectra
from .linear import States, linear_direct, linear_iterative, pca_ridge
from .network import TrainedForecast
from .patch_head import PatchForecast, patch_components
from .samples import UNITS, ForecastSamples
from .scores import ForecastRow, Scored, forms_table, score, score_table, spectrum_table

DIRECT, ITERATIVE = "linear regression, direct", "linear regression, iterative"

UNTRAINED, PRETRAINED, SCRATCH = "untrained + patch head", "pretrained + patch head", "same network from scratch"

REFERENCES = (PERSISTENCE, OF_ANOMALY, DAMPED, WEEKLY, CALENDAR, DIRECT, PCA, PATCH_PCA, UNTRAINED, SCRATCH)

FEWEST_YEARS = 2

CONVENTION = (
    "Target: fields `lead` after the last input step; a sample belongs to its target's block. Everything is fitted on "
    "train, chosen on validation (layer, pooling, penalty, components, steps of training, and base: the future "
    "anomaly, its change from the present one, or its departure from damped persistence), and read once on test; "
    "nothing is refitted. persistence: of the field, as published by WeatherBench; persistence of the anomaly: on the "
    "climatology of the target's season and hour. rmse: WeatherBench 2's (cell areas, root after the time mean); acc: "
    "WeatherBench 2's, of each forecast, about the training climatology, then averaged. std ratio: spread of forecast "
    "over true anomalies (of the best forecast in squared error: r); slope: of truth on forecast (of the best "
    "forecast: 1). WeatherBench "
    "1's forms: forms.csv; spectra: spectrum.csv. Intervals: paired bootstrap over units of test targets, given these "
    "seeds."
)


@dataclass(frozen=True)
class ForecastConfig:
    """What to forecast and how.

    Attributes:
        store: Folder of the training store.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; may be empty, with `encoder`.
        task: forecast.
        encoder: Shape of the untrained encoders where there is no checkpoint.
        leads: Steps ahead.
        variables: To be forecast; null for all of the store's.
        layers: Blocks to read, counted from 0, negative from the end; null for the last third, at least two.
        poolings: Of the tokens of a place over the window: last, mean+last.
        bases: What heads predict: the future "anomaly", its "change" from the present, its "departure" from damped
            persistence; where several, validation chooses for each variable and lead.
        penalties: Of the patch head, multiples of n.
        raw_values: Whether the head on the encoder also sees the last step's raw values of the patch.
        components: Numbers of principal components of the global state to try.
        untrained_seeds: Number of randomly initialised twins.
        scratch_seeds: Number of networks trained from scratch on the forecast itself.
        finetune: How networks are trained; for those from scratch, always in full and without layer decay.
        finetune_seeds: Number of pretrained encoders, in their order, that are fine-tuned.
        unit: Independent unit of the bootstrap: auto (years of monthly data, else weeks), week, month, year.
        block: Units drawn together.
        draws: Bootstrap draws.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = NAME
    encoder: EncoderConfig | None = None
    leads: list[int] = field(default_factory=lambda: [1, 2, 3])
    variables: list[str] | None = None
    layers: list[int] | None = None
    poolings: list[str] = field(default_factory=lambda: list(POOLINGS))
    bases: list[str] = field(default_factory=lambda: list(BASES))
    penalties: list[float] = field(default_factory=lambda: list(PENALTIES))
    raw_values: bool = False
    components: list[int] = field(default_factory=lambda: list(COMPONENTS))
    untrained_seeds: int = 3
    scratch_seeds: int = 1
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    finetune_seeds: int = 1
    unit: str = "auto"
    block: int = 1
    draws: int = 2000

    def __post_init__(self) -> None:
        for name, given, known in (
            ("task", [self.task], (NAME,)),
            ("poolings", self.poolings, POOLINGS),
            ("bases", self.bases, BASES),
            ("unit", [self.unit], UNITS),
        ):
            wrong = [one for one in given if one not in known]
            if wrong or not given:
                got = wrong[0] if wrong else "none"
                raise EarthSSLError(
                    f"forecast.{name}: expected {', '.join(known)}, got '{got}'." + nearest(str(got), list(known))
                )
        if not self.checkpoints and self.encoder is None:
            raise EarthSSLError(
                "forecast: expected checkpoints, or the shape of an untrained encoder (forecast.encoder), got neither"
            )
        if not self.leads or min(self.leads) < 1:
            raise EarthSSLError(f"forecast.leads: expected steps ahead from 1, got {self.leads}")
        if not self.penalties or min(self.penalties) <= 0 or not self.components or min(self.components) < 1:
            raise EarthSSLError(
                f"forecast: expected positive penalties and components from 1, got {self.penalties}, {self.components}"
            )
        if min(self.untrained_seeds, self.scratch_seeds, self.finetune_seeds) < 0:
            raise EarthSSLError("forecast: expected numbers of seeds from 0, got a negative one")
        if self.draws < 1000 or self.block < 1:
            raise EarthSSLError(f"forecast: expected draws ≥ 1000 and block ≥ 1, got {self.draws} and {self.block}")


def run(config: ForecastConfig, command: str = "") -> Path:
    """Make and score every row, and return the folder of the tables.

    Raises:
        EarthSSLError: If store, checkpoints and task do not fit together, or `out` is not empty.
    """
    begun = time.perf_counter()
    refuse_filled(Path(config.out), "the task's results")
    with threadpool_limits(1, "blas"):  # the solutions are many and small: threads would wait for one another
        summary = _summary(config, begun)
    return summary.write(config.out, command)


def _summary(config: ForecastConfig, begun: float) -> Summary:
    store = Store(config.store)
    twins = max(config.untrained_seeds, config.scratch_seeds, 0 if config.checkpoints else 1)
    found = contenders(store, config.checkpoints, twins, config.encoder)
    shape = found[0].encoder.config
    samples = ForecastSamples.of(store, config.leads, shape.window, config.variables)
    pretrained = [one for one in found if one.kind == "pretrained"]
    untrained = [one for one in found if one.kind == "untrained"]
    rows = _Rows(config, samples, found[0].encoder)
    made = rows.baselines()
    made += [rows.frozen(UNTRAINED, one) for one in untrained[: config.untrained_seeds]]
    made += [rows.frozen(PRETRAINED, one) for one in pretrained]
    from_scratch = replace(config.finetune, mode="full", layer_decay=1.0)
    made += [rows.trained(SCRATCH, one, from_scratch) for one in untrained[: config.scratch_seeds]]
    tuned = f"pretrained, fine-tuned ({config.finetune.mode})"
    made += [rows.trained(tuned, one, config.finetune) for one in pretrained[: config.finetune_seeds]]
    scored = [score(row, samples) for row in made]
    return _summed_up(config, samples, made, scored, begun)


class _Rows:
    """Makes the rows of the table."""

    def __init__(self, config: ForecastConfig, samples: ForecastSamples, encoder: Encoder) -> None:
        self.config, self.samples, self.width = config, samples, encoder.width
        patch = encoder.config.patch
        self.grid = PatchGrid(samples.store, (patch[1], patch[2]))
        self.damped = Damped.fit(samples)
        self.bases = bases_of(samples, config.bases)
        self._layers = layers_to_read(config.layers, encoder.depth)

    def baselines(self) -> list[ForecastRow]:
        """Return the rows without an encoder."""
        samples, config = self.samples, self.config
        simple: list[tuple[str, Forecast | None]] = [
            (PERSISTENCE, persistence(samples)), (OF_ANOMALY, anomaly_persistence(samples)),
            (MEAN, mean_climatology(samples)), (WEEKLY, weekly_climatology(samples)),
            (CALENDAR, calendar_climatology(samples)),
        ]  # fmt: skip
        rows = [ForecastRow(name, None, forecast) for name, forecast in simple if forecast is not None]
        rows.append(ForecastRow(DAMPED, None, self.damped, self.damped.settings))
        states = States.of(samples)
        direct = linear_direct(samples, states, self.bases)
        iterative = linear_iterative(samples, states, config.components)
        pca = pca_ridge(samples, states, self.bases, config.components, samples.window)
        rows += [
            ForecastRow(DIRECT, None, direct, direct.settings),
            ForecastRow(ITERATIVE, None, iterative, iterative.settings),
            ForecastRow(PCA, None, pca, pca.settings),
        ]
        return [*rows, self._head(PATCH_PCA, None, {"PCA": patch_components(samples, self.grid, self.width)})]

    def frozen(self, name: str, one: Contender) -> ForecastRow:
        """Return the row of a frozen encoder with the shared linear head."""
        samples, label = self.samples, f"{name}, seed {one.seed}"
        found = encoder_features(
            one.encoder,
            samples.store,
            samples.fields,
            samples.every(),
            self._layers,
            self.config.poolings,
            label,
        )
        named = {f"layer {layer + 1}, {pooling}": tokens for (layer, pooling), tokens in found.items()}
        if self.config.raw_values:
            raw = raw_features(samples.fields, self.grid, 1, samples.times)
            named = {f"{what}, raw values": tokens.joined(raw) for what, tokens in named.items()}
        return self._head(name, one.seed, named)

    def _head(self, name: str, seed: int | None, features: dict[str, PatchFeatures]) -> ForecastRow:
        head = PatchForecast.fit(self.samples, self.grid, features, self.bases, self.config.penalties)
        return ForecastRow(name, seed, head, head.settings)

    def trained(self, name: str, one: Contender, config: FinetuneConfig) -> ForecastRow:
        """Return the row of a network trained on the forecast itself."""
        label = f"{name}, seed {one.seed}"
        made = TrainedForecast(self.samples, self.grid, self.damped, one.encoder, config, one.seed, label)
        return ForecastRow(name, one.seed, made, made.settings)


def _summed_up(
    config: ForecastConfig, samples: ForecastSamples, rows: list[ForecastRow], scored: list[Scored], begun: float
) -> Summary:
    store = samples.store
    names = list(dict.fromkeys(row.name for row in rows))
    references = [name for name in REFERENCES if name in names]
    scores, differences = score_table(
        scored, samples, references, unit=config.unit, block=config.block, draws=config.draws
    )
    synthetic = "planet" in store.manifest["attributes"]
    known = published(store.manifest["source"], synthetic, store.grid, store.splits, samples.names)
    tables = {"forms": forms_table(scored, samples), "spectrum": spectrum_table(scored, samples)}
    figures = {"rmse_by_lead": error_by_lead(scores, samples), "one_forecast": _map(samples, rows)}
    spectrum = spectra(scored, samples)
    if spectrum is not None:
        figures["spectrum_ratio"] = spectrum
    notes = _notes(config, samples, names)
    if len(known):
        tables["published_weatherbench1"] = known
        notes.append("published WeatherBench 1 numbers on this data: published_weatherbench1.csv; compare wb1_rmse")
    shape, units = store.grid.shape, ", ".join(f"{name} ({samples.unit(name)})" for name in samples.names)
    what = "the synthetic planet" if synthetic else store.manifest["source"]
    record = {
        "source": store.manifest["source"], "synthetic": synthetic, "store_fingerprint": store.fingerprint,
        "split": store.splits.to_json(), "split_proof": store.manifest["split_proof"],
        "samples": {block: {samples.label(lead): len(samples.inits(block, lead)) for lead in samples.leads}
                    for block in ("train", "val", "test")},
        "unit": samples.unit_kind(config.unit), "window": samples.window,
        "rows": [{"name": row.name, "seed": row.seed, "settings": dict(row.settings)} for row in rows],
        "seconds": time.perf_counter() - begun, "config": asdict(config),
    }  # fmt: skip
    return Summary(
        task=NAME,
        title=f"Forecasts of {units} on {what}, {shape[0]}×{shape[1]}",
        convention=CONVENTION,
        scores=scores,
        differences=differences,
        record=record,
        figures=figures,
        tables=tables,
        notes=notes,
    )


def _map(samples: ForecastSamples, rows: list[ForecastRow]) -> Any:
    """Return the figure of one forecast from the middle of the test block, at the middle lead."""
    lead = samples.leads[len(samples.leads) // 2]
    inits = samples.inits("test", lead)
    init = int(inits[len(inits) // 2])
    at = np.array([init])
    fields = {"truth": samples.truth(at, lead)[0, 0]}
    known = samples.weight[0] > 0
    for row in rows:
        if row.name in (OF_ANOMALY, DIRECT, PCA, UNTRAINED, PRETRAINED, SCRATCH) or "fine-tuned" in row.name:
            fields.setdefault(row.name, np.where(known, row.forecast(at, lead)[0, 0], np.nan))
    return one_forecast(fields, samples, init, lead)


def _notes(config: ForecastConfig, samples: ForecastSamples, names: Sequence[str]) -> list[str]:
    """Return what limits the numbers."""
    store = samples.store
    said = [
        "patch heads know nothing of their neighbours' output: seams between patches add power at small scales, which "
        "the spectrum shows and which is no skill"
    ]
    training = samples.times[store.splits.inside(samples.times.astype("datetime64[ns]"), "train")]
    years = float((training[-1] - training[0]) / np.timedelta64(1, "D")) / 365.25
    if years < FEWEST_YEARS:
        said.append(
            f"tiny: training is {years:.2g} years, {len(training)} steps; the climatology and every fit are as rough "
            "as that, and the numbers say nothing about other seasons or years"
        )
    harmonics = store.statistics.harmonics
    if store.statistics.groups == "hour" and not harmonics:
        said.append(
            "the calendar climatology is the training mean of each hour of the day: the record is too short for a "
            "cycle of the year"
        )
    if WEEKLY not in names and store.statistics.groups == "hour":
        said.append("no weekly climatology: training does not hold every week of the year that is forecast")
    lead = samples.leads[-1]
    count = len(np.unique(samples.units(samples.inits("test", lead), lead, config.unit)))
    if count < 10:
        said.append(
            f"intervals rest on {count} {samples.unit_kind(config.unit)}s of test: too few to trust their width"
        )
    if not any(name.startswith("pretrained") for name in names):
        said.append("no pretrained encoder is in this table")
    return said
