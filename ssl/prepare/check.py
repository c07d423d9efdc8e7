"""`earthssl check`: look at every value of a source and say what is odd, before anyone spends hours on it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import write_text
from ..common.progress import track
from ..fields.plausible import ImpossibleValueError
from ..fields.quality import gaps, quality, summary
from ..fields.variables import lookup
from ..sources import open_source
from ..sources.local_files import with_file
from .tasks import piece_steps, read_variable

COLUMNS = ("variable", "units", "steps", "lowest", "mean", "highest", "missing", "odd")


def check_source(source: str, options: dict[str, Any]) -> pd.DataFrame:
    """Return what a source's values look like, one row a variable, every value read once.

    Args:
        source: files, ersst, … as for `open_source`.
        options: Its options.

    Returns:
        Columns `COLUMNS`: lowest, mean and highest in canonical units; `missing` is the least and the greatest share
        of cells without a value in a step; `odd` holds the findings, "nothing" where there are none.

    Raises:
        EarthSSLError: Whatever `open_source` refuses, and values that no place on Earth has.
    """
    try:
        return _looked_at(source, options)
    except ImpossibleValueError as error:
        if source != "files":
            raise
        how = {key: options[key] for key in ("engine", "group", "grib_filter") if key in options}
        raise ImpossibleValueError(with_file(str(error), options["path"], error.time, **how), error.time) from None


def _looked_at(source: str, options: dict[str, Any]) -> pd.DataFrame:
    data = open_source(source, **options)
    times = data["time"].values
    piece = piece_steps(data, data.sizes["lat"] * data.sizes["lon"])
    rows: list[Any] = []
    for name in track([str(name) for name in data.data_vars], "check"):
        variable, parts = lookup(name), []
        for first in range(0, len(times), piece):
            values = read_variable(data, name, first, first + piece)
            parts.append(summary(values))
        one = quality(np.concatenate(parts)[:, None], times, [variable])[name]
        missing = [1 - share for share in reversed(one["valid"])]
        remarks = str(data.attrs.get("remarks", "")).split("; ")
        own = [text.removeprefix(f"{name}: ") for text in remarks if text.startswith(f"{name}: ")]
        odd = "; ".join(own + one["findings"] + ([] if rows else gaps(times))) or "nothing"
        rows.append((name, variable.units, len(times), one["low"], one["mean"], one["high"], missing, odd))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def written(table: pd.DataFrame) -> str:
    """Return the table as text: a line a variable, and one below it for each finding."""
    lines = [f"{'variable':10} {'units':8} {'steps':>7} {'lowest':>11} {'mean':>11} {'highest':>11}  missing"]
    row: Any
    for row in table.itertuples():
        numbers = " ".join(
            f"{'none' if x is None else format(x, '.5g'):>11}" for x in (row.lowest, row.mean, row.highest)
        )
        lines.append(f"{row.variable:10} {row.units:8} {row.steps:7d} {numbers}  {share(row.missing)}")
        lines += [f"{'':10} {finding}" for finding in str(row.odd).split("; ") if finding != "nothing"]
    odd = int((table["odd"] != "nothing").sum())
    lines.append(f"{odd} of {len(table)} variables hold something odd" if odd else "nothing odd")
    return "\n".join(lines)


def share(missing: list[float]) -> str:
    """Return least and greatest share in words, once where they are equal."""
    texts = [f"{100 * one:.1f} %" for one in missing]
    return texts[0] if texts[0] == texts[1] else "…".join(texts)


def write_page(table: pd.DataFrame, out: str | Path, title: str) -> Path:
    """Write the table as a small HTML page, and return where."""
    shown = table.assign(missing=table["missing"].map(share))
    body = shown.to_html(index=False, float_format="{:.5g}".format)
    head = "<!doctype html><meta charset='utf-8'><style>body{font:15px sans-serif}td,th{padding:.3em .8em}</style>"
    write_text(Path(out), f"{head}<h1>{html.escape(title)}</h1>{body}\n")
    return Path(out)
