"""The report: what it shows equals what the files hold, and no name can break it."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.report.probe_results import Results
from earthssl.downstream.report.report import ReportConfig, report
from earthssl.downstream.report.training_section import example_section, health_section, training_section
from earthssl.downstream.report.verdict import number
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.splits import SplitsConfig
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.prepare.prepare import prepare
from earthssl.ssl.store.store import Store

LEADS = list(range(1, 10))
NASTY = "PCA <script>alert(\"$x_1$\")</script> & 'co'"
# name, kind, seeds, height of its skill curve
ROWS = [
    ("persistence", "baseline", [], 0.00),
    ("LIM", "baseline", [], 0.05),
    ("PCA", "baseline", [], 0.12),
    (NASTY, "baseline", [], 0.02),
    ("pretrained [mean]", "encoder", [0, 1], 0.10),
    ("pretrained [chosen]", "encoder", [0, 1], 0.11),
    ("untrained [mean]", "encoder", [0], 0.06),
    ("untrained [chosen]", "encoder", [0], 0.02),
    ("same network from scratch", "encoder", [0], -0.2),
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
            r = skill(height, lead)
            lines += [(name, seed, lead, "skill", r + 0.01 * (-1) ** seed, "", "") for seed in seeds if len(seeds) > 1]
            lines.append((name, "", lead, "skill", r, r - 0.08, min(1, r + 0.07)))
            lines += [(name, "", lead, "rmse", 0.3 + 0.05 * lead, "", ""), (name, "", lead, "std_ratio", r, "", "")]
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
            lines += [(name, reference, lead, gap, low, high, outcome) for lead in ("mean", *LEADS)]
    return lines


def write_probe(folder: Path, store: Store) -> Path:
    folder.mkdir()
    write_csv(folder / "scores.csv", "row,seed,lead,metric,value,low,high", score_lines())
    write_csv(folder / "differences.csv", "row,reference,lead,value,low,high,verdict", difference_lines())
    seasons = [
        (name, lead, month, skill(height, lead) - 0.2 * (month == 6))
        for name, _, _, height in ROWS
        for lead in LEADS
        for month in range(1, 13)
    ]
    write_csv(folder / "seasons.csv", "row,lead,target_month,r", seasons)
    rows = [
        {"name": name, "kind": kind, "seed": seed, "settings": {}}
        for name, kind, seeds, _ in ROWS
        for seed in seeds or [None]
    ]
    record = {
        "task": "enso",
        "convention": "Target: <the index>, centred `lead` months later.",
        "rows": rows,
        "test_years": "1995-2009",
        "draws": 2000,
        "block_years": 2,
        "level": 0.95,
        "checkpoints": [{"path": "r0/checkpoint", "fingerprint": store.fingerprint, "seed": 0, "steps": 40}],
        "store_fingerprint": store.fingerprint,
        "seconds": 192.4,
        "versions": {"python": "3.11.7"},
        "config": {"task": "enso", "poolings": ["mean"]},
        "command": "earthssl probe --config enso.yaml",
        "synthetic": False,
    }
    (folder / "probe.json").write_text(json.dumps(record))
    return folder


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
    assert not found.tags & {"script", "link", "img", "iframe", "object"}
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", page)
    assert "@import" not in page
    urls = re.findall(r"url\(([^)]*)\)", page)
    assert all(url[0] == "#" and url[1:] in found.ids for url in urls)


def test_every_section_is_there(page: str) -> None:
    anchors = ("skill", "differences", "seasons", "data", "training", "health", "example", "again", "convention")
    for anchor in anchors:
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    for words in (
        "test years 1995–2009", "2000 draws", "blocks of 2 years", "Seeds: pretrained: seeds 0, 1",
        "embargo of 700 days",
        "Online probe", "variance is place", "1 h 01 min", "3 min 12 s", "earthssl probe --config enso.yaml",
        "154\u202f688",
        "all tasks: loss", "masking: loss", "spread of features", "best reachable", "DJF", "MAM", "python 3.11.7",
        "fitted on training times only", "poolings: [mean]",
    ):  # fmt: skip
        assert words in page, words
    assert page.count("<svg ") == 8
    assert "synthetic planet" not in page


def test_no_colour_is_left_that_only_one_theme_can_show(page: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.S)
    line_drawings = [d for d in drawings if "data:image" not in d]
    assert len(line_drawings) == 6
    for drawing in line_drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
    assert "prefers-color-scheme: dark" in page


def test_numbers_in_the_table_are_those_of_the_files(page: str) -> None:
    rows = [row for row in parsed(page).cells if row and row[0].startswith("pretrained [chosen]")]
    height = {name: height for name, _, _, height in ROWS}["pretrained [chosen]"]
    values = [skill(height, lead) for lead in (1, 3, 6, 9)]
    expected = [f"{v:.2f}"[1:] + f"[{v - 0.08:.2f}".replace("[0", "[") for v in values]
    assert [cell.split(",")[0] for cell in rows[0][1:5]] == expected
    assert rows[0][5] == "8"  # r(8) = .95 exp(-8/9) + .11 + .001 = .502, r(9) = .461
    # Differences from untrained (same pooling), PCA, the nasty row, scratch, persistence.
    assert rows[0][6:] == ["▲ +.09", "· −.01", "▲ +.09", "▲ +.31", "▲ +.11"]
    # RMSE at leads 1, 6 and 9, then the mean of all seeds and of each.
    assert rows[1][1:4] == [".35", ".60", ".75"]
    mean = np.mean([skill(height, lead) for lead in LEADS])
    assert rows[1][-2:] == [number(mean), f"{number(mean + 0.01)}, {number(mean - 0.01)}"]


def test_a_nasty_name_stays_text(page: str) -> None:
    assert "<script" not in page
    assert html.escape(NASTY) in page
    assert f"<title>{html.escape(NASTY)}</title>" in page
    assert "$x_1$" in "".join(parsed(page).words)  # matplotlib takes no dollar for mathematics


def test_hidden_cells_are_scored_against_no_anomaly(page: str) -> None:
    row = next(row for row in parsed(page).cells if row and row[0] == "ssta [K]")
    assert row[1] == str(3 * 11)
    assert row[2] == "1.00"  # a constant error leaves the pattern
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
        Results.read(probe)


def test_what_is_optional_is_left_out(probe: Path, store: Store, tmp_path: Path) -> None:
    (probe / "seasons.csv").unlink()
    gone = ("same network from scratch", "best reachable")
    for name in ("scores.csv", "differences.csv"):
        rewrite(probe / name, lambda row: None if {row["row"], row.get("reference")} & set(gone) else row)
    record = json.loads((probe / "probe.json").read_text())
    record["rows"] = [row for row in record["rows"] if row["name"] not in gone]
    record["synthetic"] = True
    for name in ("command", "convention", "versions", "checkpoints", "store_fingerprint", "test_years", "draws"):
        del record[name]
    (probe / "probe.json").write_text(json.dumps(record))
    run = write_run(tmp_path / "r", store, 0, example=False, online=False)
    identity = json.loads((run / "config.json").read_text())
    identity["identity"]["fingerprint"] = "other"
    (run / "config.json").write_text(json.dumps(identity))
    config = ReportConfig(str(store.path), str(probe), [str(run)], str(tmp_path / "a.html"))
    text = report(config).read_text(encoding="utf-8")
    parsed(text)
    for anchor in ("seasons", "example", "convention"):
        assert f'href="#{anchor}"' not in text
    assert "Online probe" not in text
    assert "scratch" not in text
    assert text.count("synthetic planet") > 3
    # A run on other data is allowed, and said before any number.
    assert text.index("Fails: Run r was pretrained") < text.index('id="skill"')


def test_without_runs_their_sections_are_empty() -> None:
    assert not training_section([]).content
    assert not health_section([]).content
    assert not example_section([], False).content


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("probe", "expected a probe folder"),
        ("probe/scores.csv", "expected .*scores.csv, found no such file"),
        ("probe/differences.csv", "expected .*differences.csv, found no such file"),
        ("probe/probe.json", "expected a probe's record"),
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


def test_a_missing_store_a_missing_column_and_a_missing_row_are_named(probe: Path, tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match="expected a training store"):
        report(ReportConfig(str(tmp_path / "no"), str(probe)))
    with pytest.raises(EarthSSLError, match=r"report.out: expected a file"):
        ReportConfig("s", "p", out=str(tmp_path))
    scores = (probe / "scores.csv").read_text()
    rewrite(probe / "scores.csv", lambda row: None if row["row"] == "LIM" else row)
    with pytest.raises(EarthSSLError, match="expected the skill of row 'LIM'"):
        Results.read(probe)
    (probe / "scores.csv").write_text(scores.replace("metric", "what", 1))
    with pytest.raises(EarthSSLError, match="expected the column 'metric'"):
        Results.read(probe)
    (probe / "scores.csv").write_text(scores.replace(",skill,", ",skill,x", 1))
    with pytest.raises(EarthSSLError, match="expected numbers in column 'value'"):
        Results.read(probe)
