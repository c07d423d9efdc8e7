"""Fields for the page are those of the store, in units, with what is missing missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.look import fields as module
from earthssl.look.fields import Fields
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.store.store import Store


@pytest.fixture
def fields(small_store: Path) -> Fields:
    return Fields(Store(small_store))


def test_values_are_the_store_in_units(fields: Fields) -> None:
    data = fields.store.dataset(["sst"])["sst"].values
    block = fields.block("sst", "value", 100, 7)
    np.testing.assert_allclose(block, data[100:107], rtol=1e-5)
    assert np.isnan(block).any()
    assert block.dtype == np.float32


def test_value_less_climatology_is_the_anomaly(fields: Fields) -> None:
    statistics, times = fields.store.statistics.select([1]), fields.store.times[5:9]
    gap = fields.block("u10", "value", 5, 4) - fields.block("u10", "anomaly", 5, 4)
    np.testing.assert_allclose(gap, statistics.climatology(times)[:, 0], atol=1e-4)


def test_blocks_end_with_the_store_and_are_bounded(fields: Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(fields.block("u10", "value", 355, 20)) == 5
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * 4 * 7 * 12)
    assert len(fields.block("u10", "value", 0, 1000)) == 3
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert len(fields.block("u10", "value", 0, 1000)) == 1  # a large grid: a step at a time


@pytest.mark.parametrize(
    ("variable", "kind", "first", "count", "said"),
    [("z500", "value", 0, 1, "variable: expected"), ("sst", "raw", 0, 1, "kind: expected"),
     ("sst", "value", -1, 1, "step: expected"), ("sst", "value", 360, 1, "step: expected"),
     ("sst", "value", 0, 0, "step: expected")],
)  # fmt: skip
def test_what_is_not_there_is_refused(
    fields: Fields, variable: str, kind: str, first: int, count: int, said: str
) -> None:
    with pytest.raises(EarthSSLError, match=said):
        fields.block(variable, kind, first, count)


def test_the_mean_map_is_the_mean_of_valid_values(fields: Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.array([3, 77, 200, 201])
    data = fields.store.dataset(["sst"])["sst"].values
    found, used = fields.mean("sst", "value", steps)
    np.testing.assert_allclose(found, data[steps].mean(0), rtol=1e-5)
    assert used == 4
    monkeypatch.setattr(module, "MEAN_BYTES", 2 * 4 * 3 * 7 * 12)
    found, used = fields.mean("sst", "value", steps)
    assert used == 2
    np.testing.assert_allclose(found, data[[3, 201]].mean(0), rtol=1e-5)
    with pytest.raises(EarthSSLError, match="got none"):
        fields.mean("sst", "value", np.array([], int))


def test_colours_of_anomalies_are_even_about_nought(fields: Fields) -> None:
    record = fields.describe()
    for one in record["variables"]:
        low, high = one["ranges"]["anomaly"]
        assert low == -high
        assert one["ranges"]["value"][0] < one["ranges"]["value"][1]
    assert record["steps"] == 360
    assert len(record["lat_bounds"]) == record["rows"] + 1
    assert record["periodic"] is True
