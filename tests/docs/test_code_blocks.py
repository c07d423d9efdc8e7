"""Every command and code block of README.md and docs/ is run, page by page, in order, as a reader would.

A comment right before a block says what is done otherwise, and is seen in the page's source:

    <!-- slow -->                             run by `pytest -m slow` only
    <!-- tested with: VERB OPTIONS; … -->     adds these options to that verb; `pytest -m slow` runs it as it stands
    <!-- slow, tested with: … -->             run by `pytest -m slow` only, and with these options, as it takes an hour
    <!-- not run: REASON -->                  never run; its commands must still parse, like all others

A block whose first line is a comment that names a file is that file: YAML is written beside the run, Python becomes the
module of that path. Blocks in other languages (text, Fortran, directives of the site) are only shown.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from earthssl.cli import main as command_line
from earthssl.cli.verbs import config_of
from earthssl.downstream.tasks.registry import TASKS as PROBES
from earthssl.pretext import TASKS
from earthssl.ssl.common.config import SECTIONS, check_keys, override, read_yaml
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
RUN, SHOWN = ("sh", "python", "yaml"), ("text", "fortran", "{toctree}", "{eval-rst}")
MARKERS = re.compile(r"(slow|(slow, )?tested with: .+|not run: .+)")
TABLES: tuple[dict[str, Any], ...] = (TASKS, SOURCES, PROBES)  # what a page may add a line to
LINKS = ("store", "out", "probe", "checkpoints")  # given on the command line


def commands(block: Any) -> list[list[str]]:
    """Return the words of each command of a shell block; what a `$(…)` would add is left out."""
    text = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "", block.code.replace("\\\n", " "))
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def ours(words: list[str]) -> list[str] | None:
    """Return verb and options of an earthssl command, also behind srun or torchrun; None for any other."""
    for k, word in enumerate(words):
        if word == "earthssl" and (k == 0 or words[0] in ("srun", "torchrun")):
            return words[k + 1 :]
    return None


def test_every_block_is_of_a_known_kind_and_every_marker_is_one(blocks: list[Any]) -> None:
    for block in blocks:
        assert block.language in (*RUN, *SHOWN), f"{block}: expected one of {RUN + SHOWN}, got '{block.language}'"
        if block.language in SHOWN:
            assert not block.marker.startswith(("slow", "tested", "not run")), f"{block}: nothing of it is ever run"
        elif block.marker:
            assert MARKERS.fullmatch(block.marker), f"{block}: '{block.marker}' is no marker"


def test_there_are_blocks_to_run(blocks_of: Callable[[Path], list[Any]]) -> None:
    """The reader of blocks reads: comments right before a block are its markers, others are not."""
    languages = [block.language for block in blocks_of(ROOT / "README.md")]
    assert languages.count("sh") >= 1
    assert "python" in languages


def test_markers_stand_right_before_their_block(blocks_of: Callable[[Path], list[Any]], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- slow -->\n\n```sh\na\n```\n\n```sh\nb\n```\n<!-- slow -->\ntext\n```python\n# x/y.py\nc\n```\n"
    )
    found = blocks_of(page)
    assert [(block.marker, block.language, block.file) for block in found] == [
        ("slow", "sh", ""), ("", "sh", ""), ("", "python", "x/y.py"),
    ]  # fmt: skip
    assert [block.code for block in found] == ["a\n", "b\n", "# x/y.py\nc\n"]


# ---- Options ---------------------------------------------------------------------------------------------------------


def check_options(words: list[str], written: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check verb, options, settings and config file of a command, without running it.

    Args:
        words: From the verb on.
        written: Text of the config files that the page itself writes, by name; names such as FILE stand for any other.
        monkeypatch: To keep the verb from being run.

    Raises:
        EarthSSLError: For a setting that there is not, or one that lacks.
        SystemExit: For an option or verb that there is not.
    """
    seen: list[Any] = []
    monkeypatch.setattr(command_line, "_run", lambda options, rest, command: seen.extend((options, rest)))
    assert command_line.main(words) == 0
    options, rest = seen
    config = getattr(options, "config", None)
    sections: dict[str, Any] = {}
    if config in written:
        sections = yaml.safe_load(written[config])
    elif config is not None and not config.isupper():
        assert (ROOT / config).is_file(), f"{shlex.join(words)}: there is no {config}"
        sections = read_yaml(ROOT / config)
    if options.verb in command_line.CONFIGURED:
        if getattr(options, "info", None) or getattr(options, "pack", None):
            return
        settings = override(sections.get(options.verb, {}), rest)
        settings.pop("seeds", None) if options.verb == "pretrain" else None
        settings.setdefault("out", "x") if "append" in settings else None
        try:
            check_keys(config_of(options.verb, settings), settings, options.verb)
        except EarthSSLError as error:
            if not (config or "").isupper() or "found none; add it" not in str(error):
                raise
    elif options.verb in ("run", "quickstart"):
        named = {word[2:].split(".")[0] for word in rest if word.startswith("--")}
        assert named <= set(SECTIONS), f"{shlex.join(words)}: expected settings of {', '.join(SECTIONS)}"
    elif options.verb != "plan":
        assert not rest, f"{shlex.join(words)}: {rest[0]} is no option of it"


