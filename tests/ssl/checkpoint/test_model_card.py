"""The model card: made from the record alone, a valid Hugging Face card, and safe to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from earthssl.ssl.checkpoint.model_card import card, headline
from earthssl.ssl.checkpoint.read import read_record
from earthssl.ssl.checkpoint.record import Record
from earthssl.ssl.model.health import Health

FOLDER = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"
ROWS = [
    {"name": "pretrained [mean]", "target": "lead 3", "value": 0.7, "low": 0.6, "high": 0.8},
    {"name": "pretrained [pcs]", "target": "lead 3", "value": 0.8, "low": None, "high": None},
    {"name": "PCA", "target": "lead 3", "value": 0.81},
    {"name": "best reachable", "kind": "known", "target": "lead 3", "value": 0.99},
    {"name": "PCA", "target": "lead 6", "value": 0.5},
    {"name": "pretrained [mean]", "target": "lead 6", "value": 0.4},
]
TABLE = {"task": "enso", "metric": "skill (r)", "better": "higher", "test": "1980–2000", "synthetic": True,
         "rows": ROWS, "verdicts": ["pretrained [mean] − PCA: worse"], "convention": "As usual.",
         "command": "x"}  # fmt: skip


@pytest.fixture(scope="module")
def record() -> Record:
    return read_record(FOLDER)


def header(text: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes."""
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_the_card_says_what_the_record_holds(record: Record) -> None:
    text = card(record)
    for words in ("planet (synthetic)", "CC0-1.0 (synthetic)", record.fingerprint, "| sst | K |", "masking, weight",
                  "40 steps, batches of 16 windows, learning rate 0.001, seed 0", "1900-01-01 | 1919-12-31",
                  "8×9", "earthssl verify", "no statement about the Earth", "None attached", "@software{"):  # fmt: skip
        assert words in text, words
    assert "Fine-tuned" not in text
    assert card(record) == text


def test_the_header_is_that_of_a_hugging_face_card(record: Record) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(card(record)).data.to_dict()
    assert found["license"] == "cc0-1.0"
    assert found["library_name"] == "earthssl"
    assert {"masking", "synthetic", "safetensors"} <= set(found["tags"])
    other = header(card(replace(record, licence="NOAA PSL: no usage restrictions")))
    assert (other["license"], other["license_name"]) == ("other", "NOAA PSL: no usage restrictions")


def test_a_collapsed_encoder_is_called_so(record: Record) -> None:
    assert "Not collapsed" in card(record)
    collapsed = Health(0.001, 1.1, 0.9999, 0.95, 0.0, 0.1)
    text = card(replace(record, health=collapsed.to_json()))
    assert "Not collapsed" not in text
    assert "the encoder has collapsed" in text
    assert "Not measured" in card(replace(record, health={}))


def test_scores_stand_beside_what_they_must_beat(record: Record) -> None:
    text = card(record, [TABLE])
    assert "| row | lead 3 | lead 6 |" in text
    assert "| pretrained [mean] | 0.7 [0.6, 0.8] | 0.4 |" in text
    assert "| pretrained [pcs] | 0.8 | – |" in text
    assert "- pretrained [mean] − PCA: worse" in text
    assert headline(TABLE) == "enso: pretrained [mean] 0.4, PCA 0.5 (skill (r), lead 6)"
    lower = {**TABLE, "better": "lower", "rows": ROWS[:3]}
    assert headline(lower).startswith("enso: pretrained [mean] 0.7, PCA 0.81")  # the first, not the best on test
    chosen = {"name": "pretrained [chosen]", "target": "lead 6", "value": 0.3}
    assert headline({**TABLE, "rows": [*ROWS, chosen]}).startswith("enso: pretrained [chosen] 0.3, PCA 0.5")


def test_a_fine_tuned_card_names_targets_and_parent(record: Record) -> None:
    task = {"kind": "classification", "targets": [{"name": "state", "units": "1"}], "classes": ["a", "b"],
            "mode": "lora", "parent": {"name": "planet-tropics", "sha256": "0" * 64}}  # fmt: skip
    text = card(replace(record, task=task))
    for words in ("# Fine-tuned", "- classification: state (1)", "- mode: lora", "from planet-tropics, encoder `000"):
        assert words in text, words


def test_texts_of_a_record_cannot_break_out_of_the_card(record: Record) -> None:
    """A line break makes no heading or header, a bar no column, a bracket no tag or image."""
    bad = "x\n---\nlicense: mit\n# Heading <script>alert(1)</script> | ![i](http://x)"
    text = card(replace(record, licence=bad, source=bad, units=(bad, "K")))
    assert header(text)["license"] == "other"
    assert "\n# Heading" not in text
    assert "<script>" not in text
    assert "![" not in text
    row = next(line for line in text.splitlines() if line.startswith("| sst |"))
    assert row.replace("\\|", "").count("|") == 3
    odd = {"objectives": {bad: {"weight": bad}}, "training": {"batch_size": bad, "lr": bad}}
    text = card(replace(record, config=odd, task={"kind": "regression", "targets": [1, bad]}))
    assert "\n# Heading" not in text
    assert "<script>" not in text
    for junk in (5, [1], "x", None):
        assert "## Training" in card(replace(record, config={"objectives": junk, "training": junk}))
