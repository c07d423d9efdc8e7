"""probe: the frozen encoder beside everything it must beat, on ENSO."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors.torch import save as serialise
from threadpoolctl import threadpool_limits

from ....ssl.checkpoint.read import read
from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.common.files import disk_full_is_clear, refuse_filled, sha256, write_json, write_text
from ....ssl.common.randomness import key
from ....ssl.common.versions import versions
from ....ssl.model.encoder import Encoder
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.encoders import check_fits, checkpoint_folder, layers_to_read, twin_seeds
from ...features.frozen_features import POOLINGS, cache_name, cached, candidates
from ...metrics.seasonal import Row, aligned, score
from ...metrics.seasonal_bootstrap import paired_bootstrap
from ...training.from_scratch import ScratchConfig
from .baselines import baseline_rows, pca
from .labels import EnsoTask, sst_variable
from .monthly_ridge import HeadOptions, select_and_refit
from .network import scratch_rows

TASKS = ("enso",)

KNOWN = "best reachable (true state known)"

CONVENTION = (
    "Target: 3-month mean Niño 3.4 anomaly (5S–5N, 190–240E, area mean), centred `lead` months after the last "
    "input month. Anomalies from the calendar-month means of train start … validation end. Skill: mean over the "
    "12 target months of Pearson's r over the test years. Heads are ridge regressions on frozen features, "
    "settings chosen on the validation block, refitted on train + validation, read once on test. Intervals: "
    "paired bootstrap over blocks of test years, given these seeds; a row of several seeds scores the mean of its "
    "seeds' skills. An untrained twin has the weights that the pretraining of its seed began with."
)


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe and how.

    Attributes:
        store: Folder of the training store.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds.
        task: enso.
        leads: Months from the last input month to the central target month.
        poolings: Of the features, see downstream/features/frozen_features.py.
        components: Numbers of principal components to try where a pooling needs one.
        layers: Blocks to read, counted from 0, negative from the end; null for the last third, at least two.
        untrained_seeds: Number of randomly initialised twins.
        scratch: The same network trained on the labels.
        head: What the ridge head may choose between; the same for every row.
        pca_window: Input months of the PCA rows.
        draws: Bootstrap draws.
        block_years: Years in a bootstrap block.
        cache: Folder of cached features; null puts it beside the results.
    """

    store: str
    out: str
    checkpoints: list[str]
    task: str = "enso"
    leads: list[int] = field(default_factory=lambda: list(range(1, 19)))
    poolings: list[str] = field(default_factory=lambda: list(POOLINGS))
    components: list[int] = field(default_factory=lambda: [10, 20])
    layers: list[int] | None = None
    untrained_seeds: int = 3
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    head: HeadOptions = field(default_factory=HeadOptions)
    pca_window: int = 3
    draws: int = 2000
    block_years: int = 2
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise EarthSSLError(
                f"probe.task: expected {', '.join(TASKS)}, got '{self.task}'." + nearest(self.task, TASKS)
            )
        if not self.checkpoints:
            raise EarthSSLError("probe.checkpoints: expected at least one checkpoint folder, got none")
        if self.draws < 1000:
            raise EarthSSLError(f"probe.draws: expected at least 1000 bootstrap draws, got {self.draws}")


def probe(config: ProbeConfig, command: str = "") -> Path:
    """Run the probe and return the folder of its tables.

    Raises:
        EarthSSLError: If store, checkpoints and task do not fit together, or `out` is not empty.
    """
    # The heads are many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return _probe(config, command)


