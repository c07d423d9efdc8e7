"""Draw what a checkpoint's features vary with: python docs/draw_gallery.py CHECKPOINT STORE OUT.png.

The features of the first windows of a store's training block, pooled by their mean, less the mean of their calendar
month, in their three leading principal components. A map shows the correlation of a component with the anomalies of a
variable in the window's last step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import earthssl
import numpy as np
from earthssl.ssl.store.store import Store
from matplotlib.figure import Figure

COMPONENTS = 3
MOST = 4000  # steps
LARGEST = 0.9  # correlation at the ends of the colours


def without_season(values: np.ndarray, months: np.ndarray) -> np.ndarray:
    """Return (time, …) less the mean of each calendar month."""
    return np.stack([value - values[months == month].mean(0) for value, month in zip(values, months, strict=True)])


def components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading components (time, COMPONENTS), of unit variance, and their shares of the variance."""
    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    return u[:, :COMPONENTS] * np.sqrt(len(u)), (s**2 / (s**2).sum())[:COMPONENTS]


def correlations(component: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Return Pearson's r of a component (time) with fields (time, lat, lon), NaN where a cell has no value."""
    away = fields - fields.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        made = np.einsum("t,tyx->yx", component, away) / len(component) / away.std(0) / component.std()
    return np.asarray(made)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    encoder, store = earthssl.load_encoder(options.checkpoint), Store(options.store)
    times = store.times.astype("datetime64[ns]")
    steps = np.flatnonzero(store.splits.inside(times, "train"))[:MOST]
    data = store.dataset(encoder.record.variables).isel(time=steps)
    features = encoder.embed(data).compute()
    months = features["time"].dt.month.values
    found, shares = components(without_season(features.values.astype(float), months))
    names = encoder.record.variables
    figure = Figure((3.4 * COMPONENTS, 1.9 * len(names) + 0.7), layout="constrained")
    axes = figure.subplots(len(names), COMPONENTS, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        values = data[name].sel(time=features["time"]).values.astype(float)
        there = np.isfinite(values).any((1, 2))  # a variable may begin later than the others
        fields = without_season(values[there], months[there])
        for k, ax in enumerate(row):
            r = correlations(found[there, k] - found[there, k].mean(), fields)
            r *= np.sign(r.flat[np.nanargmax(np.abs(r))])  # the sign of a component means nothing: its strongest is red
            shown = ax.pcolormesh(data["lon"], data["lat"], r, cmap="RdBu_r", vmin=-LARGEST, vmax=LARGEST)
            ax.set_title(f"{name}, component {k + 1} ({shares[k]:.0%})", fontsize=9)
            ax.tick_params(labelsize=7)
    figure.colorbar(shown, ax=axes, label="correlation", shrink=0.8)
    figure.savefig(options.out, dpi=80)


if __name__ == "__main__":
    main()
