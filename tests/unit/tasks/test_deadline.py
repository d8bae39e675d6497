"""What a child tells its worker of its progress."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tasks.deadline import Working


def state(path: Path) -> tuple[int, ...]:
    return struct.unpack("=qq", path.read_bytes())


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.write_bytes(bytes(16))
    return path


def test_a_child_tells_that_it_works_and_that_it_gets_on(watched: Path) -> None:
    working = Working(str(watched))
    assert state(watched)[0] == 0
    with working.at_work():
        pid, first = state(watched)
        assert pid == os.getpid()
        working.progress()
        assert state(watched)[1] > first
    assert state(watched)[0] == 0


def test_who_is_late_wakes_nobody_after_the_work(watched: Path) -> None:
    working = Working(str(watched))
    with working.at_work():
        pass
    working.progress()
    assert state(watched)[0] == 0


def test_work_that_fails_has_no_deadline_any_more(watched: Path) -> None:
    working = Working(str(watched))
    with pytest.raises(OSError, match="disk"), working.at_work():
        raise OSError("disk")
    assert state(watched)[0] == 0


def test_where_nobody_looks_nothing_is_told() -> None:
    working = Working(None)
    with working.at_work():
        working.progress()
