"""Labels of several people: what is new is taken, what differs is listed and stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.look.labels.journal import DATES, PLACES, Journal, Mark
from earthssl.look.labels.merge import CONFLICTS, merge
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.store.store import Store

A, B, C = "1981-01-01T00:00:00", "1981-02-01T00:00:00", "1981-03-01T00:00:00"


def test_new_ones_are_taken_and_conflicts_listed(tmp_path: Path, small_store: Path) -> None:
    mine, theirs, third = (Journal(tmp_path / name) for name in ("mine", "theirs", "third"))
    for journal, marks in (
        (mine, ((A, "x"), (B, "x"))),
        (theirs, ((A, "x"), (B, "y"), (C, "y"))),
        (third, ((C, "x"),)),
    ):
        for time, word in marks:
            journal.add(Mark(time, word))
    theirs.add(Mark("2050-01-01T00:00:00", "x"))
    files = [tmp_path / "theirs" / DATES, tmp_path / "third" / DATES]
    first, second = merge(mine, files, Store(small_store).times)
    assert (first.taken, first.same, first.absent) == (1, 1, 1)
    assert first.conflicts == [(Mark(B, "x"), Mark(B, "y"))]
    assert second.conflicts == [(Mark(C, "y"), Mark(C, "x"))]  # the one that came first stays
    assert [mark.label for mark in Journal(tmp_path / "mine").current()] == ["x", "x", "y"]
    table = pd.read_csv(tmp_path / "mine" / CONFLICTS)
    assert table[["time", "own", "theirs"]].values.tolist() == [[B, "x", "y"], [C, "y", "x"]]
    again = merge(mine, files, Store(small_store).times)
    assert (again[0].taken, again[0].same) == (0, 2)


def test_places_are_told_apart(tmp_path: Path, small_store: Path) -> None:
    mine, theirs = Journal(tmp_path / "mine"), Journal(tmp_path / "theirs")
    mine.add(Mark(A, "storm", 10.0, 200.0))
    theirs.add(Mark(A, "storm", 10.0, 210.0))
    theirs.add(Mark(A, "calm", 10.0, 200.0))
    found = merge(mine, [tmp_path / "theirs" / PLACES], Store(small_store).times)[0]
    assert (found.taken, len(found.conflicts)) == (1, 1)
    assert len(mine.current()) == 2


def test_the_verb_says_what_came_of_it(tmp_path: Path, small_store: Path, capsys: Any) -> None:
    theirs = Journal(tmp_path / "theirs")
    theirs.add(Mark(A, "x"))
    command = ["look", str(small_store), "--out", str(tmp_path / "mine"), "--export", str(tmp_path / "page.html"),
               "--steps", "2", "--merge"]  # fmt: skip
    assert main([*command, str(tmp_path / "theirs" / DATES)]) == 0
    assert "1 labels taken, 0 the same, 0 differ" in capsys.readouterr().out
    (tmp_path / "bad.csv").write_text("time,kind\n1981-01,x\n")
    assert main([*command, str(tmp_path / "bad.csv")]) == 2
    assert "expected the column 'label'" in capsys.readouterr().err
    with pytest.raises(EarthSSLError):
        merge(Journal(tmp_path / "m"), [tmp_path / "none.csv"], Store(small_store).times)


def test_places_are_those_of_the_table(tmp_path: Path, small_store: Path) -> None:
    """Two people click the same place: what differs is a conflict, to the digits that the table holds."""
    time = str(Store(small_store).times[5])
    journal, theirs = Journal(tmp_path / "own"), Journal(tmp_path / "theirs")
    journal.add(Mark(time, "storm", 12.345678, 201.987654))
    theirs.add(Mark(time, "calm", 12.345678, 201.987654))
    (found,) = merge(journal, [tmp_path / "theirs" / "places.csv"], Store(small_store).times)
    assert (found.taken, len(found.conflicts)) == (0, 1)
    assert len((tmp_path / "own" / "places.csv").read_text().splitlines()) == 2
