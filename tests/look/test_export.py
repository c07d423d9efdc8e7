"""The exported page: one file, no address asked for, the same values as the store's."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.look.application import page_files
from earthssl.look.export import MODULES, export
from earthssl.look.labels.journal import Mark
from earthssl.look.run_maps import RunMaps
from earthssl.look.umap_layout import layout_file
from earthssl.ssl.common.errors import EarthSSLError
from safetensors.numpy import save_file


def record_of(file: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="embedded">(.*?)</script>', file.read_text(), re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_fields_and_missing_cells_survive_16_bits(make_look: Callable[..., Any], tmp_path: Path) -> None:
    look = make_look()
    record = record_of(export(look, look.progress.states(), tmp_path / "page.html", most=9))
    assert record["steps"] == np.linspace(0, 359, 9).astype(int).tolist()
    for name in ("sst/value", "u10/anomaly"):
        packed = record["fields"][name]
        codes = np.frombuffer(base64.b64decode(packed["data"]), "<i2").reshape(9, 7, 12)
        values = np.where(codes == -32768, np.nan, packed["offset"] + packed["scale"] * codes)
        own = np.concatenate([look.fields.block(*name.split("/"), step, 1) for step in record["steps"]])
        np.testing.assert_allclose(values, own, atol=0.51 * packed["scale"] + 1e-4)
        assert packed["scale"] < np.nanstd(own) / 1000


def test_the_file_is_whole_and_asks_for_nothing(make_look: Callable[..., Any], tmp_path: Path) -> None:
    look = make_look()
    text = export(look, look.progress.states(), tmp_path / "page.html", most=3).read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "import " not in "".join(line for line in text.splitlines() if line.startswith("import "))
    assert not re.search(r"^export ", text, re.M)
    assert "default-src 'none'" in text
    assert sorted(MODULES) == sorted(Path(name).stem for name in page_files() if name.endswith(".js"))


def test_dates_choose_the_steps_and_are_checked(make_look: Callable[..., Any], tmp_path: Path) -> None:
    look = make_look()
    record = record_of(export(look, None, tmp_path / "page.html", most=500, dates="1990-03:1991-02"))
    assert record["steps"] == list(range(110, 122))
    assert record["points"] is None
    for dates in ("1990", "a:b", "2050:2051"):
        with pytest.raises(EarthSSLError, match="--dates"):
            export(look, None, tmp_path / "no.html", dates=dates)
    assert not (tmp_path / "no.html").exists()


def test_labels_and_hostile_words_stay_data(make_look: Callable[..., Any], tmp_path: Path) -> None:
    look = make_look()
    look.journal.add(Mark("1981-03-01T00:00:00", "</script><script>x"))
    file = export(look, look.progress.states(), tmp_path / "page.html", most=360)
    assert "</script><script>x" not in file.read_text()
    assert [mark["label"] for mark in record_of(file)["labels"]["marks"]] == ["</script><script>x"]


def test_maps_of_the_run_and_a_layout_that_is_kept_are_in_the_file(
    make_look: Callable[..., Any], tmp_path: Path
) -> None:
    """Maps come back as they were; where there is no room, every second member of the longest is left out."""
    look = make_look()
    grid, states = look.store.grid, look.progress.states()
    values = np.random.default_rng(0).normal(size=(2, 8, *grid.shape)).astype(np.float32)
    values[0, 0, 0, 0] = np.nan
    (tmp_path / "run").mkdir()
    coords = {"lag": np.arange(8), "lat": grid.lat, "lon": grid.lon}
    xr.Dataset({"a": (("method", "lag", "lat", "lon"), values)}, coords).to_netcdf(tmp_path / "run" / "maps.nc")
    look.maps = RunMaps(tmp_path / "run", grid)
    places = np.arange(2 * len(states.rows), dtype=np.float32).reshape(-1, 2)
    save_file({"places": places}, layout_file(states.features, look.journal.folder))
    room = 2 * values[0, 0].size * 8
    for most, lags in ((2 * room, 8), (room, 4), (1, 0)):
        record = record_of(export(look, states, tmp_path / "page.html", most=2, map_bytes=most))
        assert record["meta"]["maps"] == bool(lags)
        if not lags:
            assert record["maps"] is None
            continue
        members = record["maps"]["list"][0]["choices"][1]["members"]
        assert members == [str(k) for k in range(0, 8, 8 // lags)]
        assert len(record["maps"]["fields"]) == 2 * lags
        for method, at in ((0, 0), (1, lags - 1)):
            one = record["maps"]["fields"][f"0/{method},{at}"]
            codes = np.frombuffer(base64.b64decode(one["data"]), "<i2").reshape(grid.shape)
            found = np.where(codes == -32768, np.nan, one["offset"] + one["scale"] * codes)
            np.testing.assert_allclose(found, values[method, int(members[at])], atol=one["scale"])
    umap = np.frombuffer(base64.b64decode(record["points"]["umap"]), "<f4").reshape(-1, 2)
    assert umap.tolist() == places.tolist()
