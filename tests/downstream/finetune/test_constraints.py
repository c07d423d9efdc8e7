"""Constraints in fine-tuning: numbers and fields within their bounds, in the run, its table and the saved network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from earthssl.cli.main import main
from earthssl.downstream.finetune.config import FinetuningConfig
from earthssl.downstream.finetune.finetune import finetune
from earthssl.downstream.finetune.head import TaskHead
from earthssl.downstream.finetune.predictor import FinetunedEncoder, checked_shape, load_finetuned
from earthssl.downstream.finetune.samples import Base
from earthssl.downstream.finetune.save import constraints_of
from earthssl.downstream.training.label_constraints import LabelConstraints
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.constraints.config import ConstraintConfig
from earthssl.ssl.fields.grid import LatLonGrid

GRID = LatLonGrid(np.array([60.0, 0.0, -60.0]), np.arange(4) * 90.0)
FAST: dict[str, Any] = {
    "steps": 4, "batch_size": 16, "warmup_steps": 1, "check_every": 2, "seeds": 1, "scratch_seeds": 0,
    "untrained_seeds": 0, "random_seeds": 1, "fractions": [], "layers": [-1], "draws": 1000, "persistence": False,
}  # fmt: skip


def made(kind: str, *settings: dict[str, Any]) -> LabelConstraints:
    """Constraints on rain, mm, of mean 3 and deviation 2 (fields: the first cell is never observed)."""
    known = np.arange(12).reshape(3, 4) > 0 if kind == "field" else None
    own = [ConstraintConfig(**one) for one in settings]
    return LabelConstraints(own, kind, ["rain"], ["mm"], np.array([2.0]), GRID, known)


def test_numbers_are_held_in_the_units_of_the_labels() -> None:
    """Clamped at 0 mm: departures of -1.5 deviations; the penalty is the mean square beyond, in deviations."""
    out, base = torch.tensor([[-2.0], [-1.0], [3.0]]), torch.full((3, 1), 3.0)
    hard = made("regression", {"kind": "bounded", "variables": ["rain"], "lower": 0.0, "upper": 7, "how": "hard"})
    assert hard.hold(out, base)[0].tolist() == [[-1.5], [-1.0], [2.0]]
    soft = made("regression", {"kind": "non_negative", "variables": ["rain"], "weight": 2.0})
    same, penalty = soft.hold(out, base)
    assert torch.equal(same, out)
    assert float(penalty) == pytest.approx(2 * 0.5**2 / 3)
    found = soft.violations(np.array([[-1.0], [1.0], [np.nan]]))
    assert found == {"non_negative_rain": pytest.approx(0.5)}


def test_fields_keep_a_total_over_the_cells_that_were_observed() -> None:
    own = made("field", {"kind": "integral", "variables": ["rain"], "how": "hard", "total": 4.0})
    out = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = torch.full((5, 3, 4), 3.0, dtype=torch.float64)
    rain = own.hold(out, base)[0] * 2 + 3
    weight = torch.from_numpy(GRID.area).clone()
    weight[0, 0] = 0
    torch.testing.assert_close((rain * weight).sum((1, 2)) / weight.sum(), torch.full((5,), 4.0, dtype=torch.float64))


def test_cells_whose_climatology_is_0_were_observed() -> None:
    """Sea ice in 4 of 18 rows: the area mean is that of the globe, and ice below 0 is found where there is none."""
    grid, base = LatLonGrid(np.arange(85, -90, -10.0), np.arange(0, 360, 10.0)), np.zeros((12, 18, 36))
    base[:, :4] = 0.8
    base[:, -1] = np.nan
    samples: Any = SimpleNamespace(
        kind="field", base=Base(True, base, np.array([0.1])), labels=SimpleNamespace(names=["ice"], units=["1"])
    )
    kept = ConstraintConfig("integral", "hard", variables=["ice"], total=0.05)
    own = constraints_of([kept], samples, grid)
    assert own is not None
    usual = torch.from_numpy(np.nan_to_num(base[:2]))
    ice = own.hold(torch.zeros(2, 18, 36, dtype=torch.float64), usual)[0].numpy() * 0.1 + usual.numpy()
    area = grid.area[:-1]
    np.testing.assert_allclose((ice[:, :-1] * area).sum((1, 2)) / area.sum(), 0.05, rtol=1e-6)
    assert own.violations(ice)["integral_ice"] < 1e-6
    own = constraints_of([ConstraintConfig("non_negative", "report", variables=["ice"])], samples, grid)
    assert own is not None
    below = np.where(np.arange(18)[:, None] < 4, 0.8, -1.0) * np.ones((1, 18, 36))
    assert own.violations(below)["non_negative_ice"] == pytest.approx(grid.area[4:-1].sum() / area.sum(), rel=1e-6)


def test_heads_keep_which_cells_were_observed() -> None:
    """Through their weights; those of older checkpoints have no such mask, and load as they did."""
    base = np.array([[[0.0, np.nan], [1.0, 2.0]]])
    shape = {"kind": "field", "pooling": "patch", "outputs": 2, "features": 3, "near": 0, "pcs": None, "scale": 1,
             "base": [1, 2, 2], "monthly": False, "lead": 1}  # fmt: skip
    head, older = TaskHead({**shape, "known": True}), TaskHead(shape)
    for one in (head, older):
        one.set_base(Base(False, base, np.ones(1)))
    weights = head.state_dict()
    again = TaskHead(checked_shape({**shape, "known": True}, weights))
    again.load_state_dict(weights)
    assert again.observed().tolist() == [[True, False], [True, True]]  # type: ignore[union-attr]
    assert older.observed() is None
    assert set(weights) - set(older.state_dict()) == {"known"}
    with pytest.raises(ValueError, match=r"known: expected shape \(2, 2\), got None"):
        checked_shape({**shape, "known": True}, older.state_dict())


def test_what_is_not_finite_before_the_layers_is_left_out() -> None:
    """Of two constraints on what overflowed, one can say nothing of it: the other keeps its own words."""
    own = made("field", {"kind": "bounded", "variables": ["rain"], "lower": 0.0, "how": "hard"},
               {"kind": "integral", "variables": ["rain"], "total": 4.0, "how": "hard"})  # fmt: skip
    raw, after = np.full((2, 3, 4), 5.0), np.full((2, 3, 4), 4.0)
    raw[0, 1] = 1e308
    said = FinetunedEncoder._violations(SimpleNamespace(constraints=own), [after], [raw])  # type: ignore[arg-type]
    assert said == {
        "violation_bounded_rain": "0 mm (clamp), before the layers 0", "violation_integral_rain": "0 mm (scale)",
    }  # fmt: skip


def test_energy_of_a_field_is_the_labels() -> None:
    own = made("field", {"kind": "energy", "variables": ["rain"]})
    truth = np.random.default_rng(0).normal(3, 2, (5, 3, 4))
    assert own.violations(2 * truth, truth)["energy_rain"] == pytest.approx(3.0)
    assert own.violations(truth) == {}


@pytest.mark.slow
def test_a_tuned_network_keeps_its_layers(
    small_store: Path, small_run: Path, small_data: xr.Dataset, tmp_path: Path
) -> None:
    """Fields of rain that are never negative: in the run's predictions, its table, and what the folder predicts."""
    rain = (small_data["u10"] * 2).clip(min=0).rename("rain").assign_attrs(units="mm")
    rain[:, -2:] = 0  # a desert: observed all the same
    rain.to_dataset().to_netcdf(tmp_path / "rain.nc")
    settings = [{"kind": "non_negative", "variables": ["rain"], "how": "hard"},
                {"kind": "energy", "variables": ["rain"], "weight": 0.01}]  # fmt: skip
    folder = finetune(
        FinetuningConfig(
            checkpoint=str(small_run), store=str(small_store), labels=str(tmp_path / "rain.nc"), target="rain",
            out=str(tmp_path / "out"), kind="field", constraints=[ConstraintConfig(**one) for one in settings], **FAST,
        )
    )  # fmt: skip
    verify(folder / "checkpoint")
    with xr.open_dataset(folder / "predictions.nc") as opened:
        run = opened.load()
    assert float(run["predicted"].min()) >= 0
    table = pd.read_csv(folder / "constraints.csv").set_index(["row", "constraint"])["violation"]
    assert table["labels", "non_negative_rain"] == 0
    assert table["pretrained, fine-tuned [full]", "non_negative_rain"] == 0
    assert table["saved network, before its layers", "non_negative_rain"] > 0
    assert table["pretrained [linear probe]", "non_negative_rain"] > 0
    assert table["climatology", "energy_rain"] > table["labels", "energy_rain"] == 0
    loaded = load_finetuned(folder)
    assert loaded.constraints is not None
    assert bool((loaded.constraints.area > 0).all())
    again = loaded.predict(small_data)
    assert float(again.min()) >= 0
    np.testing.assert_allclose(again.sel(time=run["time"]), run["predicted"], rtol=1e-4, atol=1e-5)
    assert again.attrs["violation_non_negative_rain"].startswith("0 mm (softplus), before the layers 0.")


