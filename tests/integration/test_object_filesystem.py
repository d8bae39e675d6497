import io
import os
import sys
import threading
from pathlib import Path

import pytest

from clipfleet.errors import DependencyError, StorageError, UsageError
from clipfleet.storage.filesystem.locations import absolute
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from clipfleet.storage.filesystem.s3 import WHOLE_BYTES, ObjectFilesystem
from tests.s3 import (
    CONFLICT,
    CUT_DOWNLOAD,
    CUT_UPLOAD,
    HANG,
    LOSE_ANSWER,
    LOSE_ANSWER_500,
    PAGE,
    REFUSE_500,
    REFUSE_503,
    S3,
    Stored,
)

ROOT = "s3://bucket/vectors"
PASSING = (REFUSE_500, REFUSE_503, HANG, CUT_UPLOAD, LOSE_ANSWER, LOSE_ANSWER_500)


@pytest.fixture
def fs(s3: S3) -> ObjectFilesystem:
    return ObjectFilesystem(ROOT, timeout_s=0.4)


@pytest.mark.parametrize("fault", [*PASSING, CONFLICT])
def test_the_first_writer_wins_even_if_its_request_failed(
    s3: S3, fs: ObjectFilesystem, fault: str
) -> None:
    met = s3.break_(fault, method="PUT", times=1)
    assert fs.create("parts/a", b"mine")
    assert met.met == 1
    assert not fs.create("parts/a", b"another's")
    assert fs.read("parts/a") == b"mine"


@pytest.mark.parametrize("fault", PASSING)
def test_the_second_writer_loses_even_if_its_request_failed(
    s3: S3, fs: ObjectFilesystem, fault: str
) -> None:
    fs.create("parts/a", b"another's")
    met = s3.break_(fault, method="PUT", times=1)
    assert not fs.create("parts/a", b"another's")  # the same bytes do not make it the same writer
    assert met.met == 1


@pytest.mark.parametrize("fault", PASSING)
def test_a_request_that_fails_for_a_moment_is_repeated(
    s3: S3, fs: ObjectFilesystem, fault: str
) -> None:
    s3.break_(fault, times=1)
    fs.replace("a", b"data")
    s3.break_(fault, times=1)
    assert fs.read("a") == b"data"
    s3.break_(fault, times=1)
    assert fs.list("") == ["a"]
    s3.break_(fault, times=1)
    assert fs.exists("a")
    s3.break_(fault, times=1)
    fs.delete("a")
    assert not s3.objects


def test_an_interrupted_download_is_repeated(s3: S3, fs: ObjectFilesystem) -> None:
    data = os.urandom(300_000)
    fs.create("a", data)
    fault = s3.break_(CUT_DOWNLOAD, times=2)
    assert fs.read("a") == data
    assert fault.met == 2


def test_interrupted_uploads_leave_no_object(s3: S3, fs: ObjectFilesystem) -> None:
    s3.break_(CUT_UPLOAD, method="PUT")
    with pytest.raises(StorageError):
        fs.create("parts/a", bytes(1_000_000))
    s3.heal()
    assert fs.list("") == []
    assert fs.create("parts/a", b"whole")


@pytest.mark.parametrize(
    ("fault", "words"),
    [(REFUSE_503, "503: Trouble"), (HANG, "error sending request"), (CUT_UPLOAD, "error sending")],
)
def test_a_broken_store_is_an_error_that_names_location_reason_and_remedy(
    s3: S3, fs: ObjectFilesystem, fault: str, words: str
) -> None:
    s3.break_(fault)
    with pytest.raises(StorageError) as caught:
        fs.create("parts/a", b"data")
    message = str(caught.value)
    assert f"cannot write {ROOT}/parts/a" in message
    assert words in message
    assert "run again" in message
    assert "not-so-secret" not in message
    assert "\n" not in message


