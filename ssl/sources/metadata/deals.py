"""What stores with made-up dates say of how their data were dealt out to blocks: columns, radar crops."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...common.errors import EarthSSLError

DEAL = re.compile(r"\(deal ([0-9a-f]{12})\)")  # in what a store says of its source
UNKNOWN = "unknown"


def recorded(attributes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what a source wrote of the deal.

    Args:
        attributes: Of the data, as the manifest of a store holds them.
        source: Name of the source, and of the attribute.

    Raises:
        EarthSSLError: If they were made from something else.
    """
    known = json.loads(attributes.get(source, "null"))
    if known is None:
        raise EarthSSLError(
            f"expected a store of the source {source}, got {attributes.get('source', 'other data')}; prepare one with "
            f"source: {source}"
        )
    return dict(known)


def deals(called: str, earlier: str, source: str) -> tuple[str, str, bool] | None:
    """Return the digests of two deals and whether they are known to be one; None unless both are of these data.

    Args:
        called: What a store of these data says that it holds.
        earlier, source: What the store of a training, and the store with the test block, say of their source.
    """
    if called not in earlier or called not in source:
        return None
    one, other = (found[1] if (found := DEAL.search(words)) else UNKNOWN for words in (earlier, source))
    return one, other, one == other != UNKNOWN
