"""The items of a part: those with vectors, and those in its footer that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import (
    Failure,
    footer_of,
    part_path,
    part_remedy,
    value_column,
)

_NO_FAILURES: Mapping[str, Failure] = MappingProxyType({})


def read_part(dataset: Dataset, name: str) -> Iterator[tuple[list[Item], Mapping[str, Failure]]]:
    """Yield the items of a part, a row group at a time; those that failed last, with the failures.

    A part that was moved away has none.

    Raises:
        DatasetError: The part is damaged.
        StorageError: The disk did not answer.
    """
    path, column = part_path(name), value_column(dataset.info.tower)
    try:
        file = dataset.fs.open(path)
    except FileNotFoundError:
        return
    with file:
        try:
            parquet = open_parquet(file)
            footer = footer_of(parquet.metadata, path=path)
            for rows in read_row_groups(parquet, ["id", column]):
                pairs = zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True)
                yield [Item(id=id_, **{column: value}) for id_, value in pairs], _NO_FAILURES
        except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: a row is no item
            where = f"{dataset.root}/{path}"
            raise parquet_error(error, where, remedy=part_remedy(name)) from error
    failures = {failure.item.id: failure for failure in footer.failures}
    yield [failure.item for failure in footer.failures], failures
