"""The panel of the weather planet is drawn, says what it is, and shows the planet's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.downstream.report.weather_figure import weather_panel
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources.weather import history as history_module
from earthssl.ssl.sources.weather.weather import Weather, WeatherConfig


def test_the_panel_has_its_six_parts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(history_module, "SPIN_UP", 2)
    monkeypatch.setattr(history_module, "BLOCK", 100)
    planet = Weather(WeatherConfig(years=1, members=1, cache=str(tmp_path)))
    planet.time = planet.time[:200]  # December to February and June: both curves of the winds
    drawn = weather_panel(planet, "1900-01-15", every=20)
    titles = [axes.get_title() for axes in drawn.axes if axes.get_title()]
    assert len(titles) == 6
    assert titles[1].startswith("1900-01-15")
    assert "synthetic" in drawn.get_suptitle()
    drawn.savefig(tmp_path / "panel.png")
    assert (tmp_path / "panel.png").stat().st_size > 20_000
    with pytest.raises(EarthSSLError, match="steps within"):
        weather_panel(planet, "1950-01-01")
