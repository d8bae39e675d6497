"""Pictures in rows of Parquet files, and in base64: their bytes, and what damage costs."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.error_codes import DECODE_FAILED, READ_FAILED
from clipfleet.errors import ItemError
from clipfleet.storage.filesystem.members import Base64Text, ParquetPicture, parse_member
from clipfleet.storage.filesystem.parquet_columns import footer_crc32
from clipfleet.workers.images.read import read_bytes, read_uri

LIMIT = 1 << 20
PICTURES = [bytes([n]) * (n + 1) * 100 for n in range(200)]


def write(path: Path, pictures: list[bytes | None], **options: Any) -> int:
    """Write a column of structs and a column of bytes; return the CRC-32 of the footer."""
    structs = [{"bytes": one, "path": "x"} for one in pictures]
    pq.write_table(pa.table({"image": structs, "img": pictures}), path, **options)
    with path.open("rb") as file:
        return footer_crc32(file)


def row(path: Path, number: int, footer: int, column: str = "image.bytes") -> str:
    return ParquetPicture(path=str(path), column=column, row=number, footer=footer).uri


def refusal(uri: str) -> str:
    with pytest.raises(ItemError) as caught:
        read_uri(uri, LIMIT)
    assert caught.value.code == READ_FAILED
    return str(caught.value)


@pytest.mark.parametrize("column", ["image.bytes", "img"])
def test_rows_are_read_in_any_order_and_across_row_groups(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a #1?.parquet"
    footer = write(path, [*PICTURES], row_group_size=64)
    for number in (*range(1, 201), 7, 200, 65, 64, 1):
        assert read_uri(row(path, number, footer, column), LIMIT).data == PICTURES[number - 1]
    assert "ends before row 201" in refusal(row(path, 201, footer, column))


def test_a_file_that_was_written_anew_gives_no_other_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    before = row(path, 1, write(path, [*PICTURES]))
    assert read_uri(before, LIMIT).data == PICTURES[0]
    write(path, [*PICTURES[1:]])
    assert "another one than was planned" in refusal(before)
    assert "--refresh" in refusal(before)
    path.write_bytes(b"short")
    assert "another one than was planned" in refusal(before)


def test_damage_costs_the_rest_of_its_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.storage.filesystem.parquet_columns._BATCH_BYTES", 30_000)
    path = tmp_path / "a.parquet"
    options = {"data_page_size": 1, "write_batch_size": 25, "use_dictionary": False}
    pictures = [os.urandom(3000) for _ in range(200)]
    footer = write(path, [*pictures], row_group_size=100, **options)
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(0)
    with path.open("r+b") as out:
        out.seek(chunk.data_page_offset + chunk.total_compressed_size * 3 // 4)
        out.write(b"\xff" * 20_000)
    assert read_uri(row(path, 1, footer), LIMIT).data == pictures[0]
    told = refusal(row(path, 90, footer))
    assert "its file is damaged" in told
    assert refusal(row(path, 100, footer)).partition("read: ")[2] == told.partition("read: ")[2]
    for number in (2, 60, 101, 200):
        assert read_uri(row(path, number, footer), LIMIT).data == pictures[number - 1]


def test_a_row_without_bytes_and_one_with_too_many_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    footer = write(path, [None, b"x" * 1000, b""])
    assert "its row has no bytes" in refusal(row(path, 1, footer))
    assert "damaged: " in refusal(row(path, 1, footer, "no.such"))
    with pytest.raises(ItemError, match="more than the 999 bytes allowed"):
        read_bytes(row(path, 2, footer), 999)
    with pytest.raises(ItemError, match="it has 0 bytes"):
        read_bytes(row(path, 3, footer), 999)


def test_a_row_lies_below_an_input_root_if_its_file_does(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    uri = row(path, 2, write(path, [*PICTURES]))
    assert read_uri(uri, LIMIT, [os.path.realpath(path.parent)]).data == PICTURES[1]
    with pytest.raises(OSError, match="input roots"):
        read_uri(uri, LIMIT, [os.path.realpath(tmp_path / "in" / "more")])


def text(path: Path, encoded: bytes) -> str:
    path.write_bytes(b"7\t" + encoded + b"\n")
    size, crc32 = len(encoded), zlib.crc32(encoded)
    return Base64Text(path=str(path), offset=2, size=size, crc32=crc32).uri


def test_base64_of_either_alphabet_is_a_picture(tmp_path: Path) -> None:
    picture = bytes(range(256))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        uri = text(tmp_path / "a.tsv", encode(picture))
        assert parse_member(uri)
        assert read_uri(uri, LIMIT).data == picture


def test_text_that_is_no_base64_or_another_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with pytest.raises(ItemError, match="is no base64: ") as caught:
        read_bytes(text(path, b"abcde"), LIMIT)
    assert caught.value.code == DECODE_FAILED
    uri = text(path, b"YWJj")
    path.write_bytes(b"7\tYWJk\n")
    assert "something else there" in refusal(uri)
    path.write_bytes(b"7\tYW")
    assert "something else there" in refusal(uri)
    with pytest.raises(ItemError, match="allowed"):
        read_bytes(text(path, base64.b64encode(b"x" * 300)), 299)
