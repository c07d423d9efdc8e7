"""How near the features of data on another grid are to those of a checkpoint's own data, month by month.

python benchmarks/other_grids.py CHECKPOINT OWN.nc OTHER.nc … [--time 1986 2014] [--until 1983] [--base 1986 2014]

For every other file: months in common, correlation of the fields themselves (anomalies of the months in common, over
cells and months), of the features (departures from their means, over all features and months), and of a ridge fitted
on OWN's features up to `--until` to the mean over 5S-5N, 190-240E of OWN less that of its calendar month, at once and
six months ahead, when it reads OWN's and when it reads OTHER's features.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import xarray as xr
from earthssl.ssl.inference.frozen_encoder import FrozenEncoder
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.screening import screen
from earthssl.ssl.sources.regrid import LEAST_VALID

LEADS = (0, 6)
PENALTY = 10.0  # of standardised features


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's r of departures from the means over time (axis 0), over all that is finite in both."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = (np.where(both, v, np.nan) for v in (a, b))
    x, y = x - np.nanmean(x, 0), y - np.nanmean(y, 0)
    return float(np.nansum(x * y) / np.sqrt(np.nansum(x**2) * np.nansum(y**2)))


def fields(encoder: FrozenEncoder, data: xr.Dataset, base: Any = None) -> xr.DataArray:
    """Return the first variable as the encoder reads it: (time, cell), in standard deviations from its climatology."""
    screened = screen(data, encoder.record, base=base)
    values = np.stack([screened.data[name].values for name in screened.variables], 1)
    normal = screened.statistics.normalise(values, screened.data["time"].values)[:, 0]
    return xr.DataArray(normal.reshape(len(normal), -1), {"time": screened.data["time"].values}, ("time", "cell"))


def ridge(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the weights of a ridge on features with a column of ones."""
    made = features.T @ features + PENALTY * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(made, features.T @ target))


def main() -> None:
    """Print a row a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("own")
    parser.add_argument("others", nargs="+")
    parser.add_argument("--time", nargs=2, default=["1986", "2014"], metavar=("FIRST", "LAST"))
    parser.add_argument("--until", default="1983")
    parser.add_argument("--base", nargs=2, default=None, metavar=("FIRST", "LAST"), help="as for embed, of OTHER")
    parser.add_argument("--least-valid", type=float, default=LEAST_VALID, help="as for embed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what was done stands in the attributes, printed below
    encoder = load_encoder(options.checkpoint)
    with xr.open_dataset(options.own) as ds:
        own_data = ds.sortby("lat").load()
    own, own_fields = encoder.embed(own_data), fields(encoder, own_data)
    index = own_data[next(iter(own_data.data_vars))].sel(lat=slice(-5, 5), lon=slice(190, 240))
    months = index.mean(("lat", "lon")).groupby("time.month")
    index = months - months.mean()
    early = own.sel(time=slice(None, options.until))
    mean, std = early.mean("time"), early.std("time")
    weights = {}
    for lead in LEADS:
        target = index.shift(time=-lead).sel(time=early["time"]).values
        weights[lead] = ridge(((early - mean) / std).values, target - target.mean())

    def read(features: xr.DataArray, lead: int) -> float:
        guess = ((features - mean) / std).values @ weights[lead]
        truth = index.shift(time=-lead).sel(time=features["time"]).values
        there = np.isfinite(truth)
        return float(np.corrcoef(guess[there], truth[there])[0, 1])

    for path in options.others:
        with xr.open_dataset(path) as ds:
            other_data = ds.load()
        other = encoder.embed(other_data, base=options.base, least_valid=options.least_valid).sel(
            time=slice(*options.time)
        )
        a, b = xr.align(own, other, join="inner")
        x, y = xr.align(own_fields, fields(encoder, other_data, options.base).sel(time=a["time"]), join="inner")
        print(f"{path}: {len(a)} months {str(a.time.values[0])[:7]} to {str(a.time.values[-1])[:7]}")
        print(f"  fields r {correlation(x.values, y.values):.3f}; features r {correlation(a.values, b.values):.3f}")
        for lead in LEADS:
            print(f"  ridge, lead {lead}: r {read(a, lead):.3f} from own features, {read(b, lead):.3f} from these")
        for name in ("regridded", "anomalies"):
            if name in other.attrs:
                print(f"  {name}: {other.attrs[name]}")


if __name__ == "__main__":
    main()
