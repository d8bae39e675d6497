"""Copies in parts: whatever the sizes, the target is the source."""

import threading
from typing import Any

import numpy as np
import pytest

from clipfleet.workers.engines.cuda import host_copy
from clipfleet.workers.engines.cuda.host_copy import HostCopy


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32])
@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_every_row_is_copied_for_any_number_of_parts(
    monkeypatch: pytest.MonkeyPatch, rows: int, threads: int
) -> None:
    monkeypatch.setattr(host_copy, "_PART_BYTES", 64)
    source = np.random.default_rng(rows).normal(size=(rows, 5, 7)).astype(np.float32)
    target = np.full_like(source, np.nan)
    copy = HostCopy(threads)
    copy(target, source)
    copy.close()
    assert np.array_equal(target, source)


def test_small_copies_are_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = HostCopy(4)

    def refuse(*_: Any) -> None:
        raise AssertionError("handed over")

    monkeypatch.setattr(copy._pool, "submit", refuse)
    source = np.ones((8, 3, 64, 64), np.float32)
    target = np.zeros_like(source)
    copy(target, source)
    copy.close()
    assert np.array_equal(target, source)


def test_a_part_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copy, "_PART_BYTES", 8)
    copy = HostCopy(2)
    with pytest.raises(ValueError, match="broadcast"):
        copy(np.zeros((4, 3)), np.ones((4, 4)))
    copy.close()


def test_an_interrupt_leaves_no_thread_that_still_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copy, "_PART_BYTES", 8)
    interrupted = threading.Event()
    copied: list[int] = []

    def copyto(target: Any, source: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            interrupted.set()
            raise KeyboardInterrupt
        assert interrupted.wait(10)
        threading.Event().wait(0.05)  # the target may be freed by now, if nobody waits
        copied.append(len(target))

    monkeypatch.setattr(np, "copyto", copyto)
    copy = HostCopy(2)
    with pytest.raises(KeyboardInterrupt):
        copy(np.zeros((4, 4)), np.ones((4, 4)))
    assert copied == [2]
    copy.close()
