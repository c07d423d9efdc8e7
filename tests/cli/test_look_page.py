"""The page of `look` beside a report: written where the store is at hand, linked, small, and never in the way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli import look_page
from earthssl.cli.look_page import add_look_page
from earthssl.downstream.results.page import page


def report_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(page([], look="earthssl look store", title="A"))
    return folder / "report.html"


def record_of(file: Path) -> dict[str, Any]:
    found = re.search(r'id="embedded">(.*?)</script>', file.read_text(), re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_page_with_fields_and_states_is_written_and_linked(
    small_store: Path, small_run: Path, tmp_path: Path
) -> None:
    report = report_in(tmp_path / "probe")
    made = add_look_page(report, {"store": str(small_store), "checkpoints": ["hf://nobody/none", str(small_run)]})
    assert made == tmp_path / "probe" / "look.html"
    assert '<a href="look.html">Open in look</a>' in report.read_text()
    record = record_of(made)
    assert len(record["steps"]) == 60
    assert record["meta"]["encoder"]
    assert record["meta"]["checkpoint"] == small_run.name
    assert record["points"] is not None
    assert sorted(file.name for file in report.parent.iterdir()) == ["look.html", "report.html"]
    above = report_in(tmp_path)  # of the same probe: one page is enough
    assert add_look_page(above, {"store": str(small_store), "probe": str(tmp_path / "probe")}) == made
    assert '<a href="probe/look.html">Open in look</a>' in above.read_text()


def test_what_cannot_be_shown_leaves_the_report_as_it_is(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    report = report_in(tmp_path / "probe")
    before = report.read_bytes()
    assert add_look_page(report, {"store": "hf://nobody/store"}) is None  # not at hand
    assert add_look_page(report, {}) is None
    broken = tmp_path / "broken"
    shutil.copytree(small_store, broken)
    shutil.rmtree(broken / "fields")
    assert add_look_page(report, {"store": str(broken)}) is None
    assert "no page of look beside" in capsys.readouterr().err
    monkeypatch.setattr(look_page, "FIELD_BYTES", 6 * 2 * 2 * 3 * 7 * 12 - 1)  # of less than six steps
    assert add_look_page(report, {"store": str(small_store)}) is None
    assert report.read_bytes() == before
    assert [file.name for file in report.parent.iterdir()] == ["report.html"]
