"""Progress from the files alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipfleet.errors import DatasetError
from clipfleet.settings import load_settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.refresh import refresh_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.status.progress import read_progress
from clipfleet.workers.engines.fake import fake_card
from tests.datasets import DIM, embedded, embedded_texts, fake_dataset, images, numbered_texts

NO_REDIS = load_settings(redis_url="redis://127.0.0.1:1/0")


def test_the_files_tell_how_far_a_dataset_is(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(25)), 10)
    progress = read_progress(dataset.root, NO_REDIS)
    assert (progress.total, progress.done, progress.shards, progress.finished) == (25, 0, 3, False)
    first, *others = missing_shards(dataset)
    commit(dataset, first.name, embedded_texts(10, failures=1), card=dataset.info.card, worker="w")
    progress.refresh()
    assert (progress.vectors, progress.errors, progress.shards_done) == (9, 1, 1)
    for shard in others:
        commit(dataset, shard.name, embedded_texts(shard.size), card=dataset.info.card, worker="w")
    progress.refresh()
    assert progress.finished
    assert progress.snapshot().done == progress.total == 25


def test_items_that_came_singly_count_as_total_and_done(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path, kind="stream")
    known = KnownIds(dataset)
    commit_single_items(dataset, known, embedded_texts(7), card=dataset.info.card, worker="w")
    progress = read_progress(dataset.root, NO_REDIS)
    assert (progress.total, progress.done, progress.shards, progress.finished) == (7, 7, 0, True)


def test_one_job_of_several(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(10)), 10)
    plan_items(dataset, ListSource(numbered_texts(14)), 10)
    second = read_progress(f"{dataset.root}:00002", NO_REDIS)
    assert (second.total, second.shards) == (4, 1)
    assert second.to_json()["job"] == "00002"
    with pytest.raises(DatasetError, match="no job 00003"):
        read_progress(f"{dataset.root}:00003", NO_REDIS)
    with pytest.raises(DatasetError, match="no dataset at"):
        read_progress(str(tmp_path / "nowhere"), NO_REDIS)


def test_without_redis_the_queue_is_unknown_and_the_rest_is_shown(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(10)), 10)
    progress = read_progress(dataset.root, NO_REDIS)
    assert progress.waiting is None
    assert progress.to_json()["broker_error"].startswith("Redis at redis://127.0.0.1:1/0")
    head, queue = progress.lines()
    assert head.startswith(f"{dataset.root}: 0/10 items")
    assert queue.startswith("  queue unknown: Redis at")


def test_a_finished_dataset_asks_nobody_to_start_redis(tmp_path: Path) -> None:
    progress = read_progress(fake_dataset(tmp_path).root, NO_REDIS)
    assert progress.finished
    assert len(progress.lines()) == 1


def test_cut_texts_are_shown(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(10)), 10)
    rows = replace(embedded_texts(10), cut=frozenset({"t1", "t2"}))
    commit(dataset, next(missing_shards(dataset)).name, rows, card=dataset.info.card, worker="w")
    progress = read_progress(dataset.root, NO_REDIS)
    assert progress.to_json()["cut"] == 2
    assert "  2 texts were cut to the model's length" in progress.lines()
    result = verify_dataset(dataset.root)
    assert result.ok
    assert result.to_json()["cut"] == 2
    assert "2 vectors are of texts that were cut" in result.lines()[0]


def test_remarks_on_images_are_shown(tmp_path: Path) -> None:
    card = fake_card("img", dim=DIM)
    dataset = Dataset.create(f"{tmp_path}/d", card, kind="planned", embedding_dtype="float16")
    plan_items(dataset, ListSource(images("a", "b", "c")), 10)
    rows = replace(
        embedded(images("a", "b", "c")),
        transparent=frozenset({"a", "b"}),
        without_end=frozenset({"c"}),
        copied=1,
    )
    commit(dataset, next(missing_shards(dataset)).name, rows, card=card, worker="w")
    progress = read_progress(dataset.root, NO_REDIS)
    fields = progress.to_json()
    assert (fields["transparent"], fields["without_end"], fields["copied"]) == (2, 1, 1)
    assert progress.lines()[1:] == [
        "  1 vectors are copies, of items with equal bytes",
        "  2 images are transparent",
        "  1 JPEG files lack their ends",
    ]
    result = verify_dataset(dataset.root)
    assert result.ok
    assert (result.transparent, result.without_end) == (2, 1)
    assert result.lines()[0].endswith(
        "; 2 vectors are of transparent images; 1 vectors are of JPEG files without their ends"
        "; 1 vectors are copies, of items with equal bytes"
    )


def test_the_files_that_a_folder_skipped_stay_in_its_jobs_and_in_the_status(tmp_path: Path) -> None:
    card = fake_card("img", dim=8)
    dataset = Dataset.create(f"{tmp_path}/d", card, kind="planned", embedding_dtype="float16")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "a.mov", "b.mov"):
        (photos / name).touch()
    plan_items(dataset, FolderSource(str(photos)), 10)
    progress = read_progress(dataset.root, NO_REDIS)
    assert progress.to_json()["skipped"] == {".mov": 2}
    assert "  skipped 2 files: .mov 2" in progress.lines()
    for name in ("c.jpg", "c.mov"):
        (photos / name).touch()
    refresh_items(dataset, FolderSource(str(photos)), 10, on_conflict="keep")
    progress.refresh()
    assert progress.skipped == {".mov": 3}  # the folder's last job counted all again
    assert read_progress(f"{dataset.root}:00001", NO_REDIS).skipped == {".mov": 2}
