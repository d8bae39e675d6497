import dataclasses
import json
from pathlib import Path

import pytest

from clipfleet.errors import DatasetError, DatasetMismatchError, StorageError
from clipfleet.messages import Shard
from clipfleet.storage.commit.commit import commit, complete, is_committed
from clipfleet.storage.commit.manifest import Manifest, missing_shards, unfinished
from clipfleet.storage.commit.record import Commit, VectorCounts, read_record, record_of
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import check_payload
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from tests.datasets import (
    WatchedFilesystem,
    embedded,
    files_of,
    images,
    make_card,
    memory_dataset,
    texts,
)

FIRST, SECOND, THIRD = (f"00001-{n:07d}" for n in range(3))
SHARDS = {FIRST: "ab", SECOND: "cd", THIRD: "e"}


@pytest.fixture
def dataset() -> Dataset:
    made = memory_dataset()
    plan_items(made, ListSource(texts(*"abcde")), 2)
    return made


def do(dataset: Dataset, name: str, *, failing: str = "", seed: int = 0) -> Commit:
    rows = embedded(texts(*SHARDS[name]), failing=failing, seed=seed)
    return commit(dataset, name, rows, card=make_card(), worker=f"w{seed}")


def test_a_commit_leaves_part_errors_and_record(dataset: Dataset) -> None:
    done = do(dataset, FIRST, failing="b")
    assert (done.vectors, done.errors, done.worker) == (1, 1, "w0")
    record = json.loads(dataset.fs.read(f"manifest/{FIRST}.json"))
    left_out = {"transparent": 0, "without_end": 0, "copied": 0, "replaced": ()}
    assert {**record, **left_out} == dataclasses.asdict(done)
    assert record["part"] == f"parts/{FIRST}.parquet"
    assert dataset.fs.exists(record["part"])
    assert dataset.fs.exists(f"errors/{FIRST}.parquet")
    assert is_committed(dataset, FIRST)


def test_without_failures_there_is_no_errors_table(dataset: Dataset) -> None:
    do(dataset, FIRST)
    assert dataset.fs.list("errors") == []


def test_a_shard_of_failures_only_has_a_part_without_rows(dataset: Dataset) -> None:
    done = do(dataset, FIRST, failing="ab")
    assert (done.vectors, done.errors) == (0, 2)
    assert is_committed(dataset, FIRST)


def test_the_second_commit_changes_nothing(dataset: Dataset) -> None:
    first = do(dataset, FIRST, failing="b")
    before = dict(files_of(dataset))
    assert do(dataset, FIRST, seed=1) == first
    assert files_of(dataset) == before


def test_the_record_is_written_last_and_the_part_first(dataset: Dataset) -> None:
    written: list[set[str]] = []
    planned = set(files_of(dataset))

    def before() -> None:
        written.append({path.split("/")[0] for path in files_of(dataset).keys() - planned})

    watched = dataclasses.replace(dataset, fs=WatchedFilesystem(dataset.fs, before))
    do(watched, FIRST, failing="b")
    seen = [folders for n, folders in enumerate(written) if folders and folders != written[n - 1]]
    assert seen == [{"parts"}, {"parts", "errors"}]
    assert dataset.fs.exists(f"manifest/{FIRST}.json")


def test_a_commit_and_its_completion_write_the_same(dataset: Dataset) -> None:
    rows = embedded(texts("a", "b"), failing="b")
    done = commit(dataset, FIRST, rows, card=make_card(), worker="w")
    assert complete(dataset, FIRST) == done
    data = dataset.fs.read(f"parts/{FIRST}.parquet")
    footer = check_payload(data, path=FIRST)
    assert (record_of(footer, file_sha256(data)), footer.failures) == (done, tuple(rows.failures))


def test_the_commit_of_a_shard_without_failures_looks_for_no_retry(dataset: Dataset) -> None:
    class NoLists(WatchedFilesystem):
        def list(self, folder: str) -> list[str]:
            raise AssertionError(f"{folder} is listed")

    unlisted = dataclasses.replace(dataset, fs=NoLists(dataset.fs, lambda: None))
    assert do(unlisted, FIRST).vectors == 2


def test_a_shard_without_a_part_is_not_completed(dataset: Dataset) -> None:
    assert complete(dataset, FIRST) is None
    assert not is_committed(dataset, FIRST)


def test_unfinished_shards_are_named_and_completed(dataset: Dataset) -> None:
    done = do(dataset, FIRST, failing="b")
    do(dataset, SECOND)
    dataset.fs.delete(f"manifest/{FIRST}.json")
    dataset.fs.delete(f"errors/{FIRST}.parquet")
    assert not is_committed(dataset, FIRST)
    assert unfinished(dataset) == [FIRST]
    assert complete(dataset, FIRST) == done
    assert unfinished(dataset) == []
    assert dataset.fs.exists(f"errors/{FIRST}.parquet")


def test_shards_without_a_record_are_missing(dataset: Dataset) -> None:
    assert [s.name for s in missing_shards(dataset)] == [FIRST, SECOND, THIRD]
    do(dataset, SECOND)
    assert list(missing_shards(dataset)) == [
        Shard(job="00001", index=0, size=2),
        Shard(job="00001", index=2, size=1),
    ]


