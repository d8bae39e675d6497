import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfleet.errors import DatasetError, DuplicateIdError, MessageError, SourceError, StorageError
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan import digests
from clipfleet.storage.plan import planner as plan
from clipfleet.storage.plan.jobs import Job, jobs, shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.open_source import open_source
from tests.datasets import (
    WatchedFilesystem,
    files_of,
    images,
    memory_dataset,
    texts,
)


def planned(dataset: Dataset, *ids: str, shard_size: int = 2) -> Job | None:
    return plan_items(dataset, ListSource(texts(*ids)), shard_size)


def items_of(dataset: Dataset, job: Job) -> list[list[Item]]:
    with PlanReader(dataset) as reader:
        return [reader.read(shard) for shard in shards(job)]


def test_items_are_cut_into_shards_in_the_sources_order() -> None:
    dataset = memory_dataset()
    job = planned(dataset, "c", "a", "b", "e", "d")
    assert job is not None
    assert (job.id, job.items, job.shards, job.tower) == ("00001", 5, 3, "txt")
    assert [shard.size for shard in shards(job)] == [2, 2, 1]
    assert items_of(dataset, job) == [texts("c", "a"), texts("b", "e"), texts("d")]
    assert jobs(dataset) == [job]


def test_images_keep_their_uris() -> None:
    dataset = memory_dataset("img")
    job = plan_items(dataset, ListSource(images("a.jpg", "猫.jpg")), 8)
    assert job is not None
    assert items_of(dataset, job) == [images("a.jpg", "猫.jpg")]


def test_the_same_source_again_plans_nothing() -> None:
    dataset = memory_dataset()
    planned(dataset, "a", "b", "c")
    before = dict(files_of(dataset))
    assert planned(dataset, "a", "b", "c") is None
    assert files_of(dataset) == before


def test_only_new_items_are_planned() -> None:
    dataset = memory_dataset()
    planned(dataset, "a", "b", "c")
    job = planned(dataset, "d", "b", "e", "a")
    assert job is not None
    assert job.id == "00002"
    assert items_of(dataset, job) == [texts("d", "e")]


def test_an_empty_source_plans_nothing() -> None:
    dataset = memory_dataset()
    assert planned(dataset) is None
    assert files_of(dataset) == {}


def test_repeated_ids_are_named_with_their_locations(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"id": i, "text": "x"} for i in "abcadb"]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    dataset = memory_dataset()
    with pytest.raises(DuplicateIdError) as caught:
        plan_items(dataset, open_source(str(path), tower="txt"), 2)
    message = str(caught.value)
    assert f"'a' at {path}, line 1 and at {path}, line 7" in message
    assert f"'b' at {path}, line 3 and at {path}, line 11" in message
    assert "'c'" not in message
    assert files_of(dataset) == {}


def test_only_the_first_few_duplicates_are_named_and_reading_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digests, "RUN_ROWS", 10_000)
    read = 0

    class Endless(ListSource):
        def __iter__(self) -> Iterator[Item]:
            nonlocal read
            for number in range(10**9):
                read += 1
                yield Item(id=str(number % 5000), text="x")

        def place(self, position: int) -> str:
            return f"item {position}"

    with pytest.raises(DuplicateIdError, match="'0' at item 1 and at item 5001; ") as caught:
        plan_items(memory_dataset(), Endless([]), 100)
    assert str(caught.value).count(" and at ") == 5
    assert read < 20_000


def test_an_id_that_the_dataset_has_with_another_text_is_named() -> None:
    dataset = memory_dataset()
    planned(dataset, "a", "b")
    before = dict(files_of(dataset))
    changed = [Item(id=i, text=f"another {i}") for i in "abd"]
    with pytest.raises(DuplicateIdError) as caught:
        plan_items(dataset, ListSource(changed), 2)
    message = str(caught.value)
    assert "'a' (planned in job 00001), now with text 'another a'" in message
    assert "'d'" not in message
    assert files_of(dataset) == before


def test_a_source_that_breaks_off_plans_nothing() -> None:
    class Broken(ListSource):
        def __iter__(self) -> Iterator[Item]:
            yield from texts("a", "b", "c")
            raise SourceError("line 4 is wrong")

    dataset = memory_dataset()
    with pytest.raises(SourceError, match="line 4"):
        plan_items(dataset, Broken([]), 1)
    assert files_of(dataset) == {}


def test_a_plan_is_kept_in_several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARDS_PER_FILE", 2)
    dataset = memory_dataset()
    job = planned(dataset, *"abcdefghi")
    assert job is not None
    assert job.files == (2, 2, 1)
    assert items_of(dataset, job) == [texts(*pair) for pair in ("ab", "cd", "ef", "gh", "i")]
    with PlanReader(dataset) as reader:  # in any order
        assert reader.read(Shard(job=job.id, index=4, size=1)) == texts("i")
        assert reader.read(Shard(job=job.id, index=1, size=2)) == texts("c", "d")


def test_a_plan_file_is_closed_when_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FILE_SIZE_BYTES", 1)
    dataset = memory_dataset()
    job = planned(dataset, *"abcde")
    assert job is not None
    assert job.files == (1, 1, 1)
    assert items_of(dataset, job) == [texts("a", "b"), texts("c", "d"), texts("e")]


