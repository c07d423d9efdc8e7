"""Label efficiency: the curve over labels in a few lines, and how many times fewer labels a row needs than another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def target_pairs(table: pd.DataFrame) -> pd.Series:
    """Return the target and metric of each line of a table, as one value."""
    return pd.Series(list(zip(table["target"].astype(str), table["metric"].astype(str), strict=True)), table.index)


def curve_means(curve: pd.DataFrame, main: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return rows × shares of the labels: the mean over the main targets, NaN where a row lacks one of them.

    Args:
        curve: Columns of `label_curve.MEANS`.
        main: Targets and metrics to average over; those that the curve does not follow are left out.
    """
    own = curve[target_pairs(curve).isin(list(main))]
    counts = own.groupby(["row", "used"], sort=False)["value"].agg(["mean", "count"])
    whole = counts["mean"].where(counts["count"] == counts["count"].max())
    made = whole.unstack("used").reindex(list(dict.fromkeys(own["row"]))).sort_index(axis=1)
    made.attrs["targets"] = int(counts["count"].max()) if len(counts) else 0
    return made


def fewer_labels(means: pd.DataFrame, row: str, reference: str) -> tuple[float, bool] | None:
    """Return how many times fewer labels a row needs for what the reference reaches with all; None: never.

    Counted from the share from which on the row stays at that score; between two shares the score is taken as a
    straight line of the logarithm of the share. The second value says whether it is a lower bound: the row is there
    already at the smallest share.

    Args:
        means: As of `curve_means`.
        row: Its name.
        reference: Name of the other.
    """
    own, wanted = means.loc[row].dropna(), means.loc[reference].dropna()
    shares, values, others = own.index.to_numpy(float), own.to_numpy(float), wanted.to_numpy(float)
    if not len(values) or not len(others) or values[-1] < others[-1]:
        return None
    goal = float(others[-1])
    below = np.flatnonzero(values < goal)
    k = int(below[-1]) + 1 if len(below) else 0
    if k == 0:
        return float(wanted.index[-1] / shares[0]), True
    part = (goal - values[k - 1]) / (values[k] - values[k - 1])
    share = np.exp(np.log(shares[k - 1]) + part * np.log(shares[k] / shares[k - 1]))
    return float(wanted.index[-1] / share), False


def efficiency_words(means: pd.DataFrame, row: str, references: Sequence[str]) -> str:
    """Return one sentence: how many times fewer labels a row needs than each reference with all; "" for none."""
    said = []
    for reference in references:
        if row not in means.index or reference not in means.index:
            continue
        found = fewer_labels(means, row, reference)
        if found is None:
            said.append(f"{reference}: not reached")
        else:
            said.append(f"{reference}: {'≥ ' * found[1]}{found[0]:.1f}×")
    about = f"Fewer labels, {row}, for what others reach with all (along the mean curve, no interval)"
    return f"{about}: {'; '.join(said)}." if said else ""
