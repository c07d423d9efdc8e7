"""infilling: missing observations of a field rebuilt from those of the same time (Kadow et al. 2020).

Kadow, Hall & Ulbrich 2020, doi 10.1038/s41561-020-0582-5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import refuse_filled
from ....ssl.model.encoder import Encoder
from ....ssl.store.store import Store
from ...evaluation.encoders import contenders
from ...evaluation.summary import Summary
from ...metrics.paired_bootstrap import compare
from .anomalies import Anomalies
from .eof_fillers import baselines
from .figures import by_distance_figure, by_fraction_figure, maps_figure
from .fillers import Filler
from .gappy import Fill, Gappy, Probed
from .gaps import GapConfig
from .scores import ALL_METRICS, METRICS, Scored, score

ZERO_SHOT = "pretrained, zero-shot"

PROBED = "pretrained, frozen + ridge"

TWIN = "untrained, frozen + ridge"

REFERENCES = ("climatology", "ordinary kriging", "optimal interpolation", TWIN)

CONVENTION = (
    "Scored on hidden cells that the truth knows, area-weighted, on the test months. rmse: over all of them, in the "
    "variable's unit; r: pattern correlation in each month, centred, then the mean over the months (0 for a constant); "
    "global rmse: of the monthly global mean after filling, observed cells kept; std ratio: standard deviation in "
    "space of what was filled over that of the truth (r for a perfect conditional mean). Anomalies from the "
    "calendar-month means of train start … validation end; covariances and patterns from the same period. Encoders "
    "see the gaps in all variables alike. Zero-shot: the decoder of pretraining, nothing fitted. Frozen + ridge: a "
    "linear head from a token to its patch, the same at all places, layer and penalty chosen on validation. "
    "Intervals: paired bootstrap over blocks of test months."
)


@dataclass(frozen=True)
class InfillingConfig:
    """What to fill and how to look at it.

    Attributes:
        store: Folder of the training store.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; none for baselines only.
        task: infilling.
        variable: Canonical name; null for the store's first.
        gaps: Kinds of gaps by a name of yours; each is a column of the table.
        fractions: Shares of randomly observed cells for the table by fraction.
        distances_km: Edges of the bins of distance to the nearest observation.
        layers: Blocks that the frozen head may choose between, counted from 0; null for all.
        ranks: Numbers of patterns of the two PCA rows.
        draws: Bootstrap draws.
        block_months: Test months in a bootstrap block.
        seed: Of the gaps by fraction.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = "infilling"
    variable: str | None = None
    gaps: dict[str, GapConfig] = field(
        default_factory=lambda: {
            "random 10 %": GapConfig("random", 0.1),
            "swath 30 %": GapConfig("swath", 0.3),
            "cloud 50 %": GapConfig("cloud", 0.5),
            "50 stations": GapConfig("stations", stations=50),
            "four blocks": GapConfig("block"),
        }
    )
    fractions: list[float] = field(default_factory=lambda: [0.02, 0.05, 0.1, 0.2, 0.4])
    distances_km: list[float] = field(default_factory=lambda: [0.0, 600, 1000, 1500, 2200, 3000, 5000, 21000])
    layers: list[int] | None = None
    ranks: tuple[int, int] = (15, 40)
    draws: int = 2000
    block_months: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task != "infilling":
            raise EarthSSLError(f"probe.task: expected infilling, got '{self.task}'")
        if not self.gaps:
            raise EarthSSLError("infilling.gaps: expected at least one kind of gaps, got none; name one")
        if not all(0 < f < 1 for f in self.fractions):
            raise EarthSSLError(f"infilling.fractions: expected shares between 0 and 1, got {self.fractions}")
        if len(self.distances_km) < 2 or not (np.diff(self.distances_km) > 0).all():
            raise EarthSSLError(f"infilling.distances_km: expected edges that rise, got {self.distances_km}")
        if self.draws < 1000 or self.block_months < 1:
            raise EarthSSLError(
                f"infilling: expected draws ≥ 1000 and block_months ≥ 1, got {self.draws}, {self.block_months}"
            )


