"""Whether a source holds images or texts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import SourceError
from clipfleet.storage.sources.tower import tower_of, tower_of_items


@pytest.mark.parametrize(
    ("name", "content", "tower"),
    [
        ("a.jsonl", '{"id": 1, "uri": "a.jpg"}', "img"),
        ("a.jsonl", '{"id": 1, "caption": "a cat"}', "txt"),
        ("a.csv", "id,path\n1,a.jpg\n", "img"),
        ("a.tsv", "id\ttext\n1\ta cat\n", "txt"),
        ("a.txt", "a cat\na dog\n", "txt"),
        ("photos/a.jpg", "", "img"),
    ],
)
def test_the_first_item_says_it(tmp_path: Path, name: str, content: str, tower: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    assert tower_of(str((tmp_path / name).parent if "/" in name else tmp_path / name)) == tower


def test_parquet_says_it_by_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "text": ["a cat"]}), tmp_path / "a.parquet")
    assert tower_of(str(tmp_path)) == tower_of(str(tmp_path / "a.parquet")) == "txt"


def test_a_named_column_decides(tmp_path: Path) -> None:
    both = tmp_path / "a.jsonl"
    both.write_text('{"id": 1, "uri": "a.jpg", "text": "a cat"}')
    assert tower_of(str(both), uri_column="uri") == "img"
    assert tower_of(str(both), text_column="text") == "txt"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"id": 1, "uri": "a.jpg", "text": "a cat"}'),
        ("a.txt", "https://example.com/a.jpg\n"),
        ("a.txt", "a.txt\n"),  # a file
        ("a.txt", "photos/gone.JPG\n"),
    ],
)
def test_what_may_be_both_needs_the_option(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match="images or texts: say which with --tower img or --tower"):
        tower_of(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.csv", "no column 'uri' .*; .* no column 'text'"),
        ("none.csv", "nothing is there$"),
        ("gbk.csv", r"^[^;]*line 2: .* is not UTF-8: .*; if it is Chinese"),  # no word of 'uri'
        ("b.jsonl", r"b\.jsonl holds no item: it is empty$"),
    ],
)
def test_what_is_neither_says_why(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text("id,title\n1,a cat\n")
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "gbk.csv").write_bytes("id,text\n1,红色\n".encode("gbk"))
    with pytest.raises(SourceError, match=reason):
        tower_of(str(tmp_path / name))


def test_items_in_memory_say_it_by_their_keys() -> None:
    assert tower_of_items([{"id": "1", "uri": "a.jpg"}]) == "img"
    assert tower_of_items([{"id": "1", "text": "a cat"}]) == "txt"
    for unclear in ([], [{"id": "1"}], [{"id": "1", "uri": "a", "text": "b"}]):
        with pytest.raises(SourceError, match="does not say whether these are images or texts"):
            tower_of_items(unclear)
