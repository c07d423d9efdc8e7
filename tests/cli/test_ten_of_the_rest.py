"""Ten inputs of each kind of fault of tracks, options, training blocks, remedies and exports.

The files have theirs in tests/ssl/sources/test_ten_of_each_kind.py; docs/ten-of-each-kind.md is the table of both.
"""

# One line a case, however long.
# ruff: noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from earthssl.downstream.storms.best_tracks import tidy
from earthssl.ssl.common.config import build, override
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.inference.compare_export import embedded
from earthssl.ssl.inference.export import READERS, TOLERANCE, export
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.portable_encoder import example
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.sources import open_source
from earthssl.ssl.sources.selection import Selection

REGISTRY = Path(__file__).resolve().parents[2] / "registry"
LAT, LON = np.arange(60.0, -61, -20), np.arange(0.0, 360, 30)
Case = tuple[str, Any, str]  # words, what is tried, and a pattern of the refusal, or "" where it is read right

TRACKS: list[Case] = [
    ("a wind of 1e20", {"wind_kt": [40, 1e20, 50, 60]}, "column 'wind_kt' .* first '1e.20'"),
    ("a wind of 254", {"wind_kt": [40, 254, 50, 60]}, "column 'wind_kt' .* first '254"),
    ("a wind of 1.5 kt", {"wind_kt": [40, 1.5, 50, 60]}, "column 'wind_kt' .* first '1.5'"),
    ("winds in words", {"wind_kt": ["40", "calm", "50", "60"]}, "column 'wind_kt' .* first 'calm'"),
    ("a wind as <NA>", {"wind_kt": ["40", "<NA>", "50", "60"]}, ""),
    ("a pressure of 9999 hPa", {"mslp": [1000, 9999, 990, 980]}, "column 'mslp' .* first '9999"),
    ("pressures in Pa", {"min_slp": [1e5, 99900.0, 99000.0, 98000.0]}, "column 'min_slp'"),
    ("a wind under category", {"category": [0, 137, 0, 0]}, "column 'category' .* first '137"),
    ("a blank latitude", {"lat": [15, np.nan, -12, -13]}, "column 'lat'"),
    ("no time at all", {"time": ["2001-09-01 06:00", "", "2001-12-31 18:00", "2002-01-01"]}, "column 'time'"),
]
DURATIONS: list[Case] = [
    ("0:30", "0:30", "option every"), ("6.5", 6.5, "option every"), ("1e3", "1e3", "option every"), ("a list", [6], "option every"),
    ("six", "six", "option every"), ("6hh", "6hh", "option every"), ("-PT6H", "-PT6H", "option every"), ("0h", "0h", "option every"),
    ("0.25D", "0.25D", ""), ("PT6H", "PT6H", ""),
]  # fmt: skip
WORDS: list[Case] = [
    (word, word, "")
    for word in ("0b1", "0o17", "1.", "nan", ".inf", "~x", "a #b", '"a', "? x", "1:30:00")
]  # fmt: skip


def never(ds: xr.Dataset) -> None:
    ds.sst[:] = np.nan


UNSEEN: list[Case] = [
    ("it begins a month after the block", lambda ds: ds.sst.values.__setitem__(slice(96), np.nan), "training block"),
    ("it ends before the block", lambda ds: ds.sst.values.__setitem__(slice(12, None), np.nan), "training block"),
    ("it has values in validation alone", lambda ds: ds.sst.values.__setitem__([*range(108), *range(120, 144)], np.nan), "training block"),
    ("in test alone", lambda ds: ds.sst.values.__setitem__(slice(132), np.nan), "training block"),
    ("1e20 all through the block", lambda ds: ds.sst.values.__setitem__(slice(100), 1e20), "training block"),
    ("infinite all through the block", lambda ds: ds.sst.values.__setitem__(slice(100), np.inf), "training block"),
    ("outside valid_range all through the block", lambda ds: (ds.sst.values.__setitem__(slice(100), 320), ds.sst.attrs.update(valid_max=310.0)), "training block"),
    ("its missing_value all through the block", lambda ds: (ds.sst.values.__setitem__(slice(100), -99), ds.sst.attrs.update(missing_value=-99.0)), "training block"),
    ("never", never, "holds no value at all"),
    ("in one cell of one month", lambda ds: (ds.sst.values.__setitem__(slice(96), np.nan), ds.sst.values.__setitem__((50, 2, 3), 281)), ""),
]  # fmt: skip


