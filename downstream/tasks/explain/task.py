"""explain: which cells an index rests on that a frozen encoder and its head forecast, and whether to trust the maps."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.common.files import refuse_filled
from ....ssl.fields.batch import Batch
from ....ssl.model.encoder import EncoderConfig
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender, contenders, layers_to_read
from ...evaluation.summary import DIFFERENCES, SCORES, Summary
from ...features.frozen_features import cache_name, cached
from ..enso.state_labels import StateLabels, check_window
from .attribution import captum_attr, check_samples, superpixels
from .explanations import Events, Options, explain
from .index_function import POOLINGS, TokenHead, Windows, fit_head
from .references import LinearMap, linear_map, mechanism, random_maps
from .results import checks, dataset, figures, heads, notes
from .tables import LINEAR, POINT, RANDOM, randomisation_table, share_by_variable, tables

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
    "Intervals: paired block bootstrap over years of the events, given these seeds."
)
MECHANISM_WORDS = (
    " Mechanism: correlation of each cell with the planet's best forecast as carried by the hidden states that drive "
    "its oscillator (SST, thermocline, wind bursts); r with mechanism compares sizes."
)


@dataclass(frozen=True)
class ExplainConfig:
    """What to explain and how.

    Attributes:
        store: Folder of a monthly training store with sst or ssta.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; empty: untrained only.
        task: explain.
        lead: Months from the last input month to the last month of the season; 0 is diagnosis.
        window: Most input months of any row; at least the encoder's.
        poolings: mean, last, pcs, mean+pcs.
        components: Numbers of principal components to choose from.
        layers: Blocks to choose from; null: the last third.
        untrained_seeds: Number of randomly initialised twins.
        encoder: Shape of the untrained encoders where there are no checkpoints.
        samples: Events to explain of each sign, at most.
        quantile: Of the training labels that an event lies beyond.
        ig_steps: Points of integrated gradients to begin with; doubled until they add up.
        tolerance: Largest gap of their completeness, see `Gradients`.
        superpixel: Rows and columns of LIME's superpixels; also of the blocks of deletion and insertion, and of those
            that maps are compared on.
        lime_samples: Perturbed inputs an event.
        block, stride: Rows and columns of the occluding block, and of its steps.
        penalty: On the squared departures of the optimal input.
        optimal_steps: Iterations towards it, at most.
        random_samples: Events of the test with random weights.
        seed: Of LIME, of the random order and of the random weights.
        draws: Bootstrap draws.
        block_years: Years in a bootstrap block.
        cache: Folder of cached features; null puts it beside the results.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = "explain"
    lead: int = 6
    window: int = 12
    poolings: list[str] = field(default_factory=lambda: ["mean", "pcs", "mean+pcs"])
    components: list[int] = field(default_factory=lambda: [10, 20])
    layers: list[int] | None = None
    untrained_seeds: int = 1
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    samples: int = 24
    quantile: float = 0.8
    ig_steps: int = 32
    tolerance: float = 0.01
    superpixel: list[int] = field(default_factory=lambda: [3, 5])
    lime_samples: int = 256
    block: list[int] = field(default_factory=lambda: [3, 5])
    stride: list[int] = field(default_factory=lambda: [2, 3])
    penalty: float = 0.1
    optimal_steps: int = 60
    random_samples: int = 4
    seed: int = 0
    draws: int = 1000
    block_years: int = 2
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.task != "explain":
            raise EarthSSLError(f"probe.task: expected explain, got '{self.task}'")
        for part in ("superpixel", "block", "stride"):
            given = getattr(self, part)
            if len(given) != 2 or min(given) < 1:
                raise EarthSSLError(f"explain.{part}: expected two whole numbers from 1 (rows, columns), got {given}")
        if any(step > size for step, size in zip(self.stride, self.block, strict=True)):
            raise EarthSSLError(f"explain.stride: expected at most the block {self.block}, got {self.stride}: cells "
                                "between the blocks would have no attribution")  # fmt: skip
        if not 0.5 < self.quantile < 1:
            raise EarthSSLError(f"explain.quantile: expected a number between 0.5 and 1, got {self.quantile:g}")
        for part in ("samples", "random_samples", "ig_steps", "optimal_steps", "block_years"):
            if getattr(self, part) < 1:
                raise EarthSSLError(f"explain.{part}: expected a whole number from 1, got {getattr(self, part)}")
        if self.draws < 1000 or not self.tolerance > 0 or self.penalty < 0 or self.untrained_seeds < 0:
            raise EarthSSLError(
                "explain: expected draws ≥ 1000, tolerance > 0, penalty ≥ 0 and untrained_seeds ≥ 0, got "
                f"{self.draws}, {self.tolerance:g}, {self.penalty:g} and {self.untrained_seeds}"
            )
        for pooling in (one for one in self.poolings if one not in POOLINGS):
            raise EarthSSLError(
                f"explain.poolings: expected {', '.join(POOLINGS)}, got '{pooling}'." + nearest(pooling, POOLINGS)
            )
        if not self.poolings or min(self.components, default=0) < 1:
            raise EarthSSLError("explain: expected some pooling, and numbers of components from 1")

    def options(self) -> Options:
        """Return the settings of the methods."""
        pairs: dict[str, Any] = {name: tuple(getattr(self, name)) for name in ("superpixel", "block", "stride")}
        plain = ("ig_steps", "tolerance", "lime_samples", "penalty", "optimal_steps", "random_samples", "seed")
        return Options(**pairs, **{name: getattr(self, name) for name in plain})


