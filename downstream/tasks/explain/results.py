"""Pictures, maps and small tables of explanations, as the summary of the task shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ....ssl.store.store import Store
from ...evaluation.encoders import PRETRAINED
from ...results.numbers import number
from ..enso.state_labels import StateLabels
from .explanations import COMPOSITES, GRADIENTS, METHODS, OPTIMAL, Events, Explanation
from .figures import curve_figure, map_figure, randomisation_figure
from .references import LinearMap
from .scores import INSENSITIVE, INSERTION, LINEAR, POINT, RANDOM, WITH_MECHANISM, name_of

SENSITIVE = 0.5  # rank correlation above which a map hardly depends on the weights


def heads(explanations: Sequence[Explanation], linear: LinearMap, labels: StateLabels, lead: int) -> pd.DataFrame:
    """Return how good the explained forecasts are on all test samples."""
    test = labels.rows("test", lead)
    truth = labels.season[test + lead]
    rows = [(f"{e.kind} seed {e.seed}", e.head.features, e.head.penalty, e.head.validation_rmse, e.head.forecast[test])
            for e in explanations]  # fmt: skip
    rows.append(("linear regression on the raw fields", "all cells", linear.penalty, linear.validation_rmse,
                 linear.forecast))  # fmt: skip
    return pd.DataFrame(
        [
            {"function": name, "features": features, "penalty": penalty, "validation RMSE (K)": error,
             "test RMSE (K)": float(np.sqrt(((f - truth) ** 2).mean())), "test r": float(np.corrcoef(f, truth)[0, 1])}
            for name, features, penalty, error, f in rows
        ]
    )  # fmt: skip


def checks(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """Return whether the methods did what they promise, an encoder a line."""
    return pd.DataFrame(
        [
            {
                "encoder": f"{e.kind} seed {e.seed}",
                "completeness gap (share)": e.gap,
                "points on the path": e.steps,
                "LIME fidelity R²": e.fidelity,
                **{f"optimal input, {name}: wanted (K)": float(e.reached[k, 1]) for k, name in enumerate(COMPOSITES)},
                **{f"optimal input, {name}: reached (K)": float(e.reached[k, 0]) for k, name in enumerate(COMPOSITES)},
                "optimal input, size (rms, normalised)": float(np.sqrt((e.optimal**2).mean())),
                "mean index at the climatology (K)": float(e.index[:, 1].mean()),
            }
            for e in explanations
        ]
    )


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
    shares: dict[str, list[np.ndarray]] = {}
    for one in explanations:
        for order, maps in {**{name: one.maps(name) for name in METHODS}, **references}.items():
            size = np.abs(np.tensordot(events.sign, np.where(known, maps, 0.0), 1)).sum(axis=(1, 2))
            shares.setdefault(name_of(one.kind, order), []).append(size / size.sum())
    return pd.DataFrame(
        [{"row": name, **dict(zip(variables, np.mean(own, axis=0).tolist(), strict=True))}
         for name, own in shares.items()]
    )  # fmt: skip


def finding(kind: str, scores: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return one sentence of what was found about the encoders of a kind.

    Args:
        kind: Of encoder.
        scores, differences: Of all rows.
    """
    means = scores[scores["seed"] == ""].set_index(["metric", "row"])["value"]
    verdicts = differences.set_index(["metric", "row", "reference"])["verdict"]
    own = [name_of(kind, method) for method in METHODS]
    best = str(means[INSERTION][own].idxmax())
    against = ", ".join(
        f"{verdicts[INSERTION, best, name_of(kind, order)]} against the {order}" for order in (LINEAR, RANDOM)
    )
    said = [f"{best} orders the blocks best (insertion AUC {number(means[INSERTION, best])}: {against})"]
    if WITH_MECHANISM in means.index:
        best = str(means[WITH_MECHANISM][own].idxmax())
        line = f"{best} agrees best with the mechanism (r {number(means[WITH_MECHANISM, best])}"
        twin = best.replace(PRETRAINED, "untrained", 1)
        compared = (WITH_MECHANISM, best, twin) in verdicts.index
        said.append(line + (f": {verdicts[WITH_MECHANISM, best, twin]} against {twin})" if compared else ")"))
    stuck = int((means[INSENSITIVE][own] > SENSITIVE).sum())
    kinds = "all its maps depend" if not stuck else f"{stuck} of its {len(own)} kinds of maps hardly depend"
    said.append(f"{kinds} on its weights")
    return "; ".join(said) + "."


