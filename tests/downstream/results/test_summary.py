"""What a task writes: everything or nothing, names escaped, numbers as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.evaluation.evaluate import Evaluation, _errors
from earthssl.downstream.results.numbers import number, plain
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.summary import Summary
from earthssl.downstream.results.target import Metric, Target
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import read_json
from matplotlib.figure import Figure


def summary(**changes: Any) -> Summary:
    """Two rows at one target, one difference, one picture."""
    scores = pd.DataFrame(
        {"row": ["a <b>", "pretrained"], "seed": "", "target": "30 kt", "metric": "BSS", "value": [0.1, 0.2],
         "low": [0.05, np.nan], "high": [0.15, np.nan]}
    )  # fmt: skip
    differences = pd.DataFrame(
        {"row": ["pretrained"], "reference": ["a <b>"], "target": ["30 kt"], "metric": ["BSS"], "value": [0.1],
         "low": [-0.1], "high": [0.3], "verdict": ["undecided"]}
    )  # fmt: skip
    drawn = Figure()
    drawn.subplots().plot([0, 1])
    made: dict[str, Any] = {
        "task": "test", "title": "A test", "convention": "none", "scores": scores, "differences": differences,
        "record": {"synthetic": True, "bad": float("nan"), "n": np.int64(3)}, "figures": {"line": drawn},
        "tables": {"more": pd.DataFrame({"x": [1, 2]})}, "notes": ["small"],
    }  # fmt: skip
    return Summary(**{**made, **changes})


def test_the_folder_holds_it_all(tmp_path: Path) -> None:
    """Tables come back as they went; the page needs no other file; row names cannot break out."""
    folder = summary().write(tmp_path / "out", "earthssl probe")
    assert {file.name for file in folder.iterdir()} == {
        "scores.csv", "differences.csv", "more.csv", "line.png", "result.json", "report.html", "table.txt",
    }  # fmt: skip
    back = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    assert list(back["row"]) == ["a <b>", "pretrained"]
    assert list(back["value"]) == [0.1, 0.2]
    record = read_json(folder / "result.json", "the record")
    assert record["command"] == "earthssl probe"
    assert record["bad"] is None
    assert record["n"] == 3
    page = (folder / "report.html").read_text()
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "data:image/png;base64," in page
    assert "synthetic" in page


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing in the tables or pictures depends on when they were written."""
    one, two = summary().write(tmp_path / "one"), summary().write(tmp_path / "two")
    for file in ("scores.csv", "line.png", "report.html"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    """A filled folder is refused; a figure that fails leaves nothing behind."""
    summary().write(tmp_path / "out")
    with pytest.raises(EarthSSLError, match="out"):
        summary().write(tmp_path / "out")

    class Broken(Figure):
        def savefig(self, *_: Any, **__: Any) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        summary(figures={"x": Broken()}).write(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_text_has_a_row_each_and_the_verdict() -> None:
    """What was found, the numbers, the paired differences of the pretrained rows, the notes, where the rest is."""
    text = summary(found="It is better.").text()
    assert text.splitlines()[:2] == ["A test", "It is better."]
    block = text.split("\n\n")[1].splitlines()
    assert block[0].split() == ["BSS", "30", "kt"]
    assert [line.split()[-1] for line in block[1:]] == ["0.100", "0.200"]
    assert [line.split() for line in text.split("\n\n")[2].splitlines()] == [
        ["difference", "(▲", "better,", "▼", "worse,", "·", "undecided)"],
        ["pretrained", "−", "a", "<b>", "+0.100", "·"],
    ]
    assert "small" in text.splitlines()


def test_verdicts_are_told_of_those_that_may_speak_and_long_headings_are_folded() -> None:
    """A row that validation did not choose has its verdicts in the files only."""
    one = summary()
    more = one.differences.assign(row="pretrained [x]")
    scores = one.scores.assign(target="thirty knots and more")
    d = pd.concat([one.differences, more]).assign(target="thirty knots and more")
    said = summary(scores=scores, differences=d, speakers=["pretrained [x]"]).text()
    assert "pretrained [x] − a <b>" in said
    assert "pretrained − a <b>" not in said
    assert "thirty knots" in said.splitlines()[2]
    assert "and more" in said.splitlines()[3]


def test_pairs_fold_away_and_all_but_the_main_scores_do(tmp_path: Path) -> None:
    """One picture, the main table, then what opens on a click."""
    one = summary()
    second = one.scores.assign(metric="log loss", value=7.125)
    folder = summary(scores=pd.concat([one.scores, second]), main=[("30 kt", "BSS")]).write(tmp_path / "out")
    page = (folder / "report.html").read_text()
    first = page.index("In one picture</h2>")
    scores = page.index("Scores</h2>")
    assert first < scores < page.index("<summary>1 more columns</summary>") < page.index("<summary>1 pairs</summary>")
    assert page.index("7.125") > page.index("<summary>1 more columns</summary>")


def test_the_text_fits_a_screen() -> None:
    """Of many targets some are shown, of long names the beginning, of many pairs those that matter."""
    names = ["pretrained [x]", "untrained [x]", *(f"a baseline with a long name, number {k} [x]" for k in range(15))]
    grid = [(name, f"lead {lead}") for name in names for lead in range(40)]
    scores = pd.DataFrame(
        {"row": [n for n, _ in grid], "seed": "", "target": [t for _, t in grid], "metric": "skill",
         "value": np.linspace(0, 1, len(grid)), "low": 0.0, "high": 1.0}
    )  # fmt: skip
    pairs = pd.DataFrame(
        [{"row": a, "reference": b, "target": t, "metric": "skill", "value": 0.1, "low": 0.0, "high": 0.2,
          "verdict": "undecided"} for a in names for b in names if a != b for t in ("lead 0", "lead 39")]
    )  # fmt: skip
    lines = summary(scores=scores, differences=pairs).text().splitlines()
    assert max(len(line) for line in lines) <= 100
    assert len(lines) < 40


def test_eight_targets_fit_a_screen_and_names_keep_their_ends() -> None:
    """Names are cut in the middle, so that numbers and brackets at the end still tell rows apart."""
    names = ["pretrained [x]", "untrained [x]", *(f"a baseline with a long name, number {k} [x]" for k in range(3))]
    grid = [(name, f"lead {lead} in months") for name in names for lead in range(8)]
    scores = pd.DataFrame(
        {"row": [n for n, _ in grid], "seed": "", "target": [t for _, t in grid], "metric": "skill",
         "value": np.linspace(-1, 1, len(grid)), "low": 0.0, "high": 1.0}
    )  # fmt: skip
    pairs = pd.DataFrame(
        [{"row": names[0], "reference": other, "target": target, "metric": "skill", "value": -0.125, "low": -0.2,
          "high": 0.2, "verdict": "undecided"} for other in names[1:] for target in dict.fromkeys(t for _, t in grid)]
    )  # fmt: skip
    lines = summary(scores=scores, differences=pairs).text().splitlines()
    assert max(len(line) for line in lines) == 100
    table = [line for line in lines if "[x]" in line and "…" in line and "−" not in line[:6]]
    assert len({line[:28] for line in table}) == 3
    assert all(len(line.split()[-8:]) == 8 and float(line.split()[-1]) for line in table)
    at = lines.index("pretrained [x]")  # over the pairs, which have no room for it
    assert lines[at + 1].startswith("  − untrained")
    assert lines[at + 1].count("-0.125 ·") == 8


def test_no_text_of_a_table_breaks_out_of_the_page(tmp_path: Path) -> None:
    """Rows, targets, metrics, verdict-like names, titles, notes, file names, words of pictures, the record."""
    nasty = "</td></style><script>alert('x')</script>\"&amp;"
    one = summary()
    scores = one.scores.assign(row=[nasty, "better"], target=nasty, metric=nasty)
    d = one.differences.assign(row=nasty, reference=nasty, target=nasty, metric=nasty)
    texts = dict.fromkeys(("task", "title", "convention", "found"), nasty)
    made = summary(scores=scores, differences=d, notes=[nasty], words={"line": nasty}, record={nasty: {nasty: [nasty]}},
                   tables={"more": pd.DataFrame({nasty: [nasty]})}, **texts)  # fmt: skip
    page = (made.write(tmp_path / "out", nasty) / "report.html").read_text()
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert page.count("&lt;script&gt;") == page.count("alert(") > 15
    assert "&amp;amp;" in page


def test_a_result_without_numbers_is_refused() -> None:
    """No scores, none finite, or columns missing."""
    with pytest.raises(EarthSSLError, match="none that is finite"):
        summary(scores=summary().scores.assign(value=np.nan))
    with pytest.raises(EarthSSLError, match="missing"):
        summary(scores=pd.DataFrame({"row": ["a"]}))


def test_numbers_and_plain_values() -> None:
    """Three places for small numbers, fewer for large; NaN is a dash on paper and null in JSON."""
    assert [number(v) for v in (0.1234, 12.345, 123.4, 12345.6, float("nan"), "x")] == [
        "0.123", "12.35" if number(12.345) == "12.35" else "12.34", "123.4", "12346", "–", "x",
    ]  # fmt: skip
    assert plain({"a": (np.float32(1), np.array([1, np.inf]))}) == {"a": [1.0, [1, None]]}


def test_skill_of_an_evaluation() -> None:
    """1 where nothing is wrong, 0 as good as the climatology, weights count, units add up."""
    names, units, reference = np.array(["a", "a", "b"]), np.array([1, 1, 1]), np.array([1.0, 3.0, 2.0])
    assert Evaluation(names, units, np.zeros(3), reference).skill() == 1
    assert Evaluation(names, units, reference, reference).skill() == 0
    one = Evaluation(names, units, np.array([1.0, 0.0, 2.0]), reference)
    assert one.skill() == pytest.approx(0.5)
    assert one.skill(np.array([1.0, 1.0, 0.0])) == pytest.approx(0.75)
    summed = one.by_unit()
    assert summed.to_numpy().tolist() == [["a", 1, 1.0, 4.0], ["b", 1, 2.0, 2.0]]
    assert list(summed) == ["target", "unit", "error", "reference"]
    with pytest.raises(EarthSSLError, match="finite"):
        Evaluation(names, units, np.array([1.0, np.nan, 0.0]), reference)
    with pytest.raises(EarthSSLError, match="shapes"):
        Evaluation(names[:2], units[:2], np.zeros(2), reference)


def test_targets_of_all_units_weigh_alike() -> None:
    """A label in metres does not drown one in chances: the skill is the mean of their skills."""

    def target(name: str, size: float) -> Target:
        skill = Metric("skill", lambda rows: lambda w: np.zeros(len(rows)))
        reference = np.full(4, size)
        return Target(name, np.arange(4), [skill], errors=lambda row: row.forecast[name], reference_errors=reference)

    row = Row("x", Role.PRETRAINED, {"height": np.full(4, 600.0), "chance": np.full(4, 0.01)})
    height, chance = target("height", 1000.0), target("chance", 0.1)
    assert _errors([height], [row]).skill() == pytest.approx(0.4)
    assert _errors([chance], [row]).skill() == pytest.approx(0.9)
    assert _errors([height, chance], [row]).skill() == pytest.approx(0.65)
    with pytest.raises(EarthSSLError, match="target 'none'; leave it out"):
        _errors([target("none", 0.0)], [row])


def test_rivals_are_ranked_by_means_over_the_same_targets() -> None:
    """A baseline that was asked the easy target only is not the best one, unless it is alone."""
    easy = {"half asked": 0.9, "asked both": 0.8, "pretrained [a]": 0.7}
    hard = {"asked both": 0.1, "pretrained [a]": 0.2}
    lines = [(row, "", t, "s", v, v, v) for t, of in (("easy", easy), ("hard", hard)) for row, v in of.items()]
    scores = pd.DataFrame(lines, columns=["row", "seed", "target", "metric", "value", "low", "high"])

    def best(*references: str) -> list[str]:
        pairs = [("pretrained [a]", one, "easy", "s", 0.0, 0.0, 0.0, "undecided") for one in references]
        columns = ["row", "reference", "target", "metric", "value", "low", "high", "verdict"]
        return summary(scores=scores, differences=pd.DataFrame(pairs, columns=columns)).beaten("pretrained [a]")

    assert best("half asked", "asked both") == ["asked both"]
    assert best("half asked") == ["half asked"]
