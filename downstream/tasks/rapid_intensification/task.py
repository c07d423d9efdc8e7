"""rapid_intensification: will a tropical cyclone's wind rise by so much within 24 hours, and do fields help?

From the best tracks alone (IBTrACS, a table of yours, or the synthetic planet's) it makes the rows that an encoder
must beat; with a 6-hourly store, those of encoders on crops around the storms too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.fields.splits import PARTS
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender, contenders
from ...evaluation.equal_input import RAW
from ...evaluation.task import Decoders, Extras, Features, Task
from ...metrics.events import CALLS, best_threshold
from ...results.row import Role, Row, names_of
from ...results.target import Target
from ...storms.best_tracks import IBTRACS, SOURCE
from ...storms.crop_network import CropPatches
from ...storms.storm_table import predictor_columns
from . import models
from .config import NAME, PLANET, RapidIntensificationConfig
from .material import MOST_VALUES, Material, StormFields, climatologies, modelled, warnings
from .models import TRACK, Chances, Models, Problem, each
from .samples import Predictors, base_rates, proof
from .scores import (
    BSS,
    basin_figure,
    by_basin,
    contingency,
    murphy_parts,
    reliabilities,
    reliability_figure,
    target_of,
)

KNOWN = "upper bound (hidden state, future track and air known)"
ALONE, CROP = "logistic", "PCA of the crop"
ENCODERS = (Role.PRETRAINED, Role.UNTRAINED)
EVENT = (
    "Event: V 24 h later minus V now at least the threshold, of a tropical cyclone (V ≥ 25 kt, category -2 to 5) that "
    "stays over water; V is the best track's, known after the season: all rows are optimistic beside operational ones. "
)
TABLE_EVENT = (
    "Event: V 24 h later minus V now at least the threshold, of every record of the table with V ≥ 25 kt that says it; "
    "the table tells no category and no land, so storms that decay over land count as calm. V is the best track's, "
    "known after the season: all rows are optimistic beside operational ones. "
)
BEFORE = "Fields around a storm end {steps} of the store before the one that its time lies in. "
CONVENTION = (
    "Storms are whole in one block. Fitted on train; penalties, numbers of trees, layers, recalibration and thresholds "
    "of calls from validation; read once on test. BSS: Brier skill against the basins' frequencies in the test sample "
    "itself, which no forecaster knows (the hard reference); BSS train: against those of the training sample (base "
    "rates drift, so it is larger). AUC: of the ROC curve. AP: average precision; of no skill, the base rate. PSS, "
    "HSS: of calls, each with its own threshold. Seeds: the mean of their scores. Intervals: paired bootstrap over "
    "test storms, given these fits. The upper bound, of the planet's storms only: the true model's ensemble from the "
    "hidden state along the true future track through the true future air, which no forecaster knows. From scratch, "
    "fine-tuned: one network from crop to chance, the track joined in its head, its steps chosen on validation. Raw "
    "window, and random features and principal components of it: of the crop over all steps, its cells averaged over "
    f"square blocks where they are more than {MOST_VALUES} values. Curve over "
    "labels, of the first threshold: on whole training {unit}s drawn at random, features and variants as chosen with "
    "all labels, C on all of validation; the interval is of the mean over draws and seeds, given these."
)


class RapidIntensification(Task[RapidIntensificationConfig]):
    """Whether a storm's wind rises by a threshold within 24 h, one target a threshold."""

    name = NAME
    what = "Rapid intensification within 24 h"
    convention = CONVENTION
    Config = RapidIntensificationConfig
    unit = "storm"
    head = "logistic + track"

    def __init__(
        self, config: RapidIntensificationConfig, store: Store | None, decoders: Decoders | None = None
    ) -> None:
        super().__init__(config, store, decoders)
        self.other_grid = config.fields.other_grid
        self.material = Material.of(config, store)
        samples, part = self.material.samples, self.material.part
        shown = np.ones(len(samples), bool)
        self.fields: StormFields | None = None
        modelled(self.material, shown)  # blocks without samples are refused as such, before fields are asked for
        if store is not None:
            self.fields = StormFields(store, samples, self.material.tracks, config.fields, self.shape)
            shown = self.fields.shown
        self.kept, basins, self.notes = modelled(self.material, shown)
        self.notes = [*self.material.notes, *self.notes]
        self.sst = climatologies(config, self.material)
        own, parts = samples[self.kept].reset_index(drop=True), part[self.kept]
        groups = {name: predictor_columns(own, columns, parts == "train")
                  for name, columns in config.table.predictors.items()}  # fmt: skip
        predictors = Predictors.of(own, basins, self.sst, groups)
        self.problems = [Problem(own, parts, predictors, basins, one) for one in config.thresholds_kt]
        self.notes += warnings(self.sst, own["time"][parts == "test"].min())

    @property
    def main(self) -> Problem:
        """The problem of the first threshold."""
        return self.problems[0]

    def encoders(self) -> list[Contender]:
        return [] if self._store is None else super().encoders()

    def layers(self, encoder: Contender) -> list[int]:
        return list(range(encoder.encoder.depth)) if self.config.layers is None else super().layers(encoder)

    def targets(self) -> Sequence[Target]:
        return [target_of(one, one is self.main, self.config.block) for one in self.problems]

    def headline(self, targets: Sequence[Target]) -> Sequence[Target]:
        return targets[:1]  # the threshold that networks are trained on, too

    def raw(self, window: int) -> np.ndarray | None:
        return None if self.fields is None else self.fields.raw(self.kept)

    def training_samples(self) -> np.ndarray:
        return self.main.inside("train")

    def label_units(self) -> np.ndarray:
        return np.unique(self._units[self.main.inside("train")])

    @property
    def _units(self) -> np.ndarray:
        return self.main.samples[self.config.label_unit].to_numpy()

    def _labelled(self, units: np.ndarray | None) -> np.ndarray:
        train = self.main.inside("train")
        return train if units is None else train & np.isin(self._units, units)

    def row(self, name: str, role: Role, said: Models, seed: int | None = None, **more: Any) -> Row:
        """Return a row from what its models say; thresholds of calls are the best ones on validation."""
        events = {one.name: one.event[one.inside("val")] for one in self.problems}
        calls = name in (models.DAY_CALL, models.HALF_DAY_CALL)
        thresholds = {(of, score): best_threshold(found.val, events[of], score)
                      for of, found in said.items() for score in CALLS if not calls}  # fmt: skip
        return Row(
            name, role, {of: found.test for of, found in said.items()}, seed,
            {of: found.chosen for of, found in said.items() if found.chosen},
            reference=name not in models.UNBEATEN, threshold=thresholds, calls=calls, **more,
        )  # fmt: skip

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        track = self.main.predictors.track
        beside = {variant: np.hstack([values, track]) for variant, values in features.items()}
        problems = self.problems if units is None else [self.main]
        said = each(problems, lambda one: self._logistic(one, beside, self._labelled(units)))
        chosen = said[self.main.name].chosen.get("variant")
        made = self.row(name, role, said, seed)
        # The curve over labels is of the first threshold.
        return replace(made, features={chosen: features[chosen]}) if chosen and self.curved(made) else made

    def _logistic(self, problem: Problem, features: Features, labelled: np.ndarray) -> Chances:
        """Return the logistic regression on the variant of least log loss on validation."""
        event = problem.event[labelled]
        if not 0 < event.sum() < len(event):  # Laplace's rule
            return problem.chances(np.full(len(problem.event), (event.sum() + 1) / (len(event) + 2)))
        tried = [models.logistic(problem, values, labelled=labelled, variant=name) for name, values in features.items()]
        return min(tried, key=lambda one: one.chosen["loss"])

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        assert self.fields is not None
        return {self.head: self.fields.embedded(encoder, layers, self.kept)}

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        features = self.embedded(encoder, layers)[self.head]
        yield from self.both(encoder.kind, Role(encoder.kind), features, encoder.seed)

    def both(self, words: str, role: Role, features: Features, seed: int | None) -> Iterable[Row]:
        """Yield the rows on features alone, with the track, and with the track and each group of predictors."""

        def made(name: str, given: Features) -> Row:
            said = each(self.problems, lambda one: self._logistic(one, given, one.inside("train")))
            return self.row(f"{words} [{name}]", role, said, seed)

        yield made(ALONE, features)
        yield self.fitted(f"{words} [{self.head}]", role, features, seed)
        for name, own in self.main.predictors.table.items():
            beside = np.hstack([self.main.predictors.track, own])
            yield made(f"{self.head} + {name}", {key: np.hstack([values, beside]) for key, values in features.items()})

    def baselines(self, window: int) -> Iterable[Row]:
        for name, said, seed in models.baselines(self.problems, self.config.tree_seeds, list(self.sst)):
            # With no features but the track, which `fitted` adds, the curve over labels follows it.
            none = {"none": np.empty((len(self.main.samples), 0))} if name == TRACK else {}
            yield self.row(name, Role.BASELINE, said, seed, features=none)
        if self.fields is not None and self.config.fields.pca_components:
            pcs = self.fields.components(self.material.part == "train", self.kept)
            yield from self.both(CROP, Role.BASELINE, pcs, None)

    def curved(self, row: Row) -> bool:
        return super().curved(row) or row.name in (TRACK, f"{CROP} [{self.head}]")

    @cached_property
    def _patches(self) -> CropPatches:
        assert self.fields is not None
        return self.fields.patches(self.kept)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config = self.config
        if self.fields is None:
            return
        count = config.scratch.seeds if seeds is None else seeds
        tuned = config.finetune_seeds if seeds is None else 0
        twins = [one for one in encoders if one.kind == Role.UNTRAINED]
        if len(twins) < count:
            found = contenders(
                self.store, config.checkpoints, count, config.encoder, config.other_statistics, self.other_grid
            )
            twins = [one for one in found if one.kind == Role.UNTRAINED]
        whole = models.from_scratch(config.scratch, config.finetune)
        starts = [(models.SCRATCH, Role.SCRATCH, whole, one) for one in twins[:count]]
        pretrained = [one for one in encoders if one.kind == Role.PRETRAINED]
        starts += [(models.TUNED, Role.TUNED, config.finetune, one) for one in pretrained[:tuned]]
        for name, role, how, one in starts:
            said = models.trained(self.main, self._patches, one, how, name, self._labelled(units))
            yield self.row(name, role, {self.main.name: said}, one.seed)

    def known(self) -> Iterable[Row]:
        planet = self.material.planet
        if planet is None:
            return
        main = self.main
        asked = main.inside("val") | main.inside("test")
        samples = main.samples.loc[asked, ["storm", "time"]].astype({"storm": planet.tracks()["storm"].dtype})

        def reachable(problem: Problem) -> Chances:
            chance = np.zeros(len(asked))
            chance[asked] = planet.intensification_forecast(samples, problem.threshold_kt, members=self.config.members)
            return problem.chances(chance)

        yield self.row(KNOWN, Role.KNOWN, each(self.problems, reachable))

    def samples(self) -> Mapping[str, Any]:
        main = self.main
        return {
            "samples": len(self.material.samples), "modelled": len(main.samples), "basins": list(main.basins),
            "without_fields": {} if self.fields is None else self.fields.dropped,
        }  # fmt: skip

    def data_record(self) -> Mapping[str, Any]:
        config, store, main = self.config, self.material.store, self.main
        return {
            "source": config.table.path or (SOURCE if config.tracks == IBTRACS else config.tracks),
            "synthetic": self.material.planet is not None,
            "split": self._split(),
            "split_proof": proof(main.samples, main.part),
            "store_fingerprint": store.fingerprint if store else None,
            "sst": {name: [str(one.times[0]), str(one.times[-1])] for name, one in self.sst.items()},
        }

    def _split(self) -> Any:
        """Return what the blocks are: the store's, the table's column, or seasons."""
        config, store = self.config, self.material.store
        if config.table.path and config.table.split:
            return f"column '{config.table.split}' of {config.table.path}"
        by_time = store is not None and not config.table.path
        return store.splits.to_json() if store and by_time else {name: getattr(config, name) for name in PARTS}

    def title(self) -> str:
        words = {IBTRACS: "real best tracks (NHC and JTWC)", PLANET: "storms of the synthetic planet"}
        tracks, material = words.get(self.config.tracks, self.config.tracks), self.material
        tracks = f"table {Path(self.config.table.path).name}" if self.config.table.path else tracks
        if material.store is None:
            return f"{self.what}: {tracks}, no fields"
        rows, columns = material.store.grid.shape
        source = "its own fields" if material.planet is not None else f"fields of {material.store.manifest['source']}"
        return f"{self.what}: {tracks}, {source} on {rows}×{columns}"

    def convention_text(self) -> str:
        steps, event = self.config.fields.steps_before, TABLE_EVENT if self.config.table.path else EVENT
        before = BEFORE.format(steps="one step" if steps == 1 else f"{steps} steps")
        said = before if steps and self.fields is not None else ""
        return event + said + self.convention.format(unit=self.config.label_unit)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        made = {"contingency": contingency, "murphy": murphy_parts, "reliability": reliabilities}
        tables = {
            name: pd.concat([make(one, rows) for one in self.problems], ignore_index=True)
            for name, make in made.items()
        }
        basins, material = by_basin(self.main, rows, self.config.draws), self.material
        rates = base_rates(material.samples, material.part, sorted(self.config.thresholds_kt))
        main, shown = self.main.name, _shown(rows)
        of_main = tables["reliability"][tables["reliability"]["target"] == main]
        return Extras(
            figures={
                "reliability": reliability_figure(of_main, shown, f"Δ24 h ≥ {main}, test seasons"),
                "brier_skill_by_basin": basin_figure(basins[basins["row"].isin(shown)], BSS,
                                                     f"Brier skill against each basin's test frequency, {main}"),
            },
            tables={**tables, "by_basin": basins, "base_rates": rates},
            notes=self.notes,
        )  # fmt: skip


def _shown(rows: Sequence[Row]) -> list[str]:
    """Return the rows that pictures show: one of each kind."""
    names = names_of([row for row in rows if not row.calls])
    mended = (models.ISOTONIC, models.PLATT)
    warm = [name for name in names if " + SST " in name and not name.endswith(mended)]
    best = [next((name for name in warm if name.startswith(start)), start) for start in (TRACK, models.BOOSTED)]
    isotonic = [name for name in names if name.startswith(models.BOOSTED) and name.endswith(models.ISOTONIC)][:1]
    plain = {models.CLIMATOLOGY, models.SEASONAL, models.TABLE, TRACK, models.BALANCED, models.SCRATCH, KNOWN}
    kinds = (*ENCODERS, CROP, RAW)
    return [name for name in names if name in {*plain, *best, *isotonic} or name.startswith(kinds)]
