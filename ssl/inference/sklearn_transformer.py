"""EncoderTransformer: a frozen encoder as a step of a scikit-learn pipeline, fields in, a table of features out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..fields.month_stamps import by_month
from ..sources.metadata.calendars import gregorian
from ..sources.regrid import LEAST_VALID
from .frozen_encoder import FrozenEncoder, Series
from .load import load_encoder
from .screening import doubts, sampled, screen

DIMS = ("time", "step", "variable", "lat", "lon")
Fields = xr.Dataset | xr.DataArray


class EncoderTransformer(TransformerMixin, BaseEstimator):
    """Fields to features: one row for every window of unbroken steps, or for every window given.

    X is one of two things:

    - a series: an xarray Dataset or DataArray of fields, as `FrozenEncoder.embed` takes it. Rows are its windows; the
      first `window - 1` steps of every unbroken stretch end none, so there are fewer rows than steps: `row_times(X)`
      says which, and `align(X, y)` picks the labels that belong to them;
    - windows, as `windows(series)` makes them: a DataArray (time, step, variable, lat, lon), one row each. It can be
      cut along its first axis as scikit-learn does, so `GridSearchCV` and `cross_val_score` work. Give those splits by
      time (`TimeSeriesSplit` with a `gap`), since neighbouring windows share steps.

    Nothing is learnt from X or y: `fit` loads the encoder and sees that the fields fit it.

    Attributes:
        encoder_: The `FrozenEncoder`.
        times_: Last step of the window of each row of the X that was fitted, datetime64.
        variables_: Canonical names of its variables.
    """

    def __init__(
        self,
        encoder: str | Path | FrozenEncoder,
        *,
        pooling: str = "mean",
        layer: int | Sequence[int] = -1,
        batch_size: int = 64,
        check_range: bool = True,
        least_valid: float = LEAST_VALID,
        base: tuple[str, str] | None = None,
    ) -> None:
        """Keep the parameters; they are checked by `fit`.

        Args:
            encoder: What `load_encoder` takes, or a `FrozenEncoder`.
            pooling: mean, last or tokens; tokens become columns side by side.
            layer: Block whose output is taken; those of several stand side by side.
            batch_size: Windows at once.
            check_range, least_valid, base: See `FrozenEncoder.embed`; the last two matter to a series alone.
        """
        self.encoder = encoder
        self.pooling = pooling
        self.layer = layer
        self.batch_size = batch_size
        self.check_range = check_range
        self.least_valid = least_valid
        self.base = base

    def fit(self, X: Fields, y: Any = None) -> EncoderTransformer:
        """Load the encoder and see that the fields fit it; y is not used.

        Raises:
            EarthSSLError: Whatever `load_encoder` and `embed` refuse.
        """
        frozen = self._load()
        self._view = frozen.view(self.pooling, self.layer, self.batch_size, self.check_range)
        if is_windows(X):
            self._see_windows(X, frozen)
            self.times_, self.variables_ = X["time"].values, tuple(str(name) for name in X["variable"].values)
        else:
            series = self._series(X, frozen)
            self.times_, self.variables_ = series.times, series.variables
        self._tokens = frozen.patches(self.variables_).count if self.pooling == "tokens" else 0
        self.encoder_ = frozen
        return self

    def transform(self, X: Fields) -> np.ndarray:
        """Return the features, float32 (row, column).

        Raises:
            EarthSSLError: If the fields do not fit, or have other variables than those that were fitted.
        """
        check_is_fitted(self, "encoder_")
        if is_windows(X):
            self._see_windows(X, self.encoder_)
            names = tuple(str(name) for name in X["variable"].values)
            self._check_variables(names)
            features = self.encoder_.of_windows(X.values, X["step_time"].values, names, self._view)
        else:
            series = self._series(X, self.encoder_)
            self._check_variables(series.variables)
            features = self.encoder_.of_series(series, self._view)
        return features.reshape(len(features), -1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns: feature3, token7_feature3, layer0_token7_feature3."""
        check_is_fitted(self, "encoder_")
        layers = [""] if self._view.single else [f"layer{k}_" for k in self._view.layers]
        tokens = [f"token{k}_" for k in range(self._tokens)] or [""]
        width = range(self.encoder_.encoder.width)
        return np.array([f"{a}{b}feature{k}" for a in layers for b in tokens for k in width], dtype=object)

    def windows(self, X: Fields) -> xr.DataArray:
        """Return every window of a series, in memory, one a row, on a view of the fields: (time, step, …).

        Coordinates are those of `window_array`.
        """
        series = self._series(X, self._load())
        data = series.data.load()
        fields = np.stack([data[name].values for name in series.variables], 1)
        steps = np.lib.stride_tricks.sliding_window_view(np.arange(len(fields)), series.length)
        rolling = np.moveaxis(np.lib.stride_tricks.sliding_window_view(fields, series.length, axis=0), -1, 1)
        whole = len(series.starts) == len(rolling)
        values, places = (rolling, steps) if whole else (rolling[series.starts], steps[series.starts])
        grid = LatLonGrid(data["lat"].values, data["lon"].values)
        return window_array(values, data["time"].values[places], series.variables, grid)

    def row_times(self, X: Fields) -> np.ndarray:
        """Return the last step of the window of each row that `transform(X)` gives, datetime64."""
        return X["time"].values if is_windows(X) else self._series(X, self._load()).times

    def align(self, X: Fields, y: xr.DataArray | pd.Series) -> np.ndarray:
        """Return the labels of the rows that `transform(X)` gives.

        Args:
            X: Series or windows.
            y: Labels by time (UTC): a DataArray with `time`, or a Series with times for an index. Rows of an encoder of
                months find their labels by month.

        Raises:
            EarthSSLError: If a row has no label or several, or the labels have no times.
        """
        frozen = self._load()
        times = X["time"].values if is_windows(X) else self._series(X, frozen).times
        if isinstance(y, pd.Series) and isinstance(y.index, (pd.DatetimeIndex, xr.CFTimeIndex)):
            labels, given = y.to_numpy(), gregorian(y.index.to_numpy(), "labels")
        elif isinstance(y, xr.DataArray) and "time" in y.coords and "time" in y.dims:
            labels, given = y.transpose("time", ...).values, gregorian(y["time"].values, "labels")
        else:
            raise EarthSSLError(
                f"labels: expected a DataArray with the dimension time or a Series with times for an index, got "
                f"{type(y).__name__}; label it, as in pandas.Series(values, index=times)"
            )
        # By the encoder's step, not by the rows' spacing: some rows of a daily series may lie a month apart.
        unit = "datetime64[M]" if by_month(frozen.record.step_days) else "datetime64[ns]"
        index = pd.Index(given.astype(unit).astype(np.int64))
        if index.has_duplicates:
            raise EarthSSLError("labels: expected one a time, some times are there twice; drop or average them")
        found = index.get_indexer(pd.Index(times.astype(unit).astype(np.int64)))
        if (found < 0).any():
            lacking = times[found < 0]
            raise EarthSSLError(
                f"labels: expected one for each of {len(times)} rows, found none for {len(lacking)} "
                f"({lacking[0]} the first); cut the fields to the labels' times"
            )
        return labels[found]

    def __sklearn_tags__(self) -> Any:
        """Say that the input is no table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        return tags

    def _load(self) -> FrozenEncoder:
        if isinstance(self.encoder, FrozenEncoder):
            return self.encoder
        loaded: FrozenEncoder = load_encoder(self.encoder)
        return loaded

    def _series(self, X: Fields, frozen: FrozenEncoder) -> Series:
        screened = screen(X, frozen.record, check_range=self.check_range, least_valid=self.least_valid, base=self.base)
        for text in screened.said:
            warnings.warn(text, stacklevel=3)
        return Series.of(screened, frozen.record.encoder.window)

    def _see_windows(self, X: xr.DataArray, frozen: FrozenEncoder) -> None:
        for text in _check_windows(X, frozen, self.check_range):
            warnings.warn(text, stacklevel=3)

    def _check_variables(self, names: Sequence[str]) -> None:
        if tuple(names) != self.variables_:
            raise EarthSSLError(
                f"expected the variables that were fitted ({', '.join(self.variables_)}), got {', '.join(names)}"
            )


def is_windows(X: Any) -> TypeGuard[xr.DataArray]:
    """Whether X is an array of windows, and not a series."""
    return isinstance(X, xr.DataArray) and "step" in X.dims


def window_array(values: np.ndarray, times: np.ndarray, variables: Sequence[str], grid: LatLonGrid) -> xr.DataArray:
    """Return windows as `EncoderTransformer` takes them.

    Args:
        values: In canonical units, NaN where missing, (window, step, variable, row, column), north to south.
        times: Of every step, datetime64 UTC, (window, step).
        variables: Canonical names.
        grid: The cells.

    Returns:
        (time, step, variable, lat, lon) with `time`, that of the last step, and `step_time` (time, step).
    """
    coords = {
        "time": times[:, -1],
        "step_time": (("time", "step"), times),
        "variable": list(variables),
        "lat": grid.lat,
        "lon": grid.lon,
    }
    return xr.DataArray(values, coords, DIMS, "windows")


def _check_windows(X: xr.DataArray, frozen: FrozenEncoder, check_range: bool) -> tuple[str, ...]:
    """Return what is odd about windows; refuse those that do not fit."""
    record, said = frozen.record, []
    if X.dims != DIMS or not {"step_time", "variable", "lat", "lon"} <= set(X.coords):
        raise EarthSSLError(
            f"windows: expected the dimensions {', '.join(DIMS)} and their coordinates, got "
            f"{', '.join(map(str, X.dims))}; make them with EncoderTransformer.windows or window_array"
        )
    unknown = [str(name) for name in X["variable"].values if name not in record.variables]
    if unknown:
        said.append(f"variables: expected some of {', '.join(record.variables)}, got {', '.join(unknown)}")
    if X.sizes["step"] != record.encoder.window:
        said.append(f"steps: expected {record.encoder.window}, got {X.sizes['step']}")
    grid = LatLonGrid(X["lat"].values, X["lon"].values)
    if not record.grid.same_as(grid):
        said.append(f"grid: expected {record.grid}, got {grid}")
    apart = np.diff(X["step_time"].values, axis=1) / np.timedelta64(1, "D")
    wrong = np.abs(apart - record.step_days) > 0.1 * record.step_days
    if wrong.any():
        said.append(f"step_time: expected steps of {record.step_days:g} days, got {apart[wrong][0]:g}")
    if (X["step_time"].values[:, -1] != X["time"].values).any():
        said.append("time: expected that of each window's last step, got others")
    if said:
        raise EarthSSLError(f"the windows do not fit the checkpoint: {'; '.join(said)}")
    if not check_range or not len(X):
        return ()
    names = [str(name) for name in X["variable"].values]
    places = [record.variables.index(name) for name in names]
    some = X.isel(time=sampled(len(X)), step=-1)
    units = [record.units[k] for k in places]
    return doubts(some.values, some["step_time"].values, names, units, record.statistics.select(places), "the windows")
