"""Regions: masks that `finetune` reads, undo, drafts, what a kill leaves, merging, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.look.labels.journal import DRAFT, JOURNAL, Journal, Mark
from earthssl.look.labels.merge import CONFLICTS, merge
from earthssl.look.labels.outlines import Outline, cells_of
from earthssl.look.labels.region_tables import MASKS, NOTHING, OUTLINES, read_outlines
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid

A, B, C = "1981-01-01T00:00:00", "1981-02-01T00:00:00", "1981-03-01T00:00:00"
GRID = LatLonGrid(np.linspace(90, -90, 19), np.arange(0, 360, 10.0))
DATELINE: Outline = ((35.0, 165.0), (35.0, 205.0), (65.0, 205.0), (65.0, 165.0))
SOUTH: Outline = ((-15.0, 40.0), (-15.0, 80.0), (-45.0, 60.0))


def region(time: str, label: str, outline: Outline) -> Mark:
    return Mark(time, label, outline=outline)


def test_masks_are_fields_that_finetune_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GRID)
    journal.add(region(B, "blocked high", DATELINE))
    journal.add(region(B, "storm", SOUTH))
    journal.add(region(A, NOTHING, ()))
    journal.add(Mark(C, "a date"))
    for name, outline in (("blocked high", DATELINE), ("storm", SOUTH)):
        labels = read_labels(str(tmp_path / MASKS), [name], "field")
        assert labels.times.astype(str).tolist() == [A, B]
        assert labels.grid is not None
        assert labels.grid.same_as(GRID)
        assert labels.values[0].sum() == 0
        np.testing.assert_array_equal(labels.values[1], cells_of(outline, GRID))
    mask = read_labels(str(tmp_path / MASKS), ["blocked high"], "field").values[1]
    assert mask[4, 17] == mask[4, 20] == 1  # 50°N 170°E and 200°E: both sides of the date line
    assert mask[4, 0] == 0
    assert (tmp_path / "labels.csv").read_text() == f"time,label\n{C},a date\n"
    assert [kind["kind"] for kind in journal.describe()["marks"]] == ["region", "region", "nothing", "date"]
    assert journal.describe()["classes"] == ["blocked high", "storm", "a date"]


def test_undo_removal_and_a_new_start_keep_regions_as_they_stand(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GRID)
    journal.add(region(A, "storm", SOUTH))
    journal.add(region(A, "storm", DATELINE))
    journal.add(region(A, "", SOUTH))
    assert [mark.outline for mark in Journal(tmp_path, GRID).current()] == [DATELINE]
    assert journal.undo() == region(A, "", SOUTH)
    assert journal.undo() == region(A, "storm", DATELINE)
    again = Journal(tmp_path, GRID)
    assert again.current() == [region(A, "storm", SOUTH)]
    assert read_labels(str(tmp_path / MASKS), ["storm"], "field").values.sum() == cells_of(SOUTH, GRID).sum()
    again.undo()
    assert (tmp_path / OUTLINES).read_text() == "time,label,outline\n"
    with pytest.raises(EarthSSLError, match="expected the variable 'storm'"):
        read_labels(str(tmp_path / MASKS), ["storm"], "field")


def test_a_region_takes_back_that_there_is_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GRID)
    journal.add(region(A, NOTHING, ()))
    journal.add(region(A, "storm", SOUTH))
    assert journal.current() == [region(A, "storm", SOUTH)]
    with pytest.raises(EarthSSLError, match="remove it first"):
        journal.add(region(A, NOTHING, ()))
    journal.undo()
    assert [mark.kind for mark in journal.current()] == ["nothing"]
    for label, outline in ((NOTHING, SOUTH), ("storm", ())):
        with pytest.raises(EarthSSLError, match="got one of both"):
            region(A, label, outline)


def test_a_kill_at_any_byte_loses_no_region_that_was_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "whole", GRID)
    for time, label, outline in ((A, "störm", SOUTH), (B, NOTHING, ())):
        journal.add(region(time, label, outline))
    text = (tmp_path / "whole" / JOURNAL).read_bytes()
    for cut in range(0, len(text) + 1, 11):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(text[:cut])
        (folder / f".{MASKS}.1").write_bytes(b"half a file")  # of the process that was killed
        assert len(Journal(folder, GRID).current()) == text[:cut].count(b"\n")
    journal.add(region(C, "other", SOUTH))
    (tmp_path / "whole" / MASKS).write_bytes(b"half")  # tables are made anew from the journal
    Journal(tmp_path / "whole", GRID)
    assert len(read_labels(str(tmp_path / "whole" / MASKS), ["other"], "field")) == 3


def test_the_corners_of_an_unfinished_region_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GRID)
    journal.keep_draft(A, "storm", [[10, -170], [20, 170.00001]])
    kept = {"time": A, "label": "storm", "corners": [[10.0, 190.0], [20.0, 170.0]]}
    assert Journal(tmp_path, GRID).describe()["draft"] == kept
    journal.keep_draft(A, "", [])
    assert Journal(tmp_path, GRID).draft is None
    journal.keep_draft(A, "storm", [list(corner) for corner in SOUTH])
    journal.add(region(A, "storm", SOUTH))  # a kill before the draft was forgotten
    assert Journal(tmp_path, GRID).draft is None
    for broken in ("", "[1]", '{"time": "x"}', '{"corners": [[0, 1e999]], "time": "1981", "label": ""}', "\xff"):
        (tmp_path / DRAFT).write_text(broken, encoding="latin-1")
        assert Journal(tmp_path, GRID).draft is None


@pytest.mark.parametrize("word", ["a/b", "lat", "Time", "no region", "1981-storm", "(x)", "longitude"])
def test_classes_that_cannot_name_a_mask_are_refused(tmp_path: Path, word: str) -> None:
    journal = Journal(tmp_path, GRID)
    with pytest.raises(EarthSSLError, match=r"can name a mask|got one of both"):
        journal.add(region(A, word, SOUTH))
    journal.add(Mark(A, word))  # of a date they are words
    assert not (tmp_path / MASKS).exists()


def test_a_region_without_a_cell_and_masks_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, GRID)
    with pytest.raises(EarthSSLError, match="draw it larger"):
        journal.add(region(A, "storm", ((1.0, 1.0), (1.0, 3.0), (3.0, 2.0))))
    monkeypatch.setattr("earthssl.look.labels.journal.MOST_CELLS", 19 * 36)
    journal.add(region(A, "storm", SOUTH))
    with pytest.raises(EarthSSLError, match="another --out"):
        journal.add(region(B, "storm", SOUTH))
    assert len(journal.current()) == 1


def test_a_damaged_outline_is_said_with_its_line(tmp_path: Path) -> None:
    Journal(tmp_path, GRID).add(region(A, "storm", SOUTH))
    for outline in ([[0, 0], [10, 10], [10, 0], [0, 10]], [[0, None]], "x", 5):
        line = json.dumps({"time": A, "label": "x", "lat": None, "lon": None, "outline": outline})
        before = (tmp_path / JOURNAL).read_bytes()
        (tmp_path / JOURNAL).write_bytes(before + line.encode() + b"\n")
        with pytest.raises(EarthSSLError, match="line 2"):
            Journal(tmp_path, GRID)
        (tmp_path / JOURNAL).write_bytes(before)


@pytest.mark.slow
def test_finetune_takes_the_masks_of_the_page(small_store: Path, tuned: Any, tmp_path: Path) -> None:
    from earthssl.ssl.store.store import Store

    store = Store(small_store)
    journal = Journal(tmp_path / "look", store.grid)
    index = store.read_all()[:, 1, 1:3, 5:8].mean((1, 2))
    for k in range(2, 360):
        box: Outline = ((20.0, 140.0), (20.0, 220.0), (70.0, 220.0), (70.0, 140.0))
        journal.add(region(str(store.times[k]), *(("high", box) if index[k] > 0 else (NOTHING, ()))))
    tuned(tmp_path / "look" / MASKS, "high", "field")


# ---- several people --------------------------------------------------------------------------------------------


def test_regions_of_others_are_taken_the_same_or_conflicts(tmp_path: Path) -> None:
    mine, theirs = Journal(tmp_path / "mine", GRID), Journal(tmp_path / "theirs", GRID)
    nearly: Outline = ((34.0, 164.0), (35.0, 206.0), (65.0, 205.0), (66.0, 165.0))
    corner: Outline = ((55.0, 195.0), (55.0, 235.0), (75.0, 235.0), (75.0, 195.0))  # a few cells in common
    mine.add(region(A, "blocked", DATELINE))
    mine.add(region(B, "blocked", DATELINE))
    mine.add(region(C, NOTHING, ()))
    for one in (
        region(A, "blocked", nearly), region(A, "storm", SOUTH), region(B, "storm", nearly), region(C, "storm", SOUTH),
        region("1981-04-01T00:00:00", NOTHING, ()), region("2050-01-01T00:00:00", NOTHING, ()),
    ):  # fmt: skip
        theirs.add(one)
    times = np.array([A, B, C, "1981-04-01"], "datetime64[s]")
    (found,) = merge(mine, [tmp_path / "theirs" / OUTLINES], times)
    assert (found.taken, found.same, found.absent) == (2, 1, 1)
    assert [(own.time, own.label, other.label) for own, other in found.conflicts] == [
        (B, "blocked", "storm"),
        (C, NOTHING, "storm"),
    ]
    table = pd.read_csv(tmp_path / "mine" / CONFLICTS)
    assert table["own"].tolist() == ["blocked", NOTHING]
    assert table["lon"].tolist()[0] == pytest.approx(185)
    assert len(Journal(tmp_path / "mine", GRID).current()) == 5
    (again,) = merge(mine, [tmp_path / "theirs" / OUTLINES], times)
    assert (again.taken, again.same) == (0, 3)
    third = Journal(tmp_path / "third", GRID)
    third.add(region(A, "blocked", corner))
    (found,) = merge(mine, [tmp_path / "third" / OUTLINES], times)
    assert [(own.label, other.label) for own, other in found.conflicts] == [("blocked", "blocked")]  # other outlines


def test_outlines_go_through_their_table_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path, GRID)
    marks = [region(A, "storm", SOUTH), region(B, "a, b", DATELINE), region(C, NOTHING, ())]
    for mark in marks:
        journal.add(mark)
    assert read_outlines(tmp_path / OUTLINES) == [(mark.time, mark.label, mark.outline) for mark in marks]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'{A},storm,"POLYGON((0 0, 10 10, 10 0, 0 10))"', "line 2: region: expected an outline that does not cross"),
        (f'{A},storm,"POLYGON((0 0, 10 0, nan 10))"', "line 2: expected an outline as POLYGON"),
        (f'{A},storm,"POLYGON((0 0, 10 0, 1-0 10))"', "line 2: could not convert"),
        (f'{A},storm,"POLYGON((0 0, 10 0, 5 10 3))"', "line 2: region: expected .latitude"),
        (f'{A},storm,"POLYGON((0 0, 10 0, 5 100))"', "line 2: region: expected .latitude"),
        (f'{A},storm,"POLYGON((' + "0 0, " * 3000 + '0 0))"', "line 2: expected an outline as POLYGON"),
        ('yesterday,storm,"POLYGON EMPTY"', "line 2"),
        ('NaT,storm,"POLYGON EMPTY"', "line 2: expected an ISO time"),
        (f"{A},storm", "line 2: expected time, label, outline"),
        (f'{A},lat,"POLYGON((40 -15, 80 -15, 60 -45))"', "can name a mask"),
        (f'{A},=1+1,"POLYGON((40 -15, 80 -15, 60 -45))"', "class: expected a word"),
        (f'{A}, ,"POLYGON((40 -15, 80 -15, 60 -45))"', "class: expected a word"),
        (f'{A},storm,"POLYGON((1 1, 3 1, 2 3))"', "draw it larger"),
    ],
)
def test_tables_of_others_that_are_none_are_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "theirs.csv").write_text(f"time,label,outline\n{line}\n")
    journal = Journal(tmp_path / "mine", GRID)
    with pytest.raises(EarthSSLError, match=said) as caught:
        merge(journal, [tmp_path / "theirs.csv"], np.array([A], "datetime64[s]"))
    assert "theirs.csv" in str(caught.value)
    assert journal.current() == []


def test_regions_of_a_file_that_overlap_are_all_taken(tmp_path: Path) -> None:
    theirs, mine = Journal(tmp_path / "theirs", GRID), Journal(tmp_path / "mine", GRID)
    wider: Outline = ((-10.0, 30.0), (-10.0, 100.0), (-60.0, 60.0))
    for label, outline in (("blocked", SOUTH), ("storm", wider), ("storm", DATELINE)):
        theirs.add(region(A, label, outline))
    times = np.array([A], "datetime64[s]")
    file = tmp_path / "theirs" / OUTLINES
    (found,) = merge(mine, [file], times)
    assert (found.taken, found.same, found.conflicts) == (3, 0, [])
    assert mine.current() == theirs.current()
    (found,) = merge(mine, [file], times)
    assert (found.taken, found.same, found.conflicts) == (0, 3, [])
    lines = [f'{A},{label},"POLYGON((40 -15, 80 -15, 60 -45))"' for label in (" blocked ", "blocked")]
    (tmp_path / "other.csv").write_text("\n".join(["time,label,outline", *lines]))
    (found,) = merge(mine, [tmp_path / "other.csv"], times)
    assert (found.taken, found.same) == (0, 2)
    empty = Journal(tmp_path / "empty", GRID)
    (found,) = merge(empty, [tmp_path / "other.csv"], times)
    assert (found.taken, found.same) == (1, 1)


def test_what_a_file_says_against_itself_is_a_conflict(tmp_path: Path) -> None:
    shape = '"POLYGON((40 -15, 80 -15, 60 -45))"'
    lines = [f"{A},storm,{shape}", f"{A},blocked,{shape}", f"{A},{NOTHING},POLYGON EMPTY"]
    (tmp_path / "theirs.csv").write_text("\n".join(["time,label,outline", *lines]))
    journal = Journal(tmp_path / "mine", GRID)
    (found,) = merge(journal, [tmp_path / "theirs.csv"], np.array([A], "datetime64[s]"))
    assert (found.taken, [theirs.label for _, theirs in found.conflicts]) == (1, ["blocked", NOTHING])
    assert [mark.label for mark in journal.current()] == ["storm"]


def test_a_class_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    composed, apart = "f\u00f6hn-\u00e9", "fo\u0308hn-e\u0301"
    journal = Journal(tmp_path, GRID)
    journal.add(region(A, composed, SOUTH))
    journal.add(region(A, apart, DATELINE))
    assert journal.describe()["classes"] == [composed]
    mask = read_labels(str(tmp_path / MASKS), [composed], "field").values[0]
    np.testing.assert_array_equal(mask, cells_of(SOUTH, GRID) | cells_of(DATELINE, GRID))
    text = (tmp_path / JOURNAL).read_text(encoding="utf-8")
    first, second = text.splitlines()
    (tmp_path / JOURNAL).write_text(f"{first}\n{second.replace(composed, apart)}\n", encoding="utf-8")  # of before
    assert {mark.label for mark in Journal(tmp_path, GRID).current()} == {composed}


# ---- the page's server -----------------------------------------------------------------------------------------


def post(look: Any, name: str, **record: Any) -> dict[str, Any]:
    answer = look.post(name, record)
    return dict(json.loads(answer.body))


CORNERS = [[40, 160], [40, -150], [75, -150], [75, 160]]


def test_regions_and_drafts_by_the_pages_own_requests(make_look: Callable[..., Any]) -> None:
    look = make_look()
    drafted = post(look, "api/draft", step=3, label="storm", region=CORNERS[:2])
    assert drafted["draft"]["corners"] == [[40, 160], [40, 210]]
    found = post(look, "api/labels", step=3, label="storm", region=CORNERS)
    assert found["draft"] is None
    (mark,) = found["marks"]
    assert mark["kind"] == "region"
    assert mark["at"][1] == pytest.approx(185)
    assert post(look, "api/labels", step=3, label="", region=mark["outline"])["marks"] == []
    assert post(look, "api/undo")["undone"] == mark["time"]
    assert post(look, "api/labels", step=4, label=NOTHING, region=[])["marks"][-1]["kind"] == "nothing"
    assert look._marked(look.progress.states())[1] == ["storm", NOTHING]
    post(look, "api/labels", step=4, label="calm")
    post(look, "api/labels", step=3, label="front", region=[[-40, 60], [-40, 100], [-80, 100], [-80, 60]])
    steps, words = look._marked(look.progress.states())
    assert dict(zip(steps.tolist(), words, strict=True)) == {3: "front + storm", 4: "calm"}
    assert sorted(path.name for path in look.journal.folder.iterdir() if not path.name.startswith("states-")) == [
        "draft.json", "labels.csv", "labels.jsonl", "regions.csv", "regions.nc"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "record", "said"),
    [
        ("api/labels", {"region": "x"}, "list of at most"),
        ("api/labels", {"region": 0}, "list of at most"),
        ("api/labels", {"region": {}}, "list of at most"),
        ("api/labels", {"region": False}, "list of at most"),
        ("api/labels", {"region": [[0, 0]] * 300}, "at most 200 corners, got 300"),
        ("api/labels", {"region": [[0, 0], [0, math.nan], [1, 1]]}, "latitude, longitude"),
        ("api/labels", {"region": [[0, 0], [math.inf, 0], [1, 1]]}, "latitude, longitude"),
        ("api/labels", {"region": [[0, 0], [30, 30], [30, 0], [0, 30]]}, "cross or touch"),
        ("api/labels", {"region": [[0, 0], [0, 120], [0, 240]]}, "half of the globe"),
        ("api/labels", {"region": [[1, 1], [1, 3], [3, 2]]}, "draw it larger"),
        ("api/labels", {"region": CORNERS, "place": [0, 0]}, "got both"),
        ("api/labels", {"region": []}, "got one of both"),
        ("api/labels", {"region": CORNERS, "label": "../../etc/passwd"}, "can name a mask"),
        ("api/labels", {"region": CORNERS, "label": "=cmd()"}, "class: expected"),
        ("api/labels", {"region": CORNERS, "label": ["storm"]}, "label: expected"),
        ("api/labels", {"region": CORNERS, "step": 10**9}, "step: expected"),
        ("api/labels", {"region": CORNERS, "step": True}, "step: expected"),
        ("api/labels", {"place": [math.nan, 0]}, "latitude, longitude"),
        ("api/labels", {"place": [True, 0]}, "latitude, longitude"),
        ("api/draft", {"region": None}, "list of at most"),
        ("api/draft", {"region": [[0, 0]] * 300}, "at most 200 corners"),
        ("api/draft", {"region": [[math.nan, 0]]}, "latitude, longitude"),
        ("api/draft", {"region": CORNERS, "label": "x" * 50}, "class: expected"),
        ("api/draft", {"region": CORNERS, "step": -1}, "step: expected"),
    ],
)
def test_hostile_regions_are_refused_and_leave_nothing(
    make_look: Callable[..., Any], small_store: Path, name: str, record: dict[str, Any], said: str
) -> None:
    look = make_look(store=small_store)
    with pytest.raises(EarthSSLError, match=said):
        look.post(name, {"step": 1, "label": "storm", **record})
    assert list(look.journal.folder.iterdir()) == []


def test_a_hostile_region_is_answered_in_words_by_the_server(make_look: Any, serve: Any, small_store: Path) -> None:
    """JSON that Python alone reads (NaN), too many bytes, no token, another site: nothing is kept."""
    import http.client

    look = make_look(store=small_store)
    with serve(look) as server:
        port, token = server.server_address[1], server.token

        def ask(path: str, body: str, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            given = {"Content-Type": "application/json", **{key.replace("_", "-"): one for key, one in headers.items()}}
            connection.request("POST", path, body, given)
            answer = connection.getresponse()
            found = answer.status, json.loads(answer.read())["error"]
            connection.close()
            return found

        for name in ("labels", "draft"):
            path = f"/{token}/api/{name}"
            for corner in ("[NaN, 0]", "[0, 1e999]", "[0, -Infinity]", '["0", 0]', "[null, 0]"):
                status, said = ask(path, f'{{"step": 1, "label": "a", "region": [[0, 0], [0, 30], {corner}]}}')
                assert (status, "latitude, longitude" in said) == (400, True)
            many = ", ".join(["[10.1234, 20.1234]"] * 900)
            assert ask(path, f'{{"step": 1, "label": "a", "region": [{many}]}}')[0] == 413
            good = json.dumps({"step": 1, "label": "a", "region": CORNERS})
            assert ask(f"/wrong/api/{name}", good)[0] == 403
            assert ask(path, good, Host="evil.example")[0] == 421
            assert ask(path, good, Origin="http://evil.example")[0] == 403
            assert ask(path, good, Content_Type="text/plain")[0] == 415
        assert ask(f"/{token}/api/regions", good)[0] == 404
    assert list(look.journal.folder.iterdir()) == []
