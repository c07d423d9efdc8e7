"""Attacks and accidents on checkpoint folders: each is refused for what it is, and nothing outside is touched.

Every case starts from a good folder, spoils it, and, where the spoiler could have, signs the manifest anew.
"""

from __future__ import annotations

import builtins
import json
import os
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from earthssl.ssl.checkpoint.manifest import files_of, manifest_of
from earthssl.ssl.checkpoint.read import read
from earthssl.ssl.checkpoint.verify import verify
from earthssl.ssl.checkpoint.write import attach_scores, upgrade
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.inference.load import load_encoder
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "data" / "checkpoint-v1"
Spoiler = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of the present version, never changed."""
    return upgrade(FOLDER, tmp_path_factory.mktemp("good") / "checkpoint")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it in a folder of its own, beside a file that nobody may touch."""
    (tmp_path / "outside.txt").write_text("untouched")
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def sign(folder: Path) -> None:
    """Write the manifest anew, as a forger would."""
    names = [name for name in files_of(True) if (folder / name).is_file()]
    (folder / "manifest.json").write_text(json.dumps(manifest_of(folder, names)))


def tensors(name: str, change: Callable[[dict[str, Tensor]], Any]) -> Spoiler:
    """Spoil a safetensors file, signed; the change may return other tensors."""

    def spoil(folder: Path) -> None:
        found = load_file(folder / name)
        other = change(found)
        found = other if isinstance(other, dict) else found
        save_file(found, folder / name)
        sign(folder)

    return spoil


def record(change: Callable[[dict[str, Any]], Any]) -> Spoiler:
    """Spoil the record, signed."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "record.json").read_text())
        change(content)
        (folder / "record.json").write_text(json.dumps(content))
        sign(folder)

    return spoil


def text(name: str, change: Callable[[bytes], bytes], signed: bool = True) -> Spoiler:
    """Spoil the bytes of a file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        if signed:
            sign(folder)

    return spoil


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoiler:
    """Spoil the manifest."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return spoil


def header(change: Callable[[dict[str, Any]], Any]) -> Spoiler:
    """Spoil the header of the encoder's tensors, its length kept right, signed."""

    def spoil(folder: Path) -> None:
        file = folder / "encoder.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        found = json.loads(content[8 : 8 + length])
        change(found)
        made = json.dumps(found).encode()
        file.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + length :])
        sign(folder)

    return spoil


def swap(found: dict[str, Tensor]) -> None:
    """Exchange two weights of one shape, as from another training."""
    found["blocks.0.mlp.fc1.weight"], found["blocks.1.mlp.fc1.weight"] = (
        found["blocks.1.mlp.fc1.weight"],
        found["blocks.0.mlp.fc1.weight"],
    )


def nan_at(name: str) -> Callable[[dict[str, Tensor]], None]:
    """One value of a tensor becomes NaN."""
    return lambda found: found[name].view(-1)[:1].fill_(float("nan"))


