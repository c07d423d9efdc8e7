"""Labels: what is read, and that whatever is not clear is refused with line, expectation and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.finetune.labels import Labels
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.ssl.common.errors import EarthSSLError

GOOD = "time,nino,other\n1990-01,0.5,1\n1990-02,-0.25,2\n1990-03,1e-1,3\n"


def read(tmp_path: Path, text: str, target: Any = "nino", kind: str = "regression", **more: Any) -> Labels:
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return read_labels(str(file), [target] if isinstance(target, str) else target, kind, **more)


def test_numbers_by_time(tmp_path: Path) -> None:
    labels = read(tmp_path, GOOD, ["other", "nino"])
    assert labels.names == ("other", "nino")
    np.testing.assert_array_equal(labels.values, [[1, 0.5], [2, -0.25], [3, 0.1]])
    np.testing.assert_array_equal(labels.times, np.array(["1990-01", "1990-02", "1990-03"], "datetime64[s]"))
    assert labels.line(1) == "line 3"
    assert labels.places is None


@pytest.mark.parametrize("time", ["1990-01-05T06:00Z", "1990-01-05 06:00:00+00:00", "1990-01-05T06"])
def test_utc_in_every_iso_spelling(tmp_path: Path, time: str) -> None:
    assert read(tmp_path, f"time,nino\n{time},1\n").times[0] == np.datetime64("1990-01-05T06:00:00")


def test_places_may_come_in_any_order_and_longitudes_turn_east(tmp_path: Path) -> None:
    labels = read(tmp_path, "time,lat,lon,nino\n1990-02,10,-30,1\n1990-01,-5,200,2\n1990-01,10,-30,3\n")
    np.testing.assert_array_equal(labels.values[:, 0], [2, 3, 1])
    assert labels.places is not None
    np.testing.assert_array_equal(labels.places, [[-5, 200], [10, 330], [10, 330]])


def test_missing_values_are_dropped_where_asked_for_and_counted(tmp_path: Path) -> None:
    labels = read(tmp_path, "time,nino\n1990-01,1\n1990-02,\n1990-03,NaN\n1990-04,2\n", missing="drop")
    assert len(labels) == 2
    assert labels.dropped == 2


def test_classes_are_words_or_whole_numbers_in_one_spelling(tmp_path: Path) -> None:
    words = read(tmp_path, "time,nino\n1990-01,warm\n1990-02,cold\n", kind="classification")
    assert list(words.values) == ["warm", "cold"]
    numbers = read(tmp_path, "time,nino\n1990-01,1\n1990-02,1.0\n1990-03,0\n", kind="classification")
    assert list(numbers.values) == ["1", "1", "0"]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", "regression", "got an empty file"),
        ("time,nino\n", "regression", r"expected lines of labels, got a header alone \(time, nino\)"),
        ("time,nino\n\n,\n", "classification", "a header alone"),
        ("\n\n", "regression", "got an empty file"),
        ("time;nino\n1990-01;0,5\n", "regression", "line 1: expected commas between the cells, got ';'"),
        ("time,nina\n1990-01,1\n", "regression", "line 1: expected the column 'nino'.*Did you mean 'nina'"),
        ("date,nino\n1990-01,1\n", "regression", "line 1: expected the column 'time'"),
        ("time,nino,nino\n1990-01,1,2\n", "regression", "'nino' twice"),
        ("time,nino\n1990-01,1\n1990-02\n", "regression", "line 3: expected 2 cells"),
        ("time,nino\n1990-01,1\n1990-01,2\n", "regression", "line 3: expected each time once.*line 2"),
        ("time,nino\n1990-02,1\n1990-01,2\n", "regression", "line 3: expected times in ascending order.*sort"),
        ("time,nino\n1990-01,1\n1990-02,nan\n", "regression", "line 3: expected a value of 'nino', got 'nan'.*drop"),
        ("time,nino\n1990-01,inf\n", "regression", "line 2: expected a finite number"),
        ("time,nino\n1990-01,1\n1990-02,high\n", "regression", "line 3: expected a number.*'high'.*classification"),
        ('time,nino\n1990-01,"0,5"\n', "regression", "write 0.5, not 0,5"),
        ("time,nino\n1990-01,1\n1990-02,-1\n1990-03,-99.99\n", "regression", "line 4: .*'nino', got -99.99, far from"),
        ("time,nino\n05.01.1990,1\n", "regression", "line 2: expected an ISO time such as"),
        ("time,nino\n1990-13,1\n", "regression", "line 2: expected a date that exists"),
        ("time,nino\n1990-01-01T00:00+02:00,1\n", "regression", r"line 2: expected an ISO time in UTC.*\+02:00"),
        (
            "time,nino\n1990-01-01T00:00Z,1\n1990-01-02T00:00,1\n",
            "regression",
            "line 3: expected times all with or all",
        ),
        ("time,nino\n1066-10,1\n", "regression", "expected a year within 1678"),
        ("time,lat,nino\n1990-01,5,1\n", "regression", "both columns lat and lon, or neither"),
        ("time,lat,lon,nino\n1990-01,95,10,1\n", "regression", "line 2: expected a latitude within"),
        ("time,lat,lon,nino\n1990-01,5,10,1\n1990-01,5,10,2\n", "regression", "each time once.*at 5°, 10° again"),
        ("time,nino\n1990-01,warm\n1990-02,1\n", "classification", "line 3: expected a word as class.*'warm'"),
        ("time,nino\n1990-01,0.5\n1990-02,1\n", "classification", "expected whole numbers or words as classes"),
        ("time,nino\n1990-01,1\n", "field", "expected fields as NetCDF"),
        ("time,nino\n1990-01,1\n", "regresion", "Did you mean 'regression'"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, text: str, kind: str, words: str) -> None:
    with pytest.raises(EarthSSLError, match=words):
        read(tmp_path, text, kind=kind)


def test_a_usual_mark_of_missing_values_may_be_a_value(tmp_path: Path) -> None:
    text = "time,nino\n" + "".join(f"1990-{k + 1:02},{value}\n" for k, value in enumerate((-999, -1500, 2000, -99.9)))
    assert len(read(tmp_path, text)) == 4
    xr.Dataset({"nino": ("time", [1.0, 2.0, 999.9])}, {"time": np.arange(3)}).assign_coords(
        time=np.array(["1990-01", "1990-02", "1990-03"], "datetime64[ns]")
    ).to_netcdf(tmp_path / "marked.nc")
    with pytest.raises(EarthSSLError, match=r"time 1990-03-01T00:00:00: expected a value of 'nino', got 999\.9"):
        read_labels(str(tmp_path / "marked.nc"), ["nino"], "regression")


@pytest.mark.parametrize(
    "mark",
    [-999, 999.9, -99.99, 9999, -1e30, 1e20, 9.96921e36, 32767, -32768, -2147483648, -9990, -999e6, 99999, -8888],
)
@pytest.mark.parametrize("kind", ["regression", "classification", "field"])
def test_a_number_that_stands_for_no_value_is_refused(tmp_path: Path, mark: float, kind: str) -> None:
    """In series, classes and fields, with line or time, value and place."""
    if kind == "field":
        data = fields()
        data["rain"] /= 10
        data["rain"][1, 2, 1] = mark
        data["rain"].attrs.pop("_FillValue", None)
        data.to_netcdf(tmp_path / "f.nc", encoding={"rain": {"_FillValue": None}})
        with pytest.raises(EarthSSLError, match=r"time 1990-02-01T00:00:00: .* 'rain' at -60°, 120°, got .*\(1 such\)"):
            read_labels(str(tmp_path / "f.nc"), ["rain"], "field")
        return
    values = [0, 1, 1, 0, 1, int(mark) if kind == "classification" else mark, 0, 1]
    text = "time,nino\n" + "".join(f"1990-{k + 1:02},{value}\n" for k, value in enumerate(values))
    if kind == "classification" and mark != int(mark):
        return
    with pytest.raises(EarthSSLError, match=r"line 7: expected a value of 'nino', got .* \(0 to 1\).* missing: drop"):
        read(tmp_path, text, kind=kind)


def test_large_numbers_among_their_like_are_values(tmp_path: Path) -> None:
    """Rain that mostly is none, pressures near 99999 Pa, classes that are years."""
    rain = [0.0] * 11 + [99.0, 45.0]
    pressure = [99950.0 + 7 * k for k in range(12)] + [99999.0]
    classes = [1998, 1999] * 6 + [9999]
    for values, kind in ((rain, "regression"), (pressure, "regression"), (classes, "classification")):
        text = "time,nino\n" + "".join(f"1990-01-{k + 1:02},{value}\n" for k, value in enumerate(values))
        if kind == "classification":
            with pytest.raises(EarthSSLError, match="got 9999"):
                read(tmp_path, text, kind=kind)
        else:
            assert len(read(tmp_path, text, kind=kind)) == 13


@pytest.mark.parametrize(("lat", "lon"), [("latitude", "longitude"), ("Lat", "Lon"), ("LAT", "Long"), ("lat", "lon")])
def test_places_are_places_however_they_are_spelled(tmp_path: Path, lat: str, lon: str) -> None:
    """Columns of this name were passed over, and every label was of the whole field."""
    labels = read(tmp_path, f"time,{lat},{lon},nino\n1990-01,10,-30,1\n1990-02,-5,200,2\n")
    assert labels.places is not None
    np.testing.assert_array_equal(labels.places, [[10, 330], [-5, 200]])
    with pytest.raises(EarthSSLError, match="one column of lat, got latitude, Lat; leave one out"):
        read(tmp_path, "time,latitude,Lat,lon,nino\n1990-01,10,10,-30,1\n")


@pytest.mark.parametrize("word", ["1_000", "١", "0x10", "1,5"])
def test_numbers_are_digits(tmp_path: Path, word: str) -> None:
    with pytest.raises(EarthSSLError, match="line 2: expected a number of 'nino'"):
        read(tmp_path, f'time,nino\n1990-01,"{word}"\n')


@pytest.mark.parametrize("word", ["missing", "?", "--", "#N/A", "NaT", " "])
def test_words_that_say_that_there_is_nothing(tmp_path: Path, word: str) -> None:
    text = f"time,nino\n1990-01,1\n1990-02,{word}\n1990-03,2\n"
    for kind in ("regression", "classification"):
        assert read(tmp_path, text, kind=kind, missing="drop").dropped == 1
        with pytest.raises(EarthSSLError, match="line 3: expected a value of 'nino'"):
            read(tmp_path, text, kind=kind)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"time,nino\n1990-01,\xff\xfe\n")
    with pytest.raises(EarthSSLError, match="expected CSV in UTF-8"):
        read_labels(str(file), ["nino"], "regression")
    with pytest.raises(EarthSSLError, match="found none; check the path"):
        read_labels(str(tmp_path / "nothing.csv"), ["nino"], "regression")


def fields(lat: Any = (60.0, 0.0, -60.0), lon: Any = (0.0, 120.0, 240.0)) -> xr.Dataset:
    times = np.array(["1990-01", "1990-02"], "datetime64[ns]")
    values = np.arange(18.0).reshape(2, 3, 3)
    array = xr.DataArray(values, {"time": times, "lat": list(lat), "lon": list(lon)}, ("time", "lat", "lon"))
    return xr.Dataset({"rain": array.assign_attrs(units="mm d-1"), "index": ("time", [1.0, np.nan])})


def test_fields_are_turned_north_first_and_east_from_zero(tmp_path: Path) -> None:
    data = fields(lat=(-60.0, 0.0, 60.0), lon=(-120.0, 0.0, 120.0))
    data.to_netcdf(tmp_path / "f.nc")
    labels = read_labels(str(tmp_path / "f.nc"), ["rain"], "field")
    assert labels.grid is not None
    np.testing.assert_array_equal(labels.grid.lon, [0, 120, 240])
    np.testing.assert_array_equal(labels.values[0], data["rain"][0].values[::-1][:, [1, 2, 0]])
    assert labels.units == ("mm d-1",)


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("rian", "field", "Did you mean 'rain'"),
        ("index", "field", r"expected 'index' with dimensions \(time, lat, lon\)"),
        ("rain", "regression", r"expected 'rain' with dimensions \(time\)"),
        ("index", "regression", "expected a finite value at every time, got none at 1990-02"),
    ],
)
def test_netcdf_that_is_not_clear_is_refused(tmp_path: Path, target: str, kind: str, words: str) -> None:
    fields().to_netcdf(tmp_path / "f.nc")
    with pytest.raises(EarthSSLError, match=words):
        read_labels(str(tmp_path / "f.nc"), [target], kind)


@pytest.mark.parametrize("kind", ["regression", "classification", "field"])
@pytest.mark.parametrize("axis", ["time", "lat"])
def test_netcdf_without_a_label_is_refused(tmp_path: Path, kind: str, axis: str) -> None:
    if kind == "field":
        data = fields().isel({axis: slice(0, 0)})
    else:
        data = xr.Dataset({"x": ("time", np.zeros(0, "f4"))}, {"time": np.zeros(0, "datetime64[ns]")})
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EarthSSLError, match=r"expected labels, got none: its coordinate '\w+' is empty"):
        read_labels(str(tmp_path / "a.nc"), [str(next(iter(data.data_vars)))], kind)


def test_other_calendars_and_broken_files_are_refused(tmp_path: Path) -> None:
    times = xr.date_range("1990-01-01", periods=2, freq="D", calendar="360_day", use_cftime=True)
    xr.Dataset({"index": ("time", [1.0, 2.0])}, {"time": times}).to_netcdf(tmp_path / "c.nc")
    with pytest.raises(EarthSSLError, match="calendar whose dates exist in the Gregorian one"):
        read_labels(str(tmp_path / "c.nc"), ["index"], "regression")
    (tmp_path / "b.nc").write_bytes(b"no netcdf")
    with pytest.raises(EarthSSLError, match="expected NetCDF, but it cannot be read"):
        read_labels(str(tmp_path / "b.nc"), ["index"], "regression")
