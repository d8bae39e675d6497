"""What a child tells its worker of its progress."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

from clipfleet.tasks.worker import watchdog as deadline
from clipfleet.tasks.worker.watchdog import ChildState, Working


def state(shared: mmap.mmap, number: int = 0) -> tuple[int, ...]:
    return list(struct.iter_unpack("=qqqq", shared[:]))[number]


@pytest.fixture
def watched() -> mmap.mmap:
    return mmap.mmap(-1, 32)


def test_a_child_tells_that_it_works_and_that_it_gets_on(watched: mmap.mmap) -> None:
    working = Working(watched)
    assert state(watched)[0] == 0
    with working.at_work():
        pid, first, *_ = state(watched)
        assert pid == os.getpid()
        working.progress()
        assert state(watched)[1] > first
    assert state(watched)[0] == 0


def test_a_child_counts_its_items_and_goes_on_with_the_count_of_the_one_before_it(
    watched: mmap.mmap,
) -> None:
    for items, done in ((5, 5), (2, 7)):
        working = Working(watched)  # the second one replaces the first
        working.progress(9)  # before the work
        with working.at_work():
            working.progress(items)
            assert deadline.child_states(watched) == [
                ChildState(pid=os.getpid(), items=done, in_work=items)
            ]


def test_children_tell_in_places_of_their_own() -> None:
    watched = mmap.mmap(-1, 64)
    first, second = Working(watched, 0), Working(watched, 1)
    with first.at_work():
        assert (state(watched, 0)[0], state(watched, 1)[0]) == (os.getpid(), 0)
        with second.at_work():
            pass
        assert (state(watched, 0)[0], state(watched, 1)[0]) == (os.getpid(), 0)


def test_who_is_late_wakes_nobody_after_the_work(watched: mmap.mmap) -> None:
    working = Working(watched)
    with working.at_work():
        pass
    working.progress()
    assert state(watched)[0] == 0


def test_work_that_fails_has_no_deadline_any_more(watched: mmap.mmap) -> None:
    working = Working(watched)
    with pytest.raises(OSError, match="disk"), working.at_work():
        raise OSError("disk")
    assert state(watched)[0] == 0


def test_a_workers_children_find_the_memory_while_the_worker_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(deadline._VARIABLE, raising=False)
    assert deadline.open_shared()[:] == bytes(32)  # of no worker: its own
    with deadline._shared_with_children(2) as shared:
        deadline.open_shared()[32:] = bytes(range(32))
        assert shared[32:] == bytes(range(32))
    assert deadline._VARIABLE not in os.environ  # its file's number is soon another file's
