"""Archives as sources: tar shards of WebDataset and img2dataset, and zip files."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.errors import DuplicateIdError, ItemError, SourceError
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.images.read import read_uri
from tests.archive_files import make
from tests.datasets import memory_dataset

FILES = Path(__file__).parents[2] / "archive_files"  # made by webdataset and img2dataset
DATA = b"0123456789" * 100


class Read:
    """What is read of a source: ids with their values, faults by id, and what is skipped."""

    def __init__(self, path: Path | str, tower: Tower = "img", **options: Any) -> None:
        source = open_source(str(path), tower=tower, **options)
        items = list(source)
        assert list(source) == items  # the second time counts nothing twice
        self.source = source
        self.ids = [item.id for item in items if item.fault is None]
        self.texts = {item.id: item.text for item in items if item.text and not item.fault}
        self.uris = {item.id: item.uri or "" for item in items if item.uri}
        self.faults = {item.id: item.fault for item in items if item.fault}
        self.skipped = dict(source.skipped)
        places = [source.location(number) for number in range(1, len(items) + 1)]
        assert len(set(places)) == len(items)

    def data(self, id_: str) -> bytes:
        return read_uri(self.uris[id_], 1 << 20).data


def tar(path: Path, *names: str, data: bytes = DATA, format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format_) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, DATA)
    return path


def test_pictures_and_captions_of_webdataset_have_the_same_ids() -> None:
    pictures = Read(FILES / "webdataset")
    assert pictures.ids == [
        *("00000/a/one", "00000/a/two", "00000/three"),
        *("00001/four", "00001/four.seg", "00001/five"),
    ]
    assert pictures.skipped == {".cls": 1}
    assert pictures.data("00000/three") == make.picture(2, "PNG")
    assert pictures.data("00001/five") == b"no picture"
    captions = Read(FILES / "webdataset", "txt")
    assert captions.texts == {
        "00000/a/one": "one picture",
        "00000/a/two": "two, 两",
        "00001/five": "five",
    }
    assert captions.skipped == {".cls": 1, "no caption": 3}


def test_a_tar_in_gzip_is_read_like_a_plain_one() -> None:
    pictures = Read(FILES / "packed.tar.gz")
    assert pictures.ids == ["packed/0", "packed/1", "packed/2"]
    assert {pictures.data(f"packed/{n}") == make.picture(n) for n in (2, 0, 1)} == {True}
    assert list(Read(FILES / "packed.tar.gz", "txt").texts.values()) == [
        f"text {n}" for n in range(3)
    ]


def test_bytes_say_whether_a_tar_is_in_gzip(tmp_path: Path) -> None:
    shutil.copy(FILES / "packed.tar.gz", tmp_path / "a.tar")
    (tmp_path / "b.tgz").write_bytes((FILES / "webdataset" / "00001.tar").read_bytes())
    found = Read(tmp_path)
    assert [uri[:3] for uri in found.uris.values()] == ["tgz"] * 3 + ["tar"] * 3
    assert found.data("a/1") == make.picture(1)


def test_an_img2dataset_folder_has_keys_as_ids_and_counts_what_failed() -> None:
    pictures = Read(FILES / "img2dataset")
    assert pictures.ids == ["000000000", "000000002", "000010000"]
    assert pictures.skipped == {"failed_to_download": 2, "failed_to_resize": 1}
    assert pictures.data("000000002") == make.picture(2)
    captions = Read(FILES / "img2dataset", "txt")
    assert captions.texts == {"000000000": "caption 000000000", "000000002": "caption 000000002"}
    assert captions.skipped == {"failed_to_download": 2, "failed_to_resize": 1, "no caption": 1}


def test_what_img2dataset_says_and_the_tar_lacks_is_told(tmp_path: Path) -> None:
    shutil.copytree(FILES / "img2dataset", tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "00001.tar", tmp_path / "00000.tar")
    (tmp_path / "00001.parquet").write_bytes(b"PAR1 cut off")
    found = Read(tmp_path)
    assert found.faults.keys() == {"000000000", "000000002", "00001.tar"}
    assert "was downloaded, and is not in the tar" in str(found.faults["000000000"])
    assert "00001.parquet beside it cannot be read" in str(found.faults["00001.tar"])


def test_a_glob_or_a_range_names_several_shards(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"s-{number:03d}.tar", "a.jpg")
    assert Read(tmp_path / "s-{000..001}.tar").ids == ["s-000/a", "s-001/a"]
    assert Read(tmp_path / "*-002.tar").ids == ["s-002/a"]
    assert Read(tmp_path).ids == ["s-000/a", "s-001/a", "s-002/a"]
    literal = tar(tmp_path / "[1].tar", "a.jpg")
    assert Read(literal).ids == ["[1]/a"]
    for pattern, reason in (
        ("s-{001..004}.tar", "no file .*s-003.tar"),
        ("x*.tar", "no file .*x"),
        ("s-{3..1}.tar", "no range"),
        ("s-{0..99999999}.tar", "no range"),
    ):
        with pytest.raises(SourceError, match=reason):
            list(open_source(str(tmp_path / pattern), tower="img"))


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_kept_in_every_form_of_tar(tmp_path: Path, format_: int) -> None:
    names = [f"{'d' * 90}/{'n' * 60}.jpg", "./b.jpg"]
    if format_ != tarfile.USTAR_FORMAT:
        names.append(f"{'é' * 200}/{'n' * 150}.jpg")
    found = Read(tar(tmp_path / "a.tar", *names, format_=format_))
    assert found.ids == [f"a/{name.removeprefix('./').removesuffix('.jpg')}" for name in names]
    assert {found.data(id_) for id_ in found.ids} == {DATA}


def test_names_that_are_no_text_and_large_sizes_are_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", os.fsdecode(b"\xff.jpg"), format_=tarfile.GNU_FORMAT)
    assert Read(path).ids == ["a/\\xff"]
    info = tarfile.TarInfo("b.jpg")
    info.size = 1 << 33  # in GNU's form of numbers, and there are no such bytes
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + DATA)
    found = Read(path)
    assert "size=8589934592" in found.uris["a/b"]
    assert "cut off" in str(found.faults["a.tar, byte 512"])


def test_junk_links_and_other_files_in_an_archive_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in (
            "a.jpg",
            "__MACOSX/._a.jpg",
            "d/.x/b.jpg",
            "c.mov",
            "noextension",
            "raw/d.jpg",
        ):
            info = tarfile.TarInfo(name)
            archive.addfile(info)
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("folder.jpg", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
    found = Read(path)
    assert found.ids == ["a/a", "a/raw/d"]
    expected = {"hidden or system": 2, ".mov": 1, "no extension": 1, "link or device": 1}
    assert found.skipped == expected
    assert Read(path, exclude=["raw"]).skipped == expected | {"excluded": 1}
    assert Read(path, include=["*.mov"]).ids == ["a/c"]
    with pytest.raises(SourceError, match=r"not read \(.*\.mov 1.*--exclude"):
        Read(path, fail_on_skipped=True)


def test_files_beside_tars_are_counted_and_pictures_beside_them_make_a_folder(
    tmp_path: Path,
) -> None:
    tar(tmp_path / "a.tar", "a.jpg")
    (tmp_path / "below").mkdir()
    tar(tmp_path / "below" / "a.tar", "a.jpg")
    for name in ("README.md", "below/b.jpg", ".hidden.tar"):
        (tmp_path / name).write_bytes(b"")
    found = Read(tmp_path)
    assert found.ids == ["a/a", "below/a/a"]
    assert found.skipped == {".md": 1, ".jpg": 1, "hidden or system": 1}
    (tmp_path / "b.jpg").write_bytes(b"")
    found = Read(tmp_path)
    assert found.ids == ["b.jpg", "below/b.jpg"]
    assert found.skipped[".tar"] == 2


def test_a_damaged_header_costs_its_own_file_only(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "a.jpg", "b.jpg", "c.jpg", format_=tarfile.USTAR_FORMAT)
    whole = Read(path)
    with path.open("r+b") as file:
        file.seek(1536 + 10)
        file.write(b"xx")
    found = Read(path)
    assert found.ids == ["a/a", "a/c"]
    assert found.uris == {id_: whole.uris[id_] for id_ in found.ids}
    assert found.faults == {
        "a.tar, byte 1536": "a.tar, byte 1536: no header can be read up to byte 3072"
    }


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_that_was_cut_off_gives_what_is_before_and_says_so(tmp_path: Path, name: str) -> None:
    picture = Random(1).randbytes(40_000)  # gzip finds nothing that is as far back
    plain = tar(tmp_path / "whole.tar", *(f"{n}.jpg" for n in range(10)), data=picture)
    data = plain.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data)[:-5000] if name.endswith("gz") else data[:-30_000])
    found = Read(path)
    assert found.ids == [f"a/{n}" for n in range(10)]
    (fault,) = found.faults.values()
    assert "was cut off" in str(fault)
    assert found.data("a/8") == picture
    with pytest.raises(ItemError):
        found.data("a/9")


def test_a_tar_that_ends_between_two_files_is_told_too(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "a.jpg", "b.jpg", format_=tarfile.USTAR_FORMAT)
    os.truncate(path, 1536)
    found = Read(path)
    assert found.ids == ["a/a"]
    assert found.faults == {
        "a.tar, byte 1536": "a.tar, byte 1536: it ends without an end mark: it was cut off"
    }


def test_a_file_that_is_no_tar_is_an_error_row_among_others_and_refused_alone(
    tmp_path: Path,
) -> None:
    tar(tmp_path / "a.tar", "a.jpg")
    (tmp_path / "b.tar").write_bytes(b"no tar " * 1000)
    found = Read(tmp_path)
    assert found.ids == ["a/a"]
    assert found.faults == {"b.tar, byte 0": "b.tar, byte 0: it is no tar"}
    with pytest.raises(SourceError, match=r"holds no picture: .*it is no tar"):
        Read(tmp_path / "b.tar")


def test_captions_that_cannot_be_read_are_bad_items(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    texts = {
        "good.txt": b"\xef\xbb\xbfa caption\n",
        "latin.txt": b"caf\xe9",
        "broken.json": b"{",
        "number.json": b'{"caption": 5}',
        "null.json": b'{"caption": null}',
        "both.json": b'{"caption": "in json"}',
        "both.txt": b"in txt",
        "long.txt": b"x" * 1_000_001,
    }
    with tarfile.open(path, "w") as archive:
        for name, data in texts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = Read(path, "txt")
    assert found.texts == {"a/good": "a caption", "a/both": "in txt"}
    reasons = {id_: str(fault).partition(": ")[2] for id_, fault in found.faults.items()}
    assert reasons["a/latin"].startswith("its .txt file is not UTF-8")
    assert reasons["a/broken"].startswith("its .json file is not JSON")
    assert reasons["a/number"] == "the caption in its .json file is 5, expected a string"
    assert reasons["a/long"] == "the caption has 1000001 characters: at most 1000000"
    assert len(reasons) == 4


def test_a_zip_is_read_like_a_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", "cats/1.jpg", "cats/1.png", "__MACOSX/cats/._1.jpg", "x.txt")
    zipped(tmp_path / "b.zip", "1.jpg", method=zipfile.ZIP_STORED)
    found = Read(tmp_path)
    assert found.ids == ["a/cats/1.jpg", "a/cats/1.png", "b/1.jpg"]
    assert found.skipped == {"hidden or system": 1, ".txt": 1}
    assert {found.data(id_) for id_ in found.ids} == {DATA}
    assert Read(tmp_path / "b.zip").ids == ["b/1.jpg"]
    with pytest.raises(SourceError, match="holds pictures, and the txt tower reads texts"):
        Read(tmp_path, "txt")


def test_names_in_a_zip_have_an_encoding(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "xx.jpg", "é.png")
    path.write_bytes(path.read_bytes().replace(b"xx.jpg", "两.jpg".encode("gb18030")))
    assert Read(path, encoding="gb18030").ids == ["a/两.jpg", "a/é.png"]
    found = Read(path)
    assert found.ids[1:] == ["a/é.png"]
    assert found.data(found.ids[0]) == DATA


def test_damage_of_a_zip_costs_its_files_and_is_told(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", "a.jpg", "b.jpg").read_bytes()
    (tmp_path / "a.zip").write_bytes(b"xxxx" + whole[4:])
    (tmp_path / "cut.zip").write_bytes(whole[:-10])
    zipped(tmp_path / "lzma.zip", "a.jpg", method=zipfile.ZIP_LZMA)
    found = Read(tmp_path)
    assert found.ids == ["a/b.jpg"]
    reasons = {id_: str(fault) for id_, fault in found.faults.items()}
    assert "its header is not at byte 0" in reasons["a/a.jpg"]
    assert "table of contents" in reasons["cut.zip"]
    assert "compressed by method 14" in reasons["lzma/a.jpg"]
    flags = bytearray(whole)
    for magic in (b"PK\x01\x02", b"PK\x03\x04"):
        at = whole.index(magic) + (8 if magic[2] == 1 else 6)
        flags[at] |= 1
    (tmp_path / "a.zip").write_bytes(flags)
    assert "is encrypted" in str(Read(tmp_path / "a.zip").faults["a/a.jpg"])


def test_two_pictures_of_one_name_are_refused_with_their_places(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "a.jpg", "a.png")
    with pytest.raises(DuplicateIdError, match=r"a/a.*a\.tar, a\.jpg"):
        plan_items(memory_dataset("img"), open_source(str(path), tower="img"), 10)


def test_options_that_archives_have_not_are_refused(tmp_path: Path) -> None:
    path = str(tar(tmp_path / "a.tar", "a.jpg"))
    wrong: tuple[dict[str, Any], ...] = (
        {"id_column": "id"},
        {"quoting": "csv"},
        {"encoding": "gb18030"},
    )
    for options in wrong:
        with pytest.raises(SourceError, match="leave the"):
            open_source(path, tower="img", **options)


def test_an_archive_without_pictures_or_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no picture; skipped: \.mov 1"):
        Read(tar(tmp_path / "a.tar", "a.mov"))
    with pytest.raises(SourceError, match="holds no caption; skipped: no caption 1"):
        Read(tar(tmp_path / "b.tar", "a.jpg"), "txt")


def test_a_pipe_named_like_a_tar_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(SourceError, match="is no regular file"):
        Read(tmp_path)


def test_pictures_of_real_tools_decode(tmp_path: Path) -> None:
    found = Read(FILES / "img2dataset")
    with Image.open(io.BytesIO(found.data("000000000"))) as image:
        assert image.size == (24, 16)
