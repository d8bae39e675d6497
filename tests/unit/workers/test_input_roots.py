"""Input roots: no file outside is opened, by whatever name."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from clipfleet.errors import ItemError
from clipfleet.workers.images.read import read_bytes, read_uri

SECRET = b"for no vector"


class Roots:
    """A folder to read from, and a file beside it that must stay unread."""

    def __init__(self, folder: Path) -> None:
        self.inside = folder / "in"
        self.inside.mkdir()
        self.outside = folder / "in-side"  # its name begins like the root's
        self.outside.mkdir()
        self.secret = self.outside / "secret.jpg"
        self.secret.write_bytes(SECRET)
        (self.inside / "a.jpg").write_bytes(b"data")

    def read(self, uri: str) -> bytes:
        return read_uri(uri, 100, [os.path.realpath(self.inside)]).data

    def errno_of(self, uri: str) -> int | None:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what counts
            self.read(uri)
        return caught.value.errno


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def test_a_file_below_a_root_is_read(roots: Roots) -> None:
    (roots.inside / "deep" / "er").mkdir(parents=True)
    (roots.inside / "deep" / "er" / "b.jpg").write_bytes(b"deep")
    (roots.inside / "link.jpg").symlink_to("deep/er/b.jpg")
    (roots.outside / "back").symlink_to(roots.inside)
    for name in ("a.jpg", "./deep/../a.jpg", "../in/a.jpg", "../in-side/back/a.jpg"):
        assert roots.read(f"{roots.inside}/{name}") == b"data"
    assert roots.read(f"{roots.inside}/link.jpg") == b"deep"
    assert roots.read((roots.inside / "a.jpg").as_uri()) == b"data"
    assert read_uri(str(roots.inside / "a.jpg"), 100, ["/nowhere", "/"]).data == b"data"


def test_a_root_may_be_reached_by_a_link(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(roots.inside)
    assert roots.read(f"{tmp_path}/mount/a.jpg") == b"data"


def test_a_path_outside_gets_one_refusal_whether_it_exists_or_not(roots: Roots) -> None:
    (roots.inside / "out.jpg").symlink_to(roots.secret)
    (roots.inside / "folder").symlink_to("../in-side")
    (roots.inside / "nowhere").symlink_to("/nowhere")
    os.mkfifo(roots.outside / "pipe")
    for uri in (
        f"{roots.secret}",
        f"{roots.outside}/gone.jpg",
        f"{roots.outside}/pipe",
        f"{roots.inside}/../in-side/secret.jpg",
        f"{roots.inside}/out.jpg",
        f"{roots.inside}/folder/secret.jpg",
        f"{roots.inside}/folder/gone.jpg",
        f"{roots.inside}/nowhere",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        "/",
        roots.secret.as_uri(),
        f"file://{roots.inside}/%2E%2E/in-side/secret.jpg",
    ):
        assert roots.errno_of(uri) == errno.EXDEV, uri


def test_an_unreadable_file_below_a_root_has_the_usual_error(roots: Roots) -> None:
    (roots.inside / "folder").mkdir()
    (roots.inside / "loop").symlink_to("loop")
    os.mkfifo(roots.inside / "pipe")
    expected = {
        "folder": errno.EISDIR,
        "loop": errno.ELOOP,
        "pipe": errno.ENXIO,
        "gone": errno.ENOENT,
        "a.jpg/below": errno.ENOTDIR,
        "nul\0": errno.EINVAL,
        "half\ud800": errno.EINVAL,
        "n" * 300: errno.ENAMETOOLONG,
    }
    assert {name: roots.errno_of(f"{roots.inside}/{name}") for name in expected} == expected
    for uri in ("http://host/a.jpg", "s3://bucket/a.jpg", f"file://host{roots.inside}/a.jpg"):
        assert roots.errno_of(uri) == errno.EPROTONOSUPPORT


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_swapped_in_after_the_check_is_refused(
    roots: Roots, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    (roots.inside / "folder").mkdir()
    path = roots.inside / "folder" / "secret.jpg"
    path.write_bytes(b"harmless")
    opened: list[tuple[str, int]] = []

    def swap_then_open(name: str, flags: int) -> int:
        if not opened:
            path.unlink()
            if swapped == "file":
                path.symlink_to(roots.secret)
            else:
                path.parent.rmdir()
                path.parent.symlink_to(roots.outside)
        opened.append((name, flags))
        return real_open(name, flags)

    assert roots.read(str(path)) == b"harmless"
    real_open = os.open
    monkeypatch.setattr(os, "open", swap_then_open)
    assert roots.errno_of(str(path)) == errno.EXDEV
    ((name, flags),) = opened
    assert name == str(path)
    assert flags & os.O_PATH  # located, and never opened


def test_a_file_that_is_swapped_during_the_read_stays_the_checked_one(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = roots.inside / "a.jpg"
    real_readlink = os.readlink

    def read_then_swap(link: str) -> str:
        target = real_readlink(link)
        path.unlink()
        path.symlink_to(roots.secret)
        return target

    monkeypatch.setattr(os, "readlink", read_then_swap)
    assert roots.read(str(path)) == b"data"


def test_no_descriptor_stays_open(roots: Roots) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a.jpg", "gone", "../in-side/secret.jpg", ""):
        with contextlib.suppress(OSError):
            roots.read(f"{roots.inside}/{name}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_in_a_store_allows_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    with pytest.raises(ItemError) as caught:
        read_bytes(str(path), 10, ("s3://bucket/a",))
    assert caught.value.code == "not_allowed"