def _probe(config: ProbeConfig, command: str) -> Path:
    begun = time.perf_counter()
    out = Path(config.out)
    refuse_filled(out, "the probe's results")
    store = Store(config.store)
    folders = [checkpoint_folder(Path(path)) for path in config.checkpoints]
    loaded = [read(folder) for folder in folders]
    for folder, (_, record) in zip(folders, loaded, strict=True):
        check_fits(folder, record, store, loaded[0][1])
    shape = loaded[0][1].encoder
    task = EnsoTask.from_dataset(
        store.dataset([sst_variable(store.variables, store.path)]),
        store.splits,
        config.leads,
        max(shape.window, config.pca_window),
    )
    layers = layers_to_read(config.layers, loaded[0][0].depth)
    rows = _baselines(config, store, task)
    encoders = [(f"pretrained seed {r.seed}", "pretrained", r.seed, e, sha256(f / "encoder.safetensors"))
                for f, (e, r) in zip(folders, loaded, strict=True)]  # fmt: skip
    for seed in twin_seeds([record.seed for _, record in loaded], config.untrained_seeds):
        # The very weights that the pretraining of this seed began with.
        torch.manual_seed(key(seed, "init") & (2**63 - 1))
        twin = shape.build(store.variables)
        weights = hashlib.sha256(serialise(twin.state_dict())).hexdigest()
        encoders.append((f"untrained seed {seed}", "untrained", seed, twin, weights))
    for label, kind, seed, encoder, identity in encoders:
        rows += _encoder_rows(config, store, task, encoder, layers, label, kind, seed, identity)
    rows += scratch_rows(config.scratch, shape, store, task) if config.scratch.seeds else []
    rows += _known_best(store, task)
    checkpoints = [
        {"path": str(f), "fingerprint": r.fingerprint, "seed": r.seed, "steps": r.steps,
         "weights_sha256": sha256(f / "encoder.safetensors")}
        for f, (_, r) in zip(folders, loaded, strict=True)
    ]  # fmt: skip
    making = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with disk_full_is_clear(out):
            making.mkdir(parents=True)
            _write(making, config, store, task, rows, checkpoints, begun, command)
            if out.exists():
                out.rmdir()
            os.replace(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return out


def _baselines(config: ProbeConfig, store: Store, task: EnsoTask) -> list[Row]:
    rows = baseline_rows(task, options=config.head, window=config.pca_window)
    others = [name for name in store.variables if name not in ("ssta", "sst")]
    if others:
        data = store.dataset(others)
        extra = {name: data[name].values for name in others}
        row = pca(task, window=config.pca_window, options=config.head, extra=extra)
        rows.append(Row("PCA, all variables", row.seed, row.forecast, row.settings))
    return rows


def _encoder_rows(
    config: ProbeConfig, store: Store, task: EnsoTask, encoder: Encoder, layers: list[int],
    label: str, kind: str, seed: int, identity: str,
) -> list[Row]:  # fmt: skip
    """Return a row for each pooling (layer chosen on validation), and one that chooses among all."""
    cache = Path(config.cache) if config.cache else Path(config.out).with_name(Path(config.out).name + "-features")
    raw = cached(cache / cache_name(identity, store, layers), encoder, store, layers, f"features, {label}")
    training = store.splits.inside(store.times.astype("datetime64[ns]"), "train")
    sets = candidates(raw, len(store.times), training, layers, config.poolings, config.components)
    rows = [
        select_and_refit(task, found, name=f"{kind} [{pooling}]", seed=seed, options=config.head)
        for pooling, found in sets.items()
    ]
    if len(rows) > 1:
        # All poolings compete on validation: the one whose chosen head did best there is taken.
        best = max(rows, key=lambda row: float(row.settings["validation_score"]))
        rows.append(Row(f"{kind} [chosen]", seed, best.forecast, {**best.settings, "pooling": best.name}))
    return rows


def _known_best(store: Store, task: EnsoTask) -> list[Row]:
    """Return the best reachable forecast, where the data are the synthetic planet's."""
    attributes = store.manifest["attributes"]
    if "planet" not in attributes:
        return []
    planet = recorded_planet(attributes)
    wanted = task.inits("test")
    forecast = np.full(task.target.shape, np.nan)
    forecast[:, wanted] = planet.nino34_forecast(task.time[wanted].astype("datetime64[ns]"), list(task.leads))
    # The planet's forecast is relative to its true climatology; anomalies here to the fit period's. The
    # offset is a constant of the calendar month, known from the fit period alone.
    fitted = task.inits("fit")
    own = np.full(task.target.shape, np.nan)
    own[:, fitted] = planet.nino34_forecast(task.time[fitted].astype("datetime64[ns]"), list(task.leads))
    for month in range(12):
        rows = fitted & (task.month == month)
        offset = np.nanmean(own[:, rows] - task.target[:, rows], axis=1, keepdims=True)
        forecast[:, task.month == month] -= offset
    return [task.row(KNOWN, forecast, {"members": 200, "what": "ensemble mean from the hidden true state"})]


def _write(
    out: Path, config: ProbeConfig, store: Store, task: EnsoTask, rows: list[Row],
    checkpoints: list[dict[str, Any]], begun: float, command: str,
) -> None:  # fmt: skip
    observed = task.observed()
    names = list(dict.fromkeys(row.name for row in rows))
    references = [n for n in names if n not in ("climatology", KNOWN) and not n.startswith("pretrained")]
    boot = paired_bootstrap(rows, observed, references, draws=config.draws, block=config.block_years)
    scores = _scores(rows, names, observed, boot)
    write_text(out / "scores.csv", scores.to_csv(index=False))
    write_text(out / "seasons.csv", _seasons(rows, names, observed).to_csv(index=False))
    write_text(out / "differences.csv", _differences(boot, names, references).to_csv(index=False))
    forecasts = xr.concat(
        [aligned(row, observed) for row in rows], pd.Index([f"{r.name}|{r.seed}" for r in rows], name="row")
    )
    xr.Dataset({"forecast": forecasts, "observed": observed}).to_netcdf(out / "forecasts.nc")
    write_json(
        out / "probe.json",
        {
            "task": config.task,
            "convention": CONVENTION,
            "rows": [
                {"name": r.name, "seed": r.seed, "kind": _kind(r.name), "settings": _plain(r.settings)} for r in rows
            ],
            "split": store.splits.to_json(),
            "split_proof": store.manifest["split_proof"],
            "store_fingerprint": store.fingerprint,
            "source": store.manifest["source"],
            "synthetic": "planet" in store.manifest["attributes"],
            "test_years": str(boot.attrs["years"]),
            "window": task.window,
            "draws": config.draws,
            "block_years": config.block_years,
            "level": boot.attrs["level"],
            "checkpoints": checkpoints,
            "seconds": time.perf_counter() - begun,
            "versions": versions(),
            "config": _plain(asdict(config)),
            "command": command,
        },
    )


def _kind(name: str) -> str:
    if name == KNOWN:
        return "known"
    return "encoder" if name.startswith(("pretrained", "untrained", "same network")) else "baseline"


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _scores(rows: list[Row], names: list[str], observed: xr.DataArray, boot: xr.Dataset) -> pd.DataFrame:
    """Return skill, RMSE and ratio of standard deviations, long; seeds apart, then their mean with its interval."""
    lines: list[tuple[Any, ...]] = []
    for name in names:
        seeds = [(row.seed, score(row, observed)) for row in rows if row.name == name]
        for metric in ("skill", "rmse", "std_ratio"):
            values = np.stack([scored[metric].values for _, scored in seeds])
            if len(seeds) > 1:
                for (seed, _), own in zip(seeds, values, strict=True):
                    lines += [(name, seed, lead, metric, v, None, None) for lead, v in _by_lead(observed, own)]
            mean = values.mean(0)
            interval = boot["score_interval"].sel(row=name) if metric == "skill" else None
            for k, (lead, v) in enumerate(_by_lead(observed, mean)):
                low = float(interval.sel(bound="low")[k]) if interval is not None else None
                high = float(interval.sel(bound="high")[k]) if interval is not None else None
                lines.append((name, None, lead, metric, v, low, high))
    frame = pd.DataFrame(lines, columns=["row", "seed", "lead", "metric", "value", "low", "high"])
    return frame.astype({"seed": "Int64"})


def _by_lead(observed: xr.DataArray, values: np.ndarray) -> list[tuple[int, float]]:
    return [(int(lead), float(v)) for lead, v in zip(observed["lead"].values, values, strict=True)]


def _seasons(rows: list[Row], names: list[str], observed: xr.DataArray) -> pd.DataFrame:
    lines = []
    for name in names:
        maps = np.stack([score(row, observed)["season_skill"].values for row in rows if row.name == name]).mean(0)
        for lead, months in zip(observed["lead"].values, maps, strict=True):
            lines += [(name, int(lead), month + 1, float(r)) for month, r in enumerate(months)]
    return pd.DataFrame(lines, columns=["row", "lead", "target_month", "r"])


def _differences(boot: xr.Dataset, names: list[str], references: list[str]) -> pd.DataFrame:
    lines: list[tuple[Any, ...]] = []
    for name in names:
        for reference in references:
            if name == reference:
                continue
            d = boot.sel(row=name, reference=reference)
            mean = d["mean_difference_interval"].values
            verdict = str(d["mean_verdict"].values) or "undecided"
            lines.append((name, reference, "mean", float(d["mean_difference"]), *map(float, mean), verdict))
            for k, lead in enumerate(boot["lead"].values):
                low, high = (float(d["difference_interval"].sel(bound=b)[k]) for b in ("low", "high"))
                verdict = str(d["verdict"].values[k]) or "undecided"
                lines.append((name, reference, int(lead), float(d["difference"][k]), low, high, verdict))
    return pd.DataFrame(lines, columns=["row", "reference", "lead", "value", "low", "high", "verdict"])
