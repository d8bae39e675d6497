"""The tasks' work, without Celery: a shard, and items that came singly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from clipfleet.error_codes import BAD_ITEM, ENGINE_CRASHED, ENGINE_FAILED
from clipfleet.errors import (
    DatasetError,
    DatasetKindError,
    DatasetMismatchError,
    MessageError,
    StorageError,
)
from clipfleet.items import Item
from clipfleet.messages import EMBED_TASK, EmbedTask, Shard
from clipfleet.settings import load_settings
from clipfleet.settings.datasets import OnConflict
from clipfleet.storage.commit.commit import is_committed
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.record import read_record, record_path
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset, error_names
from clipfleet.storage.format.errors_table import read_errors
from clipfleet.storage.format.parts import read_footer
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import Refresh, refresh_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks import embed_shard as embed_module
from clipfleet.tasks.app import make_app
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.items.embed import embed_single_items, even_runs
from clipfleet.tasks.items.parse import SingleItem, read_single_item
from clipfleet.tasks.items.task import open_dataset
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.fake import FakeEngine, write_fake_engine


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedder]:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        tower="txt",
        model=str(write_fake_engine(tmp_path, "txt")),
        output=str(tmp_path / "out"),
        window_items=10,
    )
    with Embedder.from_settings(settings) as embedder:
        yield embedder


def plan(process: Embedder, count: int = 25) -> tuple[Dataset, list[EmbedTask]]:
    root = str(Path(str(process.settings.output), "d"))
    dataset = Dataset.create(root, process.card, kind="planned", embedding_dtype="float16")
    items = [Item(id=f"t{n}", text=f"words {n}") for n in range(count)]
    plan_items(dataset, ListSource(items), 10)
    return dataset, [
        EmbedTask(dataset=root, tower="txt", model=process.card.identity, shard=shard)
        for shard in missing_shards(dataset)
    ]


def test_the_shards_of_a_plan_become_a_whole_dataset(process: Embedder) -> None:
    dataset, tasks = plan(process)
    done = [embed_shard(task, process, worker="w") for task in tasks]
    assert [commit.vectors for commit in done if commit] == [10, 10, 5]
    result = verify_dataset(dataset.root)
    assert (result.ok, result.vectors) == (True, 25)


def test_a_part_and_its_record_have_the_seconds_of_the_tally(process: Embedder) -> None:
    dataset, (task, *_) = plan(process)
    done = embed_shard(task, process, worker="w")
    assert done is not None
    assert set(process.tally.stages) == {"plan", "tokenise", "engine", "write"}
    assert done.seconds == process.tally.seconds()
    with dataset.fs.open(done.part) as file:
        assert read_footer(file, path=done.part).seconds == done.seconds
    assert read_record(dataset, task.shard.name) == done


def test_a_committed_shard_is_not_embedded_again(
    process: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, (task, *_) = plan(process)
    embed_shard(task, process, worker="w")
    monkeypatch.setattr(process, "embed", lambda _: pytest.fail("embedded again"))
    assert embed_shard(task, process, worker="w") is None
    dataset.fs.delete(record_path(task.shard.name))
    done = embed_shard(task, process, worker="w")  # the part decides; its record comes back
    assert done is not None
    assert done.vectors == 10


def test_a_bad_row_of_a_table_is_an_error_until_it_is_mended(
    process: Embedder, tmp_path: Path
) -> None:
    root, path = str(Path(str(process.settings.output), "d")), tmp_path / "t.jsonl"
    dataset = Dataset.create(root, process.card, kind="planned", embedding_dtype="float16")
    rows = [{"id": 1, "text": None}, {"id": 2, "text": "b"}, {"text": "c"}, {"id": 4, "text": 4}]

    def embedded(on_conflict: OnConflict = "keep") -> tuple[Refresh, int, dict[str, str]]:
        path.write_text("\n".join(map(json.dumps, rows)))
        found = refresh_items(
            dataset, open_source(str(path), tower="txt"), 2, on_conflict=on_conflict
        )
        for shard in missing_shards(dataset):
            task = EmbedTask(dataset=root, tower="txt", model=process.card.identity, shard=shard)
            embed_shard(task, process, worker="w")
        result = verify_dataset(root)
        assert result.ok, result.problems
        errors = [row for name in error_names(dataset.fs) for row in read_errors(dataset, name)]
        assert {row.error for row in errors} == {BAD_ITEM}
        return found, result.vectors, {row.item.id: row.message for row in errors}

    _, vectors, errors = embedded()
    assert (vectors, sorted(errors)) == (1, ["1", "4", "t.jsonl, line 3"])
    assert errors["1"] == "t.jsonl, line 1: the text is None, expected a string"
    assert embedded() == (Refresh(), 1, errors)
    rows[0] = {"id": 1, "text": "a"}
    found, vectors, errors = embedded()
    assert (found.newer and found.newer.items, vectors, min(errors)) == (1, 2, "4")
    rows[1] = {"id": 2, "text": 2}
    assert embedded()[0].first_conflicts == ["2"]  # the vector stays
    _, vectors, errors = embedded("replace")
    assert (vectors, errors["2"]) == (1, "t.jsonl, line 2: the text is 2, expected a string")


def test_messages_for_other_workers_are_refused(process: Embedder, tmp_path: Path) -> None:
    _, (task, *_) = plan(process)
    with pytest.raises(MessageError, match="this worker serves fake txt fp32"):
        embed_shard(replace(task, model="0" * 64), process, worker="w")
    with pytest.raises(MessageError, match="this worker serves"):
        embed_shard(replace(task, tower="img"), process, worker="w")
    with pytest.raises(MessageError, match="is not inside"):
        embed_shard(replace(task, dataset=str(tmp_path)), process, worker="w")
    with pytest.raises(MessageError, match="there is none with index 3"):
        embed_shard(replace(task, shard=Shard(job="00001", index=3, size=10)), process, worker="w")
    with pytest.raises(DatasetError, match="no dataset at"):
        embed_shard(replace(task, dataset=f"{task.dataset}x"), process, worker="w")


def test_a_disk_that_fails_is_worth_another_try(process: Embedder) -> None:
    dataset, (task, *_) = plan(process)
    parts = Path(dataset.root, "parts")
    parts.write_text("not a folder")
    with pytest.raises(StorageError):
        embed_shard(task, process, worker="w")


def words(*names: str) -> list[Item]:
    return [Item(id=name, text=f"words {name}") for name in names]


def arrivals(*names: str) -> list[SingleItem]:
    return [SingleItem(item=item) for item in words(*names)]


def test_items_are_written_once_however_often_they_come(process: Embedder) -> None:
    dataset = open_dataset(process, None)
    assert dataset.root == str(Path(str(process.settings.output), "items-txt").resolve())
    (done,) = embed_single_items(arrivals("a", "b", "a"), dataset, process, worker="w").commits
    assert done.vectors == 2
    (done,) = embed_single_items(arrivals("b", "c"), dataset, process, worker="w").commits
    assert done.vectors == 1
    assert embed_single_items(arrivals("a", "b", "c"), dataset, process, worker="w").commits == []
    assert verify_dataset(dataset.root).vectors == 3


def test_a_planned_dataset_takes_no_items(process: Embedder) -> None:
    dataset, _ = plan(process, count=3)
    with pytest.raises(DatasetKindError, match=rf"{dataset.root} is planned: .* another dataset"):
        open_dataset(process, "d")


def test_a_retry_of_a_stream_is_embedded_like_any_shard(process: Embedder) -> None:
    dataset = open_dataset(process, "d")
    failed = [Failure(item=item, error=ENGINE_FAILED, message="odd") for item in words("b")]
    vectors = np.zeros((0, process.card.dim), np.float32)
    rows = Embedded(items=[], vectors=vectors, sizes=None, failures=failed)
    with closing(KnownIds(dataset)) as known:
        commit_single_items(dataset, known, rows, card=process.card, worker="w")
    assert plan_retry(dataset, (), 10) is not None
    (shard,) = missing_shards(dataset)
    identity = process.card.identity
    task = EmbedTask(dataset=dataset.root, tower="txt", model=identity, shard=shard)
    done = embed_shard(task, process, worker="w")
    assert done is not None
    assert done.vectors == 1
    (done,) = embed_single_items(arrivals("b", "c"), dataset, process, worker="w").commits
    assert done.vectors == 1
    result = verify_dataset(dataset.root)
    assert (result.ok, result.vectors, result.errors) == (True, 2, 0)


def test_wrong_items_are_rows_beside_their_neighbours(process: Embedder) -> None:
    dataset = open_dataset(process, "d")
    wrong = SingleItem(item=Item(id="wrong", text=""), fault="why")
    (done,) = embed_single_items([wrong, *arrivals("a")], dataset, process, worker="w").commits
    assert (done.vectors, done.errors) == (1, 1)
    only = [SingleItem(item=Item(id="also", text=""), fault="why")]
    (done,) = embed_single_items(only, dataset, process, worker="w").commits
    assert (done.vectors, done.errors) == (0, 1)
    assert verify_dataset(dataset.root).ok


def test_a_dataset_made_anew_is_known_anew(process: Embedder) -> None:
    dataset = open_dataset(process, "d")
    embed_single_items(arrivals("a"), dataset, process, worker="w")
    Path(dataset.root).rename(f"{dataset.root}-away")
    dataset = open_dataset(process, "d")
    (done,) = embed_single_items(arrivals("a"), dataset, process, worker="w").commits
    assert done.vectors == 1


def test_a_part_whose_worker_died_is_finished_while_others_live(process: Embedder) -> None:
    dataset = open_dataset(process, "d")
    embed_single_items(arrivals("a"), dataset, process, worker="w")
    with closing(KnownIds(dataset)) as other:
        other.refresh()
        done = commit_single_items(
            dataset, other, process.embed(words("b")), card=process.card, worker="dies"
        )
    assert done is not None
    dataset.fs.delete(record_path(done.name))
    # Its message comes again, to a worker that has had the dataset open for long.
    assert embed_single_items(arrivals("b"), dataset, process, worker="w").commits == []
    assert is_committed(dataset, done.name)


def test_items_that_are_given_up_are_errors_and_come_to_no_engine(process: Embedder) -> None:
    class NoEngine(FakeEngine):
        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            pytest.fail("it was called")

    dataset = open_dataset(process, "d")
    embed_single_items(arrivals("there"), dataset, process, worker="w")
    wrong = SingleItem(item=Item(id="wrong", text=""), fault="why")
    message = [*arrivals("a", "there", "b"), wrong]
    with Embedder(NoEngine(process.card), process.settings) as embedder:
        given_up = (ENGINE_CRASHED, "it ended the engine's process 5 times")
        (done,) = embed_single_items(
            message, dataset, embedder, worker="w", given_up=given_up
        ).commits
    assert (done.vectors, done.errors) == (0, 3)
    assert count_failures(dataset) == {ENGINE_CRASHED: 2, BAD_ITEM: 1}
    assert verify_dataset(dataset.root).ok


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What the task refuses: the message's name, its dataset and the reason."""
    refused: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        embed_module, "refuse", lambda _, *names, reason: refused.append((*names, reason))
    )
    return refused


