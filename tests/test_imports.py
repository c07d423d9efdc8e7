"""The walls of the house: who may import whom, the missing ssl/__init__.py, sizes and docstrings."""

from __future__ import annotations

import ast
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# room -> rooms that it may not import; the root's own files wire everything together
WALLS = {"ssl": {"pretext", "downstream", "root"}, "pretext": {"downstream", "root"}, "downstream": {"pretext", "root"}}
ROOMS = ("ssl", "pretext", "downstream", "configs")
MODULES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 450


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the full dotted name of all that the source, a module in the package, imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def rooms(source: str, package: tuple[str, ...]) -> set[str]:
    """Return the rooms of the house that the source imports; "root" for the root's own modules."""
    found = set()
    for name in imported(source, package):
        first, _, rest = name.partition(".")
        if first == "earthssl":
            room = rest.partition(".")[0]
            found.add(room if room in ROOMS else "root")
    return found


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ..pretext.masks import Mask", ("earthssl", "ssl"), {"pretext"}),
        ("from .. import downstream", ("earthssl", "ssl"), {"downstream"}),
        ("from ...pretext import x", ("earthssl", "ssl", "sources"), {"pretext"}),
        ("def f():\n    import earthssl.downstream.enso", ("earthssl", "ssl"), {"downstream"}),
        ("import importlib\nimportlib.import_module('earthssl.pretext')", ("earthssl", "ssl"), {"pretext"}),
        ("from ..workflow import probe", ("earthssl", "ssl"), {"root"}),
        ("from .grid import LatLonGrid", ("earthssl", "ssl"), {"ssl"}),
        ("import ssl, numpy", ("earthssl", "ssl"), set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, package: tuple[str, ...], expected: set[str]) -> None:
    assert rooms(source, package) == expected


@pytest.mark.parametrize("room", WALLS)
def test_no_room_imports_through_a_wall(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        package = ("earthssl", *file.relative_to(ROOT).parent.parts)
        breach = rooms(file.read_text(encoding="utf-8"), package) & WALLS[room]
        assert not breach, f"{_name(file)} imports {', '.join(breach)}"


def test_the_ssl_folder_has_no_init() -> None:
    assert not (ROOT / "ssl" / "__init__.py").exists()


def test_import_ssl_from_the_root_is_pythons_own() -> None:
    command = [sys.executable, "-c", "import ssl; print(ssl.__file__)"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found) == Path(str(ssl.__file__))
    assert ROOT / "ssl" not in Path(found).parents


def test_importing_the_package_is_cheap_and_without_effect() -> None:
    heavy = "torch", "xarray", "numpy", "lightning"
    script = f"import sys, earthssl; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert found.stderr == ""


@pytest.mark.parametrize("file", [*MODULES, *TESTS], ids=_name)
def test_no_file_is_longer_than_can_be_read(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def undocumented(source: str) -> list[str]:
    """Return the public classes, functions and methods without a docstring, and "module" where it has none.

    Methods that a base class declares and documents (those of a subclass) need none of their own.
    """
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) or not tree.body else ["module"]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    missing.append(prefix + node.name)
                if isinstance(node, ast.ClassDef) and not node.bases:
                    look(node.body, f"{node.name}.")

    look(tree.body, "")
    return missing


def test_the_reader_of_docstrings_sees_what_is_missing() -> None:
    source = 'class A:\n    "doc"\n    def b(self): pass\n    def _c(self): pass\nclass D(A):\n    def b(self): pass\n'
    assert undocumented(source) == ["module", "A.b", "D"]


@pytest.mark.parametrize("file", MODULES, ids=_name)
def test_every_public_name_says_what_it_is(file: Path) -> None:
    assert undocumented(file.read_text(encoding="utf-8")) == []
