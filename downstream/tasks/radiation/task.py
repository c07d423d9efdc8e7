"""radiation: fluxes and heating rates of an atmospheric column from its temperature and humidity, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import sha256
from ....ssl.common.progress import track
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import Patches, patchify
from ....ssl.sources.columns.columns import BLOCKS, recorded_columns
from ....ssl.sources.columns.rfmip import WITH_FLUXES, labels_of, read_columns
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender, starts
from ...evaluation.equal_input import RAW, equal_input_rows
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.eof import window_components
from ...features.store_windows import StoreWindows, encoded
from ...heads.base import standardised
from ...heads.ridge_path import RidgePath
from ...results.row import Role, Row
from ...results.target import Metric, Numbers, Target, additive
from ...training.from_scratch import ScratchConfig, learn
from .fluxes import Band, Scaling, bands_of, beside_the_profile, unclosed
from .network import ColumnNetwork
from .tables import by_experiment

RIDGE, MLP = "ridge", "MLP"
MEAN, TREES = "mean profile", "boosted trees on the raw column"
FREE = "MLP on the raw column, nothing conserved"
TUNED = "fine-tuned"
Fit = tuple[float, dict[str, np.ndarray], dict[str, Any]]  # validation loss, what is told by band, what was chosen
MOST_DEVIATIONS = 10.0
PENALTIES = tuple(10.0**k for k in range(-7, 2))
FOLDS, LEFT_OUT = 6, "loss at sites left out"  # of the sites, when a penalty is chosen
ROUNDS, COMPONENTS = (50, 150), 20  # of the trees: how many, and of how many components of the outputs
LAYERS = {"above 1 hPa": (0, 100), "1–100 hPa": (100, 1e4), "100–500 hPa": (1e4, 5e4), "below 500 hPa": (5e4, 2e5)}
UNSEEN = ", unseen experiments"
CONVENTION = (
    "Targets: upward and downward fluxes at every interface and heating rates of every layer, clear sky, test sites; "
    "in experiments of the training and in unseen ones; shortwave by day. Every row reads temperature and dew point of "
    "the layers and, beside them, surface, Sun, well-mixed gases and ozone. flux_skill: 1 - squared error / that of "
    "the training mean (shortwave: times insolation); heating_skill: the same of rates, each layer's error over its "
    "variance. Biases are of what leaves at the top and of what comes down at the surface. unclosed: root mean square "
    "of the energy that a column takes less its net flux at the top and surface, W m-2; every row but '{free}' closes "
    "by construction. Heads are fitted on training sites. Steps, rounds and an MLP's features are chosen on "
    "validation sites; penalty and features of ridge by leaving out a sixth of training and validation sites at a "
    "time; nothing is refitted with validation sites. Intervals: paired bootstrap over test sites."
)


@dataclass(frozen=True)
class RadiationConfig(TaskConfig):
    """Settings of the task, beside those of every task; store: of the source `columns`.

    Attributes:
        reference: File, or files, of columns with fluxes; empty for those that the store was made of.
        hidden: Width of the hidden layer of every MLP.
        mlp: How MLPs are trained; `seeds` those on the raw column.
        token_components: Numbers of principal components of an encoder's tokens that heads choose from.
        trees: Whether boosted trees stand beside the others.
        tuned: Whether encoders are fine-tuned, too, as `scratch` says.
    """

    task: str = "radiation"
    reference: list[str] = field(default_factory=list)
    hidden: int = 128
    mlp: ScratchConfig = field(default_factory=lambda: ScratchConfig(3, 500, 64, 3e-3, 0.05, 50))
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(3, 400, 64, 1e-3, 0.05, 50))
    token_components: list[int] = field(default_factory=lambda: [20, 80])
    trees: bool = True
    tuned: bool = True
    block: int = 1
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("nano", 1, (1, 2, 3)))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"hidden": "≥ 1"})
        self.expect(min(self.token_components, default=0) >= 1, "numbers from 1", "token_components")
        self.expect(self.mlp.seeds >= 1, "mlp.seeds ≥ 1", "mlp")


class Radiation(Task[RadiationConfig]):
    """Fluxes and heating rates of columns."""

    name, what, convention = "radiation", "Clear-sky radiation of columns", CONVENTION.format(free=FREE)
    Config = RadiationConfig
    unit = "site"
    head = MLP

    def __init__(self, config: RadiationConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.known_as = known = recorded_columns(store.manifest["attributes"])
        if len(store.times) != known.steps:
            raise EarthSSLError(f"radiation.store: expected all {known.steps} columns of the source, got "
                                f"{len(store.times)}; prepare it with all of its times")  # fmt: skip
        for block in BLOCKS:
            inside = store.splits.inside(store.times, block)
            day, count = known.times(block)
            own = known.block == block
            if inside.sum() != count or not inside[known.step[own]].all():
                raise EarthSSLError(f"radiation.store: expected a {block} block of the {count} columns of {day}, got "
                                    f"{inside.sum()} columns; set splits.{block} to ['{day}', '{day}']")  # fmt: skip
        files = config.reference or known.files
        self.data = read_columns(files, WITH_FLUXES)
        if [sha256(file) for file in files] != known.digests:  # type: ignore[arg-type]
            raise EarthSSLError(f"radiation.reference: expected the files that the store was made of, got others "
                                f"({', '.join(files)}); keep their order, or prepare the store anew")  # fmt: skip
        self.names = labels_of(self.data)
        self.bands = bands_of(self.data, known.site, known.experiment)
        for band in self.bands:
            for block in BLOCKS:
                if not (self.inside(block) & band.lit).any():
                    raise EarthSSLError(f"radiation.store: expected a {block} site by day, got none for the "
                                        f"{band.name}; deal the sites out anew (options.seed of prepare)")  # fmt: skip
        self.beside = beside_the_profile(self.data, known.site, known.experiment)
        late = known.held_out
        self.groups = {"": self.inside("test") & ~late} | ({UNSEEN: self.inside("test") & late} if late.any() else {})

    def inside(self, block: str, units: np.ndarray | None = None) -> np.ndarray:
        """Return which samples lie in a block, or are of some of its sites, bool (sample,)."""
        own = self.known_as.block == block
        return own if units is None else own & np.isin(self.known_as.site, units)

    def rehearsal(self) -> Radiation:
        """Return the task that is tested at the sites of validation and validated at the last of the training sites."""
        self.encoders()  # read once for both
        made, known = copy.copy(self), self.known_as
        block = known.block.astype(object)
        sites = list(dict.fromkeys(known.site[block == "train"]))
        count = len(np.unique(known.site[block == "val"]))
        if len(sites) < 2 * count:
            raise EarthSSLError(f"radiation.uncertainty: expected twice as many training sites as the {count} of "
                                f"validation, got {len(sites)}; leave it out, or validate on fewer")  # fmt: skip
        block[known.block == "test"] = ""
        block[known.block == "val"] = "test"
        block[(known.block == "train") & np.isin(known.site, sites[-count:])] = "val"
        made.known_as = replace(known, block=block.astype(str))
        made.groups = {"": made.inside("test")}
        return made

    def check(self, shape: EncoderConfig) -> None:
        if shape.window != 1 or shape.patch[:2] != (1, 2):
            raise EarthSSLError(f"radiation.encoder: expected a window of 1 step and a patch of 1 step and 2 rows, "
                                f"got window {shape.window} and patch {list(shape.patch)}; set encoder.window "
                                f"to 1 and encoder.patch to [1, 2, {shape.patch[2]}]")  # fmt: skip

    # ---- What is told, and how it is judged ----------------------------------------------------------------------

    def targets(self) -> Sequence[Target]:
        return [self._target(band, group, rows) for band in self.bands for group, rows in self.groups.items()]

    def _target(self, band: Band, group: str, chosen: np.ndarray) -> Target:
        rows, name = np.flatnonzero(chosen & band.lit), band.name + group
        scaling, truth, mean = self.scalings()[band.name], band.truth[rows], self.mean_row()
        pressure = self.data["pres_layer"].values.mean(axis=0)
        layers = {f"heating_rmse {words}": own for words, (low, high) in LAYERS.items()
                  if (own := (pressure >= low) & (pressure < high)).any()}  # fmt: skip

        def measures(row: Row) -> np.ndarray:
            up, rates, down = band.parts(row.forecast[name] - truth)
            left, top, surface = unclosed(*band.parts(row.forecast[name]), band.content[rows]), up[:, 0], down[:, -1]
            return np.stack([
                ((up**2).mean(1) + (down**2).mean(1)) / 2, ((rates / scaling.rate) ** 2).mean(1), left**2, top**2,
                surface**2, top, surface, *((rates[:, own] ** 2).mean(1) for own in layers.values()),
            ])  # fmt: skip

        usual = measures(mean)

        def metric(words: str, k: int, kind: str, **options: Any) -> Metric:
            formula = {"skill": lambda total, w: 1 - total / (usual[k] @ w), "bias": lambda total, w: total / w.sum(),
                       "rmse": lambda total, w: np.sqrt(total / w.sum())}[kind]  # fmt: skip
            return additive(words, lambda row: measures(row)[k], formula, larger_is_better=kind == "skill", **options)

        metrics = [metric("flux_skill", 0, "skill"), metric("heating_skill", 1, "skill"),
                   metric("flux_rmse", 0, "rmse"), *(metric(words, 7 + k, "rmse") for k, words in enumerate(layers)),
                   metric("top_rmse", 3, "rmse"), metric("top_bias", 5, "bias", compared=False),
                   metric("surface_rmse", 4, "rmse"), metric("surface_bias", 6, "bias", compared=False),
                   metric("unclosed", 2, "rmse", compared=False)]  # fmt: skip
        return Target(name, self.known_as.site[rows], metrics, errors=lambda row: measures(row)[0],
                      reference_errors=usual[0], main=("flux_skill", "heating_skill"),
                      numbers=self._numbers(band, rows, name))  # fmt: skip

    def _numbers(self, band: Band, rows: np.ndarray, name: str) -> Numbers:
        """Return fluxes and heating rates, each over its deviation, fluxes and rates alike in weight.

        Distributions are as wide as the insolation (longwave: alike). In experiments that training never sees they are
        those of the others: what a user would be told.
        """
        scaling, levels = self.scalings()[band.name], band.up.shape[1]
        flux = np.full(levels, scaling.flux)
        unit = np.concatenate([flux, scaling.rate, flux])
        share = np.repeat([1 / (4 * levels), 1 / (2 * (levels - 1)), 1 / (4 * levels)], [levels, levels - 1, levels])
        mean = self.mean_row().forecast[name]
        return Numbers(band.truth[rows] / unit, lambda row: row.forecast[name] / unit, mean / unit,
                       np.broadcast_to(share, mean.shape), band.unit[rows], residuals_of=band.name)  # fmt: skip

    def scalings(self, units: np.ndarray | None = None) -> dict[str, Scaling]:
        """Return the scaling of each band by the training samples, or by those of some sites."""
        return {band.name: band.scaling(np.flatnonzero(self.inside("train", units))) for band in self.bands}

    def forecast(self, told: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what a row says of the test samples, of values by band as in `Band.truth` of all samples."""
        return {band.name + group: told[band.name][chosen & band.lit]
                for band in self.bands for group, chosen in self.groups.items()}  # fmt: skip

    # ---- Heads ---------------------------------------------------------------------------------------------------

    def raw(self, window: int) -> np.ndarray:
        own = self.known_as.step
        return np.nan_to_num(self.store.read(own)[:, :, 0]).reshape(len(own), -1)

    def training_samples(self) -> np.ndarray:
        return self.inside("train")

    def label_units(self) -> np.ndarray:
        return np.unique(self.known_as.site[self.inside("train")])

    def ready(self, values: np.ndarray) -> np.ndarray:
        """Return inputs (sample, …) as (sample, value) in deviations of the training block, labelled or not."""
        flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        return np.clip(standardised(flat[self.inside("train")], flat)[1], -MOST_DEVIATIONS, MOST_DEVIATIONS)

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        head, judge = (self._ridge, LEFT_OUT) if name.endswith(f"[{RIDGE}]") else (self._mlp, "validation loss")
        found = []
        for candidate, values in features.items():
            inputs = np.concatenate([self.ready(values), self.ready(self.beside)], axis=1)
            found.append((*head(inputs, seed or 0, units), candidate))
        loss, told, chosen, candidate = min(found, key=lambda one: one[0])
        chosen = {"features": candidate, **chosen, judge: loss}
        return Row(name, role, self.forecast(told), seed, chosen, features={candidate: features[candidate]})

    def _ridge(self, inputs: np.ndarray, seed: int, units: np.ndarray | None) -> Fit:
        """Return ridge regression of each band, fitted on training sites; the penalty is that of `_left_out`."""
        total, every, taken, scalings = 0.0, {}, {}, self.scalings(units)
        for band in self.bands:
            scaling, own = scalings[band.name], band.of(np.flatnonzero(self.inside("train", units)))
            losses = self._left_out(band, scaling, inputs, units)
            best = int(np.argmin(losses))
            path = RidgePath.fit(inputs[own], band.learnt(own, scaling), standardise=False)
            numbers = torch.from_numpy(path.predict(inputs, PENALTIES[best : best + 1])[0])
            every[band.name] = band.told(numbers, np.arange(len(numbers)), scaling).numpy()
            taken[f"penalty, {band.name}"] = PENALTIES[best]
            total += float(losses[best])
        return total, every, taken

    def _left_out(self, band: Band, scaling: Scaling, inputs: np.ndarray, units: np.ndarray | None) -> np.ndarray:
        """Return the mean loss of each penalty at training and validation sites while they are left out, (penalty,).

        Validation alone has too few sites by day for a choice in the shortwave; whole sites are left out, as the
        experiments of one are much alike.
        """
        pool = np.flatnonzero((self.inside("train", units) | self.inside("val")) & band.lit)
        site, losses = self.known_as.site[pool], np.zeros(len(PENALTIES))
        count = len(np.unique(site))
        if count < 2:
            raise EarthSSLError(f"radiation: expected two sites with labels by day to choose a penalty of the "
                                f"{band.name}, got {count}; label more sites")  # fmt: skip
        for kept, left in GroupKFold(min(FOLDS, count)).split(pool, groups=site):
            fit, out = pool[kept], pool[left]
            path = RidgePath.fit(inputs[fit], band.learnt(fit, scaling), standardise=False)
            for k, numbers in enumerate(path.predict(inputs[out], PENALTIES)):
                told = band.told(torch.from_numpy(numbers), out, scaling)
                losses[k] += float(band.loss(told, out, scaling).sum())
        return losses / len(pool)

    def _trees(self, inputs: np.ndarray) -> Fit:
        """Return boosted trees of each band's leading patterns; validation chooses how many rounds."""
        total, every, taken, scalings = 0.0, {}, {}, self.scalings()
        val = np.flatnonzero(self.inside("val"))
        for band in self.bands:
            own, scaling, found = band.of(np.flatnonzero(self.inside("train"))), scalings[band.name], []
            wanted = band.learnt(own, scaling)
            mean = wanted.mean(axis=0)
            patterns = np.linalg.svd(wanted - mean, full_matrices=False)[2][:COMPONENTS]
            for rounds in ROUNDS:
                made = partial(HistGradientBoostingRegressor, max_iter=rounds, max_leaf_nodes=15, random_state=0)
                scores = track(((wanted - mean) @ patterns.T).T, f"trees, {band.name}, {rounds}")
                numbers = np.stack([made().fit(inputs[own], one).predict(inputs) for one in scores], axis=1)
                told = band.told(torch.from_numpy(numbers @ patterns + mean), np.arange(len(numbers)), scaling)
                found.append((float(band.loss(told[val], val, scaling)[band.lit[val]].mean()), rounds, told.numpy()))
            loss, taken[f"rounds, {band.name}"], every[band.name] = min(found, key=lambda one: one[0])
            total += loss
        return total, every, taken

    def _mlp(self, inputs: np.ndarray, seed: int, units: np.ndarray | None, free: bool = False) -> Fit:
        numbers = torch.from_numpy(inputs).float()
        return self._learnt(
            lambda outputs: ColumnNetwork(None, inputs.shape[1], self.config.hidden, outputs),
            lambda network, rows: network(numbers[torch.from_numpy(rows)]), self.config.mlp, seed, units, free,
        )  # fmt: skip

    def _learnt(
        self, make: Callable[[int], ColumnNetwork], answer: Callable[[ColumnNetwork, np.ndarray], torch.Tensor],
        config: ScratchConfig, seed: int, units: np.ndarray | None, free: bool = False,
    ) -> Fit:  # fmt: skip
        """Return the fit of a network trained on the labels.

        Args:
            make: Returns the network for so many outputs, its weights drawn from torch's state.
            answer: Returns its numbers for some samples, (sample, outputs): of the longwave, then of the shortwave.
            config: How to train.
            seed: Of weights and order.
            units: Training sites; None: all.
            free: See `Band.told`.
        """
        scalings, counts = self.scalings(units), [band.outputs(free) for band in self.bands]
        train, val = np.flatnonzero(self.inside("train", units)), np.flatnonzero(self.inside("val"))

        def loss(network: ColumnNetwork, rows: np.ndarray) -> torch.Tensor:
            total = torch.zeros(())
            for band, numbers in zip(self.bands, answer(network, rows).split(counts, dim=1), strict=True):
                lit = band.lit[rows]
                if lit.any():
                    told = band.told(numbers[torch.from_numpy(lit)], rows[lit], scalings[band.name], free)
                    total = total + band.loss(told, rows[lit], scalings[band.name]).mean()
            return total

        @torch.no_grad()
        def score(network: ColumnNetwork) -> float:
            network.eval()
            return float(loss(network, val))

        found = learn(lambda: make(sum(counts)), loss, score, train, None, config, seed)
        every = np.arange(len(self.beside))
        with torch.no_grad():
            numbers = torch.cat([answer(found.network, part) for part in np.array_split(every, 8)])
        told = {band.name: band.told(own.double(), every, scalings[band.name], free).numpy()  # double: they close
                for band, own in zip(self.bands, numbers.split(counts, dim=1), strict=True)}  # fmt: skip
        return found.score, told, {"steps": found.steps}

    # ---- Rows ----------------------------------------------------------------------------------------------------

    def baselines(self, window: int) -> Iterable[Row]:
        yield self.mean_row()
        raw = np.concatenate([self.ready(self.raw(window)), self.ready(self.beside)], axis=1)
        if self.config.trees:
            loss, told, chosen = self._trees(raw)
            yield Row(TREES, Role.BASELINE, self.forecast(told), None, {**chosen, "validation loss": loss})
        for seed in range(self.config.mlp.seeds):
            loss, told, chosen = self._mlp(raw, seed, None, free=True)
            yield Row(FREE, Role.BASELINE, self.forecast(told), seed, {**chosen, "validation loss": loss})

    def mean_row(self) -> Row:
        """Return the mean profile of the training; in the shortwave that of one unit of insolation, times it."""
        scalings = self.scalings()
        told = {band.name: scalings[band.name].mean * band.unit[:, None] for band in self.bands}
        return Row(MEAN, Role.BASELINE, self.forecast(told), reference=False)

    def equal_input(self, window: int, random_seeds: int) -> Iterable[Row]:
        raw = self.raw(window)
        for seed in range(self.config.mlp.seeds):
            yield self.fitted(f"{RAW} [{MLP}]", Role.BASELINE, {RAW: raw}, seed)
        yield from equal_input_rows(self.fitted, RIDGE, raw, self.inside("train"), random_seeds, {}, self.components)

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        windows, size = StoreWindows(self.store, 1), encoder.encoder.config.patch
        batches = windows.patches(self.known_as.step, size, 512, f"tokens, {encoder.kind}")
        found = torch.cat(
            [torch.stack([every[k] for k in layers]) for _, every in encoded(encoder.encoder, batches)], 1
        )
        own: dict[str, np.ndarray] = {}
        for layer, tokens in zip(layers, found.flatten(2).numpy(), strict=True):
            # Components, as the tokens of a column are many more numbers than what stands beside them.
            made = window_components(tokens, self.inside("train"), self.config.token_components)
            own |= {f"layer {layer + 1}, {name}": values for name, values in made.items()}
        return {MLP: own, RIDGE: own}

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config, tuned = self.config.scratch, TUNED if self.config.tuned else ""
        windows, steps, beside = StoreWindows(self.store, 1), self.known_as.step, self.ready(self.beside)
        numbers, shape = torch.from_numpy(beside).float(), self.shape

        def patches(rows: np.ndarray) -> Patches:
            return patchify(windows.batch(steps[rows]), shape.patch)

        def make(outputs: int, start: Encoder | None) -> ColumnNetwork:
            encoder = copy.deepcopy(start or shape.build(self.store.variables)).requires_grad_(True)
            inputs = patches(np.arange(1)).count * encoder.width + beside.shape[1]
            return ColumnNetwork(encoder, inputs, self.config.hidden, outputs)

        for name, role, seed, start in starts(encoders, config.seeds, tuned, seeds):
            loss, told, chosen = self._learnt(
                partial(make, start=start),
                lambda network, rows: network(numbers[torch.from_numpy(rows)], patches(rows)), config, seed, units,
            )  # fmt: skip
            yield Row(name, role, self.forecast(told), seed, {**chosen, "validation loss": loss})

    # ---- Words and pictures --------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Any]:
        known = self.known_as
        return {block: {"sites": len(np.unique(known.site[known.block == block])),
                        "columns": int((known.block == block).sum())} for block in BLOCKS}  # fmt: skip

    def title(self) -> str:
        return f"{self.what}, {self.source()}, {self.samples()['test']['sites']} test sites"

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        known, named = self.known_as, {k: self.names[k] for k in np.unique(self.known_as.experiment)}
        unlabelled = known.steps - len(known.block)
        return Extras(
            tables={"experiments": by_experiment(rows, self.bands, self.groups, known.experiment, known.site, named)},
            notes=[f"{unlabelled} unlabelled columns stand in the training block beside the labelled ones."],
            record={"sites": {block: np.unique(known.site[known.block == block]).tolist() for block in BLOCKS},
                    "unseen": sorted({self.names[k] for k in known.experiment[known.held_out]})},
        )  # fmt: skip