def run(config: InfillingConfig, fillers: Mapping[str, Fill | None] | None = None, command: str = "") -> Path:
    """Fill every kind of gaps with every method and return the folder of the tables.

    Args:
        config: What to fill.
        fillers: For each of `config.checkpoints`, as written there, what rebuilds windows with its pretrained
            decoder; None where it has none. They come from outside, as downstream/ knows no pretext task.
        command: As typed, for the record.

    Raises:
        EarthSSLError: If store, checkpoints and gaps do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    return summarise(config, fillers or {}).write(config.out, command)


Row = tuple[str, int | None]  # name and seed

Estimates = dict[Row, np.ndarray]


def summarise(config: InfillingConfig, fillers: Mapping[str, Fill | None]) -> Summary:
    """Return what `run` writes."""
    # Many small systems of equations: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return _summary(config, fillers)


def _summary(config: InfillingConfig, fillers: Mapping[str, Fill | None]) -> Summary:
    begun = time.perf_counter()
    store = Store(config.store)
    anomalies = Anomalies.of(store, config.variable)
    trained, twins = _encoders(config, store)
    length = max([1, *(encoder.config.window for encoder in trained.values())])
    ends = anomalies.ends("test", length)
    truth, area = anomalies.values[ends], anomalies.places.area
    methods = baselines(anomalies, config.ranks)
    shown: dict[str, tuple[Gappy, Estimates]] = {}
    choices: list[dict[str, Any]] = []
    for target, kind in config.gaps.items():
        gappy = Gappy(anomalies, kind)
        made = _simple(methods, gappy, ends, config, trained, fillers)
        for name, encoders in ((PROBED, trained), (TWIN, twins)):
            for (_, seed), encoder in encoders.items():
                layer, found = _best_layer(gappy.probed(encoder, _layers(config, encoder)))
                made[name, seed] = found.values
                choices.append({"target": target, "row": name, "seed": seed, "layer": layer,
                                "penalty": found.penalty, "validation_skill": found.validation})  # fmt: skip
        shown[target] = gappy, made
    scores, differences = _tables(config, shown, truth, ends, area)
    distance = pd.concat([_by_distance(config, t, g, made, truth, ends, area) for t, (g, made) in shown.items()])
    fraction = _by_fraction(config, anomalies, methods, trained, fillers, ends)
    first = next(iter(shown))
    unit = store.manifest["units"][anomalies.position]
    figures = {"maps": maps_figure(anomalies, *shown[first], ends, len(ends) // 2, first, unit)}
    drawn = by_distance_figure(distance, unit)
    if drawn is not None:
        figures["rmse_by_distance"] = drawn
    if len(fraction):
        figures["rmse_by_fraction_observed"] = by_fraction_figure(fraction, unit)
    synthetic = "planet" in store.manifest["attributes"]
    return Summary(
        task="infilling",
        title=f"Filling gaps in {anomalies.variable} ({unit}), {store.manifest['source']}",
        convention=CONVENTION,
        scores=scores,
        differences=differences,
        record={
            "split": store.splits.to_json(), "split_proof": store.manifest["split_proof"],
            "store_fingerprint": store.fingerprint, "source": store.manifest["source"], "synthetic": synthetic,
            "cells": len(area), "fit_steps": len(anomalies.fit), "test_steps": len(ends),
            "observed_share": {t: _observed_share(g, ends, area) for t, (g, _) in shown.items()},
            "choices": choices, "seconds": time.perf_counter() - begun, "config": asdict(config),
        },
        figures=figures,
        tables={"by_distance": distance, "by_fraction": fraction},
        notes=_notes(config, len(ends), [p for p in config.checkpoints if fillers.get(p) is None]),
    )  # fmt: skip


Encoders = dict[tuple[str, int], Encoder]  # by checkpoint, as written in the config, and seed


def _encoders(config: InfillingConfig, store: Store) -> tuple[Encoders, Encoders]:
    """Return the pretrained encoders and their untrained twins."""
    if not config.checkpoints:
        return {}, {}
    found = contenders(store, config.checkpoints, len(config.checkpoints))
    count = len(config.checkpoints)
    named = [(path, one.seed) for path, one in zip(config.checkpoints, found, strict=False)]
    if len({seed for _, seed in named}) < count:
        raise EarthSSLError(f"infilling.checkpoints: expected different seeds of a recipe, got {named}")
    trained = {one: c.encoder for one, c in zip(named, found[:count], strict=True)}
    return trained, {("", c.seed): c.encoder for c in found[count:]}


def _layers(config: InfillingConfig, encoder: Encoder) -> list[int]:
    layers = list(range(encoder.depth)) if config.layers is None else sorted(set(config.layers))
    if not layers or not all(0 <= layer < encoder.depth for layer in layers):
        raise EarthSSLError(f"infilling.layers: expected some out of 0…{encoder.depth - 1}, got {config.layers}")
    return layers


def _best_layer(probed: dict[int, Probed]) -> tuple[int, Probed]:
    return max(probed.items(), key=lambda item: item[1].validation)


def _simple(
    methods: Sequence[Filler],
    gappy: Gappy,
    ends: np.ndarray,
    config: InfillingConfig,
    trained: Encoders,
    fillers: Mapping[str, Fill | None],
) -> Estimates:
    """Return what everything that needs no fitting to these gaps makes of the test block."""
    values = gappy.observed(ends)
    made: Estimates = {(method.name, None): method.fill(values) for method in methods}
    for (path, seed), encoder in trained.items():
        fill = fillers.get(path)
        if fill is not None:
            made[ZERO_SHOT, seed] = gappy.filled(fill, ends, encoder.config.window)
    return made


def _tables(
    config: InfillingConfig,
    shown: Mapping[str, tuple[Gappy, Estimates]],
    truth: np.ndarray,
    ends: np.ndarray,
    area: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores (seeds apart, then their mean with its interval) and paired differences, for all targets."""
    scores: list[dict[Any, Any]] = []
    differences = []
    for target, (gappy, made) in shown.items():
        hidden = gappy.hidden(ends)
        found = {row: score(values, truth, hidden, area) for row, values in made.items()}
        names = list(dict.fromkeys(name for name, _ in found))
        for (name, seed), one in found.items():
            if sum(other == name for other, _ in found) > 1:
                line = {"row": name, "seed": str(seed), "target": target, "low": np.nan, "high": np.nan}
                scores += [{**line, "metric": m, "value": v} for m, v in one.metrics().items()]
        references = [name for name in REFERENCES if name in names]
        for metric in ALL_METRICS:
            own, paired = compare(
                _statistic(found, names, metric),
                np.arange(len(ends)),
                names,
                references if metric in METRICS else [],
                draws=config.draws,
                block=config.block_months,
                larger_is_better=METRICS.get(metric, True),
            )
            scores += own.assign(seed="", target=target, metric=metric).to_dict("records")
            differences.append(paired.assign(target=target, metric=metric))
    return pd.DataFrame(scores), pd.concat(differences, ignore_index=True)


