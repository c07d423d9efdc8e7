"""Attributions of one encoder and its head for events of the test block, by every method, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.batch import Batch
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...results.numbers import thinned
from ...training.from_scratch import ScratchConfig
from ..enso.state_labels import StateLabels
from .attribution import evaluate, integrated_gradients, lime, occlusion, optimal_input, sliding_blocks, superpixels
from .checks import Curves, curves, randomised, rank_correlations
from .index_function import POOLINGS, IndexFunction, TokenHead, month_of

GRADIENTS, LIME, OCCLUSION, OPTIMAL = METHODS = ("integrated gradients", "LIME", "occlusion", "optimal input × input")
COMPOSITES = ("El Niño", "La Niña")
HEAD_TOLERANCE = 0.05  # of the label's deviation: features are cached in half precision


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
        self.check({
            "superpixel occlusion stride samples random_samples ig_steps optimal_steps": "≥ 1", "tolerance": "> 0",
            "penalty": "≥ 0", "quantile": "(0.5, 1)", "poolings": POOLINGS,
        })  # fmt: skip
        for part in ("superpixel", "occlusion", "stride"):
            self.expect(len(getattr(self, part)) == 2, "two whole numbers (rows, columns)", part)
        if any(step > size for step, size in zip(self.stride, self.occlusion, strict=True)):
            raise EarthSSLError(f"explain.stride: expected at most the block {self.occlusion}, got {self.stride}: "
                                "cells between the blocks would have no attribution")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Events:
    """The test samples that are explained.

    Attributes:
        rows: Last input months, ascending, (sample,).
        sign: +1 for El Niño (label in the upper quantile of training), -1 for La Niña (lower), (sample,).
        label: Index of the season, K, (sample,).
        units: Year of each sample's season, (sample,).
        limits: Of the label, K: at most, at least.
        found: How many test samples of each composite there are, before they are thinned.
    """

    rows: np.ndarray
    sign: np.ndarray
    label: np.ndarray
    units: np.ndarray
    limits: tuple[float, float]
    found: tuple[int, int]

    @classmethod
    def choose(cls, labels: StateLabels, lead: int, samples: int, quantile: float) -> Events:
        """Return up to `samples` events of each sign, evenly spread over those of the test block.

        Raises:
            EarthSSLError: If the test block has none of a sign.
        """
        train = labels.season[labels.rows("train", lead) + lead]
        low, high = (float(v) for v in np.quantile(train, [1 - quantile, quantile]))
        test = labels.rows("test", lead)
        season = labels.season[test + lead]
        chosen, found = [], []
        for name, inside in zip(COMPOSITES, (season >= high, season <= low), strict=True):
            rows = test[inside]
            if not len(rows):
                raise EarthSSLError(
                    f"explain: expected test samples of {name} (label beyond {low:+.2f}…{high:+.2f} K, the quantile "
                    f"{quantile:g} of training), got none; lower explain.quantile or lengthen splits.test"
                )
            found.append(len(rows))
            chosen.append(np.array(thinned(rows, samples)))
        sign = np.repeat([1.0, -1.0], [len(rows) for rows in chosen])
        rows = np.concatenate(chosen)
        order = np.argsort(rows)
        rows, sign = rows[order], sign[order]
        return cls(rows, sign, labels.season[rows + lead], labels.years(rows, lead), (low, high), (found[0], found[1]))


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was found about one encoder.

    Attributes:
        kind, seed: Of the encoder.
        head: Its head.
        attribution: By method, (sample, step, variable, row, column); K, but squared deviations for the optimal input.
        optimal: Optimal input of each composite, mean over its samples' calendar months, normalised,
            (composite, step, variable, row, column).
        reached: Index that they give, and the index asked for, K, (composite, 2).
        curves: Deletion and insertion, by method and reference.
        randomised: Columns stage, method, rank_correlation (mean over the samples that were tried).
        insensitive: Rank correlation of each method's |attribution| with that of the network with all weights random,
            (sample,); NaN for samples that were not tried.
        input_alone: The same with the sizes of the input itself, (sample,).
        gap, steps: Completeness of the integrated gradients, and the points it took.
        fidelity: Mean R² of LIME's surrogates.
        at_climatology: Mean index at the climatology, K.
    """

    kind: str
    seed: int
    head: TokenHead
    attribution: Mapping[str, np.ndarray]
    optimal: np.ndarray
    reached: np.ndarray
    curves: Mapping[str, Curves]
    randomised: pd.DataFrame
    insensitive: Mapping[str, np.ndarray]
    input_alone: Mapping[str, np.ndarray]
    gap: float
    steps: int
    fidelity: float
    at_climatology: float

    def maps(self, method: str) -> np.ndarray:
        """Return a method's attribution with the steps summed, (sample, variable, row, column)."""
        return np.asarray(self.attribution[method].sum(axis=1))

    @property
    def name(self) -> str:
        """The encoder's kind and seed."""
        return f"{self.kind} seed {self.seed}"


