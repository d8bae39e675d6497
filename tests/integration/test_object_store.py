"""A worker whose output is in an object store: what it looks at, and what messages may name."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipfleet
from clipfleet.errors import DatasetMismatchError, MessageError, StorageError, UsageError
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.commit.remove import remove_ids
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from clipfleet.storage.filesystem.s3 import ObjectFilesystem
from clipfleet.storage.format.dataset import Dataset, single_items_name
from clipfleet.storage.format.discovery import find_datasets
from clipfleet.storage.format.enqueue_state import Queued
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.reconcile import is_ours
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from clipfleet.workers.preflight import preflight
from tests.datasets import make_card, texts
from tests.s3 import REFUSE_503, S3
from tests.unit.storage.test_refresh import embed

OUTPUT = "s3://bucket/out"


@pytest.fixture
def settings(s3: S3, tmp_path: Path) -> Settings:
    return load_settings(tower="txt", model=str(write_fake_engine(tmp_path, "txt")), output=OUTPUT)


def test_a_worker_leaves_nothing_in_a_store_that_it_looked_at(settings: Settings, s3: S3) -> None:
    assert preflight(settings).tower == "txt"
    assert s3.requests
    assert not s3.objects


@pytest.fixture
def unconditional(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not know If-None-Match: whoever writes is the first."""

    def put(fs: ObjectFilesystem, path: str, data: bytes) -> bool:
        fs.replace(path, data)
        return True

    monkeypatch.setattr(ObjectFilesystem, "create", put)


@pytest.mark.usefixtures("unconditional")
def test_a_worker_is_not_started_where_two_writers_could_create_one_object(
    settings: Settings,
) -> None:
    with pytest.raises(UsageError, match=r"lets two writers create one object.*If-None-Match"):
        preflight(settings)


@pytest.mark.usefixtures("unconditional")
def test_no_dataset_is_made_where_two_writers_could_create_one_object(s3: S3) -> None:
    with pytest.raises(UsageError, match=rf"the store of {OUTPUT}/d lets two writers create"):
        Dataset.create(f"{OUTPUT}/d", fake_card("txt"), kind="planned", embedding_dtype="float16")
    assert not s3.objects


def test_a_dataset_is_made_and_opened_again_where_the_first_writer_wins(s3: S3) -> None:
    for _ in range(2):
        Dataset.create(f"{OUTPUT}/d", fake_card("txt"), kind="planned", embedding_dtype="float16")
    assert [key.rpartition("/")[2] for key in s3.objects] == ["dataset.json"]


def test_a_report_is_an_object_of_its_dataset(s3: S3) -> None:
    dataset = Dataset.create(
        f"{OUTPUT}/d", fake_card("txt"), kind="planned", embedding_dtype="float16"
    )
    assert clipfleet.write_report(dataset.root) == f"{OUTPUT}/d/report.html"
    assert dataset.fs.read("report.html").startswith(b"<!doctype html>")
    assert verify_dataset(dataset).problems == []
    assert len(s3.objects) == 2


def test_a_worker_is_not_started_where_it_cannot_write(settings: Settings, s3: S3) -> None:
    s3.buckets.remove("bucket")
    try:
        with pytest.raises(UsageError, match=r"cannot write to the output.*NoSuchBucket.*--output"):
            preflight(settings)
    finally:
        s3.buckets.add("bucket")


def test_a_worker_is_not_started_where_its_single_items_are_another_models(
    settings: Settings,
) -> None:
    other = fake_card("txt", dim=4)
    Dataset.create(
        f"{OUTPUT}/{single_items_name('txt')}", other, kind="stream", embedding_dtype="float16"
    )
    with pytest.raises(DatasetMismatchError):
        preflight(settings)


@pytest.mark.parametrize("named", ["a/b", f"{OUTPUT}/a/b", "S3://bucket/out/a/b/", "a/b/"])
def test_datasets_below_the_output_are_taken_and_have_one_name(s3: S3, named: str) -> None:
    assert dataset_root(OUTPUT, named) == f"{OUTPUT}/a/b"


@pytest.mark.parametrize(
    "named",
    [
        "",
        "/etc",
        "..",
        "a/../../x",
        "a/..",
        ".",
        "a//b",
        "a\0b",
        "a\nb",
        "\ud800",
        "s3://bucket/outside",
        "s3://bucket",
        "s3://other/out/a",
        "s3://bucket/out/../x",
        "s3://user:secret@bucket/out/a",
        "file:///etc",
        "gs://bucket/out/a",
        "http://bucket/out/a",
    ],
)
def test_other_names_are_refused_without_a_request(s3: S3, named: str) -> None:
    with pytest.raises(MessageError, match="dataset") as caught:
        dataset_root(OUTPUT, named)
    assert "secret" not in str(caught.value)
    assert not s3.requests


def test_a_dataset_inside_another_is_refused(s3: S3) -> None:
    Dataset.create(f"{OUTPUT}/a", fake_card("txt"), kind="planned", embedding_dtype="float16")
    assert dataset_root(OUTPUT, "a") == f"{OUTPUT}/a"
    with pytest.raises(MessageError, match=f"inside the dataset {OUTPUT}/a: name that"):
        dataset_root(OUTPUT, "a/b/c")


def test_a_store_that_does_not_answer_refuses_no_message(s3: S3) -> None:
    s3.break_(REFUSE_503)
    with pytest.raises(StorageError):
        dataset_root(OUTPUT, "a", store_timeout_s=0.25)


def test_datasets_are_found_up_to_three_levels_below_the_output(s3: S3) -> None:
    fs = open_filesystem(OUTPUT)
    for name in ("b", "a/deep/er", "a/deep/er/than/that", ".hidden", "b/inside"):
        fs.create(f"{name}/dataset.json", b"")
    fs.create("odd?name/picture.jpg", b"")
    assert find_datasets(f"{OUTPUT}/").roots == [f"{OUTPUT}/a/deep/er", f"{OUTPUT}/b"]
    assert find_datasets(f"{OUTPUT}/b").roots == [f"{OUTPUT}/b"]
    assert find_datasets("s3://bucket/none").roots == []


def test_a_dataset_is_ours_by_its_one_name(s3: S3) -> None:
    queued = Queued(queue="q", dataset=f"{OUTPUT}/a", last_job="00001")
    assert is_ours(queued, f"{OUTPUT}/a", queue="q", output=OUTPUT)
    assert not is_ours(queued, "s3://bucket/copy/a", queue="q", output="s3://bucket/copy")


def test_a_job_of_a_dataset_in_a_store_is_named_with_a_colon(settings: Settings) -> None:
    Dataset.create(f"{OUTPUT}/a", fake_card("txt"), kind="planned", embedding_dtype="float16")
    with pytest.raises(UsageError, match=f"dataset {OUTPUT}/a has no job 00007"):
        read_progress(f"{OUTPUT}/a:00007", settings)


def test_ids_are_removed_from_a_dataset_in_a_store(s3: S3) -> None:
    root = f"{OUTPUT}/d"
    Dataset.create(root, make_card(), kind="planned", embedding_dtype="float16")
    dataset = Dataset.open(root)
    plan_items(dataset, ListSource(texts("a", "b", "c")), 2)
    embed(dataset)
    assert remove_ids(dataset, ["a", "c"], shard_size=2).removed == 2
    result = verify_dataset(Dataset.open(root))
    assert result.problems == []
    assert (result.vectors, result.errors, result.removed) == (1, 2, 2)
