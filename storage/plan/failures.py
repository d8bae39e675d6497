"""Standing failures: the rows of errors tables that no retry has superseded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass

from clipfleet.error_codes import ERROR_CODES
from clipfleet.storage.format.dataset import Dataset, error_names, part_names
from clipfleet.storage.format.errors_table import read_errors
from clipfleet.storage.format.parts import Failure
from clipfleet.storage.plan.retries import RetriedIds, job_of


@dataclass(kw_only=True, slots=True)
class ErrorClass:
    """The number of items that ended in a class of error, and the first of them."""

    count: int
    first: Failure


def count_failures(dataset: Dataset) -> Counter[str]:
    """Return the number of items that ended in each class of error."""
    return Counter({code: found.count for code, found in error_classes(dataset).items()})


def error_classes(dataset: Dataset, only: Collection[str] = ()) -> dict[str, ErrorClass]:
    """Return the classes of error that occur (of those in `only`, if given).

    They are in the order of `ERROR_CODES`. The first failure of a class is the first in the order
    of the tables' names. Memory stays flat.

    Raises:
        DatasetError: An errors table or a plan is damaged.
        StorageError: The disk did not answer.
    """
    found: dict[str, ErrorClass] = {}
    with closing(RetriedIds(dataset, part_names(dataset.fs))) as retried:
        for _, failure in standing_failures(dataset, retried):
            if only and failure.error not in only:
                continue
            if failure.error in found:
                found[failure.error].count += 1
            else:
                found[failure.error] = ErrorClass(count=1, first=failure)
    order = {code: n for n, code in enumerate(ERROR_CODES)}
    return dict(sorted(found.items(), key=lambda entry: (order.get(entry[0], len(order)), entry)))


def standing_failures(dataset: Dataset, retried: RetriedIds) -> Iterator[tuple[str, Failure]]:
    """Yield the names of parts and the rows of their errors tables, but those in `retried`.

    Raises:
        DatasetError: An errors table is damaged.
        StorageError: The disk did not answer.
    """
    parts = part_names(dataset.fs)
    for name in sorted(
        error_names(dataset.fs) & parts
    ):  # the parts of other tables were moved away
        for failure in read_errors(dataset, name):
            if not retried.has(failure.item.id, after=job_of(name)):
                yield name, failure