def run(config: ExplainConfig, command: str = "") -> Path:
    """Run the task and return the folder of its tables and maps.

    Raises:
        EarthSSLError: If captum is missing, store, checkpoints and task do not fit together, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    captum_attr()
    # Many small problems: BLAS threads would only wait for one another.
    with threadpool_limits(1, "blas"):
        return summarise(config).write(config.out, command)


def summarise(config: ExplainConfig) -> Summary:
    """Return the result of the task."""
    begun = time.perf_counter()
    store = Store(config.store)
    labels = StateLabels.from_store(store, [config.lead], config.window)
    encoders = contenders(store, config.checkpoints, config.untrained_seeds, config.encoder)
    shape = encoders[0].encoder.config
    check_window(labels, shape)
    options = config.options()
    regions = superpixels(store.grid, len(store.variables), options.superpixel)
    check_samples(regions, options.lime_samples)
    events = Events.choose(labels, config.lead, config.samples, config.quantile)
    windows = Windows.read(store, events.rows, shape.window)
    test = labels.rows("test", config.lead)
    linear = linear_map(store, labels, config.lead, shape.window, test)
    references = _references(linear, windows, config.seed)
    explanations = []
    for one in encoders:
        head = _head(config, labels, store, one, windows)
        explanations.append(explain(one, head, windows, events, references, options))
    known = store.statistics.known
    footprint = mechanism(store, labels, config.lead)
    scores, differences = tables(
        explanations, references, events, store.grid, known, footprint,
        regions, f"Niño 3.4, lead {config.lead}", config.draws, config.block_years,
    )  # fmt: skip
    synthetic = "planet" in store.manifest["attributes"]
    source = "the synthetic planet" if synthetic else store.manifest["source"]
    first, last = (str(month)[:4] for month in labels.enso.blocks["test"])
    skill = heads(explanations, linear, labels, config.lead)
    pictures, words = figures(explanations, references, events, store, footprint, source)
    convention = CONVENTION.format(
        lead=config.lead, low=events.limits[0], high=events.limits[1], share=100 * (1 - config.quantile),
        samples=len(events.rows), window=shape.window, block="×".join(map(str, config.superpixel)) + " cells",
    )  # fmt: skip
    return Summary(
        task="explain",
        title=f"What Niño 3.4 {config.lead} months ahead rests on, {source}, test {first}–{last}",
        convention=convention + (MECHANISM_WORDS if footprint is not None else ""),
        scores=scores[list(SCORES)],
        differences=differences[list(DIFFERENCES)],
        record={
            "source": store.manifest["source"],
            "synthetic": synthetic,
            "split": store.splits.to_json(),
            "store_fingerprint": store.fingerprint,
            "events": {"El Niño": events.found[0], "La Niña": events.found[1], "explained": len(events.rows),
                       "years": len(np.unique(events.units))},
            "heads": skill.to_dict("records"),
            "completeness_gap": {f"{e.kind} seed {e.seed}": e.gap for e in explanations},
            "encoders": [{"kind": one.kind, **one.source} for one in encoders],
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures=pictures,
        words=words,
        tables={
            "heads": skill,
            "checks": checks(explanations),
            "randomisation": randomisation_table(explanations),
            "share_by_variable": share_by_variable(explanations, references, events, known, store.variables),
        },
        datasets={"maps": dataset(explanations, references, events, store, footprint)},
        notes=notes(explanations, scores, skill, config.tolerance),
    )  # fmt: skip


def _head(config: ExplainConfig, labels: StateLabels, store: Store, one: Contender, windows: Windows) -> TokenHead:
    cache = Path(config.cache) if config.cache else Path(config.out).with_name(Path(config.out).name + "-features")
    layers = layers_to_read(config.layers, one.encoder.depth)
    file = cache / cache_name(one.weights_sha256, store, layers)
    raw = cached(file, one.encoder, store, layers, f"features, {one.kind} seed {one.seed}")
    batch = Batch(windows.values[:1], windows.valid[:1], windows.times[:1], torch.zeros(1, dtype=torch.int64),
                  windows.known, windows.variables, windows.grid)  # fmt: skip
    patches = patchify(batch, one.encoder.config.patch)
    final = (patches.step == patches.shape[0] - 1).numpy()
    return fit_head(raw, final, labels, config.lead, layers, config.poolings, config.components)


def _references(linear: LinearMap, windows: Windows, seed: int) -> dict[str, np.ndarray]:
    """Return the reference maps of every sample, steps summed: weight × input, correlation × input, and noise."""
    values = windows.values.numpy()
    shape = values.shape[2:]
    return {
        LINEAR: (values * linear.weight).sum(axis=1),
        POINT: (values * linear.correlation).sum(axis=1),
        RANDOM: random_maps(len(values), shape, seed).numpy() * windows.known.numpy(),
    }
