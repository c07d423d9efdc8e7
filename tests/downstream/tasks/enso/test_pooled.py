"""The pooled table of folds: one observed series, by hand, and skill against one computed by brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.tasks.enso.pooled import pool, pooled_summary
from earthssl.ssl.common.errors import EarthSSLError

LEADS = (1, 6)
YEARS = 6
OFFSETS = (0.5, -0.25)  # of the folds' climatologies


def temperature(months: np.ndarray) -> np.ndarray:
    """Niño 3.4 itself in K at months since 1970: a cycle of the year and waves of its own."""
    return 300 + 2 * np.cos(2 * np.pi * months / 12) + np.sin(0.7 * months) + 0.5 * np.sin(0.11 * months)


def fold(number: int, rows: tuple[str, ...] = ("persistence|None", "pretrained [mean]|0")) -> xr.Dataset:
    """What the probe of a fold writes: six years, anomalies from a climatology of its own."""
    init = np.arange(np.datetime64("1990-01"), np.datetime64("1996-01")) + 12 * YEARS * number
    target = init.astype(int) + np.array(LEADS)[:, None]
    usual = 300 + 2 * np.cos(2 * np.pi * target / 12) + OFFSETS[number]
    observed = temperature(target) - usual
    noise = np.random.default_rng(number).normal(size=(len(rows), *target.shape))
    dims = ("lead", "init_time")
    return xr.Dataset(
        {"forecast": (("row", *dims), observed + noise), "observed": (dims, observed), "climatology": (dims, usual)},
        {"row": list(rows), "lead": list(LEADS), "init_time": init.astype("datetime64[ns]")},
    )


def test_the_observed_target_is_one_series_and_forecasts_stay_what_they_were() -> None:
    made = [fold(0), fold(1)]
    enso, said = pool(made)
    assert [len(own) for own in enso.tested] == [12 * 2 * YEARS] * 2
    for j, lead in enumerate(LEADS):
        target = enso.time.astype(int) + lead
        truth = temperature(target)
        by_month = pd.Series(truth).groupby(target % 12).transform("mean").to_numpy()
        np.testing.assert_allclose(enso.target[j], truth - by_month, atol=1e-9)
        np.testing.assert_allclose(enso.target[j] + enso.usual_target[j], truth)
        own = np.concatenate([one["forecast"].sel(row="persistence|None").values[j] for one in made])
        np.testing.assert_array_equal(said["persistence|None"][j], own)
    shifted = [one.assign(observed=one["observed"] - 3, climatology=one["climatology"] + 3) for one in made]
    np.testing.assert_allclose(pool(shifted)[0].target, enso.target, atol=1e-9)  # whatever it was an anomaly from


def test_folds_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(EarthSSLError, match="every month tested once, got 1990-01 in two folds"):
        pool([fold(0), fold(0)])
    with pytest.raises(EarthSSLError, match="same leads in every fold"):
        pool([fold(0), fold(1).assign_coords(lead=[1, 9])])


def test_the_table_has_the_pooled_skill_and_says_what_it_left_out(tmp_path: Path) -> None:
    rows = ("persistence|None", "climatology|None", "pretrained [mean]|0", "untrained [mean]|0")
    for number in range(2):
        folder = tmp_path / f"fold-{number + 1}" / "probe"
        folder.mkdir(parents=True)
        names = rows if number else (*rows, "PCA|None")
        made = fold(number, names)
        made["forecast"][1] = 0
        made.to_netcdf(folder / "forecasts.nc")
        roles = ["baseline", "baseline", "pretrained", "untrained", "baseline"]
        kinds = [
            {"row": name.split("|")[0], "seed": int(name[-1]) if name[-1] == "0" else None, "role": role}
            for name, role in zip(names, roles, strict=False)
        ]
        record = {
            "rows": kinds, "speakers": [one["row"] for one in kinds], "source": "by hand", "synthetic": True,
            "split": {"test": ["1990-01-01", "1995-12-31"]}, "split_proof": {"gaps_days": {"train–test": 790.0}},
            "store_fingerprint": "x", "encoders": [], "seconds": 1.0, "notes": ["reach", "a note"],
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(record))
    folders = [tmp_path / f"fold-{k}" / "probe" for k in (1, 2)]
    made_of = pooled_summary(folders, "A title", 1000, 2)
    scores = made_of.scores.set_index(["row", "target", "metric"])["value"]
    assert scores["climatology", "mean over leads", "skill"] == 0
    enso, said = pool([xr.load_dataset(folder / "forecasts.nc") for folder in folders])
    for j, lead in enumerate(LEADS):
        month = (enso.time.astype(int) + lead) % 12
        own = said["pretrained [mean]|0"][j]
        by_hand = np.mean([np.corrcoef(own[month == m], enso.target[j][month == m])[0, 1] for m in range(12)])
        assert scores["pretrained [mean]", f"lead {lead}", "skill"] == pytest.approx(by_hand)
    assert set(made_of.scores["metric"]) == {"skill", "std_ratio"}  # no error in K: forecasts keep their climatologies
    assert "pretrained [mean]" in set(made_of.differences["row"])
    assert "climatology" not in set(made_of.differences["reference"])
    assert "2 test blocks (1990-01 … 1995-12, 1990-01 … 1995-12)" in made_of.convention
    assert "at least 790 days away" in made_of.convention
    assert "a note" in made_of.notes
    assert any("not every fold has them: PCA." in note for note in made_of.notes)
    out = made_of.write(tmp_path / "pooled")
    assert "skill_by_lead" in (out / "report.html").read_text()
    with xr.open_dataset(out / "forecasts.nc") as kept:
        restored = kept["observed"] + kept["climatology"]
        np.testing.assert_allclose(restored.values[0], temperature(enso.time.astype(int) + 1))
    with pytest.raises(EarthSSLError, match="the results of a fold"):
        pooled_summary([tmp_path / "nowhere"], "", 1000, 2)
