import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetError
from clipfleet.storage.format.dataset_info import DatasetInfo, EmbeddingDtype
from clipfleet.storage.format.errors_table import errors_bytes
from clipfleet.storage.format.parts import part_of, read_footer
from clipfleet.storage.format.results import Embedded
from tests.datasets import DIM, embedded, images, make_card, memory_dataset, texts


def written(rows: Embedded, info: DatasetInfo) -> io.BytesIO:
    data, _ = part_of(rows, info, make_card(info.tower), "00001-0000000", worker="w")
    return io.BytesIO(data)


def text_info(dtype: EmbeddingDtype = "float16") -> DatasetInfo:
    return memory_dataset(dtype=dtype).info


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-4), ("float32", 0)])
def test_texts_come_back_with_their_vectors(dtype: EmbeddingDtype, tolerance: float) -> None:
    rows = embedded(texts("a", "猫"))
    table = pq.read_table(written(rows, text_info(dtype)))
    assert table.column_names == ["id", "text", "embedding"]
    assert table["id"].to_pylist() == ["a", "猫"]
    assert table["text"].to_pylist() == ["text of a", "text of 猫"]
    assert table.schema.field("embedding").type.value_type == getattr(pa, dtype)()
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    assert np.abs(vectors - rows.vectors).max() <= tolerance


def test_images_come_back_with_their_sizes() -> None:
    table = pq.read_table(written(embedded(images("a.jpg")), memory_dataset("img").info))
    assert table.column_names == ["id", "uri", "width", "height", "embedding"]
    row = table.slice(0, 1).to_pylist()[0]
    assert (row["uri"], row["width"], row["height"]) == ("/pictures/a.jpg", 640, 480)
    assert table.schema.field("width").type == pa.int32()


def test_vectors_are_read_without_a_copy() -> None:
    rows = embedded(texts(*(str(n) for n in range(100))))
    table = pq.read_table(written(rows, text_info()))
    flat = table["embedding"].combine_chunks().values.to_numpy(zero_copy_only=True)
    assert flat.reshape(-1, DIM).shape == (100, DIM)
    assert flat.dtype == np.float16


def test_nothing_in_a_part_may_be_null() -> None:
    schema = pq.read_schema(written(embedded(texts("a")), text_info()))
    assert [field.nullable for field in schema] == [False] * 3


def test_a_part_has_the_settings_that_every_reader_opens() -> None:
    parquet = pq.ParquetFile(written(embedded(texts(*(str(n) for n in range(5000)))), text_info()))
    assert [parquet.metadata.row_group(n).num_rows for n in range(2)] == [4096, 904]
    columns = [parquet.metadata.row_group(0).column(n) for n in range(3)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert not any(column.has_dictionary_page for column in columns)
    assert [column.is_stats_set for column in columns] == [True, False, False]
    assert all("BYTE_STREAM_SPLIT" not in column.encodings for column in columns)


def test_a_part_with_only_failures_has_no_rows() -> None:
    file = written(embedded(texts("a", "b"), failing=("a", "b")), text_info())
    assert pq.read_table(file).schema == pq.read_schema(written(embedded(texts("a")), text_info()))
    assert pq.read_table(file).num_rows == 0
    assert pq.ParquetFile(file).num_row_groups == 0  # Hugging Face datasets fails at an empty one
    footer = read_footer(file, path="p")
    assert footer.vectors == 0
    assert [failure.item.id for failure in footer.failures] == ["a", "b"]


def test_the_footer_names_model_card_engine_and_failures() -> None:
    rows = embedded(images("a.jpg", "b\n😀.jpg"), failing=("b\n😀.jpg",))
    file = written(rows, memory_dataset("img").info)
    footer = read_footer(file, path="p")
    card = make_card("img")
    assert (footer.shard, footer.model, footer.engine_sha256, footer.worker, footer.vectors) == (
        "00001-0000000",
        card.identity,
        card.engine_sha256,
        "w",
        1,
    )
    assert list(footer.failures) == rows.failures
    metadata = pq.ParquetFile(file).metadata.metadata
    assert json.loads(metadata[b"clipfleet.model_card"])["architecture"] == "tiny"
    assert metadata[b"clipfleet.version"] == b"1"


def test_an_errors_table_has_a_row_for_each_failure() -> None:
    failures = embedded(images("a.jpg", "b.jpg"), failing=("b.jpg",)).failures
    table = pq.read_table(io.BytesIO(errors_bytes(failures, "img")))
    assert table.to_pylist() == [
        {
            "id": "b.jpg",
            "uri": "/pictures/b.jpg",
            "error": "empty_file",
            "message": "it has 0 bytes",
            "attempt": 1,
        }
    ]


def test_vectors_that_are_not_of_norm_1_are_refused() -> None:
    for value, norm in ((2.0, "norm 2"), (float("nan"), "norm nan"), (float("inf"), "norm inf")):
        rows = embedded(texts("a", "b"))
        rows.vectors[1] = [value] + [0.0] * (DIM - 1)
        with pytest.raises(DatasetError, match=f"the first is 'b' with {norm}"):
            written(rows, text_info())


def test_vectors_of_another_shape_are_refused() -> None:
    rows = embedded(texts("a", "b"))
    short = Embedded(items=rows.items[:1], vectors=rows.vectors, sizes=None, failures=[])
    with pytest.raises(DatasetError, match=r"shape \(2, 8\), expected \(1, 8\)"):
        written(short, text_info())


def test_sizes_belong_to_images() -> None:
    with pytest.raises(DatasetError, match="sizes belong to images"):
        written(embedded(images("a.jpg")), text_info())
    rows = embedded(images("a.jpg", "b.jpg"))
    fewer = Embedded(items=rows.items, vectors=rows.vectors, sizes=[(1, 1)], failures=[])
    with pytest.raises(DatasetError, match="1 sizes for 2 items"):
        written(fewer, memory_dataset("img").info)


def test_damaged_and_foreign_parts_are_named() -> None:
    whole = written(embedded(texts("a")), text_info()).getvalue()
    foreign = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}), foreign)
    for data in (b"", b"PAR1", whole[:-20], foreign.getvalue()):
        with pytest.raises(DatasetError, match=r"^parts/x\.parquet is damaged .*clipfleet repair"):
            read_footer(io.BytesIO(data), path="parts/x.parquet")
