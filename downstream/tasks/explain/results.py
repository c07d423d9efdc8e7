"""Pictures, maps and small tables of explanations, as the summary of the task shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ....ssl.store.store import Store
from ...evaluation.encoders import PRETRAINED
from ...results.numbers import number
from ..enso.state_labels import StateLabels
from .explanations import COMPOSITES, GRADIENTS, METHODS, OPTIMAL, Events, Explanation
from .figures import curve_figure, map_figure, randomisation_figure
from .index_function import TokenHead
from .scores import INSENSITIVE, INSERTION, LINEAR, POINT, RANDOM, WITH_MECHANISM, name_of

SENSITIVE = 0.5  # rank correlation above which a map hardly depends on the weights


def heads(explanations: Sequence[Explanation], linear: TokenHead, labels: StateLabels, lead: int) -> pd.DataFrame:
    """Return how good the explained forecasts are on all test samples."""
    test = labels.rows("test", lead)
    truth, rows = labels.season[test + lead], []
    every = [*((one.name, one.head) for one in explanations), ("linear regression on the raw fields", linear)]
    for name, head in every:
        f = head.forecast[test]
        rows.append({
            "function": name, "features": head.features, "penalty": head.penalty,
            "validation RMSE (K)": head.validation_rmse, "test RMSE (K)": float(np.sqrt(((f - truth) ** 2).mean())),
            "test r": float(np.corrcoef(f, truth)[0, 1]),
        })  # fmt: skip
    return pd.DataFrame(rows)


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


@dataclass(frozen=True, eq=False)
class Results:
    """What was found of all encoders, as it is shown.

    Attributes:
        explanations: Of each encoder.
        references: Reference maps of the events, see `explain`.
        events: Which they are.
        store: Their fields.
        footprint: From `mechanism`, or None.
        source: Where the data come from, in words.
    """

    explanations: Sequence[Explanation]
    references: Mapping[str, np.ndarray]
    events: Events
    store: Store
    footprint: np.ndarray | None
    source: str

    def checks(self) -> pd.DataFrame:
        """Return whether the methods did what they promise, an encoder a line."""
        rows = []
        for e in self.explanations:
            both = {"wanted": e.reached[:, 1], "reached": e.reached[:, 0]}
            rows.append({
                "encoder": e.name, "completeness gap (share)": e.gap, "points on the path": e.steps,
                "LIME fidelity R²": e.fidelity,
                **{f"optimal input, {name}: {what} (K)": float(values[k])
                   for what, values in both.items() for k, name in enumerate(COMPOSITES)},
                "optimal input, size (rms, normalised)": float(np.sqrt((e.optimal**2).mean())),
                "mean index at the climatology (K)": e.at_climatology,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def randomisation(self) -> pd.DataFrame:
        """Return rank correlations by encoder, method and how much of it is random."""
        tables = [one.randomised.assign(encoder=one.name) for one in self.explanations]
        return pd.concat(tables, ignore_index=True)[["encoder", "method", "stage", "rank_correlation"]]

    def share_by_variable(self) -> pd.DataFrame:
        """Return each variable's share of the |attribution| of the composite, mean over seeds."""
        shares: dict[str, list[np.ndarray]] = {}
        for one in self.explanations:
            for order, maps in {**{name: one.maps(name) for name in METHODS}, **self.references}.items():
                known = np.where(self.store.statistics.known, maps, 0.0)
                size = np.abs(np.tensordot(self.events.sign, known, 1)).sum(axis=(1, 2))
                shares.setdefault(name_of(one.kind, order), []).append(size / size.sum())
        means = {name: np.mean(own, axis=0) for name, own in shares.items()}
        table = pd.DataFrame.from_dict(means, orient="index", columns=list(self.store.variables))
        return table.rename_axis("row").reset_index()

    def notes(self, scores: pd.DataFrame, skill: pd.DataFrame, tolerance: float) -> list[str]:
        """Return what the reader must know beside the numbers."""
        gaps = ", ".join(f"{e.gap:.1e} ({e.name}, {e.steps} points)" for e in self.explanations)
        skills = ", ".join(f"{name} {r:.3f}" for name, r in zip(skill["function"], skill["test r"], strict=True))
        said = [
            f"Integrated gradients add up to f(x) − f(climatology): largest gap {gaps} of its root mean square; "
            f"allowed {tolerance:g}.",
            f"How good the explained forecasts are on all test samples (r, no intervals): {skills}. A map explains "
            "its function, however good that is.",
        ]
        own = scores[(scores["metric"] == INSENSITIVE) & (scores["seed"] == "") & (scores["value"] > SENSITIVE)]
        if len(own):
            named = ", ".join(f"{one.row} ({one.value:.2f})" for one in own.itertuples())
            said.append(
                f"Maps that hardly depend on the weights (rank correlation above {SENSITIVE:g} with a random network): "
                f"{named}. They show the input more than the network."
            )
        return [
            *said,
            "Integrated gradients and optimal inputs are sharper than a patch: read single cells with care; orders "
            "and correlations are taken on blocks.",
            "The one-point correlation map and the optimal input × input are no shares of the index: their sizes "
            "compare only within a map.",
        ]

    def _composite(self, maps: np.ndarray, sign: int) -> np.ndarray:
        """Return the mean of maps over the events of a sign, NaN at unknown cells."""
        return np.where(self.store.statistics.known, maps[self.events.sign == sign].mean(axis=0), np.nan)

    def figures(self) -> tuple[dict[str, Figure], dict[str, str]]:
        """Return the pictures and, by the same names, what they show in words."""
        source, variables = self.source, ", ".join(self.store.variables)
        one = self.explanations[0]
        other = next((e for e in self.explanations if e.kind != one.kind), None)
        units = dict.fromkeys(METHODS, "K per cell") | {OPTIMAL: "arbitrary", POINT: "r × anomaly"}
        made, words = {}, {}

        def maps(rows: Mapping[str, np.ndarray], title: str, unit: str = "K per cell") -> Figure:
            named = {name: units.get(name, unit) for name in rows}
            return map_figure(rows, self.store.variables, named, self.store.grid, title)

        for name, key, sign in zip(COMPOSITES, ("el_nino", "la_nina"), (1, -1), strict=True):
            shown = {m: one.maps(m) for m in METHODS} | {m: self.references[m] for m in (LINEAR, POINT)}
            if other is not None and one.kind == PRETRAINED:
                shown["untrained: " + GRADIENTS] = other.maps(GRADIENTS)
            count = int((self.events.sign == sign).sum())
            made[f"attribution_{key}"] = maps(
                {m: self._composite(values, sign) for m, values in shown.items()},
                f"{name}, mean of {count} test events: {one.name}; {source}",
            )
            words[f"attribution_{key}"] = (
                f"Attribution maps for {name} ({count} test events, {source}): a row for each of {', '.join(shown)}; a "
                f"column for each of {variables}. Red adds to the index, blue takes from it, grey is land or unknown, "
                f"the box is Niño 3.4. Network: {one.name}; colours share a scale within a row."
            )
        best = np.where(self.store.statistics.known, one.optimal.mean(axis=1), np.nan)
        title = f"Optimal inputs, mean over steps; {source}"
        made["optimal_input"] = maps(dict(zip(COMPOSITES, best, strict=True)), title, "normalised anomaly")
        gives = " and ".join(f"{wanted:+.2f} K (reached: {reached:+.2f} K)" for reached, wanted in one.reached)
        words["optimal_input"] = (
            f"Optimal inputs of the {one.kind} network, seed {one.seed}: the small anomalies (normalised, mean over "
            f"the input steps and the events' calendar months) that give an index of {gives}; columns: {variables}."
        )
        if self.footprint is not None:
            title = f"Where the planet's mechanism shows; {source}"
            made["mechanism"] = maps({"best forecast": self.footprint}, title, "correlation")
            words["mechanism"] = (
                f"The known answer: correlation of each cell of {variables} with the planet's best forecast of the "
                "index, as carried by the hidden states that drive its oscillator."
            )
        made["deletion_and_insertion"] = curve_figure(
            one.curves, f"{one.name}, {len(self.events.rows)} events; {source}"
        )
        words["deletion_and_insertion"] = (
            "Share of the change of the index that is left when blocks of cells are set to the climatology (left), and "
            "that is there when they alone are shown (right), the most important first, by the order of each map: "
            f"{', '.join(one.curves)}."
        )
        made["random_weights"] = randomisation_figure(
            self.randomisation(), f"Maps of networks with ever more random weights; {source}"
        )
        words["random_weights"] = (
            "Rank correlation of |attribution| between each network and the same with its weights drawn anew from the "
            "last block it reads down to the input; a map that depends on the weights falls towards 0."
        )
        return made, words

    def dataset(self) -> xr.Dataset:
        """Return the composites of every encoder and method, by step, and the optimal inputs and references."""
        store, events = self.store, self.events

        def both(maps: np.ndarray) -> np.ndarray:
            return np.stack([self._composite(maps, sign) for sign in (1, -1)])

        composites = np.stack([[both(e.attribution[m]) for m in METHODS] for e in self.explanations])
        optimal = np.where(store.statistics.known, np.stack([e.optimal for e in self.explanations]), np.nan)
        space = ("variable", "lat", "lon")
        made: dict[str, Any] = {
            "attribution": (("encoder", "method", "composite", "lag", *space), composites.astype(np.float32),
                            "K per cell; squared normalised anomaly for 'optimal input × input'",
                            "mean attribution over test events"),
            "optimal_input": (("encoder", "composite", "lag", *space), optimal.astype(np.float32), "1",
                              "normalised anomaly that gives the composite's mean index"),
            "linear_regression": (("composite", *space), both(self.references[LINEAR]), "K per cell",
                                  "ridge weight × input, steps summed"),
            "one_point_correlation": (("composite", *space), both(self.references[POINT]), "1",
                                      "correlation × input, steps summed"),
            "area": (("lat", "lon"), store.grid.area, "1", "share of the sphere"),
        }  # fmt: skip
        if self.footprint is not None:
            made["mechanism"] = (space, self.footprint, "1", "correlation with the best forecast")
        coords = {
            "encoder": [e.name for e in self.explanations],
            "method": list(METHODS),
            "composite": list(COMPOSITES),
            "lag": (
                "lag",
                np.arange(1 - optimal.shape[2], 1),
                {"units": "months", "long_name": "input step, 0 is the last"},
            ),
            "variable": list(store.variables),
            "lat": ("lat", store.grid.lat, {"units": "degrees_north"}),
            "lon": ("lon", store.grid.lon, {"units": "degrees_east"}),
        }
        rule = f"label at least {events.limits[1]:+.3f} K (El Niño) or at most {events.limits[0]:+.3f} K (La Niña)"
        about = {"source": str(store.manifest["source"]), "composites": rule, "events": len(events.rows)}
        named = {
            name: (dims, values, {"units": unit, "long_name": words})
            for name, (dims, values, unit, words) in made.items()
        }
        return xr.Dataset(named, coords, about)
