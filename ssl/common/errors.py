"""The one exception that means "the user can mend this", and how its line is put together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EarthSSLError(Exception):
    """A user's mistake: one line that says what was expected, what came, where, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the valid name closest to `name`, or "" where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
