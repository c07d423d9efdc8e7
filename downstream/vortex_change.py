"""vortices: how will the vortices of real fields change within a day? A check of the mechanics, without labels.

Where no best track meets the fields, the fields themselves are the truth: centres of cyclonic vorticity are followed
from map to map, and the change of their central pressure and of their vorticity is forecast from crops around them,
with the same crops, encoders and heads as rapid intensification.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ..ssl.encoder import EncoderConfig
from ..ssl.errors import EarthSSLError
from ..ssl.files import refuse_filled
from ..ssl.splits import PARTS, Splits
from ..ssl.store import Store
from .contenders import UNTRAINED, Contender, contenders
from .crop_network import CropPatches, train_on_crops
from .crops import CropConfig, StormCrops, crop_features, crop_pca
from .finetune import FinetuneConfig
from .heads import Choice, RidgeHead, Samples, choose
from .paired import compare
from .squares import headings
from .summary import Summary
from .vortex_figures import crops_figure, skill_figure
from .vortices import followed, lowest_around, vorticity_maxima

NAME = "vortices"
LABEL = "mechanics check: real fields, no storm labels"
HOURS = 24
NEEDED = ("msl", "vo850")
PRESSURE, SPIN = "Δ24 h central pressure, hPa", "Δ24 h vorticity, 1e-5 s-1"
CLIMATOLOGY, STILL, GOES_ON, SCALARS = (
    "mean change of training",
    "no change",
    "change of the last 12 h goes on",
    "scalars",
)
SCRATCH = "same network from scratch + scalars"
FEWEST = 20  # samples that a block needs
CONVENTION = (
    f"{LABEL}. Centres: largest cyclonic 850 hPa vorticity within a few degrees, its sign by hemisphere; a vortex is "
    "followed to the nearest centre of the next map. Central pressure: the lowest within a few degrees of the centre. "
    "Vortices that die within 24 h have no target. No vortex is in two blocks. Heads: ridge, fitted on train; features "
    "and penalty chosen on validation; read once on test. Scalars: latitude, pressure and vorticity with their "
    "changes of 12 h (0 and a flag where unknown). Skill: 1 - MSE over that of the training mean. Rows of several "
    "seeds score the mean of their seeds' scores. Intervals: paired bootstrap over test vortices, given these fits."
)


@dataclass(frozen=True)
class VorticesConfig:
    """Which vortices, and what forecasts them.

    Attributes:
        store: Folder of a 6-hourly store with msl and vo850.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; empty: untrained only.
        task: vortices.
        latitudes: Least and largest distance from the equator, degrees, in both hemispheres.
        threshold: Least vorticity of a sample, s-1.
        faint: Least vorticity that a vortex is followed at, s-1.
        separation_deg: A centre is the largest value within so many degrees.
        reach_deg: Furthest way of a vortex between two maps, degrees of arc.
        core_deg: The central pressure is the lowest within so many degrees of arc.
        radius_deg: Half the side of a crop, degrees; crops that show north up and crops turned into the motion.
        pca_components: Numbers of principal components of the crop, to choose from.
        untrained_seeds: Number of randomly initialised twins.
        encoder: Shape of the untrained encoders where there are no checkpoints.
        finetune: How networks are trained from scratch.
        scratch_seeds: Their number; they see crops with north up.
        draws: Bootstrap draws.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = NAME
    latitudes: tuple[float, float] = (5.0, 25.0)
    threshold: float = 1.5e-4
    faint: float = 5e-5
    separation_deg: float = 7.5
    reach_deg: float = 5.0
    core_deg: float = 4.0
    radius_deg: float = 20.0
    pca_components: list[int] = field(default_factory=lambda: [5, 10, 20])
    untrained_seeds: int = 1
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    finetune: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(lr=1e-3))
    scratch_seeds: int = 1
    draws: int = 1000

    def __post_init__(self) -> None:
        if self.task != NAME:
            raise EarthSSLError(f"probe.task: expected {NAME}, got '{self.task}'")
        if not 0 <= self.latitudes[0] < self.latitudes[1] <= 80:
            raise EarthSSLError(
                f"{NAME}.latitudes: expected distances from the equator from 0 to 80 degrees (a pole row "
                f"is one place), the smaller first, got {self.latitudes}"
            )
        if not 0 < self.faint <= self.threshold:
            raise EarthSSLError(f"{NAME}: expected 0 < faint ≤ threshold, got {self.faint} and {self.threshold}")
        if min(self.separation_deg, self.reach_deg, self.core_deg) <= 0 or self.draws < 100:
            raise EarthSSLError(
                f"{NAME}: expected separation_deg, reach_deg and core_deg > 0 and draws ≥ 100, got "
                f"{self.separation_deg}, {self.reach_deg}, {self.core_deg} and {self.draws}"
            )
        if min(self.pca_components, default=0) < 1 or min(self.untrained_seeds, self.scratch_seeds) < 0:
            raise EarthSSLError(
                f"{NAME}: expected pca_components ≥ 1, untrained_seeds and scratch_seeds ≥ 0, got "
                f"{self.pca_components}, {self.untrained_seeds} and {self.scratch_seeds}"
            )


