"""Writers in threads; a test chooses the order of their file system operations."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from clipfleet.storage.format.dataset import Dataset
from tests.datasets import Crash, WatchedFilesystem, crashing_after
from tests.integration.support import PATIENCE_S


class Turns:
    """Runs one file system operation of one thread at a time, in the order of a schedule."""

    def __init__(self, schedule: Sequence[int], threads: int) -> None:
        self._schedule = list(schedule)
        self._running = set(range(threads))
        self._waiting: set[int] = set()
        self._turn: int | None = None
        self._changed = threading.Condition()

    def wait(self, thread: int) -> None:
        with self._changed:
            self._waiting.add(thread)
            self._choose()
            assert self._changed.wait_for(lambda: self._turn == thread, timeout=PATIENCE_S)
            self._turn = None
            self._waiting.discard(thread)

    def leave(self, thread: int) -> None:
        with self._changed:
            self._running.discard(thread)
            self._choose()

    def _choose(self) -> None:
        """When every running thread waits, run the next thread of the schedule."""
        if self._turn is None and self._running and self._waiting >= self._running:
            choice = self._schedule.pop(0) if self._schedule else 0
            self._turn = sorted(self._running)[choice % len(self._running)]
            self._changed.notify_all()


def run_interleaved(
    dataset: Dataset,
    schedule: Sequence[int],
    crash_after: Sequence[int | None],
    writer: Callable[[Dataset, int], None],
) -> None:
    """Run writers in threads, in the schedule's order; some of them are killed."""
    turns = Turns(schedule, len(crash_after))
    failures: list[BaseException] = []

    def run(thread: int) -> None:
        operations = crash_after[thread]
        own = dataset if operations is None else crashing_after(dataset, operations)
        fs = WatchedFilesystem(own.fs, lambda: turns.wait(thread))
        try:
            writer(dataclasses.replace(own, fs=fs), thread)
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - the edge of the thread
            failures.append(error)
        finally:
            turns.leave(thread)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(crash_after))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert failures == []


def overtaken(
    dataset: Dataset, *, after: int, overtake: Callable[[], object], crash_after: int
) -> Dataset:
    """Return the dataset of a process that pauses after some operations and is killed later.

    During the pause another process does all of its work.
    """
    operations = 0

    def before() -> None:
        nonlocal operations
        if operations == after:
            overtake()
        if operations == crash_after:
            raise Crash
        operations += 1

    return dataclasses.replace(dataset, fs=WatchedFilesystem(dataset.fs, before))
