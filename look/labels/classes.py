"""Names of classes: words that stay words in tables and in spreadsheets."""

from __future__ import annotations

import unicodedata

from ...downstream.evaluation.label_tables import NO_VALUE
from ...ssl.common.errors import EarthSSLError

LONGEST = 40


def composed(word: str) -> str:
    """Return a word in Unicode's composed form, which NetCDF gives every name: two spellings are one name there."""
    return unicodedata.normalize("NFC", word)


def check_class(word: str) -> str:
    """Return the name of a class, stripped and `composed`.

    Raises:
        EarthSSLError: If `finetune` or a spreadsheet would read something else in it.
    """
    name = composed(word.strip())
    try:
        float(name)
        number = True
    except ValueError:
        number = False
    if not name or len(name) > LONGEST or not name.isprintable():
        raise EarthSSLError(f"class: expected a word of 1 to {LONGEST} signs, got '{name[: LONGEST + 1]}'")
    if number or name.lower() in NO_VALUE or name[0] in "=+-@'\"":
        raise EarthSSLError(f"class: expected a word such as blocked, got '{name}', which is read as something else")
    return name