def notes(
    explanations: Sequence[Explanation], scores: pd.DataFrame, skill: pd.DataFrame, tolerance: float
) -> list[str]:
    """Return what the reader must know beside the numbers."""
    said = [
        "Integrated gradients add up to f(x) − f(climatology): largest gap "
        + ", ".join(f"{e.gap:.1e} ({e.kind} seed {e.seed}, {e.steps} points)" for e in explanations)
        + f" of its root mean square; allowed {tolerance:g}."
    ]
    said.append(
        "How good the explained forecasts are on all test samples (r, no intervals): "
        + ", ".join(f"{name} {r:.3f}" for name, r in zip(skill["function"], skill["test r"], strict=True))
        + ". A map explains its function, however good that is."
    )
    own = scores[(scores["metric"] == INSENSITIVE) & (scores["seed"] == "") & (scores["value"] > SENSITIVE)]
    if len(own):
        named = ", ".join(f"{one.row} ({one.value:.2f})" for one in own.itertuples())
        said.append(
            f"Maps that hardly depend on the weights (rank correlation above {SENSITIVE:g} with a random network): "
            f"{named}. They show the input more than the network."
        )
    said.append(
        "Integrated gradients and optimal inputs are sharper than a patch: read single cells with care; orders and "
        "correlations are taken on blocks."
    )
    said.append(
        "The one-point correlation map and the optimal input × input are no shares of the index: their sizes compare "
        "only within a map."
    )
    return said


def _composite(maps: np.ndarray, events: Events, sign: int, known: np.ndarray) -> np.ndarray:
    """Return the mean of maps over the events of a sign, NaN at unknown cells."""
    return np.where(known, maps[events.sign == sign].mean(axis=0), np.nan)


