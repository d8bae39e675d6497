"""`read_uri`: the bytes of items' files."""

import errno
import os
from pathlib import Path

import pytest

from clipfleet.workers.images.read import read_uri


def test_an_items_bytes_are_read_by_path_and_by_url(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(name, "wb") as file:
        file.write(b"data")
    assert read_uri(os.fsdecode(name), 4).data == b"data"
    assert read_uri(f"file://{tmp_path}/%FF.jpg", 4).data == b"data"


def test_items_that_cannot_be_read_are_os_errors(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "large": errno.EFBIG,
        "folder": errno.EISDIR,
        "loop": errno.ELOOP,
        "pipe": errno.ENXIO,
        "gone": errno.ENOENT,
        "large/below": errno.ENOTDIR,
        "nul\0": errno.EINVAL,
        "n" * 300: errno.ENAMETOOLONG,
    }
    seen = {name: _errno_of(f"{tmp_path}/{name}") for name in expected}
    assert seen == expected
    assert _errno_of("http://host/a.jpg") == errno.EPROTONOSUPPORT


def _errno_of(uri: str) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what is compared
        read_uri(uri, 4)
    return caught.value.errno
