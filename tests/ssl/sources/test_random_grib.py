"""Random GRIB files of known fields, editions 1 and 2: what comes back is the field, or a refusal in one line.

Messages are written with eccodes; the truth is kept beside them. Skipped where the extra grib is not installed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import open_source
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

eccodes = pytest.importorskip("eccodes", reason="the extra grib is not installed")
pytest.importorskip("cfgrib", reason="the extra grib is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # eccodes and cfgrib warn of their own affairs

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
FEW = settings(
    max_examples=100, deadline=None, phases=PHASES, derandomize=True, suppress_health_check=list(HealthCheck)
)
MANY = settings(max_examples=2000, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

# Canonical name: short name, kind of level, level, middle and spread in GRIB's units, factor to canonical ones.
FIELDS: dict[str, tuple[str, str, int, float, float, float]] = {
    "t2m": ("2t", "heightAboveGround", 2, 280.0, 25.0, 1.0),
    "d2m": ("2d", "heightAboveGround", 2, 270.0, 20.0, 1.0),
    "u10": ("10u", "heightAboveGround", 10, 0.0, 20.0, 1.0),
    "v10": ("10v", "heightAboveGround", 10, 1.0, 20.0, 1.0),
    "msl": ("msl", "meanSea", 0, 101000.0, 3000.0, 1.0),
    "tp": ("tp", "surface", 0, 0.01, 0.01, 1.0),
    "t": ("t", "isobaricInhPa", 0, 250.0, 20.0, 1.0),
    "q": ("q", "isobaricInhPa", 0, 0.001, 0.0005, 1.0),
    "z": ("z", "isobaricInhPa", 0, 30000.0, 500.0, 1.0),
    "gh": ("gh", "isobaricInhPa", 0, 3000.0, 50.0, 9.80665),
}
PACKINGS = {
    1: ["grid_simple", "grid_ieee", "grid_second_order"],
    2: ["grid_simple", "grid_ieee", "grid_complex", "grid_ccsds"],
}
LEVELS = {"t": (850, 500), "q": (1000, 850, 700), "z": (700,), "gh": (700,)}
FAULTS = [
    "two leads", "running sums", "cut off", "garbled", "rotated", "by columns", "to and fro", "a copy", "two kinds",
    "two grids",
]  # fmt: skip


@dataclass
class Plan:
    """One file: what is in it, how it is written, and what is wrong with it."""

    names: list[str]
    edition: int
    lat: np.ndarray
    lon: np.ndarray
    scanning: tuple[int, int]  # west to east or east to west; north to south or south to north
    packing: str
    bits: int
    start: str
    hours: int
    steps: int
    form: str  # analyses, or forecasts from one start, or from many
    members: int
    member: int
    gaps: bool
    shuffle: bool
    fault: str
    seed: int
    mixed: bool = False  # editions
    truth: dict[str, np.ndarray] = field(default_factory=dict)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan; one in four has a fault."""
    one = st.sampled_from
    names = draw(st.lists(one(list(FIELDS)), min_size=1, max_size=4, unique=True))
    if {"z", "gh"} <= set(names):
        names.remove("gh")  # the same variable
    n, m = draw(st.integers(4, 7)), draw(st.integers(6, 10))  # edition 1 knows no wider cells
    top, bottom = draw(one([(90, -90), (60, -30), (10, -10), (-30, -75)]))
    first, width = draw(one([(0, 360), (20, 100), (200, 120), (-60, 50), (150, 60)]))
    dx = np.round(width / m, 3)
    members = draw(one([1, 1, 1, 3]))
    form = draw(one(["analysis", "one start", "many starts"]))
    fault = draw(one(FAULTS)) if draw(st.integers(0, 3)) == 0 else ""
    edition, mixed = draw(one([1, 2])), draw(st.integers(0, 5)) == 0
    if fault == "to and fro":  # edition 1 knows none
        edition, mixed = 2, False
    return Plan(
        names=names, edition=edition, lat=np.linspace(top, bottom, n).round(3),
        lon=(first + dx * np.arange(m)).round(3), scanning=(draw(st.integers(0, 1)), draw(st.integers(0, 1))),
        packing=draw(one(sorted({*PACKINGS[1], *PACKINGS[2]}))),
        bits=draw(one([12, 16, 24])), start=draw(one(["1979-12-30", "2000-02-28", "2020-06-01"])),
        hours=draw(one([1, 3, 6, 12, 24])), steps=draw(st.integers(1, 5)), form=form, members=members,
        member=draw(st.integers(0, members - 1)), gaps=draw(st.booleans()), shuffle=draw(st.booleans()),
        fault=fault, seed=draw(st.integers(0, 2**31)),
        mixed=mixed,
    )  # fmt: skip


def times_of(plan: Plan) -> np.ndarray:
    """Return when the fields are valid, datetime64[m]."""
    return np.datetime64(plan.start, "m") + (1 + np.arange(plan.steps)) * np.timedelta64(plan.hours * 60, "m")


