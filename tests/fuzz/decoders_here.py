"""Decoders without processes: the watch sees what they read."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from clipfleet.error_codes import MISSING
from clipfleet.errors import ItemError, StorageError
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.workers.images.decode import ImageLimits, configure_pillow
from clipfleet.workers.images.decoder_process import _answer
from clipfleet.workers.images.decoders import Outcome
from clipfleet.workers.images.region import Layout, Room
from tests.fuzz.process_targets import decoder_without_process


class DecodersHere:
    """What `Decoders` does with one process, in this one."""

    def __init__(self, limits: ImageLimits, layout: Layout, **_: object) -> None:
        configure_pillow(limits)
        self._limits = limits
        self._decoder, theirs = decoder_without_process(layout)
        theirs.close()
        self._room = Room(self._decoder.region)

    def take_work(self) -> tuple[float, float]:
        """Return the seconds of reading and of decoding."""
        seconds: tuple[float, float] = self._decoder.take_work()
        return seconds

    def run(self, items: Sequence[Item], **_: Any) -> Generator[Outcome, None, None]:
        """Yield a picture or a failure for each of `items`."""
        for item in items:
            if item.uri is None:
                yield Failure(item=item, error=MISSING, message="a text")
                continue
            region = self._decoder.region
            answer = _answer({"uri": item.uri}, None, self._limits, region, self._room)
            found = self._decoder._parsed(answer)
            if isinstance(found, StorageError):
                raise found
            if isinstance(found, ItemError):
                yield Failure(item=item, error=found.code, message=str(found))
            else:
                yield found
