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
from earthssl.look.application import page_files
from earthssl.look.export import MODULES, export
from earthssl.look.labels.journal import Mark
from earthssl.ssl.common.errors import EarthSSLError


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
