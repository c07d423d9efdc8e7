"""The first run: which planets it goes through, and a tiny one from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.cli import run as run_module
from earthssl.cli.main import main
from earthssl.ssl.sources.weather import history as history_module

BOTH = ["quickstart", "quickstart-linear-short"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], BOTH),
        (["--world", "both"], BOTH),
        (["--world", "weather"], BOTH[:1]),
        (["--world", "linear"], ["quickstart-linear"]),
        (["--source", "ersst"], ["quickstart-ersst"]),
    ],
)
def test_which_planets(
    words: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Overrides are for the first; the second lies below its folder; both tables end the run."""
    asked = []

    def run_all(file: Path, out: str, words: list[str], say: object, command: str = "") -> Path:
        asked.append((Path(file).stem, Path(out), words))
        (Path(out) / "probe").mkdir(parents=True)
        (Path(out) / "probe" / "table.txt").write_text(f"table of {Path(file).stem}\n")
        return Path(out) / "report.html"

    monkeypatch.setattr(run_module, "run_all", run_all)
    assert main(["quickstart", *words, "--out", str(tmp_path / "q"), "--pretrain.training.steps", "5"]) == 0
    assert [name for name, _, _ in asked] == names
    assert asked[0][1:] == (tmp_path / "q", ["--pretrain.training.steps", "5"])
    assert asked[1:] == [(name, tmp_path / "q" / "linear", []) for name in names[1:]]
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("table of")] == [f"table of {one}" for one in names]


@pytest.mark.slow
def test_a_tiny_planet_with_weather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Source to report with few years, steps and labels; the report shows the planet."""
    monkeypatch.setattr(history_module, "SPIN_UP", 2)
    monkeypatch.setenv("EARTHSSL_CACHE", str(tmp_path / "cache"))
    words = {
        "prepare.options.years": 8, "prepare.splits.train": "[1900-01-01, 1901-12-31]",
        "prepare.splits.val": "[1902-02-01, 1903-12-31]", "prepare.splits.test": "[1904-02-01, 1907-12-31]",
        "pretrain.training.steps": 4, "pretrain.training.warmup_steps": 1, "pretrain.training.val_every": 4,
        "pretrain.training.save_every": 4, "probe.columns": "[height_3d, jet_3d]",
        "probe.labelled": "[1900-01-01, 1901-12-31]", "probe.fractions": "[0.5, 1.0]", "probe.components": "[10]",
        "probe.scratch.steps": 2, "probe.scratch.check_every": 1, "probe.draws": 1000,
    }  # fmt: skip
    overrides = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "q"
    assert main(["quickstart", "--world", "weather", "--out", str(out), *overrides]) == 0
    said = capsys.readouterr().out
    assert "training years with labels, mean over 2 target(s)" in said
    page = (out / "report.html").read_text()
    assert "A day of the planet" in page
    assert page.index("In one picture") < page.index("A day of the planet") < page.index("Data and splits")
