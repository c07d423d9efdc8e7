"""Every config in configs/ is read as its verbs would read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.pretext import TASKS
from earthssl.ssl.config import build, section
from earthssl.ssl.pretrain import parse_objectives
from earthssl.workflow import VERBS

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))
LINKS = {
    "prepare": {"out": "x"},
    "pretrain": {"store": "x", "out": "x"},
    "probe": {"store": "x", "out": "x", "checkpoints": ["x"]},
    "report": {"store": "x", "probe": "x"},
}


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_section_is_valid_and_the_gaps_hold_window_and_lead(file: Path) -> None:
    built = {}
    for verb, kind in VERBS.items():
        settings = section(file, verb)
        settings.pop("seeds", None)
        built[verb] = build(kind, {**settings, **LINKS[verb]}, verb)
    parse_objectives(built["pretrain"].objectives, TASKS)
    splits = built["prepare"].splits.build()
    months = max(built["pretrain"].encoder.window, built["probe"].pca_window) + max(built["probe"].leads) + 1
    for earlier, later in ((splits.train, splits.val), (splits.val, splits.test)):
        gap = (later[0].astype("datetime64[M]") - earlier[1].astype("datetime64[M]")).astype(int) - 1
        assert gap >= months
    assert splits.embargo_days >= 30 * months
