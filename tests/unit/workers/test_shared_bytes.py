"""Memory that a worker shares with the processes it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workers.shared_bytes import opened, shared_with_children

VARIABLE = "CLIPFLEET_SHARED_IN_A_TEST"
CHILD = f"""
from workers.shared_bytes import opened
shared = opened({VARIABLE!r}, 8)
shared[:] = bytes(reversed(shared[:]))
"""


@pytest.fixture(autouse=True)
def _variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def test_a_child_reads_what_its_worker_wrote_and_the_worker_what_it_wrote() -> None:
    with shared_with_children(VARIABLE, 8) as shared:
        assert shared[:] == bytes(8)
        shared[:] = b"abcdefgh"
        subprocess.run([sys.executable, "-c", CHILD], check=True)
        assert shared[:] == b"hgfedcba"


def test_a_process_without_a_worker_has_its_own() -> None:
    assert opened(VARIABLE, 8)[:] == bytes(8)
