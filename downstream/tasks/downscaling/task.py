"""downscaling: fields on a finer grid from coarse ones, with quantiles; on the same grid, the correction of a bias."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....ssl.common.errors import EarthSSLError
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import Patches, patchify
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import PRETRAINED, UNTRAINED, Contender, starts
from ...evaluation.equal_input import PCA, RANDOM, RANDOM_FEATURES, RAW
from ...evaluation.label_fractions import whole_units
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.eof import window_components
from ...features.random_features import random_relu
from ...features.raw_window import values_of_windows
from ...features.store_windows import StoreWindows, encoded
from ...results.figures import map_figure
from ...results.row import Role, Row, names_of
from ...results.target import Target
from ...training.from_scratch import ScratchConfig, learn
from .baselines import group_means, groupings
from .heads import PENALTIES, PLACE, STATIC, WHOLE, Predict, by_place, whole, with_static
from .labels import IDENTITY, LINKS, read_fine
from .network import FineNetwork
from .samples import FineSamples, Labelled
from .scores import QUANTILES, target

COARSE, MEAN_BIAS, MAPPING, CLIMATOLOGY = "raw (bilinear)", "mean bias", "quantile mapping", "climatology"
MOS, OROGRAPHY, TUNED = "linear MOS by place", "linear with static fields", "pretrained, fine-tuned"
BESIDE = "ridge, beside the coarse cells"
RANDOM_OF_PLACE = 128  # random features of the nine patches around a place
BATCH = 64
CONVENTION = (
    "Target: {variables} on {fine} cells, {factor} in each cell of the store, at the last of {window} input steps. "
    "Every row but the climatology corrects the bilinear field of the coarse one; what is learnt is the departure from "
    "the mean bias of the cell by month, season or year (as validation has it, for all rows on the same labels alike), "
    "linked ({links}). Ridge: of the whole field, of each patch by itself, or one for all patches on features times "
    "static values of the cell ({static}); form, features and penalty are chosen on validation, for each variable; "
    "nothing is refitted with it. Quantiles: the residuals of validation, cell by cell, are added to what a row says, "
    "and its mean is that of the 15 quantiles, linked back; raw stays as it is, a single value. skill, crps_skill: 1 - "
    "squared error (CRPS: twice the mean pinball loss) / that of the mean bias, by area. detail: of the departure from "
    "the area mean of the coarse cell, less its monthly mean in training; detail_r is its correlation with the truth's,"
    " detail_std its deviation over the truth's. Intervals: paired bootstrap over blocks of {block} test years. Curve "
    "over labels: whole training years at random, all of them known coarsely; the bias is that of the drawn ones."
)


@dataclass(frozen=True)
class DownscalingConfig(TaskConfig):
    """Settings of the task, beside those of every task.

    Attributes:
        labels: File, folder or glob with the fine fields, as the source `files` takes it.
        options: Of that source for the labels: rename, units, missing, levels, time, every, member.
        variables: To be told; the store holds them too, as what is to be corrected.
        links: By variable: identity, or log1p for what is never negative, such as rain.
        static: Fields (lat, lon) in the file of the labels, such as the orography.
        labelled: First and last date of the training labels; null for all of the block.
        tuned: Whether pretrained encoders are also trained on, from their weights.
        components: Numbers of principal components to choose from, of the raw window and of all tokens.
    """

    task: str = "downscaling"
    labels: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    variables: list[str] = field(default_factory=lambda: ["t2m"])
    links: dict[str, str] = field(default_factory=dict)
    static: list[str] = field(default_factory=list)
    labelled: list[str] | None = None
    tuned: bool = True
    components: list[int] = field(default_factory=lambda: [10, 40, 150])
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("nano", 1, (1, 1, 1)))
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(2, 300, 32, 1e-3, 0.05, 25))
    draws: int = 1000
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect(bool(self.labels), "a file with the fine fields", "labels")
        self.expect(len(self.variables) > 0 and len(set(self.variables)) == len(self.variables),
                    "variables, each once", "variables")  # fmt: skip
        self.expect(set(self.links) <= set(self.variables), f"links of {', '.join(self.variables)}", "links")
        self.expect(set(self.links.values()) <= set(LINKS), f"links out of {', '.join(LINKS)}", "links")
        self.expect(self.labelled is None or len(self.labelled) == 2, "a first and a last date, or null", "labelled")
        self.check({"components": "≥ 1"})


class Downscaling(Task[DownscalingConfig]):
    """One target a variable."""

    name, what, convention = "downscaling", "Finer fields", CONVENTION
    Config = DownscalingConfig

    def __init__(self, config: DownscalingConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        fine = read_fine(config.labels, config.options, config.variables, config.static, store)
        shape = self.shape
        self.own = FineSamples(store, fine, config.links, config.labelled, shape.window, shape.patch[1:])
        self._shown: dict[str, np.ndarray] = {}

    def check(self, shape: EncoderConfig) -> None:
        patch, grid = shape.patch[1:], self.store.grid.shape
        if any(size % side for size, side in zip(grid, patch, strict=True)):
            raise EarthSSLError(
                f"downscaling.encoder.patch: expected rows and columns that divide the store's {grid[0]} × {grid[1]} "
                f"cells, got {patch[0]} × {patch[1]}"
            )

    # ---- Truth and scores ----------------------------------------------------------------------------------------

    def targets(self) -> Sequence[Target]:
        usual, finer = self._mean_bias(None), self.own.nest.factor != (1, 1)
        return [target(name, usual.forecast[name], self.own.year[self.own.test], self.config.block, finer)
                for name in self.config.variables]  # fmt: skip

    def _row(
        self, name: str, role: Role, told: np.ndarray, seed: Any = None, chosen: Mapping[str, Any] | None = None,
        features: Features | None = None, plain: bool = False,
    ) -> Row:  # fmt: skip
        """Return the row of linked forecasts of validation and test, (sample, variable, row, column).

        Args:
            name, role, seed, chosen, features: Of the row.
            told: What it says.
            plain: Whether it stays a single value.
        """
        forecast, count = {}, len(self.own.val)
        for v, (variable, scorer) in enumerate(zip(self.config.variables, self.own.scorers, strict=True)):
            off = self.own.linked_truth[self.own.val, v] - told[:count, v]
            shifts = None if plain else np.quantile(off, QUANTILES, axis=0)
            forecast[variable] = scorer.parts(told[count:, v], shifts)
        day, last = self._day, len(self.own.links) - 1
        self._shown.setdefault(name, self.own.links[last].back(told[count + day, last]))
        return Row(name, role, forecast, seed, chosen or {}, None if name != CLIMATOLOGY else False,
                   features=features or {})  # fmt: skip

    @cached_property
    def _day(self) -> int:
        return int((self.own.scorers[-1].detail ** 2).sum(axis=(1, 2)).argmax())

    # ---- Heads ---------------------------------------------------------------------------------------------------

    def raw(self, window: int) -> np.ndarray:
        return values_of_windows(self.store, window, self.own.steps)

    def training_samples(self) -> np.ndarray:
        return self.own.train

    def label_units(self) -> np.ndarray:
        return whole_units(self.own.year[self.own.train])

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        forms = {MOS: [PLACE], OROGRAPHY: [STATIC]}.get(name, [PLACE, STATIC])
        labelled = self.own.labelled(units)
        best: list[tuple[float, str, str, float, Predict] | None] = [None] * len(self.own.links)
        for candidate, values in features.items():
            for form in forms if values.ndim == 3 else [WHOLE]:
                predict = self._predict(form, values, labelled)
                off = predict(self.own.val, PENALTIES) - labelled.residual[self.own.val]
                errors = np.einsum("knpvc,knpvc,pc->kv", off, off, self.own.weight, optimize=True) / len(self.own.val)
                for v, k in enumerate(errors.argmin(axis=0)):
                    past = best[v]
                    if past is None or errors[k, v] < past[0]:
                        best[v] = (float(errors[k, v]), candidate, form, PENALTIES[k], predict)
        told, chosen, kept = labelled.base[self.own.told_rows].copy(), {}, {}
        for v, found in enumerate(best):
            assert found is not None
            error, candidate, form, penalty, predict = found
            told[:, v] += self.own.fields(predict(self.own.told_rows, [penalty])[0][:, :, v])
            chosen[self.config.variables[v]] = {"features": candidate, "form": form, "penalty": penalty,
                                                "validation_error": error, "bias_by": labelled.grouping}  # fmt: skip
            kept[candidate] = features[candidate]
        return self._row(name, role, told, seed, chosen, kept)

    def _predict(self, form: str, values: np.ndarray, labelled: Labelled) -> Predict:
        season = self.own.season if values.ndim == 2 else np.repeat(self.own.season[:, None], values.shape[1], axis=1)
        x, y = np.concatenate([values, season], axis=-1), labelled.residual
        if form == STATIC:
            return with_static(x, y, labelled.train, labelled.group, self.own.static, self.own.weight)
        return (whole if form == WHOLE else by_place)(x, y, labelled.train, labelled.group)

    # ---- Rows ----------------------------------------------------------------------------------------------------

    def baselines(self, window: int) -> Iterable[Row]:
        truth, coarse = self.own.linked_truth, self.own.linked_coarse
        usual = group_means(truth, self.own.train, next(groupings(self.own.month, self.own.train))[1])
        yield self._row(CLIMATOLOGY, Role.BASELINE, usual[self.own.told_rows])
        yield self._row(COARSE, Role.BASELINE, coarse[self.own.told_rows], plain=True)
        yield self._mean_bias(None)
        yield self._mapping(None)
        near = self.own.near(window)
        for name in (MOS, OROGRAPHY):
            yield self.fitted(name, Role.BASELINE, {"nine patches": near})

    def _mean_bias(self, units: np.ndarray | None) -> Row:
        labelled = self.own.labelled(units)
        chosen = {"bias_by": labelled.grouping}
        return self._row(MEAN_BIAS, Role.BASELINE, labelled.base[self.own.told_rows], chosen=chosen)

    def _mapping(self, units: np.ndarray | None) -> Row:
        own = self.own
        told, chosen, train = np.empty((len(own.told_rows), *own.truth.shape[1:])), {}, own.labelled(units).train
        for v, name in enumerate(self.config.variables):
            error, by, told[:, v] = own.mapped(v, train)
            chosen[name] = {"by": by, "validation_error": error}
        return self._row(MAPPING, Role.BASELINE, told, chosen=chosen)

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        raw, near, head = self.raw(window), self.own.near(window), self.head
        yield self.fitted(f"{RAW} [{head}]", Role.BASELINE, {f"{raw.shape[1]} values": raw, "nine patches": near})
        for seed in range(random_seeds):
            made = {f"{RANDOM_FEATURES} ReLU": random_relu(raw, self.own.train, RANDOM_FEATURES, seed),
                    f"{RANDOM_OF_PLACE} ReLU of nine patches": random_relu(near, self.own.train, RANDOM_OF_PLACE,
                                                                           seed)}  # fmt: skip
            yield self.fitted(f"{RANDOM} [{head}]", Role.BASELINE, made, seed)
            yield self.fitted(f"{RANDOM} [{BESIDE}]", Role.BASELINE, self._beside(made, near), seed)
        made = window_components(raw, self.own.train, self.config.components)
        yield self.fitted(f"{PCA} [{head}]", Role.BASELINE, made)

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        windows, size = StoreWindows(self.store, encoder.encoder.config.window), encoder.encoder.config.patch
        batches = windows.patches(self.own.steps, size, BATCH, f"tokens, {encoder.kind} seed {encoder.seed}")
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        for patches, every in encoded(encoder.encoder, batches):
            for layer in layers:
                parts[layer].append(every[layer].unflatten(1, (patches.shape[0], -1))[:, -1].numpy())
        made = {}
        for layer, some in parts.items():
            tokens = np.concatenate(some)
            made[f"layer {layer + 1}"] = self.own.everywhere(tokens)
            flat = window_components(tokens.reshape(len(tokens), -1), self.own.train, self.config.components)
            made |= {f"layer {layer + 1}, {name}": values for name, values in flat.items()}
        return {self.head: made, BESIDE: self._beside(made, self.own.near(encoder.encoder.config.window))}

    @staticmethod
    def _beside(features: Features, near: np.ndarray) -> dict[str, np.ndarray]:
        """Return features of places joined by the coarse cells around them."""
        return {f"{name}, and nine patches": np.concatenate([values, near], axis=-1)
                for name, values in features.items() if values.ndim == 3}  # fmt: skip

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        own = {MEAN_BIAS: self._mean_bias, MAPPING: self._mapping}
        return own[row.name](units) if row.name in own else super().refitted(row, units)

    def curved(self, row: Row) -> bool:
        return super().curved(row) or row.name in self._followed

    @property
    def _followed(self) -> list[str]:
        return [MEAN_BIAS, MAPPING, MOS, OROGRAPHY, *(f"{kind} [{BESIDE}]" for kind in (PRETRAINED, UNTRAINED))]

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        tuned = TUNED if self.config.tuned else ""
        for name, role, seed, start in starts(encoders, self.config.scratch.seeds, tuned, seeds):
            yield self._network(name, role, seed, start, units)

    def _network(self, name: str, role: Role, seed: int, start: Encoder | None, units: np.ndarray | None) -> Row:
        labelled, shape, windows = self.own.labelled(units), self.shape, StoreWindows(self.store, self.shape.window)
        own, weight = labelled.residual, torch.from_numpy(self.own.weight).float()[:, None]
        spread = np.sqrt(np.einsum("npvc,npvc,pc->v", own[labelled.train], own[labelled.train], self.own.weight,
                                   optimize=True) / len(labelled.train))[:, None]  # fmt: skip
        wanted, (_, places, variables, cells) = torch.from_numpy(own / spread).float(), own.shape

        def patches(rows: np.ndarray) -> Patches:
            return patchify(windows.batch(self.own.steps[rows]), shape.patch)

        def make() -> FineNetwork:
            encoder = copy.deepcopy(start or shape.build(self.store.variables)).requires_grad_(True)
            return FineNetwork(encoder, self.own.patch.tiles, places, variables * cells)

        def loss(network: FineNetwork, rows: np.ndarray) -> torch.Tensor:
            told = network(patches(rows)).unflatten(2, (variables, cells))
            return ((told - wanted[torch.from_numpy(rows)]) ** 2 * weight).sum() / (len(rows) * variables)

        @torch.no_grad()
        def score(network: FineNetwork) -> float:
            network.eval()
            return float(loss(network, self.own.val))

        found = learn(make, loss, score, labelled.train, None, self.config.scratch, seed)
        with torch.no_grad():
            parts = [found.network(patches(rows)).numpy() for rows in np.array_split(self.own.told_rows, 4)]
        told = np.concatenate(parts).reshape(-1, places, variables, cells) * spread
        chosen = {"steps": found.steps, "validation_error": found.score, "bias_by": labelled.grouping}
        return self._row(
            name, role, labelled.base[self.own.told_rows] + self.own.fields(told.swapaxes(1, 2)), seed, chosen
        )

    # ---- Words and pictures --------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Any]:
        return {"train": len(self.own.train), "val": len(self.own.val), "test": len(self.own.test)}

    def convention_text(self) -> str:
        own, fine = self.config, self.own.nest.fine.shape
        links = ", ".join(f"{name}: {own.links.get(name, IDENTITY)}" for name in own.variables)
        return self.convention.format(
            variables=", ".join(f"{a} ({b})" for a, b in zip(own.variables, self.own.fine.units, strict=True)),
            fine=f"{fine[0]} × {fine[1]}", factor=" × ".join(map(str, self.own.nest.factor)), window=self.shape.window,
            links=links, static=", ".join(own.static) or "none: 1 alone", block=own.block,
        )  # fmt: skip

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        last, truth = len(self.own.links) - 1, self.own.scorers[-1].truth[self._day]
        names = [name for name in names_of(rows) if name in self._shown]
        panels = {"truth": truth, **{name: self._shown[name] for name in names}}
        panels = {name: np.where(self.own.fine.known, one, np.nan) for name, one in panels.items()}
        day = str(self.store.times[self.own.steps[self.own.test[self._day]]])[:10]
        variable, unit = self.config.variables[last], self.own.fine.units[last]
        if self.own.links[last].kind == IDENTITY:  # as departures from the coarse field
            coarse = panels[COARSE].copy()
            panels = {f"{name} - {COARSE}": one - coarse for name, one in panels.items() if name != COARSE}
        limit = float(np.nanquantile(np.abs(next(iter(panels.values()))), 0.995)) or 1.0
        figure = map_figure(panels, self.own.nest.fine, limit, f"{variable} ({unit})", f"{variable}, {day}", unit,
                            shares=self.own.links[last].kind != IDENTITY)  # fmt: skip
        said = f"Area means of the labels differ from the store's cells by (root mean square): {self.own.off()}."
        return Extras(figures={"maps": figure}, notes=[*self.own.fine.said, said],
                      record={"links": [asdict(one) for one in self.own.links]})  # fmt: skip
