import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import SourceError, UsageError
from clipfleet.storage.filesystem.locations import local_path
from clipfleet.storage.skipped import FolderRules, skipped_lines
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.open_source import open_source


def ids(root: Path | str, **rules: Any) -> list[str]:
    return [item.id for item in FolderSource(str(root), FolderRules(**rules))]


def skipped(root: Path, **rules: Any) -> dict[str, int]:
    source = FolderSource(str(root), FolderRules(**rules))
    list(source)
    assert list(source)  # the second time counts nothing twice
    return source.skipped


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_the_id_is_the_path_below_the_root_and_the_uri_the_whole_path(tmp_path: Path) -> None:
    touch(tmp_path, "cats/black/a.jpg")
    (item,) = FolderSource(str(tmp_path))
    assert item.id == "cats/black/a.jpg"
    assert item.uri == f"{tmp_path}/cats/black/a.jpg"
    assert item.text is None


def test_images_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/2.jpg", "a/1.webp", "c/x.gif", "a.JPG", "a/b/0.tiff")
    expected = ["a/1.webp", "a/2.jpg", "a/b/0.tiff", "a.JPG", "b.png", "c/x.gif"]
    assert ids(tmp_path) == ids(tmp_path) == expected


def test_files_without_an_images_extension_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "notes.txt", "archive.tar", "jpg", "noextension", "a.jpg.txt")
    assert ids(tmp_path) == ["a.jpg"]


def test_hidden_and_system_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".thumbnails/a.jpg", "lost+found/a.jpg")
    assert ids(tmp_path) == ["a.jpg"]


def test_names_with_newlines_quotes_and_emoji_stay_as_they_are(tmp_path: Path) -> None:
    names = [
        "a\nb.jpg",
        'a"b\\c.jpg',
        "猫😀.jpg",
        "a%20b.jpg",
        " .jpg",
        "e\u0301.jpg",
        "\u00e9.jpg",
    ]
    touch(tmp_path, *names)
    assert sorted(ids(tmp_path)) == sorted(names)


def test_a_name_that_is_not_utf8_has_a_readable_id_and_a_uri_that_opens(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.jpg", "wb") as file:
        file.write(b"data")
    (item,) = FolderSource(str(tmp_path))
    assert item.id == "\\xff\\xfe.jpg"
    assert item.uri is not None
    assert item.uri.startswith("file:///")
    assert Path(local_path(item.uri)).read_bytes() == b"data"


def test_a_folder_named_like_an_image_is_an_item_and_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, "x.png/inside.jpg")
    assert ids(tmp_path) == ["x.png", "x.png/inside.jpg"]


def test_links_are_followed_and_a_broken_link_is_an_item(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/cats/a.jpg", "root/real.jpg")
    root = tmp_path / "root"
    (root / "linked").symlink_to(tmp_path / "elsewhere" / "cats")
    (root / "file.jpg").symlink_to(root / "real.jpg")
    (root / "dangling.jpg").symlink_to("nowhere")
    (root / "self.jpg").symlink_to("self.jpg")
    assert ids(root) == ["dangling.jpg", "file.jpg", "linked/a.jpg", "real.jpg", "self.jpg"]


def test_a_folder_with_two_links_to_it_is_walked_twice(tmp_path: Path) -> None:
    touch(tmp_path, "cats/a.jpg")
    (tmp_path / "same").symlink_to("cats")
    assert ids(tmp_path) == ["cats/a.jpg", "same/a.jpg"]


def test_links_in_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    assert ids(tmp_path) == ["a/1.jpg", "a/b/2.jpg", "b/2.jpg", "b/a/1.jpg"]


def test_a_tree_deeper_than_the_recursion_limit_is_walked(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    (tmp_path / deep).mkdir(parents=True)
    touch(tmp_path, f"{deep}/a.jpg")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert ids(tmp_path) == [f"{deep}/a.jpg"]
    finally:
        sys.setrecursionlimit(before)


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> "os._ScandirIterator[str]":
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="closed: Permission denied; make it readable"):
        ids(tmp_path)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(SourceError, match=r"holds no image.*\.jpg"):
        ids(tmp_path)


def test_the_location_of_an_item_is_its_path(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    assert FolderSource(str(tmp_path)).location(2) == repr(f"{tmp_path}/b.jpg")


def test_skipped_files_are_counted_by_their_extensions(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "1.MOV", "b/2.mov", "b/c/notes", "b/.hidden", "d/@eaDir/a.jpg")
    touch(tmp_path, "d/Thumbs.db", "d/__MACOSX/a.jpg", "d/x.a-long-extension")
    found = skipped(tmp_path)
    assert found == {
        ".mov": 2,
        "no extension": 1,
        "other extensions": 1,
        "hidden or system": 4,  # a folder that is not entered counts once
    }
    assert skipped_lines(found) == [
        "  skipped 8 files: hidden or system 4, .mov 2, no extension 1, other extensions 1"
    ]


def test_any_number_of_extensions_takes_little_room(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", *(f"scan.{n:06}" for n in range(150)))
    found = skipped(tmp_path)
    assert len(found) == 101
    assert sum(found.values()) == 150
    (line,) = skipped_lines(found)
    assert line.startswith("  skipped 150 files: other extensions 50, .0")
    assert line.endswith(" 1, others 91")


def test_excluded_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.GIF", "raw/c.jpg", "x/raw/d.jpg", "x/y/e.jpg", "x/y.jpg")
    rules = {"exclude": ("raw/", "*.gif", "x/y/*")}
    assert ids(tmp_path, **rules) == ["a.jpg", "x/y.jpg"]
    assert skipped(tmp_path, **rules) == {"excluded": 4}


def test_included_files_are_items_whatever_their_extensions(tmp_path: Path) -> None:
    touch(tmp_path, "0a1b", "a.jpg", "x.png/b.dat", "x.png/c.JPG", ".d", "e.txt")
    assert ids(tmp_path, include=("*",), exclude=("*.txt",)) == [
        *("0a1b", "a.jpg", "x.png", "x.png/b.dat", "x.png/c.JPG")
    ]
    assert ids(tmp_path, include=("*.jpg",)) == ["a.jpg", "x.png/c.JPG"]
    assert skipped(tmp_path, include=("x.png/*",)) == {"excluded": 3, "hidden or system": 1}
    with pytest.raises(SourceError, match=r"no file that matches \*\.tif; skipped: excluded 5"):
        ids(tmp_path, include=("*.tif",))


def test_skipped_files_are_an_error_if_they_should_be(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.mov", ".DS_Store")
    with pytest.raises(SourceError, match=r"not read as images \(\.mov 1\): exclude them"):
        ids(tmp_path, fail_on_skipped=True)
    assert ids(tmp_path, fail_on_skipped=True, exclude=("*.mov",)) == ["a.jpg"]


def test_rules_of_folders_are_refused_for_other_sources(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    with pytest.raises(SourceError, match=r"a\.jsonl has no files of images: leave --include"):
        open_source(f"{tmp_path}/a.jsonl", include=["*"], tower="img")


def test_globs_that_are_none_are_refused() -> None:
    for include in ("*.jpg", [""], ["./"]):
        with pytest.raises(UsageError, match="expected globs"):
            FolderRules.of(include, (), fail_on_skipped=False)