def field(name: str, value: float, units: str, **attrs: Any) -> xr.Dataset:
    """Return two years of months."""
    values = value * (1 + 0.01 * np.random.default_rng(1).uniform(-1, 1, (24, len(LAT), len(LON))))
    data = (("time", "lat", "lon"), values.astype(np.float32), {"units": units, **attrs})
    return xr.Dataset(
        {name: data}, {"time": pd.date_range("1980-01-01", periods=24, freq="MS"), "lat": LAT, "lon": LON}
    )


def spoilt(ds: xr.Dataset, *values: float) -> xr.Dataset:
    """Put values into cells of the first row."""
    name = next(iter(ds.data_vars))
    for k, value in enumerate(values):
        ds[name].values[3, 0, k] = value
    return ds


def on(ds: xr.Dataset, name: str, values: list[Any], **attrs: Any) -> xr.Dataset:
    """Repeat a field along another axis."""
    return xr.concat([ds] * len(values), name).assign_coords({name: (name, values, attrs)})


# What is in the file, and the variable that is there once the remedy is typed.
REMEDIES: list[Case] = [
    ("a name nobody knows: rename", lambda: field("sshx", 0.5, "m"), "ssh"),
    ("a name in m s-1: rename", lambda: field("blow", 5, "m s-1"), "u10"),
    ("another standard name: rename", lambda: field("t2m", 280, "K", standard_name="soil_temperature"), "t2m"),
    ("an anomaly without saying so: rename", lambda: field("sst", 0.5, "K"), "ssta"),
    ("a wind at no level: rename", lambda: field("u", 5, "m s-1"), "u500"),
    ("no units: units", lambda: field("msl", 101325, ""), "msl"),
    ("units of 1: units", lambda: field("siconc", 0.5, "share"), "siconc"),
    ("-888 in °F: missing", lambda: spoilt(field("t2m", 50, "degF"), -888.0), "t2m"),
    ("three marks in mm: missing", lambda: spoilt(field("tp", 4, "mm"), -9.0, -99.0, -999.0), "tp"),
    ("members: member", lambda: on(field("t2m", 280, "K"), "number", [4, 7]), "t2m"),
]  # fmt: skip
SPANS = ("1800-01", "1850-02", "1899-12", "1900-02", "1904-02", "1969-12", "1999-12", "2037-11", "2100-02", "2199-06")
EXPORTS: list[Case] = [(f"from {span}", span, "") for span in SPANS]
KINDS = {
    "Tracks": TRACKS, "A number without a unit (`every`)": DURATIONS, "Words of the command line": WORDS,
    "A variable without a value in training": UNSEEN, "Advice, typed": REMEDIES, "Exports (`onnx`), 48 windows each": EXPORTS,
}  # fmt: skip


def judged(expected: str, call: Callable[[], Any]) -> Any:
    """Return what comes, or require the refusal in one line."""
    if not expected:
        return call()
    with pytest.raises(EarthSSLError, match=expected) as refused:
        call()
    assert "\n" not in str(refused.value)
    return None


@pytest.mark.parametrize(("words", "change", "expected"), TRACKS, ids=[case[0] for case in TRACKS])
def test_ten_tables_of_tracks(words, change, expected):
    plain = {
        "storm": [7, 7, "b", "b"], "basin": ["NA", "NA", "SI", "SI"], "lat": [15, 14, -12, -13], "lon": [-50, -49, 80, 80],
        "time": ["2001-09-01 06:00", "2001-09-01 00:00", "2001-12-31 18:00", "2002-01-01 00:00"],
        "wind_kt": [40, np.nan, 50, 60], "category": [-5] * 4, "over_water": [True] * 4,
    }  # fmt: skip
    found = judged(expected, lambda: tidy(pd.DataFrame({**plain, **change})))
    assert found is None or int(found["wind_kt"].isna().sum()) == 1


@pytest.mark.parametrize(("words", "every", "expected"), DURATIONS, ids=[case[0] for case in DURATIONS])
def test_ten_durations(words, every, expected):
    found = judged(expected, lambda: Selection(every=every).step())
    assert found is None or found == np.timedelta64(6, "h")


