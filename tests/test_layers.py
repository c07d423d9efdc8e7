"""The layers of the house: who may import whom, no circles, folders, sizes, docstrings, the missing ssl/__init__.py."""

from __future__ import annotations

import ast
import importlib
import re
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder -> rank: a file may import its own folder and folders of a lower rank. What is not in the list counts as the
# folder above it (ssl/sources/planet and ssl/sources/weather as ssl/sources), so that a folder and its parts may import
# each other.
LAYERS = {
    "ssl/common": 0,
    "ssl/runtime": 1,
    "ssl/fields": 1,
    "ssl/remote": 2,
    "ssl/model": 2,
    "ssl/sources": 3,
    "ssl/checkpoint": 3,
    "ssl/store": 4,
    "ssl/hub": 4,
    "ssl/prepare": 5,
    "ssl/data": 5,
    "ssl/inference": 5,
    "ssl/constraints": 5,
    "ssl/training": 6,
    "ssl/planning": 7,
    "pretext/cues.py": 10,
    "pretext/teacher.py": 10,
    "pretext/redundancy.py": 10,
    "pretext/prediction": 11,
    "pretext/temporal": 11,
    "pretext/spatial": 11,
    "pretext/joint_embedding": 11,
    "pretext": 12,
    "downstream/metrics": 10,
    "downstream/heads": 11,
    "downstream/features": 11,
    "downstream/training": 10,
    "downstream/results": 12,
    "downstream/evaluation": 13,
    "downstream/storms": 12,
    "downstream/tasks/enso": 14,
    "downstream/tasks/states": 15,
    "downstream/tasks/forecast": 15,
    "downstream/tasks/infilling": 15,
    "downstream/tasks/rapid_intensification": 15,
    "downstream/tasks/storm_tiles": 15,
    "downstream/tasks/explain": 15,
    "downstream/tasks/indices": 14,
    "downstream/tasks/analogues": 15,
    "downstream/tasks/parameterisation": 15,
    "downstream/tasks/segmentation": 15,
    "downstream/tasks/radiation": 15,
    "downstream/tasks/nowcasting": 15,
    "downstream/tasks/downscaling": 15,
    "downstream/tasks/bias_correction": 15,
    "downstream/finetune": 15,
    "downstream/studies": 15,
    "downstream/report": 15,
    "downstream/tasks": 16,
    "downstream": 15,
    "look/labels": 18,
    "look": 19,
    "cli": 20,
    "configs": 20,
    "": 21,  # __init__.py and __main__.py
}
# Folders that count as the one above them.
PARTS = {
    "ssl/sources/metadata",
    "ssl/sources/planet",
    "ssl/sources/weather",
    "ssl/sources/controls",
    "ssl/sources/columns",
    "ssl/sources/formats",
    "ssl/sources/radar",
}
ROOMS = ("cli", "configs", "downstream", "look", "pretext", "ssl")
MOST_FILES = 15  # a folder
LONGEST = 450  # lines of a file
MODULES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in MODULES}


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the full dotted name of all that the source, a module in the package, imports anywhere in it.

    Seen are lazy imports, those by import_module of a constant or of an f-string that begins with ".", and modules
    in tables of strings ("enso.task" beside a class), relative to the package, of a file that calls import_module.
    """
    tree = ast.parse(source)
    lazy = False
    for node in ast.walk(tree):
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
            lazy = True
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    for node in ast.walk(tree) if lazy else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\.?[a-z_.]+", node.value):
            yield ".".join([*package, node.value.strip(".")])


def arrows(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which files of the package each file imports, by their paths below the root."""
    files = {}
    for name in sources:
        parts = Path(name).with_suffix("").parts
        files[".".join(["earthssl", *(parts[:-1] if parts[-1] == "__init__" else parts)])] = name
    found: dict[str, set[str]] = {}
    for name, source in sources.items():
        found[name] = set()
        for dotted in imported(source, ("earthssl", *Path(name).parent.parts)):
            # the module itself, or the one that defines the name
            target = files.get(dotted) or files.get(dotted.rpartition(".")[0])
            if target is not None and target != name:
                found[name].add(target)
    return found


def layer(file: str, layers: Mapping[str, int] = LAYERS) -> str:
    """Return the entry of the list that a file belongs to: its own, or that of the folder it lies in."""
    folder = str(Path(file).parent)
    folder = str(Path(folder).parent) if folder in PARTS else folder
    return file if file in layers else "" if folder == "." else folder


