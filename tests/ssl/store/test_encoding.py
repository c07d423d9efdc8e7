"""Encoding: errors within what is stated, missing stays missing, too large is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.ssl.checkpoint.record import Record
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.inference.screening import screen
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.encoding import LARGEST, MISSING, STEP, decode, encode, widen
from earthssl.ssl.store.store import Store

RNG = np.random.default_rng(0)


def values(most: float) -> np.ndarray:
    """A block of values up to `most`, some missing."""
    made = (RNG.uniform(-1, 1, (50, 2, 20, 30)) * most).astype(np.float32)
    made[RNG.random(made.shape) < 0.05] = np.nan
    return made


def test_integers_are_within_half_a_step_and_exact_on_the_way_back() -> None:
    raw = values(LARGEST * STEP)
    raw[0, 0, 0, :2] = LARGEST * STEP, -LARGEST * STEP
    stored = encode(raw, "int16", ("a", "b"))
    assert stored.dtype == np.int16
    back = decode(stored)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(back), np.isnan(raw))
    error = np.abs(back.astype(np.float64) - raw)[np.isfinite(raw)]
    assert error.max() <= STEP / 2 == 2.0**-12
    assert np.sqrt((error**2).mean()) < 1.42e-4
    every = np.arange(-LARGEST, LARGEST + 1, dtype=np.int16).reshape(1, 1, 1, -1)
    np.testing.assert_array_equal(encode(decode(every), "int16", ("a",)), every)  # each code comes back as itself


def test_float16_is_within_its_rounding() -> None:
    raw = values(30)
    error = np.abs(decode(encode(raw, "float16", ("a", "b"))) - raw)[np.isfinite(raw)]
    assert (error <= 2.0**-11 * np.abs(raw[np.isfinite(raw)]) + 2.0**-25).all()


@pytest.mark.parametrize(("dtype", "most", "words"), [("int16", 16.0, "16"), ("float16", 70000.0, r"7e\+04")])
def test_what_does_not_fit_is_refused_not_clipped(dtype: str, most: float, words: str) -> None:
    raw = values(3)
    raw[3, 1, 2, 2] = -most
    with pytest.raises(EarthSSLError, match=rf"prepare.dtype {dtype} holds up to .* but msl has {words}; choose"):
        encode(raw, dtype, ("t2m", "msl"))
    encode(raw, "float32", ("t2m", "msl"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
@pytest.mark.parametrize("gaps", [True, False])
def test_tensors_are_widened_as_arrays_are_decoded(dtype: str, gaps: bool) -> None:
    raw = values(5) if gaps else np.nan_to_num(values(5))
    stored = encode(raw, dtype, ("a", "b"))
    out, valid = torch.empty(raw.shape), torch.empty(raw.shape, dtype=torch.bool)
    widen(torch.from_numpy(stored), out, valid)
    plain = decode(stored)
    np.testing.assert_array_equal(out.numpy(), np.nan_to_num(plain))
    np.testing.assert_array_equal(valid.numpy(), np.isfinite(plain))


def test_a_store_of_integers_is_the_same_numbers_to_xarray(small_data: xr.Dataset, tmp_path: Path) -> None:
    small_data.to_netcdf(tmp_path / "small.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "small.nc"), "variables": ["sst", "u10"]}
    store = Store(prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options, dtype="int16")))
    plain = xr.open_zarr(store.path).fields
    np.testing.assert_array_equal(plain.values, store.read_all())
    assert np.isnan(plain.values[0, 0, 2, 3])  # land
    raw = np.fromfile(store.chunk_file(0), np.int16)
    assert raw.min() == MISSING
    again = store.dataset()
    spread = store.statistics.scale.max(axis=(1, 2))
    for name, scale in zip(("sst", "u10"), spread, strict=True):
        np.testing.assert_allclose(again[name], small_data[name], atol=scale * STEP / 2 * 1.05)
    store.verify()


def test_precipitation_is_transformed_in_the_store_in_the_checkpoint_and_for_new_data(tmp_path: Path) -> None:
    times = np.arange("1981-01", "2011-01", dtype="datetime64[M]").astype("datetime64[ns]")
    rain = np.where(RNG.random((360, 4, 6)) < 0.3, 0, RNG.gamma(0.3, 3e-3, (360, 4, 6))).astype(np.float32)
    warm = (280 + RNG.normal(size=rain.shape)).astype(np.float32)
    dims = ("time", "lat", "lon")
    fields = {"tp": (dims, rain, {"units": "m"}), "t2m": (dims, warm, {"units": "K"})}
    data = xr.Dataset(fields, {"time": times, "lat": np.linspace(60, -60, 4), "lon": np.arange(0.0, 360, 60)})
    data.to_netcdf(tmp_path / "rain.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "rain.nc"), "variables": ["tp", "t2m"]}
    store = Store(prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options, dtype="int16")))
    assert store.manifest["statistics"]["transforms"] == [1e-4, 0.0]
    error = np.abs(store.dataset().tp.values - rain)
    # half a step of the transformed value, times its slope: 1.5e-4 of the rain and 0.04 µm where there is none
    step = store.statistics.scale[0] * 2.0**-12 + 2e-6
    assert (error <= step * (1e-4 + rain) * 1.001).all()
    assert step.max() < 6e-4
    record = Record(
        EncoderConfig("nano", 3, (1, 2, 3)), store.variables, ("m", "K"), 30.4, store.grid, store.statistics,
        store.splits, store.fingerprint, 0, 1, {}, "", "", {}, {},
    )  # fmt: skip
    arrays = {k: torch.from_numpy(getattr(store.statistics, k)) for k in ("coefficients", "scale")}
    again = Record.from_json(record.to_json(), arrays, tmp_path)
    assert again.statistics.transforms == (1e-4, 0.0)
    screened = screen(data, again)  # raw data, as embed takes them
    raw = np.stack([screened.data[name].values for name in screened.variables], 1)
    normal = screened.statistics.normalise(raw, times)
    np.testing.assert_allclose(normal, store.read_all(), atol=STEP / 2 * 1.01)
    assert np.abs(normal).max() < 6  # as it is, the rain would reach 15 and more
    assert (rain / rain.std()).max() > 10