def linked(folder: Path) -> None:
    """A file is a link to an equal one outside."""
    shutil.copy(folder / "encoder.safetensors", folder.parent / "elsewhere.safetensors")
    (folder / "encoder.safetensors").unlink()
    (folder / "encoder.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def linked_manifest(folder: Path) -> None:
    """The manifest is a link to one outside."""
    shutil.move(folder / "manifest.json", folder.parent / "manifest.json")
    (folder / "manifest.json").symlink_to(folder.parent / "manifest.json")


def a_folder(folder: Path) -> None:
    """A directory stands where a file should."""
    (folder / "heads.safetensors").unlink()
    (folder / "heads.safetensors").mkdir()


def a_pipe(folder: Path) -> None:
    """A named pipe, which would hang who opens it."""
    (folder / "heads.safetensors").unlink()
    os.mkfifo(folder / "heads.safetensors")


def task_claimed(folder: Path) -> None:
    """The record names a task, and there is no head."""
    record(lambda r: r.update(task={"kind": "regression", "targets": ["x"]}))(folder)


def pickled(folder: Path) -> None:
    """A pickle under the name of safetensors."""
    (folder / "heads.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}) * 20)
    sign(folder)


def other_times(found: dict[str, Tensor]) -> None:
    """The golden input is another one."""
    found["values"] += 1


def giant(content: dict[str, Any]) -> None:
    """Terabytes of embedding, and 24 wide blocks."""
    content["encoder"].update(size="large", window=512, patch=[512, 512, 512])
    content["variables"] = [f"v{k}" for k in range(900)]
    content["units"] = ["1"] * 900


DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
CASES: dict[str, tuple[Spoiler, str]] = {
    "truncated tensors": (text("encoder.safetensors", lambda b: b[:-100]), "describes .* bytes of data and it holds"),
    "truncated in transit": (text("encoder.safetensors", lambda b: b[:-100], False), "was changed or damaged .*bytes"),
    "cut in the header": (text("encoder.safetensors", lambda b: b[:40]), "its header claims"),
    "empty tensors": (text("encoder.safetensors", lambda b: b""), "of 1 to .* bytes, got 0|schema.*at least 1, got 0"),
    "empty record": (text("record.json", lambda b: b""), "at least 1, got 0"),
    "bytes behind the end": (text("heads.safetensors", lambda b: b + b"#!/bin/sh"), "describes .* bytes of data"),
    "swapped weights": (tensors("encoder.safetensors", swap), "golden input gives an output that differs"),
    "other golden input": (tensors("golden.safetensors", other_times), "golden input gives an output that differs"),
    "NaN weight": (tensors("encoder.safetensors", nan_at("norm.weight")), r"norm\.weight holds values that are not"),
    "NaN in a head": (
        tensors("heads.safetensors", nan_at("objectives.masking.query")), "query holds values that are not"),
    "NaN in the golden output": (tensors("golden.safetensors", nan_at("output")), "output holds values that are not"),
    "NaN scale": (tensors("statistics.safetensors", nan_at("scale")), "a finite scale > 0"),
    "negative scale": (tensors("statistics.safetensors", lambda t: t["scale"].neg_()), "a finite scale > 0"),
    "infinite climatology": (
        tensors("statistics.safetensors", lambda t: t["coefficients"].view(-1)[:1].fill_(float("inf"))),
        "coefficients without infinity",
    ),
    "statistics of another grid": (
        tensors("statistics.safetensors", lambda t: {**t, "scale": t["scale"][:, :-1].clone()}),
        r"statistics.*scale: expected shape \(2, 8, 9\), got \(2, 7, 9\)",
    ),
    "missing tensor": (tensors("encoder.safetensors", lambda t: t.pop("norm.bias")), "norm.bias is missing"),
    "extra tensor": (
        tensors("encoder.safetensors", lambda t: t.update(more=torch.zeros(1))), "more is unknown here"),
    "wrong dtype": (
        tensors("encoder.safetensors", lambda t: t.update({"norm.bias": t["norm.bias"].double()})),
        "norm.bias: expected F32, got F64",
    ),
    "dtype out of the list": (
        header(lambda h: next(iter(h.values())).update(dtype="F8_E4M3")), "has dtype 'F8_E4M3', allowed are"),
    "shape that overflows": (
        header(lambda h: next(iter(h.values())).update(shape=[2**62, 2**62])), "its header describes"),
    "negative shape": (header(lambda h: next(iter(h.values())).update(shape=[-1, 16])), "odd name or shape"),
    "shape of another kind": (header(lambda h: next(iter(h.values())).update(shape="16")), "odd name or shape"),
    "offsets that overlap": (
        header(lambda h: h["norm.weight"].update(data_offsets=h["norm.bias"]["data_offsets"])), "cannot be read"),
    "header bomb": (
        text("encoder.safetensors", lambda b: struct.pack("<Q", 2**62) + b[8:]), "its header claims 46116860"),
    "header of nested lists": (
        text("encoder.safetensors", lambda b: struct.pack("<Q", 60_000) + b"[" * 30_000 + b"]" * 30_000),
        "nested deeper",
    ),
    "too many tensors": (
        header(lambda h: h.update({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                                   for k in range(20_001)})), "at most 20000 allowed"),
    "pickle in disguise": (pickled, "its header claims"),
    "duplicate keys": (
        text("record.json", lambda b: b.replace(b'"seed": 0', b'"seed": 0, "seed": 1', 1)), "'seed' is given twice"),
    "duplicate keys in the manifest": (
        text("manifest.json", lambda b: b.replace(b'"sha256"', b'"sha256": {}, "sha256"', 1), False), "given twice"),
    "NaN in JSON": (record(lambda r: r["health"].update(std=float("nan"))), "holds NaN"),
    "deep nesting": (text("record.json", lambda b: DEEP), "nested deeper than 32"),
    "huge integer": (
        text("record.json", lambda b: b.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000, 1)), "not fit in 64 bits"),
    "byte order mark": (text("record.json", lambda b: b"\xef\xbb\xbf" + b), "byte order mark"),
    "UTF-16": (text("record.json", lambda b: b.decode().encode("utf-16")), "not UTF-8"),
    "half a surrogate": (text("record.json", lambda b: b.replace(b'"K"', b'"\\ud800"', 1)), "half a surrogate"),
    "terminal escape": (record(lambda r: r.update(source="\x1b[2J")), "control characters"),
    "record of five megabytes": (
        text("record.json", lambda b: b + b" " * 5_000_000), "of 1 to 4194304 bytes"),
    "newer version": (record(lambda r: r.update(format_version=3)), "got version 3, which is newer.*upgrade earthssl"),
    "version as text": (record(lambda r: r.update(format_version="2")), "format_version as a whole number.*got '2'"),
    "version 1 with a version-2 manifest": (record(lambda r: r.update(format_version=1)), "different format versions"),
    "giant encoder": (record(giant), r"statistics.*expected shape \(12, 1, 900, 8, 9\)"),
    "giant patch": (
        record(lambda r: r["encoder"].update(size="large", patch=[3, 512, 512])), r"expected shape \(1024,\)"),
    "window beyond bounds": (record(lambda r: r["encoder"].update(window=10**9)), r"\.encoder\.window: .*at most"),
    "more variables than weights": (
        record(lambda r: (r["variables"].append("msl"), r["units"].append("Pa"))), "statistics.*expected shape"),
    "a variable twice": (record(lambda r: r.update(variables=["sst", "sst"])), r"\.variables: .* no entry twice"),
    "a variable named like a path": (
        record(lambda r: r.update(variables=["../sst", "u10"])), r"\$\.variables\[0\]: expected text of the form"),
    "grid off the sphere": (record(lambda r: r["grid"]["lat"].insert(0, 95)), r"\.grid\.lat\[0\]: .*at most 90"),
    "blocks that touch": (
        record(lambda r: r["splits"].update(val=r["splits"]["train"])), "days apart, but embargo_days is"),
    "no date": (record(lambda r: r["splits"].update(test=["1928-13-45T00:00:00", "x"])), r"\$\.splits\.test\[1\]"),
    "path in the manifest": (
        manifest(lambda m: m["sha256"].update({"../outside.txt": "0" * 64})), r"\$\.sha256: .*got '\.\./outside\.txt'"),
    "absolute path in the manifest": (
        manifest(lambda m: m["sha256"].update({"/etc/passwd": "0" * 64})), r"\$\.sha256: .*got '/etc/passwd'"),
    "manifest without hashes": (manifest(lambda m: m.update(sha256={})), r"\.sha256: expected the field 'rec"),
    "manifest of another size": (manifest(lambda m: m["bytes"].update({"card.md": 1})), r"card\.md was changed"),
    "manifest without the card": (manifest(lambda m: m["sha256"].pop("card.md")), "expected hash and size of"),
    "link": (linked, "encoder.safetensors is a link"),
    "linked manifest": (linked_manifest, r"manifest\.json: .* as a regular file, got a link"),
    "folder instead of a file": (a_folder, "heads.safetensors is no regular file"),
    "pipe instead of a file": (a_pipe, "heads.safetensors is no regular file"),
    "missing file": (lambda f: (f / "heads.safetensors").unlink(), "heads.safetensors is missing"),
    "extra file": (lambda f: (f / "setup.py").write_text("import os") and None, "setup.py does not belong there"),
    "a thousand extra files": (
        lambda f: [(f / f"x{k}").touch() for k in range(1000)] and None, "x0 does not belong there.*; and 988 more"),
    "a name with a line break": (
        record(lambda r: r.update(variables=["sst\n", "u10"])), r"\$\.variables\[0\]: expected text of the form"),
    "golden output of one token": (
        tensors("golden.safetensors", lambda t: {**t, "output": t["output"][:, :1].clone()}),
        r"golden.*output: expected shape"),
    "extra folder": (lambda f: (f / "code").mkdir(), "code does not belong there"),
    "task without a head": (task_claimed, "if and only if the record names a task"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_is_refused_for_what_it_is(folder: Path, name: str) -> None:
    """In one line with a remedy; no gigabyte is taken, nothing outside changes."""
    spoil, words = CASES[name]
    spoil(folder)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EarthSSLError, match=words) as caught:
        verify(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 200_000
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000
    assert (folder.parent / "outside.txt").read_text() == "untouched"


def test_the_good_folder_passes(folder: Path) -> None:
    """So that the cases above are refused for what they are."""
    report = verify(folder)
    assert len(report["checks"]) == 5
    sign(folder)
    assert verify(folder)["golden_difference"] == report["golden_difference"] <= report["tolerance"]


def test_names_of_code_are_data(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that names classes, modules and commands in every free field loads; not one is imported or run."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sentinel_of_attacks.py").write_text("raise SystemExit('imported')")
    evil = {"class_path": "sentinel_of_attacks.X", "_target_": "os.system", "!!python/object/apply:os.system": ["id"],
            "init_args": {"command": "__import__('os').system('id')"}, "masking": {}}  # fmt: skip
    record(lambda r: (r["config"].update(objectives=evil), r["extra"].update(evil), r.update(source="$(id)")))(folder)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was used")

    # First a good one, so that the libraries' own modules, which call eval when they are imported, are at hand.
    verify(FOLDER)
    load_encoder(FOLDER)
    users = ((pickle, "load"), (pickle, "loads"), (torch, "load"), (builtins, "eval"), (os, "system"))
    for owner, name in users:
        monkeypatch.setattr(owner, name, forbidden)
    verify(folder)
    load_encoder(folder)
    assert "sentinel_of_attacks" not in sys.modules


def test_an_attack_is_no_way_to_scores(folder: Path) -> None:
    """Scores are attached to whole folders only, and a spoilt one stays as it was."""
    tensors("encoder.safetensors", lambda t: t.pop("norm.bias"))(folder)
    with pytest.raises(EarthSSLError, match=r"norm\.bias is missing"):
        read(folder)
    (folder / "card.md").write_text("changed")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(EarthSSLError, match=r"card\.md was changed"):
        attach_scores(folder, [])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
