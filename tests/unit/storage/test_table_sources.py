import json
import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError, UsageError
from clipfleet.items import Item
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.open_source import open_source
from tests.datasets import memory_dataset

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write lines, bytes or JSON rows to a file; return its path."""

    def write_(name: str, *lines: str | bytes | dict[str, Any]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(_bytes(line) + b"\n" for line in lines))
        return str(path)

    return write_


def _bytes(line: str | bytes | dict[str, Any]) -> bytes:
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)).encode()


def read(location: str, tower: Tower = "txt", **columns: Any) -> list[tuple[str, str | None]]:
    items: list[Item] = list(open_source(location, tower=tower, **columns))
    return [(item.id, item.uri if tower == "img" else item.text) for item in items]


def faults(location: str, tower: Tower = "txt", **form: Any) -> list[tuple[str, str]]:
    """Return the ids and faults of the rows that are no items."""
    items = list(open_source(location, tower=tower, **form))
    return [(item.id, item.fault) for item in items if item.fault]


TEXTS = [("1", "一只猫"), ("2", "a dog")]


def test_texts_come_from_jsonl(write: Write) -> None:
    path = write("t.jsonl", {"id": "1", "text": "一只猫"}, "", {"id": "2", "text": "a dog"})
    assert read(path) == TEXTS


def test_the_retrieval_formats_texts_are_read_as_they_are(write: Write) -> None:
    rows = [{"text_id": 1, "text": "一只猫", "image_ids": [3]}, {"text_id": 2, "text": "a dog"}]
    assert read(write("valid_texts.jsonl", *rows)) == TEXTS


def test_texts_come_from_csv_and_tsv(write: Write) -> None:
    assert read(write("t.csv", "\ufefftext,id", "一只猫,1", '"a dog",2')) == TEXTS
    assert read(write("t.tsv", "id\tcaption", "1\t一只猫", "2\ta dog")) == TEXTS


def test_quotation_marks_are_text_in_a_tsv_file(write: Write) -> None:
    lines = ("id\ttext", '1\t"Quote starts here', "2\tb", '3\t"he said" hi', '4\tTV 55"', '5\t"x"')
    path = write("t.tsv", *lines)
    texts = ['"Quote starts here', "b", '"he said" hi', 'TV 55"', '"x"']
    assert read(path) == [(str(n), text) for n, text in enumerate(texts, 1)]


def test_the_quoting_of_a_table_is_chosen(write: Write) -> None:
    path = write("t.tsv", "id\ttext", '1\t"a\tb"')
    assert read(path, quoting="csv") == [("1", "a\tb")]
    with pytest.raises(SourceError, match=r"line 2: 3 fields, the header has 2.*--quoting csv"):
        read(path)  # no row of it is one
    with pytest.raises(SourceError, match=r"header: .* begin with quotation marks.*--quoting csv"):
        read(write("q.tsv", '"id"\t"text"', '"1"\t"a"'))
    assert read(write("t.csv", "id,text", '1,5" screen'), quoting="none") == [("1", '5" screen')]
    with pytest.raises(SourceError, match="quoting 'all' is not known: it is csv or none"):
        read(path, quoting="all")
    with pytest.raises(SourceError, match=r"t\.txt is no CSV or TSV file: leave the quoting out"):
        read(write("t.txt", "x"), quoting="csv")


@pytest.mark.parametrize("form", ["jsonl", "csv", "txt"])
@pytest.mark.parametrize(("encoding", "hint"), [("gb18030", "GBK"), ("utf-16", "as UTF-16 does")])
def test_a_text_files_encoding_is_named_after_a_hint(
    tmp_path: Path, form: str, encoding: str, hint: str
) -> None:
    lines = {"jsonl": '{"id": 1, "text": "上海"}', "csv": "id,text\n1,上海", "txt": "上海"}
    path = tmp_path / f"t.{form}"
    path.write_bytes(f"{lines[form]}\n".encode(encoding))
    assert read(str(path), encoding=encoding) == [("1", "上海")]
    with pytest.raises(SourceError, match=rf"is not UTF-8: .*{hint}.*--encoding {encoding}"):
        read(str(path))


def test_a_wrong_encoding_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("t.txt", b"caf\xe9")
    assert read(path, encoding="latin-1") == [("1", "café")]
    with pytest.raises(SourceError, match=r"line 1: .* is not UTF-8: .*; name the file's encoding"):
        read(path)
    with pytest.raises(SourceError, match=r"line 1: not utf-16: .* BOM"):
        read(write("odd.txt", b"a\x00\x0a"), encoding="utf-16")
    for unknown in ("klingon", "hex", ""):
        with pytest.raises(SourceError, match=f"encoding '{unknown}' is not known"):
            read(path, encoding=unknown)
    with pytest.raises(SourceError, match="is no file of text and no zip archive: leave"):
        read(str(tmp_path), encoding="gb18030")


def test_a_quoted_csv_field_holds_commas_and_lines(write: Write) -> None:
    assert read(write("t.csv", "id,text", '1,"a, b', 'and ""c"""')) == [("1", 'a, b\nand "c"')]