def bases_of(plan: Plan) -> list[tuple[np.datetime64, int]]:
    """Return the start and the lead (hours) of each step."""
    start, hours = np.datetime64(plan.start, "m"), plan.hours
    if plan.form == "one start":
        return [(start, (k + 1) * hours) for k in range(plan.steps)]
    if plan.form == "many starts":  # two leads from every second step
        return [(start + np.timedelta64((k - k % 2) * hours * 60, "m"), (1 + k % 2) * hours) for k in range(plan.steps)]
    return [(time, 0) for time in times_of(plan)]


def message(plan: Plan, name: str, level: int, k: int, number: int, values: np.ndarray, **other: Any) -> bytes:
    """Return one GRIB message: values (lat, lon) in GRIB's units, NaN where missing."""
    short, kind, own, *_ = FIELDS[name]
    edition = plan.edition if not plan.mixed else 1 + k % 2
    handle = eccodes.codes_grib_new_from_samples(
        f"regular_ll_{'pl' if kind.startswith('iso') else 'sfc'}_grib{edition}"
    )
    base, lead = other.get("base", bases_of(plan)[k])
    summed = name == "tp"
    if summed and lead == 0:  # sums are of forecasts
        base, lead = base - np.timedelta64(plan.hours * 60, "m"), plan.hours
    text = str(base)
    west, south = plan.scanning
    rows = values[::-1] if south else values
    rows = rows[:, ::-1] if west else rows
    lats, lons = plan.lat[:: -1 if south else 1], plan.lon[:: -1 if west else 1]
    keys: dict[str, Any] = {} if edition == 1 else {"typeOfProcessedData": 0 if plan.members == 1 else 4}
    if plan.members > 1 and edition == 1:
        keys |= {"setLocalDefinition": 1, "localDefinitionNumber": 1, "type": "pf", "stream": "enfo", "number": number}
    elif plan.members > 1:
        keys |= {"productDefinitionTemplateNumber": 11 if summed else 1, "number": number}
    elif edition == 2 and summed:
        keys |= {"productDefinitionTemplateNumber": 8}
    keys |= {
        "Ni": values.shape[1], "Nj": values.shape[0], "iScansNegatively": west, "jScansPositively": south,
        "jPointsAreConsecutive": int(plan.fault == "by columns"),
        "latitudeOfFirstGridPointInDegrees": float(lats[0]), "latitudeOfLastGridPointInDegrees": float(lats[-1]),
        "longitudeOfFirstGridPointInDegrees": float(lons[0]), "longitudeOfLastGridPointInDegrees": float(lons[-1]),
        "iDirectionIncrementInDegrees": float(abs(plan.lon[1] - plan.lon[0])),
        "jDirectionIncrementInDegrees": float(abs(plan.lat[1] - plan.lat[0])),
        "dataDate": int(text[:10].replace("-", "")), "dataTime": int(text[11:16].replace(":", "")),
        "shortName": short, "typeOfLevel": kind, "level": level or own,
    }  # fmt: skip
    if plan.fault == "to and fro":
        keys["alternativeRowScanning"] = 1
    if plan.fault == "rotated":
        keys["gridType"] = "rotated_ll"
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    if summed:
        eccodes.codes_set(handle, "stepType", "accum")
        begin = 0 if plan.fault == "running sums" else lead - plan.hours
        eccodes.codes_set(handle, "stepRange", f"{begin}-{lead}")
    elif lead:
        eccodes.codes_set(handle, "stepRange", str(lead))
    gone = np.isnan(rows)
    if gone.any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 1e20)
        rows = np.where(gone, 1e20, rows)
    flat = rows.T.reshape(-1) if plan.fault == "by columns" else rows.reshape(-1)
    if plan.packing in PACKINGS[edition]:
        eccodes.codes_set(handle, "packingType", plan.packing)
    if eccodes.codes_get(handle, "packingType") != "grid_ieee":
        eccodes.codes_set(handle, "bitsPerValue", plan.bits)
    eccodes.codes_set_values(handle, flat.astype(float))
    found = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return bytes(found)


