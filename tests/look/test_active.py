"""What is proposed, how the head is scored, and the simulation on labels that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.main import main
from earthssl.look.active import at_random, held_out, probabilities, propose
from earthssl.look.labels.journal import Mark
from earthssl.look.simulate import Plan, Pool, curve, summary
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import locked

LINE = np.linspace(-3, 3, 61)[:, None]  # states along a line; the classes part at 0
DAYS = np.arange(61.0) * 10


def test_the_most_uncertain_state_lies_at_the_border() -> None:
    labelled, labels = np.array([0, 5, 55, 60]), np.array([0, 0, 1, 1])
    found = propose(LINE, DAYS, labelled, labels, "uncertain", 3, 5)
    assert found[0] == 30
    assert sorted(found) == [29, 30, 31]


def test_the_core_set_is_farthest_first() -> None:
    assert propose(LINE, DAYS, np.array([0]), np.array([0]), "core", 3, 0) == [60, 30, 15]
    assert propose(LINE, DAYS, np.array([], int), np.array([], int), "core", 3, 0)[0] == 30  # the most usual first
    assert propose(LINE, DAYS, np.array([0]), np.array([0]), "uncertain", 1, 0) == [60]  # one class: nothing to doubt


def test_both_take_turns_and_neighbours_are_left_out() -> None:
    labelled, labels = np.array([5, 8, 50, 52]), np.array([0, 0, 1, 1])
    found = propose(LINE, DAYS, labelled, labels, "both", 4, 25)
    assert found[0] == propose(LINE, DAYS, labelled, labels, "uncertain", 1, 25)[0]
    assert found[1] == 60 or abs(LINE[found[1], 0] - LINE[labelled, 0]).min() > 1
    chosen = np.concatenate([labelled, found])
    assert all(abs(DAYS[a] - DAYS[b]) >= 25 for a in found for b in chosen if a != b)
    allowed = np.zeros(61, bool)
    allowed[20:23] = True
    assert set(propose(LINE, DAYS, labelled, labels, "both", 9, 1, allowed)) == {20, 21, 22}


def test_a_fair_sample_lies_in_its_block_apart_from_what_is_labelled() -> None:
    days, allowed = np.arange(100.0), np.arange(100) >= 40
    found, again, other = (
        at_random(days, np.array([60]), 6, 5.0, allowed, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert found == again != other
    every = sorted([*found, 60])
    assert len(set(found)) == 6
    assert min(found) >= 40
    assert np.diff(every).min() >= 5
    rng, none = np.random.default_rng(0), np.array([], int)
    assert len(at_random(days, none, 99, 20.0, allowed, rng)) <= 3  # as many as there is room for
    often = [k for _ in range(300) for k in at_random(days, none, 1, 5.0, allowed, rng)]
    assert np.mean(often) == pytest.approx(69.5, abs=3)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(EarthSSLError, match="strategy: expected"):
        propose(LINE, DAYS, np.array([0]), np.array([0]), "best", 1, 0)


def test_chances_grow_across_the_border() -> None:
    chance = probabilities(LINE[[0, 10, 50, 60]], np.array([0, 0, 1, 1]), LINE, 2)
    assert np.all(np.diff(chance[:, 1]) > 0)
    np.testing.assert_allclose(chance.sum(1), 1)


def test_the_held_out_score_is_one_where_classes_part_and_chance_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    labels, years = np.arange(200) % 2, np.repeat(np.arange(20), 10)
    apart = held_out(rng.normal(size=(200, 3)) + 20 * labels[:, None], labels, years)
    assert apart is not None
    assert (apart.score, apart.low, apart.high, apart.chance, apart.labels) == (1, 1, 1, 0.5, 200)
    noise = held_out(rng.normal(size=(200, 3)), labels, years)
    assert noise is not None
    assert noise.low < 0.5 < noise.high
    assert held_out(LINE[:8], np.arange(8) % 2, np.zeros(8, int)) is None  # one year
    assert held_out(LINE[:50], np.zeros(50, int), np.arange(50)) is None  # one class


def _pool(seed: int = 0) -> Pool:
    """A rare event beyond a threshold of the first of five features, among many states that are plainly none."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3000, 5))
    labels = (features[:, 0] > 1.6).astype(int)
    return Pool(
        features[:2000], labels[:2000], np.arange(2000.0) * 10, features[2000:], labels[2000:], np.arange(1000) // 50
    )


