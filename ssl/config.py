"""Strict YAML and command-line overrides -> frozen dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import EarthSSLError, nearest

Config = TypeVar("Config")
SECTIONS = ("prepare", "pretrain", "probe", "report")


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        EarthSSLError: If there is no such file, or it is not one mapping with text keys.
    """
    path = Path(file)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
            level[last] = yaml.safe_load(value)
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
        made: Config = parser.instantiate_classes(parsed).it
    except ArgumentError as error:
        raise EarthSSLError(f"{where}: {_shorten(str(error))}") from None
    return made


def _shorten(message: str) -> str:
    """Return jsonargparse's message in one line, without the name of our scratch argument."""
    line = " ".join(message.split())
    return line.replace("it.", "").replace('Parser key "it":', "").strip()


def check_keys(kind: Any, settings: dict[str, Any], where: str) -> None:
    """Raise on the first key that the dataclass (or one inside it) does not know."""
    if not isinstance(settings, dict):
        raise EarthSSLError(f"{where}: expected a mapping of settings, got {settings!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key, value in settings.items():
        if key not in names:
            raise EarthSSLError(f"{where}: unknown key '{key}', expected {', '.join(names)}." + nearest(key, names))
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            check_keys(hint, value, f"{where}.{key}")
        inner = typing.get_args(hint)
        if inner and dataclasses.is_dataclass(inner[0]) and isinstance(value, list):
            for number, item in enumerate(value):
                check_keys(inner[0], item, f"{where}.{key}[{number}]")
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in settings]
    if absent:
        raise EarthSSLError(f"{where}: expected the key '{absent[0]}', found none; add it")