@pytest.mark.slow
def test_numbers_at_places_keep_theirs_too(
    small_store: Path, small_run: Path, small_data: xr.Dataset, tmp_path: Path
) -> None:
    """With monthly climatology, two places a step: each in its own units."""
    days = np.datetime_as_string(small_data["time"].values, "D")
    at = [(row, column, float(small_data.lat[row]), float(small_data.lon[column])) for row, column in ((2, 1), (5, 7))]
    lines = ["time,lat,lon,wind"] + [
        f"{day},{lat},{lon},{float(abs(small_data['u10'][k, row, column]))}"
        for k, day in enumerate(days) for row, column, lat, lon in at
    ]  # fmt: skip
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    bound = ConstraintConfig("bounded", "hard", variables=["wind"], lower=2.0, upper=4.0, form="sigmoid")
    folder = finetune(
        FinetuningConfig(
            checkpoint=str(small_run), store=str(small_store), labels=str(tmp_path / "labels.csv"), target="wind",
            out=str(tmp_path / "out"), units="m s-1", mode="head", constraints=[bound], **FAST,
        )
    )  # fmt: skip
    with xr.open_dataset(folder / "predictions.nc") as opened:
        run = opened["predicted"].load()[:, 0]
    assert 2 <= float(run.min()) < float(run.max()) <= 4
    places = [(lat, lon) for _, _, lat, lon in at]
    again = load_finetuned(folder).predict(small_data, places)
    for k, (lat, _) in enumerate(places):
        own = run[(run["lat"] == lat).values]
        np.testing.assert_allclose(again[:, k].sel(time=own["time"].values), own, rtol=1e-5)


