"""The checkpoint folder: what was saved is what is read, and nothing else is."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from earthssl.cli.main import main
from earthssl.pretext import TASKS
from earthssl.ssl.checkpoint import manifest as folder_module
from earthssl.ssl.checkpoint import write as module
from earthssl.ssl.checkpoint.manifest import FILES, files_of, manifest_of
from earthssl.ssl.checkpoint.read import load_exactly, read, read_heads, read_task
from earthssl.ssl.checkpoint.record import differences
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.checkpoint.write import attach_scores, halve, save
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.common.files import exchange
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.inference.load import load_encoder
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.pretrain import load_objectives
from safetensors.torch import load_file, save_file
from torch import nn


@pytest.fixture
def folder(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(small_run / "checkpoint", tmp_path / "checkpoint"))


def sign(folder: Path) -> None:
    """Write the manifest anew, as a forger would, so that only what is behind the hashes can object."""
    names = [name for name in files_of(True) if (folder / name).exists()]
    (folder / "manifest.json").write_text(json.dumps(manifest_of(folder, names)))


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a safetensors file's tensors, or a JSON file's content, and sign."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
    sign(file.parent)


def test_what_is_read_is_what_was_saved(small_run: Path, small_store: Path, small_windows: Any, tmp_path: Path) -> None:
    """Weights bit for bit, through two rounds; every field of the record; statistics; the output."""
    encoder, record = read(small_run / "checkpoint")
    store = Store(small_store)
    assert record.variables == store.variables
    assert record.units == ("K", "m s-1", "m s-1")
    assert record.grid.same_as(store.grid)
    assert record.splits == store.splits
    assert record.fingerprint == store.fingerprint
    assert (record.seed, record.steps, record.licence) == (0, 12, "none")
    assert record.step_days == pytest.approx(30.4, abs=0.7)
    assert record.encoder.patch == (1, 2, 3)
    assert record.config["training"]["lr"] == 1e-3
    assert record.extra["split_proof"]["disjoint"]
    np.testing.assert_array_equal(record.statistics.coefficients, store.statistics.coefficients)
    np.testing.assert_array_equal(record.statistics.scale, store.statistics.scale)
    heads = nn.Linear(2, 2)
    again = save(tmp_path / "again", encoder, heads, record, small_windows("val").batch([0]))
    twice, other = read(again)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name])
    assert other.to_json() == record.to_json()
    replayed = verify(again)
    assert replayed["golden_difference"] <= replayed["tolerance"]
    fresh = nn.Linear(2, 2)
    read_heads(again, fresh)
    assert torch.equal(fresh.weight, heads.weight)


def test_verify_replays_the_golden_sample(small_run: Path) -> None:
    """A good folder passes."""
    report = verify(small_run / "checkpoint")
    assert report["golden_difference"] <= report["tolerance"]
    assert report["files"] == list(FILES)
    assert load_encoder(small_run / "checkpoint").record.steps == 12
    encoder, objectives = load_objectives(small_run / "checkpoint", TASKS)
    assert not encoder.training
    assert list(objectives.objectives) == ["masking"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_one_byte_is_noticed(folder: Path, name: str, where: float) -> None:
    """First, middle or last byte of any file: refused by name."""
    content = bytearray((folder / name).read_bytes())
    place = int(where * len(content)) if where > 0 else int(where)
    content[place] ^= 1
    (folder / name).write_bytes(bytes(content))
    for use in (verify, read, load_encoder):
        with pytest.raises(EarthSSLError, match=f"{name} was changed or damaged"):
            use(folder)


def test_a_spoilt_manifest_is_noticed(folder: Path) -> None:
    """Another hash, no JSON, no hashes, none at all."""
    good = (folder / "manifest.json").read_text()
    first = json.loads(good)["sha256"]["record.json"]
    (folder / "manifest.json").write_text(good.replace(first, first[::-1]))
    with pytest.raises(EarthSSLError, match=r"record\.json was changed"):
        verify(folder)
    for spoilt in ("{", "[]", "{}", '{"sha256": {"record.json": ""}}'):
        (folder / "manifest.json").write_text(spoilt)
        with pytest.raises(EarthSSLError, match=r"manifest\.json: (expected|the manifest does not fit)"):
            verify(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(EarthSSLError, match=r"manifest at .*manifest\.json, found no such file"):
        verify(folder)


def test_files_too_few_and_too_many_are_all_named(folder: Path, tmp_path: Path) -> None:
    """Every one in one message; a pickle has no place in it."""
    (folder / "golden.safetensors").unlink()
    (folder / "weights.pkl").write_bytes(pickle.dumps({}))
    (folder / "__init__.py").write_text("")
    with pytest.raises(EarthSSLError) as caught:
        read(folder)
    message = str(caught.value)
    assert "golden.safetensors is missing" in message
    assert "weights.pkl does not belong there" in message
    assert "__init__.py does not belong there" in message
    assert "\n" not in message
    with pytest.raises(EarthSSLError, match="found none"):
        read(tmp_path / "nowhere")


def test_every_difference_of_the_weights_is_listed(folder: Path) -> None:
    """A variable's block missing, one unknown, one of another shape: all three in one line, nothing loaded."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["embedding.blocks.v10"]
        tensors["embedding.blocks.msl"] = torch.zeros(7, 64)
        tensors["norm.weight"] = torch.ones(65)

    rewrite(folder / "encoder.safetensors", change)
    with pytest.raises(EarthSSLError) as caught:
        read(folder)
    message = str(caught.value)
    assert "embedding.blocks.v10 is missing" in message
    assert "embedding.blocks.msl is unknown here" in message
    assert "norm.weight: expected shape (64,), got (65,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    """One is enough, and it is named."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["norm.bias"][3] = value

    rewrite(folder / "encoder.safetensors", change)
    with pytest.raises(EarthSSLError, match=r"norm\.bias holds values that are not finite"):
        read(folder)


