"""Options of the synthetic sources: checked where they are given, and read again where a store records them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ...common.errors import EarthSSLError, nearest
from ...fields.splits import FIRST_YEAR, LAST_YEAR, held

DYNAMICS = "dynamics"  # beside the options, tells which synthetic source they are of


def mistake(source: str, what: str, expected: str, got: object, hint: str = "") -> EarthSSLError:
    """Return the error of an option of a source that is not as expected."""
    return EarthSSLError(f"{source}: expected {what} to be {expected}, got {got!r}.{hint}")


def check_names(source: str, kind: type, options: Collection[str], more: Sequence[str] = ()) -> None:
    """Refuse options that are no fields of a source's config.

    Args:
        source: Its name.
        kind: The config's class.
        options: Names that were given.
        more: Names that the source takes beside the config's, for the message.

    Raises:
        EarthSSLError: That names the valid ones and the nearest.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            every = [*known, *more]
            raise mistake(source, "every option", f"one of {', '.join(every)}", name, nearest(name, every))


def check_whole(source: str, config: Any, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Refuse options of a config that are no whole numbers within a range, both ends included."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise mistake(source, name, f"a whole number within {least}…{most}", value)


def check_start(source: str, start: str, years: int) -> None:
    """Refuse a start that is no 1 January, and years from it on that times cannot have."""
    try:
        first = np.datetime64(start, "D")
    except ValueError as error:
        raise mistake(source, "start", "a date such as 1900-01-01", start) from error
    if first != first.astype("datetime64[Y]"):
        raise mistake(source, "start", "a 1 January", start)
    if not held(first, first.astype("datetime64[Y]") + years):
        got = f"{first} and {years} years"
        raise mistake(source, "start and years", f"a period within {FIRST_YEAR}…{LAST_YEAR}", got)


def recorded_options(attributes: Mapping[str, Any], dynamics: str, what: str, source: str) -> dict[str, Any]:
    """Return the options that a synthetic source recorded in the attributes of its data.

    Args:
        attributes: Of the data, as the manifest of a store holds them.
        dynamics: What the source calls itself there.
        what: The same in words.
        source: Its name in `prepare`.

    Raises:
        EarthSSLError: If the data were made from something else.
    """
    known = json.loads(attributes.get("planet", "{}"))
    if known.get(DYNAMICS) != dynamics:
        raise EarthSSLError(
            f"expected a store of {what}, got {attributes.get('source', 'other data')}; prepare one with source: "
            f"{source}"
        )
    return {name: value for name, value in known.items() if name != DYNAMICS}
