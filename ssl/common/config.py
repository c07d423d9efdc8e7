"""Strict YAML and command-line overrides -> frozen dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import EarthSSLError, nearest

Config = TypeVar("Config")
SECTIONS = (
    "prepare", "prepare_others", "folds", "pretrain", "probe", "finetune", "report", "audit", "matrix", "worth",
    "few-shot", "controls",
)  # fmt: skip


_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null",
    "list": "a list", "dict": "a mapping", "tuple": "a list",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML without the traps of its version 1.1; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


# The core schema of YAML 1.2: "no" and "off" are words, 010 is ten, 12:30 is no number, and dates stay text.
_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] == "tag:yaml.org,2002:merge"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda _, node: int(node.value, 16 if node.value.startswith("0x") else 10)
)


_PLAIN = re.compile(f"(?:{_CORE['float'][0]})")


class _TextLoader(yaml.BaseLoader):
    """YAML whose every scalar is text."""


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        EarthSSLError: If there is no such file, or it is not one mapping with text keys.
    """
    path = Path(file)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise EarthSSLError(f"expected a config file at {path}, found none") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise EarthSSLError(f"{path}: expected YAML, but it cannot be parsed: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise EarthSSLError(f"{path}: expected a mapping of names to values, got {type(content).__name__}")
    return content


def section(file: str | Path, name: str) -> dict[str, Any]:
    """Return one verb's section of a run's config file.

    Raises:
        EarthSSLError: If the file has a section that no verb reads, or lacks this one.
    """
    content = read_yaml(file)
    for found in content:
        if found not in SECTIONS:
            raise EarthSSLError(
                f"{file}: expected the sections {', '.join(SECTIONS)}, got '{found}'." + nearest(found, SECTIONS)
            )
    if not isinstance(content.get(name), dict):
        raise EarthSSLError(f"{file}: expected a section '{name}:' with its settings, found none")
    return dict(content[name])


def override(settings: dict[str, Any], words: Sequence[str], kind: Any = None) -> dict[str, Any]:
    """Return the settings with `--a.b value` (or `--a.b=value`) words laid over them.

    Args:
        settings: Plain values; left as they are.
        words: As typed.
        kind: The dataclass that the settings are for, or a mapping from section to dataclass: where a setting is text,
            the word stays what was typed ("010", "no", "run #3"); elsewhere values are YAML. A dataclass may have a
            static method `hints_of(name, settings)` for the types of what lies in a free mapping of that name.

    Raises:
        EarthSSLError: If a word is not of that form.
    """
    merged = _copy(settings)
    for path, word, name in _overrides(words):
        level = merged
        for key in path[:-1]:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise EarthSSLError(f"{name}: '{key}' holds no settings of its own")
        level[path[-1]] = _typed(word, _hint(kind, path, merged), name)
    return merged


def _overrides(words: Sequence[str]) -> Iterator[tuple[list[str], str | None, str]]:
    """Yield the path, the word typed (None where it is only switched on) and the name of each override."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            raise EarthSSLError(f"expected an override of the form --name value, got '{word}'")
        path = name[2:].replace("-", "_").split(".")
        if equals:
            yield path, value, name
        else:
            yield path, (None if not rest or rest[0].startswith("--") else rest.pop(0)), name


def _hint(kind: Any, path: Sequence[str], settings: Any) -> Any:
    """Return the type of the setting at a path, Any where nothing is known of it; with kind `str` all are text."""
    if kind is str:
        return str
    if isinstance(kind, Mapping):
        return _hint(kind.get(path[0], Any), path[1:], settings.get(path[0], {})) if len(path) > 1 else Any
    for one in _members(kind):
        if dataclasses.is_dataclass(one):
            hint = typing.get_type_hints(one).get(path[0], Any)
            if len(path) == 1:
                return hint
            own = getattr(one, "hints_of", None)
            if own and (named := own(path[0], settings)):
                return named.get(path[1], Any) if len(path) == 2 else _hint(named.get(path[1], Any), path[2:], {})
            inner = settings.get(path[0]) if isinstance(settings, dict) else {}
            return _hint(hint, path[1:], inner if isinstance(inner, dict) else {})
        if typing.get_origin(one) in (dict, Mapping) and typing.get_args(one):
            value = typing.get_args(one)[1]
            return value if len(path) == 1 else _hint(value, path[1:], {})
    return Any


def _members(hint: Any) -> list[Any]:
    """Return the types of a union, or the one."""
    return [inner for one in typing.get_args(hint) for inner in _members(one)] if _union(hint) else [hint]


def _typed(word: str | None, hint: Any, name: str) -> Any:
    """Return what a word of the command line means for a setting of some type."""
    if word is None:
        return True
    kinds = _members(hint)
    if not any(_holds_text(kind) for kind in kinds):
        return _parsed(word, _Loader, name)
    if word[:1] in "[{" and (several := [kind for kind in kinds if kind is not str and _holds_text(kind)]):
        return _parsed(word, _TextLoader if all(map(_only_text, several)) else _Loader, name)
    if str not in kinds:  # one text where a list of them may be
        return _unquoted(word)
    if word in ("null", "~") and type(None) in kinds:
        return None
    if int in kinds and re.fullmatch(r"[-+]?[0-9]+", word):
        return int(word)
    if (float in kinds or bool in kinds) and not isinstance(plain := _parsed(word, _Loader, name), str):
        return plain
    return _unquoted(word)


def _holds_text(hint: Any) -> bool:
    return hint is str or any(_holds_text(one) for one in typing.get_args(hint))


def _only_text(hint: Any) -> bool:
    return hint is str or (
        bool(typing.get_args(hint))
        and all(one is Ellipsis or one is type(None) or _only_text(one) for one in typing.get_args(hint))
    )


def _unquoted(word: str) -> str:
    """Return the word without quotes that were typed for YAML round all of it."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def _parsed(word: str, loader: Any, name: str) -> Any:
    try:
        return yaml.load(word, loader)
    except (yaml.YAMLError, ValueError):
        raise EarthSSLError(f"{name}: expected a YAML value, got '{word}'") from None


def _copy(settings: Any) -> Any:
    return {key: _copy(value) for key, value in settings.items()} if isinstance(settings, dict) else settings


def build(kind: type[Config], settings: dict[str, Any], where: str) -> Config:
    """Return the dataclass that the settings describe.

    Raises:
        EarthSSLError: On an unknown key (naming the nearest valid one), a missing one or a wrong type.
    """
    check_keys(kind, settings, where)
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--it", type=kind)
    try:
        parsed = parser.parse_object({"it": copy.deepcopy(settings)})  # it writes into what it is given
        # jsonargparse 4.49 renamed it; the old name warns there and is all that earlier releases have.
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        made: Config = instantiate(parsed).it
    except ArgumentError as error:
        raise EarthSSLError(f"{where}: {_shorten(str(error))}") from None
    restored: Config = _restored(made, settings, kind, where)
    return restored


def _restored(made: Any, given: Any, hint: Any, where: str) -> Any:
    """Return what was made with text as it was given: jsonargparse reads it a second time where it may be anything."""
    if isinstance(given, str):
        free = any(one is Any or one is str for one in _members(hint))
        if not free and isinstance(made, (int, float)) and type(made) is not bool and not _PLAIN.fullmatch(given):
            kinds = " or ".join(_KINDS.get(one.__name__, str(one)) for one in _members(hint) if isinstance(one, type))
            raise EarthSSLError(f"{where}: expected {kinds}, got '{given}'; mend it")
        return given if free and not isinstance(made, str) else made
    if dataclasses.is_dataclass(made) and not isinstance(made, type) and isinstance(given, dict):
        hints = typing.get_type_hints(type(made))
        new = {
            name: _restored(getattr(made, name), value, hints[name], f"{where}.{name}") for name, value in given.items()
        }
        changed = {name: value for name, value in new.items() if value is not getattr(made, name)}
        return dataclasses.replace(made, **changed) if changed else made
    inner = next((typing.get_args(one)[-1] for one in _members(hint) if _holds_others(one)), Any)
    if isinstance(made, dict) and isinstance(given, dict) and made.keys() == given.keys():
        items = {key: _restored(made[key], value, inner, f"{where}.{key}") for key, value in given.items()}
        return made if all(items[key] is made[key] for key in items) else items
    if isinstance(made, list) and isinstance(given, list) and len(made) == len(given):
        parts = [_restored(one, value, inner, where) for one, value in zip(made, given, strict=True)]
        return made if all(new is old for new, old in zip(parts, made, strict=True)) else parts
    return made


def _holds_others(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, list, Mapping, Sequence)


def _shorten(message: str) -> str:
    """Return jsonargparse's message in one line, without the name of our scratch argument."""
    line = " ".join(message.split())
    union = re.match(
        r'Parser key "(?:it\.)?([^"]+)": Does not validate .*Subtypes: \[(.*?)\] Errors: .*Given value: (.*)', line
    )
    plain = re.match(r'Parser key "(?:it\.)?([^"]+)": Expected an? (<class \S+)\. Got value: (.*)', line)
    if found := union or plain:
        kinds = [_KINDS.get(one, one) for one in re.findall(r"<class '(\w+)'>", found[2])]
        if kinds:
            return f"{found[1]}: expected {' or '.join(kinds)}, got '{found[3]}'; mend it"
    return re.sub(r"\bit\.(?=\w)", "", line).replace('Parser key "it":', "").strip()


def check_keys(kind: Any, settings: dict[str, Any], where: str, above: Mapping[str, str] | None = None) -> None:
    """Raise on the first key that the dataclass (or one inside it) does not know, or that is null where it may not be.

    Args:
        kind: The dataclass.
        settings: Plain values.
        where: Its place, for messages.
        above: Keys of the settings around these and their places: what is looked for here may belong there.
    """
    if not isinstance(settings, dict):
        raise EarthSSLError(f"{where}: expected a mapping of settings, got {settings!r}; mend it or leave it out")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    around = {**(above or {}), **{name: f"{where}.{name}" for name in names}}
    for key, value in settings.items():
        if key not in names:
            hint = f" Did you mean '{above[key]}'?" if above and key in above else nearest_key(str(key), kind)
            raise EarthSSLError(f"{where}: unknown key '{key}', expected {', '.join(names)}." + hint)
        if value is None and not _takes_null(hints[key]):
            raise EarthSSLError(f"{where}.{key}: expected a value, got null; give one, or leave the key out")
        _check_value(hints[key], value, f"{where}.{key}", around)
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in settings]
    if absent:
        raise EarthSSLError(f"{where}: expected the key '{absent[0]}', found none; add it")


