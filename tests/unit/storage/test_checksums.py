"""Checksums: of pages, of a part's payload and of its file; and files without them."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.commit import commit, complete
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.record import read_record
from clipfleet.storage.format.checksums import file_sha256, payload_sha256
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import open_parquet
from clipfleet.storage.format.parts import part_path
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import embedded, files_of, make_card, memory_dataset, texts

FIRST = "00001-0000000"


@pytest.fixture
def dataset() -> Dataset:
    """Five planned texts in two shards; b fails, and fails again in a retry."""
    made = memory_dataset()
    plan_items(made, ListSource(texts(*"abcd", "猫")), 3)
    embed(made)
    plan_retry(made, (), 3)
    embed(made)
    return made


def embed(dataset: Dataset) -> None:
    for shard in list(missing_shards(dataset)):
        rows = embedded(PlanReader(dataset).read(shard), failing="b")
        commit(dataset, shard.name, rows, card=make_card(), worker="w")


def table_of(rows: int = 5, *, first: str = "") -> pa.Table:
    ids = [first or "a", "", "猫", "bc", "d" * 100][:rows]
    vectors = pa.array([[n, -n] for n in range(rows)], pa.list_(pa.float16(), 2))
    return pa.table({"id": ids, "width": pa.array(range(rows), pa.int32()), "embedding": vectors})


def test_the_digest_of_rows_does_not_depend_on_their_pieces() -> None:
    table = table_of()
    pieces = [table.slice(0, 2), table.slice(2, 0), table.slice(2, 3)]
    assert payload_sha256(pieces, {}) == payload_sha256([table], {})
    assert payload_sha256([pa.concat_tables(pieces)], {}) == payload_sha256([table], {})


@pytest.mark.parametrize(
    ("tables", "metadata"),
    [
        ([table_of(4)], {}),
        ([table_of(first="b")], {}),
        ([table_of().select(["id", "embedding", "width"])], {}),
        ([table_of().take([1, 0, 2, 3, 4])], {}),
        ([table_of(), table_of()], {}),
        ([], {}),
        ([table_of()], {b"a": b"1"}),
    ],
)
def test_the_digest_of_other_rows_or_metadata_is_another(
    tables: list[pa.Table], metadata: dict[bytes, bytes]
) -> None:
    assert payload_sha256(tables, metadata) != payload_sha256([table_of()], {})


def test_the_lengths_of_strings_are_in_the_digest() -> None:
    one, other = (pa.table({"id": ids}) for ids in (["ab", "c"], ["a", "bc"]))
    assert payload_sha256([one], {}) != payload_sha256([other], {})
    one_key, other_key = {b"ab": b"c"}, {b"a": b"bc"}
    assert payload_sha256([], one_key) != payload_sha256([], other_key)


def test_a_record_has_the_checksum_of_its_part_whoever_wrote_it(dataset: Dataset) -> None:
    record = read_record(dataset, FIRST)
    assert record is not None
    assert record.sha256 == file_sha256(dataset.fs.read(part_path(FIRST)))
    dataset.fs.delete(f"manifest/{FIRST}.json")
    assert complete(dataset, FIRST) == record


def test_a_job_has_the_checksums_of_its_plan_files(dataset: Dataset) -> None:
    for job in jobs(dataset):
        (path,) = (p for p in files_of(dataset) if p.startswith(f"plan/{job.id}-"))
        assert job.sha256 == (file_sha256(dataset.fs.read(path)),)


def test_every_page_has_a_checksum(dataset: Dataset) -> None:
    """One bit is flipped in the middle of each column's values: the reader itself notices it."""
    paths = [path for path in files_of(dataset) if path.endswith(".parquet")]
    assert {path.partition("/")[0] for path in paths} == {"parts", "errors", "plan"}
    for path in paths:
        data = files_of(dataset)[path]
        file = pq.ParquetFile(io.BytesIO(data))
        for group in range(file.num_row_groups):
            for number in range(file.metadata.num_columns):
                column = file.metadata.row_group(group).column(number)
                flipped = bytearray(data)
                flipped[column.data_page_offset + column.total_compressed_size - 1] ^= 1
                with pytest.raises(OSError, match=r"(?i)crc"):
                    open_parquet(io.BytesIO(flipped)).read()


def test_a_damaged_part_is_not_finished(dataset: Dataset) -> None:
    path = part_path(FIRST)
    file = pq.ParquetFile(io.BytesIO(dataset.fs.read(path)))
    rows = file.read().take([1, 0])  # whole pages, with checksums of their own
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema.remove_metadata(), write_page_checksum=True) as writer:
        writer.write_table(rows.replace_schema_metadata())
        metadata = file.metadata.metadata
        writer.add_key_value_metadata({k: metadata[k] for k in metadata if b"clipfleet" in k})
    dataset.fs.replace(path, sink.getvalue())
    dataset.fs.delete(f"manifest/{FIRST}.json")
    with pytest.raises(DatasetError, match=r"SHA-256 of its payload .* `clipfleet repair`"):
        complete(dataset, FIRST)
    assert "damaged" in verify_dataset(dataset).problems[0]


def forget_checksums(dataset: Dataset) -> None:
    """Change a dataset's files to those of an earlier version."""
    for path, data in list(files_of(dataset).items()):
        if path.endswith(".json"):
            fields: dict[str, Any] = json.loads(data)
            fields.pop("sha256", None)
            dataset.fs.replace(path, json.dumps(fields).encode())
        else:
            file = pq.ParquetFile(io.BytesIO(data))
            table = file.read().replace_schema_metadata()
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, table.schema, use_dictionary=False) as writer:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group).replace_schema_metadata())
                known = file.metadata.metadata or {}
                writer.add_key_value_metadata(
                    {k: v for k, v in known.items() if b"sha256" not in k or b"engine" in k}
                )
            dataset.fs.replace(path, sink.getvalue())


def test_a_dataset_without_checksums_is_whole_and_says_so(dataset: Dataset) -> None:
    forget_checksums(dataset)
    for quick in (False, True):
        result = verify_dataset(dataset, quick=quick)
        assert (result.problems, result.without_checksum) == ([], 3)
        assert "3 parts have no checksum" in result.lines()[1]
    dataset.fs.delete(f"manifest/{FIRST}.json")
    assert complete(dataset, FIRST) is not None
    assert verify_dataset(dataset).without_checksum == 2
