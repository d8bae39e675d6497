"""Compressed tables of text, and arrays of JSON."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import string
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from clipfleet.errors import SourceError
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.tower import tower_of


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd,
    "bz2": bz2.compress,
}
TABLES = {
    "t.jsonl": '{"id": 1, "text": "一只猫"}\n{"id": 2, "text": "a dog"}\n',
    "t.ndjson": '{"id": 1, "text": "一只猫"}\n{"id": 2, "text": "a dog"}\n',
    "t.json": '[{"id": 1, "text": "一只猫"}, {"id": 2, "text": "a dog"}]',
    "t.csv": "id,text\n1,一只猫\n2,a dog\n",
    "t.tsv": "id\ttext\n1\t一只猫\n2\ta dog\n",
    "t.txt": "一只猫\na dog\n",
}


def read(path: Path, encoding: str | None = None) -> list[tuple[str, str | None]]:
    source = open_source(str(path), tower="txt", encoding=encoding)
    return [(item.id, item.text) for item in source]


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        list(open_source(str(path), tower="txt"))
    return str(caught.value).replace(str(path.parent), ".")


@pytest.mark.parametrize("extension", COMPRESS)
@pytest.mark.parametrize("name", TABLES)
def test_a_compressed_table_is_read_as_the_table(tmp_path: Path, name: str, extension: str) -> None:
    path = tmp_path / f"{name}.{extension.upper()}"
    path.write_bytes(COMPRESS[extension](TABLES[name].encode()))
    assert read(path) == [("1", "一只猫"), ("2", "a dog")]
    assert tower_of(str(path)) == "txt"


def test_a_compressed_file_may_have_several_members_and_an_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress("id,text\n".encode("gb18030")))
    with path.open("ab") as file:
        file.write(gzip.compress("1,上海\n".encode("gb18030")))
    assert read(path, encoding="gb18030") == [("1", "上海")]
    assert "line 2: " in refusal(path)
    assert "use --encoding gb18030" in refusal(path)


@pytest.mark.parametrize("extension", COMPRESS)
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_compressed_file_that_is_cut_off_is_named_with_its_row(
    tmp_path: Path, name: str, extension: str
) -> None:
    texts = random.Random(4)
    rows = [{"id": n, "text": "".join(texts.choices(string.ascii_letters, k=90))} for n in range(9)]
    lines = "\n".join(map(json.dumps, rows))
    whole = COMPRESS[extension]((lines if name == "t.jsonl" else json.dumps(rows)).encode())
    path = tmp_path / f"{name}.{extension}"
    path.write_bytes(whole)
    assert len(read(path)) == 9
    for cut in (len(whole) - 1, len(whole) // 2, 11):
        path.write_bytes(whole[:cut])
        told = refusal(path)
        assert told.startswith(f"./{name}.{extension}"), cut
        assert "the file is damaged" in told, cut


def test_a_name_that_does_not_say_what_the_bytes_are_is_told(tmp_path: Path) -> None:
    plain, packed = TABLES["t.jsonl"].encode(), gzip.compress(TABLES["t.jsonl"].encode())
    path = tmp_path / "t.jsonl"
    path.write_bytes(packed)
    assert refusal(path) == "./t.jsonl is compressed with gzip: name it with .gz at its end"
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(plain)
    assert "named as a file of gzip, and its bytes are not: give it the name" in refusal(path)
    path.write_bytes(zstd(plain))
    assert "its bytes are not: they are of zstd" in refusal(path)
    path = tmp_path / "t.parquet.gz"
    path.write_bytes(packed)
    assert "is no source that is known by its name: expected" in refusal(path)


def test_an_array_is_read_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    texts = ["a", "x" * 300, "\\", '"[]{},', "一只猫", "🐈"]
    rows = [{"id": n, "text": text, "more": {"a": [n, None]}} for n, text in enumerate(texts)]
    content = "\ufeff \n" + json.dumps(rows, indent=1) + "\n "
    path.write_text(content, encoding="utf-8")
    for size in (1, 2, 3, 7, 64, 10_000):
        monkeypatch.setattr("clipfleet.storage.tables.text_files._CHUNK_CHARACTERS", size)
        assert read(path) == [(str(n), text) for n, text in enumerate(texts)], size


def test_an_element_that_is_no_item_becomes_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(r'[{"id": 1, "text": "a"}, 12345, {"id": 3, "text": "\ud800"}, {"id": 4}]')
    found = list(open_source(str(path), tower="txt"))
    assert [item.id for item in found] == ["1", "t.json, element 2", "3", "4"]
    assert found[1].fault == "t.json, element 2: 12345 is not a JSON object"
    assert all(item.fault for item in found[1:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            '{"id": 1, "text": "a"}',
            "it begins with '{', .*; if each line is an object, name it .jsonl",
        ),
        ('[{"id": 1, "text": "a"}, {"id": 2', r"after element 2: '{\"id\": 2' is not JSON: "),
        ('[{"id": 1, "text": "a"}', "after element 1: the array is cut off"),
        ('[{"id": 1, "text": "a"},]', "after element 2: ']' is not JSON"),
        ('[{"id": 1, "text": "a"} {}]', "after element 1: expected ',' or '\\]', found '{'"),
        ('[{"id": 1, "text": "a"}][]', "after element 1: the array has ended, and '\\[' follows"),
        ("[]", "holds no item: it is empty"),
        ("", "it begins with ''"),
        ("[" * 100_000, "after element 1: "),
    ],
)
def test_damage_of_an_array_is_named_with_its_element(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=reason):
        list(open_source(str(path), tower="txt"))