def nearest_key(key: str, kind: Any) -> str:
    """Return " Did you mean 'x'?" for the key of a dataclass, or of one inside it (x.y), that is closest."""
    hints = typing.get_type_hints(kind)
    names = list(hints)
    names += [f"{name}.{one.name}" for name, inner in hints.items() if dataclasses.is_dataclass(inner)
              for one in dataclasses.fields(inner)]  # fmt: skip
    return nearest(key, names)


def _takes_null(hint: Any) -> bool:
    return hint is Any or hint is type(None) or any(_takes_null(kind) for kind in typing.get_args(hint) if _union(hint))


def _union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _check_value(hint: Any, value: Any, where: str, around: Mapping[str, str]) -> None:
    """Check the keys of a dataclass, of an optional one, and of a list or mapping of them."""
    if dataclasses.is_dataclass(hint):
        check_keys(hint, value, where, around)
        return
    inner = [kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)]
    if len(inner) != 1:
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            check_keys(inner[0], item, f"{where}[{number}]")
    elif isinstance(value, dict) and typing.get_origin(hint) is dict:
        for name, item in value.items():
            check_keys(inner[0], item, f"{where}.{name}")
    elif isinstance(value, dict):
        check_keys(inner[0], value, where)


def describe(kind: Any, indent: str = "  ") -> str:
    """Return a dataclass's settings as lines: name, default, and what its docstring says of it."""
    hints = typing.get_type_hints(kind)
    said = _attribute_docs(kind)
    lines = []
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[f.name]):
            lines += [f"{indent}{f.name}:", describe(hints[f.name], indent + "  ")]
            continue
        if f.default is not dataclasses.MISSING:
            default = f" = {f.default!r}"
        elif f.default_factory is not dataclasses.MISSING:
            default = f" = {f.default_factory()!r}"
        else:
            default = " (required)"
        lines.append(f"{indent}{f.name}{default}\n{indent}      {said.get(f.name, '')}".rstrip())
    return "\n".join(lines)


def _attribute_lines(kind: Any) -> list[str]:
    return (inspect.getdoc(kind) or "").partition("Attributes:")[2].splitlines()


def _attribute_docs(kind: Any) -> dict[str, str]:
    """Return what the "Attributes:" sections of a class and of those it is made from say of each name."""
    said: dict[str, str] = {}
    name = ""
    for line in (line for base in reversed(inspect.getmro(kind)) for line in _attribute_lines(base)):
        found = re.match(r"^    ([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line)
        if found:
            name = found[1]
            said.update(dict.fromkeys(name.split(", "), found[2]))
        elif name and line.strip():
            said.update({part: f"{said[part]} {line.strip()}" for part in name.split(", ")})
    return said
