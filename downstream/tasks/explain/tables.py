"""Tables of explanations: faithfulness, agreement with references, and where the attribution lies, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ....ssl.fields.grid import LatLonGrid
from ...metrics.paired_bootstrap import compare
from ..enso.labels import NINO34
from .checks import enrichment, weighted_correlation
from .explanations import METHODS, Events, Explanation, area_of

LINEAR, POINT, RANDOM = REFERENCES = ("linear regression map", "one-point correlation map", "random order")
DELETION, INSERTION = "deletion AUC", "insertion AUC"
WITH_LINEAR, WITH_MECHANISM, BOX = "r with linear map", "r with mechanism", "Niño 3.4 enrichment"
INSENSITIVE, INPUT = "rank r, random weights", "rank r, input alone"
ORDERS = (*METHODS, *REFERENCES)


def name_of(kind: str, order: str) -> str:
    """Return the name of a row: the function that is explained, and by what."""
    return f"{kind} [{order}]"


def tables(
    explanations: Sequence[Explanation],
    references: Mapping[str, np.ndarray],
    events: Events,
    grid: LatLonGrid,
    known: np.ndarray,
    footprint: np.ndarray | None,
    regions: np.ndarray,
    target: str,
    draws: int,
    block: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores and paired differences, as `Summary` wants them.

    Args:
        explanations: Of every encoder; those of one kind are seeds, whose scores are averaged.
        references: Maps by name, (sample, variable, row, column).
        events: The samples and their years.
        grid, known: Of the columns.
        footprint: From `mechanism`, or None.
        regions: Block that each cell lies in, from `superpixels`: maps are compared block by block.
        target: What the rows are of.
        draws, block: Of the bootstrap over years.
    """
    rows = _rows(explanations, references)
    statistics = _statistics(rows, references[LINEAR], events, grid, known, footprint, regions)
    block = block if len(np.unique(events.units)) >= max(4, 2 * block) else 1
    scores, differences = [], []
    for metric, (score, against) in statistics.items():
        own, paired = compare(
            score, events.units, list(rows), [name for name in rows if _is(name, against)], draws=draws, block=block,
            larger_is_better=metric != DELETION,
        )  # fmt: skip
        scores.append(own.assign(seed="", target=target, metric=metric))
        differences.append(_comparable(paired, metric).assign(target=target, metric=metric))
    return (
        pd.concat([*scores, _sensitivity(explanations, target)], ignore_index=True),
        pd.concat(differences, ignore_index=True),
    )


Rows = dict[str, list[tuple[Explanation, str, np.ndarray]]]
Score = Callable[[np.ndarray], np.ndarray]  # weights of the samples -> scores of the rows
OfMap = Callable[[np.ndarray, np.ndarray], float]  # composite, weights -> score


def _rows(explanations: Sequence[Explanation], references: Mapping[str, np.ndarray]) -> Rows:
    made: Rows = {}
    for one in explanations:
        maps = {**{name: one.maps(name) for name in METHODS}, **references}
        for order, values in maps.items():
            made.setdefault(name_of(one.kind, order), []).append((one, order, values))
    return made


def _is(name: str, orders: Sequence[str]) -> bool:
    return any(name.endswith(f"[{order}]") for order in orders)


