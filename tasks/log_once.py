"""Troubles: what stands in a look's way, each told once for as long as it lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

Trouble = tuple[str, str]  # what cannot be done, and with which dataset or place


class Troubles:
    """What was told already, so that it is not told at each look."""

    def __init__(self) -> None:
        self._told: dict[Trouble, str] = {}  # and the reason
        self._met: set[Trouble] = set()  # in this look

    @contextmanager
    def look(self) -> Iterator[None]:
        """Look, and forget what a whole look did not meet: should it return, it is told again."""
        self._met.clear()
        yield
        for passed in self._told.keys() - self._met:
            del self._told[passed]

    def tell(self, event: str, place: str, trouble: object) -> None:
        """Log a trouble, unless it was told with this reason."""
        key, reason = (event, place), str(trouble)
        self._met.add(key)
        if self._told.get(key) != reason:
            self._told[key] = reason
            log.warning(event, extra={"dataset": place, "reason": reason})

    def forget(self, event: str, place: str) -> None:
        """Forget a trouble that is over."""
        self._told.pop((event, place), None)
