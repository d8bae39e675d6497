"""Visibility renewal uses private names of kombu; tested without a Redis."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from clipfleet.tasks.broker.visibility_renewal import renew


class Busy(set[str]):
    """Acknowledged tags; while one is looked for, the worker takes another message."""

    def __init__(self, delivered: dict[str, Any], *tags: str) -> None:
        super().__init__(tags)
        self._delivered = delivered

    def __contains__(self, tag: object) -> bool:
        self._delivered[f"after {tag}"] = None
        return super().__contains__(tag)


def test_messages_in_hand_are_renewed_while_the_worker_takes_others() -> None:
    delivered: dict[str, Any] = OrderedDict(dict.fromkeys(("a", "acknowledged", "b")))
    channel = MagicMock()
    channel.qos = SimpleNamespace(_delivered=delivered, _dirty=Busy(delivered, "acknowledged"))
    channel.connection_errors = (OSError,)
    renew(channel)
    (_, tags), _ = channel.held.renew.call_args
    assert sorted(tags) == ["a", "b"]