def test_a_module_is_loaded_whole_or_not_at_all() -> None:
    """After a refusal the module holds what it held."""
    linear = nn.Linear(2, 2)
    before = linear.weight.detach().clone()
    with pytest.raises(EarthSSLError, match="bias is missing"):
        load_exactly(linear, {"weight": torch.zeros(2, 2)}, Path("x"))
    assert torch.equal(linear.weight, before)


def test_other_heads_are_refused(folder: Path) -> None:
    """Heads of another task do not load into these."""
    with pytest.raises(EarthSSLError, match="is unknown here"):
        read_heads(folder, nn.Linear(2, 2))


def test_weights_that_were_exchanged_fail_the_golden_sample(folder: Path) -> None:
    """Hashes, names and shapes are right; what comes out is not."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["norm.bias"] += 0.01

    rewrite(folder / "encoder.safetensors", change)
    read(folder)
    with pytest.raises(EarthSSLError, match="the golden input gives an output that differs by 1"):
        verify(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(format_version=3), "expected format version 1 to 2, got version 3, .*; upgrade earthssl"),
        (lambda r: r.update(format="another"), "got 'another'"),
        (lambda r: r.pop("grid"), r"\$: expected the field 'grid', found none; fetch it again"),
        (lambda r: r.update(variables=None), r"\$\.variables: expected list, got None"),
        (lambda r: r.update(splits={"train": ["x", "y"]}), r"\$\.splits: .*'val'.*\$\.splits\.train\[0\]: .*got 'x'"),
        (lambda r: r["encoder"].update(size="huge"), r"\$\.encoder\.size: expected one of pico, .*, got 'huge'"),
        (lambda r: r["encoder"].update(code="import os"), r"\$\.encoder: expected no field but size, .*, got 'code'"),
        (lambda r: r["encoder"].update(window=3.0), r"\$\.encoder\.window: expected whole number, got 3\.0"),
        (lambda r: r["units"].pop(), r"\$\.units: expected 3 entries, one a variable, got 2"),
        (lambda r: r["grid"]["lat"].reverse(), "expected latitude strictly north to south"),
    ],
)
def test_records_that_do_not_fit_are_refused(folder: Path, change: Any, words: str) -> None:
    """Another version, a missing field, a field that is something else."""
    rewrite(folder / "record.json", change)
    with pytest.raises(EarthSSLError, match=words):
        read(folder)


def test_a_record_that_is_a_list_is_refused(folder: Path) -> None:
    """JSON, but no record."""
    (folder / "record.json").write_text("[]")
    sign(folder)
    with pytest.raises(EarthSSLError, match="expected the record as a mapping"):
        read(folder)


def test_nothing_is_unpickled_or_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, verifying and using a checkpoint touches neither pickle, torch.load nor eval."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was used")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"),
                        (builtins, "eval")):  # fmt: skip
        monkeypatch.setattr(owner, name, forbidden)
    verify(folder)
    load_encoder(folder)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md"}


def test_a_filled_folder_is_not_overwritten(folder: Path, small_windows: Any, tmp_path: Path) -> None:
    """Whatever it holds; an empty one is taken."""
    encoder, record = read(folder)
    golden = small_windows("val").batch([0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(EarthSSLError, match="is not empty"):
        save(folder, encoder, nn.Linear(1, 1), record, golden)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    verify(save(tmp_path / "empty", encoder, nn.Linear(1, 1), record, golden))


@pytest.mark.parametrize("step", ["save_file", "write_json", "sha256", "replace"])
def test_failing_half_way_leaves_nothing(
    folder: Path, small_windows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Neither the folder nor a temporary neighbour; the disk being full is said in words."""
    encoder, record = read(folder)
    golden = small_windows("val").batch([0])
    calls = []
    owner = {"replace": module.os, "sha256": folder_module}.get(step, module)
    real = getattr(owner, step)

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2 or step == "replace":
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(owner, step, failing)
    with pytest.raises((EarthSSLError, OSError), match=r"[Nn]o space left"):
        save(tmp_path / "new" / "checkpoint", encoder, nn.Linear(1, 1), record, golden)
    monkeypatch.undo()
    left = list((tmp_path / "new").iterdir()) if (tmp_path / "new").exists() else []
    assert left == []
    verify(save(tmp_path / "new" / "checkpoint", encoder, nn.Linear(1, 1), record, golden))


