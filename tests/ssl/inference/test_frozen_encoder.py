"""FrozenEncoder: xarray in, xarray out, whatever the spelling of the input; loud where data do not fit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.model.tokens import patchify


@pytest.fixture
def frozen(small_run: Path) -> FrozenEncoder:
    """The encoder of the small run."""
    return load_encoder(small_run / "checkpoint")


@pytest.fixture
def two_years(small_data: Any) -> xr.Dataset:
    """24 months of the small data."""
    return small_data.sel(time=slice("2007", "2008"))


def direct(frozen: FrozenEncoder, data: xr.Dataset, hidden: tuple[str, ...] = ()) -> torch.Tensor:
    """Return the features of every window and token, computed step by step."""
    names = frozen.record.variables
    raw = np.stack([data[name].values for name in names], 1)
    normal = torch.from_numpy(frozen.record.statistics.normalise(raw, data["time"].values))
    for name in hidden:
        normal[:, names.index(name)] = torch.nan
    seconds = torch.from_numpy(data["time"].values.astype("datetime64[s]").astype(np.int64))
    steps = torch.arange(len(seconds) - 2)[:, None] + torch.arange(3)
    known = torch.from_numpy(frozen.record.statistics.known)
    keys = torch.zeros(len(steps), dtype=torch.int64)
    batch = from_fields(normal[steps], seconds[steps], keys, known, names, frozen.record.grid)
    with torch.no_grad():
        return frozen.encoder(patchify(batch, (1, 2, 3)))


def test_features_equal_a_direct_computation(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Mean, last and tokens, with the time of each window's last step."""
    expected = direct(frozen, two_years).numpy()
    mean = frozen.embed(two_years)
    assert mean.dims == ("time", "feature")
    assert mean.shape == (22, 64)
    np.testing.assert_array_equal(mean["time"].values, two_years["time"].values[2:])
    np.testing.assert_allclose(mean.values, expected.mean(1), atol=2e-6)
    assert mean.attrs["fingerprint"] == frozen.record.fingerprint
    tokens = frozen.embed(two_years, pooling="tokens")
    assert tokens.dims == ("time", "token", "feature")
    np.testing.assert_allclose(tokens.values, expected, atol=2e-6)
    last = tokens.isel(token=np.flatnonzero(tokens["step"].values == 2)).mean("token")
    np.testing.assert_allclose(frozen.embed(two_years, pooling="last").values, last.values, atol=2e-6)
    np.testing.assert_allclose(frozen.embed(two_years, batch_size=5).values, mean.values, atol=2e-6)


