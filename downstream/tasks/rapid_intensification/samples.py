"""Samples of rapid intensification from best tracks: which records count, what is known of them, and their blocks.

Kaplan & DeMaria 2003 (doi 10.1175/1520-0434(2003)018<1093:LCORIT>2.0.CO;2): the wind of a tropical cyclone over
water rises by 30 kt or more in 24 h, from one value to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.splits import PARTS, Splits
from ...storms.sst_climatology import SstClimatology, potential_intensity_kt

HOURS, STEP = 24, 6
WEAKEST_KT = 25.0
TROPICAL = (-2, 5)  # categories that count as tropical cyclones
STRENGTHS = {"TD": 0.0, "TS": 34.0, "Cat1-2": 64.0, "Cat3": 96.0, "Cat4-5": 113.0}  # from this wind on, kt
FEWEST = 50  # training samples that a basin needs to be modelled
EARTH_KM_PER_DEGREE = 111.2


def samples_of(tracks: pd.DataFrame, told: bool = False) -> pd.DataFrame:
    """Return the samples of tidy tracks, one row each, with what was known at its time.

    A sample is a record at 00, 06, 12 or 18 UTC with V ≥ 25 kt that is followed by records every 6 h up to 24 h
    later, all of a tropical cyclone (category -2 to 5) over water, with the wind known at both ends. The condition
    looks ahead along the best track, as in Kaplan & DeMaria; the predictors do not.

    Args:
        tracks: Tidy tracks.
        told: Whether they have a column `change_kt` of their own: then every record with V ≥ 25 kt and a change is one.

    Returns:
        Columns of the tracks; `change_kt` (V 24 h later - V); `change6`, `change12`, `change24` (of V in the hours
        before, kt), `east`, `poleward` (motion over the last 6 h, m/s), each NaN where the storm had no record so
        long before; `age_h` (since its first record) and `most_kt` (largest V so far).

    Raises:
        EarthSSLError: If there is none.
    """
    t = tracks.sort_values(["storm", "time"], kind="stable", ignore_index=True)
    storm = t.groupby("storm", sort=False)
    good = t["category"].between(*TROPICAL) & t["over_water"].astype(bool)
    kept = good & (t["wind_kt"] >= WEAKEST_KT)
    for k in range(1, 0 if told else HOURS // STEP + 1):
        exact = storm["time"].shift(-k) - t["time"] == pd.Timedelta(hours=k * STEP)
        kept &= exact & good.groupby(t["storm"], sort=False).shift(-k, fill_value=False)
    if not told:
        t["change_kt"] = storm["wind_kt"].shift(-HOURS // STEP) - t["wind_kt"]
    kept &= t["change_kt"].notna()
    if not kept.any():
        raise EarthSSLError(
            f"tracks: expected 6-hourly records of tropical cyclones of {WEAKEST_KT:g} kt and more that stay over "
            f"water for {HOURS} h, got none in {len(t)} records of {t['storm'].nunique()} storms; check category and "
            "over_water"
        )
    known = t.set_index(["storm", "time"])[["wind_kt", "lat", "lon"]]
    for hours in (24, 12, 6):
        asked = pd.MultiIndex.from_arrays([t["storm"], t["time"] - pd.Timedelta(hours=hours)])
        before = known.reindex(asked).reset_index(drop=True)  # NaN where there is no record at that time
        t[f"change{hours}"] = t["wind_kt"] - before["wind_kt"]
    speed = EARTH_KM_PER_DEGREE / (3.6 * hours)  # m/s for a degree
    across = np.cos(np.deg2rad(t["lat"]))
    t["east"] = ((t["lon"] - before["lon"] + 180) % 360 - 180) * across * speed
    t["poleward"] = (t["lat"] - before["lat"]) * np.where(t["lat"] < 0, -1, 1) * speed
    t["age_h"] = (t["time"] - storm["time"].transform("first")).dt.total_seconds() / 3600
    t["most_kt"] = storm["wind_kt"].cummax()
    return t[kept].reset_index(drop=True)


# ---- Blocks ----------------------------------------------------------------------------------------------------


def parts_by_season(samples: pd.DataFrame, seasons: Mapping[str, tuple[int, int]]) -> np.ndarray:
    """Return the block of each sample, "train", "val", "test" or "", by the season of its storm."""
    part = np.full(len(samples), "", dtype="<U5")
    for name in PARTS:
        first, last = seasons[name]
        part[samples["season"].between(first, last).to_numpy()] = name
    return part


def parts_by_time(samples: pd.DataFrame, splits: Splits) -> np.ndarray:
    """Return the block of each sample, that which its whole storm lies in up to 24 h after its last sample; else ""."""
    storm = samples.groupby("storm", sort=False)["time"]
    first = storm.transform("min").to_numpy()
    last = storm.transform("max").to_numpy() + np.timedelta64(HOURS, "h")
    part = np.full(len(samples), "", dtype="<U5")
    for name in PARTS:
        part[splits.inside(first, name) & splits.inside(last, name)] = name
    return part


def proof(samples: pd.DataFrame, part: np.ndarray) -> dict[str, Any]:
    """Return what shows that the blocks do not touch: counts, times, storms in two blocks, gaps in each hemisphere.

    A gap is from the end of the last 24 h of one block to the first sample of the next, in hours; seasons of the
    two hemispheres begin at different times, so blocks of seasons overlap in time across the equator.
    """
    blocks = {}
    for name in PARTS:
        own = samples[part == name]
        blocks[name] = {
            "samples": len(own), "storms": int(own["storm"].nunique()),
            "first": str(own["time"].min()), "last": str(own["time"].max()),
        }  # fmt: skip
    shared = pd.Series(part[part != ""]).groupby(samples["storm"].to_numpy()[part != ""]).nunique()
    gaps = {}
    for hemisphere, inside in (("north", samples["lat"] >= 0), ("south", samples["lat"] < 0)):
        for earlier, later in (("train", "val"), ("val", "test")):
            a, b = samples["time"][inside & (part == earlier)], samples["time"][inside & (part == later)]
            if len(a) and len(b):
                gaps[f"{earlier}–{later}, {hemisphere}"] = (b.min() - a.max()) / pd.Timedelta(hours=1) - HOURS
    return {"blocks": blocks, "storms_in_two_blocks": int((shared > 1).sum()), "gaps_h": gaps,
            "left_out": int((part == "").sum())}  # fmt: skip


# ---- Predictors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Predictors:
    """Columns for the models, by group; each is (n, columns) without NaN.

    Attributes:
        season: V, V², |latitude|, two harmonics of the day of the year (half a year later in the south), basins.
        track: Those, changes of V, motion, age and largest V so far; unknown changes and motion are 0, and two
            columns say that those of 12 and 24 h are.
        sst: SST, potential intensity and how much of it is left (POT = MPI - V) by the name of the climatology.
        place: Latitude and longitude.
        table: Columns of the table by the name of their group.
    """

    season: np.ndarray
    track: np.ndarray
    sst: Mapping[str, np.ndarray]
    place: np.ndarray
    table: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        samples: pd.DataFrame,
        basins: Sequence[str],
        sst: Mapping[str, SstClimatology],
        table: Mapping[str, np.ndarray] | None = None,
    ) -> Predictors:
        """Return the predictors of samples that lie in the basins."""
        v, lat = samples["wind_kt"].to_numpy(), samples["lat"].to_numpy()
        day = samples["time"].dt.day_of_year.to_numpy() + np.where(lat < 0, 365.25 / 2, 0.0)
        phase = 2 * np.pi * day / 365.25
        turns = [f(k * phase) for k in (1, 2) for f in (np.sin, np.cos)]
        member = [(samples["basin"] == name).to_numpy(float) for name in basins]
        season = np.stack([v, v**2, np.abs(lat), *turns, *member], axis=1)
        known = ["change6", "change12", "change24", "east", "poleward"]
        unknown = [samples[name].isna().to_numpy(float) for name in ("change12", "change24")]
        rest = [samples[name].fillna(0.0).to_numpy() for name in known]
        rest += [samples["age_h"].to_numpy(), samples["most_kt"].to_numpy(), *unknown]
        warmth = {}
        for name, climatology in sst.items():
            kelvin = climatology.at(samples["time"].to_numpy(), lat, samples["lon"].to_numpy())
            limit = potential_intensity_kt(kelvin)
            warmth[name] = np.stack([kelvin, limit, limit - v], axis=1)
        track = np.column_stack([season, *rest])
        return cls(season, track, warmth, samples[["lat", "lon"]].to_numpy(float), table or {})


# ---- Base rates ------------------------------------------------------------------------------------------------


def base_rates(samples: pd.DataFrame, part: np.ndarray, thresholds: Sequence[float]) -> pd.DataFrame:
    """Return how frequent each threshold is, in %, by basin, block, strength and five seasons.

    Columns kind, group, n, storms (that have a sample in the group), ≥T for each threshold, p95_kt (95th percentile
    of the change), storms_with (share of the storms that reach the threshold nearest 30 kt at some sample, by the
    basin of their first sample, %).
    """
    main = min(thresholds, key=lambda t: abs(t - 30))
    reached = (samples["change_kt"] >= main).groupby(samples["storm"]).any()
    home = samples.groupby("storm")["basin"].first()
    classes = np.digitize(samples["wind_kt"], list(STRENGTHS.values())) - 1
    strength = pd.Series(np.array(list(STRENGTHS))[classes], index=samples.index)
    pentad = samples["season"] // 5 * 5
    kinds = {
        "all": pd.Series("all", index=samples.index), "basin": samples["basin"], "block": pd.Series(part),
        "strength": strength, "seasons": pentad.astype(str) + "–" + (pentad + 4).astype(str),
    }  # fmt: skip
    order = {"block": list(PARTS), "strength": list(STRENGTHS)}
    lines = []
    for kind, labels in kinds.items():
        for group in order.get(kind, sorted(labels.unique())):
            own = samples[labels == group]
            if not len(own):
                continue
            ids = home.index[home == group] if kind == "basin" else own["storm"].unique()
            lines.append({
                "kind": kind, "group": group, "n": len(own), "storms": own["storm"].nunique(),
                **{f"≥{t:g} kt": 100 * (own["change_kt"] >= t).mean() for t in thresholds},
                "p95_kt": np.percentile(own["change_kt"], 95),
                "storms_with": 100 * reached[ids].mean() if len(ids) else np.nan,
            })  # fmt: skip
    return pd.DataFrame(lines)
