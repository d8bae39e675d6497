"""Ids of a stream that come again with other content, by the rule `on_conflict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipfleet.error_codes import BAD_ITEM, EMPTY_TEXT, ENGINE_CRASHED
from clipfleet.items import Item
from clipfleet.reader import Dataset as ReadDataset
from clipfleet.settings import load_settings
from clipfleet.storage.commit.newer_content import plan_newer_content
from clipfleet.storage.commit.record import record_path
from clipfleet.storage.commit.single_items import KnownIds
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_path
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_retry
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.items.embed import Outcome, embed_single_items
from clipfleet.tasks.items.parse import SingleItem
from clipfleet.tasks.items.task import open_dataset
from clipfleet.tasks.submit import retry_failed
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine
from tests.interleavings.interleaving import overtaken

RULES = pytest.mark.parametrize("process", ["keep", "replace", "error"], indirect=True)


@pytest.fixture
def process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Embedder]:
    """A worker's embedder with a rule, `keep` by default."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        tower="txt",
        model=str(write_fake_engine(tmp_path, "txt")),
        output=str(tmp_path / "out"),
        window_items=10,
        on_conflict=getattr(request, "param", "keep"),
    )
    with Embedder.from_settings(settings) as embedder:
        yield embedder


@pytest.fixture
def dataset(process: Embedder) -> Dataset:
    return open_dataset(process, "d")


def item(id_: str, text: str) -> SingleItem:
    return SingleItem(item=Item(id=id_, text=text))


def bad(id_: str) -> SingleItem:
    return SingleItem(item=Item(id=id_, text=""), fault="no text")


def send(process: Embedder, dataset: Dataset, *single_items: SingleItem, **how: object) -> Outcome:
    """Embed a batch as a worker that never saw the dataset, and one that saw all of it, would."""
    return embed_single_items(single_items, dataset, process, worker="w", **how)  # type: ignore[arg-type]


def texts_of(dataset: Dataset) -> dict[str, str]:
    """Return the texts of the vectors, by a plain read of the parts."""
    table = pq.read_table(Path(dataset.root, "parts"), columns=["id", "text"])
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids))
    return dict(zip(ids, table["text"].to_pylist(), strict=True))


def assert_whole(dataset: Dataset, *, vectors: int, errors: int) -> None:
    """Check the counts of every reader."""
    result = verify_dataset(dataset.root)
    assert result.problems == []
    assert (result.vectors, result.errors) == (vectors, errors)
    read = ReadDataset(dataset.root)
    assert (len(read), len(list(read.errors()))) == (vectors, errors)
    assert sum(count_failures(dataset).values()) == errors


@RULES
def test_a_right_item_supersedes_the_error_of_its_id(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, bad("a"), item("b", "words of b"))
    outcome = send(process, dataset, item("a", "words of a"))
    assert (outcome.conflicts, outcome.stuck) == ([], [])
    assert texts_of(dataset) == {"a": "words of a", "b": "words of b"}
    assert_whole(dataset, vectors=2, errors=0)


def test_an_id_may_fail_again_and_be_mended_later(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, bad("a"))
    send(process, dataset, item("a", "  "))
    assert count_failures(dataset) == {EMPTY_TEXT: 1}
    (row,) = ReadDataset(dataset.root).errors()
    assert (row.text, row.attempt) == ("  ", 2)
    send(process, dataset, item("a", "words"))
    assert texts_of(dataset) == {"a": "words"}
    assert_whole(dataset, vectors=1, errors=0)


def test_a_wrong_and_a_right_item_of_one_id_may_come_in_one_batch(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, bad("a"), item("a", "words"), item("b", "b"), item("a", "words"))
    assert texts_of(dataset) == {"a": "words", "b": "b"}
    assert_whole(dataset, vectors=2, errors=0)


