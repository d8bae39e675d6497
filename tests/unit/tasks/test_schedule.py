"""When a message of single items is due, and when it is refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from clipfleet.errors import MessageError
from clipfleet.messages import EMBED_ITEMS_TASK
from clipfleet.settings import load_settings
from clipfleet.tasks.items import receive
from clipfleet.tasks.items.schedule import schedule_of

NOW = datetime(2026, 12, 1, tzinfo=timezone.utc)
ITEM = {"id": "a", "text": "b"}


def message(body: Any = None, **headers: Any) -> Any:
    return SimpleNamespace(
        payload=body or [[[ITEM]], {}, {}],
        headers={"id": "x", **headers},
        delivery_info={},
        _raw={},
        ack_log_error=lambda *_: None,
    )


def test_times_are_read_from_headers_and_from_the_body_of_protocol_1() -> None:
    late = (NOW + timedelta(seconds=30)).isoformat()
    assert schedule_of(message(eta=late)).is_early(NOW)
    assert schedule_of(message({"args": [], "kwargs": {}, "eta": late})).is_early(NOW)
    assert not schedule_of(message(eta=NOW.isoformat())).is_early(NOW)
    assert not schedule_of(message()).is_early(NOW)
    naive = schedule_of(message(eta="2026-12-01T00:00:01")).eta
    assert naive == NOW + timedelta(seconds=1)


def test_what_expired_is_refused_with_its_time() -> None:
    schedule_of(message(expires=(NOW + timedelta(seconds=1)).isoformat())).check_expired(NOW)
    with pytest.raises(MessageError, match=r"expired at 2026-12-01T00:00:00\+00:00"):
        schedule_of(message(expires=NOW.isoformat())).check_expired(NOW)


@pytest.mark.parametrize("value", [5, "tomorrow", [1]])
def test_a_time_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(MessageError, match=r"its eta is .* expected a time in ISO 8601"):
        schedule_of(message(eta=value))


@pytest.mark.parametrize("stored", [True, False])
def test_a_message_before_its_time_is_put_aside_and_not_embedded(
    stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    batcher = SimpleNamespace(add=lambda _: told.append("added"))
    consumer = SimpleNamespace(
        connection_errors=(OSError,),
        call_soon_ack=lambda ack: ack(),
        timer=SimpleNamespace(call_after=lambda *_: told.append("later")),
    )
    early = message(eta=(datetime.now(timezone.utc) + timedelta(hours=1)).isoformat())
    early.ack_log_error = lambda *_: told.append("acknowledged")
    monkeypatch.setattr(receive, "_defer", lambda *_, **__: stored)
    task = SimpleNamespace(batcher=batcher, name=EMBED_ITEMS_TASK)
    settings = load_settings(tower="txt")
    receive._receive(task, consumer, settings, early)
    assert told == (["acknowledged"] if stored else ["later"])
    receive._receive(task, consumer, settings, message())
    assert told[1:] == ["added"]
