"""From the record of an older format version to the present one: a chain of pure functions, one a version.

A folder is never changed on reading; its record is brought up to date in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..common.errors import EarthSSLError
from .untrusted_input import short

FORMAT = "earthssl checkpoint"
FORMAT_VERSION = 2


def record_v1_to_v2(record: dict[str, Any]) -> dict[str, Any]:
    """Return a version-2 record: version 1 knew pretrained encoders only, so there is no task."""
    return {**record, "format_version": 2, "task": None}


STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: record_v1_to_v2}


def version_of(record: Any, where: object) -> int:
    """Return the format version that a parsed record.json names.

    Raises:
        EarthSSLError: If it is no record of this format, or of a version that this release does not know.
    """
    if not isinstance(record, dict):
        raise EarthSSLError(f"{where}: expected the record as a mapping, got {type(record).__name__}; fetch it again")
    if record.get("format") != FORMAT:
        raise EarthSSLError(
            f"{where}: expected format '{FORMAT}', got {short(record.get('format'))}; it is no checkpoint of earthssl"
        )
    version = record.get("format_version")
    if type(version) is not int or version < 1:  # True is an int, too
        raise EarthSSLError(
            f"{where}: expected format_version as a whole number from 1 to {FORMAT_VERSION}, got {short(version)}; "
            "fetch it again"
        )
    if version > FORMAT_VERSION:
        raise EarthSSLError(
            f"{where}: expected format version 1 to {FORMAT_VERSION}, got version {version}, which is newer than this "
            "release of earthssl; upgrade earthssl"
        )
    return version


def migrate(record: Any, where: object) -> dict[str, Any]:
    """Return the record as one of the present version; the argument is left as it was.

    Raises:
        EarthSSLError: See `version_of`.
    """
    for version in range(version_of(record, where), FORMAT_VERSION):
        record = STEPS[version](record)
    return dict(record)
