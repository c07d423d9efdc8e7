"""Marks are on disk before they are answered, survive a kill at any byte, and are what `finetune` reads."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.look.labels.journal import DATES, JOURNAL, MOST, PLACES, Journal, Mark
from earthssl.ssl.common.errors import EarthSSLError

A, B = "1981-02-01T00:00:00", "1981-01-01T00:00:00"


def test_marks_are_a_table_that_finetune_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(Mark(A, "blocked"))
    journal.add(Mark(B, " free, mostly "))
    journal.add(Mark(A, "low"))  # the last word counts
    labels = read_labels(str(tmp_path / DATES), ["label"], "classification")
    assert labels.times.astype(str).tolist() == [B, A]
    assert labels.values.tolist() == ["free, mostly", "low"]
    assert not (tmp_path / PLACES).exists()


def test_places_are_a_table_of_their_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(Mark(A, "storm", 10.0, 200.5))
    journal.add(Mark(A, "calm", 12.0, 190.0))
    journal.add(Mark(A, "whole"))
    labels = read_labels(str(tmp_path / PLACES), ["label"], "classification")
    assert labels.values.tolist() == ["storm", "calm"]
    assert labels.places is not None
    assert labels.places.tolist() == [[10.0, 200.5], [12.0, 190.0]]
    assert (tmp_path / DATES).read_text() == f"time,label\n{A},whole\n"


def test_undo_takes_back_step_by_step_and_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for word in ("one", "two", ""):
        journal.add(Mark(A, word))
    assert journal.current() == []
    assert journal.undo() == Mark(A, "")
    assert [mark.label for mark in Journal(tmp_path).current()] == ["two"]
    again = Journal(tmp_path)
    assert again.undo() == Mark(A, "two")
    assert [mark.label for mark in again.current()] == ["one"]
    assert again.undo() == Mark(A, "one")
    assert again.undo() is None
    assert (tmp_path / DATES).read_text() == "time,label\n"


def test_a_kill_at_any_byte_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "whole")
    for k in range(3):
        journal.add(Mark(f"1981-0{k + 1}-01T00:00:00", "wördlich"))
    text = (tmp_path / "whole" / JOURNAL).read_bytes()
    for cut in range(len(text) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(text[:cut])
        survivor = Journal(folder)
        assert len(survivor.current()) == text[:cut].count(b"\n")
        survivor.add(Mark(A, "after"))  # what was cut does not spoil what follows
        assert Mark(A, "after") in Journal(folder).current()


def test_damage_in_the_middle_is_said_with_its_line(tmp_path: Path) -> None:
    Journal(tmp_path).add(Mark(A, "one"))
    with open(tmp_path / JOURNAL, "ab") as handle:
        handle.write(b"{nonsense}\n")
    with pytest.raises(EarthSSLError, match="line 2"):
        Journal(tmp_path)


@pytest.mark.parametrize("word", [" ", "3", "nan", "1e5", "NA", "=1+1", "@x", "a\nb", "a" * 41, "-", "\x1b[31m"])
def test_words_that_would_be_read_as_something_else_are_refused(tmp_path: Path, word: str) -> None:
    journal = Journal(tmp_path)
    if word == " ":
        word = " \t"
    with pytest.raises(EarthSSLError, match="class: expected"):
        journal.add(Mark(A, word))
    assert journal.current() == []
    assert not (tmp_path / JOURNAL).exists()


def test_a_full_disk_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.add(Mark(A, "one"))
    before = (tmp_path / JOURNAL).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(EarthSSLError, match="no space left"):
            journal.add(Mark(B, "two"))
    assert (tmp_path / JOURNAL).read_bytes() == before
    journal.add(Mark(B, "three"))
    assert [mark.label for mark in Journal(tmp_path).current()] == ["three", "one"]


def test_classes_are_few(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for k in range(MOST):
        journal.add(Mark(A, f"class {k}"))
    with pytest.raises(EarthSSLError, match=f"at most {MOST} classes"):
        journal.add(Mark(A, "one more"))
    journal.add(Mark(B, "class 0"))


def test_marks_of_several_threads_are_all_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def give(k: int) -> None:
        for day in range(1, 9):
            journal.add(Mark(f"19{80 + k}-01-0{day}T00:00:00", f"of {k}"))

    threads = [threading.Thread(target=give, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Journal(tmp_path).current()) == 32


def test_a_link_in_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / JOURNAL).symlink_to(tmp_path / "elsewhere")
    journal = Journal(tmp_path / "look")
    with pytest.raises(EarthSSLError, match="found a link"):
        journal.add(Mark(A, "one"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_finetune_takes_the_labels_of_the_page(small_store: Path, tuned: Any, tmp_path: Path) -> None:
    from earthssl.ssl.store.store import Store

    store, journal = Store(small_store), Journal(tmp_path / "look")
    index = store.read_all()[:, 1].mean((1, 2))
    for k in range(2, 360):
        journal.add(Mark(str(store.times[k]), "high" if index[k] > 0 else "low"))
    tuned(tmp_path / "look" / DATES, "label", "classification")