@dataclass(frozen=True)
class Row:
    """Test forecasts of one row with one seed, in the target's unit; None where nothing is random."""

    name: str
    seed: int | None
    values: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


def vortex_samples(store: Store, config: VorticesConfig) -> pd.DataFrame:
    """Return the vortices of a store that can be followed for 24 h, one row a centre and time.

    Returns:
        Columns `storm`, `time`, `lat`, `lon`, `vorticity` (cyclonic, 1e-5 s-1), `pressure` (hPa), their changes 12 h
        before (`vorticity12`, `pressure12`, NaN where not known) and 24 h ahead (targets PRESSURE and SPIN), and
        `heading` (way it last moved, degrees clockwise from north; 0 before).

    Raises:
        EarthSSLError: If the store lacks a variable, is not 6-hourly, or holds no such vortex.
    """
    absent = [name for name in NEEDED if name not in store.variables]
    if absent:
        raise EarthSSLError(
            f"{NAME}: expected a store with {' and '.join(NEEDED)}, got {', '.join(store.variables)}; prepare one "
            f"with {', '.join(absent)}"
        )
    step = np.median(np.diff(store.times)) if len(store.times) > 1 else np.timedelta64(0, "s")
    if step != np.timedelta64(6, "h"):
        raise EarthSSLError(f"{NAME}: expected a 6-hourly store, got steps of {step}; prepare one")
    data = store.dataset(NEEDED)
    found = vorticity_maxima(data, "vo850", config.latitudes, config.faint, config.separation_deg)
    if not (found["vorticity"] >= config.threshold).any():
        raise EarthSSLError(
            f"{NAME}: expected centres of vorticity ≥ {config.threshold:g} s-1 between {config.latitudes[0]:g}° and "
            f"{config.latitudes[1]:g}°, got none of {len(found)} ≥ {config.faint:g}; lower threshold"
        )
    at = np.searchsorted(store.times, found["time"].to_numpy("datetime64[s]"))
    maps = data["msl"].transpose("time", "lat", "lon").values
    # one map at a time: a row a centre would be gigabytes
    lowest = np.concatenate([
        lowest_around(np.broadcast_to(maps[k], (int((at == k).sum()), *maps.shape[1:])), store.grid,
                      found["lat"].to_numpy()[at == k], found["lon"].to_numpy()[at == k], config.core_deg)
        for k in np.unique(at)
    ])  # fmt: skip
    table = followed(found.assign(pressure=lowest / 100, vorticity=found["vorticity"] * 1e5), config.reach_deg, step)
    # on a coarse grid a vortex stays in its cell for many steps: the way it last moved still holds
    table["heading"] = pd.Series(headings(table)).groupby(table["storm"]).ffill().fillna(0.0)
    known = table.set_index(["storm", "time"])[["pressure", "vorticity"]]

    def at_hours(hours: int) -> pd.DataFrame:
        moved = pd.MultiIndex.from_arrays([table["storm"], table["time"] + pd.Timedelta(hours=hours)])
        return known.reindex(moved).reset_index(drop=True)

    before, after = at_hours(-HOURS // 2), at_hours(HOURS)
    for name, target in (("pressure", PRESSURE), ("vorticity", SPIN)):
        table[f"{name}12"] = table[name] - before[name]
        table[target] = after[name] - table[name]
    kept = (table["vorticity"] >= config.threshold * 1e5) & table[[PRESSURE, SPIN]].notna().all(axis=1)
    if not kept.any():
        raise EarthSSLError(
            f"{NAME}: expected vortices followed for {HOURS} h, got none of {len(table)} centres; raise reach_deg"
        )
    return table[kept].reset_index(drop=True)


def parts_of(samples: pd.DataFrame, splits: Splits) -> np.ndarray:
    """Return the block of each sample, "train", "val", "test" or "".

    The 12 h before and the 24 h after it lie in the block; a vortex that has samples in two blocks keeps those of the
    first only: none is in two.
    """
    times = samples["time"].to_numpy()
    part = np.full(len(samples), "", dtype="<U5")
    for name in PARTS:
        inside = splits.inside(times - np.timedelta64(HOURS // 2, "h"), name)
        part[inside & splits.inside(times + np.timedelta64(HOURS, "h"), name)] = name
    in_block = part != ""
    first = samples[in_block].assign(part=part[in_block]).sort_values("time").groupby("storm")["part"].first()
    own = samples["storm"].map(first).to_numpy()
    return np.where(in_block & (part == own), part, "")


def scalars_of(samples: pd.DataFrame) -> np.ndarray:
    """Return what is known of each vortex without a crop, (samples, 8)."""
    known = ["pressure12", "vorticity12"]
    columns = [samples["lat"].abs(), samples["lat"] < 0, samples["pressure"], samples["vorticity"]]
    columns += [samples[name].fillna(0.0) for name in known] + [samples[name].isna() for name in known]
    return np.stack([np.asarray(one, float) for one in columns], 1)


@dataclass(frozen=True, eq=False)
class Problem:
    """One target on given samples, the block of each in `part`."""

    samples: pd.DataFrame
    part: np.ndarray
    target: str

    @property
    def truth(self) -> np.ndarray:
        """The target of every sample."""
        return self.samples[self.target].to_numpy(float)

    def constant(self, name: str, values: np.ndarray) -> Row:
        """Return a row from its forecasts of all samples."""
        return Row(name, None, values[self.part == "test"])

    def ridge(self, name: str, features: Mapping[str, np.ndarray], seed: int | None = None) -> Row:
        """Return ridge regression on the features that validation chooses, with the penalty it chooses."""
        steps = np.arange(len(self.part))

        def taken(values: np.ndarray, part: str) -> Samples:
            rows = self.part == part
            return Samples(values[rows], self.truth[rows, None], steps[rows])

        train, val = ({key: taken(one, part) for key, one in features.items()} for part in ("train", "val"))
        head = RidgeHead()
        choice: Choice = choose(head, train, val)
        test = taken(features[choice.candidate], "test")
        found = head.predict(train[choice.candidate], test, [choice.setting])[0, :, 0]
        return Row(
            name, seed, found, {"features": choice.candidate, "penalty": choice.setting, "val_mse": choice.error}
        )


def _baselines(problem: Problem) -> list[Row]:
    last = "pressure12" if problem.target == PRESSURE else "vorticity12"
    mean = problem.truth[problem.part == "train"].mean()
    count = len(problem.part)
    return [
        problem.constant(CLIMATOLOGY, np.full(count, mean)),
        problem.constant(STILL, np.zeros(count)),
        problem.constant(GOES_ON, 2 * problem.samples[last].fillna(0.0).to_numpy(float)),
        problem.ridge(SCALARS, {"": scalars_of(problem.samples)}),
    ]


def _field_features(
    store: Store, found: Sequence[Contender], samples: pd.DataFrame, train: np.ndarray, config: VorticesConfig
) -> list[tuple[str, int | None, dict[str, np.ndarray]]]:
    """Return the features of the crops by row: principal components and every encoder, both ways of cropping."""
    made: list[tuple[str, int | None, dict[str, np.ndarray]]] = []
    shape = found[0].encoder.config
    for words, crops in _ways(config).items():
        held = StormCrops(store, samples, shape.window, crops, shape.patch[1:])
        scores = crop_pca(held, train, max(config.pca_components))
        pcs = {f"{k} components": scores[:, :k] for k in config.pca_components}
        made.append((f"PCA of the crop{words}", None, pcs))
        for one in found:
            layers = list(range(one.encoder.depth))
            own = {
                f"layer {layer + 1}, {pooling}": values
                for pooling in ("mean", "last")
                for layer, values in crop_features(one.encoder, store, samples, layers, crops, pooling).values.items()
            }
            made.append((f"{one.kind} encoder{words}", one.seed, own))
    return made


def _ways(config: VorticesConfig) -> dict[str, CropConfig]:
    return {"": CropConfig(config.radius_deg), ", rotated": CropConfig(config.radius_deg, rotated=True)}


def _network(problem: Problem, store: Store, found: Sequence[Contender], config: VorticesConfig) -> list[Row]:
    """Return networks trained on the changes themselves, from the untrained twins' weights."""
    twins = [one for one in found if one.kind == UNTRAINED][: config.scratch_seeds]
    if not twins:
        return []
    shape = twins[0].encoder.config
    crops = CropPatches(
        StormCrops(store, problem.samples, shape.window, CropConfig(config.radius_deg), shape.patch[1:]), shape.patch
    )
    blocks = {name: problem.part == name for name in ("train", "val")}
    how, rows = replace(config.finetune, mode="full", layer_decay=1.0), []
    for one in twins:
        made = train_on_crops(
            crops, one.encoder, scalars_of(problem.samples), problem.truth, blocks, how, one.seed, classes=False,
            label=f"{SCRATCH}, seed {one.seed}",
        )  # fmt: skip
        chosen = {"steps": made.trained.steps, "val_loss": made.trained.score}
        rows.append(Row(SCRATCH, one.seed, made.values[problem.part == "test"], chosen))
    return rows


def score_rows(
    rows: Sequence[Row], truth: np.ndarray, storms: np.ndarray, target: str, draws: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores (RMSE, skill, r) and their paired differences, columns as in `Summary`.

    Args:
        rows: Among them the mean change of training; several seeds of one share a name.
        truth: What came, (n,).
        storms: Vortex of each sample, (n,): the units of the bootstrap.
        target: Its name.
        draws: Of the bootstrap.
    """
    names = list(dict.fromkeys(one.name for one in rows))
    member = np.array([[float(one.name == name) for one in rows] for name in names])
    member /= member.sum(axis=1, keepdims=True)
    values = np.stack([one.values for one in rows])
    error, clim = (values - truth) ** 2, [one.name for one in rows].index(CLIMATOLOGY)

    def rmse(w: np.ndarray) -> np.ndarray:
        return member @ np.sqrt(error @ w / w.sum())

    def skill(w: np.ndarray) -> np.ndarray:
        return member @ (1 - (error @ w) / (error[clim] @ w))

    def r(w: np.ndarray) -> np.ndarray:
        f, o = values - (values @ w / w.sum())[:, None], truth - truth @ w / w.sum()
        power = np.stack([(f * f) @ w, np.broadcast_to((o * o) @ w, len(f))])
        least = 1e-12 * np.stack([(values * values) @ w, np.broadcast_to((truth * truth) @ w, len(f))])
        flat = (power <= least).any(axis=0)  # a constant has no correlation
        own = (f * o) @ w / np.sqrt(np.where(flat, 1.0, power.prod(axis=0)))
        return np.where((member > 0) @ flat, np.nan, member @ own)

    references = [n for n in names if n in (CLIMATOLOGY, SCALARS, SCRATCH) or n.startswith((UNTRAINED, "PCA"))]
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {"RMSE": rmse, "skill": skill, "r": r}
    scores, differences = [], []
    for metric, statistic in kinds.items():
        own, paired = compare(statistic, storms, names, references, draws=draws, larger_is_better=metric != "RMSE")
        scores.append(own.assign(seed="", target=target, metric=metric))
        differences.append(paired.dropna(subset=["value"]).assign(target=target, metric=metric))
    return pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True)


def run(config: VorticesConfig, command: str = "") -> Path:
    """Run the check and return the folder of its tables.

    Raises:
        EarthSSLError: If store and checkpoints do not fit, a block has too few vortices, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    with threadpool_limits(1, "blas"):
        return summarise(config).write(config.out, command)


def summarise(config: VorticesConfig) -> Summary:
    """Return the tables, pictures and record of the check."""
    begun = time.perf_counter()
    store = Store(config.store)
    every = vortex_samples(store, config)
    found = contenders(store, config.checkpoints, max(config.untrained_seeds, config.scratch_seeds), config.encoder)
    samples, part, notes = _inside(store, config, every, found[0].encoder.config.window)
    fields = _field_features(store, found, samples, part == "train", config)
    beside = scalars_of(samples)
    scores, differences, choices = [], [], []
    for target in (PRESSURE, SPIN):
        problem = Problem(samples, part, target)
        rows = _baselines(problem)
        for name, seed, own in fields:
            joined = {key: np.hstack([values, beside]) for key, values in own.items()}
            rows += [problem.ridge(name, own, seed), problem.ridge(f"{name} + scalars", joined, seed)]
        rows += _network(problem, store, found, config)
        tested = part == "test"
        storms = samples["storm"].to_numpy()[tested]
        said, paired = score_rows(rows, problem.truth[tested], storms, target, config.draws)
        scores.append(said)
        differences.append(paired)
        choices += [{"target": target, "row": one.name, "seed": one.seed, **one.chosen} for one in rows if one.chosen]
    table = pd.concat(scores, ignore_index=True)
    return Summary(
        task=NAME,
        title=f"Change of vortices within 24 h, {store.manifest['source']} ({LABEL})",
        convention=CONVENTION,
        scores=table,
        differences=pd.concat(differences, ignore_index=True),
        record={
            "label": LABEL,
            "source": store.manifest["source"],
            "synthetic": "planet" in store.manifest["attributes"],
            "split": store.splits.to_json(),
            "store_fingerprint": store.fingerprint,
            "samples": {name: _counted(samples[part == name]) for name in PARTS},
            "encoders": [{"kind": one.kind, **one.source} for one in found],
            "choices": choices,
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures={
            "crops": crops_figure(store, samples[part == "test"], _ways(config), LABEL),
            "skill": skill_figure(table, LABEL),
        },
        tables={"vortices": samples.assign(block=part, label=LABEL)},
        notes=[f"{LABEL}: says that crops, encoders and heads work on real maps, not what they are worth.", *notes],
    )


def _inside(
    store: Store, config: VorticesConfig, every: pd.DataFrame, window: int
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Return the samples of the blocks that have a crop, their block, and what was left out, in words.

    Raises:
        EarthSSLError: If a block has too few samples.
    """
    part, notes = parts_of(every, store.splits), []
    held = StormCrops(store, every, window, CropConfig(config.radius_deg, rotated=True))
    shown = np.isin(np.arange(len(every)), held.kept)
    if (~shown).any():
        said = ", ".join(f"{count} {reason}" for reason, count in held.dropped.items() if count)
        notes.append(f"{int((~shown).sum())} vortices have no crop: {said}.")
    left = int((shown & (part == "")).sum())
    if left:
        notes.append(f"{left} samples lie in no block with their 36 h, or their vortex in an earlier one: left out.")
    part = np.where(shown, part, "")
    for name in PARTS:
        own = every[part == name]
        if len(own) < FEWEST or own["storm"].nunique() < 4:
            raise EarthSSLError(
                f"{NAME}: expected {FEWEST} samples of 4 vortices or more in the {name} block, got {len(own)} of "
                f"{own['storm'].nunique()}; lengthen the block, lower threshold, or widen latitudes or reach_deg"
            )
    kept = part != ""
    samples = every[kept].reset_index(drop=True)
    still = int((samples["heading"] == 0).sum())
    notes.append(f"{still} of {len(samples)} vortices last moved due north, or never yet: rotated crops show north up.")
    return samples, part[kept], notes


def _counted(samples: pd.DataFrame) -> dict[str, Any]:
    return {"samples": len(samples), "vortices": int(samples["storm"].nunique()),
            "southern": int((samples["lat"] < 0).sum())}  # fmt: skip
