"""nowcasting: how much will it rain in the next hour, as chances of classes, from the last radar frames?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import sha256
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import patchify
from ....ssl.sources.radar.frames import read_frames
from ....ssl.sources.radar.radar import recorded_crops
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import PRETRAINED, Contender, starts
from ...evaluation.task import Decoders, Extras, Task
from ...features.store_windows import StoreWindows, encoded
from ...results.figures import line_figure
from ...results.row import Role, Row
from ...results.target import Target
from ...training.from_scratch import ScratchConfig
from .baselines import as_it_is, carried, check_pysteps, dressed, standing
from .network import DECODER, FORMS, REACH, Fitted, Layout, Nowcaster, fit, last_step
from .samples import BLOCKS, Samples, samples_of
from .scores import Scorer

CLIMATOLOGY, STANDING, CARRIED = "climatology", "persistence", "extrapolation"
YES_OR_NO = ", as it is"
FRAMES, TUNED = "raw frames", "fine-tuned"
SAME = 0.05  # mm/h, and as a share: a store's rain and the file's differ by rounding
BATCH = 64
CONVENTION = (
    "Target: the class of rain ({thresholds} mm/h) of each cell of {km:g} km in the middle {target}×{target} of a "
    "crop of {size}×{size}, {leads} minutes after its last frame. Rows give chances. climatology: how often each "
    "class fell in training. persistence, extrapolation: the last frame where it stands, or carried along the motion "
    "of the window's frames (pysteps: Lucas–Kanade, semi-Lagrangian; of the whole composite, so that it sees beyond "
    "the crop); 'as it is' without any chance, else as often as each class fell in training where the cell, and the "
    "mean over a square around it (its size chosen on validation), showed as much. decoder: features that the frozen "
    "token has for the cells of its patch, joined by the frames, two convolutions of {hidden} channels; linear: "
    "logistic regression on the token, or on the frames of the patch and the eight around it. Every network begins at"
    " the climatology; steps and layer are those of the least cross-entropy on validation, and nothing is refitted "
    "with it. crps_skill: 1 - CRPS / that of the climatology, a class standing for its mean rain in training. csi: "
    "critical success index of calls from a chance on that validation chose for each row, lead and threshold (as it "
    "is: yes or no). fss: fractions skill score of the chances of {event:g} mm/h in squares, inside the target. "
    "reliability: Brier's, in ten bins of chance, 0 best. bias: calls over events. Intervals: paired bootstrap over "
    "blocks of {unit} minutes of test hours: they say what other minutes of the same {events} would give, not what "
    "other weather would. Trained and test hours are at least {apart:g} minutes apart; training and validation are "
    "{own:g} apart."
)


@dataclass(frozen=True)
class NowcastingConfig(TaskConfig):
    """Settings of the task, beside those of every task; store: of the source `radar`; `random_seeds` has no part in it.

    Attributes:
        reference: File of the frames, where it has moved; empty for the one that the store was made of.
        leads: Minutes after the last frame.
        thresholds: Lower edges of the classes of rain, mm/h.
        event: The threshold of fractions skill score and reliability.
        scales: Cells along each side of the squares of the fractions skill score.
        target: Cells along each side of what is told.
        unit_minutes: Length of the blocks that the bootstrap draws.
        hidden: Channels of the decoder's convolutions.
        heads: Out of decoder and linear; none for a table without frozen encoders and raw frames.
        decoder: How heads are trained; seeds: of those on raw frames.
        extrapolation: Whether rain carried along its motion stands in the table; needs pysteps.
        tuned: Whether encoders are fine-tuned, too, as `scratch` says.
    """

    task: str = "nowcasting"
    reference: str = ""
    leads: list[int] = field(default_factory=lambda: [5, 10, 15, 30, 45, 60])
    thresholds: list[float] = field(default_factory=lambda: [0.2, 0.5, 1.0, 2.0, 5.0])
    event: float = 1.0
    scales: list[int] = field(default_factory=lambda: [1, 5, 17])
    target: int = 32
    unit_minutes: int = 20
    hidden: int = 32
    heads: list[str] = field(default_factory=lambda: list(FORMS))
    decoder: ScratchConfig = field(default_factory=lambda: ScratchConfig(1, 300, 16, 2e-3, 0.01, 25))
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(1, 300, 16, 1e-3, 0.05, 25))
    extrapolation: bool = True
    tuned: bool = True
    fractions: list[float] = field(default_factory=list)
    block: int = 1
    draws: int = 1000
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("nano", 3, (3, 8, 8)))

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {"target unit_minutes hidden leads scales": "≥ 1", "thresholds": "> 0"}
        self.check({**rules, "heads": FORMS} if self.heads else rules)
        self.expect(self.leads == sorted(self.leads), "leads ascending", "leads")
        self.expect(self.thresholds == sorted(set(self.thresholds)), "thresholds ascending, each once", "thresholds")
        self.expect(self.event in self.thresholds, "event out of thresholds", "event", "thresholds")
        self.expect(not self.heads or DECODER in self.heads, "heads with decoder, which the table speaks of", "heads")
        self.expect(not self.fractions, "no fractions: this task has no curve over labels", "fractions")
        self.expect(self.decoder.seeds >= 1, "decoder.seeds ≥ 1", "decoder")


class Nowcasting(Task[NowcastingConfig]):
    """One target a lead."""

    name, what, convention = "nowcasting", "Rain of the next hour", CONVENTION
    Config = NowcastingConfig
    head = DECODER

    def __init__(self, config: NowcastingConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        if config.extrapolation:
            check_pysteps()
        self.unit = f"{config.unit_minutes} minutes"
        self.crops = crops = recorded_crops(store.manifest["attributes"])
        self._check_blocks()
        file = str(Path(config.reference or crops.file).expanduser())
        if not Path(file).is_file() or sha256(Path(file)) != crops.sha256:
            what = "another" if Path(file).is_file() else "which is not there"
            raise EarthSSLError("nowcasting.reference: expected the file of radar frames that the store was made of, "
                                f"got '{file}', {what}; set reference")  # fmt: skip
        self.frames = read_frames(file, crops.coarsen)
        self._check_same()
        wrong = [lead for lead in config.leads if lead % crops.step_minutes]
        if wrong:
            raise EarthSSLError(f"nowcasting.leads: expected multiples of the {crops.step_minutes:g} minutes from "
                                f"frame to frame, got {wrong[0]}")  # fmt: skip
        self.leads = [round(lead / crops.step_minutes) for lead in config.leads]
        if not config.target <= crops.size or (crops.size - config.target) % 2:
            raise EarthSSLError(f"nowcasting.target: expected an even margin in a crop of {crops.size} cells, got "
                                f"target {config.target}")  # fmt: skip

    def _check_blocks(self) -> None:
        """Refuse stores that lack some of their source's frames, or have them in other blocks."""
        store, crops = self.store, self.crops
        if len(store.times) != crops.steps:
            raise EarthSSLError(f"nowcasting.store: expected all {crops.steps} frames of the source, got "
                                f"{len(store.times)}; prepare it with all of its times")  # fmt: skip
        for block in BLOCKS:
            inside = store.splits.inside(store.times, block)
            own = np.flatnonzero(crops.block == block)
            steps = np.concatenate([crops.first[own], crops.first[own] + crops.frames[own] - 1])
            others = np.flatnonzero(crops.block != block)
            if not inside[steps].all() or inside[crops.first[others]].any():
                day = str(store.times[steps[0]])[:10]
                raise EarthSSLError(
                    f"nowcasting.store: expected a {block} block of the crops of {day}, got "
                    f"{store.splits.to_json()[block]}; set splits.{block} to ['{day}', '{day}']"
                )

    def _check_same(self) -> None:
        """Refuse a store whose first crop of each block does not hold the rain of the file there and then."""
        crops, store = self.crops, self.store
        for run in (int(np.flatnonzero(crops.block == block)[0]) for block in BLOCKS):
            at, step = int(np.searchsorted(self.frames.times, crops.begins[run])), crops.first[run : run + 1]
            own = store.statistics.denormalise(store.read(step), store.times[step])[0, 0]
            rows, columns = (slice(one[run], one[run] + crops.size) for one in (crops.row, crops.column))
            if not np.allclose(own, self.frames.rain[at, rows, columns], SAME, SAME, equal_nan=True):
                raise EarthSSLError("nowcasting.store: expected the rain of the file in its crops, got other; "
                                    "prepare the store with this version")  # fmt: skip

    def check(self, shape: EncoderConfig) -> None:
        crops, config = self.crops, self.config
        margin, (rows, columns) = (crops.size - config.target) // 2, shape.patch[1:]
        if any(crops.size % one or margin % one or margin < one or one < REACH for one in (rows, columns)):
            raise EarthSSLError(f"nowcasting.encoder: expected patches of {REACH} cells or more that divide a crop of "
                                f"{crops.size} and the margin of {margin} about a target of {config.target}, got "
                                f"{rows}×{columns}; set encoder.patch or target")  # fmt: skip
        if config.extrapolation and shape.window < 2:
            raise EarthSSLError("nowcasting.extrapolation: expected two frames or more, to see a motion, got "
                                f"encoder.window {shape.window}; widen it, or set extrapolation: false")  # fmt: skip
        seen = self.store.statistics.known.any(0)
        seen = seen.reshape(crops.size // rows, rows, crops.size // columns, columns).any((1, 3))
        if not seen.all():
            row, column = np.argwhere(~seen)[0]
            raise EarthSSLError(
                f"nowcasting.encoder: expected each patch of {rows}×{columns} cells seen by a radar in some crop, got "
                f"that in row {row + 1}, column {column + 1} in none; prepare with a larger least_valid, or take "
                "larger patches"
            )
        minutes = (shape.window - 1) * crops.step_minutes + max(config.leads)
        if minutes > crops.apart_minutes:
            raise EarthSSLError("nowcasting.leads: expected window and longest lead within the "
                                f"{crops.apart_minutes:g} minutes that test hours keep apart, got {minutes:g}; prepare "
                                "with a larger apart_minutes")  # fmt: skip
        told = self._samples(shape.window)
        known = np.isfinite(told.rain).any(axis=(2, 3))
        if short := [block for block in BLOCKS if not known[told.inside(block)].any(axis=0).all()]:
            raise EarthSSLError(f"nowcasting.leads: expected rain {config.leads} minutes after a window of "
                                f"{shape.window} frames inside the {short[0]} spans, got none at some; lengthen them "
                                "or leave the longest lead out")  # fmt: skip

    # ---- What is told, and how it is judged ----------------------------------------------------------------------

    def _samples(self, window: int) -> Samples:
        return samples_of(self.crops, self.frames, window, self.leads, self.config.target)

    @cached_property
    def told(self) -> Samples:
        """All samples."""
        return self._samples(self.shape.window)

    @cached_property
    def scorer(self) -> Scorer:
        """Thresholds, and what fell in training."""
        config, rain = self.config, self.told.rain[self.told.inside("train")]
        names, edges = [f"{lead} min" for lead in config.leads], np.array([0.0, *config.thresholds])
        number = np.where(np.isfinite(rain), np.searchsorted(config.thresholds, rain, side="right"), -1)
        middle = np.append((edges[:-1] + edges[1:]) / 2, 1.5 * edges[-1])
        means = [float(rain[number == k].mean()) if (number == k).any() else middle[k] for k in range(len(edges))]
        count = np.stack([(number == k).sum((0, 2, 3)) for k in range(len(edges))], axis=1)
        usual = (count + 1) / (count.sum(axis=1, keepdims=True) + len(edges))
        return Scorer(names, config.thresholds, config.event, config.scales, np.array(means), usual)

    def targets(self) -> Sequence[Target]:
        usual = self.climatology()
        return [self.scorer.target(name, self.units, usual.forecast[name], self.config.block, self.crops.cell_km)
                for name in self.scorer.names]  # fmt: skip

    @cached_property
    def units(self) -> np.ndarray:
        """Number of each test sample's block of minutes, counted from the first sample of its span, (sample,)."""
        times = self.told.times[self.told.inside("test")]
        begins = np.unique(self.crops.begins[self.crops.block == "test"])
        span = np.searchsorted(begins, times, side="right") - 1
        first = np.array([times[span == k].min() for k in range(len(begins)) if (span == k).any()])
        span = np.unique(span, return_inverse=True)[1]
        since = (times - first[span]) / np.timedelta64(60, "s")
        return np.unique(np.stack([span, since // self.config.unit_minutes]), axis=1, return_inverse=True)[1].ravel()

    def row(self, name: str, role: Role, chances: np.ndarray, seed: Any = None, **more: Any) -> Row:
        """Return the row of chances of all samples, (sample, lead, class, row, column).

        Args:
            name, role, chances, seed: Of the row.
            more: `chosen`, of the record, and other attributes of `Row`.
        """
        told, forecast, calls = self.told, dict[str, np.ndarray](), dict[str, list[float]]()
        val, test = told.inside("val"), told.inside("test")
        for k, target in enumerate(self.scorer.names):
            sure = name.endswith(YES_OR_NO)
            calls[target] = [0.5] * len(self.config.thresholds) if sure else self.scorer.calls(
                chances[val, k], told.rain[val, k]
            )  # fmt: skip
            forecast[target] = self.scorer.parts(chances[test, k], told.rain[test, k], calls[target])
        return Row(name, role, forecast, seed, {**more.pop("chosen", {}), "called from": calls}, **more)

    # ---- Rows ----------------------------------------------------------------------------------------------------

    def climatology(self) -> Row:
        """Return the row that says how often each class fell in training."""
        shape = (*self.told.rain.shape[:2], self.scorer.classes, *self.told.rain.shape[2:])
        usual = self.scorer.usual.astype(np.float32)[None, ..., None, None]
        return self.row(CLIMATOLOGY, Role.BASELINE, np.broadcast_to(usual, shape), reference=False)

    def baselines(self, window: int) -> Iterable[Row]:
        yield self.climatology()
        ways = {STANDING: standing(self.frames, self.leads)}
        if self.config.extrapolation:
            ways[CARRIED] = carried(self.frames, self.leads, window)
        for name, fields in ways.items():
            known = {int(at): fields(int(at)) for at in np.unique(self.told.at)}
            yield self.row(f"{name}{YES_OR_NO}", Role.BASELINE, as_it_is(self.told.cut(known.__getitem__), self.scorer))
            chances, sizes = dressed(self.told, known.__getitem__, self.scorer)
            yield self.row(name, Role.BASELINE, chances, chosen={"squares, cells": sizes})
        for form in self.config.heads:
            for seed in range(self.config.decoder.seeds):
                yield self._headed(f"{FRAMES} [{form}]", Role.BASELINE, form, {FRAMES: None}, seed)

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        tokens = self._tokens(encoder, layers) if self.config.heads else {}
        for form in self.config.heads:
            yield self._headed(f"{encoder.kind} [{form}]", Role(encoder.kind), form, tokens, encoder.seed)

    def _headed(self, name: str, role: Role, form: str, candidates: Mapping[str, Tensor | None], seed: int) -> Row:
        """Return the row of a head on frozen tokens, or on none; validation chooses among the candidates."""
        found: list[tuple[str, Fitted]] = []
        for words, tokens in candidates.items():

            def answer(network: Nowcaster, chosen: np.ndarray, own: Tensor | None = tokens) -> Tensor:
                at = torch.from_numpy(chosen)
                return network(self.inputs[at].float(), None if own is None else own[at].float())

            features = 0 if tokens is None else tokens.shape[-1]
            found.append((words, self._fit(partial(self._network, form, features), answer, self.config.decoder, seed)))
        words, best = min(found, key=lambda one: one[1].loss)
        chosen = {"features": words, "steps": best.steps, "validation loss": best.loss}
        return self.row(name, role, best.chances, seed, chosen=chosen)

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        config, tuned = self.config.scratch, TUNED if self.config.tuned else ""
        patch = self.shape.patch

        def make(start: Encoder | None) -> Nowcaster:
            encoder = copy.deepcopy(start or self.shape.build(self.store.variables)).requires_grad_(True)
            return self._network(DECODER, encoder.width, encoder)

        def answer(network: Nowcaster, chosen: np.ndarray) -> Tensor:
            patches = patchify(self.windows.batch(self.told.steps[chosen]), patch)
            return network(self.inputs[torch.from_numpy(chosen)].float(), patches=patches)

        for name, role, seed, start in starts(encoders, config.seeds, tuned, seeds):
            best = self._fit(partial(make, start), answer, config, seed)
            yield self.row(name, role, best.chances, seed, chosen={"steps": best.steps, "validation loss": best.loss})

    def _network(self, form: str, features: int, encoder: Encoder | None = None) -> Nowcaster:
        layout = Layout(len(self.leads), self.scorer.classes, self.crops.size, self.config.target, self.shape.patch[1:])
        return Nowcaster(form, layout, self.inputs.shape[1], features, self.scorer.usual, self.config.hidden, encoder)

    def _fit(self, make: Any, answer: Any, config: ScratchConfig, seed: int) -> Fitted:
        truth = self.scorer.class_of(self.told.rain)
        return fit(make, answer, truth, self.told.inside("train"), self.told.inside("val"), config, seed)

    @cached_property
    def windows(self) -> StoreWindows:
        """Fields of the store."""
        return StoreWindows(self.store, self.shape.window)

    @cached_property
    def inputs(self) -> Tensor:
        """The windows' frames as encoders see them, and where known, float16 (sample, channel, row, column)."""
        parts = np.array_split(self.told.steps, -(-len(self.told.steps) // BATCH))
        batches = [self.windows.batch(part) for part in parts]
        return torch.cat([torch.cat([one.values[:, :, 0], one.valid[:, :, 0].float()], 1).half() for one in batches])

    def _tokens(self, encoder: Contender, layers: Sequence[int]) -> dict[str, Tensor]:
        """Return the tokens of the last step of all samples, in deviations of the training, float16."""
        label = f"tokens, {encoder.kind} seed {encoder.seed}"
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        batches = self.windows.patches(self.told.steps, encoder.encoder.config.patch, BATCH, label)
        for patches, every in encoded(encoder.encoder, batches):
            for layer in layers:
                found[layer].append(last_step(every[layer], patches))
        made, train = {}, torch.from_numpy(self.told.inside("train"))
        for layer, parts in found.items():
            tokens = torch.cat(parts)
            mean, spread = tokens[train].mean((0, 1)), tokens[train].std((0, 1))
            made[f"layer {layer + 1}"] = ((tokens - mean) / spread.clamp(min=1e-6)).half()
        return made

    # ---- Words and pictures --------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Any]:
        return {block: {"samples": len(self.told.inside(block)), "hours": self._hours(block)} for block in BLOCKS}

    def _hours(self, block: str) -> str:
        times = self.told.times[self.told.inside(block)]
        return f"{times.min()!s:.16}…{times.max()!s:.16}"

    def title(self) -> str:
        return f"{self.what}, {self.source()}, last frames {self._hours('test')}"

    def missing(self) -> list[str]:
        own = [] if self.config.extrapolation else ["No extrapolation stands in this table: extrapolation is false."]
        own += [] if self.config.heads else ["No head stands in this table: heads is empty."]
        return [*own, *super().missing()]

    @property
    def _spans(self) -> int:
        """How many spans of time test."""
        return len(np.unique(self.crops.begins[self.crops.block == "test"]))

    def convention_text(self) -> str:
        config, crops = self.config, self.crops
        ends = crops.begins + ((crops.frames - 1) * crops.step_minutes * 60).astype("timedelta64[s]")
        train, val = (np.flatnonzero(crops.block == block) for block in BLOCKS[:2])
        gaps = np.maximum(crops.begins[val] - ends[train, None], crops.begins[train, None] - ends[val])
        own = float(gaps.min() / np.timedelta64(60, "s"))
        events = self._spans
        return self.convention.format(
            thresholds=", ".join(f"{one:g}" for one in config.thresholds), km=crops.cell_km, target=config.target,
            size=crops.size, leads=", ".join(map(str, config.leads)), hidden=config.hidden, event=config.event,
            unit=config.unit_minutes, events="event" if events == 1 else f"{events} events", apart=crops.apart_minutes,
            own=own,
        )  # fmt: skip

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        table = self.scorer.reliability_table(rows)
        panels = {}
        for name in dict.fromkeys(
            [self.scorer.names[0], self.scorer.names[len(self.leads) // 2], self.scorer.names[-1]]
        ):
            own = table[table["target"] == name]
            panels[name] = {str(row): (part["chance"], part["observed"]) for row, part in own.groupby("row", sort=False)
                            if not str(row).endswith(YES_OR_NO)}  # fmt: skip
        xlabel = f"chance of {self.config.event:g} mm/h"
        figure = line_figure(panels, xlabel, "share that had it", bold=(PRETRAINED,))
        for axes in figure.axes:
            axes.plot([0, 1], [0, 1], color="0.6", lw=0.7, zorder=0)
        return Extras(
            figures={"reliability": figure}, words={"reliability": f"Where {xlabel} was told, how often it fell."},
            tables={"reliability": table}, record={"class means, mm/h": self.scorer.values.tolist()},
            notes=[f"{self._spans} span{'s' * (self._spans > 1)} of test hours: the intervals are of these, not of "
                   "other weather."],
        )  # fmt: skip
