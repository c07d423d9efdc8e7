"""What maps are judged by: faithfulness, agreement with references, where the attribution lies, what it depends on.

A row is a method on an encoder, or a reference map (an order that needs no network) put to that encoder's function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....ssl.fields.grid import LatLonGrid
from ...metrics.paired_bootstrap import Statistic
from ...results.row import Role, Row
from ...results.target import Metric, Target, additive
from ..enso.labels import NINO34
from .checks import enrichment, weighted_correlation
from .explanations import METHODS, Events, Explanation

LINEAR, POINT, RANDOM = REFERENCES = ("linear regression map", "one-point correlation map", "random order")
DELETION, INSERTION = "deletion AUC", "insertion AUC"
WITH_LINEAR, WITH_MECHANISM, BOX = "r with linear map", "r with mechanism", "Niño 3.4 enrichment"
INSENSITIVE, INPUT = "rank r, random weights", "rank r, input alone"
ORDERS = (*METHODS, *REFERENCES)
CHANGE = "change of the event"


def name_of(kind: str, order: str) -> str:
    """Return the name of a row: the function that is explained, and by what."""
    return f"{kind} [{order}]"


def split_name(name: str) -> tuple[str, str]:
    """Return kind and order of a row's name."""
    kind, order = name.split(" [", 1)
    return kind, order.removesuffix("]")


def rows_of(
    one: Explanation, references: Mapping[str, np.ndarray], events: Events, known: np.ndarray, target: str
) -> list[Row]:
    """Return the rows of an encoder: each says its signed maps on the known columns (event, column), by the target.

    Beside them, event by event: the areas under its deletion and insertion curves, the whole change, and for methods
    the rank correlations with random weights (NaN where it was not tried) and with the input alone.
    """
    made = []
    for order, maps in {**{name: one.maps(name) for name in METHODS}, **references}.items():
        curve, method = one.curves[order], order in METHODS
        forecast = {
            target: maps[:, known] * events.sign[:, None],
            DELETION: curve.area("deletion"), INSERTION: curve.area("insertion"), CHANGE: curve.change,
            **({INSENSITIVE: one.insensitive[order], INPUT: one.input_alone[order]} if method else {}),
        }  # fmt: skip
        role = Role(one.kind) if method else Role.BASELINE
        reference = False if order == POINT else None
        made.append(Row(name_of(one.kind, order), role, forecast, one.seed, {"head": one.head.features}, reference))
    return made


def target_of(
    name: str,
    events: Events,
    linear: np.ndarray,
    grid: LatLonGrid,
    known: np.ndarray,
    footprint: np.ndarray | None,
    regions: np.ndarray,
    block: int,
) -> Target:
    """Return the target: the maps' scores as functions of the events' weights.

    Args:
        name: What the rows are of.
        events: The samples and their years.
        linear: The linear regression's maps, (sample, variable, row, column).
        grid, known: Of the columns.
        footprint: From `mechanism`, or None.
        regions: Block that each cell lies in, from `superpixels`: maps are compared block by block.
        block: Of the bootstrap over years.
    """
    area = np.broadcast_to(grid.area, known.shape)[known]
    box = np.broadcast_to(grid.box(*NINO34), known.shape)[known]
    # Blocks with an observed cell, as 0 or 1 for each column: sums over blocks are a product.
    inside = (np.unique(regions[known])[:, None] == regions[known]).astype(float)
    size = inside @ area
    truth = linear[:, known] * events.sign[:, None]

    def density(mass: np.ndarray) -> np.ndarray:
        return np.asarray((inside @ mass) / size)

    def curve(kind: str, **options: Any) -> Metric:
        return additive(kind, lambda row: np.stack([row.forecast[kind], row.forecast[CHANGE]]),
                        lambda sums, w: sums[0] / sums[1], pairs=of_one_function, **options)  # fmt: skip

    def composite(score: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Sequence[Row]], Statistic]:
        def statistic(rows: Sequence[Row]) -> Statistic:
            return lambda w: np.array([score(w @ row.forecast[name] / w.sum(), w) for row in rows])

        return statistic

    def mean(part: str) -> Callable[[Sequence[Row]], Statistic]:
        def statistic(rows: Sequence[Row]) -> Statistic:
            values = np.stack([row.forecast[part] for row in rows])
            tried = np.isfinite(values).all(axis=0)
            # NaN in a draw of none of the events that were tried.
            return lambda w: (values[:, tried] @ w[tried]) / (w[tried].sum() or np.nan)

        return statistic

    def told(part: str) -> Callable[[Row], bool]:
        return lambda row: part in row.forecast

    metrics = [
        curve(INSERTION),
        curve(DELETION, larger_is_better=False),
        Metric(WITH_LINEAR, composite(lambda c, w: weighted_correlation(density(c), density(w @ truth), size)),
               compared=False),
        Metric(BOX, composite(lambda c, w: enrichment(c, box, area)), compared=False),
    ]  # fmt: skip
    if footprint is not None:
        # Size against size: a filter may need a negative weight where a field carries the signal with a positive one.
        there = density(np.abs(np.nan_to_num(footprint))[known] * area)
        with_mechanism = composite(lambda c, w: weighted_correlation(np.abs(density(c)), there, size))
        metrics.append(Metric(WITH_MECHANISM, with_mechanism, pairs=of_one_function_or_two))
    metrics += [
        Metric(part, mean(part), larger_is_better=False, compared=False, takes=told(part))
        for part in (INSENSITIVE, INPUT)
    ]
    shown = [metric.name for metric in metrics if metric.name not in (BOX, INPUT)]
    return Target(name, events.units, metrics, block, main=shown)


def of_one_function(row: str, reference: str) -> bool:
    """Return whether a row is a method, the other a reference order, of one function."""
    (kind, order), (other, against) = split_name(row), split_name(reference)
    return kind == other and order in METHODS and against in REFERENCES


def of_one_function_or_two(row: str, reference: str) -> bool:
    """Return whether the rows are of one function, as above, or one method on the pretrained and another one."""
    (kind, order), (other, against) = split_name(row), split_name(reference)
    across = kind == "pretrained" and kind != other and order == against and order in METHODS
    return across or of_one_function(row, reference)
