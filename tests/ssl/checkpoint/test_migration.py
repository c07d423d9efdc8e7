"""Older format versions: a version-1 folder kept here still reads, verifies and embeds; junk is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.ssl.checkpoint.migration import FORMAT_VERSION, STEPS, migrate
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.checkpoint.write import upgrade
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.sources import open_source

FOLDER = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


def test_a_folder_of_version_1_reads_verifies_and_embeds() -> None:
    """Written by the first release; no file of it changes."""
    before = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    report = verify(FOLDER)
    assert report["format_version"] == 1
    _, record = read(FOLDER)
    assert record.task is None
    assert record.encoder.token_start == "encodings"
    assert record.to_json()["format_version"] == FORMAT_VERSION
    data = open_source("planet", years=2, variables=["sst", "u10"], region=[-21, 21, 180, 230], seed=4)
    features = load_encoder(FOLDER).embed(data)
    assert features.shape == (22, 16)
    assert np.isfinite(features).all()
    assert {file.name: file.read_bytes() for file in FOLDER.iterdir()} == before


def test_an_old_folder_is_written_anew(tmp_path: Path) -> None:
    """In the present version, weights bit for bit, the old one as it was."""
    new = upgrade(FOLDER, tmp_path / "new")
    assert verify(FOLDER)["format_version"] == 1
    report = verify(new)
    assert report["format_version"] == FORMAT_VERSION
    assert report["golden_difference"] <= report["tolerance"]
    assert (new / "card.md").read_text().startswith("---\nlibrary_name: earthssl\n")
    for name in ("encoder", "heads", "statistics", "golden"):
        assert (new / f"{name}.safetensors").read_bytes() == (FOLDER / f"{name}.safetensors").read_bytes()


def test_the_chain_is_whole_and_pure() -> None:
    """Every version below the present one has its step; none changes its argument."""
    assert sorted(STEPS) == list(range(1, FORMAT_VERSION))
    record = json.loads((FOLDER / "record.json").read_text())
    before = copy.deepcopy(record)
    after = migrate(record, "x")
    assert record == before
    assert after == {**before, "format_version": FORMAT_VERSION, "task": None}
    assert migrate(after, "x") == after


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([], "expected the record as a mapping, got list"),
        ("1", "expected the record as a mapping, got str"),
        ({}, "expected format 'earthssl checkpoint', got None"),
        ({"format": "x" * 999}, "got 'xxx.*…; it is no checkpoint"),
        ({"format": "earthssl checkpoint"}, "format_version as a whole number from 1 to 2, got None"),
        ({"format": "earthssl checkpoint", "format_version": "2"}, "got '2'"),
        ({"format": "earthssl checkpoint", "format_version": True}, "got True"),
        ({"format": "earthssl checkpoint", "format_version": 2.0}, r"got 2\.0"),
        ({"format": "earthssl checkpoint", "format_version": 0}, "got 0"),
        ({"format": "earthssl checkpoint", "format_version": 3}, "got version 3, which is newer.*; upgrade earthssl"),
    ],
)
def test_junk_is_refused(record: Any, words: str) -> None:
    """Neither guessed nor half migrated."""
    with pytest.raises(EarthSSLError, match=words):
        migrate(record, "record.json")
