"""The starting checkpoints in registry/: whole, small, with cards that say what they are worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from earthssl.ssl.checkpoint.migration import FORMAT_VERSION
from earthssl.ssl.checkpoint.model_card import card
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.common.config import read_yaml
from earthssl.ssl.hub.registry_index import describe, index_text

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {"ersst-planets": "enso-planets", "ersst-sea-level": "enso-sea-level"}  # their first seeds
FOLDERS = sorted(file.parent for file in (ROOT / "registry").glob("*/record.json"))


def test_they_are_at_hand_and_small() -> None:
    assert "planet-tropics" in [folder.name for folder in FOLDERS]
    for folder in FOLDERS:
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000, folder.name


def test_the_index_says_what_the_folders_are() -> None:
    """Else: earthssl push registry/NAME registry/NAME."""
    entries = {folder.name: describe(folder) for folder in FOLDERS}
    assert (ROOT / "registry" / "index.json").read_text(encoding="utf-8") == index_text(entries)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_is_whole_and_its_card_in_line_with_its_record(folder: Path) -> None:
    """Scores beside PCA and the untrained twin, none lost to its twin; made by a config that is here."""
    assert verify(folder)["format_version"] == FORMAT_VERSION
    record = read_record(folder)
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert text == card(record)
    for table in record.extra["scores"]:
        names = " ".join(row["name"] for row in table["rows"])
        for word in ("pretrained", "untrained", "PCA"):
            assert word in names, word
        twin = [words for words in table["verdicts"] if words.startswith("pretrained") and "− untrained" in words]
        assert twin
        assert sum(words.endswith("worse") for words in twin) <= sum(words.endswith("better") for words in twin)
        assert table["command"].startswith("earthssl ")
    config = read_yaml(ROOT / "configs" / f"{CONFIGS.get(folder.name, f'registry-{folder.name}')}.yaml")
    training = config["pretrain"]["training"]
    assert record.steps <= training["steps"]
    assert record.steps == training["steps"] or training["schedule"] == "steady"  # which stops by itself
    assert config["pretrain"]["licence"] == record.licence