def upwards(sources: Mapping[str, str], layers: Mapping[str, int] = LAYERS) -> list[str]:
    """Return the imports that run up or sideways, or from one of the rooms that stay apart into another."""
    wrong = []
    for name, targets in arrows(sources).items():
        for target in sorted(targets):
            here, there = layer(name, layers), layer(target, layers)
            rooms = {Path(name).parts[0], Path(target).parts[0]}
            apart = rooms == {"pretext", "downstream"}
            if here != there and (apart or not layers[there] < layers[here]):
                wrong.append(f"{name} ({here}: {layers[here]}) imports {target} ({there}: {layers[there]})")
    return wrong


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the strongly connected components with more than one file (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(file: str) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for target in graph.get(file, ()):
            if target not in index:
                visit(target)
                low[file] = min(low[file], low[target])
            elif target in stack:
                low[file] = min(low[file], index[target])
        if low[file] == index[file]:
            at = stack.index(file)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for file in graph:
        if file not in index:
            visit(file)
    return found


def folder_faults(sources: Mapping[str, str], layers: Mapping[str, int] = LAYERS) -> list[str]:
    """Return what is wrong with folders: no rank, no __init__.py with a docstring, imports in it, too many files."""
    folders: dict[str, list[str]] = {}
    for name in sources:
        folders.setdefault(str(Path(name).parent), []).append(name)
    wrong = []
    for folder, files in sorted(folders.items()):
        if folder == ".":
            continue
        if folder not in layers and folder not in PARTS:
            wrong.append(f"{folder} has no rank; add it to LAYERS")
        if len(files) > MOST_FILES:
            wrong.append(f"{folder} holds {len(files)} files, at most {MOST_FILES}")
        first = sources.get(f"{folder}/__init__.py")
        if folder == "ssl":
            wrong.append("ssl holds files; they belong into its folders")
        elif first is None or not ast.get_docstring(ast.parse(first)):
            wrong.append(f"{folder} has no __init__.py with a docstring")
        elif folder not in ("pretext", "ssl/sources") and len(ast.parse(first).body) > 1:
            wrong.append(f"{folder}/__init__.py holds more than a docstring")
    return wrong


def packaging_faults(settings: Mapping[str, Any], sources: Iterable[str]) -> list[str]:
    """Return where pyproject.toml does not name what is there: packages, and modules whose shapes are checked."""
    folders = {str(Path(name).parent) for name in sources} | {"ssl"}
    expected = {".".join(["earthssl", *(part for part in Path(folder).parts)]) for folder in folders}
    named = settings["tool"]["setuptools"]["packages"]
    wrong = [f"packages lacks {name}" for name in sorted(expected - set(named))]
    wrong += [f"packages names {name}, which is not there" for name in sorted(set(named) - expected)]
    options = settings["tool"]["pytest"]["ini_options"]["addopts"]
    checked = re.search(r"--jaxtyping-packages=(\S+)", options.replace("\\\n", ""))
    for name in checked[1].split(",")[:-1] if checked else ():  # the last is the checker
        if "/".join(name.split(".")[1:]) + ".py" not in set(sources):
            wrong.append(f"--jaxtyping-packages names {name}, which is not there")
    return wrong


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ..pretext.masks import Mask", "ssl", "pretext.masks.Mask"),
        ("from .. import downstream", "ssl", "downstream"),
        ("from ...pretext import x", "ssl.sources", "pretext.x"),
        ("def f():\n    import earthssl.downstream.heads", "ssl", "downstream.heads"),
        ("import importlib\nimportlib.import_module('earthssl.pretext')", "ssl", "pretext"),
        ("T = {'enso': ('enso.task', 'C')}\nimport_module(f'.{T}')", "downstream.tasks", "downstream.tasks.enso.task"),
        ("from .grid import LatLonGrid", "ssl.fields", "ssl.fields.grid.LatLonGrid"),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, package: str, expected: str) -> None:
    assert f"earthssl.{expected}" in set(imported(source, ("earthssl", *package.split("."))))


@pytest.mark.parametrize(
    ("file", "source", "target"),
    [
        ("ssl/store/store.py", "from ..prepare.prepare import prepare", "ssl/prepare/prepare.py"),  # up
        ("ssl/store/store.py", "def f():\n    from ..prepare import prepare", "ssl/prepare/prepare.py"),  # lazily
        ("ssl/store/store.py", "from ..hub import pull", "ssl/hub/pull.py"),  # sideways
        ("ssl/runtime/launch.py", "from importlib import import_module as i\ni('x')\n"
         "def import_module(x): ...\nimport_module('earthssl.cli.main')", "cli/main.py"),
        ("ssl/fields/grid.py", "from ...pretext import TASKS", "pretext/__init__.py"),
        ("pretext/cues.py", "from .audit import x", "pretext/audit.py"),
        ("pretext/audit.py", "from ..downstream.metrics.classes import x", "downstream/metrics/classes.py"),
        ("downstream/report/page.py", "from ...pretext.cues import x", "pretext/cues.py"),  # lower, but apart
        ("downstream/tasks/enso/task.py", "from ..registry import x", "downstream/tasks/registry.py"),
        ("downstream/tasks/states/task.py", "from ..forecast.task import x", "downstream/tasks/forecast/task.py"),
    ],
)  # fmt: skip
def test_an_arrow_up_or_sideways_is_found(file: str, source: str, target: str) -> None:
    sources = {file: source, target: ""}
    assert len(upwards(sources)) == 1
    assert upwards(sources)[0].startswith(f"{file} (")
    assert f"imports {target} (" in upwards(sources)[0]