@pytest.mark.parametrize(("lost", "vectors"), [(4, 10), (5, 0)])
def test_a_shard_whose_workers_were_lost_too_often_is_refused(
    process: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    refused: list[tuple[str, str, str]],
    lost: int,
    vectors: int,
) -> None:
    dataset, (task, *_) = plan(process)
    monkeypatch.setattr(Embedder, "current", process)
    embed = make_app(process.settings).tasks[EMBED_TASK]
    embed.push_request(
        id="id", properties={"delivery_info": {"lost": lost}}, delivery_info={"redelivered": True}
    )
    try:
        embed.run(**task.to_json())
    finally:
        embed.pop_request()
    assert sum(pq.read_metadata(path).num_rows for path in Path(dataset.root).glob("parts/*")) == (
        vectors
    )
    name = f"shard {task.shard.name}"
    reason = "LostShardError: its workers died, or lost Redis, 5 times while they had it"
    assert refused == ([] if vectors else [(name, dataset.root, reason)])


def test_a_shard_that_is_done_is_refused_for_no_losses(process: Embedder) -> None:
    _, (task, *_) = plan(process)
    embed_shard(task, process, worker="w")
    assert embed_shard(task, process, worker="w", lost=99) is None


def test_another_models_dataset_takes_no_items(process: Embedder) -> None:
    root = str(Path(str(process.settings.output), "d"))
    other = replace(process.card, checkpoint_sha256="1" * 64)
    Dataset.create(root, other, kind="stream", embedding_dtype="float16")
    with pytest.raises(DatasetMismatchError):
        open_dataset(process, "d")