@RULES
def test_the_same_content_is_no_conflict(process: Embedder, dataset: Dataset) -> None:
    batch = (item("a", "words"), bad("b"), item("c", " "))
    send(process, dataset, *batch)
    outcome = send(process, dataset, *batch, *batch)
    assert (outcome.commits, outcome.conflicts) == ([], [])
    assert_whole(dataset, vectors=1, errors=2)


@pytest.mark.parametrize("process", ["keep", "error"], indirect=True)
def test_a_vector_is_kept_and_the_conflict_is_told(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, item("a", "old"))
    outcome = send(process, dataset, item("a", "new"), item("b", "b"), bad("a"))
    assert [conflict.id for conflict in outcome.conflicts] == ["a", "a"]
    assert texts_of(dataset) == {"a": "old", "b": "b"}
    assert jobs(dataset) == []
    assert_whole(dataset, vectors=2, errors=0)


def test_an_earlier_content_that_is_delivered_late_changes_nothing(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, bad("a"), item("b", " "))
    send(process, dataset, item("a", "words"), item("b", "words"))
    outcome = send(process, dataset, bad("a"), item("b", " "))
    assert (outcome.commits, outcome.conflicts) == ([], [])
    assert_whole(dataset, vectors=2, errors=0)


def plan_and_die(process: Embedder, dataset: Dataset, *items: SingleItem) -> str:
    """Plan newer content, and return the shard's name."""
    with closing(KnownIds(dataset)) as known:
        newer = plan_newer_content(
            dataset, known, [one.item for one in items], replace=False, shard_size=10
        )
    assert newer.job is not None
    assert newer.conflicts == newer.undecided == []
    return f"{newer.job.id}-0000000"


def test_a_message_that_comes_again_finishes_what_its_dead_worker_planned(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, bad("a"))
    name = plan_and_die(process, dataset, item("a", "words"))
    assert not dataset.fs.exists(part_path(name))
    (done,) = send(process, dataset, item("a", "words")).commits
    assert done.name == name
    assert_whole(dataset, vectors=1, errors=0)
    dataset.fs.delete(record_path(name))  # another died between part and record
    process_of_its_own = KnownIds(dataset)
    process_of_its_own.refresh()
    assert [shard.name for shard in process_of_its_own.open_shards(["a"])] == [name]
    process_of_its_own.close()


def test_newer_content_waits_for_the_retry_that_has_its_id(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, item("a", " "), item("b", " "))
    assert plan_retry(dataset, (), 10) is not None
    outcome = send(process, dataset, item("a", "words"))
    assert outcome.conflicts == []
    assert len(outcome.commits) == 2  # the retry, in which both failed again, and its own
    assert count_failures(dataset) == {EMPTY_TEXT: 1}
    assert_whole(dataset, vectors=1, errors=1)


def test_newer_content_that_is_given_up_becomes_the_error_of_its_id(
    process: Embedder, dataset: Dataset
) -> None:
    given_up = (ENGINE_CRASHED, "it ended the engine's process 5 times")
    send(process, dataset, bad("a"), bad("b"))
    send(process, dataset, item("a", "words"), given_up=given_up)
    assert count_failures(dataset) == {BAD_ITEM: 1, ENGINE_CRASHED: 1}
    plan_and_die(process, dataset, item("b", "words"))  # its worker, five times
    outcome = send(process, dataset, item("b", "words"), given_up=given_up)
    assert outcome.stuck == []
    assert count_failures(dataset) == {ENGINE_CRASHED: 2}
    assert_whole(dataset, vectors=0, errors=2)


def test_giving_up_an_item_fails_no_other_item_of_a_retry(
    process: Embedder, dataset: Dataset
) -> None:
    given_up = (ENGINE_CRASHED, "it ended the engine's process 5 times")
    send(process, dataset, item("a", " "), item("b", " "))
    assert plan_retry(dataset, (), 10) is not None
    outcome = send(process, dataset, item("a", "words"), given_up=given_up)
    assert outcome.commits == []
    assert [one.id for one in outcome.stuck] == ["a"]
    assert count_failures(dataset) == {EMPTY_TEXT: 2}


