"""segmentation: a class for each cell (blocking, storms, atmospheric rivers), now or some steps ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.progress import track
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.label_fractions import whole_units
from ...evaluation.task import Decoders, Extras, Features, Task
from ...evaluation.window_labels import block_rows, labelled_times
from ...features.patches import PatchGrid
from ...features.store_windows import StoreWindows, encoded
from ...results.figures import confusion_figure, map_figure
from ...results.row import Role, Row, names_of
from ...results.target import Target
from ...training.from_scratch import ScratchConfig
from .baselines import by_threshold, climatology, persistence, row_frequency
from .decoder import DECODER, LINEAR, LOSSES, UNET, Fitted, Inputs, Sampled, best_of, fit, surroundings
from .masks import EACH, check_names, masks_of
from .scores import Scorer, best_factors, called, check_classes

UNITS = {"year": "Y", "month": "M", "week": "W", "day": "D"}
RAW, CLIMATOLOGY, TODAY, THRESHOLD = "raw fields", "climatology", "today's mask", "threshold on one field"
SCRATCH = f"{UNET} from scratch"
NO_TOKENS = np.zeros(0, np.float32)
BATCH = 64
CONVENTION = (
    "Target: the class of each cell, at the last input step or `lead` steps on. Decoder: features that the frozen "
    "token has for the cells of its patch, joined by the raw fields of the window, position and season, then two "
    "convolutions of {hidden} channels; every network begins at the frequencies of the classes by row of cells. "
    "Linear: of the token, or of the raw values of the patch and the eight around it: logistic regression, by "
    "cross_entropy. {unet}: the decoder on tokens that strided convolutions learn from the raw fields. Rows give "
    "chances; a cell is called the class whose chance times its factor is largest, with factors of the largest IoU on"
    " validation, for every row alike. Layer, loss (of decoders and {unet}: {losses}) and steps are those of the "
    "largest IoU on validation; nothing is refitted with it. IoU: of sums over the test block (one confusion matrix),"
    " cells by their area, the mean over the classes beside the background; mean_iou takes the background in, and "
    "mean_iou_cells counts every cell alike, as ClimateNet does. Average precision: area-weighted, in 240 bins of log"
    " odds. Objects: connected cells (corners too, round the globe); found, or right, where {overlap:.0%} of the area"
    " agrees. Intervals: paired bootstrap over blocks of {block} test {unit}s. Curve over labels: fitted on whole "
    "training {unit}s drawn at random, with the layer and loss chosen on all of them."
)


@dataclass(frozen=True)
class SegmentationConfig(TaskConfig):
    """Settings of the task, beside those of every task; `random_seeds` has no part in it.

    Attributes:
        labels: NetCDF file, folder of such files, or glob; null takes the masks of the planet that the store was made
            from: blocking of the weather planet, storms of the other.
        variables: The mask in the files: one with class numbers, 0 for the background; or several of 0 and 1.
        classes: Names of the classes from 1 on; none: as the file describes them.
        labellers: What to do with several masks of one time: refuse those that differ, majority, or each.
        leads: Steps from the last input step to the mask.
        labelled: First and last date ("1983": the whole year) of the training labels; null for all of the block.
        every: Of the masks on all steps, every so manieth of the store's steps is a sample.
        radius_km: Of the discs that stand for the planet's storms.
        losses: To choose from: cross_entropy, weighted (classes by one over the root of their frequency), jaccard.
        hidden: Channels of the decoder's convolutions.
        decoder: How decoders and linear heads are trained; seeds: of those on raw fields.
        scratch: The U-Net.
        overlap: Share of an object's area that makes it found, or right.
        unit: What is independent of its like: year, month, week or day.
    """

    task: str = "segmentation"
    labels: str | None = None
    variables: list[str] = field(default_factory=lambda: ["LABELS"])
    classes: list[str] = field(default_factory=list)
    labellers: str = "refuse"
    leads: list[int] = field(default_factory=lambda: [0])
    labelled: list[str] | None = None
    every: int = 1
    radius_km: float = 600.0
    losses: list[str] = field(default_factory=lambda: ["cross_entropy", "jaccard"])
    hidden: int = 16
    decoder: ScratchConfig = field(default_factory=lambda: ScratchConfig(1, 300, 16, 3e-3, 0.01, 50))
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(1, 300, 16, 3e-3, 0.01, 50))
    overlap: float = 0.3
    unit: str = "year"
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("segmentation.classes", self.classes)
        if len(self.variables) > 1:
            check_names("segmentation.variables", self.variables)
        self.check({
            "leads radius_km": "≥ 0", "every hidden": "≥ 1", "overlap": "(0, 1]",
            "losses": LOSSES, "unit": list(UNITS),
        })  # fmt: skip
        self.expect(self.decoder.seeds >= 1, "decoder.seeds ≥ 1", "decoder")
        self.expect(self.labelled is None or len(self.labelled) == 2, "a first and a last date, or null", "labelled")


@dataclass(frozen=True, eq=False)
class Lead:
    """The samples of one target.

    Attributes:
        name: Of the target.
        lead: Steps from the last input step to the mask.
        samples: With their masks.
        times: Of the masks, (n,).
        units: Number of each sample's year, month, week or day, (n,).
    """

    name: str
    lead: int
    samples: Sampled
    times: np.ndarray
    units: np.ndarray

    @property
    def season(self) -> np.ndarray:
        """Season of each mask, 0 = December to February, (n,)."""
        return (self.times.astype("datetime64[M]").astype(int) % 12 + 1) % 12 // 3


class Segmentation(Task[SegmentationConfig]):
    """One target a lead."""

    name = "segmentation"
    what = "A class for each cell"
    convention = CONVENTION
    Config = SegmentationConfig
    head = DECODER

    def __init__(self, config: SegmentationConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.unit, self.leads = config.unit, config.leads
        self._refuse_short_gaps()
        self.masks = masks_of(
            store, config.labels, config.variables, config.classes, config.labellers, config.radius_km
        )
        self.scorer = Scorer(self.masks.classes, store.grid, config.overlap)
        self.sets = [self._samples(lead) for lead in config.leads]
        self._shown: dict[str, dict[str, np.ndarray]] = {}
        self._unets: dict[int, Row] = {}  # with all labels

    def _refuse_short_gaps(self) -> None:
        days = max(self.config.leads) * self.store.step_days
        if days > self.store.splits.embargo_days:
            raise EarthSSLError(
                f"segmentation.leads: expected masks no further ahead than the gap between the blocks "
                f"({self.store.splits.embargo_days:g} days), got {days:g} days; prepare with a longer embargo"
            )

    def _samples(self, lead: int) -> Lead:
        """Return the samples of a lead: every mask with its window, no window or lead across a jump of the weather."""
        times, masks = self.store.times.astype("datetime64[ns]"), self.masks
        at = np.searchsorted(times, masks.times)
        known = np.zeros(len(times), bool)
        known[at] = True
        known &= np.arange(len(times)) % self.config.every == 0
        for one in np.searchsorted(times, masks.breaks):
            known[one : one + self.shape.window - 1 + lead] = False
        known &= labelled_times(self.store, "segmentation.labelled", self.config.labelled)
        rows = block_rows(self.store, self.shape.window, lead, known)
        parts: dict[str, np.ndarray] = {}
        steps, chosen = list[np.ndarray](), list[np.ndarray]()
        for part, own in rows.items():
            mine = np.flatnonzero(np.isin(at, own + lead))
            parts[part] = np.arange(len(mine)) + sum(len(earlier) for earlier in chosen)
            chosen.append(mine)
            steps.append(at[mine] - lead)
        every = np.concatenate(chosen)
        made = Sampled(np.concatenate(steps), masks.values[every], **parts)
        for part, own in parts.items():
            check_classes(made.masks[own], masks.classes, "training" if part == "train" else part)
        when = masks.times[every]
        units = when.astype(f"datetime64[{UNITS[self.config.unit]}]").astype(int)
        units += 1970 if self.config.unit == "year" else 0
        return Lead(f"{', '.join(masks.classes[1:])}, lead {lead}", lead, made, when, units)

    @cached_property
    def windows(self) -> StoreWindows:
        """Fields of the store."""
        return StoreWindows(self.store, self.shape.window)

    @cached_property
    def inputs(self) -> Inputs:
        """What decoders read beside tokens, at all steps of the samples."""
        steps = np.unique(np.concatenate([one.samples.steps for one in self.sets]))
        parts = [steps[k : k + BATCH] for k in range(0, len(steps), BATCH)]
        values = [self.windows.batch(part).values.flatten(1, 2) for part in track(parts, "raw fields")]
        place = torch.from_numpy(surroundings(self.store.grid, self.store.times[steps]))
        patch = PatchGrid(self.store, self.shape.patch[1:])
        return Inputs(steps, torch.cat([torch.cat(values), place], 1), self.store.grid, patch.patch, patch.tiles)

    def targets(self) -> Sequence[Target]:
        return [self.scorer.target(one.name, one.units[one.samples.test], self.config.block) for one in self.sets]

    def label_units(self) -> np.ndarray:
        return reduce(np.intersect1d, [whole_units(one.units[one.samples.train]) for one in self.sets])

    def training_samples(self) -> np.ndarray:
        return np.unique(np.concatenate([one.samples.steps[one.samples.train] for one in self.sets]))

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        steps, label = self.inputs.steps, f"tokens, {encoder.kind} seed {encoder.seed}"
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        batches = self.windows.patches(steps, encoder.encoder.config.patch, BATCH, label)
        for patches, every in encoded(encoder.encoder, batches):
            for layer in layers:
                last = every[layer].unflatten(1, (patches.shape[0], -1))[:, -1]
                parts[layer].append(last.numpy())
        train = np.isin(steps, self.training_samples())
        made = {}
        for layer, some in parts.items():
            tokens = np.concatenate(some)
            mean, spread = tokens[train].mean((0, 1)), tokens[train].std((0, 1))
            made[f"layer {layer + 1}"] = ((tokens - mean) / np.maximum(spread, 1e-6)).astype(np.float16)
        return {DECODER: made, LINEAR: made}

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        return self._network(name, role, features, seed, units, {})

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        return row if self._all(units) else self._network(
            row.name, row.role, row.features, row.seed, units, row.chosen
        )  # fmt: skip

    def _all(self, units: np.ndarray) -> bool:
        """Return whether these are all training units: nothing is refitted, so a row stays as it is."""
        return all(np.isin(one.units[one.samples.train], units).all() for one in self.sets)

    def _network(
        self, name: str, role: Role, features: Features, seed: Any, units: np.ndarray | None, before: Mapping[str, Any]
    ) -> Row:
        """Return the row of a network, its form in its brackets; with layer and loss of `before` where there is one."""
        form = UNET if name == SCRATCH else name.rpartition("[")[2].removesuffix("]")
        settings = self.config.scratch if form == UNET else self.config.decoder
        forecast, chosen, kept = {}, {}, {}
        for one in self.sets:
            past = before.get(one.name)
            own = [past["features"]] if past else list(features)
            losses = [past["loss"]] if past else LOSSES[:1] if form == LINEAR else self.config.losses
            samples = one.samples if units is None else self._drawn(one, units)
            frequency = np.log(row_frequency(samples.masks[samples.train], len(self.masks.classes)))
            fits: list[tuple[dict[str, str], Fitted]] = []
            for candidate in own:
                tokens = features[candidate] if features[candidate].size else None
                for loss in losses:
                    found = fit(form, self.inputs, tokens, samples, frequency, loss, settings, self.config.hidden,
                                int(seed or 0), self.encoders()[0].encoder.width)  # fmt: skip
                    fits.append(({"features": candidate, "loss": loss}, found))
            words, best = best_of(fits)
            forecast[one.name] = self._parts(one, name, best.chances, best.factors)
            chosen[one.name] = {
                **words,
                "steps": best.steps,
                "validation_iou": best.iou,
                "factors": best.factors.tolist(),
            }
            kept[words["features"]] = features[words["features"]]
        # Tokens are large: only the curve over labels asks for them again.
        row = Row(name, role, forecast, seed, chosen, features=kept)
        return row if self.curved(row) or role is Role.SCRATCH else replace(row, features={})

    @staticmethod
    def _drawn(one: Lead, units: np.ndarray) -> Sampled:
        train = one.samples.train
        return replace(one.samples, train=train[np.isin(one.units[train], units)])

    def _parts(self, one: Lead, name: str, chances: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Return what is kept of chances at the test samples, and remember the calls of one date for the picture."""
        truth = one.samples.masks[one.samples.test]
        date = int((truth > 0).sum((1, 2)).argmax())
        shown = self._shown.setdefault(one.name, {"truth": truth[date]})
        shown.setdefault(name, called(chances[date : date + 1], factors)[0])
        return self.scorer.parts(chances, factors, truth)

    def _without_network(self, one: Lead, name: str, chances: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return what is kept of chances at all samples, their factors chosen on validation, and these factors."""
        val = one.samples.val
        factors, _ = best_factors(chances[val], one.samples.masks[val], self.store.grid.area)
        return self._parts(one, name, chances[one.samples.test], factors), factors.tolist()

    def baselines(self, window: int) -> Iterable[Row]:
        count, variables = len(self.masks.classes), self.store.variables
        parts: dict[str, dict[str, np.ndarray]] = {CLIMATOLOGY: {}, TODAY: {}, THRESHOLD: {}}
        chosen: dict[str, dict[str, Any]] = {name: {} for name in parts}
        last = slice((self.shape.window - 1) * len(variables), self.shape.window * len(variables))
        for one in self.sets:
            made = {CLIMATOLOGY: climatology(one.samples, one.season, one.samples.train, count)}
            if (today := self._today(one)) is not None:
                made[TODAY] = persistence(one.samples, today, count)
            fields = self.inputs.raw[self.inputs.at(one.samples.steps), last].numpy()
            made[THRESHOLD], taken = by_threshold(one.samples, fields, variables, self.store.grid, count)
            for name, chances in made.items():
                parts[name][one.name], factors = self._without_network(one, name, chances)
                chosen[name][one.name] = {"factors": factors, **({"fields": taken} if name == THRESHOLD else {})}
        for name, forecast in parts.items():
            if forecast:
                yield Row(name, Role.BASELINE, forecast, chosen=chosen[name], reference=name != CLIMATOLOGY)
        for form in (LINEAR, DECODER):
            for seed in range(self.config.decoder.seeds):
                own = seed if self.config.decoder.seeds > 1 else None
                yield self.fitted(f"{RAW} [{form}]", Role.BASELINE, {"the window": NO_TOKENS}, own)

    def _today(self, one: Lead) -> np.ndarray | None:
        """Return the masks at the last input steps; None for diagnosis, or where one is not known."""
        if not one.lead:
            return None
        now = self.store.times.astype("datetime64[ns]")[one.samples.steps]
        at = np.minimum(np.searchsorted(self.masks.times, now), len(self.masks.times) - 1)
        return self.masks.values[at] if (self.masks.times[at] == now).all() else None

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        for seed in range(self.config.scratch.seeds if seeds is None else seeds):
            if units is None:
                self._unets[seed] = self._network(SCRATCH, Role.SCRATCH, {"labels only": NO_TOKENS}, seed, None, {})
            row = self._unets[seed]
            yield row if units is None else self.refitted(row, units)

    def curved(self, row: Row) -> bool:
        return row.name in {f"{name} [{DECODER}]" for name in (RAW, Role.PRETRAINED, Role.UNTRAINED)}

    def samples(self) -> Mapping[str, Any]:
        return {
            one.name: {part: len(getattr(one.samples, part)) for part in ("train", "val", "test")} for one in self.sets
        }

    def convention_text(self) -> str:
        own = self.config
        return self.convention.format(
            hidden=own.hidden,
            unet=UNET,
            losses=", ".join(own.losses),
            overlap=own.overlap,
            block=own.block,
            unit=own.unit,
        )

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        classes, confusions = self.masks.classes, []
        figures: dict[str, Figure] = {}
        for one in self.sets:
            found = self.scorer.confusions(rows, one.name)
            first = "" if len(self.sets) == 1 else f"_{one.lead}"
            shown = self._shown[one.name]
            maps = {name: shown[name].astype(float) for name in ["truth", *names_of(rows)] if name in shown}
            title = f"{one.name}: the test date with most cells of a class"
            figures[f"masks{first}"] = map_figure(
                maps, self.store.grid, len(classes) - 1, "class", title, "class", shares=True, classes=True
            )
            figures[f"confusion{first}"] = confusion_figure(found, classes, f"{one.name}: shares of the true area")
            confusions += [
                {"target": one.name, "row": name, "true": classes[i], "called": classes[j], "area": matrix[i, j]}
                for name, matrix in found.items() for i, j in np.ndindex(*matrix.shape)
            ]  # fmt: skip
        area = self.store.grid.area / self.store.grid.area.sum()
        counts = [
            {"target": one.name, "block": part, "class": name, "share_of_area": ((mask == k) * area).sum() / len(mask)}
            for one in self.sets for part in ("train", "val", "test")
            for mask in [one.samples.masks[getattr(one.samples, part)]] for k, name in enumerate(classes)
        ]  # fmt: skip
        notes = list(self.masks.said)
        if self.config.labellers == EACH:
            notes.append("Masks of one time are samples of their own, drawn together by the bootstrap.")
        return Extras(
            figures=figures, notes=notes, record={"labels": self.config.labels or "the planet's own"},
            tables={"confusion": pd.DataFrame(confusions), "classes": pd.DataFrame(counts)},
        )  # fmt: skip
