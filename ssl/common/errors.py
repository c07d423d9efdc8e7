"""The one exception that means "the user can mend this", and how its line is put together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence


class EarthSSLError(Exception):
    """A user's mistake: one line that says what was expected, what came, where, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def in_a_line(error: BaseException, most: int | None = 160) -> str:
    """Return a library's words in one line, cut after `most` signs; the name of the error's kind if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


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


def check_settings(
    where: str, settings: object, rules: Mapping[str, str | Sequence[str]], empty: Collection[str] = ()
) -> None:
    """Raise unless every setting, and every entry of one that is a list, is as its rule says; null always is.

    Args:
        where: Section of the config, for the message.
        settings: Holds them as attributes.
        rules: By the names of settings with blanks between them: what words are valid, or which numbers, such as
            "≥ 1", "> 0" or "(0, 1]".
        empty: Lists of numbers that may be empty.

    Raises:
        EarthSSLError: If one is not.
    """
    for names, rule in rules.items():
        for name in names.split():
            value = getattr(settings, name)
            if value is None:
                continue
            every = value if isinstance(value, (list, tuple)) else [value]
            if not isinstance(rule, str):
                check_known(f"{where}.{name}", every, rule)
            elif not all(_follows(one, rule) for one in every) or not (every or name in empty):
                some = "" if every else ", at least one"
                sign = "" if rule[0] in "≥>" else "in "
                raise EarthSSLError(f"{where}.{name}: expected {name} {sign}{rule}{some}, got {value}")


def _follows(value: float, rule: str) -> bool:
    if rule[0] in "≥>":
        return value >= float(rule[2:]) if rule[0] == "≥" else value > float(rule[2:])
    low, high = map(float, rule[1:-1].split(", "))
    return (low <= value if rule[0] == "[" else low < value) and (value <= high if rule[-1] == "]" else value < high)
