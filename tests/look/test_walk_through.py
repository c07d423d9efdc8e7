"""The walk-through of docs/look.md by real clicks and keys: from an unlabelled store to a detector with its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from earthssl.downstream.finetune.read_labels import read_labels

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "look_walk_through.py"
ROUNDS = 10


@pytest.mark.slow
def test_clicks_and_keys_lead_to_a_detector(small_store: Path, small_run: Path, browser: Any, tmp_path: Path) -> None:
    def summer(day: str) -> bool:
        return 4 <= int(day[5:7]) <= 9

    days = [f"{1981 + k // 12}-{k % 12 + 1:02d}-01" for k in range(360)]
    truth = tmp_path / "truth.csv"
    truth.write_text("time,summer\n" + "".join(f"{day},{int(summer(day))}\n" for day in days))
    words = [str(small_store), str(small_run), str(truth), "summer", str(tmp_path), "--rounds", str(ROUNDS)]
    said = subprocess.run([sys.executable, SCRIPT, *words], check=True, capture_output=True, text=True).stdout
    lines = [line.split(" s ")[-1].strip() for line in said.splitlines() if " s " in line]
    for words_of in ("until the first picture", "features of all", f"{8 * ROUNDS} dates by keys", "finetune", "in all"):
        assert sum(words_of in line for line in lines) == 1
    assert "Held-out balanced accuracy" in said
    labels = read_labels(str(tmp_path / "look" / "labels.csv"), ["label"], "classification")
    assert len(labels) == 8 * ROUNDS
    assert all((word == "yes") == summer(str(time)) for time, word in zip(labels.times, labels.values, strict=True))
    assert (tmp_path / "detector" / "table.txt").is_file()
    assert (tmp_path / "detector" / "checkpoint" / "encoder.safetensors").is_file()
