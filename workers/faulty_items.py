"""Faulty items: rows of a table that are no items, and become error rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clipfleet.error_codes import BAD_ITEM
from clipfleet.items import Item
from clipfleet.storage.format.results import Embedded, Failure


def with_faulty(embedded: Embedded, items: Sequence[Item]) -> Embedded:
    """Return the results of all items: of those without a fault, and a failure for each other."""
    faulty = [
        Failure(item=item, error=BAD_ITEM, message=item.fault) for item in items if item.fault
    ]
    order = {item.id: position for position, item in enumerate(items)}
    failures = sorted([*embedded.failures, *faulty], key=lambda failure: order[failure.item.id])
    return replace(embedded, failures=failures)