def test_a_submit_that_loses_its_number_plans_nothing() -> None:
    dataset = memory_dataset()

    class Overtaken(ListSource):
        def __iter__(self) -> Iterator[Item]:
            planned(dataset, "x")
            yield from texts("a", "b", "c")

    with pytest.raises(DatasetError, match=r"another process planned job 00001 .* run again"):
        plan_items(dataset, Overtaken([]), 1)
    (job,) = jobs(dataset)
    assert items_of(dataset, job) == [texts("x")]
    assert len(dataset.fs.list("plan")) == 2  # the winner's record and plan file
    assert planned(dataset, "a", "b", "c") is not None


@pytest.mark.parametrize("error", [StorageError("fsync failed"), KeyboardInterrupt()])
def test_a_record_that_was_written_before_an_error_keeps_its_files(error: BaseException) -> None:
    dataset = memory_dataset()

    class FailingLate(WatchedFilesystem):
        def create(self, path: str, data: bytes | memoryview) -> bool:
            done = super().create(path, data)
            if path.endswith(".json"):
                raise error
            return done

    failing = dataclasses.replace(dataset, fs=FailingLate(dataset.fs, lambda: None))
    with pytest.raises(type(error)):
        planned(failing, "a", "b")
    assert planned(dataset, "a", "b") is None
    (job,) = jobs(dataset)
    assert items_of(dataset, job) == [texts("a", "b")]


def test_a_record_whose_answer_was_lost_is_the_jobs_own() -> None:
    dataset = memory_dataset()

    class LostAnswer(WatchedFilesystem):
        def create(self, path: str, data: bytes | memoryview) -> bool:
            return super().create(path, data) and not path.endswith(".json")

    job = planned(dataclasses.replace(dataset, fs=LostAnswer(dataset.fs, lambda: None)), "a", "b")
    assert job is not None
    assert jobs(dataset) == [job]
    assert items_of(dataset, job) == [texts("a", "b")]


def test_items_of_the_other_tower_are_refused() -> None:
    dataset = memory_dataset("img")
    with pytest.raises(SourceError, match="item 'a' has no uri, which the img tower embeds"):
        planned(dataset, "a")
    assert files_of(dataset) == {}


def test_job_numbers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_JOBS", 1)
    dataset = memory_dataset()
    planned(dataset, "a")
    with pytest.raises(DatasetError, match="has 1 jobs, the most"):
        planned(dataset, "b")


def test_files_of_a_killed_planner_are_ignored_and_cleaned_when_their_number_is_won() -> None:
    dataset = memory_dataset()
    left = "plan/00001-dead-0000.parquet"
    dataset.fs.create(left, b"half")
    assert jobs(dataset) == []
    job = planned(dataset, "a")  # a planner at work may still take its number
    assert job is not None
    assert dataset.fs.exists(left)
    planned(dataset, "b")
    assert not dataset.fs.exists(left)
    assert items_of(dataset, job) == [texts("a")]


@pytest.mark.parametrize(
    "shard",
    [
        Shard(job="00001", index=3, size=2),
        Shard(job="00001", index=0, size=3),
        Shard(job="00001", index=2, size=2),
    ],
)
def test_a_shard_that_is_not_in_the_plan_is_a_wrong_message(shard: Shard) -> None:
    dataset = memory_dataset()
    planned(dataset, *"abcde")
    with pytest.raises(MessageError, match="has 3 shards of 2 items; there is none"):
        PlanReader(dataset).read(shard)


def test_a_shard_of_no_job_and_of_a_lost_plan_are_errors_of_the_dataset() -> None:
    dataset = memory_dataset()
    with pytest.raises(DatasetError, match="has no job 00007"):
        PlanReader(dataset).read(Shard(job="00007", index=0, size=1))
    job = planned(dataset, "a", "b")
    assert job is not None
    (path,) = [f"plan/{name}" for name in dataset.fs.list("plan") if name.endswith(".parquet")]
    for data in (b"damaged", None):
        dataset.fs.delete(path)
        if data is not None:
            dataset.fs.create(path, data)
        with pytest.raises(DatasetError, match=r"(damaged|gone).* restore it"):
            items_of(dataset, job)


def test_a_damaged_record_is_named() -> None:
    dataset = memory_dataset()
    for text in (b"", b"{}", b"[]", b'{"files": [1]}'):
        dataset.fs.replace("plan/00001.json", text)
        with pytest.raises(DatasetError, match=r"plan/00001\.json is damaged"):
            jobs(dataset)


def test_a_shard_size_below_one_is_refused() -> None:
    with pytest.raises(DatasetError, match="shard size 0"):
        planned(memory_dataset(), "a", shard_size=0)


def test_ids_with_odd_characters_survive() -> None:
    ids = [
        "a\nb",
        "nul\0nul",
        "nul\0other",
        "猫😀",
        "'; DROP TABLE ids",
        " ",
        "%",
        "\u00e9",
        "e\u0301",
    ]
    dataset = memory_dataset()
    job = planned(dataset, *ids, shard_size=100)
    assert job is not None
    assert items_of(dataset, job) == [texts(*ids)]
    assert planned(dataset, *ids) is None


def test_the_record_round_trips() -> None:
    dataset = memory_dataset()
    job = planned(dataset, "a")
    assert job is not None
    assert dataclasses.asdict(jobs(dataset)[0]) == dataclasses.asdict(job)
    assert job.source == "a list of items"
