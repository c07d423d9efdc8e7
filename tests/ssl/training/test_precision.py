"""The precision that suits a machine, and that a run keeps what it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.training import precision
from earthssl.ssl.training.precision import resolve


def test_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where it is multiplied natively, single precision elsewhere; what is asked for stays."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for amx, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert resolve("auto", "cpu") == resolve("auto") == expected
        assert resolve("bf16-mixed", "cpu") == "bf16-mixed"
    with pytest.raises(EarthSSLError, match="expected a GPU for 16-mixed"):
        resolve("16-mixed", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        assert resolve("auto", "gpu") == resolve("auto") == expected
    assert resolve("auto", "cpu") == "32-true"
    assert resolve("16-mixed", "gpu") == "16-mixed"
    assert resolve("auto", "mps") == "32-true"


def test_a_run_keeps_its_precision(
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What auto meant is in the checkpoint's config; resumed where it would mean something else, it means the same."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    out = tmp_path / "run"
    monkeypatch.setattr("earthssl.ssl.training.pretrain._export", lambda *_: out)
    small_pretrain(out, steps=4, val_every=4)
    monkeypatch.undo()
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    checkpoint = small_pretrain(out, steps=4, val_every=4, resume=True)
    assert json.loads((checkpoint / "record.json").read_text())["config"]["training"]["precision"] == "32-true"