@pytest.mark.parametrize("word", [case[1] for case in WORDS])
def test_ten_words(word):
    blocks = {"train": "['1980', '1981']", "val": "['1983', '1984']", "test": "['1986', '1987']", "embargo_days": "30"}
    given = [part for name, value in blocks.items() for part in (f"--splits.{name}", value)]
    words = ["--out", word, "--options.path", word, *given]
    found = build(PrepareConfig, override({"source": "files"}, words, PrepareConfig), "here")
    assert (found.out, found.options["path"]) == (word, word)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "change", "expected"), UNSEEN, ids=[case[0] for case in UNSEEN])
def test_ten_variables_that_training_does_not_see(words, change, expected, tmp_path):
    values = (280 + np.random.default_rng(5).normal(0, 3, (144, 5, 8))).astype(np.float32)
    coords = {
        "time": pd.date_range("1980-01-01", periods=144, freq="MS"),
        "lat": np.arange(60, -61, -30.0),
        "lon": np.arange(0, 360, 45.0),
    }
    ds = xr.Dataset(
        {n: (("time", "lat", "lon"), values + k, {"units": "K"}) for k, n in enumerate(["t2m", "sst"])}, coords
    )
    change(ds)
    ds.to_netcdf(tmp_path / "a.nc")
    blocks = SplitsConfig(train=(1981, 1987), val=(1989, 1989), test=(1991, 1991), embargo_days=300)
    options = {"path": str(tmp_path / "a.nc"), "eager_bytes": 1}
    judged(expected, lambda: prepare(PrepareConfig("files", str(tmp_path / "store"), blocks, options)))
    assert (tmp_path / "store").exists() == (not expected)


@pytest.mark.parametrize(("words", "make", "name"), REMEDIES, ids=[case[0] for case in REMEDIES])
def test_ten_remedies(words, make, name, tmp_path):
    """Each is typed as it is printed, and the fault is gone."""
    make().to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError) as refused:
        open_source("files", path=str(tmp_path / "a.nc")).load()
    advised = re.findall(r"(?:as in|for an anomaly:) (\w+: (?:\{.*?\}|[\w./-]+))", str(refused.value))
    assert advised, str(refused.value)
    read = [yaml.safe_load(one) for one in advised]
    option = words.split(": ")[1]
    options = next(one for one in reversed(read) if option in one)
    got = open_source("files", path=str(tmp_path / "a.nc"), **options).load()
    assert list(got.data_vars) == [name]


@pytest.mark.slow
def test_ten_spans_of_an_export(tmp_path):
    """Months of ten spans, among them those about turns of centuries and 2^31 s."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    done = export(REGISTRY / "ersst", tmp_path / "e.onnx", "onnx")
    frozen = load_encoder(REGISTRY / "ersst")
    program = READERS["onnx"](done.path)
    fields, seconds = example(frozen, 48, seed=3)
    window = seconds.shape[1]
    for span in SPANS:
        first = np.datetime64(span, "M") + np.arange(48)[:, None] + np.arange(window)
        times = torch.from_numpy(first.astype("datetime64[s]").astype(np.int64))
        expected = embedded(frozen, fields, times, "mean", -1)
        np.testing.assert_allclose(program(fields, times), expected, atol=TOLERANCE, err_msg=span)


def test_each_kind_has_ten():
    assert {kind: len(cases) for kind, cases in KINDS.items()} == dict.fromkeys(KINDS, 10)


def rows() -> list[str]:
    """Return the table of docs/ten-of-each-kind.md, a line a kind."""
    lines = []
    for kind, cases in KINDS.items():
        code = "`{}`" if cases in (DURATIONS, WORDS) else "{}"
        refused = " · ".join(code.format(words) for words, _, expected in cases if expected and cases is not REMEDIES)
        read = " · ".join(code.format(words) for words, _, expected in cases if not expected or cases is REMEDIES)
        lines.append(f"| {kind} | {refused} |  | {read} |")
    return lines


def test_the_page_holds_the_table():
    page = (Path(__file__).parents[2] / "docs" / "ten-of-each-kind.md").read_text()
    assert [line for line in rows() if line not in page] == []
