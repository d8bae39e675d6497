"""Memory that a worker shares with the processes it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clipfleet.errors import UsageError
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


def test_nothing_leads_to_them_when_they_are_gone() -> None:
    """Their file's number is soon that of another file."""
    with shared_with_children(VARIABLE, 8):
        assert VARIABLE in os.environ
    assert VARIABLE not in os.environ


def test_a_process_that_may_not_open_them_is_told_of_the_path_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "/proc/0/fd/7")
    with pytest.raises(UsageError, match=r"cannot open /proc/0/fd/7, .*; have /proc mounted"):
        opened(VARIABLE, 8)


def test_a_process_without_a_worker_has_its_own() -> None:
    assert opened(VARIABLE, 8)[:] == bytes(8)
