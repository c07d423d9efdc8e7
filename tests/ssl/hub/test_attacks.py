"""Manifests, indices and folders that lie: refused, and nothing is written outside the cache."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from earthssl.cli.main import main
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.hub.pull import list_registry, load_folder, pull, verify
from earthssl.ssl.hub.push import push
from earthssl.ssl.hub.registry_index import describe

ZERO = "0" * 64
NAMES = [
    "../evil", "../../evil", "/etc/evil", "a/../../evil", "..", ".", "", "\\evil", "..\\evil", "C:evil",
    "record.json/../evil",
    "%2e%2e/evil", "record.json\x00", "record.json ", "Record.json", "record․json", "ｒecord.json", "record.json\u200b",
    "~/evil", "manifest.json", "weights.pkl", "__init__.py", "sitecustomize.py", "file:///etc/evil", "CON", "a" * 5000,
]  # fmt: skip


def everything(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("key", "name"), [*(("sha256", name) for name in NAMES), *(("bytes", name) for name in NAMES[:4])]
)
def test_names_in_a_manifest_lead_nowhere(server: Any, cache: Path, tmp_path: Path, key: str, name: str) -> None:
    """One name that the format does not know, and nothing but the manifest is asked for."""
    file = server.folder / "reg/tiny/manifest.json"
    manifest = json.loads(file.read_text())
    manifest[key][name] = ZERO if key == "sha256" else 1
    file.write_text(json.dumps(manifest))
    before = everything(tmp_path)
    with pytest.raises(EarthSSLError, match="manifest") as caught:
        pull(f"{server.url}/reg/tiny", tmp_path / "out")
    assert len(str(caught.value)) < 2000
    assert everything(tmp_path) == before
    assert len(server.asked) == 1


def index_of(entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an index with these entries."""
    return {"format": "earthssl registry", "format_version": 1, "checkpoints": entries, **more}


@pytest.fixture(scope="module")
def pushed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of one, as push makes it; never changed."""
    registry = tmp_path_factory.mktemp("pushed") / "registry"
    push(tiny, registry / "tiny")
    return registry


@pytest.fixture
def registry(pushed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(pushed, tmp_path / "registry"))


def entry(registry: Path) -> dict[str, Any]:
    """Return a good entry."""
    return dict(json.loads((registry / "index.json").read_text())["checkpoints"]["tiny"])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("manifest.json", "weights.pkl", "CON")])
def test_names_in_an_index_are_refused(registry: Path, tiny: Path, tmp_path: Path, name: str) -> None:
    """By list and by push, which leave everything as it was."""
    if name in ("record.json/../evil", "Record.json"):
        name = f"{name}/.."
    if name in ("__init__.py", "sitecustomize.py"):
        name = f"/{name}"
    (registry / "index.json").write_text(json.dumps(index_of({name: entry(registry)})))
    before = everything(tmp_path)
    with pytest.raises(EarthSSLError, match=r"expected a name|control characters"):
        list_registry(registry)
    if name in NAMES[:3]:  # push reads the index as list does
        with pytest.raises(EarthSSLError, match=r"expected a name|control characters"):
            push(tiny, registry / "another")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be parsed"),
        ("[]", "not of type 'object'"),
        ('{"a": 1, "a": 2}', "given twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 123456789012345678901234567890}', "64 bits"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ('{"format": "another", "format_version": 1, "checkpoints": {}}', "format"),
        ('{"format": "earthssl registry", "format_version": 2, "checkpoints": {}}', "format_version"),
        ('{"format": "earthssl registry", "format_version": 1, "checkpoints": {"a": {}}}', "required property"),
        ('{"format": "earthssl registry", "format_version": 1, "checkpoints": []}', "not of type 'object'"),
        ("\ufeff{}", "byte order mark"),
        ('{"\\u001b[2J": 1}', "control characters"),
        (" " * (9 << 20), "at most"),
    ],
)
def test_an_index_that_is_none_is_refused(registry: Path, text: str, words: str) -> None:
    """Whatever is wrong with it."""
    (registry / "index.json").write_text(text)
    with pytest.raises(EarthSSLError, match=words) as caught:
        list_registry(registry)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_sha256": "../x"},
        {"manifest_sha256": ZERO + "\n"},
        {"bytes": -1},
        {"bytes": "1"},
        {"variables": "sst"},
        {"step_days": 0},
        {"scores": {"enso": 1}},
        {"scores": [{"task": "enso"}]},
        {"summary": "x" * 1001},
        {"grid": None},
    ],
)
def test_entries_that_do_not_fit_are_refused(registry: Path, change: dict[str, Any]) -> None:
    """Field by field."""
    (registry / "index.json").write_text(json.dumps(index_of({"tiny": {**entry(registry), **change}})))
    with pytest.raises(EarthSSLError, match=r"checkpoints\.tiny"):
        list_registry(registry)


@pytest.mark.parametrize("junk", [5, [1, 2], "x", None, {}])
def test_free_text_of_a_record_does_not_stop_a_listing(tiny: Path, tmp_path: Path, junk: Any) -> None:
    """A record may configure what it likes; whoever lists the cache must not pay for it."""
    folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    record = json.loads((folder / "record.json").read_text())
    record["config"]["objectives"] = junk
    (folder / "record.json").write_text(json.dumps(record))
    assert "pretrained on unknown tasks" in describe(folder)["summary"]


def test_a_terminal_is_not_steered(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by what an index says nor by an error about it."""
    assert main(["list", str(registry)]) == 0
    assert "PCA 0.5 (correlation)" in capsys.readouterr().out
    for sign in ("\x1b[31mred", "\u202eder", "\x07"):
        (registry / "index.json").write_text(json.dumps(index_of({"tiny": {**entry(registry), "summary": sign}})))
        assert main(["list", str(registry)]) == 2
        (registry / "index.json").write_text(json.dumps(index_of({sign: {}}), ensure_ascii=False))
        assert main(["list", str(registry)]) == 2
        printed = "".join(capsys.readouterr()).replace("\n", "")
        assert printed.isprintable()
        (registry / "index.json").write_text(json.dumps(index_of({})))
        push(registry / "tiny", registry / "tiny")


