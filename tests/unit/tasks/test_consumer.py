"""Opening messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from clipfleet.errors import MessageError
from clipfleet.tasks.broker.consumer import arguments_of, used_headers
from clipfleet.tasks.items.receive import parse_delivery

ITEM = {"id": "a", "text": "b"}


def message(body: Any) -> SimpleNamespace:
    return SimpleNamespace(delivery_info={}, payload=body, headers={"id": "x"})


@pytest.mark.parametrize(
    "body", [[[[ITEM]], {"dataset": "d"}, {}], {"args": [[ITEM]], "kwargs": {"dataset": "d"}}]
)
def test_both_message_protocols_are_read(body: Any) -> None:
    assert arguments_of(message(body)) == ([[ITEM]], {"dataset": "d"})


@pytest.mark.parametrize("body", [[], [1], {}, {"args": []}, "text", 5, None, [{}, [], {}]])
def test_other_bodies_are_errors_that_the_consumer_catches(body: Any) -> None:
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        arguments_of(message(body))


def test_a_delivery_has_its_items_and_dataset() -> None:
    delivery = parse_delivery(message([[[ITEM, 5]], {"dataset": "d"}, {}]), ack=lambda: None)
    assert (delivery.items, delivery.dataset) == ([ITEM, 5], "d")
    assert parse_delivery(message([[[ITEM]], {}, {}]), ack=lambda: None).dataset is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([[]], {}),
        (["items"], {}),
        ([ITEM], {}),
        ([[ITEM], [ITEM]], {}),
        ([[ITEM]], {"dataset": 5}),
        ([[ITEM]], {"data": "d"}),
    ],
)
def test_a_delivery_of_another_form_is_refused(args: Any, kwargs: Any) -> None:
    with pytest.raises(MessageError, match=r"clipfleet\.embed_items takes one"):
        parse_delivery(message([args, kwargs, {}]), ack=lambda: None)


def test_celery_is_told_only_what_the_fleet_uses() -> None:
    names = ("timelimit", "stamps", "errbacks", "chain", "clipfleet-signature")
    odd = {name: [5] for name in names}
    assert used_headers({"task": "t", "id": "x", "retries": 2, **odd}) == {
        "task": "t",
        "id": "x",
        "retries": 2,
    }