def explain(
    one: Contender,
    head: TokenHead,
    windows: Batch,
    events: Events,
    references: Mapping[str, np.ndarray],
    config: ExplainConfig,
) -> Explanation:
    """Return the attributions of an encoder by every method, and their checks.

    Args:
        one: The encoder.
        head: Its head.
        windows: Of the events.
        events: Which they are.
        references: Maps that orders are compared with, (sample, variable, row, column) by name.
        config: Settings of the methods.

    Raises:
        EarthSSLError: If captum is missing, the differentiable function is not the probe's, or the integrated
            gradients do not add up.
    """
    function = IndexFunction(one.encoder, head, windows)
    at = torch.arange(len(windows))
    whole = evaluate(function, windows.values, at).numpy()
    off = float(np.abs(whole - head.forecast[events.rows]).max())
    if off > HEAD_TOLERANCE * np.nanstd(events.label):
        raise EarthSSLError(
            f"explain: expected the function of the fields to give the probe's forecasts, got {off:.3f} K beside them; "
            "remove the cached features and run again"
        )
    attribution, gap, steps, fidelity = _attributions(function, windows, at, config)
    optimal, gives = _optimal(function, windows, events, config, at.numpy())
    values, signs = windows.values.numpy(), [events.sign == s for s in (1, -1)]
    attribution[OPTIMAL] = values * optimal * events.sign[:, None, None, None, None]
    sizes, known = np.abs(values).sum(axis=1), windows.known.numpy()
    regions = superpixels(windows.grid, len(windows.variables), config.superpixel)
    sums = {name: value.sum(axis=1) for name, value in attribution.items()}
    table, insensitive = _randomised(one, head, windows, events, attribution, config)
    return Explanation(
        kind=one.kind,
        seed=one.seed,
        head=head,
        attribution=attribution,
        optimal=np.stack([optimal[own].mean(axis=0) for own in signs]),
        reached=np.array([[gives[own].mean(), events.label[own].mean()] for own in signs]),
        curves={
            name: curves(function, windows.values, at, windows.valid, maps, regions)
            for name, maps in {**sums, **references}.items()
        },
        randomised=table,
        insensitive=insensitive,
        input_alone={name: rank_correlations(maps, sizes, known) for name, maps in sums.items()},
        gap=gap,
        steps=steps,
        fidelity=fidelity,
        at_climatology=float(evaluate(function, torch.zeros_like(windows.values), at).numpy().mean()),
    )


def _attributions(
    function: IndexFunction, windows: Batch, at: Tensor, config: ExplainConfig
) -> tuple[dict[str, np.ndarray], float, int, float]:
    """Return attributions of the samples `at` by method; gap and steps of the gradients, and LIME's fidelity."""
    values, valid, grid, count = windows.values[at], windows.valid[at], windows.grid, len(windows.variables)
    gradients = integrated_gradients(function, values, at, config.ig_steps, config.tolerance)
    regions = superpixels(grid, count, config.superpixel)
    surrogate, fidelity = lime(function, values, at, valid, regions, config.lime_samples, config.seed)
    hidden = occlusion(function, values, at, valid, sliding_blocks(grid, count, config.occlusion, config.stride))
    found = {GRADIENTS: gradients.attribution, LIME: surrogate, OCCLUSION: hidden}
    arrays = {name: value.numpy() for name, value in found.items()}
    return arrays, gradients.gap, gradients.steps, float(fidelity.mean())


def _optimal(
    function: IndexFunction, windows: Batch, events: Events, config: ExplainConfig, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the optimal input for the sign and calendar month of each sample at `rows`, and the index that it gives.

    The index asked for is the mean label of the sample's composite.
    """
    wanted = np.array([events.label[events.sign == s].mean() for s in (1, -1)])
    side = (events.sign < 0).astype(int)
    kind = side * 12 + month_of(windows).numpy()
    _, first, of = np.unique(kind[rows], return_index=True, return_inverse=True)
    at = torch.from_numpy(rows[first])
    goal = torch.from_numpy(wanted[side[rows[first]]]).float()
    found = optimal_input(function, at, windows.valid[at], goal, config.penalty, config.optimal_steps)
    return found.numpy()[of], evaluate(function, found, at).numpy()[of]


def _randomised(
    one: Contender,
    head: TokenHead,
    windows: Batch,
    events: Events,
    attribution: Mapping[str, np.ndarray],
    config: ExplainConfig,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return how alike the maps of the network and of one with random weights are: by stage and method, and at last."""
    few = np.array(thinned(range(len(windows)), config.random_samples))
    at = torch.from_numpy(few)
    known = windows.known.numpy()
    lines = []
    last = {name: np.full(len(windows), np.nan) for name in attribution}
    for stage, encoder in randomised(one.encoder, head.layer, config.seed):
        function = IndexFunction(encoder, head, windows)
        found = _attributions(function, windows, at, replace(config, tolerance=0.05))[0]
        found[OPTIMAL] = windows.values.numpy()[few] * _optimal(function, windows, events, config, few)[0]
        for name, maps in found.items():
            r = rank_correlations(attribution[name][few].sum(axis=1), maps.sum(axis=1), known)
            lines.append({"stage": stage, "method": name, "rank_correlation": float(np.mean(r))})
            last[name][few] = r  # the last stage is that of all weights
    return pd.DataFrame(lines), last
