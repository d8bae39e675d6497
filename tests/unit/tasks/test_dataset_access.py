"""Which datasets a message may name."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from clipfleet.errors import MessageError, StorageError
from clipfleet.tasks.dataset_access import check_new_root, dataset_root


def test_paths_inside_the_output_folder_are_taken(tmp_path: Path) -> None:
    output = str(tmp_path)
    for named in (str(tmp_path / "a" / "b"), "a/b", f"file://{tmp_path}/a/b", f"{output}//a/./b"):
        assert dataset_root(output, named) == str(tmp_path.resolve() / "a" / "b")
    assert dataset_root(output, output) == str(tmp_path.resolve())


@pytest.mark.parametrize(
    "named",
    ["", "/etc", "..", "../x", "a/../../x", "a/../b", "s3://bucket/a", "file://host/a", "a\0b"],
)
def test_other_paths_are_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(MessageError, match="dataset"):
        dataset_root(str(tmp_path), named)


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="is not inside"):
        dataset_root(str(tmp_path / "out"), str(tmp_path / "outside"))


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_followed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "real").mkdir(parents=True)
    (output / "inside").symlink_to(output / "real")
    (output / "outside").symlink_to(tmp_path)
    (output / "loop").symlink_to(output / "loop")
    assert dataset_root(str(output), "inside/x") == str(output.resolve() / "real" / "x")
    with pytest.raises(MessageError, match="is not inside"):
        dataset_root(str(output), "outside/x")


def test_an_output_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = dataset_root(str(tmp_path / "link"), str(tmp_path / "link" / "a"))
    assert found == str(tmp_path.resolve() / "real" / "a")


@pytest.mark.parametrize(
    "named", ["n" * 256, f"a/{'ä' * 128}", "a/" * 1900, "a/" * 2049, "half\ud800"]
)
def test_names_that_no_file_system_takes_are_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(MessageError, match="dataset") as caught:
        dataset_root(str(tmp_path), named)
    assert len(str(caught.value)) < 400


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    assert dataset_root(str(tmp_path), "n" * 255) == str(tmp_path.resolve() / ("n" * 255))


def test_an_absolute_url_with_escapes_leads_nowhere_else(tmp_path: Path) -> None:
    for named in (f"file://{tmp_path}/%2E%2E/x", f"file://{tmp_path}/a%00b", "file:///etc"):
        with pytest.raises(MessageError, match="dataset"):
            dataset_root(str(tmp_path), named)


@pytest.mark.parametrize("name", ["plan", "parts", "errors", "manifest", "_temporary"])
def test_a_dataset_whose_folder_is_a_link_out_is_refused(tmp_path: Path, name: str) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (output / "d").mkdir(parents=True)
    elsewhere.mkdir()
    (output / "d" / name).symlink_to(elsewhere)
    with pytest.raises(MessageError, match=f"{name}/ of dataset .* is a symbolic link out"):
        dataset_root(str(output), "d")
    (output / "d" / name).unlink()
    (output / "other").mkdir()
    (output / "d" / name).symlink_to(output / "other")
    assert dataset_root(str(output), "d") == str(output.resolve() / "d")


def test_a_dataset_inside_another_or_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d" / "parts").mkdir(parents=True)
    (tmp_path / "d" / "dataset.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for named in ("d/parts", "d/parts/e", "d/e", "d/dataset.json"):
        with pytest.raises(MessageError, match=r"inside the dataset|is a file"):
            dataset_root(str(tmp_path), named)
    for named in ("file", "file/e"):
        with pytest.raises(MessageError, match="is a file"):
            dataset_root(str(tmp_path), named)
    assert dataset_root(str(tmp_path), "d") == str(tmp_path.resolve() / "d")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, StorageError),
        (errno.EPERM, StorageError),
        (errno.EIO, StorageError),
        (errno.ESTALE, StorageError),
        (errno.ETIMEDOUT, StorageError),
        (errno.ENAMETOOLONG, MessageError),
    ],
)
def test_what_a_disk_says_is_not_the_messages_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(kind, match=re.escape(os.strerror(number))):
        dataset_root(str(tmp_path), "d")


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (".", "is this worker's output folder"),
        ("items-txt/2026", "lies inside items-txt"),
        ("items-img/2026/07", "lies inside items-img"),
        ("a", "lies above the dataset .*/a/b"),
    ],
)
def test_a_new_dataset_that_would_keep_items_out_of_another_is_refused(
    tmp_path: Path, named: str, reason: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "dataset.json").write_text("{}")
    with pytest.raises(MessageError, match=reason):
        check_new_root(str(tmp_path), dataset_root(str(tmp_path), named))


@pytest.mark.parametrize(
    "named", ["items-txt", "items-img", "a/b", "a/c", "b/items-txt/c", "files"]
)
def test_a_new_dataset_beside_others_is_taken(tmp_path: Path, named: str) -> None:
    for folder in ("a/b", "items-txt/2026"):  # the second is of an earlier version
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset.json").write_text("{}")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "picture.jpg").touch()
    check_new_root(str(tmp_path), dataset_root(str(tmp_path), named))


def test_an_output_folder_that_is_a_dataset_already_is_taken(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    check_new_root(str(tmp_path), dataset_root(str(tmp_path), "."))
