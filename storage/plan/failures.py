"""Standing failures: those in the footers of parts that no retry has superseded.

Not in the errors tables, which a commit writes and deletes after its part appeared: a walk over
one list of parts counts each id once, also while a retry writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from clipfleet.error_codes import ERROR_CODES
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.dataset import Dataset, error_names, part_names, record_names
from clipfleet.storage.format.parts import part_path, read_footer
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.retries import RetriedIds, job_of


@dataclass(kw_only=True, slots=True)
class ErrorClass:
    """The number of items that ended in a class of error, and the first ones of them."""

    count: int
    examples: list[Failure]

    @property
    def first(self) -> Failure:
        return self.examples[0]


def count_failures(dataset: Dataset) -> Counter[str]:
    """Return the number of items that ended in each class of error."""
    return Counter({code: found.count for code, found in error_classes(dataset).items()})


def error_classes(
    dataset: Dataset, only: Collection[str] = (), *, examples: int = 1
) -> dict[str, ErrorClass]:
    """Return the classes of error that occur (of those in `only`, if given).

    They are in the order of `ERROR_CODES`. A class has so many `examples`, the first ones in the
    order of the parts' names. Memory stays flat.

    Raises:
        DatasetError: A part or a plan is damaged.
        StorageError: The disk did not answer.
    """
    found: dict[str, ErrorClass] = {}
    parts, failed = list_parts(dataset)
    with closing(RetriedIds(dataset, parts)) as retried:
        for _, failure in standing_failures(failed, partial(read_failures, dataset), retried):
            if only and failure.error not in only:
                continue
            if failure.error in found:
                of_class = found[failure.error]
                of_class.count += 1
                if len(of_class.examples) < examples:
                    of_class.examples.append(failure)
            else:
                found[failure.error] = ErrorClass(count=1, examples=[failure])
    order = {code: n for n, code in enumerate(ERROR_CODES)}
    return dict(sorted(found.items(), key=lambda entry: (order.get(entry[0], len(order)), entry)))


def failed_items(dataset: Dataset, job_id: str) -> int:
    """Return how many items of a job ended as errors that no retry has superseded.

    Raises:
        DatasetError: A part or a plan is damaged.
        StorageError: The disk did not answer.
    """
    parts, failed = list_parts(dataset)
    of_job = (name for name in failed if job_of(name) == job_id)
    with closing(RetriedIds(dataset, parts)) as retried:
        return sum(1 for _ in standing_failures(of_job, partial(read_failures, dataset), retried))


def standing_failures(
    parts: Iterable[str], failures_of: Callable[[str], Iterable[Failure]], retried: RetriedIds
) -> Iterator[tuple[str, Failure]]:
    """Yield the names of parts and their failures, but those in `retried`.

    Raises:
        DatasetError: A part is damaged.
        StorageError: The disk did not answer.
    """
    for name in parts:
        for failure in failures_of(name):
            if not retried.has(failure.item.id, after=job_of(name)):
                yield name, failure


def list_parts(dataset: Dataset) -> tuple[set[str], list[str]]:
    """Return the names of all parts, and in order those that may have standing failures."""
    # In this order. A part's errors table is written before its record, and deleted after the parts
    # that supersede all of its failures: so a part with a record and without a table has none.
    recorded = record_names(dataset.fs)
    with_table = error_names(dataset.fs)
    parts = part_names(dataset.fs)
    return parts, sorted(parts - (recorded - with_table))


def read_failures(dataset: Dataset, name: str) -> tuple[Failure, ...]:
    """Return the failures in a part's footer; none if the part was moved away.

    Raises:
        DatasetError: The part is damaged.
        StorageError: The disk did not answer.
    """
    with open_if_exists(dataset.fs, part_path(name)) as file:
        return read_footer(file, path=part_path(name)).failures if file else ()
