"""The items of a part: those with vectors, and those in its footer that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from clipfleet.items import Item
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import footer_of, part_path, part_remedy, value_column
from clipfleet.storage.format.results import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class PartItems:
    """Some items of a part: with `rows` if they have vectors, otherwise with their `failures`."""

    items: list[Item]
    rows: pa.Table | None = None  # the columns that were asked for
    failures: Mapping[str, Failure] = field(default_factory=dict)  # by id


def read_part(dataset: Dataset, name: str, columns: Sequence[str] = ()) -> Iterator[PartItems]:
    """Yield the items of a part, a row group at a time with some columns, and the failures last.

    A part that was moved away has none.

    Raises:
        DatasetError: The part is damaged.
        StorageError: The disk did not answer.
    """
    path, column = part_path(name), value_column(dataset.info.tower)
    with open_if_exists(dataset.fs, path) as file:
        if file is None:
            return
        try:
            parquet = open_parquet(file)
            footer = footer_of(parquet.metadata, path=path)
            for rows in read_row_groups(parquet, ["id", column, *columns]):
                pairs = zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True)
                items = [Item(id=id_, **{column: value}) for id_, value in pairs]
                yield PartItems(items=items, rows=rows)
        except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: a row is no item
            where = f"{dataset.root}/{path}"
            raise parquet_error(error, where, remedy=part_remedy(name)) from error
    if footer.failures:
        failures = {failure.item.id: failure for failure in footer.failures}
        yield PartItems(items=[one.item for one in footer.failures], failures=failures)