def test_texts_come_from_parquet(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "text": ["一只猫", "a dog"], "other": [0.5, 1.5]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(f"{tmp_path}/t.parquet") == TEXTS


def test_a_folder_of_parquet_files_is_read_in_their_order(tmp_path: Path) -> None:
    for name, ids in (("b", [2]), ("a", [1]), ("sub/c", [3]), ("_ignored", [4])):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": ids, "text": [name] * len(ids)}), path)
    assert read(str(tmp_path)) == [("1", "a"), ("2", "b"), ("3", "sub/c")]


def test_ids_of_other_types_are_text(tmp_path: Path) -> None:
    uuid = UUID("b8acc311-2955-48fa-b785-c8fc36b08a2f")
    columns = {
        "7": pa.array([7], pa.uint64()),
        str(uuid): pa.array([uuid.bytes], pa.uuid()),
        "12": pa.array([Decimal("12.00")], pa.decimal128(10, 2)),
        "1.50": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
        "ab": pa.array([b"ab"], pa.binary()),
        "00ff": pa.array([b"\x00\xff"], pa.binary(2)),
        "kind": pa.array(["kind"]).dictionary_encode(),
    }
    for id_, ids in columns.items():
        table = pa.table({"id": ids, "text": pa.array([b"a cat"], pa.large_binary())})
        pq.write_table(table, tmp_path / "t.parquet")
        assert read(f"{tmp_path}/t.parquet") == [(id_, "a cat")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.jsonl", ""), ("t.jsonl", "\n\n"), ("t.csv", "id,text\n"), ("t.txt", "")],
)
def test_an_empty_table_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=rf"{name} holds no item: it is empty$"):
        read(f"{tmp_path}/{name}")


def test_an_empty_parquet_file_holds_no_items(tmp_path: Path) -> None:
    with pq.ParquetWriter(
        tmp_path / "t.parquet", pa.schema({"id": pa.string(), "text": pa.string()})
    ):
        pass
    with pytest.raises(SourceError, match=r"t\.parquet holds no item: it is empty"):
        read(f"{tmp_path}/t.parquet")
    pq.write_table(pa.table({"id": ["1"], "text": ["a cat"]}), tmp_path / "u.parquet")
    assert read(str(tmp_path)) == [("1", "a cat")]


def test_lines_are_texts_with_their_numbers_as_ids(write: Write) -> None:
    assert read(write("t.txt", "一只猫", "", "a dog\r")) == [
        ("1", "一只猫"),
        ("2", ""),
        ("3", "a dog"),
    ]


def test_columns_are_chosen_by_name(write: Write) -> None:
    path = write("t.jsonl", {"id": "x", "text": "y", "sku": 7, "title": "一只猫"})
    assert read(path, id_column="sku", text_column="title") == [("7", "一只猫")]


def test_an_empty_text_is_an_item_which_fails_later(write: Write) -> None:
    assert read(write("t.jsonl", {"id": "1", "text": ""})) == [("1", "")]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "txt"])
def test_paths_are_relative_to_the_files_folder_and_are_ids(tmp_path: Path, form: str) -> None:
    paths = ["cats/a.jpg", "../b.jpg", "/abs/c.jpg", "http://host/d.jpg"]
    file = tmp_path / "list" / f"images.{form}"
    file.parent.mkdir()
    if form == "parquet":
        pq.write_table(pa.table({"path": paths}), file)
    else:
        header = ["path"] if form == "csv" else []
        rows = [json.dumps({"path": path}) for path in paths] if form == "jsonl" else paths
        file.write_text("\n".join([*header, *rows]))
    uris = [f"{tmp_path}/list/cats/a.jpg", f"{tmp_path}/b.jpg", *paths[2:]]
    assert read(str(file), "img") == list(zip(paths, uris, strict=True))


