"""states: El Niño, neutral or La Niña by season, from frozen features, beside what an encoder must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from ....ssl.fields.splits import PARTS
from ....ssl.model.encoder import EncoderConfig
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.label_fractions import SHOTS
from ...evaluation.task import Decoders, Extras, Features, merged
from ...evaluation.window_labels import WindowLabels
from ...evaluation.window_task import WindowTask
from ...features.frozen_features import POOLINGS
from ...features.patches import PatchFeatures
from ...features.raw_window import RAW_WORDS
from ...heads.base import Head
from ...heads.linear import LogisticHead
from ...heads.nearest import NearestHead
from ...heads.prototype import PrototypeHead
from ...heads.trained import STEPS, AttentiveHead, MlpHead
from ...heads.uncertainty import uncertainty
from ...metrics.classes import one_hot
from ...results.figures import confusion_figure, shots_figure
from ...results.row import Role, Row
from ..enso.baselines import lacking, pca_features
from ..enso.state_labels import STATES, StateLabels, check_window
from .few_shot import shot_curve

HEADS = ("logistic", "kNN", "prototype", "attentive", "MLP")
INDEX, ALL_VARIABLES = "Niño index [logistic]", "PCA, all variables [logistic]"
FEWEST_YEARS = 9  # of validation, that 90 % intervals are calibrated on
CONVENTION = (
    "Target: El Niño, neutral or La Niña by the 3-month mean Niño 3.4 anomaly (thresholds ± {threshold:g} K, anomalies "
    "from the calendar-month means of the training years; the ONI's threshold, without its moving base periods and its "
    "rule of five seasons in a row). Lead: months from the last input month to the last month of the season (one more "
    "than to its centre); at lead 0 the inputs hold the season, and a logistic regression on the index is the trivial "
    "solution. Brier skill: summed over the classes, against the frequencies by season. Settings (features, layer, "
    "penalty, k, steps) chosen on validation by the Brier score, heads (and the network from scratch) refitted on "
    "train + validation, read once on test. Log loss: probabilities below 0.001 count as 0.001. Intervals: paired "
    "bootstrap over blocks of test years, given these seeds; a row of several seeds scores the mean of its seeds' "
    "scores. "
    f"{RAW_WORDS} Curves over labels: years with at least half as many samples as the fullest one; "
    " fitted on the drawn training years (or examples) alone, settings chosen on the whole "
    "validation block, no refit."
)


@dataclass(frozen=True)
class StatesConfig(TaskConfig):
    """What to classify and how; store: monthly with sst or ssta; see `TaskConfig` for the rest.

    Attributes:
        leads: Months from the last input month to the last month of the season; 0 is diagnosis.
        threshold: Of the Niño 3.4 anomaly, K.
        window: Most input months of any row; all rows are scored on the same samples.
        heads: logistic, kNN, prototype (the mean of each class), attentive (on the tokens of the last step), MLP.
        steps: Optimiser steps that attentive and MLP may choose between.
        poolings, components: Of the features, as for the ENSO probe.
        pca_components: Numbers of principal components of the input to choose from.
        pca_window: Input months of the PCA rows; null for the encoder's.
        shots: Examples a class for the few-shot curve.
        shot_separation: Least months between two examples of a class.
    """

    task: str = "states"
    leads: list[int] = field(default_factory=lambda: [0, 3, 6])
    threshold: float = 0.5
    window: int = 12
    heads: list[str] = field(default_factory=lambda: ["logistic", "kNN", "attentive"])
    steps: list[int] = field(default_factory=lambda: list(STEPS))
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs", "mean+pcs"])
    components: list[int] = field(default_factory=lambda: [10, 20])
    pca_components: list[int] = field(default_factory=lambda: [5, 10, 20])
    pca_window: int | None = None
    shots: list[int] = field(default_factory=lambda: list(SHOTS))
    shot_separation: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"heads": HEADS, "poolings": POOLINGS, "steps shots": "≥ 1"})
        self.expect("logistic" in self.heads, "the head logistic, which the curves take", "heads")


class States(WindowTask[StatesConfig]):
    """El Niño, neutral or La Niña, one target a lead."""

    name = "states"
    what = "El Niño, neutral or La Niña by season"
    convention = CONVENTION
    Config = StatesConfig
    head = "logistic"

    def __init__(self, config: StatesConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.states = StateLabels.from_store(store, config.leads, config.window, config.threshold)
        self.leads = self.states.leads
        self.gappy: list[str] = []  # variables that the baselines do without

    @cached_property
    def labels(self) -> Sequence[WindowLabels]:
        made, states, steps = [], self.states, np.arange(len(self.store.times))
        for lead in self.leads:
            ends = np.minimum(steps + lead, steps[-1])
            classes = one_hot(np.maximum(states.classes[ends], 0), len(STATES))
            rows, years = {part: states.rows(part, lead) for part in PARTS}, states.years(ends - lead, lead)
            climatology = states.baselines(lead)["climatology"]
            made.append(WindowLabels(f"lead {lead}", classes, rows, years, climatology, STATES))
        return made

    def check(self, shape: EncoderConfig) -> None:
        check_window(self.states, shape)

    def beside(self, features: np.ndarray) -> np.ndarray:
        return np.concatenate([features, self.states.season_features()], axis=1)

    def baselines(self, window: int) -> Iterable[Row]:
        own = {lead: self.states.baselines(lead) for lead in self.leads}
        for name in own[self.leads[0]]:
            forecast = {f"lead {lead}": found[name] for lead, found in own.items()}
            yield Row(name, Role.BASELINE, forecast, reference=name != "majority")
        index = {"Niño 3.4 × 3 months and season": self.states.index_features()}
        yield self.by_head(LogisticHead(), INDEX, Role.BASELINE, index)
        pcs = self._components(self.config.pca_window or window)
        for name, features in pcs.items():
            yield self.fitted(name, Role.BASELINE, features)
        yield self.by_head(NearestHead(), "PCA [kNN]", Role.BASELINE, pcs["PCA [logistic]"])

    def known_features(self, window: int) -> Mapping[str, Features]:
        return {"Niño index": {"Niño 3.4 × 3 months and season": self.states.index_features()}}

    def _components(self, window: int) -> dict[str, Features]:
        """Return lagged principal components by row: of SST, and of all variables where there are more."""
        config, enso = self.config, self.states.enso
        made = {"PCA [logistic]": pca_features(enso, config.pca_components, "train", window)}
        others = [name for name in self.store.variables if name not in ("ssta", "sst")]
        extra = {name: self.store.dataset([name])[name].values for name in others}
        inits = np.zeros(len(enso.time), dtype=bool)
        inits[np.concatenate([rows for one in self.labels for rows in one.rows.values()])] = True
        lacks = lacking(enso, inits, extra)
        self.gappy = [name for name in others if lacks[name].any()]
        extra = {name: values for name, values in extra.items() if name not in self.gappy}
        if extra:
            made[ALL_VARIABLES] = pca_features(enso, config.pca_components, "train", window, extra)
        return dict(made)

    def missing(self) -> list[str]:
        said = f"The row of all variables does without {', '.join(self.gappy)}: some months have no value."
        return [*super().missing(), *([said] if self.gappy else [])]

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        pooled, raw = merged(self.pooled(encoder, layers)), self.frozen(encoder, layers)
        tokens = {
            f"layer {layer + 1}, tokens of the last step":
                PatchFeatures(raw.rows, raw.tokens[k].astype(np.float32)).at_all(len(self.store.times))
            for k, layer in enumerate(layers)
        }  # fmt: skip
        with_season = {name: self.beside(values) for name, values in pooled.items()}
        steps = tuple(self.config.steps)
        heads: dict[str, tuple[Head, Features]] = {
            "logistic": (LogisticHead(), with_season),
            "kNN": (NearestHead(), pooled),
            "prototype": (PrototypeHead(), pooled),
            "MLP": (MlpHead(seed=encoder.seed, steps=steps), with_season),
            "attentive": (AttentiveHead(seed=encoder.seed, steps=steps), tokens),
        }
        for name in self.config.heads:
            head, features = heads[name]
            yield self.by_head(head, f"{encoder.kind} [{name}]", Role(encoder.kind), features, encoder.seed)

    def convention_text(self) -> str:
        return self.convention.format(threshold=self.config.threshold)

    def samples(self) -> Mapping[str, Any]:
        return {
            one.name: {part: one.values[rows].sum(axis=0).astype(int).tolist() for part, rows in one.rows.items()}
            for one in self.labels
        }

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        shots, doubts = self._shots(rows), self._uncertainty(rows)
        unsure = [one.name for one in self.labels if one.name not in set(doubts["target"])]
        notes = [
            *(["At lead 0 the inputs hold the whole season: the row on the index is the trivial solution."]
              if 0 in self.leads else []),
            *([f"No uncertainty at {', '.join(unsure)}: fewer than {FEWEST_YEARS} validation years to calibrate on."]
              if unsure else []),
        ]  # fmt: skip
        return Extras(
            figures={**{f"confusion_{one.name.replace(' ', '_')}": self._confusions(one, rows) for one in self.labels},
                     "skill_by_examples_a_class": shots_figure(shots)},
            tables={"few_shot": shots, **({"head_uncertainty": doubts} if len(doubts) else {})},
            notes=notes,
        )  # fmt: skip

    def _shots(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return the scores of the logistic rows with a few examples a class; the features stay those chosen."""
        parts = []
        for label in self.labels:
            for row in (row for row in rows if row.name.endswith("[logistic]") and label.name in row.chosen):
                chosen = row.features[row.chosen[label.name]["features"]]
                train, val, test = (label.samples(chosen, part) for part in ("train", "val", "test"))
                found = shot_curve(train, val, test, label.climatology, self.config.shots,
                                   separation=self.config.shot_separation, draws=self.config.label_draws)  # fmt: skip
                seed = "" if row.seed is None else row.seed
                parts.append(found.assign(row=row.name, seed=seed, target=label.name))
        return pd.concat(parts, ignore_index=True)

    def _uncertainty(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return how well linear heads know their error, for the number behind the classes."""
        parts = []
        steps = np.arange(len(self.store.times))
        for lead, label in zip(self.leads, self.labels, strict=True):
            season = self.states.season[np.minimum(steps + lead, steps[-1])]
            blocks = {part: np.isin(steps, own) for part, own in label.rows.items()}
            if len(np.unique(label.units[blocks["val"]])) < FEWEST_YEARS:
                continue
            for source in ("PCA", "untrained", "pretrained"):
                one = next((row for row in rows if row.name == f"{source} [logistic]"), None)
                if one is not None:
                    chosen = one.features[one.chosen[label.name]["features"]]
                    table = uncertainty(chosen, season, blocks, label.units, draws=self.config.draws,
                                        block=self.config.block)  # fmt: skip
                    seed = "" if one.seed is None else one.seed
                    parts.append(table.assign(features=source, seed=seed, target=label.name))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["target"])

    def _confusions(self, label: WindowLabels, rows: Sequence[Row]) -> Any:
        truth = label.values[label.rows["test"]].argmax(axis=1)
        shown = [row for row in rows if row.role in (Role.PRETRAINED, Role.UNTRAINED)
                 or row.name in (INDEX, "PCA [logistic]", "damped persistence")]  # fmt: skip
        counts: dict[str, np.ndarray] = {}
        for row in shown:
            called = row.forecast[label.name].argmax(axis=-1)
            counts[row.name] = counts.get(row.name, 0) + confusion_matrix(truth, called, labels=range(len(STATES)))
        return confusion_figure(counts, STATES, f"{label.name} months; share of each observed class (all seeds)")
