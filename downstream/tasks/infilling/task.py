"""infilling: missing observations of a field rebuilt from those of the same time (Kadow et al. 2020).

Kadow, Hall & Ulbrich 2020, doi 10.1038/s41561-020-0582-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import ZERO_SHOT, Contender
from ...evaluation.label_fractions import whole_units
from ...evaluation.task import Decoders, Extras, Features, Task
from ...features.patches import MOST_VALUES
from ...results.row import Role, Row, names_of, over_seeds
from ...results.target import Target
from .baselines import LEARN, baselines, learnt_from
from .figures import by_distance_figure, by_fraction_figure, maps_figure
from .fillers import Filler
from .gappy import Anomalies, Gappy, Probed
from .gaps import GapConfig
from .network import trained_fillers
from .scores import gap_target, metrics, score

CONVENTION = (
    "Scored on hidden cells that the truth knows, area-weighted, on the test months. skill: 1 − squared error over "
    "that of no anomaly; rmse: over all of them, in the variable's unit; r: pattern correlation in each month, "
    "centred, then the mean over the months (0 for a constant); global rmse: of the monthly global mean after filling, "
    "observed cells kept; std ratio: standard deviation in space of what was filled over that of the truth (r for a "
    "perfect conditional mean). Anomalies from the calendar-month means of train start … validation end; covariances "
    "and patterns from the same period. Encoders see the gaps in all variables alike. Zero-shot: the decoder of "
    "pretraining, nothing fitted. Ridge: a linear head from a token, or from the raw values in and about a patch "
    f"(averaged over square blocks beyond {MOST_VALUES} values), to "
    "the cells of the patch, the same at all places; features and penalty chosen on validation, then refitted on train "
    "and validation, as are networks from scratch. Label curve: years of fields that heads, networks, patterns and "
    "covariances are fitted on, no refit; the climatology stays. Intervals: paired bootstrap over blocks of months."
)


@dataclass(frozen=True)
class InfillingConfig(TaskConfig):
    """What to fill and how to look at it; see `TaskConfig` for the rest.

    Attributes:
        variable: Canonical name; null for the store's first.
        gaps: Kinds of gaps by a name of yours; each is a column of the table.
        window: Steps of the longest window of any encoder: all are scored on the same times, whose windows lie in a
            block; null for that of this table's encoders.
        observed: Shares of randomly observed cells for the table by fraction.
        distances_km: Edges of the bins of distance to the nearest observation.
        ranks: Numbers of patterns of the two regressions on patterns.
        raw: Whether there are rows of heads on what an encoder sees, without one. They take hundreds of numbers for
            each patch, month and kind of gaps: some 10 GB for a hundred years on 5°.
        block: Test months in a bootstrap block.
        seed: Of the gaps by fraction.
    """

    task: str = "infilling"
    variable: str | None = None
    gaps: dict[str, GapConfig] = field(
        default_factory=lambda: {
            "random 10 %": GapConfig("random", 0.1),
            "swath 30 %": GapConfig("swath", 0.3),
            "cloud 50 %": GapConfig("cloud", 0.5),
            "50 stations": GapConfig("stations", stations=50),
            "four blocks": GapConfig("block"),
        }
    )
    window: int | None = None
    observed: list[float] = field(default_factory=lambda: [0.02, 0.05, 0.1, 0.2, 0.4])
    distances_km: list[float] = field(default_factory=lambda: [0.0, 600, 1000, 1500, 2200, 3000, 5000, 21000])
    ranks: tuple[int, int] = (15, 40)
    raw: bool = True
    block: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gaps:
            raise EarthSSLError("infilling.gaps: expected at least one kind of gaps, got none; name one")
        self.check({"observed": "(0, 1)"}, empty=("observed",))
        rising = len(self.distances_km) > 1 and bool((np.diff(self.distances_km) > 0).all())
        self.expect(rising, "edges that rise", "distances_km")


class Infilling(Task[InfillingConfig]):
    """Hidden cells of one variable, one target a kind of gaps."""

    name = "infilling"
    what = "Missing observations rebuilt"
    convention = CONVENTION
    Config = InfillingConfig

    def __init__(self, config: InfillingConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        self.anomalies = Anomalies.of(store, config.variable)
        self.gappies = {name: Gappy(self.anomalies, kind) for name, kind in config.gaps.items()}

    @property
    def window(self) -> int:
        """Steps of the longest window of any encoder."""
        return self.config.window or self.shape.window

    @cached_property
    def ends(self) -> np.ndarray:
        """Test times, (time,)."""
        return self.anomalies.ends("test", self.window)

    @cached_property
    def fillers(self) -> list[Filler]:
        """What needs no encoder."""
        return baselines(self.anomalies, self.config.ranks)

    def targets(self) -> Sequence[Target]:
        own, ends = self.anomalies, self.ends
        return [
            gap_target(name, own.values[ends], one.hidden(ends), own.places.area, own.years[ends], self.config.block)
            for name, one in self.gappies.items()
        ]

    def training_samples(self) -> np.ndarray:
        """Return which samples belong to the training block: a mask of (kind of gaps, time)."""
        steps = np.isin(np.arange(len(self.store.times)), self.anomalies.ends("train", 1))
        return np.tile(steps, (len(self.gappies), 1))

    def label_units(self) -> np.ndarray:
        return whole_units(self.anomalies.years[self.anomalies.ends("train", self.window)])

    def samples(self) -> Mapping[str, Any]:
        blocks = {part: len(self.anomalies.ends(part, self.window)) for part in ("train", "val", "test")}
        return {**blocks, "fields of covariances and patterns": len(self.anomalies.fit)}

    def raw(self, window: int) -> np.ndarray | None:
        """Return what is observed in and about each patch, (kind of gaps, time, place, value); see `Gappy.raw`."""
        if not self.config.raw:
            return None
        patch = self.shape.patch[1:]
        return np.stack([one.raw(patch, window) for one in self.gappies.values()])

    def baselines(self, window: int) -> Iterable[Row]:
        shown = {name: one.observed(self.ends) for name, one in self.gappies.items()}
        for method in self.fillers:
            yield Row(method.name, Role.BASELINE, {name: method.fill(values) for name, values in shown.items()})

    def fitted(
        self, name: str, role: Role, features: Features, seed: int | str | None = None, units: np.ndarray | None = None
    ) -> Row:
        patch = self.shape.patch[1:]
        of_kind = [{one: values[k] for one, values in features.items()} for k in range(len(self.gappies))]
        return self._row(name, role, seed, zip(self.gappies, of_kind, strict=True), patch, units)

    def _row(
        self, name: str, role: Role, seed: int | str | None, features: Iterable[tuple[str, Features]],
        patch: tuple[int, int], units: np.ndarray | None = None,
    ) -> Row:  # fmt: skip
        """Return the row of heads on features that come one kind of gaps after another."""
        made: dict[str, Probed] = {}
        kept: dict[str, np.ndarray] = {}
        for kind, candidates in features:
            made[kind] = self.gappies[kind].probed(candidates, patch, self.ends, units)
            if self.config.fractions and self.curved(Row(name, role, {})):
                kept[kind] = candidates[made[kind].features]
        chosen = {
            kind: {"features": one.features, "penalty": one.penalty, "validation_skill": one.validation}
            for kind, one in made.items()
        }
        return Row(name, role, {kind: one.values for kind, one in made.items()}, seed, chosen, features=kept)

    def rows(self, encoder: Contender, layers: Sequence[int]) -> Iterable[Row]:
        """Return the rows of a frozen encoder: its own decoder where it has one, and heads on its tokens.

        Raises:
            EarthSSLError: If its window is longer than the task's.
        """
        shape = encoder.encoder.config
        if shape.window > self.window:
            raise EarthSSLError(
                f"infilling: expected encoders with a window of at most {self.window} steps, got {shape.window}; raise "
                "the task's option window"
            )
        yield from self.zero_shot(encoder)
        # One kind of gaps after another: the tokens of all layers are many.
        found = (
            (kind, {f"layer {layer + 1}": values for layer, values in one.tokens(encoder.encoder, layers).items()})
            for kind, one in self.gappies.items()
        )
        yield self._row(f"{encoder.kind} [{self.head}]", Role(encoder.kind), encoder.seed, found, shape.patch[1:])

    def zero_shot(self, encoder: Contender) -> Iterable[Row]:
        filled = self._zero_shot(encoder, self.gappies)
        if filled is not None:
            yield Row(ZERO_SHOT, Role.PRETRAINED, filled, encoder.seed)

    def _zero_shot(self, encoder: Contender, gappies: Mapping[str, Gappy]) -> dict[str, np.ndarray] | None:
        """Return what the decoder of pretraining makes of gaps, by kind; None where there is none."""
        fill, length = self.decoder(encoder).fill, encoder.encoder.config.window
        return None if fill is None else {name: one.filled(fill, self.ends, length) for name, one in gappies.items()}

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        count = self.config.scratch.seeds if seeds is None else seeds
        return trained_fillers(self.config.scratch, self.shape, self.gappies, self.ends, count, units)

    def curved(self, row: Row) -> bool:
        return super().curved(row) or self._learns(row) is not None

    def refitted(self, row: Row, units: np.ndarray) -> Row:
        method = self._learns(row)
        if method is None:
            of_kind = [(kind, {"": values}) for kind, values in row.features.items()]
            return self._row(row.name, row.role, row.seed, of_kind, self.shape.patch[1:], units)
        steps = self.anomalies.ends("train", 1)
        fields = self.anomalies.values[steps[np.isin(self.anomalies.years[steps], units)]]
        fewer = learnt_from(method, self.anomalies.places, fields)
        filled = {kind: fewer.fill(one.observed(self.ends)) for kind, one in self.gappies.items()}
        return Row(row.name, row.role, filled)

    def _learns(self, row: Row) -> Filler | None:
        """Return the filler of a row that learns covariances or patterns from fields."""
        return next((one for one in self.fillers if one.name == row.name and isinstance(one, LEARN)), None)

    def title(self) -> str:
        unit = self.store.manifest["units"][self.anomalies.position]
        return super().title().replace(self.what, f"{self.what}: {self.anomalies.variable} ({unit})")

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        unit = self.store.manifest["units"][self.anomalies.position]
        distance, fraction = self._by_distance(rows), self._by_fraction()
        first, gappy = next(iter(self.gappies.items()))
        figures = {"maps": maps_figure(gappy, rows, self.ends, len(self.ends) // 2, first, unit)}
        drawn = by_distance_figure(distance, unit)
        if drawn is not None:
            figures["rmse_by_distance"] = drawn
        if len(fraction):
            figures["rmse_by_fraction_observed"] = by_fraction_figure(fraction, unit)
        observed = {name: float(np.isfinite(one.observed(self.ends)).mean()) for name, one in self.gappies.items()}
        return Extras(
            figures=figures,
            tables={"by_distance": distance, "by_fraction": fraction},
            notes=self._notes(),
            record={"cells": len(self.anomalies.places), "observed_share": observed},
        )

    def _by_distance(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return the RMSE of each row in bins of distance to the nearest observation, seeds pooled."""
        own, edges, lines = self.anomalies, self.config.distances_km, []
        truth = own.values[self.ends]
        for target, gappy in self.gappies.items():
            seen = np.isfinite(gappy.observed(self.ends))
            masks, which = np.unique(seen, axis=0, return_inverse=True)
            nearest_km = np.stack([own.places.distance_km[:, mask].min(1) for mask in masks])[which.ravel()]
            hidden = gappy.hidden(self.ends)
            weight = np.where(hidden, own.places.area, 0.0)
            squares = [np.where(hidden, row.forecast[target] - truth, 0.0) ** 2 for row in rows]
            for low, high in pairwise(edges):
                w = np.where((nearest_km >= low) & (nearest_km < high), weight, 0.0)
                if w.any():
                    rmse = np.sqrt(over_seeds(rows) @ [(w * square).sum() for square in squares] / w.sum())
                    share, found = w.sum() / weight.sum(), zip(names_of(rows), rmse, strict=True)
                    lines += [(target, name, low, high, share, value) for name, value in found]
        return pd.DataFrame(lines, columns=["target", "row", "from_km", "to_km", "share_of_hidden", "rmse"])

    def _by_fraction(self) -> pd.DataFrame:
        """Return RMSE and r for shares of randomly observed cells, of all that needs no head, mean over seeds."""
        own, lines = self.anomalies, []
        truth = own.values[self.ends]
        for share in self.config.observed:
            gappy = Gappy(own, GapConfig("random", share, seed=self.config.seed))
            values = gappy.observed(self.ends)
            made = {method.name: [method.fill(values)] for method in self.fillers}
            for encoder in self.encoders():
                for filled in (self._zero_shot(encoder, {"": gappy}) or {}).values():
                    made.setdefault(ZERO_SHOT, []).append(filled)
            for name, fields in made.items():
                found = [metrics(score(one, truth, gappy.hidden(self.ends), own.places.area)) for one in fields]
                means = {m: float(np.mean([one[m] for one in found])) for m in ("rmse", "r", "std ratio")}
                lines.append({"observed": share, "row": name, **means})
        return pd.DataFrame(lines)

    def _notes(self) -> list[str]:
        months, block = len(self.ends), self.config.block
        said = [
            "The labels are the fields themselves: pretraining reads as many of them as any row does.",
            "Kriging has published settings. Those of optimal interpolation that were not published (5000 km, noise "
            ".02) were found on the ERSST test months, which favours it a little there.",
        ]
        if months / block < 10:
            said.insert(0, f"{months} test months are about {months / block:.0f} independent blocks of {block}: "
                           "intervals are rough and rather too narrow.")  # fmt: skip
        without = [path for path, one in self.decoded.items() if one.fill is None]
        if without:
            said.append(f"No zero-shot row for {', '.join(without)}: pretrained without a task that rebuilds fields.")
        return said