def test_an_arrow_down_or_within_is_none() -> None:
    sources = {
        "ssl/store/store.py": "from ..fields.grid import x\nfrom .chunks import y\nfrom ...ssl.common import errors",
        "ssl/fields/grid.py": "",
        "ssl/common/errors.py": "",
        "ssl/store/chunks.py": "import ssl, numpy",
        "ssl/sources/__init__.py": "",
        "ssl/sources/planet/storms.py": "from ..axes import z",
        "ssl/sources/axes.py": "from .planet import storms",
        "downstream/tasks/states/task.py": "from ..enso.labels import x",
        "downstream/tasks/enso/labels.py": "from ....ssl.store.store import Store",
    }
    assert upwards(sources) == []


def test_a_circle_is_found() -> None:
    sources = {
        "ssl/store/a.py": "from .b import x",
        "ssl/store/b.py": "def f():\n    from . import c",
        "ssl/store/c.py": "from .a import y",
        "ssl/store/d.py": "from .a import y",
    }
    assert circles(arrows(sources)) == [["ssl/store/a.py", "ssl/store/b.py", "ssl/store/c.py"]]
    assert circles(arrows({**sources, "ssl/store/c.py": ""})) == []


def test_faults_of_folders_are_found() -> None:
    good = {"ssl/store/__init__.py": '"""A."""', "ssl/store/a.py": ""}
    assert folder_faults(good) == []
    assert folder_faults({**good, "ssl/new/__init__.py": '"""A."""'}) == ["ssl/new has no rank; add it to LAYERS"]
    assert folder_faults({"ssl/store/a.py": ""}) == ["ssl/store has no __init__.py with a docstring"]
    assert folder_faults({"ssl/store/__init__.py": ""}) == ["ssl/store has no __init__.py with a docstring"]
    more = {"ssl/store/__init__.py": '"""A."""\nfrom .a import b'}
    assert folder_faults({**good, **more}) == ["ssl/store/__init__.py holds more than a docstring"]
    many = {f"ssl/store/{k}.py": "" for k in range(15)}
    assert folder_faults({**good, **many}) == ["ssl/store holds 17 files, at most 15"]
    assert folder_faults({"ssl/a.py": ""})[-1] == "ssl holds files; they belong into its folders"


def test_faults_of_the_packaging_are_found() -> None:
    def settings(packages: list[str], checked: str) -> dict[str, Any]:
        options = {"addopts": f"-ra --jaxtyping-packages=\\\nearthssl.{checked},\\\nbeartype.beartype"}
        return {"tool": {"setuptools": {"packages": packages}, "pytest": {"ini_options": options}}}

    names, sources = ["earthssl", "earthssl.ssl", "earthssl.cli"], ["__init__.py", "cli/a.py"]
    assert packaging_faults(settings(names, "cli.a"), sources) == []
    assert packaging_faults(settings(names[:2], "cli.a"), sources) == ["packages lacks earthssl.cli"]
    assert packaging_faults(settings([*names, "earthssl.x"], "cli.a"), sources) == [
        "packages names earthssl.x, which is not there"
    ]
    assert packaging_faults(settings(names, "cli.b"), sources) == [
        "--jaxtyping-packages names earthssl.cli.b, which is not there"
    ]


def test_no_file_imports_upwards() -> None:
    assert upwards(SOURCES) == []


def test_no_two_files_import_each_other() -> None:
    assert circles(arrows(SOURCES)) == []


def test_every_folder_is_in_the_list() -> None:
    assert folder_faults(SOURCES) == []
    there = {str(Path(name).parent) for name in SOURCES} | set(SOURCES) | {""}
    assert [name for name in LAYERS if name not in there] == []


def test_pyproject_lists_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert packaging_faults(settings, SOURCES) == []


def test_the_public_names_are_there() -> None:
    """Names in strings: each leads to the file that defines it."""
    package = importlib.import_module("earthssl")
    for name in package.__all__:
        if name != "__version__":
            defined = getattr(package, name)
            assert defined.__module__ == f"earthssl{package._PUBLIC[name]}"


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