def test_differences_are_all_listed(small_run: Path) -> None:
    """Grid, time step and variables at once; none where the data fit."""
    _, record = read(small_run / "checkpoint")
    assert differences(record, record.variables, record.grid, 30.5) == []
    assert differences(record, ["u10"], record.grid, 31) == []
    other = LatLonGrid(record.grid.lat, record.grid.lon + 1)
    said = differences(record, ["msl", "t2m"], other, 1.0)
    assert [words.split(":")[0] for words in said] == ["variables", "grid", "time step"]
    assert "msl, t2m" in said[0]


def test_a_fine_tuned_head_travels_with_its_encoder(folder: Path, small_windows: Any, tmp_path: Path) -> None:
    """Tensors bit for bit, record and card; head and record go together, and a pretrained folder has none."""
    encoder, record = read(folder)
    with pytest.raises(EarthSSLError, match="only pretrained"):
        read_task(folder)
    golden, head = small_windows("val").batch([0]), nn.Linear(64, 3)
    tuned = replace(record, task={"kind": "regression", "targets": ["a", "b", "c"]})
    again = save(tmp_path / "tuned", encoder, {}, tuned, golden, head)
    assert torch.equal(read_task(again)["weight"], head.weight)
    assert read(again)[1].task == tuned.task
    assert "task.safetensors" in verify(again)["files"]
    assert "Fine-tuned" in (again / "card.md").read_text()
    for wrong in ((record, head), (tuned, None)):
        with pytest.raises(EarthSSLError, match="both or neither"):
            save(tmp_path / "no", encoder, {}, wrong[0], golden, wrong[1])
    (again / "task.safetensors").unlink()
    sign(again)
    with pytest.raises(EarthSSLError, match="if and only if the record names a task"):
        verify(again)


