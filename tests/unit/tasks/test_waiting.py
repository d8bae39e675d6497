"""Counting the items of messages, whatever lies in Redis beside them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from clipfleet.tasks.items.waiting import Waiting, _items_of

ITEMS = "clipfleet.embed_items"


def message(body: Any, task: str = ITEMS) -> dict[str, Any]:
    return {"headers": {"task": task}, "body": base64.b64encode(json.dumps(body).encode()).decode()}


@pytest.mark.parametrize(
    ("raw", "counted"),
    [
        (message([[[1, 2, 3]], {"dataset": "d"}, {}]), [("d", 3)]),
        (message([[[1]], {}, {}]), [(None, 1)]),
        (message({"task": ITEMS, "args": [[1, 2]], "kwargs": {}}), [(None, 2)]),  # protocol 1
        (message([[], {"dataset": "d"}, {}], task="clipfleet.embed"), []),
        (message([[[1]], {"dataset": ["d"]}, {}]), []),
        (message([[5], {}, {}]), []),
        (message(None), []),
        ({"headers": {}, "body": "%"}, []),
        ({"body": None}, []),
        (["a", "list"], []),
        ("text", []),
    ],
)
def test_only_messages_of_single_items_are_counted(
    raw: Any, counted: list[tuple[str | None, int]]
) -> None:
    assert list(_items_of(raw)) == counted


def test_what_waits_is_a_sentence() -> None:
    waiting = Waiting(items=1200, reason="StorageError: no right")
    assert waiting.sentence() == ("1,200 single items wait for the dataset: StorageError: no right")
