"""The schedule of a message of single items: Celery's `eta`, `countdown` and `expires`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from celery.utils.time import maybe_iso8601

from clipfleet.errors import MessageError
from clipfleet.validation import shortened

_SHOWN_LENGTH = 100  # characters of a wrong time


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When a message is due (a countdown is an `eta` too), and when it is of no use any more."""

    eta: datetime | None
    expires: datetime | None

    def is_early(self, now: datetime) -> bool:
        """Return whether the message is not due yet."""
        return self.eta is not None and now < self.eta

    def check_expired(self, now: datetime) -> None:
        """Refuse an expired message.

        Raises:
            MessageError: It has expired.
        """
        if self.expires is not None and now >= self.expires:
            raise MessageError(
                f"it expired at {self.expires.isoformat(timespec='seconds')}, as its producer set "
                "it (expires): queue its items again if they are still wanted"
            )


def schedule_of(message: Any) -> Schedule:
    """Return the schedule of a message: in its headers, or with protocol 1 in its body.

    Raises:
        MessageError: A time is not in ISO 8601.
    """
    payload = message.payload
    fields = payload if isinstance(payload, Mapping) else message.headers
    return Schedule(eta=_time(fields, "eta"), expires=_time(fields, "expires"))


def _time(fields: Mapping[str, Any], name: str) -> datetime | None:
    value = fields.get(name)
    try:
        time = maybe_iso8601(value)
    except (AttributeError, TypeError, ValueError) as error:
        found = shortened(value, _SHOWN_LENGTH)
        raise MessageError(f"its {name} is {found}, expected a time in ISO 8601") from error
    if time is None or time.tzinfo is not None:
        return time
    return time.replace(tzinfo=timezone.utc)  # as Celery means it