def test_only_deleted_parts_are_missing_and_embedded_again(dataset: Dataset) -> None:
    for name in SHARDS:
        do(dataset, name, failing="b")
    dataset.fs.delete(f"parts/{FIRST}.parquet")
    assert [s.name for s in missing_shards(dataset)] == [FIRST]
    others = {path: data for path, data in files_of(dataset).items() if FIRST not in path}

    again = do(dataset, FIRST, seed=1)

    assert (again.worker, again.vectors, again.errors) == ("w1", 2, 0)
    assert complete(dataset, FIRST) == again
    assert not dataset.fs.exists(f"errors/{FIRST}.parquet")
    assert others.items() <= files_of(dataset).items()
    assert list(missing_shards(dataset)) == []


def test_the_manifest_counts_and_reads_only_what_is_new(dataset: Dataset) -> None:
    reads: list[str] = []

    class Counting(WatchedFilesystem):
        def read(self, path: str) -> bytes:
            reads.append(path)
            return super().read(path)

    watched = dataclasses.replace(dataset, fs=Counting(dataset.fs, lambda: None))
    manifest = Manifest(watched, "00001-")
    manifest.refresh()
    assert (manifest.shards, manifest.vectors, manifest.errors) == (0, 0, 0)
    do(dataset, FIRST, failing="a")
    manifest.refresh()
    do(dataset, THIRD)
    manifest.refresh()
    assert (manifest.shards, manifest.vectors, manifest.errors) == (2, 2, 1)
    assert manifest.names == {FIRST, THIRD}
    assert reads == [f"manifest/{FIRST}.json", f"manifest/{THIRD}.json"]


def test_the_manifest_forgets_deleted_parts(dataset: Dataset) -> None:
    manifest = Manifest(dataset, "00001-")
    do(dataset, FIRST)
    manifest.refresh()
    dataset.fs.delete(f"parts/{FIRST}.parquet")
    manifest.refresh()
    assert (manifest.shards, manifest.vectors) == (0, 0)


def test_a_damaged_record_is_named(dataset: Dataset) -> None:
    do(dataset, FIRST)
    for text in (b"", b"{}", b"[1]"):
        dataset.fs.replace(f"manifest/{FIRST}.json", text)
        with pytest.raises(DatasetError, match=rf"manifest/{FIRST}\.json is damaged .* delete it"):
            Manifest(dataset).refresh()


def test_a_renamed_or_foreign_part_is_refused(dataset: Dataset) -> None:
    do(dataset, FIRST)
    dataset.fs.create(f"parts/{SECOND}.parquet", dataset.fs.read(f"parts/{FIRST}.parquet"))
    with pytest.raises(DatasetError, match=f"is the part of {FIRST}, renamed"):
        complete(dataset, SECOND)
    info = dataclasses.replace(dataset.info, model="0" * 64)
    with pytest.raises(DatasetMismatchError, match="holds vectors of model"):
        complete(dataclasses.replace(dataset, info=info), FIRST)


def test_a_damaged_part_is_refused_with_the_remedy(dataset: Dataset) -> None:
    do(dataset, FIRST)
    dataset.fs.replace(f"parts/{FIRST}.parquet", b"PAR1")
    with pytest.raises(
        DatasetError, match="`clipfleet repair` moves it away and embeds its shard again"
    ):
        do(dataset, FIRST)


def test_a_disk_that_is_full_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Dataset.create(str(tmp_path), make_card(), kind="planned", embedding_dtype="float16")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device; free some space"):
            do(local, FIRST)
    assert local.fs.list("parts") == []
    assert do(local, FIRST).vectors == 2


def test_cut_texts_are_counted_in_the_record_and_by_its_completion(dataset: Dataset) -> None:
    rows = dataclasses.replace(embedded(texts("a", "b")), cut=frozenset({"a", "elsewhere"}))
    done = commit(dataset, FIRST, rows, card=make_card(), worker="w")
    assert done.cut == 1
    dataset.fs.delete(f"manifest/{FIRST}.json")
    assert complete(dataset, FIRST) == done
    manifest = Manifest(dataset)
    manifest.refresh()
    assert manifest.counts == VectorCounts(cut=1)


def test_transparent_images_and_files_without_ends_are_counted(tmp_path: Path) -> None:
    card = make_card("img")
    made = Dataset.create(str(tmp_path), card, kind="planned", embedding_dtype="float16")
    rows = embedded(images("a", "b", "c"))
    rows = dataclasses.replace(
        rows, transparent=frozenset({"a", "b", "elsewhere"}), without_end=frozenset({"c"})
    )
    done = commit(made, FIRST, rows, card=card, worker="w")
    assert (done.transparent, done.without_end) == (2, 1)
    made.fs.delete(f"manifest/{FIRST}.json")
    assert complete(made, FIRST) == done == read_record(made, FIRST)
    manifest = Manifest(made)
    manifest.refresh()
    assert manifest.counts == VectorCounts(transparent=2, without_end=1)


def test_a_record_of_an_older_version_without_cut_texts_is_read(
    dataset: Dataset,
) -> None:
    done = do(dataset, FIRST)
    path = f"manifest/{FIRST}.json"
    record = json.loads(dataset.fs.read(path))
    del record["cut"]
    dataset.fs.replace(path, json.dumps(record).encode())
    assert read_record(dataset, FIRST) == done
