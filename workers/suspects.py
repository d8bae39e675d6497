"""Suspects: items with which alone in the engine its process died, and what is done with them.

A suspect is tried before the rest of its shard, right after an empty input. If the engine takes
it, it was something else; if the process dies again and again, it is an error row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from clipfleet.errors import ItemError
from clipfleet.jobs import ENGINE_CRASHED, Item
from storage.dataset import Dataset
from storage.parts import Embedded
from workers.deaths import EMPTY_INPUT, KEY_LENGTH, Deaths, Died, deaths
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
    def _counted(self) -> dict[str, Died]:
        """The record as it is for the whole life of this process, but for acquittals."""
        return self._deaths.counted()

    def try_first(
        self,
        items: Sequence[Item],
        *,
        try_out: Callable[[], None],
        run: Callable[[Sequence[Item]], Embedded],
    ) -> None:
        """Have the engine take an empty input, then each suspect among `items` by itself.

        Those that it takes are acquitted: their deaths are forgotten. One that failed, for want
        of its bytes, say, may never have come to the engine.
        """
        with self._deaths.alone(EMPTY_INPUT):
            try_out()
        for item in items if self._counted else ():
            key = self._key(item)
            died = self._counted.get(key)
            if died is None:
                continue
            told = {"item": shown(item.id), "deaths": died.times, "signal": died.of}
            log.warning("item is suspect: the engine's process died with it", extra=told)
            if died.times < self._attempts and not run([item]).failures:
                del self._counted[key]
                self._deaths.forget(key)

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

    def _key(self, item: Item) -> str:
        name = json.dumps([self._work, item.id, item.uri, item.text])
        return hashlib.blake2b(name.encode(), digest_size=KEY_LENGTH // 2).hexdigest()
