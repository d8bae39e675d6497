"""The import directions of docs/architecture.md: packages and the rooms in them have an order."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("storage", "retrieval", "workers", "tasks", "convert")  # imported as clipfleet.storage …

# Each may import itself and the folders named here; "clipfleet" are the contracts in its root.
MAY_IMPORT = {
    "clipfleet": set(),
    "storage": {"clipfleet"},
    "reader": {"clipfleet", "storage"},
    "retrieval": {"clipfleet", "storage", "reader"},
    "workers": {"clipfleet", "storage"},
    "tasks": {"clipfleet", "storage", "reader", "retrieval", "workers"},
    "convert": {"clipfleet", "workers"},
    "api": {"clipfleet", "storage", "reader", "retrieval", "workers", "tasks"},
    "cli": {"clipfleet", "storage", "reader", "retrieval", "workers", "tasks", "convert", "api"},
}
COMMANDS = "clipfleet.convert.extract_features"  # the guide's, which stand beside its others
CONVERT_MAY_USE = (
    "clipfleet.workers.engines",
    "clipfleet.workers.images",
    "clipfleet.workers.text",
)


def module_files() -> Iterator[tuple[str, Path]]:
    for folder in (*FOLDERS, "clipfleet/api", "clipfleet/cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join(("clipfleet", Path(folder).name, *inner))
            yield name.removesuffix(".__init__"), path
    for path in sorted((ROOT / "clipfleet").glob("*.py")):
        if path.stem != "__init__":  # its names are imported when they are used
            yield f"clipfleet.{path.stem}", path
    for folder in ("architectures", "settings"):
        for path in sorted((ROOT / "clipfleet" / folder).glob("*.py")):
            yield f"clipfleet.{folder}.{path.stem}".removesuffix(".__init__"), path


MODULES = dict(module_files())


@cache
def imports_of(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & MODULES.keys()


def package_of(module: str) -> str:
    if module == "clipfleet.model":
        return "api"
    if module.startswith(COMMANDS):
        return "cli"
    second = module.split(".")[1].replace("__main__", "cli")
    return second if second in MAY_IMPORT else "clipfleet"


def room_of(module: str) -> str:
    """Return the innermost package that a module is in, or the module if it stands in none."""
    parent = module.rpartition(".")[0]
    stands_alone = parent in {
        "clipfleet",
        "clipfleet.cli",
        "clipfleet.workers.engines",
    } or parent in {f"clipfleet.{folder}" for folder in FOLDERS}
    return module if stands_alone or MODULES[module].stem == "__init__" else parent


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package: str) -> None:
    modules = [module for module in MODULES if package_of(module) == package]
    assert modules
    for module in modules:
        imported = imports_of(MODULES[module])
        wrong = [m for m in imported if package_of(m) not in MAY_IMPORT[package] | {package}]
        assert not wrong, f"{module} imports {wrong}"


def test_no_two_rooms_import_each_other() -> None:
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(m) for m in imports_of(path)} - {room})
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other: {' -> '.join(error.args[1])}")


def test_convert_uses_only_the_pure_parts_of_workers() -> None:
    for module, path in MODULES.items():
        if package_of(module) == "convert":
            workers = {m for m in imports_of(path) if package_of(m) == "workers"}
            wrong = [m for m in workers if not m.startswith(CONVERT_MAY_USE)]
            assert not wrong, f"{module} imports {wrong}"


def test_modules_are_imported_by_one_name() -> None:
    """`import tasks…` would find the folder of that name, and load each module a second time."""
    folders = "|".join(FOLDERS)
    candidate = re.compile(rf"^\s*(?:from|import)\b.*(?<![.\w])(?:{folders})\b", re.MULTILINE)
    for folder in (*FOLDERS, "clipfleet", "bench", "examples", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if not candidate.search(text):  # to parse all files takes two seconds
                continue
            for node in ast.walk(ast.parse(text)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                )
                wrong = [name for name in names if name.split(".")[0] in FOLDERS]
                assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_no_room_is_crowded() -> None:
    for folder in (*FOLDERS, "clipfleet"):
        for place in [ROOT / folder, *(ROOT / folder).rglob("*/")]:
            if place.is_dir() and not place.is_symlink():
                modules = [
                    path.name for path in place.glob("*.py") if not path.stem.startswith("__")
                ]
                assert len(modules) <= 15, f"{place.relative_to(ROOT)} has {len(modules)} modules"
