"""states: El Niño, neutral or La Niña by season, from frozen features, beside what an encoder must beat."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.common.files import refuse_filled
from ....ssl.model.encoder import EncoderConfig
from ....ssl.store.store import Store
from ...evaluation.encoders import PRETRAINED, UNTRAINED, Contender, contenders, layers_to_read
from ...evaluation.label_fractions import FRACTIONS, SHOTS
from ...evaluation.summary import DIFFERENCES, SCORES, Summary
from ...features.frozen_features import POOLINGS, RawFeatures, cache_name, cached, candidates
from ...heads.base import Head
from ...heads.linear import LogisticHead
from ...heads.nearest import NearestHead
from ...heads.trained import STEPS, AttentiveHead, MlpHead
from ...heads.uncertainty import uncertainty
from ...metrics.classes import class_tables, confusion, statistics
from ...training.from_scratch import ScratchConfig
from ..enso.state_labels import STATES, StateLabels, check_window
from .figures import confusion_figure, curve_figure
from .label_curve import fraction_curve, shot_curve
from .network import scratch_rows
from .rows import INDEX, Classified, baseline_rows, classify, components, with_season

HEADS = ("logistic", "kNN", "attentive", "MLP")
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
    "scores. Curves over labels: heads only, fitted on the drawn training years (or examples) alone, settings chosen "
    "on the whole validation block, no refit."
)


@dataclass(frozen=True)
class StatesConfig:
    """What to classify and how.

    Attributes:
        store: Folder of a monthly training store with sst or ssta.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; empty: untrained only.
        task: states.
        leads: Months from the last input month to the last month of the season; 0 is diagnosis.
        threshold: Of the Niño 3.4 anomaly, K.
        window: Most input months of any row; all rows are scored on the same samples.
        heads: logistic, kNN, attentive (on the tokens of the last step), MLP.
        steps: Optimiser steps that attentive and MLP may choose between.
        poolings, components, layers: Of the features, as for the ENSO probe.
        pca_components: Numbers of principal components of the input to choose from.
        untrained_seeds: Number of randomly initialised twins.
        encoder: Shape of the untrained encoders where there are no checkpoints.
        scratch: The same network trained on the labels.
        fractions: Shares of the training years for the label curve.
        shots: Examples a class for the few-shot curve.
        shot_separation: Least months between two examples of a class.
        label_draws: Draws of years and of examples.
        draws: Bootstrap draws.
        block_years: Years in a bootstrap block.
        cache: Folder of cached features; null puts it beside the results.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = "states"
    leads: list[int] = field(default_factory=lambda: [0, 3, 6])
    threshold: float = 0.5
    window: int = 12
    heads: list[str] = field(default_factory=lambda: ["logistic", "kNN", "attentive"])
    steps: list[int] = field(default_factory=lambda: list(STEPS))
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs", "mean+pcs"])
    components: list[int] = field(default_factory=lambda: [10, 20])
    layers: list[int] | None = None
    pca_components: list[int] = field(default_factory=lambda: [5, 10, 20])
    untrained_seeds: int = 3
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    shots: list[int] = field(default_factory=lambda: list(SHOTS))
    shot_separation: int = 12
    label_draws: int = 5
    draws: int = 2000
    block_years: int = 2
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.task != "states":
            raise EarthSSLError(f"probe.task: expected states, got '{self.task}'")
        for part, given, known in (("heads", self.heads, HEADS), ("poolings", self.poolings, POOLINGS)):
            for one in (one for one in given if one not in known):
                raise EarthSSLError(f"states.{part}: expected {', '.join(known)}, got '{one}'." + nearest(one, known))
        if "logistic" not in self.heads or not self.poolings:
            raise EarthSSLError("states: expected the head logistic, which the curves take, and some pooling; add them")
        if self.draws < 1000 or min(self.label_draws, self.block_years) < 1 or self.untrained_seeds < 0:
            raise EarthSSLError(
                "states: expected draws ≥ 1000, label_draws ≥ 1, block_years ≥ 1 and untrained_seeds ≥ 0, got "
                f"{self.draws}, {self.label_draws}, {self.block_years} and {self.untrained_seeds}"
            )
        for part in ("components", "pca_components", "steps", "shots"):
            if min(getattr(self, part), default=0) < 1:
                raise EarthSSLError(f"states.{part}: expected numbers from 1, at least one, got {getattr(self, part)}")
        if not self.fractions or not all(0 < share <= 1 for share in self.fractions):
            raise EarthSSLError(f"states.fractions: expected shares in (0, 1], at least one, got {self.fractions}")
        if self.layers == []:
            raise EarthSSLError("states.layers: expected at least one, or null for the last third, got []")