@pytest.mark.parametrize("name", ["record.json", "encoder.safetensors", "manifest.json"])
def test_links_and_pipes_in_a_folder_are_not_read(tiny: Path, tmp_path: Path, name: str, cache: Path) -> None:
    """A link may lead anywhere, a pipe never ends, a device neither."""
    folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (folder / name).unlink()
    (folder / name).symlink_to(tiny / name)
    with pytest.raises(EarthSSLError, match=f"{name}: expected a plain file"):
        pull(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(EarthSSLError, match=f"{name}: expected a plain file"):
        pull(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(EarthSSLError, match=f"{name}: expected a plain file"):
        pull(folder)
    with pytest.raises(EarthSSLError, match=name):
        push(folder, tmp_path / "registry" / "x")
    assert not (tmp_path / "registry").exists()


def test_links_planted_in_the_cache_are_not_followed(server: Any, cache: Path, tmp_path: Path) -> None:
    """What they point to keeps its content."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = pull(f"{server.url}/reg/tiny")
    shutil.rmtree(folder)
    (cache / ".partial" / folder.name).mkdir()
    (cache / ".partial" / folder.name / "encoder.safetensors.part").symlink_to(victim)
    with pytest.raises(EarthSSLError, match="found a link"):
        pull(f"{server.url}/reg/tiny")
    (cache / ".partial" / folder.name / "encoder.safetensors.part").unlink()
    (cache / ".partial" / folder.name / "checkpoint" / "manifest.json").symlink_to(victim)
    shutil.rmtree(pull(f"{server.url}/reg/tiny"))
    (cache / ".partial" / f"{folder.name}.lock").unlink()
    (cache / ".partial" / f"{folder.name}.lock").symlink_to(victim)
    with pytest.raises(EarthSSLError, match="found a link"):
        pull(f"{server.url}/reg/tiny")
    assert victim.read_text() == "mine"


def test_links_planted_in_a_registry_are_not_followed(tiny: Path, tmp_path: Path) -> None:
    """Neither the checkpoint's name, nor the lock, nor what the index is written by."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_text("mine")
    registry = tmp_path / "registry"
    registry.mkdir()
    (registry / "tiny").symlink_to(victim)
    with pytest.raises(EarthSSLError, match="found a link"):
        push(tiny, registry / "tiny", replace=True)
    (registry / "tiny").unlink()
    (registry / ".index.lock").unlink(missing_ok=True)
    (registry / ".index.lock").symlink_to(victim / "mine")
    with pytest.raises(EarthSSLError, match="found a link"):
        push(tiny, registry / "tiny")
    (registry / ".index.lock").unlink()
    (registry / f".index.json.{os.getpid()}").symlink_to(victim / "mine")
    with pytest.raises(EarthSSLError, match="found a link"):
        push(tiny, registry / "tiny")
    assert everything(victim) == {"mine": b"mine"}


def test_what_is_no_checkpoint_is_not_pushed_or_overwritten(tiny: Path, tmp_path: Path) -> None:
    """A damaged one, a folder of something else, a place where something else lies."""
    damaged = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    (damaged / "card.md").write_text("better")
    with pytest.raises(EarthSSLError, match=r"card\.md was changed"):
        push(damaged, tmp_path / "registry" / "x")
    with pytest.raises(EarthSSLError, match="found none"):
        push(tmp_path / "nowhere", tmp_path / "registry" / "x")
    (tmp_path / "registry" / "mine").mkdir(parents=True)
    (tmp_path / "registry" / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(EarthSSLError, match="found something else"):
        push(tiny, tmp_path / "registry" / "mine", replace=True)
    assert everything(tmp_path / "registry") in (
        {"mine/thesis.tex": b"years"},
        {"mine/thesis.tex": b"years", ".index.lock": b""},
    )


def test_a_local_pin_is_checked(tiny: Path) -> None:
    """Wherever a folder is used."""
    for use in (load_folder, pull, verify):
        with pytest.raises(EarthSSLError, match="expected the manifest with SHA-256 000"):
            use(f"{tiny}#sha256={ZERO}")
