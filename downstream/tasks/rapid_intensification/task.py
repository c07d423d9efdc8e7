"""rapid_intensification: will a tropical cyclone's wind rise by so much within 24 hours, and do fields help?

From the best tracks alone (IBTrACS, a table of yours, or the synthetic planet's) it makes the rows that an encoder
must beat; with a 6-hourly store, those of encoders on crops around the storms too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import refuse_filled
from ....ssl.fields.splits import PARTS
from ....ssl.sources.planet.planet import Planet
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.label_fractions import FRACTIONS
from ...evaluation.summary import Summary
from ...storms.best_tracks import IBTRACS, SOURCE, best_tracks, tidy
from ...storms.sst_climatology import SstClimatology, file_years
from ...training.fine_tuning import FinetuneConfig
from .field_features import PCA_ROLE, FieldsConfig, best_reachable, field_features
from .figures import basin_figure, label_figure, reliability_figure, skill_figure
from .label_curve import UNITS, curve_rows, label_curve
from .models import (
    BALANCED,
    BOOSTED,
    CLIMATOLOGY,
    ISOTONIC,
    PLATT,
    SEASONAL,
    TABLE,
    TRACK,
    Forecast,
    Problem,
    SampleFeatures,
    baselines,
    feature_rows,
)
from .network import SCRATCH, network_rows
from .samples import FEWEST, Predictors, base_rates, parts_by_season, parts_by_time, proof, samples_of
from .scores import AP, AUC, BSS, METRICS, Judge

NAME = "rapid_intensification"
PLANET = "planet"
KNOWN = "upper bound (hidden state, future track and air known)"
FEWEST_YEARS = 4  # of an SST climatology that is chosen here
CONVENTION = (
    "Event: V 24 h later minus V now at least the threshold, of a tropical cyclone (V ≥ 25 kt, category -2 to 5) that "
    "stays over water; V is the best track's, known after the season: all rows are optimistic beside operational ones. "
    "Storms are whole in one block. Fitted on train; penalties, numbers of trees, layers, recalibration and thresholds "
    "of calls from validation; read once on test. BSS: Brier skill against the basins' frequencies in the test sample "
    "itself, which no forecaster knows (the hard reference); BSS train: against those of the training sample (base "
    "rates drift, so it is larger). AUC: of the ROC curve. AP: average precision; of no skill, the base rate. PSS, "
    "HSS: of calls, each with its own threshold. Seeds: the mean of their scores. Intervals: paired bootstrap over "
    "test storms, given these fits. The upper bound, of the planet's storms only: the true model's ensemble from the "
    "hidden state along the true future track through the true future air, which no forecaster knows. From scratch, "
    "fine-tuned: one network from crop to chance, the track joined in its head, its steps chosen on validation. Curve "
    "over labels: logistic rows on whole training {unit}s drawn at random, features and variants as chosen with all "
    "labels, C on all of validation; the interval is of the mean over draws and seeds, given these."
)


@dataclass(frozen=True)
class RapidIntensificationConfig:
    """What to forecast and with what.

    Attributes:
        out: Folder of the results; must be new or empty.
        task: rapid_intensification.
        tracks: ibtracs (real, 1980–2024; extra `cyclones`), planet (those of the store's own planet), or a CSV or
            Parquet file with the columns of storms/best_tracks.py.
        store: Folder of a 6-hourly store that covers storms, for the rows with fields; null for tracks alone.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds.
        thresholds_kt: Changes of the wind in 24 h to forecast; the first has all rows, tables and pictures.
        train, val, test: First and last season of each block; not read with a store, whose blocks of time count.
        sst: NetCDF file of monthly SST, for climatological SST and potential intensity; null takes the store's, if
            it has `sst`.
        sst_years: First and last year of each climatology of the file; null for the training years, or if it has
            fewer than 4 of them, for all years before those of the test block. A store's is of its training
            block, whatever this says.
        fields: What of the store the heads are given.
        finetune: How networks are trained on the events; those from scratch in full and without layer decay.
        scratch_seeds: Number of networks trained from scratch.
        finetune_seeds: Number of pretrained encoders, in their order, that are fine-tuned.
        fractions: Shares of the training labels for the curve; empty for none.
        label_unit: What the shares are of: season or storm.
        label_draws: Orders of the units that the shares are drawn in.
        tree_seeds: Seeds of the boosted trees.
        draws: Bootstrap draws.
        members: Of the planet's ensemble for the upper bound.
    """

    out: str
    task: str = NAME
    tracks: str = IBTRACS
    store: str | None = None
    checkpoints: list[str] = field(default_factory=list)
    thresholds_kt: list[float] = field(default_factory=lambda: [30.0, 25.0, 35.0, 40.0])
    train: tuple[int, int] = (1980, 2009)
    val: tuple[int, int] = (2010, 2014)
    test: tuple[int, int] = (2015, 2024)
    sst: str | None = None
    sst_years: list[tuple[int, int]] | None = None
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    finetune: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(steps=600, batch_size=64, lr=1e-3))
    scratch_seeds: int = 3
    finetune_seeds: int = 3
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    label_unit: str = "season"
    label_draws: int = 5
    tree_seeds: int = 3
    draws: int = 1000
    members: int = 200

    def __post_init__(self) -> None:
        if self.task != NAME:
            raise EarthSSLError(f"probe.task: expected {NAME}, got '{self.task}'")
        t = self.thresholds_kt
        if not t or not min(t) > 0 or len(set(t)) < len(t):
            raise EarthSSLError(f"{NAME}.thresholds_kt: expected different changes above 0 kt, got {t}")
        if not self.train[0] <= self.train[1] < self.val[0] <= self.val[1] < self.test[0] <= self.test[1]:
            raise EarthSSLError(
                f"{NAME}: expected the seasons of train before those of val before those of test, each from first to "
                f"last, got {self.train}, {self.val}, {self.test}"
            )
        if (self.checkpoints or self.tracks == PLANET) and not self.store:
            what = "checkpoints need" if self.checkpoints else "tracks: planet needs"
            raise EarthSSLError(f"{NAME}: {what} a 6-hourly store that covers the storms, got none; set store")
        if any(first > last for first, last in self.sst_years or []) or self.sst_years == []:
            raise EarthSSLError(
                f"{NAME}.sst_years: expected first and last years, got {self.sst_years}; or leave it out"
            )
        if not all(0 < share <= 1 for share in self.fractions) or self.label_unit not in UNITS or self.label_draws < 1:
            raise EarthSSLError(
                f"{NAME}: expected fractions in (0, 1], label_unit {' or '.join(UNITS)} and label_draws ≥ 1, got "
                f"{self.fractions}, '{self.label_unit}' and {self.label_draws}"
            )
        if min(self.scratch_seeds, self.finetune_seeds) < 0:
            raise EarthSSLError(
                f"{NAME}: expected scratch_seeds, finetune_seeds ≥ 0, got {self.scratch_seeds}, {self.finetune_seeds}"
            )
        if self.draws < 100 or self.tree_seeds < 1 or self.members < 1:
            raise EarthSSLError(
                f"{NAME}: expected draws ≥ 100, tree_seeds ≥ 1 and members ≥ 1, got {self.draws}, {self.tree_seeds}, "
                f"{self.members}"
            )


@dataclass(frozen=True, eq=False)
class Material:
    """Tracks, samples and what they were made from.

    Attributes:
        tracks: Tidy tracks.
        samples: All samples, see `samples_of`.
        part: Block of each.
        store: Fields, or None.
        planet: The synthetic planet whose storms these are, or None.
    """

    tracks: pd.DataFrame
    samples: pd.DataFrame
    part: np.ndarray
    store: Store | None
    planet: Planet | None

    @classmethod
    def of(cls, config: RapidIntensificationConfig) -> Material:
        """Read the tracks and divide the samples."""
        store = Store(config.store) if config.store else None
        if config.sst_years and config.sst is None and (store is None or "sst" not in store.variables):
            raise EarthSSLError(
                f"{NAME}.sst_years: expected a file of SST to take {config.sst_years} from, got none; set sst, or "
                "leave sst_years out"
            )
        planet = (
            recorded_planet(store.manifest["attributes"]) if store is not None and config.tracks == PLANET else None
        )
        tracks = tidy(planet.tracks(), "planet") if planet is not None else best_tracks(config.tracks)
        samples = samples_of(tracks)
        if store is not None:
            part = parts_by_time(samples, store.splits)
        else:
            part = parts_by_season(samples, {name: getattr(config, name) for name in PARTS})
        return cls(tracks, samples, part, store, planet)


def run(config: RapidIntensificationConfig, command: str = "", features: Sequence[SampleFeatures] = ()) -> Path:
    """Make and score every row, and return the folder of the tables.

    Args:
        config: What to forecast.
        command: As typed, for the record.
        features: More features of the samples, in the order of `Material.of(config).samples`.

    Raises:
        EarthSSLError: If tracks, store and blocks do not fit together, a block holds one class only, or `out` is not
            empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    with threadpool_limits(1, "blas"):
        return summarise(config, features).write(config.out, command)


def summarise(config: RapidIntensificationConfig, features: Sequence[SampleFeatures] = ()) -> Summary:
    """Return the tables, pictures and record of the task."""
    begun = time.perf_counter()
    material = Material.of(config)
    found: list[SampleFeatures] = list(features)
    fields: dict[str, Any] = {}
    _problems(config, material, found, {})  # what cannot be forecast is refused before features are made
    climatologies = _climatologies(config, material)
    if material.store is not None:
        made, fields = field_features(
            material.store, config.checkpoints, material.tracks, material.samples, material.part, config.fields
        )
        found += made
    problems, kept, notes = _problems(config, material, found, climatologies)
    samples, part, basins = problems[0].samples, problems[0].part, list(problems[0].basins)
    found = [replace(one, values=one.values[kept]) for one in found]
    notes += _warnings(climatologies, samples["time"][part == "test"].min())
    judged, records = [], []
    for number, problem in enumerate(problems):
        periods = list(climatologies) if number == 0 else list(climatologies)[:1]
        heads = feature_rows(problem, found)
        rows = [*baselines(problem, config.tree_seeds, periods), *heads]
        if number == 0:
            rows += _networks(problem, config, material)
            curves, picture = _curve(problem, config, curve_rows(problem, found, heads))
        if material.planet is not None:
            rows.append(_known(problem, material.planet, config.members))
        judge = Judge(problem, rows, rows[0].test)
        names = list(dict.fromkeys(one.row for one in rows))
        metrics = METRICS if number == 0 else (BSS, AUC, AP)
        judged.append(judge.scored(_references(names, number == 0), config.draws, metrics))
        if number == 0:
            basin_table = judge.by_basin(config.draws)
        records += [
            {"target": judge.target, "row": one.row, "seed": one.seed, **one.chosen} for one in rows if one.chosen
        ]
    tables = {name: pd.concat([one.tables[name] for one in judged], ignore_index=True) for name in judged[0].tables}
    tables |= curves
    tables |= {
        "by_basin": basin_table,
        "base_rates": base_rates(material.samples, material.part, sorted(config.thresholds_kt)),
    }
    scores = pd.concat([one.scores for one in judged], ignore_index=True)
    main = f"{config.thresholds_kt[0]:g} kt"
    of_main = tables["reliability"][tables["reliability"]["target"] == main]
    shown = _shown(list(dict.fromkeys(of_main["row"])))
    synthetic = material.planet is not None
    return Summary(
        task=NAME,
        title=f"Rapid intensification within 24 h: {_origin(config, material)}",
        convention=CONVENTION.format(unit=config.label_unit),
        scores=scores,
        differences=pd.concat([one.differences for one in judged], ignore_index=True),
        record={
            "source": SOURCE if config.tracks == IBTRACS else config.tracks,
            "synthetic": synthetic,
            "split": material.store.splits.to_json() if material.store else {n: getattr(config, n) for n in PARTS},
            "split_proof": proof(samples, part),
            "n": {"samples": len(material.samples), "modelled": len(samples), "basins": basins},
            "sst": {name: [str(one.times[0]), str(one.times[-1])] for name, one in climatologies.items()},
            "store_fingerprint": material.store.fingerprint if material.store else None,
            "fields": fields,
            "choices": records,
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures={
            "brier_skill": skill_figure(scores, main, BSS),
            "reliability": reliability_figure(of_main, shown, f"Δ24 h ≥ {main}, test seasons"),
            "brier_skill_by_basin": basin_figure(basin_table[basin_table["row"].isin(shown)], BSS,
                                                 f"Brier skill against each basin's test frequency, {main}"),
            **picture,
        },
        tables=tables,
        notes=notes,
    )  # fmt: skip


def _networks(problem: Problem, config: RapidIntensificationConfig, material: Material) -> list[Forecast]:
    """Return the rows trained end to end, of one threshold; none without fields."""
    if material.store is None:
        return []
    seeds = (config.scratch_seeds, config.finetune_seeds)
    return network_rows(
        problem, material.store, config.checkpoints, material.tracks, config.fields, config.finetune, seeds
    )


def _curve(
    problem: Problem, config: RapidIntensificationConfig, rows: Mapping[str, Sequence[tuple[int | None, np.ndarray]]]
) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """Return the tables and the picture of the skill by the share of labels; none where no share is asked for."""
    if not config.fractions:
        return {}, {}
    unit = config.label_unit
    found = label_curve(problem, rows, config.fractions, unit=unit, draws=config.label_draws, resamples=config.draws)
    tables = {"label_draws": found.draws, "label_fractions": found.means, "label_differences": found.differences}
    title = (
        f"Δ24 h ≥ {problem.threshold_kt:g} kt, by share of the training {unit}s; range of {config.label_draws} draws"
    )
    return tables, {"skill_by_label_fraction": label_figure(found.draws, BSS, f"share of the training {unit}s", title)}


def _origin(config: RapidIntensificationConfig, material: Material) -> str:
    """Return where tracks and fields come from, in words."""
    words = {IBTRACS: "real best tracks (NHC and JTWC)", PLANET: "storms of the synthetic planet"}
    if material.store is None:
        return f"{words.get(config.tracks, config.tracks)}, no fields"
    rows, columns = material.store.grid.shape
    source = "its own fields" if material.planet is not None else f"fields of {material.store.manifest['source']}"
    return f"{words.get(config.tracks, config.tracks)}, {source} on {rows}×{columns}"


def _problems(
    config: RapidIntensificationConfig,
    material: Material,
    features: Sequence[SampleFeatures],
    climatologies: Mapping[str, SstClimatology],
) -> tuple[list[Problem], np.ndarray, list[str]]:
    """Return the problem of every threshold, the mask of the samples they are of, and what was left out, in words."""
    kept, basins, notes = _modelled(material, features)
    samples, part = material.samples[kept].reset_index(drop=True), material.part[kept]
    predictors = Predictors.of(samples, basins, climatologies)
    return [Problem(samples, part, predictors, basins, one) for one in config.thresholds_kt], kept, notes


def _modelled(material: Material, features: Sequence[SampleFeatures]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the samples that all rows are fitted and scored on, their basins, and what was left out, in words.

    Raises:
        EarthSSLError: If features are of other samples, or a block holds none.
    """
    samples, notes = material.samples, []
    kept = material.part != ""
    if not kept.all():
        notes.append(f"{int((~kept).sum())} samples lie in no block, or their storm not whole in one: left out.")
    for one in features:
        if len(one.values) != len(samples) or one.values.ndim != 2:
            raise EarthSSLError(
                f"{NAME}: expected features of {len(samples)} samples, got shape {one.values.shape} from '{one.row}'"
            )
    whole = np.ones(len(samples), bool)
    for one in features:
        whole &= np.isfinite(one.values).all(axis=1)
    if (kept & ~whole).any():
        notes.append(
            f"{int((kept & ~whole).sum())} samples lie outside the fields in time or space: left out of every row, so "
            "that all are scored on the same."
        )
    kept &= whole
    trained = samples["basin"][kept & (material.part == "train")].value_counts()
    basins = sorted(str(name) for name, count in trained.items() if count >= FEWEST)
    strange = kept & ~samples["basin"].isin(basins).to_numpy()
    if strange.any():
        where = ", ".join(sorted(samples["basin"][strange].unique()))
        notes.append(f"{int(strange.sum())} samples of {where}: left out, fewer than {FEWEST} to train on.")
    kept &= ~strange
    for name in PARTS:
        if not (kept & (material.part == name)).any():
            first, last = samples["time"].min(), samples["time"].max()
            raise EarthSSLError(
                f"{NAME}: expected samples in the {name} block, got none of {len(samples)} between {first:%Y-%m-%d} "
                f"and {last:%Y-%m-%d}; move the blocks, or take other tracks or fields. {' '.join(notes)}"
            )
    return kept, basins, notes


def _climatologies(config: RapidIntensificationConfig, material: Material) -> dict[str, SstClimatology]:
    """Return the SST climatologies to use by their period."""
    store = material.store
    if config.sst is None:
        if store is not None and "sst" in store.variables:
            one = SstClimatology.of_store(store)
            return {one.period: one}
        return {}
    years = config.sst_years or [_years(file_years(config.sst), config, material)]
    made = (SstClimatology.from_file(config.sst, (first, last)) for first, last in years)
    return {one.period: one for one in made}


def _years(found: tuple[int, int], config: RapidIntensificationConfig, material: Material) -> tuple[int, int]:
    """Return the training years that a file holds, or all of its years before those of the test block.

    Raises:
        EarthSSLError: If both are too few.
    """
    train, test = (material.samples["time"][material.part == name] for name in ("train", "test"))
    block = pd.Timestamp(material.store.splits.test[0]).year if material.store is not None else config.test[0]
    tested = min(block, test.min().year)  # southern seasons begin in the year before
    last = min(found[1], tested - 1)
    for low, high in ((max(found[0], train.min().year), min(last, train.max().year)), (found[0], last)):
        if high - low + 1 >= FEWEST_YEARS:
            return low, high
    raise EarthSSLError(
        f"{NAME}.sst: expected {FEWEST_YEARS} years or more before the test block's first, {tested}, got a file "
        f"of {found[0]} to {found[1]}; give a longer record, or set sst_years"
    )


def _warnings(climatologies: Mapping[str, SstClimatology], tested: pd.Timestamp) -> Iterator[str]:
    """Yield which climatologies know months of the test seasons."""
    first = np.datetime64(tested, "M")
    for name, one in climatologies.items():
        late = int((one.times >= first).sum())
        if late:
            yield f"SST climatology {name}: {late} of its {len(one.times)} months lie in the test block ({first} …)."
    if not climatologies:
        yield "No SST was given: no rows with climatological SST and potential intensity. Set sst."


def _known(problem: Problem, planet: Planet, members: int) -> Forecast:
    """Return the planet's own chance of each sample, its future track and air known."""
    asked = problem.inside("val") | problem.inside("test")
    chance = np.zeros(len(asked))
    chance[asked] = best_reachable(planet, problem.samples[asked], problem.threshold_kt, members)
    return problem.forecast(KNOWN, chance)


def _references(names: Sequence[str], every: bool) -> list[str]:
    """Return the rows that the others are compared with: what an encoder must beat."""
    warm = [name for name in names if " + SST " in name and not name.endswith((ISOTONIC, PLATT))]
    best = [next((n for n in warm if n.startswith(start)), start) for start in (TRACK, BOOSTED)]
    fields = [n for n in names if n.startswith(("untrained", PCA_ROLE)) or n == SCRATCH]
    wanted = [best[1], best[0], TRACK, *fields, SEASONAL] if every else [best[1], best[0], TRACK]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _shown(names: Sequence[str]) -> list[str]:
    """Return the rows that pictures show: one of each kind."""
    first = _references(names, True)
    calibrated = [n for n in names if n.startswith(BOOSTED) and n.endswith(ISOTONIC)][:1]
    rest = [n for n in names if n.startswith("pretrained") or n in (TABLE, BALANCED, KNOWN)]
    return [name for name in names if name in {CLIMATOLOGY, *first, *calibrated, *rest}]
