"""The precision that suits a machine and an encoder, and that a run keeps what it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.model.encoder import SIZES
from earthssl.ssl.training import precision
from earthssl.ssl.training.precision import FORCED, choose, resolve


@pytest.fixture(autouse=True)
def _unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` means here, whatever the suite runs in."""
    monkeypatch.delenv(FORCED, raising=False)


@pytest.mark.parametrize(
    ("amx", "dot", "expected"),
    [(True, True, "bf16-mixed"), (False, True, "bf16-mixed"), (True, False, "bf16-mixed"), (False, False, "32-true")],
)
def test_auto_follows_the_processor(amx: bool, dot: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where either kind of instruction multiplies it, and only for wide encoders; what is asked for stays."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dot)
    assert resolve("auto", "cpu") == resolve("auto") == resolve("auto", "cpu", 128) == expected
    assert resolve("auto", "cpu", 127) == "32-true"
    assert resolve("bf16-mixed", "cpu", 16) == "bf16-mixed"
    assert resolve("32-true", "cpu", 1024) == "32-true"
    with pytest.raises(EarthSSLError, match="expected a GPU for 16-mixed"):
        resolve("16-mixed", "auto")
    wide = {size for size, (width, _, _) in SIZES.items() if resolve("auto", "cpu", width) == "bf16-mixed"}
    assert wide == ({"micro", "tiny", "small", "base", "large"} if amx or dot else set())


def test_auto_follows_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on GPUs that multiply it natively, at any width."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        assert resolve("auto", "gpu") == resolve("auto") == resolve("auto", "gpu", 16) == expected
    assert resolve("auto", "cpu") == "32-true"
    assert resolve("16-mixed", "gpu") == "16-mixed"
    assert resolve("auto", "mps") == "32-true"


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any device and at any width; what the config asks for stays; another word is refused."""
    for word in ("32-true", "bf16-mixed"):
        monkeypatch.setenv(FORCED, word)
        assert resolve("auto", "cpu", 16) == resolve("auto", "cpu", 1024) == word
        assert resolve("32-true") == "32-true"
        assert choose("auto").why == "as EARTHSSL_AUTO_PRECISION asks"
    monkeypatch.setenv(FORCED, "fp32")
    with pytest.raises(EarthSSLError, match="EARTHSSL_AUTO_PRECISION: expected 32-true or bf16-mixed, got 'fp32'"):
        resolve("auto")


def test_a_run_keeps_its_precision(
    small_pretrain: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What auto meant is in the checkpoint's config; resumed where it would mean something else, it means the same."""
    monkeypatch.setenv(FORCED, "32-true")
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("earthssl.ssl.training.pretrain._export", lambda *_: out)
        small_pretrain(out, steps=4, val_every=4)
    monkeypatch.setenv(FORCED, "bf16-mixed")
    checkpoint = small_pretrain(out, steps=4, val_every=4, resume=True)
    assert json.loads((checkpoint / "record.json").read_text())["config"]["training"]["precision"] == "32-true"
