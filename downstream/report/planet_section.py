"""The report's look at the world behind a store of the weather planet."""

from __future__ import annotations

import base64

from ...ssl.sources.weather.recorded import of_weather, recorded_weather
from ...ssl.store.store import Store
from ..results.page import Section
from ..results.summary import png
from .weather_figure import weather_panel

WORDS = (
    "A day of the planet that the data are from: heights of 500 hPa (lines, decametres) and the jet at 200 hPa "
    "(colours) from above the pole and on the map; zonal mean winds by season; heights along 40 to 60°N through 90 "
    "days; how often each longitude is blocked; kinetic energy by total wavenumber."
)
EVERY = 20  # days between the samples of its statistics


def planet_section(store: Store) -> list[Section]:
    """Return the panel of the weather planet; nothing for a store of other data."""
    attributes = store.manifest.get("attributes", {})
    if not of_weather(attributes):
        return []
    drawn = weather_panel(recorded_weather(attributes), every=EVERY)
    picture = (WORDS, base64.b64encode(png(drawn)).decode(), drawn.maps)
    return [Section("planet", "The planet", [picture], "report/sections.html")]