def test_urls_are_images(write: Write) -> None:
    row = {"id": 1, "url": "https://host/a.jpg"}
    assert read(write("i.jsonl", row), "img") == [("1", "https://host/a.jpg")]
    assert read(write("i.csv", "url,path", "https://host/a,b.jpg"), "img")[0][0] == "b.jpg"


def test_images_may_have_ids_of_their_own(write: Write) -> None:
    path = write("i.jsonl", {"image_id": 7, "uri": "/a.jpg"})
    assert read(path, "img") == [("7", "/a.jpg")]


BAD_ROWS: list[tuple[str, str]] = [
    ("{", "is not JSON"),
    ("[1]", "is not a JSON object"),
    ('{"text": "x"}', "no column 'id'"),
    ('{"id": "1"}', "no column 'text' among"),
    ('{"id": null, "text": "x"}', "the id is None, expected a string or a whole number"),
    ('{"id": 1.5, "text": "x"}', "the id is 1.5"),
    ('{"id": true, "text": "x"}', "the id is True"),
    ('{"id": "", "text": "x"}', "the id is ''"),
    ('{"id": "1", "text": null}', "the text is None, expected a string"),
    ('{"id": "1", "text": ["x"]}', "the text is \\['x'\\]"),
    ('{"id": "1", "text": 5}', "the text is 5, expected a string"),
    ('{"id": "1", "text": "\\ud800"}', "surrogates not allowed"),
    ('{"id": "\\ud800", "text": "x"}', "unable to parse raw data as a unicode string"),
    ('{"id": "' + "i" * 5000 + '", "text": "x"}', "4096"),
    ('{"id": "1", "text": "' + "i" * 1_000_001 + '"}', "1000001 characters: at most 1000000"),
    ("[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_has_a_fault_and_its_id_or_else_its_place(
    write: Write, row: str, reason: str
) -> None:
    path = write("t.jsonl", {"id": "0", "text": "good"}, "", row, {"id": "2", "text": "x"})
    [(id_, fault)] = faults(path)
    assert re.search(f"(?s)^t.jsonl, line 3: .*{reason}", fault)
    assert len(fault) < 400
    assert id_ == ("1" if '"1"' in row else "t.jsonl, line 3")
    assert [id_ for id_, _ in read(path)] == ["0", id_, "2"]


def test_a_table_without_a_good_row_is_refused(write: Write) -> None:
    reason = "holds no item: no row of it is one; t.jsonl, line 1: the text is None"
    with pytest.raises(SourceError, match=reason):
        read(write("t.jsonl", {"id": 1, "text": None}, {"id": 2, "text": None}))
    with pytest.raises(SourceError, match=r"line 1: '{.*is not JSON"):
        read(write("t.jsonl", "{", {"id": 2, "text": "x"}))


def test_a_bad_row_of_csv_is_named_by_its_line(write: Write) -> None:
    path = write("t.csv", "id,text", "1,x", "2,y,z", '3,"x"y', ",x", "5,y")
    first, second, third = faults(path)
    assert [first[0], second[0], third[0]] == [f"t.csv, line {n}" for n in (3, 4, 5)]
    assert "line 3: 3 fields, the header has 2: ['2', 'y', 'z']" in first[1]
    assert "line 4: not CSV: " in second[1]
    assert "line 5: the id is ''" in third[1]
    assert [id_ for id_, _ in read(path)][::4] == ["1", "5"]


def test_wrong_csv_is_refused(write: Write) -> None:
    cases = {
        'id,text|1,"x|2,y': "lines 2 to 3: not CSV: .* --quoting none",
        "id,id,text|1,1,x": "header: a column is named twice",
        "a,b|1,2": "header: no column 'text' or 'caption' among",
    }
    for number, (lines, reason) in enumerate(cases.items()):
        path = write(f"{number}.csv", *lines.split("|"))
        with pytest.raises(SourceError, match=reason):
            read(path)


def test_a_column_that_is_not_read_may_be_named_twice_or_not_at_all(write: Write) -> None:
    assert read(write("t.csv", "id,text,,,x,x", "1,a,,,,")) == [("1", "a")]


def test_an_empty_csv_lacks_a_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    with pytest.raises(SourceError, match="is empty: expected a header"):
        read(f"{tmp_path}/t.csv")


def test_wrong_parquet_is_named_by_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"t\.parquet cannot be read as Parquet"):
        read(str(path))
    table = pa.table({"id": [b"1", None, b"\xff", b"4"], "text": ["x", "y", "z", None]})
    pq.write_table(table, path)
    assert [id_ for id_, _ in faults(str(path))] == ["t.parquet, row 2", "t.parquet, row 3", "4"]
    (tmp_path / "sub").mkdir()
    pq.write_table(table.slice(1, 1), tmp_path / "sub" / "u.parquet")
    assert faults(str(tmp_path))[0][0] == "sub/u.parquet, row 1"
    pq.write_table(pa.table({"id": [1], "text": [5]}), path)
    with pytest.raises(SourceError, match="column 'text' holds int64, expected strings"):
        read(str(path))
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), path)
    with pytest.raises(SourceError, match="--text-column"):
        read(str(path))


