"""The order of files: those that take longest first, so that none is left alone at the end."""

from __future__ import annotations

import pytest

# A file's tests stay together (`--dist loadfile`); the rest of tests/unit takes seconds a file.
SLOW = (
    "tests/examples/test_readme.py",
    "tests/faults/",
    "tests/integration/",
    "tests/examples/",
    "tests/fuzz/",
    "tests/unit/test_parity_model.py",
    "tests/unit/convert/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))  # each file keeps its order


def rank(nodeid: str) -> int:
    return next((place for place, slow in enumerate(SLOW) if nodeid.startswith(slow)), len(SLOW))
