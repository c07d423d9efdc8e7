"""EncoderTransformer: a step of a scikit-learn pipeline whose rows stand beside their labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.sklearn_transformer import EncoderTransformer, window_array
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1")
# Those that fit nothing. All others of scikit-learn fit a two-dimensional table of numbers, which is no field: they
# cannot apply, as their tag `two_d_array` says.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_get_feature_names_out_error",
    "check_transformers_unfitted",
    "check_get_params_invariance",
    "check_set_params",
)


@pytest.fixture(scope="module")
def series() -> xr.Dataset:
    """Eight years of months near the climatology of the small checkpoint."""
    record = load_encoder(SMALL).record
    times = np.arange("1930-01", "1938-01", dtype="datetime64[M]").astype("datetime64[ns]")
    noise = np.random.default_rng(0).standard_normal((len(times), *record.statistics.scale.shape)).astype(np.float32)
    fields = record.statistics.denormalise(noise, times).astype(np.float32)
    arrays = {
        name: (("time", "lat", "lon"), fields[:, k], {"units": unit})
        for k, (name, unit) in enumerate(zip(record.variables, record.units, strict=True))
    }
    return xr.Dataset(arrays, {"time": times, "lat": record.grid.lat, "lon": record.grid.lon})


@pytest.fixture(scope="module")
def labels(series: xr.Dataset) -> xr.DataArray:
    """A label for every month."""
    return series["sst"].mean(("lat", "lon"))


@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_of_scikit_learn_that_apply(check: str) -> None:
    """Parameters, cloning, tags."""
    getattr(estimator_checks, check)("EncoderTransformer", EncoderTransformer(SMALL))


def test_rows_are_the_windows_of_a_series(series: xr.Dataset) -> None:
    """The numbers of embed, in two dimensions; windows given one by one give the same."""
    frozen = load_encoder(SMALL)
    for options in ({}, {"pooling": "tokens"}, {"layer": [0, -1]}, {"pooling": "tokens", "layer": [-1, 0]}):
        transformer = EncoderTransformer(SMALL, **options)  # type: ignore[arg-type]
        rows = transformer.fit_transform(series)
        expected = frozen.embed(series, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(rows, expected.values.reshape(len(expected), -1))
        np.testing.assert_array_equal(transformer.times_, expected["time"].values)
        names = transformer.get_feature_names_out()
        assert len(set(names)) == rows.shape[1]
        windows = transformer.windows(series)
        np.testing.assert_allclose(transformer.transform(windows), rows, atol=2e-6)
    assert names[0] == "layer1_token0_feature0"  # the last of two blocks was named first


def test_a_gap_in_time_ends_no_window(series: xr.Dataset, labels: xr.DataArray) -> None:
    """Rows, their times and their labels go together."""
    gappy = series.isel(time=[k for k in range(40) if k != 17])
    transformer = EncoderTransformer(SMALL).fit(gappy)
    rows, windows = transformer.transform(gappy), transformer.windows(gappy)
    assert len(rows) == 40 - 2 - 3
    np.testing.assert_allclose(transformer.transform(windows), rows, atol=2e-6)
    np.testing.assert_array_equal(transformer.row_times(gappy), windows["time"].values)
    expected = labels.sel(time=windows["time"]).values
    np.testing.assert_array_equal(transformer.align(gappy, labels), expected)
    np.testing.assert_array_equal(transformer.align(windows, labels), expected)
    middle = pd.Series(labels.values, labels["time"].to_index() + pd.Timedelta(days=14))
    np.testing.assert_array_equal(transformer.align(gappy, middle), expected)
    np.testing.assert_array_equal(transformer.align(gappy, middle.tz_localize("UTC")), expected)
    other = labels.convert_calendar("noleap", use_cftime=True)
    np.testing.assert_array_equal(transformer.align(gappy, other), expected)


def test_only_an_encoder_of_months_takes_labels_of_the_same_month(series: xr.Dataset, labels: xr.DataArray) -> None:
    """Rows of a daily encoder that lie a month apart are no months: labels must be theirs to the instant."""
    frozen = load_encoder(SMALL)
    windows = EncoderTransformer(frozen).windows(series)
    later = labels.assign_coords(time=labels["time"] + np.timedelta64(9, "D"))
    expected = labels.sel(time=windows["time"]).values
    one = windows[:1]  # alone it has no spacing
    np.testing.assert_array_equal(EncoderTransformer(frozen).align(one, later), expected[:1])
    daily = EncoderTransformer(FrozenEncoder(frozen.encoder, replace(frozen.record, step_days=1.0)))
    with pytest.raises(EarthSSLError, match="found none for 94"):
        daily.align(windows, later)
    np.testing.assert_array_equal(daily.align(windows, labels), expected)


def test_labels_that_do_not_fit_are_refused(series: xr.Dataset, labels: xr.DataArray) -> None:
    """None for a row, two for a row, no times."""
    transformer = EncoderTransformer(SMALL)
    with pytest.raises(EarthSSLError, match="one for each of 94 rows, found none for 4 "):
        transformer.align(series, labels.isel(time=slice(0, -4)))
    with pytest.raises(EarthSSLError, match="some times are there twice"):
        transformer.align(series, xr.concat([labels, labels], "time"))
    with pytest.raises(EarthSSLError, match="index, got ndarray; label it"):
        transformer.align(series, labels.values)  # type: ignore[arg-type]


def test_pipelines_and_grid_searches(series: xr.Dataset, labels: xr.DataArray) -> None:
    """A pipeline on a series; a search over layer and pooling on windows."""
    transformer = EncoderTransformer(SMALL)
    pipeline = make_pipeline(transformer, StandardScaler(), Ridge())
    target = transformer.align(series, labels)
    pipeline.fit(series, target)
    assert pipeline.predict(series).shape == target.shape
    windows = transformer.windows(series)
    folds = TimeSeriesSplit(2, gap=2)
    grid: dict[str, Any] = {
        "encodertransformer__layer": [0, -1, [0, 1]],
        "encodertransformer__pooling": ["mean", "last"],
    }
    search = GridSearchCV(pipeline, grid, cv=folds, error_score="raise").fit(windows, target)
    assert len(search.cv_results_["params"]) == 6
    scores = cross_val_score(search.best_estimator_, windows, target, cv=folds)
    assert search.best_score_ == pytest.approx(scores.mean())
    np.testing.assert_allclose(search.predict(windows[[3, 5]]), search.predict(windows)[[3, 5]], rtol=1e-5)


def test_parameters_and_output(series: xr.Dataset) -> None:
    """Copies are equal and unfitted; pandas on request; a FrozenEncoder will do."""
    transformer = EncoderTransformer(SMALL, layer=[0, 1]).fit(series)
    copy = clone(transformer)
    assert copy.get_params() == transformer.get_params()
    assert not hasattr(copy, "encoder_")
    table = EncoderTransformer(load_encoder(SMALL)).set_output(transform="pandas").fit_transform(series)
    assert list(table.columns[:2]) == ["feature0", "feature1"]
    np.testing.assert_array_equal(clone(transformer).fit_transform(series), transformer.transform(series))


def test_what_does_not_fit_is_refused(series: xr.Dataset) -> None:
    """Layer, pooling, other variables than were fitted, windows of another grid or length."""
    with pytest.raises(EarthSSLError, match="layer: expected -2 to 1, got 5"):
        EncoderTransformer(SMALL, layer=5).fit(series)
    with pytest.raises(EarthSSLError, match="pooling: expected"):
        EncoderTransformer(SMALL, pooling="max").fit(series)
    transformer = EncoderTransformer(SMALL).fit(series)
    with (
        pytest.raises(EarthSSLError, match=r"variables that were fitted \(sst, u10\), got sst"),
        pytest.warns(UserWarning, match="embedding without u10"),
    ):
        transformer.transform(series[["sst"]])
    windows = transformer.windows(series)
    other = windows.assign_coords(lon=windows["lon"] + 1, variable=["sst", "v10"])
    with pytest.raises(EarthSSLError, match=r"variables: .* got v10; grid: expected"):
        transformer.transform(other)
    with pytest.raises(EarthSSLError, match="steps: expected 3, got 2"):
        transformer.transform(windows.isel(step=slice(0, 2)))
    with pytest.raises(EarthSSLError, match="expected the dimensions time, step, variable, lat, lon"):
        transformer.transform(windows.transpose("step", ...))
    times = windows["step_time"].values.copy()
    times[5, 0] -= np.timedelta64(31, "D")
    with pytest.raises(EarthSSLError, match=r"step_time: expected steps of 3.* days, got 6"):
        transformer.transform(windows.assign_coords(step_time=(("time", "step"), times)))
    with pytest.raises(EarthSSLError, match="time: expected that of each window's last step"):
        transformer.transform(windows.assign_coords(time=windows["step_time"].values[:, 0]))


def test_windows_in_wrong_units_are_refused(series: xr.Dataset) -> None:
    """Labelled by hand they say no units: only the climatology knows."""
    transformer = EncoderTransformer(SMALL)
    windows = transformer.windows(series)
    celsius = windows.copy(data=windows.values - np.array([273.15, 0], np.float32)[:, None, None])
    for call in (transformer.fit, EncoderTransformer(SMALL).fit(windows).transform):
        with pytest.raises(EarthSSLError, match=r"'sst' lies .* K, expected"):
            call(celsius)
    assert EncoderTransformer(SMALL, check_range=False).fit_transform(celsius).shape == (94, 16)
    away = load_encoder(SMALL).record.statistics.scale * np.array([0, 5], np.float32)[:, None, None]
    windy = windows.copy(data=windows.values + away)
    with pytest.warns(UserWarning, match="'u10' lies .* are its units right"):
        transformer.fit(windy)


def test_numpy_windows_are_labelled_by_hand(series: xr.Dataset) -> None:
    """Samples from anywhere: values, times, names and grid are all it takes."""
    frozen = load_encoder(SMALL)
    transformer = EncoderTransformer(frozen).fit(series)
    windows = transformer.windows(series)
    chosen = [50, 3, 20]
    made = window_array(
        windows.values[chosen], windows["step_time"].values[chosen], frozen.record.variables, frozen.record.grid
    )
    np.testing.assert_allclose(transformer.transform(made), transformer.transform(series)[chosen], atol=2e-6)
