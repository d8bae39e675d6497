"""`queued.json`, and the search for datasets in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import DatasetError, StorageError
from clipfleet.storage.format.discovery import find_datasets
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, Queued, read_queued, write_queued
from tests.datasets import fake_dataset

QUEUED = Queued(queue="clipfleet.txt", dataset="/d", last_job="00002")


def test_the_state_is_kept_and_written_once(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    assert read_queued(dataset) is None
    write_queued(dataset, QUEUED)
    assert read_queued(dataset) == QUEUED
    inode = Path(dataset.root, QUEUED_PATH).stat().st_ino
    write_queued(dataset, QUEUED)
    assert Path(dataset.root, QUEUED_PATH).stat().st_ino == inode


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"queue": "q", "dataset": "/d", "last_job": 2}',
        '{"queue": "q", "dataset": "/d", "last_job": "00001", "more": "1"}',
    ],
)
def test_a_damaged_file_names_the_remedy(tmp_path: Path, text: str) -> None:
    dataset = fake_dataset(tmp_path)
    Path(dataset.root, QUEUED_PATH).write_text(text)
    with pytest.raises(DatasetError, match=r"queued\.json is damaged .*clipfleet resume"):
        read_queued(dataset)


def test_datasets_are_found_below_a_folder(tmp_path: Path) -> None:
    for place in ("a", "b/c", "b/d/e", "b/d/f/too-deep", ".hidden", "a/parts"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "picture.jpg").touch()
    found = find_datasets(str(tmp_path))
    assert found.roots == [str(tmp_path / place) for place in ("a", "b/c", "b/d/e")]
    assert not found.cut
    assert find_datasets(str(tmp_path / "a")).roots == [str(tmp_path / "a")]


def test_a_folder_with_too_many_names_is_read_in_part(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).touch()
    assert not find_datasets(str(tmp_path), max_entries=10).cut
    assert find_datasets(str(tmp_path), max_entries=9).cut


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot list"):
        find_datasets(str(tmp_path / "gone"))