def test_another_models_dataset_takes_no_shard(process: Embedder) -> None:
    dataset, (task, *_) = plan(process)
    shutil.rmtree(dataset.root)
    other = replace(process.card, checkpoint_sha256="1" * 64)
    Dataset.create(dataset.root, other, kind="planned", embedding_dtype="float16")
    with pytest.raises(DatasetMismatchError, match="choose another output folder"):
        embed_shard(task, process, worker="w")
    assert not Path(dataset.root, "parts").exists()


def test_a_dataset_of_another_decoder_takes_neither_shards_nor_items(
    process: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (task, *_) = plan(process)
    root = str(Path(str(process.settings.output), "stream"))
    Dataset.create(root, process.card, kind="stream", embedding_dtype="float16")
    gpu = process.settings.model_copy(update={"decode": "gpu"})
    monkeypatch.setattr(process, "settings", gpu)
    with pytest.raises(DatasetMismatchError, match="decode 'exact', not 'gpu': use --decode exact"):
        embed_shard(task, process, worker="w")
    with pytest.raises(DatasetMismatchError, match="decode 'exact', not 'gpu'"):
        open_dataset(process, "stream")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_shard_that_ended_a_process_is_decoded_exactly(
    process: Embedder, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    _, (task, *_) = plan(process)
    asked: list[bool] = []
    embed = process.embed

    def recorded(items: Sequence[Item], *, exact: bool, **others: Any) -> Embedded:
        asked.append(exact)
        return embed(items, exact=exact, **others)

    monkeypatch.setattr(process, "embed", recorded)
    embed_shard(task, process, worker="w", lost=lost)
    assert asked == [lost > 0]


def test_a_dataset_keeps_its_dtype_whatever_the_worker_prefers(process: Embedder) -> None:
    root = str(Path(str(process.settings.output), "d"))
    Dataset.create(root, process.card, kind="stream", embedding_dtype="float32")
    assert open_dataset(process, "d").info.embedding_dtype == "float32"


@pytest.mark.parametrize(
    ("count", "lengths"),
    [(0, []), (1, [1]), (10, [10]), (19, [19]), (20, [10, 10]), (25, [13, 12]), (31, [11, 11, 9])],
)
def test_runs_are_even(count: int, lengths: list[int]) -> None:
    many = arrivals(*map(str, range(count)))
    runs = list(even_runs(many, 10))
    assert [len(run) for run in runs] == lengths
    assert [a for run in runs for a in run] == many


def test_right_items_are_read() -> None:
    assert read_single_item({"id": "a", "text": "b"}, "txt").item == Item(id="a", text="b")
    assert read_single_item({"id": "a", "uri": "/b"}, "img").item == Item(id="a", uri="/b")


@pytest.mark.parametrize(
    "raw",
    [
        {"id": "a"},
        {"id": "a", "uri": "/b"},
        {"id": "a", "text": 5},
        {"id": "a", "text": None},
        {"id": "a", "text": "b", "more": 1},
        {"id": "a", "text": "\ud83d"},
    ],
)
def test_a_wrong_item_with_an_id_has_a_fault(raw: Any) -> None:
    arrival = read_single_item(raw, "txt")
    assert arrival.item == Item(id="a", text="")
    assert 'expected {"id": …, "text": …}, both strings, not {' in arrival.fault
    assert len(arrival.fault) < 300


def test_a_whole_number_is_an_id_as_in_tables() -> None:
    assert read_single_item({"id": 5, "text": "b"}, "txt").item == Item(id="5", text="b")
    assert read_single_item({"id": 5, "uri": "b"}, "txt").item.id == "5"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        5,
        "text",
        [],
        {},
        {"text": "b"},
        {"id": True},
        {"id": 5.0},
        {"id": ""},
        {"id": "\udc00"},
        {"id": None},
    ],
)
def test_an_item_without_a_usable_id_is_refused(raw: Any) -> None:
    with pytest.raises(MessageError, match="no usable id"):
        read_single_item(raw, "txt")


def test_the_error_code_is_one_that_users_can_filter_on() -> None:
    from clipfleet.error_codes import ERROR_CODES

    assert BAD_ITEM in ERROR_CODES