def test_tokens_know_where_they_are(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Latitude and longitude are the centre of the patch's true cells; padding below the pole lies nowhere."""
    tokens = frozen.embed(two_years, pooling="tokens")
    lat, lon, step = (tokens[name].values for name in ("lat", "lon", "step"))
    assert len(lat) == 3 * 16
    np.testing.assert_allclose(np.unique(lat.round(3)), [-90, -45, 15, 75], atol=1e-3)
    np.testing.assert_allclose(lat[:16].reshape(4, 4)[:, 0], [75, 15, -45, -90], atol=1e-3)
    np.testing.assert_allclose(lon[:12].reshape(3, 4), np.tile([30, 120, 210, 300], (3, 1)), atol=1e-3)
    assert step.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    assert tokens["lat"].attrs["units"] == "degrees_north"


def test_a_change_at_a_place_shows_most_there(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """The token labelled with a place is the one whose input was changed: before attention, the only one."""
    changed = two_years.copy(deep=True)
    changed["u10"].loc[{"lat": slice(30, 0), "lon": slice(180, 240)}] += 5
    with torch.no_grad():
        for block in frozen.encoder.blocks:
            block.attn.proj.weight.zero_()  # no token sees another
    before, after = (frozen.embed(data, pooling="tokens") for data in (two_years, changed))
    moved = np.abs(after - before).max(("time", "feature")).values > 1e-4
    assert set(zip(before["lat"].values[moved].round(), before["lon"].values[moved].round(), strict=True)) == {
        (15, 210)
    }
    assert moved.sum() == 3


@pytest.mark.filterwarnings("error")
def test_orientation_names_and_units_of_the_input_do_not_matter(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Latitude ascending, longitude −180…180, other names, degC and km/h: the same features."""
    expected = frozen.embed(two_years)
    turned = two_years.assign_coords(lon=(two_years["lon"] + 180) % 360 - 180).sortby("lon").sortby("lat")
    xr.testing.assert_allclose(frozen.embed(turned), expected, atol=2e-6)
    renamed = turned.rename(
        lat="latitude", lon="longitude", u10="10m_u_component_of_wind", sst="sea_surface_temperature"
    )
    xr.testing.assert_allclose(frozen.embed(renamed), expected, atol=2e-6)
    celsius = two_years.copy(deep=True)
    celsius["sst"] = (celsius["sst"] - 273.15).assign_attrs(units="degC")
    xr.testing.assert_allclose(frozen.embed(celsius), expected, atol=1e-4)
    shuffled = two_years[["v10", "sst", "u10"]].isel(time=np.random.default_rng(0).permutation(24))
    xr.testing.assert_allclose(frozen.embed(shuffled), expected, atol=2e-6)


def test_a_missing_variable_is_warned_of(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Loudly, and the features are those of that variable unobserved."""
    with pytest.warns(UserWarning, match="embedding without v10: the encoder was trained on sst, u10, v10") as caught:
        found = frozen.embed(two_years[["sst", "u10"]])
    assert Path(caught[0].filename) == Path(__file__)
    np.testing.assert_allclose(found.values, direct(frozen, two_years, ("v10",)).mean(1).numpy(), atol=2e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen.embed(two_years)


def test_no_window_crosses_a_gap(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Without one month, the three windows that held it are gone and the others are as they were."""
    whole = frozen.embed(two_years)
    gappy = frozen.embed(two_years.isel(time=[k for k in range(24) if k != 10]))
    left = [k for k in range(2, 24) if k not in (10, 11, 12)]
    np.testing.assert_array_equal(gappy["time"].values, two_years["time"].values[left])
    np.testing.assert_allclose(gappy.values, whole.sel(time=gappy["time"]).values, atol=2e-6)
    with pytest.raises(EarthSSLError, match="at least 3 unbroken time steps"):
        frozen.embed(two_years.isel(time=[0, 1, 3, 4]))


def test_layers_and_poolings(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """From the front or the end; the last is the default; what does not exist is refused."""
    last = frozen.embed(two_years)
    xr.testing.assert_equal(frozen.embed(two_years, layer=2), last)
    assert not np.allclose(frozen.embed(two_years, layer=0).values, last.values)
    xr.testing.assert_equal(frozen.embed(two_years, layer=-3), frozen.embed(two_years, layer=0))
    for layer in (3, -4):
        with pytest.raises(EarthSSLError, match="layer: expected -3 to 2"):
            frozen.embed(two_years, layer=layer)
    with pytest.raises(EarthSSLError, match="pooling: expected mean, last, tokens"):
        frozen.embed(two_years, pooling="max")


def test_data_that_do_not_fit_are_refused_with_every_difference(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """A region, other variables, another time step: all in one line."""
    daily = two_years[["u10"]].rename(u10="u850").isel(lat=slice(0, 4))
    daily = daily.assign_coords(time=np.datetime64("2007-01-01", "ns") + np.arange(24) * np.timedelta64(1, "D"))
    with pytest.raises(EarthSSLError) as caught:
        frozen.embed(daily)
    message = str(caught.value)
    for words in ("variables: expected some of sst, u10, v10, got u850", "grid: expected", "time step: expected 3"):
        assert words in message
    assert "\n" not in message


def test_units_that_cannot_be_right_are_refused(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """degC labelled as K is outside what the Earth has."""
    wrong = two_years.copy(deep=True)
    wrong["sst"] = (wrong["sst"] - 273.15).assign_attrs(units="K")
    with pytest.raises(EarthSSLError, match="sst"):
        frozen.embed(wrong)


def test_the_encoder_is_frozen(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Evaluation mode, no gradients asked for, the same twice."""
    assert not frozen.encoder.training
    assert not any(p.requires_grad for p in frozen.encoder.parameters())
    xr.testing.assert_equal(frozen.embed(two_years), frozen.embed(two_years))


def test_what_a_synthetic_planet_has_is_taken(frozen: FrozenEncoder, two_years: xr.Dataset) -> None:
    """Winds that the Earth has not are right near the planet's own climatology: there alone."""
    wind = frozen.record.variables.index("u10")
    usual = frozen.record.statistics
    coefficients = usual.coefficients.copy()
    coefficients[:, 0, wind] += 300
    statistics = replace(usual, coefficients=coefficients)
    windy = FrozenEncoder(frozen.encoder, replace(frozen.record, statistics=statistics, source="planet (synthetic)"))
    faster = two_years.assign(u10=(two_years["u10"] + 300).assign_attrs(two_years["u10"].attrs))
    np.testing.assert_allclose(windy.embed(faster).values, frozen.embed(two_years).values, atol=1e-3)
    one = faster.copy(deep=True)
    one["u10"][7, 3, 4] = 900.0
    with pytest.raises(EarthSSLError, match=r"expected 'u10' within .* got 900 at"):
        windy.embed(one)
    real = replace(windy.record, source="reanalysis", licence="free")
    with pytest.raises(EarthSSLError, match="expected 'u10' within"):
        FrozenEncoder(frozen.encoder, real).embed(faster)
