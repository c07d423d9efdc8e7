"""Config: YAML without its traps, every mistake named in one line with the nearest valid name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from earthssl.ssl.common.config import build, override, read_yaml, section
from earthssl.ssl.common.errors import EarthSSLError, nearest
from earthssl.ssl.fields.normalisation import StatisticsConfig
from earthssl.ssl.prepare.config import PrepareConfig


@dataclass(frozen=True)
class Inner:
    """Settings inside others."""

    count: int = 1
    rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.count < 0:
            raise EarthSSLError(f"inner.count: expected a number from 0, got {self.count}; none is without it.all")


@dataclass(frozen=True)
class Outer:
    """One of every kind of setting."""

    name: str
    inner: Inner = field(default_factory=Inner)
    perhaps: Inner | None = None
    several: list[Inner] = field(default_factory=list)
    table: dict[str, Inner] = field(default_factory=dict)
    pair: tuple[int, int] = (1, 2)
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)


def made(**settings: Any) -> Outer:
    """Build an `Outer`."""
    return build(Outer, {"name": "x", **settings}, "run.yaml")


def test_settings_become_dataclasses() -> None:
    assert build(Outer, {"name": "x"}, "here") == Outer("x")
    found = made(
        inner={"count": 3}, perhaps={"rate": 2}, several=[{"count": 4}, {"rate": 1}],
        table={"a": {"count": 5}}, pair=[3, 4], flag=True, free={"any": {"thing": [1]}},
    )  # fmt: skip
    assert found.inner == Inner(3)
    assert found.perhaps == Inner(1, 2.0)
    assert found.several == [Inner(4), Inner(1, 1.0)]
    assert found.table == {"a": Inner(5)}
    assert found.pair == (3, 4)
    assert found.free == {"any": {"thing": [1]}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nmae": "y"}, "run.yaml: unknown key 'nmae', expected name, inner, .* Did you mean 'name'"),
        ({"inner": {"cuont": 1}}, "run.yaml.inner: unknown key 'cuont', .* Did you mean 'count'"),
        ({"perhaps": {"cuont": 1}}, "run.yaml.perhaps: unknown key 'cuont', .* Did you mean 'count'"),
        ({"several": [{}, {"cuont": 1}]}, r"run.yaml.several\[1\]: unknown key 'cuont', .* Did you mean 'count'"),
        ({"table": {"a": {"cuont": 1}}}, "run.yaml.table.a: unknown key 'cuont', .* Did you mean 'count'"),
        ({"zzz": 1}, r"unknown key 'zzz', expected [a-z, ]+\.$"),
        ({"inner": {"count": "three"}}, "run.yaml: inner.count: expected a whole number, got 'three'"),
        ({"inner": {"count": 1.5}}, "got '1.5'"),
        ({"flag": "perhaps"}, "flag: expected true or false, got 'perhaps'"),
        ({"name": 5}, "name: expected text, got '5'"),
        ({"name": None}, "name"),
        ({"pair": [1, 2, 3]}, "pair"),
        ({"inner": 3}, "run.yaml.inner: expected a mapping of settings, got 3"),
        ({"inner": None}, "run.yaml.inner: expected a value, got null"),
        ({"several": [3]}, r"run.yaml.several\[0\]: expected a mapping of settings, got 3"),
        ({"several": 3}, "several"),
        ({"inner": {"count": -1}}, r"inner.count: expected a number from 0, got -1; none is without it\.all"),
    ],
)
def test_a_mistake_is_named_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message) as caught:
        made(**settings)
    assert "\n" not in str(caught.value)
    assert "__main__" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(EarthSSLError, match=r"run\.yaml: expected the key 'name', found none; add it"):
        build(Outer, {"flag": True}, "run.yaml")
    splits = {"train": ["1980", "1989"], "val": ["1991", "1992"], "test": ["1995", "1999"]}
    with pytest.raises(EarthSSLError, match=r"p\.splits: expected the key 'embargo_days', found none"):
        build(PrepareConfig, {"source": "planet", "out": "x", "splits": splits}, "p")
    with pytest.raises(EarthSSLError, match="expected a mapping of settings, got 'text'"):
        build(Outer, "text", "run.yaml")  # type: ignore[arg-type]


def test_building_leaves_the_settings_as_they_were() -> None:
    settings = {"name": "x", "inner": {"count": 2}, "several": [{"count": 1}]}
    build(Outer, settings, "here")
    assert settings == {"name": "x", "inner": {"count": 2}, "several": [{"count": 1}]}


def test_a_real_config_with_dates_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "prepare:\n  source: planet\n  out: store\n  statistics: {scale: variable}\n"
        "  options: {years: 50, noise: 5e-1}\n"
        "  splits:\n    train: [1900, 1929]\n    val: [1932-01-01, 1936-12-31]\n"
        "    test: [1939-03, '1949']\n    embargo_days: 700\n"
    )
    found = build(PrepareConfig, section(file, "prepare"), str(file))
    blocks = found.splits.build()
    assert [str(block[0])[:10] for block in (blocks.train, blocks.val, blocks.test)] == [
        "1900-01-01",
        "1932-01-01",
        "1939-03-01",
    ]
    assert [str(block[1])[:10] for block in (blocks.train, blocks.val, blocks.test)] == [
        "1929-12-31",
        "1936-12-31",
        "1949-12-31",
    ]
    assert found.statistics == StatisticsConfig(scale="variable")
    assert found.options == {"years": 50, "noise": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "cannot be parsed"),
        ("a: 1\n b: 2", "cannot be parsed"),
        ("prepare:\n  out: a\n  out: b\n", "the key 'out' is given twice"),
        ("- 1\n- 2\n", "expected a mapping of names to values, got list"),
        ("", "got NoneType"),
        ("1: 2\n", "expected a mapping of names"),
    ],
)
def test_yaml_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(EarthSSLError, match=message) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_numbers_and_dates_are_read_as_they_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: 1e-4\nb: 2.5E+3\nc: 2000-01-01\nd: -3\ne: 0x1f\nf: 1e\ng: .5\nh: [1e3, x]\n")
    assert read_yaml(file) == {
        "a": 1e-4, "b": 2500.0, "c": "2000-01-01", "d": -3, "e": 31, "f": "1e", "g": 0.5, "h": [1000.0, "x"],
    }  # fmt: skip


def test_files_and_sections_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(EarthSSLError, match=r"expected a config file at .*none\.yaml, found none"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(EarthSSLError, match="expected YAML"):
        read_yaml(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text("prepare: {out: a}\nprobe: 3\n")
    assert section(file, "prepare") == {"out": "a"}
    for name in ("probe", "pretrain"):
        with pytest.raises(EarthSSLError, match=f"expected a section '{name}:' with its settings, found none"):
            section(file, name)
    file.write_text("prepear: {out: a}\n")
    with pytest.raises(EarthSSLError, match=r"got 'prepear'\. Did you mean 'prepare'"):
        section(file, "prepare")


def test_words_are_laid_over_the_settings() -> None:
    settings = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    words = [
        "--a.b",
        "2",
        "--d=y",
        "--new.deep.er",
        "[1, 2]",
        "--flag",
        "--off",
        "false",
        "--minus",
        "-5",
        "--two-words",
        "1e-3",
    ]
    expected = {"a": {"b": 2, "c": [1, 2]}, "d": "y", "new": {"deep": {"er": [1, 2]}}, "flag": True, "off": False}
    assert override(settings, words) == {**expected, "minus": -5, "two_words": 1e-3}
    assert settings == {"a": {"b": 1, "c": [1, 2]}, "d": "x"}  # untouched
    assert override(settings, []) == settings
    assert override({}, ["--when", "2000-01-01", "--text=a=b", "--last"]) == {
        "when": "2000-01-01",
        "text": "a=b",
        "last": True,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.b", "2"], "expected an override of the form --name value, got 'a.b'"),
        (["--a.b", "1", "2"], "got '2'"),
        (["-a", "2"], "got '-a'"),
        (["--"], "got '--'"),
        (["--d.e", "2"], "--d.e: 'd' holds no settings of its own"),
        (["--a", "[1,"], "--a: expected a YAML value"),
    ],
)
def test_words_that_are_no_overrides_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message):
        override({"a": {"b": 1}, "d": "x"}, words)


@dataclass(frozen=True)
class Worded:
    """Settings that take text."""

    out: str = ""
    perhaps: str | None = None
    member: int | str | None = None
    several: tuple[str, ...] | None = None
    texts: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    @staticmethod
    def hints_of(name: str, settings: Any) -> dict[str, Any]:
        """Types of what `free` holds."""
        return {"path": str, "member": int | str | None} if name == "free" else {}


WORDS = (
    "010", "no", "off", "yes", "2024", "run #3", "12:30", "1e3", "0x10", ".5", "1_000", "a: b", "- x", "!!x", "&a",
    "*a", "%x", "[a", "{a", "@x", "`x", "2024-01-01", "true", "café", "a'b", "|", ">", "<<", "=",
)  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words_of_settings_that_are_text_stay_what_was_typed(word: str) -> None:
    """In text, text or null, mappings of text, and in the free options of a source."""
    names = ["out", "perhaps", "named.x", "free.path"]
    found = build(Worded, override({}, [f"--{name}={word}" for name in names], Worded), "here")
    assert (found.out, found.perhaps, found.named["x"], found.free["path"]) == (word,) * 4
    sections = override({"a": {"out": "x"}}, ["--a.out", word, "--a.free.path", word], {"a": Worded})
    assert build(Worded, sections["a"], "a").out == sections["a"]["free"]["path"] == word


@pytest.mark.parametrize(("word", "value"), [
    ("010", 10), ("7", 7), ("-1", -1), ("no", "no"), ("12:30", "12:30"), ("1e3", "1e3"), ("run #3", "run #3"),
    ("null", None), ("'7'", "7"), ("0x1", "0x1"), ("1_0", "1_0"),
])  # fmt: skip
def test_a_number_or_text_is_a_number_only_where_it_is_one(word: str, value: Any) -> None:
    found = build(Worded, override({}, ["--member", word, "--free.member", word], Worded), "here")
    assert found.member == found.free["member"] == value
    assert type(found.member) is type(value)


def test_lists_of_text_hold_text_and_quotes_for_yaml_are_taken_off() -> None:
    words = ["--several", "[010, no, 2024]", "--texts", "['a', 1e3]", "--out", '"1980"', "--count", "010"]
    found = build(Worded, override({}, words, Worded), "here")
    assert found == Worded(out="1980", several=("010", "no", "2024"), texts=["a", "1e3"], count=10)


@pytest.mark.parametrize("word", ["12:30", "no", "1_000"])
def test_yaml_reads_no_numbers_out_of_words(word: str, tmp_path: Path) -> None:
    """Version 1.1 made 750, false and 1000 of these; a setting that is a number refuses them."""
    (tmp_path / "run.yaml").write_text(f"a: {word}\nb: 010\nc: [off, true, null, ~]\n")
    assert read_yaml(tmp_path / "run.yaml") == {"a": word, "b": 10, "c": ["off", True, None, None]}
    with pytest.raises(EarthSSLError, match="count: expected a whole number"):
        build(Worded, override({}, ["--count", word], Worded), "here")
    assert build(Worded, {"free": {"x": [word], "y": word}}, "here").free == {"x": [word], "y": word}


def test_the_nearest_name_is_only_named_where_one_is_near() -> None:
    assert nearest("embargo_day", ["embargo_days", "train"]) == " Did you mean 'embargo_days'?"
    assert nearest("xyz", ["embargo_days", "train"]) == ""


def test_a_key_that_moved_names_where_it_is_now() -> None:
    """A key of settings inside, or of those around, is named with its place; null where nothing may be is refused."""
    from earthssl.downstream.tasks.states.task import StatesConfig

    with pytest.raises(EarthSSLError, match=r"unknown key 'scratch_seed'.*Did you mean"):
        build(StatesConfig, {"store": "s", "out": "o", "scratch_seed": 1}, "probe")
    with pytest.raises(EarthSSLError, match=r"unknown key 'draws'.*Did you mean 'probe.draws'"):
        build(StatesConfig, {"store": "s", "out": "o", "scratch": {"draws": 1}}, "probe")
    with pytest.raises(EarthSSLError, match=r"probe.draws: expected a value, got null"):
        build(StatesConfig, {"store": "s", "out": "o", "draws": None}, "probe")
