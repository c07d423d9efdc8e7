"""explain: which cells an index rests on that a frozen encoder and its head forecast, and whether to trust the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.fields.batch import Batch
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender
from ...evaluation.task import Decoders, Extras, Task, TaskConfig
from ...features.frozen_features import cache_name, cached
from ...results.row import Row
from ...results.target import Target
from ...training.from_scratch import ScratchConfig
from ..enso.state_labels import StateLabels, check_window
from .attribution import captum_attr, check_samples, superpixels
from .explanations import Events, Explanation, Options, explain
from .index_function import POOLINGS, TokenHead, Windows, fit_head
from .references import LinearMap, linear_map, mechanism, random_maps
from .results import checks, dataset, figures, finding, heads, notes, randomisation_table, share_by_variable
from .scores import LINEAR, POINT, RANDOM, rows_of, target_of

CONVENTION = (
    "Explained: the 3-month mean Niño 3.4 anomaly (K) whose last month lies {lead} months after the last input month, "
    "as frozen encoder and ridge head give it from normalised anomalies; head chosen on validation, refitted on train "
    "+ validation. Baseline of every method: the climatology (all anomalies 0, same season, same gaps). Events: test "
    "samples with the label in the upper (El Niño, at least {high:+.2f} K) or lower (La Niña, at most {low:+.2f} K) "
    "{share:.0f} % of training, {samples} of them, evenly thinned. Maps: attributions summed over the {window} input "
    "steps, mean over events, K per cell. Deletion and insertion AUC: area under the curve over the share of blocks "
    "({block}, one variable, all steps) that go to, or come from, the climatology in the map's order, as share of the "
    "whole change f(x) − f(climatology); deletion: lower is better, insertion: higher; outside 0…1 where blocks that "
    "speak against the change outweigh it. Pattern correlations (El Niño less La Niña): of attribution per area on the "
    "same blocks, weighted by area; enrichment: share of |attribution| inside "
    "5S–5N, 190–240E over its share of the area, all variables. Rank r, random weights: Spearman's r of |attribution| "
    "between the network and the same with all its encoder's weights drawn anew (head kept): near 0 is good; rank r, "
    "input alone: the same with the sizes of the anomalies, which any product with the input shares. "
    "Intervals: paired block bootstrap over years of the events, given these seeds; with random weights over the "
    "{tried} events that were tried."
)
MECHANISM_WORDS = (
    " Mechanism: correlation of each cell with the planet's best forecast as carried by the hidden states that drive "
    "its oscillator (SST, thermocline, wind bursts); r with mechanism compares sizes."
)


@dataclass(frozen=True)
class ExplainConfig(TaskConfig):
    """What to explain and how; store: monthly with sst or ssta; see `TaskConfig` for the rest.

    The maps need no shares of labels, no random features and no network from scratch.

    Attributes:
        lead: Months from the last input month to the last month of the season; 0 is diagnosis.
        window: Most input months of any row; at least the encoder's.
        poolings: mean, last, pcs, mean+pcs.
        components: Numbers of principal components to choose from.
        samples: Events to explain of each sign, at most.
        quantile: Of the training labels that an event lies beyond.
        ig_steps: Points of integrated gradients to begin with; doubled until they add up.
        tolerance: Largest gap of their completeness, see `Gradients`.
        superpixel: Rows and columns of LIME's superpixels; also of the blocks of deletion and insertion, and of those
            that maps are compared on.
        lime_samples: Perturbed inputs an event.
        occlusion, stride: Rows and columns of the occluding block, and of its steps.
        penalty: On the squared departures of the optimal input.
        optimal_steps: Iterations towards it, at most.
        random_samples: Events of the test with random weights.
        seed: Of LIME, of the random order and of the random weights.
    """

    task: str = "explain"
    lead: int = 6
    window: int = 12
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs", "mean+pcs"])
    components: list[int] = field(default_factory=lambda: [10, 20])
    untrained_seeds: int = 1
    random_seeds: int = 0
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(seeds=0))
    fractions: list[float] = field(default_factory=list)
    samples: int = 24
    quantile: float = 0.8
    ig_steps: int = 32
    tolerance: float = 0.01
    superpixel: list[int] = field(default_factory=lambda: [3, 5])
    lime_samples: int = 256
    occlusion: list[int] = field(default_factory=lambda: [3, 5])
    stride: list[int] = field(default_factory=lambda: [2, 3])
    penalty: float = 0.1
    optimal_steps: int = 60
    random_samples: int = 4
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_seeds or self.scratch.seeds or self.fractions:
            raise EarthSSLError(
                "explain: expected no random_seeds, scratch.seeds or fractions, as maps have neither random features, "
                f"nor a network from scratch, nor a curve over labels, got {self.random_seeds}, {self.scratch.seeds} "
                f"and {self.fractions}; leave them out"
            )
        for part in ("superpixel", "occlusion", "stride"):
            given = getattr(self, part)
            if len(given) != 2 or min(given) < 1:
                raise EarthSSLError(f"explain.{part}: expected two whole numbers from 1 (rows, columns), got {given}")
        if any(step > size for step, size in zip(self.stride, self.occlusion, strict=True)):
            raise EarthSSLError(f"explain.stride: expected at most the block {self.occlusion}, got {self.stride}: "
                                "cells between the blocks would have no attribution")  # fmt: skip
        if not 0.5 < self.quantile < 1:
            raise EarthSSLError(f"explain.quantile: expected a number between 0.5 and 1, got {self.quantile:g}")
        for part in ("samples", "random_samples", "ig_steps", "optimal_steps"):
            if getattr(self, part) < 1:
                raise EarthSSLError(f"explain.{part}: expected a whole number from 1, got {getattr(self, part)}")
        if not self.tolerance > 0 or self.penalty < 0:
            raise EarthSSLError(
                f"explain: expected tolerance > 0 and penalty ≥ 0, got {self.tolerance:g} and {self.penalty:g}"
            )
        for pooling in (one for one in self.poolings if one not in POOLINGS):
            raise EarthSSLError(
                f"explain.poolings: expected {', '.join(POOLINGS)}, got '{pooling}'." + nearest(pooling, POOLINGS)
            )
        if not self.poolings or min(self.components, default=0) < 1:
            raise EarthSSLError("explain: expected some pooling, and numbers of components from 1")

    def options(self) -> Options:
        """Return the settings of the methods."""
        pairs: dict[str, Any] = {name: tuple(getattr(self, name)) for name in ("superpixel", "occlusion", "stride")}
        plain = ("ig_steps", "tolerance", "lime_samples", "penalty", "optimal_steps", "random_samples", "seed")
        return Options(**pairs, **{name: getattr(self, name) for name in plain})


class Explain(Task[ExplainConfig]):
    """Maps of what the index rests on, for the events of the test block."""

    name = "explain"
    what = "What Niño 3.4 rests on"
    convention = CONVENTION
    Config = ExplainConfig

    def __init__(self, config: ExplainConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        captum_attr()
        self.labels = StateLabels.from_store(store, [config.lead], config.window)
        self.options = config.options()
        self.regions = superpixels(store.grid, len(store.variables), self.options.superpixel)
        check_samples(self.regions, self.options.lime_samples)
        self.events = Events.choose(self.labels, config.lead, config.samples, config.quantile)
        self.target = f"Niño 3.4, lead {config.lead}"
        self.length = 0  # steps of the encoders' windows
        self.explanations: list[Explanation] = []

    def encoders(self) -> list[Contender]:
        found = super().encoders()
        check_window(self.labels, found[0].encoder.config)
        self.length = found[0].encoder.config.window
        return found

    @cached_property
    def windows(self) -> Windows:
        """The input windows of the events."""
        return Windows.read(self.store, self.events.rows, self.length)

    @cached_property
    def linear(self) -> LinearMap:
        """Linear regression of the index on the raw fields."""
        test = self.labels.rows("test", self.config.lead)
        return linear_map(self.store, self.labels, self.config.lead, self.length, test)

    @cached_property
    def references(self) -> dict[str, np.ndarray]:
        """Reference maps of every event, steps summed: weight × input, correlation × input, and noise."""
        values = self.windows.values.numpy()
        noise = random_maps(len(values), values.shape[2:], self.config.seed).numpy()
        return {
            LINEAR: (values * self.linear.weight).sum(axis=1),
            POINT: (values * self.linear.correlation).sum(axis=1),
            RANDOM: noise * self.windows.known.numpy(),
        }

    @cached_property
    def footprint(self) -> np.ndarray | None:
        """Where the planet keeps what the index will depend on; None on other data."""
        return mechanism(self.store, self.labels, self.config.lead)

    def targets(self) -> Sequence[Target]:
        known = self.store.statistics.known
        return [target_of(self.target, self.events, self.references[LINEAR], self.store.grid, known, self.footprint,
                          self.regions, self.config.block)]  # fmt: skip

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        head = self.head_of(encoder, layers)
        found = explain(encoder, head, self.windows, self.events, self.references, self.options)
        self.explanations.append(found)
        yield from rows_of(found, self.references, self.events, self.store.statistics.known, self.target)

    def head_of(self, one: Contender, layers: Sequence[int]) -> TokenHead:
        """Return the ridge head of an encoder as weights on its tokens."""
        config, windows = self.config, self.windows
        cache = Path(config.cache) if config.cache else Path(config.out).with_name(Path(config.out).name + "-features")
        file = cache / cache_name(one.weights_sha256, self.store, layers)
        raw = cached(file, one.encoder, self.store, layers, f"features, {one.kind} seed {one.seed}")
        batch = Batch(windows.values[:1], windows.valid[:1], windows.times[:1], torch.zeros(1, dtype=torch.int64),
                      windows.known, windows.variables, windows.grid)  # fmt: skip
        patches = patchify(batch, one.encoder.config.patch)
        final = (patches.step == patches.shape[0] - 1).numpy()
        return fit_head(raw, final, self.labels, config.lead, layers, config.poolings, config.components)

    def title(self) -> str:
        first, last = (str(month)[:4] for month in self.labels.enso.blocks["test"])
        return f"What Niño 3.4 {self.config.lead} months ahead rests on, {self.source()}, test {first}–{last}"

    def convention_text(self) -> str:
        events, config = self.events, self.config
        said = self.convention.format(
            lead=config.lead, low=events.limits[0], high=events.limits[1], share=100 * (1 - config.quantile),
            samples=len(events.rows), window=self.length, block="×".join(map(str, config.superpixel)) + " cells",
            tried=min(config.random_samples, len(events.rows)),
        )  # fmt: skip
        return said + (MECHANISM_WORDS if self.footprint is not None else "")

    def samples(self) -> Mapping[str, Any]:
        events = self.events
        return {"El Niño": events.found[0], "La Niña": events.found[1], "explained": len(events.rows),
                "years": len(np.unique(events.units))}  # fmt: skip

    def found(
        self,
        rows: Sequence[Row],
        scores: pd.DataFrame,
        differences: pd.DataFrame,
        main: Sequence[tuple[str, str]],
    ) -> str:
        return finding(self.explanations[0].kind, scores, differences)

    def missing(self) -> list[str]:
        return [] if self.config.checkpoints else ["No pretrained encoder is explained: checkpoints is empty."]

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        found, references, events, store = self.explanations, self.references, self.events, self.store
        skill = heads(found, self.linear, self.labels, self.config.lead)
        pictures, words = figures(found, references, events, store, self.footprint, self.source())
        shares = share_by_variable(found, references, events, store.statistics.known, store.variables)
        return Extras(
            figures=pictures,
            words=words,
            tables={"heads": skill, "checks": checks(found), "randomisation": randomisation_table(found),
                    "share_by_variable": shares},
            datasets={"maps": dataset(found, references, events, store, self.footprint)},
            notes=notes(found, scores, skill, self.config.tolerance),
            record={"heads": skill.to_dict("records"),
                    "completeness_gap": {f"{e.kind} seed {e.seed}": e.gap for e in found}},
        )  # fmt: skip