def test_uncertainty_needs_fewer_labels_of_a_rare_event_than_chance() -> None:
    pool, plan = _pool(), Plan(seeds=4, start=20, batch=20, budget=120)
    runs = {name: [curve(pool, name, seed, plan, 5) for seed in range(4)] for name in ("random", "uncertain")}
    full = probabilities(pool.features, pool.labels, pool.test_features, 2)[:, 1]
    found = summary(pool, full, runs, plan)
    assert found["full_score"] > 0.95
    assert runs["random"][0][0][-1] == 120
    assert found["rows"]["random"]["curve_gap"] == [0, 0, 0]
    assert found["rows"]["uncertain"]["curve_gap"][1] > 0  # the interval excludes nought
    assert found["rows"]["uncertain"]["labels"][0] < found["rows"]["random"]["labels"][0]
    again = curve(pool, "uncertain", 2, plan, 5)
    np.testing.assert_array_equal(again[1], runs["uncertain"][2][1])


def test_strategies_share_their_first_labels() -> None:
    pool, plan = _pool(), Plan(seeds=1, start=30, batch=10, budget=40)
    told = [curve(pool, name, 3, plan, 5)[1][0] for name in ("random", "uncertain", "core", "both")]
    assert all(np.array_equal(told[0], other) for other in told)


def test_the_verb_writes_its_table(small_store: Path, small_run: Path, tmp_path: Path, capsys: Any) -> None:
    from earthssl.ssl.store.store import Store

    store = Store(small_store)
    warm = (np.arange(360) * 7 % 9 < 3).astype(int)
    frame = pd.DataFrame({"time": [str(time)[:7] for time in store.times], "warm": warm})
    frame.to_csv(tmp_path / "known.csv", index=False)
    command = ["active", str(small_store), "--checkpoint", str(small_run), "--labels", str(tmp_path / "known.csv"),
               "--target", "warm", "--out", str(tmp_path / "out"), "--seeds", "2", "--budget", "40"]  # fmt: skip
    assert main(command) == 2
    assert "--simulate" in capsys.readouterr().err
    assert main([*command, "--simulate"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out" / "table.txt").read_text().strip() in said
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert sorted(curves["strategy"].unique()) == ["both", "core", "random", "uncertain"]
    assert curves["average_precision"].between(0, 1).all()
    assert main([*command[:-4], "--simulate", "--budget", "5"]) == 2
    assert "a budget of a round" in capsys.readouterr().err
    (tmp_path / "known.csv").write_text(frame.replace({"warm": {1: 2}}).to_csv(index=False))
    assert main([*command, "--simulate"]) == 2
    assert "expected 0 and 1" in capsys.readouterr().err


def test_the_page_says_what_it_needs(small_store: Path, small_run: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["look"]) == 2
    assert "expected a training store" in capsys.readouterr().err
    assert main(["look", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 2
    assert "expected a training store at" in capsys.readouterr().err
    command = ["look", str(small_store), "--out", str(tmp_path / "o")]
    assert main([*command, "--checkpoint", "registry/ersst"]) == 2
    assert "on the checkpoint's grid" in capsys.readouterr().err
    assert main([*command, "--labels", str(tmp_path / "none.csv")]) == 2
    assert "expected a CSV file" in capsys.readouterr().err
    with locked(tmp_path / "o"):
        assert main(command) == 2
        assert "in use by another process" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main([*command, "--checkpoint", str(small_run), "--export", str(page), "--steps", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.stat().st_size > 50_000


def test_all_choices_keep_the_same_distance_and_random_ends_where_nothing_is_left() -> None:
    """Random labels lie apart as the chosen ones do; a pool that is used up ends the curve."""
    days = np.arange(61.0)
    pool = Pool(LINE, (LINE[:, 0] > 0).astype(int), days, LINE, (LINE[:, 0] > 0).astype(int), np.arange(61))
    counts, _ = curve(pool, "random", 0, Plan(seeds=1, start=2, batch=5, budget=60), 10.0)
    assert counts[-1] <= 2 + 7
    counts, _ = curve(pool, "random", 0, Plan(seeds=1, start=20, batch=20, budget=200), 0.0)
    assert counts[-1] == 61


def test_what_labels_of_test_dates_say_changes_neither_proposals_nor_score(make_look: Any) -> None:
    """The detector is scored on these dates: nothing of what they say may have come into its training labels."""
    found = []
    for said in (("a", "b"), ("b", "a"), ("new class", "b")):
        look = make_look()
        while look.journal.undo() is not None:
            pass
        states = look.progress.states()
        when = look.store.times[states.rows].astype("datetime64[ns]")
        for part, every, words in (("train", 6, ("a", "b")), ("val", 6, ("a", "b")), ("test", 5, said)):
            for k in np.flatnonzero(look.store.splits.inside(when, part))[::every]:
                word = words[int(states.features[k, 0] > 0)]
                look.journal.add(Mark(str(look.store.times[states.rows[k]]), word, None, None, None))
        found.append(json.loads(look.get("api/proposals", {"count": "8", "how": "both"}).body))
    assert found[0] == found[1] == found[2]
    assert len(found[0]["steps"]) == 8
    assert found[0]["score"]["score"] > 0.5
