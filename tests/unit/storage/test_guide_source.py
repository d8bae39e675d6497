"""The guide's data as sources: TSV files of pictures, and LMDBs of pictures and of texts."""

from __future__ import annotations

import base64
import gzip
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.tower import tower_of
from clipfleet.workers.images.read import read_uri

PICTURES = {"7": b"\xff\xef\xfe first", "12": b"\xfb\xff second" * 2000, "3": b"third"}  # - and _


def items_of(location: Path, tower: Tower = "img") -> list[Item]:
    return list(open_source(str(location), tower=tower))


def pictures(location: Path) -> list[tuple[str, bytes]]:
    return [(item.id, read_uri(item.uri or "", 1 << 20).data) for item in items_of(location)]


def encoded(picture: bytes) -> bytes:
    return base64.urlsafe_b64encode(picture)


def write_tsv(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def write_lmdb(folder: Path, pairs: Mapping[bytes, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 40) as database, database.begin(write=True) as write:
        for key, value in pairs.items():
            write.put(key=key, value=value)
    return folder


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \n\n"])
def test_the_pictures_of_a_tsv_file_are_read_at_their_places(tmp_path: Path, end: bytes) -> None:
    lines = [b"%s\t%s%s" % (id_.encode(), encoded(one), end) for id_, one in PICTURES.items()]
    path = write_tsv(tmp_path / "valid_imgs.tsv", *lines)
    assert b"-" in path.read_bytes()
    assert b"_" in path.read_bytes()
    assert pictures(path) == list(PICTURES.items())
    assert tower_of(str(path)) == "img"
    whole = path.read_bytes().rstrip()
    assert pictures(write_tsv(path, whole)) == list(PICTURES.items())


def test_a_line_of_another_form_is_an_error_row(tmp_path: Path) -> None:
    lines = [b"image_id\tbase64\n", b"1\tYWJj\n", b"5 YWJj\n", "٣\tYWJj\n".encode(), b"6\ta\tb\n"]
    items = items_of(write_tsv(tmp_path / "valid_imgs.tsv", *lines))
    good = "1"
    assert [item.id for item in items if not item.fault] == [good]
    faults = [item.fault or "" for item in items if item.id != good]
    assert faults[0].startswith("valid_imgs.tsv, line 1: the id of a picture is b'image_id'")
    assert "line 3: 1 fields with tabs between (b'5 YWJj" in faults[1]
    assert "expected a whole number" in faults[2]
    assert "line 5: 3 fields" in faults[3]


def test_a_compressed_tsv_file_of_pictures_is_told(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "valid_imgs.tsv.gz", gzip.compress(b"1\tYWJj\n"))
    with pytest.raises(SourceError, match="read at their places in the file: uncompress it"):
        items_of(path)


def test_another_tsv_file_of_that_name_is_a_table_if_a_column_is_named(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "my_imgs.tsv", b"id\tpath\n1\ta.jpg\n")
    [item] = open_source(str(path), tower="img", uri_column="path")
    assert item.uri == str(tmp_path / "a.jpg")


def test_the_pictures_of_an_lmdb_are_read_at_their_places(tmp_path: Path) -> None:
    content = {id_.encode(): encoded(one) for id_, one in PICTURES.items()}
    folder = write_lmdb(tmp_path / "valid" / "imgs", {**content, b"num_images": b"3"})
    for location in (folder, folder.parent):
        assert sorted(pictures(location)) == sorted(PICTURES.items())
        assert tower_of(str(location)) == "img"
    assert not os.path.getsize(folder / "data.mdb") >= 1 << 40
    assert {path.name for path in folder.iterdir()} == {"data.mdb", "lock.mdb"}


@pytest.mark.parametrize(("said", "shown"), [({b"num_images": b"3"}, "b'3'"), ({}, "None")])
def test_an_lmdb_that_lacks_pictures_is_refused(
    tmp_path: Path, said: dict[bytes, bytes], shown: str
) -> None:
    folder = write_lmdb(tmp_path / "imgs", {b"1": b"YWJj", b"2": b"YWJj", **said})
    with pytest.raises(SourceError, match=f"holds 2 pictures, and its num_images is {shown}"):
        items_of(folder)


def pairs(*found: object) -> dict[bytes, bytes]:
    rows = {str(n).encode(): pickle.dumps(pair) for n, pair in enumerate(found)}
    return {**rows, b"num_samples": str(len(found)).encode()}


def test_each_text_of_an_lmdb_of_pairs_is_an_item(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(12)]
    found = [(image, n, text) for n, text in enumerate(texts) for image in range(1 + n % 3)]
    folder = write_lmdb(tmp_path / "valid" / "pairs", pairs(*found))
    items = items_of(folder.parent, "txt")
    assert [(item.id, item.text) for item in items] == [(str(n), t) for n, t in enumerate(texts)]
    assert tower_of(str(folder)) == "txt"


class Harm:
    """What a hostile pickle may hold: the call of a function, which makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pair_that_is_none_is_an_error_row_and_calls_nothing(tmp_path: Path) -> None:
    harm = Harm(tmp_path / "called")
    folder = write_lmdb(tmp_path / "pairs", pairs((1, 1, "a"), (1, 2, harm), "x", (1, 3, "b")))
    items = items_of(folder, "txt")
    assert [item.text for item in items] == ["a", "", "", "b"]
    assert [item.id for item in items][1:3] == ["data.mdb, key '1'", "data.mdb, key '2'"]
    assert "it names posix.mkdir" in (items[1].fault or "")
    assert "is no pair: " in (items[2].fault or "")
    assert not harm.folder.exists()


def test_a_damaged_lmdb_is_told(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "pairs", {**pairs((1, 1, "a")), b"num_samples": b"2"})
    with pytest.raises(SourceError, match="holds 1 pairs, and its num_samples is b'2'"):
        items_of(folder, "txt")
    (folder / "data.mdb").write_bytes(b"no LMDB at all")
    with pytest.raises(SourceError, match="cannot be read as an LMDB"):
        items_of(folder, "txt")
