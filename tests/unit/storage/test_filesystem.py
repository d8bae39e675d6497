import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clipfleet.errors import DatasetError, StorageError, UsageError
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.filesystem.local import TEMPORARY_FOLDER, LocalFilesystem
from clipfleet.storage.filesystem.locations import local_path
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from tests.memory_filesystem import MemoryFilesystem

Broken = Callable[[str, int], None]


@pytest.fixture(params=["local", "memory", "s3"])
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Filesystem:
    if request.param == "s3":
        root: str = request.getfixturevalue("s3_root")
        return open_filesystem(root)
    return LocalFilesystem(str(tmp_path)) if request.param == "local" else MemoryFilesystem()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Make a function of `os` fail with an errno."""

    def break_(function: str, number: int) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, function, fail)

    return break_


def test_a_created_file_is_read_back(fs: Filesystem) -> None:
    assert fs.create("a/b.bin", memoryview(b"bytes"))
    assert fs.read("a/b.bin") == b"bytes"
    with fs.open("a/b.bin") as file:
        file.seek(2)
        assert file.read() == b"tes"


def test_a_buffer_of_pyarrow_is_written_unchanged(fs: Filesystem) -> None:
    sink = pa.BufferOutputStream()
    sink.write(b"\xff\x00bytes")
    data = memoryview(sink.getvalue())
    assert fs.create("a", data)
    fs.replace("b", data)
    assert fs.read("a") == fs.read("b") == b"\xff\x00bytes"


def test_only_the_first_writer_creates_a_file(fs: Filesystem) -> None:
    assert fs.create("a", b"first")
    assert not fs.create("a", b"second")
    assert fs.read("a") == b"first"


def test_replace_writes_a_new_or_an_existing_file(fs: Filesystem) -> None:
    fs.replace("x/a", b"one")
    fs.replace("x/a", b"two")
    assert fs.read("x/a") == b"two"


def test_a_folder_is_listed_sorted_and_a_missing_one_is_empty(fs: Filesystem) -> None:
    for name in ("b", "a", "c"):
        fs.create(f"x/{name}", b"")
    assert fs.list("x") == ["a", "b", "c"]
    assert fs.list("y") == []


def test_a_file_exists_until_it_is_deleted_and_deleting_twice_is_fine(fs: Filesystem) -> None:
    fs.create("x/a", b"")
    assert fs.exists("x/a")
    for _ in range(2):
        fs.delete("x/a")
        assert not fs.exists("x/a")


def test_a_missing_file_is_not_found(fs: Filesystem) -> None:
    with pytest.raises(FileNotFoundError):
        fs.read("x/a")
    with pytest.raises(FileNotFoundError):
        fs.open("x/a")


def test_a_root_that_was_removed_is_not_made_again_by_a_write(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    fs = LocalFilesystem(str(root))
    for write in (fs.create, fs.replace):
        with pytest.raises(StorageError, match=r"dataset is gone; put it back, or submit again"):
            write("parts/a", b"")
        assert not root.exists()
    assert fs.create("dataset.json", b"")
    assert fs.create("parts/a", b"")


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    fs = LocalFilesystem(str(tmp_path))
    fs.create("parts/a", b"1")
    fs.create("parts/a", b"2")
    fs.replace("parts/a", b"3")
    assert fs.list(TEMPORARY_FOLDER) == []


def test_files_get_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    fs = LocalFilesystem(str(tmp_path))
    old = os.umask(0o027)
    try:
        fs.create("a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("fs", ["local", "s3"], indirect=True)
def test_one_of_many_writers_creates_a_file_and_readers_see_it_whole(fs: Filesystem) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        start.wait()
        for number in range(10):
            if fs.create(f"parts/{number}", bytes([writer]) * 100_000):
                won.append(number)
            data = fs.read(f"parts/{number}")
            assert len(data) == 100_000
            assert len(set(data)) == 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(10))


@pytest.mark.parametrize(
    ("function", "number", "words"),
    [
        ("fsync", errno.ENOSPC, "free some space"),
        ("fsync", errno.EIO, "error"),
        ("link", errno.EACCES, "give this user the right"),
        ("replace", errno.EROFS, "mount it writable"),
    ],
)
def test_an_error_of_the_disk_names_path_reason_and_remedy(
    tmp_path: Path, broken: Broken, function: str, number: int, words: str
) -> None:
    fs = LocalFilesystem(str(tmp_path))
    broken(function, number)
    write = fs.replace if function == "replace" else fs.create
    with pytest.raises(StorageError) as caught:
        write("parts/a", b"data")
    message = str(caught.value)
    assert f"{tmp_path}/parts/a" in message
    assert os.strerror(number) in message
    assert words in message
    assert not fs.exists("parts/a")
    assert fs.list(TEMPORARY_FOLDER) == []


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, broken: Broken) -> None:
    broken("link", errno.EOPNOTSUPP)
    with pytest.raises(DatasetError, match="no hard links"):
        LocalFilesystem(str(tmp_path)).create("a", b"")


def test_an_immutable_folder_is_a_disk_that_refuses_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse_parts(source: str, target: str) -> None:
        if os.path.dirname(target).endswith("parts"):
            raise OSError(errno.EPERM, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse_parts)
    with pytest.raises(StorageError, match="Operation not permitted"):
        LocalFilesystem(str(tmp_path)).create("parts/a", b"")
    assert list((tmp_path / "_temporary").iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    fs = LocalFilesystem(str(tmp_path))
    assert fs.create("parts/a", b"data")
    assert fs.read("parts/a") == b"data"


def test_a_link_that_succeeded_and_was_repeated_is_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert LocalFilesystem(str(tmp_path)).create("a", b"mine")


def test_files_of_writers_killed_long_ago_are_removed(tmp_path: Path) -> None:
    fs = LocalFilesystem(str(tmp_path))
    fs.create(f"{TEMPORARY_FOLDER}/1000000000-dead", b"")
    fs.create(f"{TEMPORARY_FOLDER}/99999999999-alive", b"")
    fs.tidy()
    assert fs.list(TEMPORARY_FOLDER) == ["99999999999-alive"]


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "x/../../a"])
@pytest.mark.parametrize("fs", ["local", "s3"], indirect=True)
def test_a_path_that_leaves_the_root_is_refused(fs: Filesystem, path: str) -> None:
    with pytest.raises(UsageError, match="leaves"):
        fs.read(path)


def test_a_root_is_a_path_or_a_file_url(tmp_path: Path) -> None:
    open_filesystem(f"file://{tmp_path}/new").create("a", b"1")
    assert open_filesystem(f"{tmp_path}/new").read("a") == b"1"


@pytest.mark.parametrize("root", ["gs://bucket/x", "http://host/x", "file://host/x", ""])
def test_an_unsupported_root_is_refused_with_the_supported_forms(root: str) -> None:
    with pytest.raises(UsageError, match="file://"):
        open_filesystem(root)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("file:///a%20b/%E7%8C%AB.jpg", "/a b/猫.jpg"),
        ("file://localhost/a", "/a"),
        ("FILE:///a?b#c", "/a?b#c"),
        ("/crawl/http://x", "/crawl/http:/x"),
        ("file:///%FF.jpg", "/\udcff.jpg"),
    ],
)
def test_a_location_is_read_as_a_path(location: str, path: str) -> None:
    assert local_path(location) == path
