"""Export: ONNX, torch.export and TorchScript files that give what the encoder gives, or are not left."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference import export as module
from earthssl.ssl.inference.export import SUFFIXES, TOLERANCE, embedded, export
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.portable_encoder import PortableEncoder, example

SMALL = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"


@pytest.mark.slow
def test_a_program_of_torch_export_is_compared_and_described(tmp_path: Path) -> None:
    """Loaded by torch alone it gives what embed gives, for any number of windows; the golden input is compared too."""
    done = export(SMALL, tmp_path / "e.pt2", "torch")
    assert done.difference <= TOLERANCE
    assert done.inputs > 6  # three and one and two at random, and the golden ones
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.pt2", "e.pt2.json"]
    frozen = load_encoder(SMALL)
    program = torch.export.load(done.path).module()
    fields, seconds = example(frozen, 7, seed=9)
    with torch.no_grad():
        found = program(fields, seconds).numpy()
    np.testing.assert_allclose(found, embedded(frozen, fields, seconds, "mean", -1), atol=TOLERANCE)
    said = json.loads((tmp_path / "e.pt2.json").read_text())
    assert said["variables"] == list(frozen.record.variables)
    assert said["inputs"]["fields"]["shape"] == ["any", 3, 2, *frozen.record.grid.shape]
    assert said["output"]["features"]["shape"] == ["any", frozen.encoder.width]
    with pytest.raises(EarthSSLError, match="exists already"):
        export(SMALL, tmp_path / "e.pt2", "torch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_the_other_kinds_and_the_verb(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Read by onnxruntime and by torch.jit."""
    out = tmp_path / f"e{SUFFIXES[kind]}"
    words = ["export", str(SMALL), "--kind", kind, "--out", str(out), "--pooling", "tokens", "--layer=0"]
    assert main(words) == 0
    assert "differs from the encoder by" in capsys.readouterr().out
    frozen = load_encoder(SMALL)
    fields, seconds = example(frozen, 7, seed=9)
    program = module.READERS[kind](out)
    months = seconds.numpy().astype("datetime64[s]").astype("datetime64[M]")
    for years in (0, 31, 60, 99, 140, -150):  # midnights beyond 2^31 s, which float32 does not hold, and before 1970
        times = torch.from_numpy((months + 12 * years).astype("datetime64[s]").astype(np.int64))
        expected = embedded(frozen, fields, times, "tokens", 0)
        np.testing.assert_allclose(program(fields, times), expected, atol=TOLERANCE, err_msg=f"{years} years later")


def test_a_file_that_differs_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is a little off after loading is caught by the comparison."""

    def wrong(path: Path) -> module.Program:
        model = PortableEncoder(load_encoder(SMALL))
        model.weights *= 1.01
        return module._numpy(model)

    monkeypatch.setitem(module.READERS, "torch", wrong)
    monkeypatch.setitem(module.WRITERS, "torch", lambda model, inputs, path: path.write_bytes(b"0"))
    with pytest.raises(EarthSSLError, match="features within 1e-04 of the encoder's, got a difference of"):
        export(SMALL, tmp_path / "e.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_nan_in_any_of_the_inputs_compared_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that works for several windows and not for one is no export."""

    def wrong(path: Path) -> module.Program:
        right = module._numpy(PortableEncoder(load_encoder(SMALL)))
        return lambda fields, seconds: right(fields, seconds) * (np.nan if len(fields) == 1 else 1)

    monkeypatch.setitem(module.READERS, "torch", wrong)
    monkeypatch.setitem(module.WRITERS, "torch", lambda model, inputs, path: path.write_bytes(b"0"))
    with pytest.raises(EarthSSLError, match="got a difference of nan"):
        export(SMALL, tmp_path / "e.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind, suffix, folder, packages."""
    with pytest.raises(
        EarthSSLError, match=r"kind: expected onnx, torch, torchscript, got 'onx'\. Did you mean 'onnx'"
    ):
        export(SMALL, tmp_path / "e.onnx", "onx")
    with pytest.raises(EarthSSLError, match=r"ends in \.pt2 for kind torch"):
        export(SMALL, tmp_path / "e.onnx", "torch")
    with pytest.raises(EarthSSLError, match="does not exist; make it"):
        export(SMALL, tmp_path / "no" / "e.pt2", "torch")
    (tmp_path / "e.pt2.json").write_text("{}")
    with pytest.raises(EarthSSLError, match=r"e\.pt2\.json exists already"):
        export(SMALL, tmp_path / "e.pt2", "torch")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(
        EarthSSLError, match=r"ONNX needs the packages onnx, onnxscript, .*pip install earthssl\[onnx\]"
    ):
        export(SMALL, tmp_path / "e.onnx")
