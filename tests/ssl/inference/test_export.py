"""Export: ONNX, torch.export and TorchScript files that give what the encoder gives, or are not left."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference import compare_export, portable_calendar
from earthssl.ssl.inference import export as module
from earthssl.ssl.inference.compare_export import compare_dates, embedded
from earthssl.ssl.inference.export import SUFFIXES, TOLERANCE, export
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.inference.portable_calendar import Dates
from earthssl.ssl.inference.portable_encoder import example

REGISTRY = Path(__file__).resolve().parents[3] / "registry"
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


def in_memory(monkeypatch: pytest.MonkeyPatch, change: Callable[[module.Program], module.Program]) -> None:
    """Make kind torch keep the module instead of writing it, and read back what `change` makes of its features."""
    kept: list[torch.nn.Module] = []

    def write(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
        path.write_bytes(b"0")
        kept.append(model)

    def read(path: Path) -> module.Program:
        program = module._numpy(kept[-1])
        return program if isinstance(kept[-1], Dates) else change(program)

    monkeypatch.setitem(module.WRITERS, "torch", write)
    monkeypatch.setitem(module.READERS, "torch", read)


def test_a_file_that_differs_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that are a little off after loading are caught by the comparison."""
    in_memory(monkeypatch, lambda program: lambda *inputs: program(*inputs) * 1.01)
    with pytest.raises(EarthSSLError, match="features within 1e-04 of the encoder's, got a difference of"):
        export(SMALL, tmp_path / "e.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_nan_in_any_of_the_inputs_compared_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that works for several windows and not for one is no export."""
    in_memory(monkeypatch, lambda right: lambda *inputs: right(*inputs) * (np.nan if len(inputs[0]) == 1 else 1))
    with pytest.raises(EarthSSLError, match="got a difference of nan"):
        export(SMALL, tmp_path / "e.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gap", range(len(compare_export.GAPS)))
def test_a_fault_that_one_kind_of_gap_alone_shows_is_seen(
    gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind is among the windows: a program that is wrong for it alone is refused."""

    def kind(window: torch.Tensor) -> str:
        gone = torch.isnan(window)
        if gone.all():
            return "everything"
        if not gone.any():
            return "nothing"
        if gone.flatten(2).all(2).all(0).any():
            return "a variable"
        if gone.flatten(1).all(1).any():
            return "a step"
        if (~gone).sum((2, 3)).max() == 1:
            return "all but a cell"
        return "a region" if (gone == gone[0, 0]).all() else "some cells"

    def wrong(right: module.Program) -> module.Program:
        def run(fields: torch.Tensor, seconds: torch.Tensor) -> np.ndarray:
            found = right(fields, seconds)
            for k in range(len(fields)):
                found[k] += 0.01 * (kind(fields[k]) == compare_export.GAPS[gap])
            return found

        return run

    in_memory(monkeypatch, wrong)
    with pytest.raises(EarthSSLError, match=r"got a difference of 1\.0e-02"):
        export(SMALL, tmp_path / "e.pt2", "torch")


def in_single_precision(x: torch.Tensor, by: int) -> torch.Tensor:
    """What exporters make of a division of whole numbers that rounds down."""
    return torch.floor(x.float() / by).long()


def test_dates_divided_in_single_precision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Midnights on the first fell into the month before at some dates only: all are compared."""
    monkeypatch.setattr(portable_calendar, "whole", in_single_precision)
    in_memory(monkeypatch, lambda program: program)
    said = r"expected the day of the year .* at 18\d\d-\d\d-\d\dT.* of \d+ dates differ"
    with pytest.raises(EarthSSLError, match=said):
        export(SMALL, tmp_path / "e.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_the_writer_of_onnx_is_not_trusted_with_floor_division(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault as it was: right in torch, wrong in the file."""
    monkeypatch.setattr(portable_calendar, "whole", lambda x, by: torch.div(x, by, rounding_mode="floor"))
    model = Dates(load_encoder(SMALL).record)
    assert compare_dates(module._numpy(model), load_encoder(SMALL).record) > 3_800_000
    with pytest.raises(EarthSSLError, match=r"of \d+ dates differ\); the file was not kept: try another kind"):
        export(SMALL, tmp_path / "e.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_second_is_seen() -> None:
    """The comparison misses no date: the last second before 2100, a year without a leap day, is wrong."""
    record = load_encoder(SMALL).record
    program, second = module._numpy(Dates(record)), np.datetime64("2099-12-31T23:59:59").astype(np.int64)

    def wrong(seconds: torch.Tensor) -> np.ndarray:
        found = program(seconds)
        found[..., 1] += seconds.numpy() == second
        return found

    with pytest.raises(EarthSSLError, match=r"day of the year 364 at 2099-12-31T23:59:59, got 365 \(1 of"):
        compare_dates(wrong, record)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("name", ["ersst", "planet-tropics", "weather"])
def test_the_starting_checkpoints_export_to_every_kind(name: str, kind: str, tmp_path: Path) -> None:
    """At all dates, and their features at a hundred windows and the golden ones."""
    done = export(REGISTRY / name, tmp_path / f"e{SUFFIXES[kind]}", kind)
    assert done.difference <= 5e-6
    assert done.dates > 3_800_000
    assert done.inputs >= 104
    compared = json.loads((tmp_path / f"e{SUFFIXES[kind]}.json").read_text())["compared"]
    assert compared["dates"] == done.dates


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
