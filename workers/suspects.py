"""Suspects: items with which alone in the engine its process died, and what is done with them.

A suspect is tried first, in a process in which nothing but an empty input went before it. If the
engine takes it, it was something else; if the process dies again and again, it is an error row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property

from clipfleet.errors import ItemError
from clipfleet.jobs import ENGINE_CRASHED, Item
from storage.dataset import Dataset
from workers.deaths import EMPTY_INPUT, KEY_BYTES, Deaths, Died, deaths
from workers.read import shown

log = logging.getLogger(__name__)


class Suspects:
    """The suspects among the items of one piece of work."""

    def __init__(self, deaths: Deaths, *, work: str, attempts: int) -> None:
        """`work` names a run of items as no other: an item that is planned anew is a new one.

        An item is an error after `attempts` deaths.
        """
        self._deaths = deaths
        self._work = work
        self._attempts = attempts

    @classmethod
    def within(cls, dataset: Dataset, name: str, *, attempts: int) -> Suspects:
        """Return those of a dataset's shard, or of the items that came to it singly (no name)."""
        work = json.dumps([dataset.root, dataset.info.created_at, name])
        return cls(deaths(), work=work, attempts=attempts)

    @cached_property
    def _counted(self) -> dict[bytes, Died]:
        """The record as it is for the whole life of this process, but for acquittals."""
        return self._deaths.counted()

    def among(self, items: Sequence[Item]) -> list[Item]:
        """Return the items that are to be tried first; they are told of in the log."""
        found = []
        for item in items if self._counted else ():
            died = self._counted.get(self._key(item))
            if died is not None:
                told = {"item": shown(item.id), "deaths": died.times, "signal": died.of}
                log.warning("item is suspect: the engine's process died with it", extra=told)
                if died.times < self._attempts:
                    found.append(item)
        return found

    @contextlib.contextmanager
    def alone(self, items: Sequence[Item]) -> Iterator[None]:
        """Say that the engine has an item, the only one of `items`.

        Raises:
            ItemError: Its process died with that item too often.
        """
        (item,) = items
        key = self._key(item)
        died = self._counted.get(key)
        if died is not None and died.times >= self._attempts:
            times = f"{died.times} times in a row, each time alone in it"
            reason = f"it ended the engine's process {times}; the last time of {died.of}"
            raise ItemError(ENGINE_CRASHED, reason)
        with self._deaths.alone(key):
            yield

    def tried(self) -> contextlib.AbstractContextManager[None]:
        """Say that the engine has an empty input."""
        return self._deaths.alone(EMPTY_INPUT)

    def acquit(self, item: Item) -> None:
        """Forget the deaths with an item: the engine took it."""
        key = self._key(item)
        self._counted.pop(key, None)
        self._deaths.forget(key)

    def _key(self, item: Item) -> bytes:
        name = json.dumps([self._work, item.id, item.uri, item.text])
        return hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest()
