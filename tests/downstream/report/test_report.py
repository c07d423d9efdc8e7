"""The report: what it shows equals what the files hold, and no name can break it."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import math
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.report.read_summary import read_summary
from earthssl.downstream.report.report import ReportConfig, report
from earthssl.downstream.report.training_section import duration, example_section, health_section, training_section
from earthssl.downstream.results.numbers import number
from earthssl.downstream.results.page import look_command
from earthssl.downstream.results.summary import DIFFERENCES, SCORES, Summary
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store
from markupsafe import escape
from matplotlib.figure import Figure

LEADS = list(range(1, 10))
MEAN = "mean over leads"
NASTY = "PCA <script>alert(\"$x_1$\")</script> & 'co'"
# name, role, seeds, height of its skill curve
ROWS = [
    ("persistence", "baseline", [], 0.00),
    ("PCA", "baseline", [], 0.12),
    (NASTY, "baseline", [], 0.02),
    ("pretrained [mean]", "pretrained", [0, 1], 0.10),
    ("pretrained [chosen]", "pretrained", [0, 1], 0.11),
    ("untrained [mean]", "untrained", [0], 0.06),
    ("untrained [chosen]", "untrained", [0], 0.02),
    ("same network from scratch", "scratch", [0], -0.2),
    ("best reachable", "known", [], 0.2),
]
REFERENCES = ("persistence", "PCA", NASTY, "untrained [mean]", "untrained [chosen]", "same network from scratch")


def skill(height: float, lead: int) -> float:
    """A curve that falls with lead."""
    return min(0.99, 0.95 * math.exp(-lead / 9) + height * min(lead, 5) / 5 + 0.00123)


def write_csv(file: Path, head: str, lines: list[tuple[Any, ...]]) -> None:
    with open(file, "w", newline="") as handle:
        csv.writer(handle).writerows([head.split(","), *lines])


def score_lines() -> list[tuple[Any, ...]]:
    lines: list[tuple[Any, ...]] = []
    for name, _, seeds, height in ROWS:
        for lead in LEADS:
            r, at = skill(height, lead), f"lead {lead}"
            lines += [
                (name, str(k), at, "skill", r + 0.01 * (-1) ** k, np.nan, np.nan) for k in seeds if len(seeds) > 1
            ]
            lines.append((name, "", at, "skill", r, r - 0.08, min(1, r + 0.07)))
            lines.append((name, "", at, "rmse", 0.3 + 0.05 * lead, np.nan, np.nan))
    return lines


def difference_lines() -> list[tuple[Any, ...]]:
    heights = {name: height for name, _, _, height in ROWS}
    lines: list[tuple[Any, ...]] = []
    for name in heights:
        for reference in REFERENCES:
            if name == reference:
                continue
            gap = heights[name] - heights[reference]
            low, high = gap - 0.0415, gap + 0.0385
            outcome = "better" if low > 0 else "worse" if high < 0 else "undecided"
            lines += [(name, reference, f"lead {lead}", "skill", gap, low, high, outcome) for lead in LEADS]
    return lines


def picture() -> Figure:
    drawn = Figure()
    drawn.subplots().plot([0, 1])
    return drawn


def write_probe(folder: Path, store: Store) -> Path:
    record = {
        "rows": [{"row": name, "role": role, "seed": k} for name, role, seeds, _ in ROWS for k in seeds or [None]],
        "test_years": "1995-2009",
        "encoders": [{"kind": "pretrained", "path": "r0/checkpoint", "fingerprint": store.fingerprint, "seed": 0,
                      "steps": 40, "sha256": "abc"}, {"kind": "untrained", "seed": 0, "steps": 0, "sha256": "x"}],
        "store_fingerprint": store.fingerprint,
        "seconds": 192.4,
        "config": {"task": "enso", "poolings": ["mean"]},
        "synthetic": False,
    }  # fmt: skip
    summary = Summary(
        task="enso",
        title="Niño 3.4 <of later seasons>",
        convention="Target: <the index>, centred `lead` months later.",
        scores=pd.DataFrame(score_lines(), columns=list(SCORES)),
        differences=pd.DataFrame(difference_lines(), columns=list(DIFFERENCES)),
        record=record,
        figures={"scores": picture(), "seasons": picture(), "label_curve": picture()},
        tables={"seasons": pd.DataFrame({"row": ["NA"], "r": [0.125]})},
        notes=["Small & synthetic."],
        found="pretrained [chosen] has skill 0.6; against its untrained twin: better.",
        main=[(f"lead {lead}", "skill") for lead in (1, 3, 6, 9)],
        speakers=["pretrained [chosen]"],
        words={"seasons": "Where skill drops <along> a diagonal"},
    )
    return summary.write(folder, "earthssl probe --config enso.yaml")


def write_run(folder: Path, store: Store, seed: int, *, example: bool = True, online: bool = True) -> Path:
    folder.mkdir()
    identity = {
        "training": {"seed": seed, "steps": 40},
        "objectives": {"masking": {}},
        "fingerprint": store.fingerprint,
    }
    (folder / "config.json").write_text(json.dumps({"store": str(store.path), "identity": identity}))
    record = {
        "seconds": 3700.0, "steps": 40, "encoder_parameters": 154688, "head_parameters": 1200, "train_windows": 300,
        "peak_memory_mib": 812.4, "health_warnings": ["step 40: 95 % of the features' variance is place"],
        "processor": "x86_64", "threads": 1,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    names = ["train/loss", "val/loss", "train/masking/loss", "val/masking/loss", "val/masking/skill"]
    names += ["val/masking/skill_ssta", "samples_per_s", "health/std", "health/effective_rank", "health/place_share"]
    names += ["probe/enso 6 months"] * online
    lines = [(step, name, 1 / step + k / 10) for step in (10, 20, 40) for k, name in enumerate(names)]
    write_csv(folder / "history.csv", "step,name,value", lines)
    if example:
        write_example(folder / "example.nc", store)
    return folder


def write_example(file: Path, store: Store) -> None:
    """One window of two steps: in the second, the northern rows are hidden and rebuilt 1 K too warm."""
    truth = np.random.default_rng(0).normal(size=(1, 2, *store.grid.shape)).astype(np.float32)
    truth[..., 0] = np.nan
    shown, rebuilt = truth.copy(), truth.copy()
    shown[:, 1, :3] = np.nan
    rebuilt[:, 1, :3] += 1
    dims = ("variable", "time", "lat", "lon")
    fields = {"truth": (dims, truth), "shown": (dims, shown), "rebuilt": (dims, rebuilt)}
    coords = {
        "variable": ["ssta"],
        "time": np.array(["1990-01", "1990-02"], "datetime64[ns]"),
        "lat": store.grid.lat,
        "lon": store.grid.lon,
    }
    xr.Dataset(fields, coords, attrs={"units": json.dumps(["K"])}).to_netcdf(file)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small store of monthly anomalies with a column of land."""
    folder = tmp_path_factory.mktemp("report")
    time = np.arange("1960-01", "2010-01", dtype="datetime64[M]").astype("datetime64[ns]")
    values = np.random.default_rng(1).normal(size=(len(time), 6, 12)).astype(np.float32)
    values[..., 0] = np.nan
    coords = {"time": time, "lat": np.linspace(25, -25, 6), "lon": np.arange(185.0, 295, 9.5)}
    field = (("time", "lat", "lon"), values, {"units": "K", "standard_name": "sea_surface_temperature_anomaly"})
    xr.Dataset({"ssta": field}, coords).to_netcdf(folder / "ssta.nc")
    splits = SplitsConfig(("1960", "1979"), ("1982", "1991"), ("1994", "2009"), 700)
    options = {"path": str(folder / "ssta.nc"), "variables": ["ssta"]}
    return Store(prepare(PrepareConfig("files", str(folder / "store"), splits, options)))