def run(config: StatesConfig, command: str = "") -> Path:
    """Run the task and return the folder of its tables.

    Raises:
        EarthSSLError: If store, checkpoints and task do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return summarise(config).write(config.out, command)


def summarise(config: StatesConfig) -> Summary:
    """Return the result of the task."""
    begun = time.perf_counter()
    store = Store(config.store)
    labels = StateLabels.from_store(store, config.leads, config.window, config.threshold)
    encoders = contenders(store, config.checkpoints, config.untrained_seeds, config.encoder)
    check_window(labels, encoders[0].encoder.config)
    pcs = components(store, labels, config.pca_components)
    found: dict[int, list[Classified]] = {lead: baseline_rows(labels, lead, pcs) for lead in labels.leads}
    for one in encoders:
        raw = _features(config, store, one)
        for lead in labels.leads:
            found[lead] += _encoder_rows(config, labels, store, one, raw, lead)
    for lead, rows in scratch_rows(config.scratch, encoders[0].encoder.config, store, labels).items():
        found[lead] += rows
    scores, differences = _tables(config, labels, found)
    curves = _curves(config, labels, found)
    doubts = _uncertainty(config, labels, found)
    unsure = [lead for lead in labels.leads if lead not in set(doubts["lead"])]
    synthetic = "planet" in store.manifest["attributes"]
    source = "the synthetic planet" if synthetic else store.manifest["source"]
    first, last = (str(month)[:4] for month in labels.enso.blocks["test"])
    return Summary(
        task="states",
        title=f"El Niño, neutral or La Niña by season, {source}, test {first}–{last}",
        convention=CONVENTION.format(threshold=config.threshold),
        scores=scores[list(SCORES)],
        differences=differences[list(DIFFERENCES)],
        record={
            "source": store.manifest["source"],
            "synthetic": synthetic,
            "split": store.splits.to_json(),
            "store_fingerprint": store.fingerprint,
            "samples": _counts(labels),
            "rows": [
                {"lead": lead, "row": c.row, "seed": c.seed, "features": c.choice.candidate,
                 "setting": c.choice.setting, "validation_brier": c.choice.error}
                for lead, rows in found.items() for c in rows if c.choice
            ],
            "encoders": [{"kind": one.kind, **one.source} for one in encoders],
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures={
            **{f"confusion_lead_{lead}": _confusions(labels, rows, lead) for lead, rows in found.items()},
            "skill_by_label_fraction": curve_figure(curves["label_fractions"], "share of the training years"),
            "skill_by_examples_a_class": curve_figure(curves["few_shot"], "examples a class"),
        },
        tables={**curves, "uncertainty": doubts} if len(doubts) else curves,
        notes=[
            *(["At lead 0 the inputs hold the whole season: the row on the index is the trivial solution."]
              if 0 in labels.leads else []),
            *([f"No uncertainty at leads {unsure}: fewer than {FEWEST_YEARS} validation years to calibrate on."]
              if unsure else []),
            *([] if config.scratch.seeds else ["No network is trained from scratch: scratch.seeds is 0."]),
        ],
    )  # fmt: skip


def _features(config: StatesConfig, store: Store, one: Contender) -> RawFeatures:
    cache = Path(config.cache) if config.cache else Path(config.out).with_name(Path(config.out).name + "-features")
    layers = layers_to_read(config.layers, one.encoder.depth)
    file = cache / cache_name(one.weights_sha256, store, layers)
    return cached(file, one.encoder, store, layers, f"features, {one.kind} seed {one.seed}")


def _encoder_rows(
    config: StatesConfig, labels: StateLabels, store: Store, one: Contender, raw: RawFeatures, lead: int
) -> list[Classified]:
    layers = layers_to_read(config.layers, one.encoder.depth)
    steps = len(store.times)
    sets = candidates(raw, steps, labels.enso.within("train"), layers, config.poolings, config.components)
    pooled = {name: values for named in sets.values() for name, values in named.items()}
    rows = []
    for name in config.heads:
        head: Head
        if name == "attentive":
            head = AttentiveHead(seed=one.seed, steps=tuple(config.steps))
            features = _tokens(raw, steps, layers)
        elif name == "kNN":
            head, features = NearestHead(), pooled
        else:
            head = LogisticHead() if name == "logistic" else MlpHead(seed=one.seed, steps=tuple(config.steps))
            features = with_season(labels, pooled)
        rows.append(classify(labels, head, features, lead, f"{one.kind} [{name}]", one.seed))
    return rows


def _tokens(raw: RawFeatures, steps: int, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the tokens of the last step on all times, (time, token, feature), by layer."""
    made = {}
    for k, layer in enumerate(layers):
        full = np.full((steps, *raw.tokens.shape[2:]), np.nan, dtype=np.float32)
        full[raw.rows] = raw.tokens[k]
        made[f"layer {layer + 1}, tokens of the last step"] = full
    return made


