"""The house: imports go one way, a folder is a noun, and no module takes the name of a function."""

import ast
import importlib
import pkgutil
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "actstore": ROOT / "actstore",
    "actstore_extract": ROOT / "extract" / "actstore_extract",
    "actstore_analyze": ROOT / "analyze" / "actstore_analyze",
}
# From the ground up: each imports those in front of it alone. __init__ is what the root itself offers.
ORDER = {
    "actstore": [
        *("errors", "handing", "process", "limits", "progress", "storage", "format", "read", "write", "sql"),
        *("store", "creation", "__init__", "maintain", "commands", "testing", "__main__"),
    ],
    "actstore_extract": [
        *("hub", "shipped", "pictures", "transfers", "saved", "roles", "legend", "samples", "families", "forward"),
        *("interventions", "check", "recipe", "run", "again", "replay", "training", "demo", "models", "__init__"),
    ],
    "actstore_analyze": [
        *("devices", "neighbors", "charts", "published", "study", "measured", "commands", "judge"),
        *("overlap", "gap", "dimension", "cluster", "attention", "outliers", "cka", "probe", "lens", "sae", "score"),
        *("patch", "knockout", "registry", "report", "calls", "__init__"),
    ],
}
OLDER_NAMES = {"clustering", "density", "patching", "scores"}  # of pure functions: each hands on one room's
MAP = (ROOT / "actstore" / "ARCHITECTURE.md").read_text(encoding="utf-8")
MOST_LINES = 450
MOST_ENTRIES = {"actstore": 20, "actstore_extract": 24, "actstore_analyze": 31}


def modules(root: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a root."""
    folder = FOLDERS[root]
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join((root, *(part for part in parts if part != "__init__")))] = path
    return found


ALL = {name: path for root in FOLDERS for name, path in modules(root).items()}


def imported(name: str) -> list[tuple[int, str]]:
    """Line and name of each module of ours that a module imports: late, and for types alone, too."""
    found = []
    for node in ast.walk(ast.parse(ALL[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name in ALL]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{ALL[name]}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found += [(node.lineno, one) for one in (inner, node.module) if one in ALL][:1]
    return found


def room(name: str) -> str:
    """The package or file of a root that a module is in."""
    return [*name.split("."), "__init__"][1]


@pytest.mark.parametrize("root", FOLDERS)
def test_packages_import_those_below_them(root):
    order = ORDER[root]
    wrong = [
        f"{ALL[name].relative_to(ROOT)}:{line} {room(name)} imports {room(other)}, which is above it"
        for name in modules(root)
        if room(name) not in OLDER_NAMES
        for line, other in imported(name)
        if other.split(".")[0] == root and order.index(room(other)) > order.index(room(name))
    ]
    assert wrong == []


@pytest.mark.parametrize("root", FOLDERS)
def test_the_map_names_every_room_in_its_order(root):
    table = next(one for one in MAP.split("\n\n") if one.startswith(f"| `{FOLDERS[root].relative_to(ROOT)}/` |"))
    names = [
        name.strip("/") for line in table.splitlines()[2:] for name in re.sub(r"[`,]", " ", line.split("|")[1]).split()
    ]
    rooms = [name for name in names if name not in ("then", "a", "folder", "measure:")]
    assert rooms == [room for room in ORDER[root] if not room.startswith("__")]


@pytest.mark.parametrize("root", FOLDERS)
def test_every_room_has_its_place(root):
    rooms = {room(name) for name in modules(root)}
    assert rooms - OLDER_NAMES == {*ORDER[root]}


def test_files_import_in_no_circle():
    """Not at any time, and not for types either."""
    edges = {name: {other: line for line, other in imported(name)} for name in ALL}
    done, circles = set(), []

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            circle = [*way[way.index(name) :], name]
            circles.append(" -> ".join(f"{one}:{edges[one][other]}" for one, other in pairwise(circle)))
            return
        if name in done:
            return
        for other in edges[name]:
            visit(other, [*way, name])
        done.add(name)

    for name in ALL:
        visit(name, [])
    assert circles == []


@pytest.mark.parametrize("name", sorted(OLDER_NAMES))
def test_an_older_name_hands_on_one_room(name):
    module = importlib.import_module(f"actstore_analyze.{name}")
    (home,) = {other for _, other in imported(module.__name__)}
    assert all(getattr(module, one) is getattr(importlib.import_module(home), one) for one in module.__all__)


def test_no_file_is_a_hall():
    files = [*ALL.values(), *(ROOT / "tests").rglob("*.py")]
    assert [f"{path}: {n} lines" for path in files if (n := len(path.read_text().splitlines())) > MOST_LINES] == []


@pytest.mark.parametrize("root", FOLDERS)
def test_a_folder_shows_no_more_than_one_can_see(root):
    entries = [path.name for path in FOLDERS[root].iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES[root], sorted(entries)


def test_no_module_hides_what_a_package_offers():
    """Every module is imported; then every public name is still what it says."""
    for name in ALL:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    for name in ALL:
        if name.endswith("__main__"):
            continue
        module = sys.modules[name]
        for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
            if inner.name != "__main__":
                assert getattr(module, inner.name).__name__ == f"{name}.{inner.name}"
        for public in getattr(module, "__all__", ()):
            assert not isinstance(getattr(module, public), ModuleType), f"{name}.{public}"
