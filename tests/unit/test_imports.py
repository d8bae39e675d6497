"""The import directions of docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each package may import, at module level, itself and what is named here.
MAY_IMPORT = {
    "clipfleet": set(),
    "storage": {"clipfleet"},
    "workers": {"clipfleet", "storage"},
    "tasks": {"clipfleet", "storage", "workers"},
    "convert": {"clipfleet", "workers"},
}
OURS = set(MAY_IMPORT)
CONVERT_MAY_USE = (
    "clipfleet.workers.engines",
    "clipfleet.workers.images.preprocess",
    "clipfleet.workers.text.tokenizer",
    "clipfleet.workers.images.decode",
    "clipfleet.workers.normalise",
)


def imported_modules(nodes: list[ast.AST]) -> list[str]:
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def module_level(tree: ast.Module) -> list[ast.AST]:
    """Every node but the bodies of functions."""
    found: list[ast.AST] = []
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)
    return found


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ has no modules"
    return files


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    for path in sources(package):
        tree = ast.parse(path.read_text())
        # The command line reaches its siblings inside its commands only, so that `--help` is quick.
        nodes = module_level(tree) if package == "clipfleet" else list(ast.walk(tree))
        wrong = [m for m in imported_modules(nodes) if m.split(".")[0] in OURS - allowed]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_convert_uses_only_the_pure_parts_of_workers() -> None:
    for path in sources("convert"):
        modules = imported_modules(list(ast.walk(ast.parse(path.read_text()))))
        wrong = [
            m for m in modules if m.startswith("workers") and not m.startswith(CONVERT_MAY_USE)
        ]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
