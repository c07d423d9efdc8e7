"""Durations need a unit; a path, a member and units are what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.cli.main import main
from earthssl.ssl.common.config import override
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.prepare.config import PrepareConfig
from earthssl.ssl.sources import SOURCES, option_hints
from earthssl.ssl.sources.selection import Selection


@pytest.mark.parametrize("every", [6, "6", 6.0, "0.25", "6:00", "1.5", 0, "-6h", "", "1M", "h6", True, "6 ", "１"])
def test_a_number_without_a_unit_is_no_duration(every: Any) -> None:
    """pandas takes it for nanoseconds, and nothing was thinned."""
    with pytest.raises(EarthSSLError, match="option every: expected a duration such as '6h' or '1D'"):
        Selection(every=every)


@pytest.mark.parametrize(
    ("every", "hours"),
    [("6h", 6), ("1D", 24), ("PT6H", 6), ("90min", 1.5), ("6 hours", 6), ("06:00:00", 6), ("1d12h", 36), ("P1D", 24)],
)
def test_durations_with_a_unit(every: str, hours: float) -> None:
    assert Selection(every=every).step() == np.timedelta64(int(hours * 3600), "s")


def test_a_unit_of_one_may_be_the_number() -> None:
    """As a refusal of values without units advises: units: {siconc: 1}."""
    assert Selection(units={"siconc": 1, "sst": "K"}).units == {"siconc": "1", "sst": "K"}  # type: ignore[dict-item]


@pytest.mark.parametrize("source", list(SOURCES))
def test_every_source_says_the_types_of_its_options(source: str) -> None:
    assert option_hints(source)


def test_words_of_options_stay_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--options.path 2024 is a file of that name, --out no a folder, --options.member 010 member 10."""
    words = ["--options.path", "2024", "--options.member", "010", "--out", "no", "--options.rename.x", "off"]
    found = override({"source": "files"}, words, PrepareConfig)
    assert found["options"] == {"path": "2024", "member": 10, "rename": {"x": "off"}}
    assert found["out"] == "no"
    blocks = {"train": "['1980', '1981']", "val": "['1983', '1984']", "test": "['1986', '1987']", "embargo_days": "30"}
    given = [word for name, value in blocks.items() for word in (f"--splits.{name}", value)]
    status = main(["prepare", "--source", "files", "--options.path", "2024", "--out", str(tmp_path / "run #3"), *given])
    assert status == 2
    assert "no such file: '2024'" in capsys.readouterr().err
