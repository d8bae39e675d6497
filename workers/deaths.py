"""The record of deaths: with which items alone in its engine a worker's child died, and how often.

A worker and its child share a few bytes. The child says in them which item its engine
has, alone; the worker, which outlives it and is told by the kernel what it died of, counts that
against the item. Nobody else can read or write the record, and it ends with the worker.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from clipfleet.settings import PREFIX
from workers.shared_bytes import opened, shared_with_children

KEY_BYTES = 16
EMPTY_INPUT = b"\xff" * KEY_BYTES  # the key of what an engine is tried with

# What a process raises itself, by a fault in its code. All others, SIGKILL above all, are sent.
OWN_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)

_VARIABLE = f"{PREFIX}DEATHS_FILE"  # between a worker and its child
_HAND = struct.Struct("=q16s")  # the pid whose engine has an item alone, 0: none has; its key
_ENTRY = struct.Struct("=16sii")  # an item's key; its deaths, 0: a free entry; the signal
_ENTRIES = 4096  # items, in 96 KiB
_SIZE = _HAND.size + _ENTRIES * _ENTRY.size  # bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Died:
    """How often in a row processes died with an item, and of which signal the last time."""

    times: int
    of: str


class Deaths:
    """Both sides of the record; the worker writes only when its child is dead."""

    def __init__(self, shared: mmap.mmap | None = None) -> None:
        """Keep the record in `shared`; None: no worker looks at this process."""
        self._bytes = mmap.mmap(-1, _SIZE) if shared is None else shared

    @contextlib.contextmanager
    def alone(self, key: bytes) -> Iterator[None]:
        """Say that this process's engine has one item, or `EMPTY_INPUT`, and nothing else."""
        _HAND.pack_into(self._bytes, 0, os.getpid(), key)
        try:
            yield
        finally:
            _HAND.pack_into(self._bytes, 0, 0, b"")

    def counted(self) -> dict[bytes, Died]:
        """Return the deaths with each item, by its key."""
        return {
            key: Died(times=times, of=signal.Signals(number).name)
            for key, times, number in map(self._entry, range(_ENTRIES))
            if times
        }

    def forget(self, key: bytes) -> None:
        """Forget the deaths with an item."""
        for index in range(_ENTRIES):
            if self._entry(index)[0] == key:
                self._write(index, b"", 0, 0)

    def count(self, pid: int, exit_code: int) -> None:
        """Hold a child's death against the item that its engine had alone, if it had one.

        One of a signal that others send, or of none, says nothing. One with an empty input says
        that the engine dies of anything: all is forgotten.
        """
        holder, key = _HAND.unpack_from(self._bytes)
        if holder != pid or -exit_code not in OWN_SIGNALS:
            return
        _HAND.pack_into(self._bytes, 0, 0, b"")
        if key == EMPTY_INPUT:
            self._forget_all("the engine's process died of an empty input: no item is to blame")
            return
        died = self.counted().get(key)
        times = died.times + 1 if died else 1
        self._write(self._index_for(key), key, times, -exit_code)
        told = {"signal": signal.Signals(-exit_code).name, "deaths": times}
        log.error("the engine's process died with one item alone in the engine", extra=told)

    def _index_for(self, key: bytes) -> int:
        """Return where an item's entry is, or may be."""
        entries = [self._entry(index) for index in range(_ENTRIES)]
        for index, (known, _, _) in enumerate(entries):
            if known == key:
                return index
        for index, (_, times, _) in enumerate(entries):
            if not times:
                return index
        self._forget_all("more items than can be kept have ended the engine's process")
        return 0

    def _forget_all(self, why: str) -> None:
        self._bytes[_HAND.size :] = bytes(_SIZE - _HAND.size)
        log.error(why)

    def _entry(self, index: int) -> tuple[bytes, int, int]:
        key, times, number = _ENTRY.unpack_from(self._bytes, _HAND.size + index * _ENTRY.size)
        return key, times, number

    def _write(self, index: int, key: bytes, times: int, number: int) -> None:
        _ENTRY.pack_into(self._bytes, _HAND.size + index * _ENTRY.size, key, times, number)


@cache
def deaths() -> Deaths:
    """Return this process's side of its worker's record."""
    return Deaths(opened(_VARIABLE, _SIZE))


@contextlib.contextmanager
def deaths_counted() -> Iterator[None]:
    """Keep a record for this worker and its children, for the whole life of the worker."""
    with shared_with_children(_VARIABLE, _SIZE):
        yield
