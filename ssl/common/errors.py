"""The one exception that means "the user can mend this", and how its line is put together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class EarthSSLError(Exception):
    """A user's mistake: one line that says what was expected, what came, where, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the valid name closest to `name`, or "" where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def check_known(where: str, names: Sequence[str], valid: Sequence[str]) -> None:
    """Raise unless there are names, each of them a valid one."""
    for name in names:
        if name not in valid:
            raise EarthSSLError(f"{where}: expected one of {', '.join(valid)}, got '{name}'.{nearest(name, valid)}")
    if not names:
        raise EarthSSLError(f"{where}: expected some of {', '.join(valid)}, got none")