def write(plan: Plan, path: Path) -> None:
    """Write the plan's file, and keep what should come back in `plan.truth`."""
    rng = np.random.default_rng(plan.seed)
    messages = []
    shape = (plan.steps, len(plan.lat), len(plan.lon))
    for name in plan.names:
        *_, middle, spread, factor = FIELDS[name]
        for level in LEVELS.get(name, (0,)):
            for number in range(plan.members):
                values = middle + spread * rng.uniform(-1, 1, shape)
                if plan.gaps:
                    values[rng.random(shape) < 0.2] = np.nan
                    values[:, 0, 0] = middle
                if name == "msl" and not plan.gaps:
                    values[:, 0, 0] = 99990.0
                if number == plan.member:
                    plan.truth[{"gh": "z"}.get(name, name) + (str(level) if level else "")] = values * factor
                messages += [message(plan, name, level, k, number, values[k]) for k in range(plan.steps)]
                if plan.fault == "two leads" and number == 0:
                    base = (times_of(plan)[0] - np.timedelta64(2 * plan.hours * 60, "m"), 2 * plan.hours)
                    messages.append(message(plan, name, level, 0, number, values[0] + spread, base=base))
    if plan.shuffle:
        rng.shuffle(messages)
    if plan.fault == "a copy":
        messages.append(messages[0])
    whole = b"".join(messages)
    if plan.fault == "cut off":
        whole = whole[: -max(5, len(messages[-1]) // 2)]
    if plan.fault == "garbled":
        whole = whole[: -len(messages[-1])] + b"XXXX" + messages[-1][4:]
    if plan.fault == "two grids":
        moved = Plan(
            **{**plan.__dict__, "lat": plan.lat - 0.5 * np.sign(plan.lat.mean() + 1e-3), "truth": {}, "fault": ""}
        )
        *_, middle, spread, _ = FIELDS[plan.names[0]]
        later = (times_of(plan)[-1] + np.timedelta64(plan.hours * 60, "m"), 0)
        level = LEVELS.get(plan.names[0], (0,))[0]
        whole += message(moved, plan.names[0], level, 0, 0, np.full(shape[1:], middle), base=later)
    path.write_bytes(whole)


def certainly_wrong(plan: Plan) -> bool:
    """Whether no reader can make the fields of the plan's file."""
    if plan.fault == "running sums":
        leads = {max(lead, plan.hours) for _, lead in bases_of(plan)}
        return "tp" in plan.names and len(leads) > 1
    return plan.fault not in ("", "two kinds")


def check(plan: Plan) -> None:
    """Write the plan's file, read it, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.grib"
        write(plan, path)
        options: dict[str, Any] = {"member": plan.member} if plan.members > 1 else {}
        try:
            got = open_source("files", path=str(path), **options).load()
        except EarthSSLError as error:
            if not plan.fault or "\n" in str(error):
                raise AssertionError(f"a sound file is refused: {error}") from error
            return
        assert [file.name for file in Path(folder).iterdir()] == ["a.grib"]
        assert not certainly_wrong(plan), f"{plan.fault}: taken without a word"
        np.testing.assert_array_equal(got["time"].values.astype("datetime64[m]"), times_of(plan))
        columns = np.argsort(plan.lon % 360)
        np.testing.assert_allclose(got["lat"], plan.lat, atol=5e-3)  # steps of rounded thousandths
        np.testing.assert_allclose(got["lon"], (plan.lon % 360)[columns], atol=5e-3)
        assert sorted(map(str, got.data_vars)) == sorted(plan.truth)
        for name, values in plan.truth.items():
            found, expected = got[name].transpose("time", "lat", "lon").values, values[:, :, columns]
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
            span = np.nanmax(expected) - np.nanmin(expected)
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=span * (2.0 ** (1 - plan.bits) + 1e-6))


def test_all_fields_of_one_message_are_seen_however_often_it_is_opened(tmp_path: Path) -> None:
    """Three messages of edition 2, as of GFS: both winds are in each."""
    with open(tmp_path / "a.grib", "wb") as file:
        for day in range(3):
            made = eccodes.codes_grib_multi_new()
            for name, value in (("10u", 3.0 + day), ("10v", -4.0)):
                handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
                eccodes.codes_set(handle, "shortName", name)
                eccodes.codes_set(handle, "dataDate", 20200101 + day)
                values = value + np.linspace(-1, 1, eccodes.codes_get_size(handle, "values"))
                eccodes.codes_set_values(handle, values)
                eccodes.codes_grib_multi_append(handle, 4, made)
                eccodes.codes_release(handle)
            eccodes.codes_grib_multi_write(made, file)
            eccodes.codes_grib_multi_release(made)
    for _ in range(3):
        got = open_source("files", path=str(tmp_path / "a.grib")).load().mean(("lat", "lon"))
        np.testing.assert_allclose(got.u10, [3, 4, 5], atol=1e-3)
        np.testing.assert_allclose(got.v10, [-4, -4, -4], atol=1e-3)
    whole = (tmp_path / "a.grib").read_bytes()
    last = whole.rindex(b"GRIB")
    (tmp_path / "a.grib").write_bytes(whole[:last] + b"XXXX" + whole[last + 4 :])
    with pytest.raises(EarthSSLError, match="belong to no message"):
        open_source("files", path=str(tmp_path / "a.grib"))


@FEW
@given(plans())
def test_the_fields_come_back_or_are_refused(plan: Plan) -> None:
    """A hundred, the same ones every time."""
    check(plan)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(plans())
def test_the_fields_come_back_or_are_refused_many_times(plan: Plan) -> None:
    """Two thousand others every time; a failure prints what reproduces it."""
    check(plan)
