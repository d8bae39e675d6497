"""Parquet files with pictures in them, and folders of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import ParquetPicture, parse_member
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.tower import tower_of
from clipfleet.workers.images.read import read_uri

JPEG = b"\xff\xd8\xff\xe0"  # the beginning of one
ONE, TWO = JPEG + b"one", JPEG + b"two"


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def items_of(location: Path, tower: Tower = "img", **options: Any) -> list[Item]:
    return list(open_source(str(location), tower=tower, **options))


def pictures(location: Path, **options: Any) -> list[tuple[str, bytes]]:
    found = items_of(location, **options)
    return [(item.id, read_uri(item.uri or "", 1 << 20).data) for item in found]


def structs(*found: bytes | None, path: str | None = None) -> list[dict[str, Any]]:
    return [{"bytes": one, "path": path} for one in found]


def test_structs_with_bytes_are_pictures_whatever_the_column_is_called(tmp_path: Path) -> None:
    columns = {"scan": structs(ONE, TWO, ONE), "label": [0, 1, 1], "url": ["x", "y", "z"]}
    path = write(tmp_path / "a #1.parquet", columns, row_group_size=2)
    rows = [("a #1.parquet:1", ONE), ("a #1.parquet:2", TWO), ("a #1.parquet:3", ONE)]
    assert pictures(path) == rows
    assert tower_of(str(path)) == "img"
    [*_, last] = items_of(path)
    member = parse_member(last.uri or "")
    assert isinstance(member, ParquetPicture)
    assert (member.column, member.row) == ("scan.bytes", 3)


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_a_column_of_bytes_is_pictures_by_its_name_and_first_value(
    tmp_path: Path, type_: pa.DataType
) -> None:
    columns = {"id": [7, 8], "jpg": pa.array([None, ONE], type_), "thumb": [TWO, TWO]}
    path = write(tmp_path / "a.parquet", columns)
    first, second = items_of(path)
    assert first.fault == "a.parquet, row 1: the path is None, expected a string"
    assert (second.id, read_uri(second.uri or "", 100).data) == ("8", ONE)
    assert pictures(path, uri_column="thumb") == [("7", TWO), ("8", TWO)]
    texts = write(tmp_path / "b.parquet", {"image": [b"a.jpg"], "path": ["b.jpg"]})
    assert [item.uri for item in items_of(texts)] == [f"{tmp_path}/b.jpg"]
    assert [item.uri for item in items_of(texts, uri_column="image")] == [f"{tmp_path}/a.jpg"]


def test_two_columns_of_pictures_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": structs(ONE), "mask": structs(TWO)})
    with pytest.raises(SourceError, match="columns 'image', 'mask' hold pictures: name one with"):
        items_of(path)
    assert pictures(path, uri_column="mask") == [("a.parquet:1", TWO)]


def test_a_row_without_bytes_has_its_path(tmp_path: Path) -> None:
    rows = [*structs(ONE, None, path="in/a.jpg"), None, {"bytes": None, "path": None}]
    path = write(tmp_path / "a.parquet", {"image": rows, "id": list("abcd")})
    items = items_of(path)
    assert [item.id for item in items] == list("abcd")
    assert read_uri(items[0].uri or "", 100).data == ONE
    assert items[1].uri == f"{tmp_path}/in/a.jpg"
    assert [bool(item.fault) for item in items] == [False, False, True, True]
    whole = write(tmp_path / "b.parquet", {"image": structs(None, None, path="https://h/a.jpg")})
    assert [item.uri for item in items_of(whole)] == ["https://h/a.jpg"] * 2


def test_pixels_are_not_read_to_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": structs(ONE, TWO)}, use_dictionary=False)
    data = path.read_bytes()
    assert ONE in data
    path.write_bytes(data.replace(ONE, b"\xff" * len(ONE)))  # as damage of the page
    assert len(items_of(path)) == 2


def test_statistics_that_are_missing_do_not_matter(tmp_path: Path) -> None:
    columns = {"image": structs(ONE, None, TWO, path="a.jpg")}
    path = write(tmp_path / "a.parquet", columns, write_statistics=False)
    assert [(item.uri or "")[:7] for item in items_of(path)] == [
        "parquet",
        f"{tmp_path}/a.jpg"[:7],
        "parquet",
    ]


def test_a_named_column_of_ids_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": structs(ONE), "key": ["k"]})
    assert pictures(path, id_column="key") == [("k", ONE)]
    with pytest.raises(SourceError, match="no column 'no' among"):
        items_of(path, id_column="no")


def test_partitions_are_read_at_any_depth_and_other_files_are_counted(tmp_path: Path) -> None:
    for month in ("01", "02"):
        folder = tmp_path / "data.parquet" / f"dt=2024-{month}" / "kind=a"
        write(folder / "part-0.parquet", {"id": [month], "text": ["a cat"]})
        (folder / ".part-0.parquet.crc").touch()
    top = tmp_path / "data.parquet"
    for name in ("_SUCCESS", "_metadata", "README.md"):
        (top / name).touch()
    write(top / "_temporary" / "0" / "part.parquet", {"id": ["x"], "text": ["x"]})
    for location in (top, tmp_path):
        source = open_source(str(location), tower="txt")
        assert [(item.id, item.text) for item in source] == [("01", "a cat"), ("02", "a cat")]
        assert source.skipped == {"hidden or system": 5, ".md": 1}
        assert tower_of(str(location)) == "txt"
    with pytest.raises(SourceError, match="no column 'dt' among"):
        items_of(top, "txt", id_column="dt")


def test_pictures_in_partitions_have_ids_with_their_folders(tmp_path: Path) -> None:
    for month in ("01", "02"):
        write(tmp_path / f"dt={month}" / "part-0.parquet", {"image": structs(ONE)})
    assert [item.id for item in items_of(tmp_path)] == [
        "dt=01/part-0.parquet:1",
        "dt=02/part-0.parquet:1",
    ]


def test_a_folder_with_pictures_and_parquet_files_is_a_folder_of_pictures(tmp_path: Path) -> None:
    write(tmp_path / "captions.parquet", {"id": ["1"], "text": ["a"], "path": ["b.jpg"]})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.jpg").touch()
    source = open_source(str(tmp_path), tower="img")
    assert isinstance(source, FolderSource)
    assert [item.id for item in source] == ["more/a.jpg"]
    assert source.skipped == {".parquet": 1}
    assert [item.text for item in items_of(tmp_path, "txt")] == ["a"]
    assert [item.uri for item in items_of(tmp_path, uri_column="path")] == [f"{tmp_path}/b.jpg"]
    (tmp_path / "captions.parquet").rename(tmp_path / "more" / "b.parquet")
    with pytest.raises(SourceError, match=r"has no \.parquet file before its first image"):
        items_of(tmp_path, "txt")
