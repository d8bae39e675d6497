"""What holds for all tests: an interrupt is one, and the files that take longest come first."""

from __future__ import annotations

import signal

import pytest

# So that none of them is left alone at the end. A file's tests stay together (`--dist loadfile`);
# the rest of tests/unit takes seconds a file.
SLOW = (
    "tests/examples/test_readme.py",
    "tests/faults/",
    "tests/integration/",
    "tests/examples/",
    "tests/fuzz/",
    "tests/unit/test_parity_model.py",
    "tests/unit/convert/",
)


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs begin
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))  # each file keeps its order


def rank(nodeid: str) -> int:
    return next((place for place, slow in enumerate(SLOW) if nodeid.startswith(slow)), len(SLOW))
