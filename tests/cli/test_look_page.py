"""The page of `look` beside a report: written where the store is at hand, linked, small, and never in the way."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli import look_page, verbs
from earthssl.cli.look_page import add_look_page
from earthssl.downstream.results.page import page
from earthssl.look import states
from earthssl.ssl.common.errors import EarthSSLError


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


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("a\nb"), MemoryError()])
def test_nothing_that_the_page_meets_fails_a_finished_run(
    error: Exception, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Here the link cannot be written: not beside the page, which is taken away again, and not above one."""
    report, above = report_in(tmp_path / "probe"), report_in(tmp_path)

    def broken(*_: Any) -> bool:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(look_page, "link_look", broken)
        assert add_look_page(report, {"store": str(small_store)}) is None
        assert not (tmp_path / "probe" / "look.html").exists()
        (tmp_path / "probe" / "look.html").write_text("of before")
        assert add_look_page(above, {"store": str(small_store), "probe": str(tmp_path / "probe")}) is None
    assert (tmp_path / "probe" / "look.html").read_text() == "of before"
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"no page of look beside {file}" for file in (report, above)]
    assert type(error).__name__ in said[0]


def without_states(report: Path, store: Path, checkpoint: Path, capsys: pytest.CaptureFixture) -> str:
    """Return what is said of an encoder that the page, which is there, does not show."""
    made = add_look_page(report, {"store": str(store), "checkpoint": str(checkpoint)})
    assert made is not None
    assert '<a href="look.html">Open in look</a>' in report.read_text()
    record = record_of(made)
    assert record["steps"]
    assert record["points"] is None
    assert not record["meta"]["encoder"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{made} shows no states of {checkpoint}: ")
    return line


def test_of_an_encoder_that_does_not_fit_or_is_damaged_fields_are_shown(
    small_store: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A store on another grid ended a finished run with status 2."""
    damaged = tmp_path / "run"
    shutil.copytree(small_run / "checkpoint", damaged)
    (damaged / "encoder.safetensors").write_bytes(b"xx")
    assert "safetensors" in without_states(report_in(tmp_path / "a"), small_store, damaged, capsys)

    def of_another_grid(*_: Any) -> None:
        raise EarthSSLError("expected a store on the checkpoint's grid, got another")

    with monkeypatch.context() as patch:
        patch.setattr(states, "fits", of_another_grid)
        said = without_states(report_in(tmp_path / "b"), small_store, small_run, capsys)
    assert said.endswith("the checkpoint's grid, got another")


def test_the_time_for_states_is_bounded_by_what_a_window_takes(
    small_store: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By a clock of the test's own: .6 s a window leave 25 states, 2 s none, which is said."""
    for number, (seconds, count) in enumerate([(0.6, 25), (2.0, 0)]):
        ticks = iter(seconds * k for k in range(99))
        with monkeypatch.context() as patch:
            patch.setattr(look_page.time, "perf_counter", lambda ticks=ticks: next(ticks))
            report = report_in(tmp_path / str(number))
            if not count:
                assert "2.0 s a window" in without_states(report, small_store, small_run, capsys)
                continue
            made = add_look_page(report, {"store": str(small_store), "checkpoint": str(small_run)})
        assert made is not None
        assert len(base64.b64decode(record_of(made)["points"]["rows"])) == 4 * count


def test_verbs_that_get_a_page_have_a_store_among_their_settings() -> None:
    assert "controls" not in verbs.REPORTED  # it makes its stores itself
    for verb in verbs.REPORTED:
        assert "store" in {field.name for field in fields(verbs.config_of(verb, {}))}, verb