def _statistics(
    rows: Rows,
    linear: np.ndarray,
    events: Events,
    grid: LatLonGrid,
    known: np.ndarray,
    footprint: np.ndarray | None,
    regions: np.ndarray,
) -> dict[str, tuple[Score, Sequence[str]]]:
    """Return each metric's statistic (weights of the samples -> scores of the rows) and its references."""
    area = area_of(grid, known)
    box = np.broadcast_to(grid.box(*NINO34), known.shape)[known]
    # Blocks with an observed cell, as 0 or 1 for each column: sums over blocks are a product.
    inside = (np.unique(regions[known])[:, None] == regions[known]).astype(float)
    size = inside @ area
    # Signed and flat once: a draw is then one product of weights and maps.
    flat = [[maps[:, known] * events.sign[:, None] for _, _, maps in seeds] for seeds in rows.values()]
    truth = linear[:, known] * events.sign[:, None]

    def density(columns: np.ndarray) -> np.ndarray:
        return np.asarray(inside @ columns / size)  # attribution is a share of the index: per area to be compared

    def auc(kind: str) -> Score:
        parts = [[(one.curves[order].area(kind), one.curves[order].change) for one, order, _ in seeds]
                 for seeds in rows.values()]  # fmt: skip
        return lambda w: np.array([np.mean([(w @ a) / (w @ c) for a, c in seeds]) for seeds in parts])

    def over(score: OfMap) -> Score:
        return lambda w: np.array([np.mean([score(w @ maps / w.sum(), w) for maps in seeds]) for seeds in flat])

    found: dict[str, tuple[Score, Sequence[str]]] = {
        DELETION: (auc("deletion"), (LINEAR, RANDOM)),
        INSERTION: (auc("insertion"), (LINEAR, RANDOM)),
        WITH_LINEAR: (over(lambda c, w: weighted_correlation(density(c), density(w @ truth), size)), ()),
        BOX: (over(lambda c, w: enrichment(c, box, area)), ()),
    }
    if footprint is not None:
        # Size against size: a filter may need a negative weight where a field carries the signal with a positive one.
        there = density(np.abs(np.nan_to_num(footprint))[known] * area)
        score = over(lambda c, w: weighted_correlation(np.abs(density(c)), there, size))
        found[WITH_MECHANISM] = (score, (*METHODS, LINEAR, RANDOM))
    return found


def _comparable(paired: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the differences that mean something: orders of one function, or one method on two functions."""
    kind = [[str(name).split(" [")[0] for name in paired[column]] for column in ("row", "reference")]
    order = [[str(name).split(" [")[1].rstrip("]") for name in paired[column]] for column in ("row", "reference")]
    kept = []
    for k in range(len(paired)):
        same = kind[0][k] == kind[1][k]
        own = same and order[0][k] in METHODS and order[1][k] in REFERENCES
        across = metric == WITH_MECHANISM and kind[0][k] == "pretrained" and not same and order[0][k] == order[1][k]
        kept.append(own or (across and order[0][k] in METHODS))
    return paired[np.array(kept, dtype=bool)]


def _sensitivity(explanations: Sequence[Explanation], target: str) -> pd.DataFrame:
    """Return the rank correlation that is left when all weights are random, and that with the input alone.

    Both are means over the seeds.
    """
    lines = []
    for kind in dict.fromkeys(one.kind for one in explanations):
        parts = pd.concat([one.randomised for one in explanations if one.kind == kind])
        last = parts[parts["stage"] == "all weights"].groupby("method", sort=False)["rank_correlation"].mean()
        own = [one.input_alone for one in explanations if one.kind == kind]
        for method in METHODS:
            row = name_of(kind, method)
            lines.append({"row": row, "metric": INSENSITIVE, "value": float(last[method])})
            lines.append({"row": row, "metric": INPUT, "value": float(np.mean([seed[method] for seed in own]))})
    return pd.DataFrame(lines).assign(seed="", target=target, low=np.nan, high=np.nan)


def randomisation_table(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """Return rank correlations by encoder, method and how much of it is random."""
    return pd.concat(
        [one.randomised.assign(encoder=f"{one.kind} seed {one.seed}") for one in explanations], ignore_index=True
    )[["encoder", "method", "stage", "rank_correlation"]]


def share_by_variable(
    explanations: Sequence[Explanation],
    references: Mapping[str, np.ndarray],
    events: Events,
    known: np.ndarray,
    variables: Sequence[str],
) -> pd.DataFrame:
    """Return each variable's share of the |attribution| of the composite, mean over seeds."""
    lines = []
    for name, seeds in _rows(explanations, references).items():
        shares = []
        for _, _, maps in seeds:
            size = np.abs(np.tensordot(events.sign, np.where(known, maps, 0.0), 1)).sum(axis=(1, 2))
            shares.append(size / size.sum())
        lines.append({"row": name, **dict(zip(variables, np.mean(shares, axis=0).tolist(), strict=True))})
    return pd.DataFrame(lines)