def figures(
    explanations: Sequence[Explanation],
    references: Mapping[str, np.ndarray],
    events: Events,
    store: Store,
    footprint: np.ndarray | None,
    source: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the pictures and, by the same names, what they show in words."""
    known, grid, variables = store.statistics.known, store.grid, store.variables
    one, other = explanations[0], next((e for e in explanations if e.kind != explanations[0].kind), None)
    units = dict.fromkeys((*METHODS, LINEAR), "K per cell")
    units |= {OPTIMAL: "arbitrary", POINT: "r × anomaly", "untrained: " + GRADIENTS: "K per cell"}
    made: dict[str, Any] = {}
    words: dict[str, str] = {}
    listed = ", ".join(variables)
    for k, name in enumerate(COMPOSITES):
        sign = 1 - 2 * k
        maps = {m: one.maps(m) for m in METHODS} | {m: references[m] for m in (LINEAR, POINT)}
        if other is not None and one.kind == PRETRAINED:
            maps["untrained: " + GRADIENTS] = other.maps(GRADIENTS)
        rows = {m: _composite(values, events, sign, known) for m, values in maps.items()}
        key = "attribution_" + ("el_nino", "la_nina")[k]
        count = int((events.sign == sign).sum())
        title = f"{name}, mean of {count} test events: {one.kind} seed {one.seed}; {source}"
        made[key] = map_figure(rows, variables, units, grid, title)
        words[key] = (
            f"Attribution maps for {name} ({count} test events, {source}): a row for each of {', '.join(rows)}; a "
            f"column for each of {listed}. Red adds to the index, blue takes from it, grey is land or unknown, the box "
            f"is Niño 3.4. Network: {one.kind} seed {one.seed}; colours share a scale within a row."
        )
    best = {name: np.where(known, one.optimal[k].mean(axis=0), np.nan) for k, name in enumerate(COMPOSITES)}
    made["optimal_input"] = map_figure(
        best, variables, dict.fromkeys(best, "normalised anomaly"), grid, f"Optimal inputs, mean over steps; {source}"
    )
    words["optimal_input"] = (
        f"Optimal inputs of the {one.kind} network, seed {one.seed}: the small anomalies (normalised, mean over "
        f"the input steps and the events' calendar months) that give an index of {one.reached[0, 1]:+.2f} K (reached: "
        f"{one.reached[0, 0]:+.2f} K) and {one.reached[1, 1]:+.2f} K (reached: {one.reached[1, 0]:+.2f} K); "
        f"columns: {listed}."
    )
    if footprint is not None:
        shown = {"best forecast": footprint}
        made["mechanism"] = map_figure(
            shown, variables, {"best forecast": "correlation"}, grid, f"Where the planet's mechanism shows; {source}"
        )
        words["mechanism"] = (
            f"The known answer: correlation of each cell of {listed} with the planet's best forecast of the index, as "
            "carried by the hidden states that drive its oscillator."
        )
    shares = {
        kind: {name: _share(getattr(curve, kind), curve.change) for name, curve in one.curves.items()}
        for kind in ("deletion", "insertion")
    }
    made["deletion_and_insertion"] = curve_figure(
        shares, f"{one.kind} seed {one.seed}, {len(events.rows)} events; {source}"
    )
    words["deletion_and_insertion"] = (
        "Share of the change of the index that is left when blocks of cells are set to the climatology (left), and "
        "that is there when they alone are shown (right), the most important first, by the order of each map: "
        + ", ".join(one.curves)
        + "."
    )
    made["random_weights"] = randomisation_figure(
        randomisation_table(explanations), f"Maps of networks with ever more random weights; {source}"
    )
    words["random_weights"] = (
        "Rank correlation of |attribution| between each network and the same with its weights drawn anew from the last "
        "block it reads down to the input; a map that depends on the weights falls towards 0."
    )
    return made, words


def _share(curve: np.ndarray, change: np.ndarray) -> np.ndarray:
    return np.asarray(curve.sum(axis=0) / change.sum())


def dataset(
    explanations: Sequence[Explanation],
    references: Mapping[str, np.ndarray],
    events: Events,
    store: Store,
    footprint: np.ndarray | None,
) -> xr.Dataset:
    """Return the composites of every encoder and method, by step, and the optimal inputs and references."""
    known = store.statistics.known
    steps = explanations[0].optimal.shape[1]
    composites = np.stack(
        [
            [[_composite(e.attribution[m], events, sign, known) for sign in (1, -1)] for m in METHODS]
            for e in explanations
        ]
    )
    space = ("variable", "lat", "lon")
    unit = "K per cell; squared normalised anomaly for 'optimal input × input'"
    made: dict[str, Any] = {
        "attribution": (("encoder", "method", "composite", "lag", *space), composites.astype(np.float32),
                        {"units": unit, "long_name": "mean attribution over test events"}),
        "optimal_input": (("encoder", "composite", "lag", *space),
                          np.where(known, np.stack([e.optimal for e in explanations]), np.nan).astype(np.float32),
                          {"units": "1", "long_name": "normalised anomaly that gives the composite's mean index"}),
        "linear_regression": (("composite", *space),
                              np.stack([_composite(references[LINEAR], events, s, known) for s in (1, -1)]),
                              {"units": "K per cell", "long_name": "ridge weight × input, steps summed"}),
        "one_point_correlation": (("composite", *space),
                                  np.stack([_composite(references[POINT], events, s, known) for s in (1, -1)]),
                                  {"units": "1", "long_name": "correlation × input, steps summed"}),
        "area": (("lat", "lon"), store.grid.area, {"units": "1", "long_name": "share of the sphere"}),
    }  # fmt: skip
    if footprint is not None:
        made["mechanism"] = (space, footprint, {"units": "1", "long_name": "correlation with the best forecast"})
    coords = {
        "encoder": [f"{e.kind} seed {e.seed}" for e in explanations],
        "method": list(METHODS),
        "composite": list(COMPOSITES),
        "lag": ("lag", np.arange(1 - steps, 1), {"units": "months", "long_name": "input step, 0 is the last"}),
        "variable": list(store.variables),
        "lat": ("lat", store.grid.lat, {"units": "degrees_north"}),
        "lon": ("lon", store.grid.lon, {"units": "degrees_east"}),
    }
    rule = f"label at least {events.limits[1]:+.3f} K (El Niño) or at most {events.limits[0]:+.3f} K (La Niña)"
    about = {"source": str(store.manifest["source"]), "composites": rule, "events": len(events.rows)}
    return xr.Dataset(made, coords, about)
