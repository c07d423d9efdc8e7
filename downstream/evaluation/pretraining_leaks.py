"""Whether anything that an encoder was trained on, now or before, comes too near to a store's test block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.splits import Splits, gap_days
from ...ssl.sources.columns.columns import dealt_otherwise
from ...ssl.sources.planet.recorded import recorded_seed
from ...ssl.sources.radar.radar import cut_otherwise
from ...ssl.store.store import Store


def seen_by_pretraining(
    trainings: Sequence[Mapping[str, Any]], store: Store, splits: Splits | None = None
) -> list[str]:
    """Return in words which blocks of earlier trainings reach into the store's test block, or nearer than its embargo.

    The synthetic planet and the Earth share no history, nor do planets of different seeds; two data sets of the Earth
    are taken to, and so are planets whose seeds are not known. Stores of columns and of radar crops have made-up dates:
    theirs are told apart by how sites and experiments were dealt out, and by which hours were cut.

    Args:
        trainings: As `Record.trainings` returns them.
        store: Whose test block must be unseen.
        splits: Other blocks of the same data, in place of the store's.

    Raises:
        EarthSSLError: If a training's blocks cannot be read.
    """
    wanted = store.splits if splits is None else splits
    start, end = wanted.test
    said = []
    for earlier in trainings:
        if not _one_world(earlier, store):
            continue
        sources = str(earlier["source"]), str(store.manifest["source"])
        if words := dealt_otherwise(*sources) or cut_otherwise(*sources):
            said.append(words)
            continue
        try:
            seen = Splits.from_json(earlier["splits"])
        except (KeyError, TypeError, ValueError) as error:
            raise EarthSSLError(
                f"the record's earlier trainings lack or mistype a block of time ({error}); fetch the checkpoint again"
            ) from None
        for name, (a, b) in seen.named().items():
            if name == "test":
                continue
            gap = gap_days((a, b), (start, end))
            if gap <= 0 or gap < wanted.embargo_days:
                what = "reaches into" if gap <= 0 else f"is nearer than the embargo ({gap:.0f} days) to"
                said.append(
                    f"the encoder's {name} block ({a!s:.10}…{b!s:.10}) {what} the store's test block "
                    f"({start!s:.10}…{end!s:.10})"
                )
    return list(dict.fromkeys(said))


def _one_world(earlier: Mapping[str, Any], store: Store) -> bool:
    if ("planet" in earlier["source"]) != ("planet" in store.manifest["source"]):
        return False
    seeds = earlier.get("planet_seed"), recorded_seed(store.manifest["attributes"])
    return None in seeds or seeds[0] == seeds[1]