def _statistic(found: Mapping[Row, Scored], names: Sequence[str], metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that gives each row's score, the mean over its seeds, for weights of the months."""
    stacked = Scored(*(np.stack([getattr(one, f.name) for one in found.values()]) for f in fields(Scored)))
    rows = [name for name, _ in found]
    mean = np.array([[(row == name) / rows.count(name) for row in rows] for name in names])
    return lambda weights: mean @ stacked.metric(metric, weights)


def _by_distance(
    config: InfillingConfig,
    target: str,
    gappy: Gappy,
    made: Estimates,
    truth: np.ndarray,
    ends: np.ndarray,
    area: np.ndarray,
) -> pd.DataFrame:
    """Return the RMSE of each row in bins of distance to the nearest observation, seeds pooled."""
    distance = gappy.anomalies.places.distance_km
    seen = np.isfinite(gappy.observed(ends))
    masks, which = np.unique(seen, axis=0, return_inverse=True)
    nearest_km = np.stack([distance[:, mask].min(1) for mask in masks])[which.ravel()]
    hidden = gappy.hidden(ends)
    weight = np.where(hidden, area, 0.0)
    lines = []
    for low, high in zip(config.distances_km[:-1], config.distances_km[1:], strict=True):
        w = np.where((nearest_km >= low) & (nearest_km < high), weight, 0.0)
        if not w.any():
            continue
        for name in dict.fromkeys(name for name, _ in made):
            own = [values for (n, _), values in made.items() if n == name]
            square = np.mean([(w * np.where(hidden, v - truth, 0.0) ** 2).sum() for v in own]) / w.sum()
            lines.append({"target": target, "row": name, "from_km": low, "to_km": high,
                          "share_of_hidden": w.sum() / weight.sum(), "rmse": float(np.sqrt(square))})  # fmt: skip
    return pd.DataFrame(lines, columns=["target", "row", "from_km", "to_km", "share_of_hidden", "rmse"])


def _by_fraction(
    config: InfillingConfig,
    anomalies: Anomalies,
    methods: Sequence[Filler],
    trained: Encoders,
    fillers: Mapping[str, Fill | None],
    ends: np.ndarray,
) -> pd.DataFrame:
    """Return RMSE and r for shares of randomly observed cells, mean over seeds; heads are not refitted for these."""
    lines = []
    for fraction in config.fractions:
        gappy = Gappy(anomalies, GapConfig("random", fraction, seed=config.seed))
        made = _simple(methods, gappy, ends, config, trained, fillers)
        hidden, truth = gappy.hidden(ends), anomalies.values[ends]
        for name in dict.fromkeys(name for name, _ in made):
            own = [score(v, truth, hidden, anomalies.places.area) for (n, _), v in made.items() if n == name]
            means = {m: float(np.mean([one.metrics()[m] for one in own])) for m in ("rmse", "r", "std ratio")}
            lines.append({"observed": fraction, "row": name, **means})
    return pd.DataFrame(lines)


def _observed_share(gappy: Gappy, ends: np.ndarray, area: np.ndarray) -> float:
    """Return the share of the cells that is observed, mean over the test block."""
    return float(np.isfinite(gappy.observed(ends)).mean())


def _notes(config: InfillingConfig, months: int, without: Sequence[str]) -> list[str]:
    blocks = months / config.block_months
    said = [
        "The labels are the fields themselves: a network trained on them from scratch is the pretraining itself.",
        "Kriging has published settings. Those of optimal interpolation that were not published (5000 km, noise .02) "
        "were found on the ERSST test months, which favours it a little there.",
    ]
    if blocks < 10:
        said.insert(
            0,
            f"{months} test months are about {blocks:.0f} independent blocks of {config.block_months}: intervals are "
            "rough and rather too narrow.",
        )
    if config.checkpoints and without:
        said.append(f"No zero-shot row for {', '.join(without)}: pretrained without a task that rebuilds fields.")
    return said
