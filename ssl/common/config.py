"""Strict YAML and command-line overrides -> frozen dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import EarthSSLError, nearest

Config = TypeVar("Config")
SECTIONS = ("prepare", "prepare_others", "pretrain", "probe", "finetune", "report", "audit", "matrix", "controls")


_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null",
    "list": "a list", "dict": "a mapping", "tuple": "a list",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML without its traps: dates stay text, 1e-4 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != _TIMESTAMP]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


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


def override(settings: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the settings with `--a.b value` (or `--a.b=value`) words laid over them; values are YAML.

    Raises:
        EarthSSLError: If a word is not of that form.
    """
    merged = _copy(settings)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            raise EarthSSLError(f"expected an override of the form --name value, got '{word}'")
        if not equals:
            if not rest or rest[0].startswith("--"):
                value = "true"
            else:
                value = rest.pop(0)
        *path, last = name[2:].replace("-", "_").split(".")
        level = merged
        for key in path:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise EarthSSLError(f"{name}: '{key}' holds no settings of its own")
        try:
            level[last] = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise EarthSSLError(f"{name}: expected a YAML value, got '{value}'") from None
    return merged


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
    return made


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
