"""explain: which cells an index rests on that a frozen encoder and its head forecast, and whether to trust the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.fields.batch import Batch
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender
from ...evaluation.task import Decoders, Extras, Task
from ...features.frozen_features import cache_name, cached, pooled
from ...features.store_windows import StoreWindows
from ...results.row import Row
from ...results.target import Target
from ..enso.state_labels import StateLabels, check_window
from .attribution import captum_attr, check_samples, superpixels
from .explanations import Events, ExplainConfig, Explanation, explain
from .index_function import TokenHead, fit_head, on_tokens
from .references import linear_map, mechanism, random_maps
from .results import Results, finding, heads
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
        self.regions = superpixels(store.grid, len(store.variables), config.superpixel)
        check_samples(self.regions, config.lime_samples)
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
    def windows(self) -> Batch:
        """The input windows of the events."""
        return StoreWindows(self.store, self.length).batch(self.events.rows)

    @cached_property
    def linear(self) -> tuple[TokenHead, np.ndarray]:
        """Linear regression of the index on the raw fields, and the correlation with each cell."""
        return linear_map(self.store, self.labels, self.config.lead, self.length)

    @cached_property
    def references(self) -> dict[str, np.ndarray]:
        """Reference maps of every event, steps summed: weight × input, correlation × input, and noise."""
        values, (regression, correlation) = self.windows.values.numpy(), self.linear
        noise = random_maps(len(values), values.shape[2:], self.config.seed).numpy()
        return {
            LINEAR: (values * regression.weight).sum(axis=1),
            POINT: (values * correlation).sum(axis=1),
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
        found = explain(encoder, head, self.windows, self.events, self.references, self.config)
        self.explanations.append(found)
        yield from rows_of(found, self.references, self.events, self.store.statistics.known, self.target)

    def head_of(self, one: Contender, layers: Sequence[int]) -> TokenHead:
        """Return the ridge head of an encoder as weights on its tokens."""
        config = self.config
        cache = Path(config.cache) if config.cache else Path(config.out).with_name(Path(config.out).name + "-features")
        file = cache / cache_name(one.features_key, self.store, layers)
        raw = cached(file, one.encoder, self.store, layers, f"features, {one.kind} seed {one.seed}")
        patches = patchify(self.windows, one.encoder.config.patch)
        final = (patches.step == patches.shape[0] - 1).numpy()
        candidates = pooled(raw, self.labels.enso.within("train"), layers, config.poolings, config.components)
        return fit_head(candidates, raw.rows, self.labels, config.lead, partial(on_tokens, final))

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
        self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame, main: Sequence[tuple[str, str]]
    ) -> str:
        return finding(self.explanations[0].kind, scores, differences)

    def missing(self) -> list[str]:
        return [] if self.config.checkpoints else ["No pretrained encoder is explained: checkpoints is empty."]

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        found = Results(self.explanations, self.references, self.events, self.store, self.footprint, self.source())
        skill = heads(self.explanations, self.linear[0], self.labels, self.config.lead)
        pictures, words = found.figures()
        return Extras(
            figures=pictures,
            words=words,
            tables={"heads": skill, "checks": found.checks(), "randomisation": found.randomisation(),
                    "share_by_variable": found.share_by_variable()},
            datasets={"maps": found.dataset()},
            notes=found.notes(scores, skill, self.config.tolerance),
            record={"heads": skill.to_dict("records"),
                    "completeness_gap": {one.name: one.gap for one in self.explanations}},
        )  # fmt: skip