def test_an_images_row_without_the_id_that_others_have_is_wrong(write: Write) -> None:
    path = write("i.jsonl", {"id": 1, "path": "a.jpg"}, {"path": "b.jpg"})
    assert faults(path, "img") == [
        ("i.jsonl, line 2", "i.jsonl, line 2: no column 'id' among ['path']")
    ]


def test_an_empty_path_is_a_bad_row(write: Write) -> None:
    path = write("i.txt", "a.jpg", "", "b.jpg")
    assert faults(path, "img") == [("i.txt, line 2", "i.txt, line 2: the path is empty")]


def test_locations_count_lines_and_rows(write: Write, tmp_path: Path) -> None:
    jsonl = write("t.jsonl", {"id": "1", "text": "x"}, "", {"id": "2", "text": "y"})
    csv = write("t.csv", "id,text", '1,"x', 'y"', "2,z")
    assert open_source(jsonl, tower="txt").location(2) == f"{jsonl}, line 3"
    assert open_source(csv, tower="txt").location(2) == f"{csv}, line 4"
    pq.write_table(pa.table({"id": [1, 2], "text": ["x", "y"]}), tmp_path / "t.parquet")
    source = open_source(f"{tmp_path}/t.parquet", tower="txt")
    assert source.location(2) == f"{tmp_path}/t.parquet, row 2"


def test_a_file_whose_name_is_not_utf8_is_planned(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(path).write_text("x\ny\n")
    source = open_source(path, tower="txt")
    assert source.description == f"text file {tmp_path}/caf\\xe9.txt"
    job = plan_items(memory_dataset(), source, 2)
    assert job is not None
    assert (job.items, job.source) == (2, source.description)


def test_a_source_can_be_read_again(write: Write) -> None:
    source = open_source(write("t.txt", "x", "y"), tower="txt")
    assert list(source) == list(source)
    assert source.description.endswith("t.txt")


def test_a_folder_is_images_for_one_tower_and_an_error_for_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert isinstance(open_source(str(tmp_path), tower="img"), FolderSource)
    with pytest.raises(SourceError, match="the txt tower reads texts"):
        open_source(str(tmp_path), tower="txt")


def test_a_folder_with_only_parquet_files_is_a_list_of_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "t.parquet")
    assert read(str(tmp_path), "img") == [("a.jpg", f"{tmp_path}/a.jpg")]


def test_a_location_without_a_source_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing is there"):
        open_source(f"{tmp_path}/gone.jsonl", tower="txt")
    with pytest.raises(SourceError, match=r"expected a folder of images, .*\.jsonl"):
        open_source(write("t.xlsx", "x"), tower="txt")
    with pytest.raises(UsageError, match="abfs://"):
        open_source("abfs://bucket/t.jsonl", tower="txt")
    with pytest.raises(SourceError, match="'title' was named for the text"):
        open_source(write("i.jsonl"), tower="img", text_column="title")


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt"])
def test_a_pipe_or_a_device_is_no_source_and_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        path = str(tmp_path / f"{name}{suffix}")
        with pytest.raises(SourceError, match=rf"{name}\{suffix} is a pipe, .* regular file"):
            list(open_source(path, tower="txt"))


def test_a_pipe_in_a_folder_of_parquet_files_is_not_waited_for(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "a.parquet")
    (tmp_path / "more").mkdir()
    os.mkfifo(tmp_path / "more" / "b.parquet")
    with pytest.raises(SourceError, match=r"more/b\.parquet is a pipe"):
        list(open_source(str(tmp_path), tower="txt"))
