"""Where ids stand: with a vector, with a failure, or in a shard that has no part yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from clipfleet.error_codes import REPLACED
from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import (
    MAX_ATTEMPT,
    Failure,
    item_value,
    part_path,
    read_footer,
)
from clipfleet.storage.plan.planner import Row
from clipfleet.storage.plan.retries import attempts_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The newest part with an id; its `failure` there, or None: it has a vector.

    `attempt` counts the attempts to embed the id so far.
    """

    part: str
    failure: Failure | None
    attempt: int

    def row(self, item: Item) -> Row:
        """Return the row of a retry's plan that embeds newer content of the id."""
        if self.failure is None:
            reason = (REPLACED, "its newer content is not embedded yet")
        else:
            reason = (self.failure.error, self.failure.message)
        return item.id, item_value(item), *reason, self.attempt, self.part, item.fault


def standing_of(dataset: Dataset, parts: Mapping[str, str]) -> dict[str, Standing]:
    """Return where ids stand, by the names of the newest parts that have, or will have, them.

    An id whose part does not exist yet is not in the result.

    Raises:
        DatasetError: A part or a plan is damaged.
        StorageError: The disk did not answer.
    """
    ids_of = defaultdict(list)
    for id_, name in parts.items():
        ids_of[name].append(id_)
    found = {}
    for name, ids in sorted(ids_of.items()):
        try:
            file = dataset.fs.open(part_path(name))
        except FileNotFoundError:
            continue
        with file:
            footer = read_footer(file, path=part_path(name))
        failed = {failure.item.id: failure for failure in footer.failures}
        earlier = attempts_of(dataset, name)
        for id_ in ids:
            failure = failed.get(id_)
            attempt = earlier.get(id_, 0) + 1 if failure is None else failure.attempt
            attempt = min(attempt, MAX_ATTEMPT)
            found[id_] = Standing(part=name, failure=failure, attempt=attempt)
    return found