@pytest.fixture
def probe(store: Store, tmp_path: Path) -> Path:
    return write_probe(tmp_path / "probe", store)


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The full page: two seeds, everything optional there."""
    folder = tmp_path_factory.mktemp("page")
    runs = [str(write_run(folder / f"r{seed}", store, seed)) for seed in (0, 1)]
    out = folder / "new" / "report.html"
    config = ReportConfig(str(store.path), str(write_probe(folder / "probe", store)), runs, str(out), NASTY)
    assert report(config) == out
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]  # no temporary file left
    return out.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Checks that every element is closed in order, that ids are unique, and collects text and references."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href", "srcset") and v is not None]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data


def parsed(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: str) -> None:
    found = parsed(page)
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert not found.tags & {"link", "iframe", "object"}
    script = page.partition('<script type="module">')[2].partition("</script>")[0]  # makes globes of the example
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"content=\"default-src 'none'; script-src 'sha256-{mark}';" in page
    assert not re.search("https?:", re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", page))
    assert "@import" not in page
    urls = re.findall(r"url\(([^)]*)\)", page)
    assert all(url[0] == "#" and url[1:] in found.ids for url in urls)


def test_the_page_says_how_to_open_its_store_and_results_in_look(page: str, store: Store) -> None:
    words = html.unescape(page.rsplit("To open it in look, alive: <code>", 1)[1].partition("</code>")[0])
    command = shlex.split(words)
    assert command[:3] == ["earthssl", "look", str(store.path)]
    assert command[-2] == "--run"
    assert look_command("a store", "it's", "c") == "earthssl look 'a store' --checkpoint c --run 'it'\"'\"'s'"
    assert look_command("", "results") == ""


def test_every_section_is_there(page: str) -> None:
    anchors = (
        "picture",
        "scores",
        "differences",
        "pictures",
        "tables",
        "data",
        "training",
        "health",
        "example",
        "again",
    )
    for anchor in anchors:
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    for words in (
        "embargo of 700 days",
        "Online probe", "variance is place", "1 h 01 min", "3 min 12 s", "earthssl probe --config enso.yaml",
        "154\u202f688",
        "all tasks: loss", "masking: loss", "spread of features", "best reachable", "Small &amp; synthetic", "python 3",
        "Where skill drops &lt;along&gt; a diagonal", "Target: &lt;the index&gt;", "2 pretraining runs",
        "fitted on training times only", "poolings: [mean]",
    ):  # fmt: skip
        assert words in page, words
    assert page.count("<svg ") == 5
    assert page.count("<img ") == 3
    assert "synthetic data" not in page


def test_the_page_opens_with_the_finding_one_picture_and_the_table(page: str) -> None:
    """The sentence, scores and label curve, the main scores, verdicts; the pairs and all else fold away."""
    found, first, table = (page.index(words) for words in ("has skill 0.6;", "In one picture</h2>", "Scores</h2>"))
    assert found < first < table
    assert page[first:table].count("<img ") == 2
    assert table < page.index("14 more columns</summary>")
    assert page.index("pretrained [chosen] − untrained") < page.index("pairs</summary>")
    assert "pretrained [mean] − untrained" not in page


def test_no_colour_is_left_that_only_one_theme_can_show(page: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.S)
    line_drawings = [d for d in drawings if "data:image" not in d]
    assert len(line_drawings) == 4
    for drawing in line_drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
    assert "prefers-color-scheme: dark" in page


def test_numbers_in_the_table_are_those_of_the_files(page: str) -> None:
    rows = [row for row in parsed(page).cells if row and row[0].startswith("pretrained [chosen]")]
    height = {name: height for name, _, _, height in ROWS}["pretrained [chosen]"]
    values = [skill(height, lead) for lead in (1, 3, 6, 9)]
    expected = [f"{number(v)}[{number(v - 0.08)}, {number(min(1, v + 0.07))}]" for v in values]
    assert rows[0][1:] == expected
    assert rows[1][1 + LEADS.index(2)] != expected[0]
    # Verdicts against the untrained twin, the best baseline, and the network from scratch.
    assert [row[1] for row in rows if " − " in row[0]] == ["+0.090 ▲", "-0.010 ·", "+0.310 ▲"]


def test_a_nasty_name_stays_text(page: str) -> None:
    assert "<script>" not in page
    assert escape(NASTY) in page
    assert "&lt;of later seasons&gt;" in page
    assert f"<title>{escape(NASTY)}</title>" in page
    assert "$x_1$" in "".join(parsed(page).words)  # matplotlib takes no dollar for mathematics


def test_hidden_cells_are_scored_against_no_anomaly(page: str) -> None:
    row = next(row for row in parsed(page).cells if row and row[0] == "ssta [K]")
    assert row[1] == str(3 * 11)
    assert row[2] == "1.000"  # a constant error leaves the pattern
    assert row[3] == "1"


def rewrite(file: Path, change: Callable[[dict[str, str]], dict[str, str] | None]) -> None:
    with open(file, newline="") as handle:
        rows = list(csv.DictReader(handle))
    kept = [made for row in rows if (made := change(row)) is not None]
    with open(file, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)


def test_a_verdict_beyond_its_interval_is_refused(probe: Path) -> None:
    rewrite(probe / "differences.csv", lambda row: row | {"verdict": "better"})
    with pytest.raises(EarthSSLError, match=r"expected better, worse or undecided as the interval .* has it"):
        read_summary(probe)


def test_a_summary_comes_back_as_it_went(probe: Path) -> None:
    """Tables, pictures and words; a row called NA stays one."""
    back = read_summary(probe)
    assert back.scores["value"].tolist() == [line[4] for line in score_lines()]
    assert back.tables["seasons"]["row"].tolist() == ["NA"]
    assert set(back.figures) == {"scores", "seasons", "label_curve"}
    assert back.text() + "\n" == (probe / "table.txt").read_text(encoding="utf-8")


def test_what_is_optional_is_left_out(probe: Path, store: Store, tmp_path: Path) -> None:
    for name in ("seasons.png", "label_curve.png", "seasons.csv"):
        (probe / name).unlink()
    gone = ("same network from scratch", "best reachable")
    for name in ("scores.csv", "differences.csv"):
        rewrite(probe / name, lambda row: None if {row["row"], row.get("reference")} & set(gone) else row)
    record = json.loads((probe / "result.json").read_text())
    record["synthetic"] = True
    for name in ("command", "versions", "encoders", "store_fingerprint", "test_years", "found", "main", "speakers"):
        del record[name]
    (probe / "result.json").write_text(json.dumps(record))
    run = write_run(tmp_path / "r", store, 0, example=False, online=False)
    identity = json.loads((run / "config.json").read_text())
    identity["identity"]["fingerprint"] = "other"
    (run / "config.json").write_text(json.dumps(identity))
    config = ReportConfig(str(store.path), str(probe), [str(run)], str(tmp_path / "a.html"))
    text = report(config).read_text(encoding="utf-8")
    parsed(text)
    for anchor in ("pictures", "tables", "example"):
        assert f'href="#{anchor}"' not in text
    assert "Online probe" not in text
    assert "scratch" not in text
    assert "synthetic data" in text
    # A run on other data is allowed, and said before any number.
    assert text.index("Fails: Run r was pretrained") < text.index('id="scores"')


def test_without_runs_their_sections_are_empty() -> None:
    assert not training_section([]).content
    assert not health_section([]).content
    assert not example_section([], False).content


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("probe", "expected the folder of a probe"),
        ("probe/scores.csv", "expected .*scores.csv, found no such file"),
        ("probe/differences.csv", "expected .*differences.csv, found no such file"),
        ("probe/result.json", "expected the folder of a probe"),
        ("run", "expected a pretraining run"),
        ("run/run.json", "expected a finished run"),
        ("run/history.csv", "expected .*history.csv, found no such file"),
    ],
)
def test_what_is_required_is_missed_in_one_line(
    probe: Path, store: Store, tmp_path: Path, gone: str, message: str
) -> None:
    write_run(tmp_path / "run", store, 0, example=False)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(EarthSSLError, match=message) as caught:
        report(ReportConfig(str(store.path), str(probe), [str(tmp_path / "run")], str(tmp_path / "a.html")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.html").exists()


def test_a_missing_store_and_a_missing_column_are_named(probe: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match="expected a training store"):
        report(ReportConfig(str(tmp_path / "no"), str(probe)))
    with pytest.raises(EarthSSLError, match=r"report.out: expected a file"):
        ReportConfig("s", "p", out=str(tmp_path))
    scores = (probe / "scores.csv").read_text()
    (probe / "scores.csv").write_text(scores.replace("metric", "what", 1))
    with pytest.raises(EarthSSLError, match="expected the column 'metric'"):
        read_summary(probe)
    (probe / "scores.csv").write_text(scores.replace(",skill,", ",skill,x", 1))
    with pytest.raises(EarthSSLError, match="expected numbers in column 'value'"):
        read_summary(probe)
    record = json.loads((probe / "result.json").read_text())
    del record["title"]
    (probe / "result.json").write_text(json.dumps(record))
    with pytest.raises(EarthSSLError, match="expected a record with 'title'"):
        read_summary(probe)


def test_duration() -> None:
    assert [duration(s) for s in (41.2, 192, 7500, math.nan)] == ["41 s", "3 min 12 s", "2 h 05 min", "–"]
