"""Requests to a store are repeated until they succeed, are refused for good, or take too long."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from obstore.exceptions import BaseError

from clipfleet.storage.filesystem.s3_errors import is_worth_repeating

_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")


def repeated(
    call: Callable[[], T],
    *,
    patience_s: float,
    failure: Callable[[Any], Exception],
    errors: tuple[type[Exception], ...] = (BaseError,),
    is_worth: Callable[[Any], bool] = is_worth_repeating,
) -> T:
    """Return what a call returns; the `failure` of its last error is raised.

    It is repeated after `errors` that are worth it.
    """
    ends_s, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except errors as error:
            failed = failure(error)
            if not is_worth(error) or time.monotonic() + pause_s > ends_s:
                raise failed from error
            if pause_s == _FIRST_PAUSE_S:  # only the first time
                log.warning("%s; repeated for at most %g s", failed, patience_s)
        # Random, so that not all workers of a fleet repeat at once.
        time.sleep(pause_s * (0.5 + random.random() / 2))
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
