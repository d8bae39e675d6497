"""Where ids stand: with a vector, with a failure, or in a shard that has no part yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from clipfleet.error_codes import REPLACED
from clipfleet.items import Item
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.footer import MAX_ATTEMPT
from clipfleet.storage.format.part_items import PartItems, read_part
from clipfleet.storage.format.parts import item_value, part_path, read_footer, value_column
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.moves import read_moves
from clipfleet.storage.plan.planner import Row
from clipfleet.storage.plan.retries import RetriedIds, attempts_of, job_of

Choose = Callable[[str, Sequence[str], PartItems], Sequence[int]]  # see `standing_items`


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The newest part with an id; its `failure` there, or None: it has a vector.

    `attempt` counts the attempts to embed the id so far.
    """

    part: str
    failure: Failure | None
    attempt: int

    def row(self, item: Item, *, meanwhile: str = "its newer content is not embedded yet") -> Row:
        """Return the row of a retry's plan that embeds newer content of the id.

        `meanwhile` is the error of a vector until then.
        """
        if self.failure is None:
            reason = (REPLACED, meanwhile)
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
        with open_if_exists(dataset.fs, part_path(name)) as file:
            if file is None:
                continue
            footer = read_footer(file, path=part_path(name))
        failed = {failure.item.id: failure for failure in footer.failures}
        earlier = attempts_of(dataset, name)
        for id_ in ids:
            failure = failed.get(id_)
            attempt = earlier.get(id_, 0) + 1 if failure is None else failure.attempt
            attempt = min(attempt, MAX_ATTEMPT)
            found[id_] = Standing(part=name, failure=failure, attempt=attempt)
    return found


def standing_items(
    dataset: Dataset, choose: Choose, columns: Sequence[str] = ()
) -> Iterator[tuple[Item, Standing]]:
    """Yield the chosen items, each with where it stands.

    `choose` gets the id of a job, the uris (as `moved.json` has them) or texts of some of its
    items, and these items with some columns; it returns positions. An item that a retry has, whose
    part does not exist yet, is not in the result.

    Raises:
        DatasetError: A part or a plan is damaged.
        StorageError: The disk did not answer.
    """
    moves = read_moves(dataset)
    with closing(RetriedIds(dataset)) as retried:
        for name in sorted(part_names(dataset.fs)):
            job = job_of(name)
            earlier: dict[str, int] | None = None
            for part in read_part(dataset, name, columns):
                values = [moves.uri(item_value(item), job) for item in part.items]
                for n in choose(job, values, part):
                    id_ = part.items[n].id
                    if retried.has(id_, after=job):
                        continue  # a newer part has it, or will have it
                    failure = part.failures.get(id_)
                    if earlier is None:
                        earlier = attempts_of(dataset, name)
                    attempt = failure.attempt if failure else earlier.get(id_, 0) + 1
                    standing = Standing(
                        part=name, failure=failure, attempt=min(attempt, MAX_ATTEMPT)
                    )
                    item = Item(id=id_, **{value_column(dataset.info.tower): values[n]})
                    yield item, standing