def _by_row(rows: Sequence[Classified]) -> dict[str, list[Classified]]:
    made: dict[str, list[Classified]] = {}
    for one in rows:
        made.setdefault(one.row, []).append(one)
    return made


def _tables(
    config: StatesConfig, labels: StateLabels, found: Mapping[int, list[Classified]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores, differences = [], []
    for lead, rows in found.items():
        test = labels.rows("test", lead)
        units, truth = labels.years(test, lead), labels.target(test, lead)
        named = _by_row(rows)
        references = [name for name in named if name != "majority" and not name.startswith(PRETRAINED)]
        block = config.block_years if len(np.unique(units)) >= max(4, 2 * config.block_years) else 1
        probabilities = {name: [one.probabilities for one in seeds] for name, seeds in named.items()}
        clim = probabilities["climatology"][0]
        own, paired = class_tables(probabilities, truth, clim, units, references, draws=config.draws, block=block)
        target = f"lead {lead}"
        scores.append(own.assign(seed="", target=target))
        differences.append(paired.assign(target=target))
        for one in (one for seeds in named.values() if len(seeds) > 1 for one in seeds):
            alone = {m: float(s(np.ones(len(truth)))[0])
                     for m, s in statistics(one.probabilities[None], truth, clim).items()}  # fmt: skip
            lines = pd.DataFrame({"metric": list(alone), "value": list(alone.values())})
            scores.append(lines.assign(row=one.row, seed=str(one.seed), target=target, low=np.nan, high=np.nan))
    return pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True)


def _curves(
    config: StatesConfig, labels: StateLabels, found: Mapping[int, list[Classified]]
) -> dict[str, pd.DataFrame]:
    """Return the scores of the logistic rows with fewer labels; the features stay those chosen with all of them."""
    made: dict[str, list[pd.DataFrame]] = {"label_fractions": [], "few_shot": []}
    for lead, rows in found.items():
        years = labels.years(labels.rows("train", lead), lead)
        clim = labels.baselines(lead)["climatology"]
        for row in (row for row in rows if row.row.endswith("[logistic]")):
            assert row.chosen is not None
            train, val, test = (labels.samples(row.chosen, block, lead) for block in ("train", "val", "test"))
            draws, separation = config.label_draws, config.shot_separation
            by_year = fraction_curve(train, val, test, clim, years, config.fractions, draws=draws)
            by_example = shot_curve(train, val, test, clim, config.shots, separation=separation, draws=draws)
            named = {"row": row.row, "seed": "" if row.seed is None else row.seed, "lead": lead}
            made["label_fractions"].append(by_year.assign(**named))
            made["few_shot"].append(by_example.assign(**named))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in made.items()}


def _uncertainty(config: StatesConfig, labels: StateLabels, found: Mapping[int, list[Classified]]) -> pd.DataFrame:
    """Return how well linear heads know their error, for the number behind the classes; no lead of too few years."""
    parts = []
    every = np.arange(len(labels.enso.time))
    for lead, rows in found.items():
        ends = np.minimum(every + lead, len(every) - 1)
        target, years = labels.season[ends], labels.years(ends - lead, lead)
        blocks = {name: np.isin(every, labels.rows(name, lead)) for name in ("train", "val", "test")}
        if len(np.unique(years[blocks["val"]])) < FEWEST_YEARS:
            continue
        for name in ("PCA [logistic]", f"{UNTRAINED} [logistic]", f"{PRETRAINED} [logistic]"):
            one = next((row for row in rows if row.row == name), None)
            if one is not None and one.chosen is not None:
                table = uncertainty(one.chosen, target, blocks, years, draws=config.draws, block=config.block_years)
                source = name.removesuffix(" [logistic]")
                parts.append(table.assign(features=source, seed="" if one.seed is None else one.seed, lead=lead))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["lead"])


def _confusions(labels: StateLabels, rows: Sequence[Classified], lead: int) -> Any:
    truth = labels.target(labels.rows("test", lead), lead)
    named = _by_row(rows)
    known = (INDEX, "PCA [logistic]", "damped persistence")
    shown = [n for n in named if n in known or n.startswith((PRETRAINED, UNTRAINED))]
    counts = {n: np.sum([confusion(one.probabilities, truth) for one in named[n]], axis=0) for n in shown}
    return confusion_figure(counts, STATES, f"lead {lead} months; share of each observed class (all seeds)")


def _counts(labels: StateLabels) -> dict[str, dict[str, list[int]]]:
    """Return how many samples of each class each block holds, by lead."""
    return {
        f"lead {lead}": {
            block: np.bincount(labels.target(labels.rows(block, lead), lead), minlength=len(STATES)).tolist()
            for block in ("train", "val", "test")
        }
        for lead in labels.leads
    }