def test_two_workers_with_one_right_item_write_it_once(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, bad("a"), bad("b"))
    with closing(KnownIds(dataset)) as slow:
        slow.refresh()
        send(process, dataset, item("a", "words"))
        newer = plan_newer_content(
            dataset,
            slow,
            [Item(id="a", text="words"), Item(id="b", text="words")],
            replace=False,
            shard_size=10,
        )
    assert newer.job is not None
    assert newer.job.items == 1
    send(process, dataset, item("b", "words"))
    assert_whole(dataset, vectors=2, errors=0)
    assert np.isfinite(ReadDataset(dataset.root).vectors()).all()


REPLACE = pytest.mark.parametrize("process", ["replace"], indirect=True)


@REPLACE
def test_newer_content_replaces_a_vector(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, *(item(id_, f"old {id_}") for id_ in "abc"), bad("d"))
    outcome = send(process, dataset, item("b", "new b"), item("e", "e"))
    assert outcome.conflicts == []
    assert texts_of(dataset) == {"a": "old a", "b": "new b", "c": "old c", "e": "e"}
    assert_whole(dataset, vectors=4, errors=1)
    send(process, dataset, item("b", "newest b"), item("a", "new a"))
    assert texts_of(dataset) == {"a": "new a", "b": "newest b", "c": "old c", "e": "e"}
    assert_whole(dataset, vectors=4, errors=1)


@REPLACE
def test_newer_content_that_fails_is_the_error_of_its_id(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, item("a", "old"))
    send(process, dataset, item("a", " "))
    assert texts_of(dataset) == {}
    (row,) = ReadDataset(dataset.root).errors()
    assert (row.text, row.error, row.attempt) == (" ", EMPTY_TEXT, 2)
    assert_whole(dataset, vectors=0, errors=1)
    send(process, dataset, item("a", "new"))
    assert texts_of(dataset) == {"a": "new"}
    assert_whole(dataset, vectors=1, errors=0)


@REPLACE
def test_a_wrong_item_replaces_no_vector(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, item("a", "old"))
    outcome = send(process, dataset, bad("a"))
    assert [conflict.id for conflict in outcome.conflicts] == ["a"]
    assert texts_of(dataset) == {"a": "old"}


@REPLACE
def test_the_vector_is_that_of_the_newer_content(process: Embedder, dataset: Dataset) -> None:
    send(process, dataset, item("a", "old"), item("b", "new"))
    send(process, dataset, item("a", "new"))
    read = ReadDataset(dataset.root)
    vectors = dict(zip(read.ids, read.vectors(), strict=True))
    assert (vectors["a"] == vectors["b"]).all()


@REPLACE
def test_a_late_delivery_of_replaced_content_changes_nothing(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, item("a", "old"))
    send(process, dataset, item("a", "new"))
    outcome = send(process, dataset, item("a", "old"))
    assert (outcome.commits, outcome.conflicts) == ([], [])
    assert texts_of(dataset) == {"a": "new"}


def test_a_retry_is_planned_although_a_worker_plans_newer_content_meanwhile(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, item("a", " "), item("b", " "))

    def overtake() -> None:
        plan_and_die(process, dataset, item("a", "words"))

    slow = overtaken(dataset, after=5, overtake=overtake, crash_after=-1)
    job = retry_failed._plan(slow, (), 10)
    assert job is not None
    assert (job.id, job.items) == ("00002", 1)  # a is in the job of its newer content


def test_newer_content_of_an_id_whose_part_was_moved_away_is_embedded_as_new(
    process: Embedder, dataset: Dataset
) -> None:
    send(process, dataset, item("a", "old"))
    dataset.fs.delete(part_path("items-0000000001"))
    outcome = send(process, dataset, item("a", "new"))
    assert outcome.conflicts == []
    assert texts_of(dataset) == {"a": "new"}
    assert_whole(dataset, vectors=1, errors=0)
