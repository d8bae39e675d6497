"""A dataset is planned or a stream; one of an earlier version has no kind, and may be both."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetError, DatasetKindError
from clipfleet.storage.commit.commit import complete
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.commit.manifest import Manifest, missing_shards, unfinished
from clipfleet.storage.commit.record import record_path
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items, single_items_part
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import INFO_PATH, Kind
from clipfleet.storage.format.parts import part_of, part_path
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.jobs import Job, jobs
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import embedded, make_card, memory_dataset, texts
from tests.interleavings.test_interleavings import work

KINDS = ("planned", "stream")


def create(root: Path, kind: Kind) -> Dataset:
    return Dataset.create(str(root), make_card(), kind=kind, embedding_dtype="float16")


def commit_single(dataset: Dataset, ids: str, *, failing: str = "") -> None:
    rows = embedded(texts(*ids), failing=failing)
    with closing(KnownIds(dataset)) as known:
        commit_single_items(dataset, known, rows, card=make_card(), worker="w")


def plan(dataset: Dataset, ids: str) -> Job:
    job = plan_items(dataset, ListSource(texts(*ids)), 2)
    assert job is not None
    return job


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_dataset_has_the_kind_that_its_first_writer_gave_it(
    tmp_path: Path, kind: Kind
) -> None:
    create(tmp_path, kind)
    assert json.loads((tmp_path / INFO_PATH).read_text())["kind"] == kind
    other: Kind = "stream" if kind == "planned" else "planned"
    again = create(tmp_path, other)
    assert again.info.kind == kind
    check_kind(again, kind)
    with pytest.raises(DatasetKindError):
        check_kind(again, other)


def test_the_other_kind_of_writing_is_refused_with_the_remedy() -> None:
    with pytest.raises(DatasetKindError, match=r"/memory is planned: .* name another dataset"):
        check_kind(memory_dataset(kind="planned"), "stream")
    with pytest.raises(DatasetKindError, match=r"/memory is a stream: .*another output folder"):
        check_kind(memory_dataset(kind="stream"), "planned")


def test_an_unknown_kind_is_damage(tmp_path: Path) -> None:
    create(tmp_path, "planned")
    fields = json.loads((tmp_path / INFO_PATH).read_text())
    (tmp_path / INFO_PATH).write_text(json.dumps({**fields, "kind": "both"}))
    with pytest.raises(DatasetError, match=r"dataset\.json is damaged .*kind 'both'"):
        Dataset.open(str(tmp_path))


# Earlier versions wrote no kind. For each job they wrote a part of single items without rows, a
# marker, whose footer had the job's record.


def forget_kind(dataset: Dataset) -> Dataset:
    fields = json.loads(dataset.fs.read(INFO_PATH))
    del fields["kind"]
    dataset.fs.replace(INFO_PATH, json.dumps(fields).encode())
    return Dataset.open(dataset.root)


def put_marker(dataset: Dataset, number: int, job: Job, *, finished: bool = True) -> str:
    name = single_items_part(number)
    data, _ = part_of(embedded([]), dataset.info, make_card(), name)
    file = pq.ParquetFile(io.BytesIO(data))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, file.schema_arrow) as writer:
        newer = (b"ARROW:schema", b"clipfleet.payload_sha256")
        metadata = {k: v for k, v in file.metadata.metadata.items() if k not in newer}
        writer.add_key_value_metadata({**metadata, b"clipfleet.job": job.to_json()})
    assert dataset.fs.create(part_path(name), sink.getvalue())
    if finished:
        assert complete(dataset, name) is not None
    return name


@pytest.fixture
def old_planned(tmp_path: Path) -> Dataset:
    """Two jobs, each with its marker; one was embedded, and b failed."""
    dataset = forget_kind(create(tmp_path, "planned"))
    put_marker(dataset, 1, plan(dataset, "abc"))
    work(dataset, failing=("b",), seed=0, worker="w")
    put_marker(dataset, 2, plan(dataset, "de"))
    return dataset


@pytest.fixture
def old_stream(tmp_path: Path) -> Dataset:
    """Three items; z failed and was retried."""
    dataset = forget_kind(create(tmp_path, "stream"))
    commit_single(dataset, "xyz", failing="z")
    plan_retry(dataset, (), 1)
    work(dataset, failing=(), seed=0, worker="w")
    return dataset


@pytest.fixture
def old_mixed(old_planned: Dataset) -> Dataset:
    """A job, not embedded, with its marker, and single items; y failed."""
    work(old_planned, failing=(), seed=0, worker="w")
    commit_single(old_planned, "xy", failing="y")
    put_marker(old_planned, 4, plan(old_planned, "f"))
    return old_planned


def test_an_old_planned_dataset_is_finished_read_and_verified(old_planned: Dataset) -> None:
    dataset = old_planned
    assert dataset.info.kind is None
    check_kind(dataset, "planned")
    with pytest.raises(DatasetKindError, match="is planned: "):
        check_kind(dataset, "stream")
    plan(dataset, "abcdefg")
    work(dataset, failing=(), seed=1, worker="w")
    assert plan_retry(dataset, (), 1) is not None
    work(dataset, failing=(), seed=2, worker="w")
    result = verify_dataset(dataset.root)
    assert (result.problems, result.planned, result.vectors, result.errors) == ([], 7, 7, 0)


def test_an_old_stream_takes_single_items(old_stream: Dataset) -> None:
    check_kind(old_stream, "stream")
    with pytest.raises(DatasetKindError, match="is a stream: "):
        check_kind(old_stream, "planned")
    commit_single(old_stream, "zv")
    result = verify_dataset(old_stream.root)
    assert (result.problems, result.vectors, result.errors) == ([], 4, 0)


@pytest.mark.parametrize("wanted", KINDS)
def test_an_old_dataset_of_both_takes_nothing_new_and_is_finished(
    old_mixed: Dataset, wanted: Kind
) -> None:
    with pytest.raises(DatasetKindError, match=r"`clipfleet resume` and .*takes nothing new"):
        check_kind(old_mixed, wanted)
    assert [shard.name for shard in missing_shards(old_mixed)] == ["00003-0000000"]
    work(old_mixed, failing=(), seed=1, worker="w")
    assert sum(count_failures(old_mixed).values()) == 2
    assert plan_retry(old_mixed, (), 5) is not None
    work(old_mixed, failing=(), seed=2, worker="w")
    result = verify_dataset(old_mixed.root)
    assert (result.problems, result.vectors, result.errors) == ([], 8, 0)
    manifest = Manifest(old_mixed)
    manifest.refresh()
    assert (manifest.vectors, manifest.errors - manifest.retried) == (8, 0)


@pytest.mark.parametrize("wanted", KINDS)
def test_an_old_empty_dataset_takes_both(tmp_path: Path, wanted: Kind) -> None:
    check_kind(forget_kind(create(tmp_path, "planned")), wanted)


def test_a_marker_of_a_job_without_a_record_is_ignored(tmp_path: Path) -> None:
    dataset = forget_kind(create(tmp_path, "planned"))
    job = plan(dataset, "ab")
    name = put_marker(dataset, 1, job, finished=False)
    dataset.fs.delete(f"plan/{job.id}.json")  # its planner was killed before it wrote this
    assert unfinished(dataset) == [name]
    complete(dataset, name)
    assert jobs(dataset) == []
    check_kind(dataset, "planned")
    plan(dataset, "ab")
    work(dataset, failing=(), seed=0, worker="w")
    assert verify_dataset(dataset.root).problems == []


def test_a_marker_that_was_moved_away_is_no_damage(old_planned: Dataset) -> None:
    work(old_planned, failing=(), seed=0, worker="w")
    old_planned.fs.delete(part_path(single_items_part(1)))
    assert old_planned.fs.exists(record_path(single_items_part(1)))
    assert verify_dataset(old_planned.root).problems == []
