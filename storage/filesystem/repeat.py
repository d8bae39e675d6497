"""Requests to a store are repeated until they succeed, are refused for good, or take too long."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from obstore.exceptions import BaseError

from clipfleet.storage.filesystem.s3_errors import is_worth_repeating

_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")


def repeated(
    call: Callable[[], T], *, patience_s: float, failure: Callable[[BaseError], Exception]
) -> T:
    """Return what a call returns; the `failure` of its last error is raised."""
    ends_s, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except BaseError as error:
            failed = failure(error)
            if not is_worth_repeating(error) or time.monotonic() + pause_s > ends_s:
                raise failed from error
            if pause_s == _FIRST_PAUSE_S:  # only the first time
                log.warning("%s; repeated for at most %g s", failed, patience_s)
        # Random, so that not all workers of a fleet repeat at once.
        time.sleep(pause_s * (0.5 + random.random() / 2))
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