def test_scores_are_attached_and_nothing_else_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, card and manifest are new, the tensors are the old bytes; a bad table or a full disk changes nothing."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    row = {"name": "pretrained [mean]", "target": "lead 6", "kind": "encoder", "value": 0.5, "low": 0.4, "high": 0.6}
    pca = {"name": "PCA", "target": "lead 6", "value": 0.55}
    table = {
        "task": "enso",
        "metric": "skill (r)",
        "better": "higher",
        "rows": [row, pca],
        "verdicts": ["pretrained − PCA: worse"],
    }
    with pytest.raises(
        EarthSSLError, match=r"\$\.extra\.scores\[0\]\.better: expected one of higher, lower, got 'more'"
    ):
        attach_scores(folder, [{**table, "better": "more"}])
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(EarthSSLError, match="no space left"):
            attach_scores(folder, [table])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert attach_scores(folder, [table]) == folder
    attach_scores(folder, [{**table, "task": "states"}])
    verify(folder)
    _, record = read(folder)
    assert [table["task"] for table in record.extra["scores"]] == ["enso", "states"]
    assert record.extra["split_proof"]["disjoint"]
    assert record.extra["scores"][0]["rows"] == [row, pca]
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"record.json", "card.md", "manifest.json"}
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]
    assert "| PCA | 0.55 |" in (folder / "card.md").read_text()


def test_half_the_size_is_the_same_encoder_to_eleven_bits(folder: Path, small_store: Path, tmp_path: Path) -> None:
    """Rounded once, verified and read as 32-bit floats; what is too large is refused, and scores stay behind."""
    table = {"task": "enso", "metric": "r", "better": "higher", "rows": [{"name": "PCA", "target": "a", "value": 0.5}]}
    attach_scores(folder, [table])
    assert main(["push", str(folder), str(tmp_path / "registry" / "half"), "--half"]) == 0
    half = tmp_path / "registry" / "half"
    size, own = ((one / "encoder.safetensors").stat().st_size for one in (half, folder))
    assert size < 0.6 * own
    assert verify(half)["golden_difference"] == 0
    (rounded, record), (whole, _) = read(half), read(folder)
    assert "scores" not in record.extra
    assert load_file(half / "encoder.safetensors")["norm.weight"].dtype == torch.float16
    for name, weight in rounded.state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, whole.state_dict()[name], rtol=2**-11, atol=2**-24)
    data = Store(small_store).dataset(["sst", "u10", "v10"]).isel(time=slice(0, 12))
    features = [load_encoder(one).embed(data) for one in (half, folder)]
    np.testing.assert_allclose(features[0], features[1], atol=2e-2)
    assert not np.array_equal(features[0], features[1])
    assert load_objectives(half, TASKS)[1].tasks().keys() == {"masking"}
    rewrite(folder / "encoder.safetensors", lambda tensors: tensors["norm.weight"].fill_(1e5))
    with pytest.raises(EarthSSLError, match="16-bit floats"):
        halve(folder, tmp_path / "large")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("system", ["can", "cannot"])
def test_two_folders_change_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """At once where the system can, by way of a third name elsewhere; if that fails, all is as it was."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if system == "cannot":
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").is_file()
    assert (tmp_path / "b" / "a").is_file()
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OSError, match="none"):
        exchange(tmp_path / "a", tmp_path / "none")
    assert (tmp_path / "a" / "b").is_file()
    assert len(list(tmp_path.iterdir())) == 2
