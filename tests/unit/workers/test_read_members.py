"""The bytes of members: pictures inside archives, read by range."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from clipfleet.error_codes import EMPTY_FILE, READ_FAILED
from clipfleet.errors import ItemError
from clipfleet.storage.filesystem.members import Member, TarMember, TgzMember, ZipMember
from clipfleet.workers.images.read import read_bytes, read_uri

FILES = {"a.jpg": b"first" * 300, "b.jpg": b"second", "c.jpg": b"third" * 5000}
LIMIT = 1 << 20


def tar_members(path: Path, kind: type[TarMember] = TarMember) -> dict[str, TarMember]:
    """Write a tar of `FILES`, compressed for a `TgzMember`, and return its members by name."""
    with tarfile.open(path, "w:gz" if kind is TgzMember else "w") as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    plain = gzip.decompress(path.read_bytes()) if kind is TgzMember else path.read_bytes()
    with tarfile.open(path) as tar:
        return {
            info.name: kind(
                path=str(path),
                offset=info.offset_data,
                size=info.size,
                header=zlib.crc32(plain[info.offset_data - 512 : info.offset_data]),
            )
            for info in tar
        }


def zip_members(path: Path, method: str) -> dict[str, ZipMember]:
    number = zipfile.ZIP_DEFLATED if method == "deflate" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", number) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
        return {
            info.filename: ZipMember(
                path=str(path),
                offset=info.header_offset + 30 + len(info.filename),
                size=info.compress_size,
                method=method,
                crc32=info.CRC,
            )
            for info in archive.infolist()
        }


def refusal(member: Member) -> str:
    with pytest.raises(ItemError) as caught:
        read_uri(member.uri, LIMIT)
    assert caught.value.code == READ_FAILED
    return str(caught.value)


def test_each_member_is_read_in_any_order(tmp_path: Path) -> None:
    for members in (
        tar_members(tmp_path / "a #1?.tar"),
        tar_members(tmp_path / "a.tar.gz", TgzMember),
        zip_members(tmp_path / "stored.zip", "stored"),
        zip_members(tmp_path / "deflated.zip", "deflate"),
    ):
        for name in ("c.jpg", "a.jpg", "b.jpg", "b.jpg", "c.jpg"):
            assert read_uri(members[name].uri, LIMIT).data == FILES[name]


def test_a_file_that_was_cut_off_refuses_the_members_behind_and_gives_those_before(
    tmp_path: Path,
) -> None:
    for members in (
        tar_members(tmp_path / "a.tar"),
        tar_members(tmp_path / "a.tar.gz", TgzMember),
        zip_members(tmp_path / "a.zip", "stored"),
    ):
        path = Path(members["a.jpg"].path)
        last = members["c.jpg"]
        end = last.offset + 10 if path.suffix != ".gz" else path.stat().st_size - 20
        os.truncate(path, end)
        assert "ends before its end" in refusal(last) or "is damaged" in refusal(last)
        assert read_uri(members["b.jpg"].uri, LIMIT).data == FILES["b.jpg"]


def test_a_file_that_was_written_anew_gives_no_other_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    before = tar_members(path)["b.jpg"]
    renamed = path.read_bytes().replace(b"b.jpg", b"x.jpg")
    path.write_bytes(renamed)
    assert "something else there" in refusal(before)
    assert "--refresh" in refusal(before)
    assert "another one" in refusal(
        replace(zip_members(tmp_path / "b.zip", "stored")["b.jpg"], crc32=1)
    )


def test_a_replaced_gzip_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    member = tar_members(path, TgzMember)["b.jpg"]
    assert read_uri(member.uri, LIMIT).data == FILES["b.jpg"]
    other = gzip.decompress(path.read_bytes()).replace(b"second", b"newest")
    path.write_bytes(gzip.compress(other))
    assert read_uri(member.uri, LIMIT).data == b"newest"


def test_bytes_that_cannot_be_unpacked_are_damage(tmp_path: Path) -> None:
    members = zip_members(tmp_path / "a.zip", "deflate")
    member = members["c.jpg"]
    with Path(member.path).open("r+b") as file:
        file.seek(member.offset)
        file.write(b"\xff" * 10)
    assert "cannot be unpacked" in refusal(member)
    assert read_uri(members["a.jpg"].uri, LIMIT).data == FILES["a.jpg"]
    (tmp_path / "no.tar.gz").write_bytes(b"no gzip at all")
    member_ = TgzMember(path=f"{tmp_path}/no.tar.gz", offset=512, size=1, header=0)
    assert "is damaged" in refusal(member_)


def test_a_members_size_is_limited_also_unpacked(tmp_path: Path) -> None:
    zipped = zip_members(tmp_path / "a.zip", "deflate")["c.jpg"]
    for member in (tar_members(tmp_path / "a.tar")["c.jpg"], zipped):
        with pytest.raises(OSError, match="allowed") as caught:
            read_uri(member.uri, len(FILES["c.jpg"]) - 1)
        assert caught.value.errno == errno.EFBIG
        assert read_uri(member.uri, len(FILES["c.jpg"])).data == FILES["c.jpg"]


def test_a_member_lies_below_an_input_root_if_its_file_does(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    members = tar_members(tmp_path / "in" / "a.tar")
    outside = tar_members(tmp_path / "b.tar")["a.jpg"]
    (tmp_path / "in" / "link.tar").symlink_to("../b.tar")
    roots = [os.path.realpath(tmp_path / "in")]
    assert read_uri(members["a.jpg"].uri, LIMIT, roots).data == FILES["a.jpg"]
    for path in (outside.path, f"{tmp_path}/in/link.tar", f"{tmp_path}/in/../b.tar"):
        with pytest.raises(OSError, match="input roots") as caught:
            read_uri(replace(outside, path=path).uri, LIMIT, roots)
        assert caught.value.errno == errno.EXDEV


def test_an_empty_member_and_a_wrong_form_are_item_errors(tmp_path: Path) -> None:
    member = tar_members(tmp_path / "a.tar")["a.jpg"]
    empty = replace(zip_members(tmp_path / "a.zip", "stored")["a.jpg"], size=0, crc32=0)
    with pytest.raises(ItemError) as caught:
        read_bytes(empty.uri, LIMIT)
    assert caught.value.code == EMPTY_FILE
    wrong = replace(member, path="/a.tar").uri.replace("size=", "length=")
    with pytest.raises(ItemError, match="has not the form tar:///"):
        read_bytes(wrong, LIMIT)