def test_a_permanent_refusal_is_not_repeated(
    s3: S3, fs: ObjectFilesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ObjectFilesystem("s3://no-such-bucket/x", timeout_s=10)
    for write in (other.create, other.replace):
        with pytest.raises(StorageError, match=r"NoSuchBucket.*create the bucket"):
            write("a", b"")
    with pytest.raises(StorageError, match="cannot list s3://no-such-bucket/x: 404: NoSuchBucket"):
        other.list("")
    assert len(s3.requests) == 3


def test_a_missing_store_is_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody:secret@127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as caught:
        ObjectFilesystem(ROOT, timeout_s=0.2).read("a")
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_long_list_is_complete(fs: ObjectFilesystem) -> None:
    names = [f"{number:03d}" for number in range(2 * PAGE + 3)]
    for name in names:
        fs.replace(f"parts/{name}", b"")
        fs.replace(f"deep/{name}/x", b"")
    assert fs.list("parts") == names
    assert fs.list("deep") == fs.folders("deep") == names
    assert fs.folders("parts") == []


def test_the_marker_of_a_folder_is_not_in_it(s3: S3, fs: ObjectFilesystem) -> None:
    for key in ("", "parts/"):
        s3.objects[f"{fs.root.removeprefix('s3://')}/{key}"] = Stored(b"", {})
    assert fs.list("") == fs.folders("") == ["parts"]
    assert fs.list("parts") == []
    fs.create("parts/a", b"1")
    assert fs.list("parts") == ["a"]


def test_folders_with_a_common_prefix_are_apart(fs: ObjectFilesystem) -> None:
    fs.create("parts/a", b"")
    ObjectFilesystem(f"{ROOT}-2", timeout_s=1).create("parts/b", b"")
    fs.create("parts-2/c", b"")
    assert fs.list("parts") == ["a"]
    assert fs.list("") == ["parts", "parts-2"]


def test_ranges_of_a_large_object_are_read(s3: S3, fs: ObjectFilesystem) -> None:
    data = os.urandom(WHOLE_BYTES + 1000)
    fs.create("plan", data)
    s3.requests.clear()
    with fs.open("plan") as file:
        assert file.seek(-10, io.SEEK_END) == len(data) - 10
        assert file.read() == data[-10:]
        assert file.read(5) == b""
        file.seek(1234)
        assert file.read(100) == data[1234:1334]
        file.seek(0)
        assert file.read() == data
    assert len(s3.requests) < 10


def test_an_object_that_is_replaced_during_a_read_is_an_error(s3: S3, fs: ObjectFilesystem) -> None:
    fs.replace("a", bytes(WHOLE_BYTES + 1))
    with fs.open("a") as file:
        fs.replace("a", b"x" * (WHOLE_BYTES + 1))
        with pytest.raises(StorageError, match=r"PreconditionFailed.*replaced it .* run again$"):
            file.read()


@pytest.mark.parametrize("key", ["parts//x", "parts/../x", "parts/./x", "parts//"])
def test_a_key_that_cannot_be_listed_is_named_with_the_remedy(
    s3: S3, fs: ObjectFilesystem, key: str
) -> None:
    s3.objects[f"bucket/vectors/{key}"] = Stored(b"", {})
    begins = f"vectors/{key.removesuffix('x')}"
    with pytest.raises(StorageError) as caught:
        fs.list("parts")
    assert f"delete or rename the objects in the bucket whose keys begin with '{begins}'" in str(
        caught.value
    )
    assert "AWS_ENDPOINT_URL" not in str(caught.value)
    assert len(s3.requests) == 1  # it is not repeated


def test_one_of_many_writers_creates_although_the_store_loses_answers(s3: S3) -> None:
    """Each writer has the same bytes and its own file system."""
    won: list[int] = []
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        fs = ObjectFilesystem(ROOT, timeout_s=2)
        start.wait()
        won.extend(number for number in range(20) if fs.create(f"parts/{number}", b"same"))

    s3.break_(LOSE_ANSWER, method="PUT", times=10)
    s3.break_(LOSE_ANSWER_500, method="PUT", times=10)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(20))


def test_without_the_package_the_error_names_its_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "clipfleet.storage.filesystem.s3", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[s3\]'"):
        open_filesystem(ROOT)


@pytest.mark.parametrize(
    ("location", "form"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket/a b/猫.v1", "s3://bucket/a b/猫.v1"),
        ("s3://my.bucket-1", "s3://my.bucket-1"),
        ("file:///a", "/a"),
    ],
)
def test_a_location_has_one_form(location: str, form: str) -> None:
    assert absolute(location) == absolute(form) == form


@pytest.mark.parametrize(
    "location",
    [
        "s3://",
        "s3:///a",
        "s3://b",
        "s3://bucket/a//b",
        "s3://bucket/../a",
        "s3://bucket/a/.",
        "s3://bucket/a?b",
        "s3://bucket/a%2e",
        "s3://bucket/a\nb",
        "s3://bucket/ a",
        "s3://bucket/" + "a" * 1000,
        "gs://bucket/a",
    ],
)
def test_another_form_is_refused_with_the_expected_form(location: str) -> None:
    with pytest.raises(UsageError, match=r"expected|use letters|choose a shorter"):
        absolute(location)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY") as caught:
        absolute("s3://AKIA1:hunter2@bucket/a")
    assert "hunter2" not in str(caught.value)


def test_a_name_with_backslashes_is_a_local_path(tmp_path: Path) -> None:
    assert absolute(f"{tmp_path}/s3:/x") == f"{tmp_path}/s3:/x"