def test_every_command_parses(blocks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs, options, settings, config files, make targets and extras are there, also where a block is not run."""
    written = {block.file: block.code for block in blocks if block.file}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    own = {name for block in blocks for name in re.findall(r'^TASKS\["(\w+)"\] =', block.code, re.M)}
    for block in blocks:
        if block.language != "sh":
            continue
        for words in commands(block):
            if "--task" in words and words[words.index("--task") + 1] in own:
                continue  # a task that the page itself makes: its options are seen when the page runs
            with monkeypatch.context() as patch:
                try:
                    if (verb := ours(words)) is not None:
                        check_options(verb, written, patch)
                except (EarthSSLError, SystemExit) as error:
                    pytest.fail(f"{block}: {shlex.join(words)}: {error}")
            if words[0] == "make" and block.page != "docs/fortran/README.md":
                assert set(words[1:]) <= targets, f"{block}: {shlex.join(words)}"
            for extra in re.findall(r"(?:earthssl|\.)\[([\w,]+)\]", shlex.join(words)):
                assert set(extra.split(",")) <= extras, f"{block}: {shlex.join(words)}"


def test_every_command_in_the_text_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`earthssl verb …` in a sentence or a table; not where it is a form with VERB or […]."""
    text = re.sub(r"^(`{3,}).*?^\1`*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for command in re.findall(r"`earthssl ([^`]+)`", text):
        words = shlex.split(command)
        if re.search(r"VERB|[\[|…]", command) or len(words) == 1 or page.name == "changelog.md":
            continue
        with monkeypatch.context() as patch:
            try:
                check_options(words, {}, patch)
            except (EarthSSLError, SystemExit) as error:
                pytest.fail(f"{page.name}: `earthssl {command}`: {error}")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("earthssl pretrain --store S --out O --training.step 3", "steps"),
        ("earthssl prepare --config configs/no-such.yaml --out S", "there is no configs/no-such.yaml"),
        ("earthssl pul registry/planet-tropics", "2"),
        ("earthssl verify --offlin S", "no option of it"),
    ],
)
def test_a_wrong_command_does_not_parse(wrong: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((EarthSSLError, SystemExit, AssertionError), match=said):
        check_options(ours(wrong.split()) or [], {}, monkeypatch)


def test_yaml_blocks_hold_settings_that_there_are(blocks: list[Any]) -> None:
    for block in (block for block in blocks if block.language == "yaml"):
        for verb, settings in yaml.safe_load(block.code).items():
            assert verb in SECTIONS, block
            kind = config_of(verb, settings)
            names = {field.name for field in dataclasses.fields(kind)}
            links = {name: ["x"] if name == "checkpoints" else "x" for name in LINKS if name in names}
            check_keys(kind, {**links, **settings}, f"{block}: {verb}")


# ---- Running ---------------------------------------------------------------------------------------------------------


class Session:
    """A reader who types a page's blocks one after the other, in one folder and one Python."""

    def __init__(self, folder: Path, as_it_stands: bool) -> None:
        self.folder, self.as_it_stands = folder, as_it_stands
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.ran: list[Any] = []

    def skips(self, block: Any) -> bool:
        """Return whether a marker keeps the block from being run."""
        return block.marker.startswith("not run") or (block.marker.startswith("slow") and not self.as_it_stands)

    def run(self, block: Any) -> None:
        """Run a block."""
        if block.language == "sh":
            for words in commands(block):
                self._type(words, block)
        elif block.language == "yaml" and block.file:
            (self.folder / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python" and block.file:
            self._module(block)
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, block.page, "exec"), self.names)
        self.ran.append(block)

    def _type(self, words: list[str], block: Any) -> None:
        verb = ours(words)
        assert verb is not None, f"{block}: '{shlex.join(words)}' is no command of earthssl; mark it as not run"
        shorter = block.marker.partition("tested with: ")[2]
        if shorter and (block.marker.startswith("slow") or not self.as_it_stands):
            for more in shorter.split(";"):
                name, *options = shlex.split(more)
                verb += options if name == verb[0] else []
        assert command_line.main(verb) == 0, f"{block}: {shlex.join(words)}"

    def _module(self, block: Any) -> None:
        """Make the block the module that a file of its name would be."""
        name = "earthssl." + block.file.removesuffix(".py").replace("/", ".")
        assert not (ROOT / block.file).exists(), f"{block}: {block.file} is a file of the package"
        module = ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        try:
            __import__(module.__package__)
        except ModuleNotFoundError:  # the page makes the folder, too
            package = ModuleType(module.__package__)
            package.__path__ = []
            sys.modules[module.__package__] = package
        sys.modules[name] = module
        exec(compile("\n" * block.line + block.code, block.page, "exec"), module.__dict__)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], Session]]:
    """Maker of sessions in a folder that looks like the repository's root; what pages register is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARTHSSL_CACHE", str(tmp_path / "cache"))
    for name in ("registry", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    modules, tables = set(sys.modules), [dict(table) for table in TABLES]
    yield lambda as_it_stands: Session(tmp_path, as_it_stands)
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) is None and name.startswith("earthssl."):
            del sys.modules[name]


def walk(session: Session, blocks: list[Any]) -> None:
    """Run a page and count: no block without a marker is left out."""
    meant = [block for block in blocks if block.language in RUN and not session.skips(block)]
    for block in meant:
        try:
            session.run(block)
        except Exception as error:
            error.add_note(f"in the block at {block}")
            raise
    assert session.ran == meant
    assert [b for b in blocks if b.language in RUN and not b.marker] == [b for b in session.ran if not b.marker]


def check_finetune(session: Session, told: str) -> None:
    """Check what the walk from somebody else's checkpoint to one's own task leaves."""
    for row in ("climatology", "damped persistence", "PCA [ridge]", "pretrained [linear probe]",
                "untrained [linear probe]", "same network from scratch", "pretrained, fine-tuned [full]"):  # fmt: skip
        assert row in told, row
    assert "difference (▲ better, ▼ worse, · undecided)" in told
    assert told.count(": whole;") == 2  # base and tuned
    data, forecast = session.names["data"], session.names["forecast"]
    assert str(forecast["time"].values[-1])[:7] == "2110-06"  # six months after the last month at hand
    assert forecast.sizes == {"time": data.sizes["time"] - 11}
    assert session.names["features"].sizes["time"] == data.sizes["time"] - 11
    with xr.open_dataset(session.folder / "tuned" / "predictions.nc") as run_said:
        at = run_said.swap_dims(sample="time")["predicted"].sel(time="2109-06", target="nino34")
        np.testing.assert_allclose(forecast.sel(time="2109-06"), at, rtol=1e-4, atol=1e-4)


AFTER = {"docs/finetune.md": check_finetune}


def test_the_page_runs(
    page: Path, blocks: list[Any], reader: Callable[[bool], Session], capsys: pytest.CaptureFixture[str]
) -> None:
    session = reader(False)
    walk(session, blocks)
    told = capsys.readouterr().out
    if check := AFTER.get(str(page.relative_to(ROOT))):
        check(session, told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_runs_as_it_stands(blocks: list[Any], reader: Callable[[bool], Session]) -> None:
    walk(reader(True), blocks)
