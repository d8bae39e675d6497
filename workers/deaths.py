"""The record of deaths: with which items alone in its engine a worker's child died, and how often.

A worker and its child share a few bytes. The child says in them which item its engine
has, alone; the worker, which outlives it and is told by the kernel what it died of, counts that
against the item. Nobody else can read or write the record, and it ends with the worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from clipfleet.settings import PREFIX
from workers.shared_bytes import opened, shared_with_children

KEY_LENGTH = 32  # ASCII characters
EMPTY_INPUT = "-" * KEY_LENGTH  # the key of what an engine is tried with

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
# The pid of the process whose engine has an item alone, 0: nobody's has; and the item's key.
_HAND = struct.Struct(f"=q{KEY_LENGTH}s")
_LENGTH = struct.Struct("=q")  # of the JSON behind it, in bytes
_TEXT = _HAND.size + _LENGTH.size  # where that JSON begins: {key: [times, signal]}
_MOST = 1000  # items
_SIZE = _TEXT + 100 * _MOST  # bytes; an item takes some 60

log = logging.getLogger(__name__)


class Died(NamedTuple):
    """How often in a row processes died with an item, and of which signal the last time."""

    times: int
    of: str


class Deaths:
    """Both sides of the record. The worker counts, when its child is dead; the child forgets."""

    def __init__(self, shared: mmap.mmap | None = None) -> None:
        """Keep the record in `shared`; None: no worker looks at this process."""
        self._bytes = mmap.mmap(-1, _SIZE) if shared is None else shared

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Say that this process's engine has one item, or `EMPTY_INPUT`, and nothing else."""
        _HAND.pack_into(self._bytes, 0, os.getpid(), key.encode())
        try:
            yield
        finally:
            _HAND.pack_into(self._bytes, 0, 0, b"")

    def counted(self) -> dict[str, Died]:
        """Return the deaths with each item, by its key; the oldest first.

        There are none where a process that died of a fault has written over them.
        """
        (length,) = _LENGTH.unpack_from(self._bytes, _HAND.size)
        text = self._bytes[_TEXT : _TEXT + length] or b"{}"
        try:
            found = json.loads(text).items()
            return {key: Died(int(times), str(of)) for key, (times, of) in found}
        except (AttributeError, TypeError, ValueError, RecursionError):
            return {}

    def forget(self, key: str) -> None:
        """Forget the deaths with an item."""
        counted = self.counted()
        if counted.pop(key, None):
            self._keep(counted)

    def count(self, pid: int, exit_code: int) -> None:
        """Hold a child's death against the item that its engine had alone, if it had one.

        One of a signal that others send, or of none, says nothing. One with an empty input says
        that the engine dies of anything: all is forgotten.
        """
        holder, in_hand = _HAND.unpack_from(self._bytes)
        if holder != pid or -exit_code not in OWN_SIGNALS:
            return
        _HAND.pack_into(self._bytes, 0, 0, b"")
        key, of = in_hand.decode(errors="replace"), signal.Signals(-exit_code).name
        if key == EMPTY_INPUT:
            self._keep({})
            log.error("the engine's process died of an empty input: no item is to blame")
            return
        counted = self.counted()
        times = counted[key].times + 1 if key in counted else 1
        counted[key] = Died(times, of)
        self._keep(counted)
        told = {"signal": of, "deaths": times}
        log.error("the engine's process died with one item alone in the engine", extra=told)

    def _keep(self, counted: dict[str, Died]) -> None:
        """Write the record, without the oldest where there is no room.

        A process that dies at this leaves an empty record or a whole one: the length comes last.
        """
        text = json.dumps(dict(list(counted.items())[-_MOST:])).encode()
        _LENGTH.pack_into(self._bytes, _HAND.size, 0)
        self._bytes[_TEXT : _TEXT + len(text)] = text
        _LENGTH.pack_into(self._bytes, _HAND.size, len(text))


@cache
def deaths() -> Deaths:
    """Return this process's side of its worker's record.

    Raises:
        UsageError: This process cannot open it.
    """
    return Deaths(opened(_VARIABLE, _SIZE))


@contextlib.contextmanager
def deaths_counted() -> Iterator[None]:
    """Keep a record for this worker and its children, for the whole life of the worker."""
    with shared_with_children(_VARIABLE, _SIZE):
        yield
