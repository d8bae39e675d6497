"""The public interface: its names are listed once, each is documented, and nothing else is one."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import clipfleet

ROOT = Path(__file__).parents[2]
PUBLIC = [
    "BothTowers",
    "BrokerError",
    "CardError",
    "ClipfleetError",
    "Compaction",
    "Comparison",
    "Dataset",
    "DatasetError",
    "Deduplication",
    "DependencyError",
    "EngineError",
    "ErrorRow",
    "Evaluation",
    "Export",
    "Fleet",
    "FleetBuild",
    "Index",
    "IndexCard",
    "IndexVerification",
    "ItemError",
    "ItemQueue",
    "Model",
    "ModelCard",
    "Neighbours",
    "Progress",
    "QueueFullError",
    "RecallError",
    "Removal",
    "Repair",
    "Resumption",
    "Retry",
    "SearchParameters",
    "Settings",
    "SettingsError",
    "Snapshot",
    "SourceOptions",
    "StorageError",
    "Submission",
    "Summary",
    "TensorRTModel",
    "UsageError",
    "Verification",
    "__version__",
    "both_towers",
    "build_index",
    "compact",
    "compare",
    "dedupe",
    "embed",
    "evaluate",
    "export",
    "fleet",
    "load_model",
    "load_settings",
    "remove",
    "repair",
    "resume",
    "retry",
    "status",
    "submit",
    "verify",
    "verify_index",
    "write_report",
]
DOCUMENTED = [name for name in PUBLIC if name != "__version__"]
# A shape or a dtype, or a unit: what a reader of these needs to use the result.
SAYS = {
    "Dataset.batches": (r"\(k, D\)",),
    "Dataset.dim": ("D",),
    "Dataset.dtype": ("float16 or float32",),
    "Dataset.to_arrow": ("in pixels",),
    "Dataset.vectors": (r"\(n, D\)", "L2 norms of 1"),
    "Index.alive": (r"\(rows,\)",),
    "Index.blocks": (r"\(k, D\)",),
    "Index.search": (r"\(q, D\)", "norms of 1"),
    "Index.vectors": (r"\(n, D\)",),
    "ItemQueue.put": ("`wait_s`\\s+seconds",),
    "Model.encode_images": (r"float32 \(n, D\)", "L2 norms of 1", r"uint8 array \(H, W, 3\)"),
    "Model.encode_texts": (r"float32 \(n, D\)", "L2 norms of 1"),
    "Model.similarity": (r"float32 \(n, m\)", "rows of sum 1"),
    "embed": (r"\(n, D\)", "float16 or float32", "L2 norms of 1"),
    "export": (r"\(n, D\), float16 or float32",),
}


def members_of(value: Any) -> dict[str, Any]:
    """Return the members of a class, and of those of our classes that it inherits from."""
    classes = value.__mro__ if isinstance(value, type) else ()
    ours = [one for one in reversed(classes) if one.__module__.startswith("clipfleet")]
    return {name: member for one in ours for name, member in vars(one).items()}


def described() -> Iterator[tuple[str, Any]]:
    """Yield the public names, and the public members of the classes among them."""
    for name in DOCUMENTED:
        value = getattr(clipfleet, name)
        yield name, value
        for member, found in members_of(value).items():
            plain = isinstance(found, property) or inspect.isfunction(found)
            if plain and not member.startswith("_"):
                yield f"{name}.{member}", found


MEMBERS = list(described())


def raised_in(text: str) -> set[str]:
    """Return the exceptions of a docstring's section Raises."""
    section = inspect.cleandoc(text).partition("\nRaises:\n")[2].partition("\n\n")[0]
    heads = re.findall(r"^    (\w[\w, ]*):", section, re.MULTILINE)
    return {name for head in heads for name in head.split(", ")}


def imported_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that type checkers see."""
    tree = ast.parse((ROOT / "clipfleet/__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_the_public_names_are_these_and_no_others() -> None:
    assert sorted(clipfleet.__all__) == sorted(PUBLIC)
    assert dir(clipfleet) == sorted(PUBLIC)


def test_every_public_name_is_there_and_is_the_one_that_type_checkers_see() -> None:
    seen = imported_for_type_checkers()
    assert sorted(seen) == sorted(DOCUMENTED)
    for name, module in seen.items():
        assert getattr(clipfleet, name) is getattr(import_module(module), name)


@pytest.mark.parametrize("name", ["embeds", "TYPE_CHECKINGS", "__path", "import_module"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'clipfleet' has no attribute '{name}'"):
        getattr(clipfleet, name)


@pytest.mark.parametrize(("name", "value"), MEMBERS, ids=[name for name, _ in MEMBERS])
def test_every_public_name_and_member_is_documented(name: str, value: Any) -> None:
    text = value.__doc__ or ""
    assert text.strip(), f"{name} has no docstring"
    assert not text.startswith(f"{name}("), f"{name} has the docstring that dataclass makes"
    for pattern in SAYS.get(name, ()):
        assert re.search(pattern, text), f"{name} does not say {pattern}"
    unknown = {e for e in raised_in(text) if e not in PUBLIC and not hasattr(builtins, e)}
    assert not unknown, f"{name} raises {unknown}, which are not public"


def test_what_works_on_files_or_redis_says_its_errors() -> None:
    for name, value in MEMBERS:
        if inspect.isfunction(value) and "." not in name:
            assert raised_in(value.__doc__ or ""), name
    assert raised_in(clipfleet.embed.__doc__ or "") == {"UsageError", "BrokerError", "EngineError"}


def test_the_page_of_the_interface_has_every_public_name() -> None:
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: clipfleet\.(\w+)$", page, re.MULTILINE)) == sorted(DOCUMENTED)
