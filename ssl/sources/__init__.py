"""Sources: whatever the data are and wherever they lie, one canonical dataset comes out."""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..common.errors import EarthSSLError, check_known, nearest

if TYPE_CHECKING:
    import xarray as xr

# name -> (module, function); imported when used, so that one source does not need another's packages
SOURCES = {
    "planet": ("planet.planet", "open_planet"),
    "weather": ("weather.weather", "open_weather"),
    "controls": ("controls.controls", "open_controls"),
    "lorenz96": ("lorenz96", "open_lorenz96"),
    "columns": ("columns.columns", "open_columns"),
    "radar": ("radar.radar", "open_radar"),
    "files": ("local_files", "open_files"),
    "combined": ("combined", "open_combined"),
    "ersst": ("ersst", "open_ersst"),
    "weatherbench2": ("weatherbench2", "open_weatherbench2"),
    "arco-era5": ("arco_era5", "open_arco_era5"),
}
CHECKS_ITSELF = (
    "planet",
    "weather",
    "controls",
    "lorenz96",
    "columns",
    "radar",
)  # their options are their own, not those of `Selection`


def open_source(source: str, **options: Any) -> xr.Dataset:
    """Return a source as one canonical dataset, lazily where it is large.

    Dimensions are (time, lat, lon): time in UTC, sorted, unique; latitude descending; longitude ascending in
    [0, 360). Variables are float32, named and in the units of `earthssl.ssl.fields.variables`; missing is NaN.
    Attributes say source, licence and citation.

    Args:
        source: planet, weather, controls or lorenz96 (synthetic, no network), columns, radar, files,
            combined, ersst, weatherbench2 or arco-era5.
        **options: What the source takes: see its opener and `Selection`.

    Raises:
        EarthSSLError: If the source or an option is unknown or missing; names the nearest valid one.
    """
    if source not in SOURCES:
        if not isinstance(source, str):
            raise EarthSSLError(f"source: expected the name of one, got {source}; write --source=NAME, with =")
        raise EarthSSLError(f"unknown source '{source}'.{nearest(source, SOURCES)} There are: {', '.join(SOURCES)}")
    module, function = SOURCES[source]
    opener = getattr(importlib.import_module(f".{module}", __name__), function)
    if source not in CHECKS_ITSELF:
        _check_options(source, opener, options)
    try:
        if source == "combined":
            options["parts"] = _opened(options.pop("parts"), **options)
            return opener(options["parts"], options.get("times", "common"))
        return opener(**options)
    except TypeError as error:
        raise EarthSSLError(
            f"source {source}: an option is of the wrong type ({error}); see its documentation"
        ) from None


def _opened(parts: Any, times: str = "common", **shared: Any) -> list[xr.Dataset]:
    """Return each part of the source `combined` as a dataset; what is not its own is what all share."""
    from .combined import COMBINES, check_parts

    check_parts(parts, times)
    opened = []
    for k, part in enumerate(parts):
        where, own = f"option parts, part {k + 1}", {**shared, **part}
        name = own.pop("source", "files")
        check_known(f"{where}: source", [str(name)], COMBINES)
        try:
            opened.append(open_source(name, **own))
        except EarthSSLError as error:
            raise EarthSSLError(f"{where}: {error}") from None
    return opened


def option_hints(source: str) -> dict[str, Any]:
    """Return the type of every option of a source, by name; none where there is no such source."""
    if source not in SOURCES:
        return {}
    import pathlib

    from .selection import Selection

    module, function = SOURCES[source]
    opener = getattr(importlib.import_module(f".{module}", __name__), function)
    hints = {**typing.get_type_hints(Selection), **typing.get_type_hints(opener)}
    hints.pop("return", None)
    # a path is typed as text
    return {name: str | list[str] if pathlib.Path in typing.get_args(hint) else hint for name, hint in hints.items()}


def _check_options(source: str, opener: Any, options: dict[str, Any]) -> None:
    parameters = inspect.signature(opener).parameters.values()
    valid = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(valid) < len(parameters):
        from .selection import Selection

        valid += [field.name for field in fields(Selection)]
    for name in options:
        if name not in valid:
            raise EarthSSLError(
                f"source '{source}' has no option '{name}'.{nearest(name, valid)} Options: {', '.join(valid)}"
            )
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and parameter.name not in options:
            raise EarthSSLError(f"source '{source}' needs the option '{parameter.name}'")