@pytest.mark.slow  # the same refusals are seen one by one in tests/ssl/constraints
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("[{kind: non_negative, variables: [windd]}]", "Did you mean 'wind'"),
        ("[{kind: non_negative, variables: [wind], how: hardd}]", "Did you mean 'hard'"),
        ("[{kind: divergence, u: u10, v: v10}]", "predicted variables: expected one of wind, got 'u10'"),
        ("[{kind: energy, variables: [wind]}]", "expected fields, got numbers"),
        ("[{kind: integral, variables: [wind], total: 3}]", "expected fields, got numbers"),
        ("[{kind: bounded, variables: [wind], lower: 3, upper: 3}]", "lower below upper"),
        ("[{kind: bounded, variables: [wind], lower: 0, sharpnes: 3}]", "Did you mean 'sharpness'"),
        ("[{kind: bounded, variables: [wind], lower: 0, sharpness: 3}]", "got sharpness; leave it out"),
        ("[{kind: bounded, variables: [wind], lower: .inf}]", "a bound at least"),
        ("[{kind: non_negative, variables: [wind], weight: 0}]", "non_negative.weight: expected weight in (0, inf)"),
        ("[{kind: non_negative, variables: [wind], weight: 2, how: report}]", "a weight with how penalty only"),
        ("[{variables: [wind]}]", "kind"),
    ],
)
def test_bad_constraints_end_in_one_line(
    settings: str, why: str, small_store: Path, small_run: Path, small_data: xr.Dataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Status 2, before anything is trained."""
    wind = small_data["u10"].mean(("lat", "lon")).to_series().rename("wind").rename_axis("time")
    wind.to_csv(tmp_path / "labels.csv", date_format="%Y-%m")
    words = ["finetune", "--checkpoint", str(small_run), "--store", str(small_store), "--target", "wind", "--units",
             "m s-1", "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "out"),
             "--constraints", settings]  # fmt: skip
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert why in said.replace("\n", " ")
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_classes_and_means_of_no_step_are_refused() -> None:
    with pytest.raises(EarthSSLError, match="got classes"):
        made("classification", {"kind": "non_negative", "variables": ["rain"]})
    with pytest.raises(EarthSSLError, match="expected total, the area mean to be kept"):
        made("field", {"kind": "integral", "variables": ["rain"]})
