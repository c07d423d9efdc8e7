"""bias_correction: a model's forecasts at stations, corrected by the observations of earlier years.

Forecasts at places without fields: no encoder has anything to read here, and the table says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.task import Decoders, Extras, Task
from ...heads.ridge_path import RidgePath
from ...results.ensemble_target import dressed, ensemble_target, parts_of
from ...results.row import Role, Row
from ...results.target import Target
from ...training.from_scratch import ScratchConfig, learn
from .pairs import BLOCKS, DROP, REFUSE, read_pairs

RAW, MEAN_BIAS, OF_PLACE = "raw", "mean bias", "mean bias of the place"
LINE, MOS, MOS_OF_PLACE = "linear, forecasts alone", "linear MOS, all places", "linear MOS by place"
TREES, MLP = "boosted trees", "MLP from scratch"
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-5, 3.5))
LEAVES, ROUNDS = (7, 15, 31), 300
ALONE = np.ones(1)
CONVENTION = (
    "Target: the observation at a place, of which the model's forecast is known, and {count} predictors with it. Every "
    "row learns observation - forecast from {train}; penalties, leaves, rounds and steps are chosen on {val}; nothing "
    "is refitted with it; test: {test}. skill, crps_skill and r are over the forecast less its mean bias. "
    "Distribution: quantiles of the residuals of validation, all places together, around what a row says; raw is a "
    "single value. Intervals: paired bootstrap over blocks of {block} test weeks, all places of a week together."
)


@dataclass(frozen=True)
class BiasCorrectionConfig(TaskConfig):
    """Settings of the task, beside those of every task; store, checkpoints and what belongs to encoders have no part.

    Attributes:
        table: CSV with a line for each place and date; may be packed with gzip.
        time, place: Columns of the ISO date and of the place's name.
        targets: Column of the forecast by that of the observation.
        predictors: Columns that are known with the forecast; none: all others with numbers, so name them where the
            table has more observations of the day than the targets.
        missing: "refuse" lines without a value, or "drop" them.
        train, val, test: First and last year of each block.
        hidden: Units of the MLP's hidden layer.
        scratch: The MLP.
    """

    store: str = ""
    task: str = "bias_correction"
    table: str = ""
    time: str = "time"
    place: str = "place"
    targets: dict[str, str] = field(default_factory=dict)
    predictors: list[str] = field(default_factory=list)
    missing: str = REFUSE
    train: list[int] = field(default_factory=lambda: [2013, 2015])
    val: list[int] = field(default_factory=lambda: [2016, 2016])
    test: list[int] = field(default_factory=lambda: [2017, 2017])
    hidden: int = 64
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(3, 600, 128, 3e-3, 0.01, 25))
    fractions: list[float] = field(default_factory=list)
    block: int = 1
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(bool(self.targets), "{OBSERVATION: FORECAST}, two columns at least", "targets")
        self.check({"missing": (REFUSE, DROP), "hidden": "≥ 1"})
        blocks = [getattr(self, name) for name in BLOCKS]
        self.expect(
            all(len(one) == 2 and one[0] <= one[1] for one in blocks)
            and all(before[1] < after[0] for before, after in pairwise(blocks)),
            "a first and a last year of each block, one block after the other", *BLOCKS,
        )  # fmt: skip
        self.expect(not self.fractions, "no fractions: this task has no curve over labels", "fractions")


class BiasCorrection(Task[BiasCorrectionConfig]):
    """One target an observed variable."""

    name, what, convention = "bias_correction", "Corrected forecasts", CONVENTION
    Config = BiasCorrectionConfig
    unit = "week"

    def __init__(self, config: BiasCorrectionConfig, store: Store | None, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        config.expect(not config.store and not config.checkpoints,
                      "no store and no checkpoints, as there are no fields (for those: task downscaling)", "store",
                      "checkpoints")  # fmt: skip
        config.expect(bool(config.table), "a CSV file", "table")
        years = {name: getattr(config, name) for name in BLOCKS}
        self.pairs = pairs = read_pairs(
            config.table, config.time, config.place, config.targets, config.predictors, config.missing, years
        )
        self.rows_of = {name: pairs.inside(name) for name in BLOCKS}
        self.error = pairs.observed - pairs.forecast
        train = self.rows_of["train"]
        self.bias = self.error[train].mean(axis=0)
        own = pairs.predictors[train]
        spread = own.std(axis=0)
        self.inputs = (pairs.predictors - own.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)

    def encoders(self) -> list[Contender]:
        return []

    def targets(self) -> Sequence[Target]:
        units = self.pairs.time[self.rows_of["test"]].astype("datetime64[W]").astype(int)
        usual = self.mean_bias()
        return [
            ensemble_target(name, usual.forecast[name], units, self.config.block, centred=True)
            for name in self.config.targets
        ]

    def row(
        self, name: str, role: Role, told: np.ndarray, seed: int | None = None, chosen: Mapping[str, Any] | None = None
    ) -> Row:
        """Return the row of what is to be added to the forecasts of all pairs, (pair, target)."""
        forecast, val, test = {}, self.rows_of["val"], self.rows_of["test"]
        for k, target in enumerate(self.config.targets):
            truth = (self.error[test, k] - self.bias[k])[:, None]  # as departures from the forecast less its mean bias
            own = (told[:, k] - self.bias[k])[:, None]
            if name == RAW:
                forecast[target] = parts_of(own[test][:, None].__getitem__, 1, truth, ALONE)
            else:
                residuals = (self.error[val, k] - told[val, k])[:, None]
                forecast[target] = dressed(own[test], residuals, truth, ALONE)
        return Row(name, role, forecast, seed, chosen or {})

    def mean_bias(self) -> Row:
        """Return the row of the forecast less its mean bias."""
        return self.row(MEAN_BIAS, Role.BASELINE, np.broadcast_to(self.bias, self.error.shape))

    def baselines(self, window: int) -> Iterable[Row]:
        pairs, train = self.pairs, self.rows_of["train"]
        yield self.row(RAW, Role.BASELINE, np.zeros_like(self.error))
        yield self.mean_bias()
        means = np.stack([self.error[train[pairs.place[train] == p]].mean(axis=0) for p in range(len(pairs.places))])
        yield self.row(OF_PLACE, Role.BASELINE, means[pairs.place])
        yield self.linear(LINE, self.inputs[:, : len(set(self.config.targets.values()))], by_place=False)
        yield self.linear(MOS, self.inputs, by_place=False)
        yield self.linear(MOS_OF_PLACE, self.inputs, by_place=True)
        yield self.trees()

    def linear(self, name: str, inputs: np.ndarray, by_place: bool) -> Row:
        """Return ridge regression, one for all places or one for each; the penalty of least error on validation."""
        pairs, train, val = self.pairs, self.rows_of["train"], self.rows_of["val"]
        group = pairs.place if by_place else np.zeros(len(pairs.place), int)
        told = np.empty((len(PENALTIES), *self.error.shape))
        for g in np.unique(group):
            own, every = train[group[train] == g], np.flatnonzero(group == g)
            told[:, every] = RidgePath.fit(inputs[own], self.error[own]).predict(inputs[every], PENALTIES)
        errors = ((told[:, val] - self.error[val]) ** 2).mean(axis=1)
        best = errors.argmin(axis=0)
        chosen = {target: {"penalty": PENALTIES[k], "validation_error": float(errors[k, t])}
                  for t, (target, k) in enumerate(zip(self.config.targets, best, strict=True))}  # fmt: skip
        return self.row(
            name, Role.BASELINE, np.stack([told[k, :, t] for t, k in enumerate(best)], axis=1), None, chosen
        )

    def trees(self) -> Row:
        """Return boosted trees on all predictors and the place; leaves and rounds of least error on validation."""
        train, val = self.rows_of["train"], self.rows_of["val"]
        inputs = np.concatenate([self.pairs.predictors, self.pairs.place[:, None]], axis=1)
        told, chosen = np.empty_like(self.error), {}
        for k, target in enumerate(self.config.targets):
            found = []
            for leaves in LEAVES:
                model = HistGradientBoostingRegressor(max_iter=ROUNDS, max_leaf_nodes=leaves, learning_rate=0.05,
                                                      early_stopping=False, random_state=0)  # fmt: skip
                model.fit(inputs[train], self.error[train, k])
                errors = [((one - self.error[val, k]) ** 2).mean() for one in model.staged_predict(inputs[val])]
                found.append((float(min(errors)), int(np.argmin(errors)) + 1, leaves, model))
            error, rounds, leaves, model = min(found, key=lambda one: one[0])
            told[:, k] = next(one for n, one in enumerate(model.staged_predict(inputs), 1) if n == rounds)
            chosen[target] = {"rounds": rounds, "leaves": leaves, "validation_error": error}
        return self.row(TREES, Role.BASELINE, told, None, chosen)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config, train, val = self.config, self.rows_of["train"], self.rows_of["val"]
        spread = self.error[train].std(axis=0)
        inputs = torch.from_numpy(
            np.concatenate([self.inputs, np.eye(len(self.pairs.places))[self.pairs.place]], 1)
        ).float()
        wanted = torch.from_numpy((self.error - self.bias) / spread).float()

        def make() -> nn.Sequential:
            last = nn.Linear(config.hidden, wanted.shape[1])
            nn.init.zeros_(last.weight)
            return nn.Sequential(nn.Linear(inputs.shape[1], config.hidden), nn.GELU(), last)

        def loss(network: nn.Sequential, rows: np.ndarray) -> torch.Tensor:
            at = torch.from_numpy(rows)
            return ((network(inputs[at]) - wanted[at]) ** 2).mean()

        @torch.no_grad()
        def score(network: nn.Sequential) -> float:
            return float(loss(network, val))

        for seed in range(config.scratch.seeds if seeds is None else seeds):
            found = learn(make, loss, score, train, None, config.scratch, seed)
            with torch.no_grad():
                told = found.network(inputs).numpy().astype(float) * spread + self.bias
            yield self.row(MLP, Role.SCRATCH, told, seed, {"steps": found.steps, "validation_error": found.score})

    def missing(self) -> list[str]:
        return ["A table without fields: an encoder has nothing to read, so there is no frozen row."]

    def samples(self) -> Mapping[str, Any]:
        return {name: len(rows) for name, rows in self.rows_of.items()}

    def data_record(self) -> Mapping[str, Any]:
        split = {name: list(getattr(self.config, name)) for name in BLOCKS}
        return {
            "source": self.source(),
            "synthetic": False,
            "split": split,
            "split_proof": {},
            "store_fingerprint": None,
        }

    def source(self) -> str:
        return self.config.table.rsplit("/", 1)[-1]

    def title(self) -> str:
        return f"{self.what}, {self.source()}, {len(self.pairs.places)} places, test {self._years('test')}"

    def _years(self, block: str) -> str:
        first, last = getattr(self.config, block)
        return str(first) if first == last else f"{first}–{last}"

    def convention_text(self) -> str:
        blocks = {name: self._years(name) for name in BLOCKS}
        return self.convention.format(count=len(self.pairs.names), block=self.config.block, **blocks)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        table, notes = [], []
        for block, own in self.rows_of.items():
            for k, name in enumerate(self.config.targets):
                off = -self.error[own, k]
                table.append({"target": name, "block": block, "pairs": len(own), "bias": off.mean(),
                              "rmse": np.sqrt((off**2).mean())})  # fmt: skip
        if self.pairs.dropped:
            notes.append(f"{self.pairs.dropped} lines without a value are left out.")
        if not self.config.predictors:
            notes.append(f"Predictors, all other columns with numbers: {', '.join(self.pairs.names)}. An observation "
                         "of the day among them would tell the target: name predictors then.")  # fmt: skip
        every = ", ".join(f"{name} {np.sqrt((self.error[:, k] ** 2).mean()):.2f}"
                          for k, name in enumerate(self.config.targets))  # fmt: skip
        notes.append(f"RMSE of the raw forecast, all years: {every}.")
        return Extras(tables={"raw_by_block": pd.DataFrame(table)}, notes=notes,
                      record={"predictors": list(self.pairs.names)})  # fmt: skip
