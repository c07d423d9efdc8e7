"""The Fortran example: built with gfortran against the onnxruntime that pip brings, run, and compared with embed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from earthssl.ssl.inference.compare_export import embedded
from earthssl.ssl.inference.export import TOLERANCE, export
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.portable_encoder import example

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "fortran"
SMALL = ROOT / "tests" / "data" / "checkpoint-v1"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The example, built as its README says."""
    if any(shutil.which(tool) is None for tool in ("gfortran", "make")) or not importlib.util.find_spec("onnxruntime"):
        pytest.skip("needs gfortran, make and onnxruntime")
    command = ["make", "-C", str(EXAMPLE), f"BUILD={tmp_path}", f"PYTHON={sys.executable}"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return tmp_path / "embed"


@pytest.mark.slow
def test_a_fortran_program_embeds(program: Path, tmp_path: Path) -> None:
    """The features of raw fields with gaps are those of embed; what is wrong is said by the library."""
    frozen = load_encoder(SMALL)
    export(frozen, tmp_path / "e.onnx")
    fields, seconds = example(frozen, 4, seed=5)
    sizes = [*fields.shape[::-1], frozen.encoder.width]
    with open(tmp_path / "in.bin", "wb") as out:
        for values in (np.array(sizes, np.int32), seconds.numpy(), fields.numpy()):
            out.write(values.tobytes())
    words = [str(program), str(tmp_path / "e.onnx"), str(tmp_path / "in.bin"), str(tmp_path / "out.bin")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"embedded 4 windows into {frozen.encoder.width} features each" in ran.stdout
    found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(4, -1)
    np.testing.assert_allclose(found, embedded(frozen, fields, seconds, "mean", -1), atol=TOLERANCE)
    words[1] = str(tmp_path / "absent.onnx")
    failed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "absent.onnx" in failed.stderr
