"""Single items: queued by a bare Celery client, gathered, written once, never lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetKindError
from clipfleet.model_card import load_card
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.tasks.broker.deferred import deferred_key, deferred_length
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.retry_failed import retry
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, WorkerProcess, texts, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

ITEMS = "items-txt"
EXAMPLE = Path(__file__).parents[2] / "examples" / "queue_items.py"

# Runs the example as `python queue_items.py …` does, then tells which modules of ours it has.
PRODUCER = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
ours = {"clipfleet", "storage", "workers", "tasks", "convert"}
print(json.dumps([name for name in sys.modules if name.split(".")[0] in ours]))
"""


def parts(bench: Bench, name: str = ITEMS) -> list[int]:
    """Return the rows of each part of single items, in order."""
    root = bench.dataset_path(name)
    if not Path(root, "dataset.json").exists():
        return []
    names = sorted(part_names(Dataset.open(root).fs))
    return [pq.read_metadata(f"{root}/parts/{name}.parquet").num_rows for name in names]


def rows(bench: Bench, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(f"{bench.dataset_path(name)}/parts").to_pylist()
    return found


def error_rows(bench: Bench, name: str = ITEMS) -> list[tuple[str, str, str]]:
    folder = Path(bench.dataset_path(name), "errors")
    tables = [pq.read_table(path) for path in sorted(folder.iterdir())]
    return [
        (row["id"], row["error"], row["message"]) for table in tables for row in table.to_pylist()
    ]


def test_a_producer_that_imports_nothing_of_ours_gets_its_items_embedded(
    served: Bench,
) -> None:
    words = [f"the words of {n}" for n in range(30)]
    run = subprocess.run(
        [sys.executable, "-c", PRODUCER, str(EXAMPLE), "--tower", "txt", "--each", "7"],
        input="\n".join(words),
        env={"CLIPFLEET_REDIS_URL": served.settings.redis_url, "PATH": ""},
        cwd=served.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    said, modules = run.stdout.splitlines()
    assert said == "queued 30 items"
    assert json.loads(modules) == []
    served.wait_for_items(30, ITEMS)
    served.assert_whole(ITEMS, vectors=30)


def test_a_window_closes_by_size_and_by_time_and_a_stopped_worker_hands_back(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(window_s=300.0)
    worker = bench.start_worker()
    bench.queue_items(texts(250))
    wait_until(lambda: parts(bench) == [100, 100], what="two full windows")
    wait_until(lambda: bench.in_redis() == (0, 50), what="50 messages in hand")
    assert worker.stop() == 0
    assert bench.in_redis() == (50, 0)

    bench.start_worker(window_s=0.3)  # in which a slow machine may get only some of the 50
    bench.wait_for_items(250, ITEMS)
    full, other, *rest = sorted(parts(bench), reverse=True)
    assert (full, other, sum(rest)) == (100, 100, 50)
    bench.assert_whole(ITEMS, vectors=250)


def test_thousands_of_messages_become_few_parts(make_bench: MakeBench) -> None:
    bench = make_bench(window_s=300.0)  # every window closes by size
    bench.queue_items(texts(2_000))
    bench.start_worker()
    bench.wait_for_items(2_000, ITEMS)
    assert parts(bench) == [100] * 20
    bench.assert_whole(ITEMS, vectors=2_000)


def test_a_list_larger_than_the_window_is_written_whole(served: Bench) -> None:
    served.queue_items(texts(550), size=550, dataset="large")
    served.wait_for_items(550, "large")
    assert parts(served, "large") == [110] * 5
    served.assert_whole("large", vectors=550)


def test_an_id_that_comes_twice_is_written_once(served: Bench) -> None:
    served.queue_items(texts(40) + texts(40), dataset="twice")
    served.wait_for_items(40, "twice")
    served.queue_items(texts(50), size=10, dataset="twice")
    served.wait_for_items(50, "twice")
    served.assert_whole("twice", vectors=50)


def test_two_workers_with_the_same_items_write_them_once(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.01)
    workers = [bench.start_worker() for _ in range(2)]
    for worker in workers:
        worker.ready()
    for _ in range(4):
        bench.queue_items(texts(60), size=20)
    bench.wait_for_items(60, ITEMS)
    bench.assert_whole(ITEMS, vectors=60)
    assert all(worker.events("items embedded") for worker in workers)


def test_wrong_items_are_error_rows_and_spoil_no_neighbour(served: Bench) -> None:
    wrong = [
        {"id": "a picture", "uri": "/x.jpg"},
        {"id": "no text"},
        {"id": "a number", "text": 7},
        {"id": "too much", "text": "x", "lang": "zh"},
        {"id": "half a letter", "text": "\ud800"},
        {"id": "empty", "text": "  "},
        {"text": "no id"},
        {"id": "", "text": "an empty id"},
        {"id": 5.5, "text": "a fraction as id"},
        "no object",
        None,
    ]
    items: list[Any] = [*texts(3), *wrong, *texts(3, start=3)]
    served.queue_items(items, size=100, dataset="wrong")
    served.wait_for_items(12, "wrong")
    served.assert_whole("wrong", vectors=6, errors=6)
    errors = {id_: error for id_, error, _ in error_rows(served, "wrong")}
    assert errors == {
        "a picture": "bad_item",
        "no text": "bad_item",
        "a number": "bad_item",
        "too much": "bad_item",
        "half a letter": "bad_item",
        "empty": "empty_text",
    }
    assert len(served.workers[-1].events("item refused")) == 5
    (refusal,) = read_progress(served.dataset_path("wrong"), served.settings).refusals
    assert refusal.message == "5 items of clipfleet.embed_items"


def test_a_named_dataset_is_made_inside_the_output_folder_and_nowhere_else(
    served: Bench,
) -> None:
    worker = served.workers[-1]
    served.queue_items(texts(5), dataset="captions/2026")
    outside = served.folder / "elsewhere"
    for wrong in (str(outside), "../elsewhere", "s3://bucket/captions", ""):
        served.queue_items(texts(5), size=5, dataset=wrong)
    served.wait_for_items(5, "captions/2026")
    served.assert_whole("captions/2026", vectors=5)
    worker.wait_for("message refused", count=4)
    assert not outside.exists()


def test_messages_that_are_none_are_dropped_with_a_reason(served: Bench) -> None:
    worker = served.workers[-1]
    wrong: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {}),
        (["items"], {}),
        ([[]], {}),
        ([[{"id": "a", "text": "b"}], "more"], {}),
        ([[{"id": "a", "text": "b"}]], {"dataset": 5}),
        ([[{"id": "a", "text": "b"}]], {"datasett": "x"}),
    ]
    from celery import Celery

    with Celery(broker=served.settings.redis_url, set_as_current=False) as app:
        for args, kwargs in wrong:
            app.send_task("clipfleet.embed_items", args=args, kwargs=kwargs, queue=served.queue)
    served.queue_items(texts(1), dataset="neighbour")
    served.wait_for_items(1, "neighbour")
    refused = worker.events("message refused")
    assert len(refused) == len(wrong)
    assert all("MessageError" in event["reason"] for event in refused)
    served.assert_whole("neighbour", vectors=1)


def test_a_failed_batch_is_acknowledged_by_none_and_tried_again(make_bench: MakeBench) -> None:
    bench = make_bench(window_s=300.0, window_items=30)  # windows close by size
    worker = bench.start_worker()
    bench.queue_items(texts(30))
    bench.wait_for_items(30, ITEMS)
    folder = Path(bench.dataset_path(ITEMS), "parts")
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder")

    bench.queue_items(texts(30, start=30))
    worker.wait_for("batch failed, will be tried again", count=2)
    assert bench.in_redis() == (0, 30)
    # The disk was the cause, no item: the batch stays together.
    assert {event["items"] for event in worker.events("batch failed, will be tried again")} == {30}
    with worker.suspended():  # or it makes the folder anew in between
        folder.unlink()
        folder.with_name("away").rename(folder)
    bench.wait_for_items(60, ITEMS)
    bench.assert_whole(ITEMS, vectors=60)


def test_items_wait_while_their_dataset_is_another_models(make_bench: MakeBench) -> None:
    bench = make_bench(window_s=300.0, window_items=30)  # all are one window
    worker = bench.start_worker()
    folder = Path(bench.dataset_path("captions"))
    other = replace(load_card(str(bench.settings.model))[0], checkpoint_sha256="1" * 64)
    Dataset.create(str(folder), other, kind="stream", embedding_dtype="float16")
    bench.queue_items(texts(30), dataset="captions")
    event = worker.wait_for("items wait: this worker cannot write to their dataset", count=3)
    assert "choose another output folder, or give the card of the dataset's" in event["reason"]
    assert event["items"] == 30
    assert bench.in_redis() == (0, 30)
    folder.rename(folder.with_name("away"))
    bench.wait_for_items(30, "captions")
    bench.assert_whole("captions", vectors=30)


def test_waiting_items_let_shards_and_the_items_of_other_datasets_pass(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(window_items=30)
    worker = bench.start_worker()
    folder = Path(bench.dataset_path("captions"))
    other = replace(load_card(str(bench.settings.model))[0], checkpoint_sha256="1" * 64)
    Dataset.create(str(folder), other, kind="stream", embedding_dtype="float16")
    bench.queue_items(texts(200), dataset="captions")
    bench.submit(100)
    bench.queue_items(texts(5))
    wait_until(lambda: sum(bench.counts("dataset")) == 100, what="the shard")
    wait_until(lambda: sum(bench.counts(ITEMS)) == 5, what="the items of the other dataset")
    progress = read_progress(str(folder), bench.settings)

    def all_wait() -> bool:
        progress.refresh()
        aside = deferred_length(bench.client, bench.queue)
        return aside > 100 and [one.items for one in progress.waiting_items] == [200]

    wait_until(all_wait, what="all items are counted, and most are aside")
    assert "choose another output folder" in progress.waiting_items[0].reason
    folder.rename(folder.with_name("away"))
    bench.client.delete(f"{deferred_key(bench.queue)}.returned")  # do not wait a minute
    worker.wait_for("items brought back to their queue")
    bench.wait_for_items(200, "captions")
    bench.assert_whole("captions", vectors=200)
    assert read_progress(str(folder), bench.settings).waiting_items == []


def test_names_that_would_keep_items_out_of_another_dataset_are_refused(bench: Bench) -> None:
    worker = bench.start_worker()
    for n, wrong in enumerate((f"{ITEMS}/2026", ".")):
        bench.queue_items(texts(1), dataset=wrong)
        worker.wait_for("message refused", count=n + 1)
    bench.queue_items(texts(3))
    bench.wait_for_items(3, ITEMS)
    reasons = [r.reason for r in Refusals(bench.client, bench.settings.queue_prefix).all()]
    assert ["lies inside items-txt" in reasons[0], "output folder" in reasons[1]] == [True, True]


def test_items_for_a_planned_dataset_are_refused_with_the_way_out(served: Bench) -> None:
    worker = served.workers[-1]
    served.submit(20)
    served.queue_items(texts(5), size=5, dataset="dataset")
    event = worker.wait_for("message refused")
    assert "is planned: " in event["reason"]
    assert "name another dataset" in event["reason"]
    served.queue_items(texts(3), dataset="others")  # others do not wait
    served.wait_for_items(3, "others")
    served.wait_for_items(20)
    served.assert_whole(vectors=20)
    progress = read_progress(served.dataset_path(), served.settings)
    assert any("is planned: " in line for line in progress.lines())
    assert served.in_redis() == (0, 0)


def test_a_source_for_a_stream_is_refused_with_the_way_out_and_a_retry_is_not(
    served: Bench,
) -> None:
    served.queue_items([*texts(3), {"id": "empty", "text": " "}], dataset="stream")
    served.wait_for_items(4, "stream")
    stream = served.dataset_path("stream")
    with pytest.raises(DatasetKindError, match=rf"{stream} is a stream: .* another output folder"):
        served.submit(5, "stream")
    retried = retry(stream, settings=served.settings)
    assert (retried.items, retried.queued_shards) == (1, 1)
    wait_until(lambda: read_progress(stream, served.settings).finished, what="the retry")
    served.assert_whole("stream", vectors=3, errors=1)


def test_every_priority_of_a_producer_is_read_whatever_its_steps_and_separator(
    served: Bench,
) -> None:
    from celery import Celery

    steps = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
    for separator in ("\x06\x16", ":"):  # Celery's, and that of its documentation
        options = {**steps, "sep": separator}
        with Celery(broker=served.settings.redis_url, set_as_current=False) as app:
            app.conf.broker_transport_options = options
            for priority in (0, 5, 9):
                app.send_task(
                    "clipfleet.embed_items",
                    args=[[{"id": f"{priority}{separator!r}", "text": "words"}]],
                    kwargs={"dataset": "priorities"},
                    queue=served.queue,
                    priority=priority,
                )
    served.wait_for_items(6, "priorities")
    with Celery(broker=served.settings.redis_url, set_as_current=False) as app:
        app.conf.broker_transport_options = {**steps, "sep": "|"}  # that no worker knows
        for priority in (0, 5):
            app.send_task(
                "clipfleet.embed_items",
                args=[[{"id": f"unread {priority}", "text": "words"}]],
                kwargs={"dataset": "priorities"},
                queue=served.queue,
                priority=priority,
            )
    served.wait_for_items(7, "priorities")
    status = read_progress(served.dataset_path("priorities"), served.settings)
    assert status.to_json()["unread"] == {"|": 1}
    assert any("1 messages lie where no worker reads" in line for line in status.lines())
    served.client.delete(f"{served.queue}|5")
    served.submit(20, "after")  # what such a producer left in Redis harms no other one
    served.wait_for_items(20, "after")


def test_times_ids_and_mistakes_of_a_producer_are_honoured_or_counted(served: Bench) -> None:
    from celery import Celery

    now = datetime.now(timezone.utc)
    name = {"dataset": "matrix"}
    task = "clipfleet.embed_items"
    sent: list[tuple[str, Any, dict[str, Any]]] = [
        (task, 5, {}),
        (task, "past", {"eta": now - timedelta(hours=1)}),
        (task, "soon", {"expires": now + timedelta(hours=1)}),
        (task, "expired", {"expires": now - timedelta(hours=1)}),
        (task, "pickle", {"serializer": "pickle"}),
        ("clipfleet.embed_item", "unknown", {}),
        (task, "later", {"countdown": 3600}),
    ]
    with Celery(broker=served.settings.redis_url, set_as_current=False) as app:
        for named, id_, options in sent:
            items = [{"id": id_, "text": f"the words of {id_}"}]
            app.send_task(named, args=[items], kwargs=name, queue=served.queue, **options)
    served.workers[-1].wait_for("message refused", count=3)
    wait_until(lambda: served.counts("matrix") == (3, 0), what="what is due")
    wait_until(lambda: deferred_length(served.client, served.queue) == 1, what="the later one")
    served.client.delete(deferred_key(served.queue))
    status = read_progress(served.dataset_path("matrix"), served.settings)
    told = "\n".join(refusal.reason for refusal in status.refusals)
    for reason in ("it expired at 20", "send JSON", "there is no task 'clipfleet.embed_item'"):
        assert reason in told
    assert {row["id"] for row in rows(served, "matrix")} == {"5", "past", "soon"}


def test_half_a_letter_in_a_dataset_name_is_refused_and_the_worker_lives(
    served: Bench,
) -> None:
    worker = served.workers[-1]
    served.queue_items(texts(3), size=3, dataset="\ud800")
    worker.wait_for("message refused")
    served.queue_items(texts(3), dataset="letters")
    served.wait_for_items(3, "letters")
    (refusal,) = Refusals(served.client, served.settings.queue_prefix).all()
    assert "no usable path" in refusal.reason
    assert refusal.dataset == ""


def test_a_child_killed_in_a_batch_loses_nothing(bench: Bench) -> None:
    bench.hold(Step.ENGINE)
    worker = bench.start_held_worker()
    bench.queue_items(texts(100))
    wait_until(lambda: bench.in_redis() == (0, 100), what="a window in hand")
    bench.wait_held(Step.ENGINE)
    bench.hold(Step.ENGINE)  # the second try too
    worker.signal_child(signal.SIGKILL)
    worker.wait_for("batch failed, will be tried again")
    assert bench.in_redis() == (0, 100)
    bench.release(Step.ENGINE)
    bench.wait_for_items(100, ITEMS)
    bench.assert_whole(ITEMS, vectors=100)


def test_a_lost_connection_delivers_what_was_in_hand_again(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.01, window_s=3.0, window_items=50, visibility_timeout_s=2)
    bench.hold(Step.ENGINE)
    worker = bench.start_held_worker()
    bench.queue_items(texts(80))
    wait_until(lambda: bench.in_redis() == (0, 80), what="80 messages in hand")
    bench.client.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: "Connection to broker lost" in worker.log_text(), what="the loss")
    bench.release(Step.ENGINE)
    bench.wait_for_items(80, ITEMS)
    bench.assert_whole(ITEMS, vectors=80)
    assert worker.stop() == 0


def test_messages_in_hand_are_bounded(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.01, window_items=30)
    bench.hold(Step.ENGINE)
    bench.start_held_worker()
    bench.queue_items(texts(300))
    bench.wait_held(Step.ENGINE)
    most = bench.in_redis()[1]
    assert most >= 30
    bench.release(Step.ENGINE)

    def done() -> bool:
        nonlocal most
        most = max(most, bench.in_redis()[1])
        return sum(bench.counts(ITEMS)) == 300

    wait_until(done, what="all items")
    assert most <= 2 * 30 + 2
    bench.assert_whole(ITEMS, vectors=300)


def newer(*ids: str, text: str = "newer words") -> list[dict[str, Any]]:
    return [{"id": id_, "text": text} for id_ in ids]


def send(bench: Bench, worker: WorkerProcess, items: list[dict[str, Any]]) -> None:
    """Queue items as one message, and wait until the only worker has written it."""
    before = len(worker.events("items embedded"))
    bench.queue_items(items, size=len(items))
    worker.wait_for("items embedded", count=before + 1)


def texts_of(bench: Bench, name: str = ITEMS) -> dict[str, str]:
    """Return the texts of the vectors, by a plain read of the parts."""
    table = pq.read_table(Path(bench.dataset_path(name), "parts"), columns=["id", "text"])
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids))
    return dict(zip(ids, table["text"].to_pylist(), strict=True))


def test_a_failed_id_takes_a_right_item_and_a_vector_is_kept_and_counted(bench: Bench) -> None:
    worker = bench.start_worker()
    send(bench, worker, [{"id": "item-0"}, *texts(3, start=1)])
    bench.assert_whole(ITEMS, vectors=3, errors=1)
    send(bench, worker, texts(4))  # three of them come again as they were
    bench.assert_whole(ITEMS, vectors=4)
    send(bench, worker, newer("item-1", "item-2", "item-9"))
    assert worker.events("ids have other content")
    bench.assert_whole(ITEMS, vectors=5)
    words = {item["id"]: item["text"] for item in texts(4)}
    assert texts_of(bench) == {**words, "item-9": "newer words"}
    progress = read_progress(bench.dataset_path(ITEMS), bench.settings)
    assert (progress.to_json()["conflicts"], progress.to_json()["errors"]) == (2, 0)
    assert any("2 conflicts" in line for line in progress.lines())


def test_the_rule_error_refuses_other_content_with_its_ids(make_bench: MakeBench) -> None:
    bench = make_bench(on_conflict="error")
    worker = bench.start_worker()
    send(bench, worker, [*texts(2), {"id": "bad"}])
    send(bench, worker, newer("item-0", "item-1", "bad"))
    bench.assert_whole(ITEMS, vectors=3)
    progress = read_progress(bench.dataset_path(ITEMS), bench.settings)
    assert progress.conflicts == 2
    (refusal,) = progress.refusals
    assert refusal.message == "2 items of clipfleet.embed_items"
    assert "'item-0', 'item-1'; queue the items under other ids" in refusal.reason


def test_a_child_killed_while_it_replaces_vectors_leaves_each_id_once(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(on_conflict="replace")
    worker = bench.start_held_worker()
    send(bench, worker, texts(5))
    bench.hold(Step.ENGINE)
    bench.queue_items(newer("item-1", "item-3"), size=2)
    bench.wait_held(Step.ENGINE)
    worker.signal_child(signal.SIGKILL)
    bench.release(Step.ENGINE)
    worker.wait_for("items embedded", count=2)
    bench.assert_whole(ITEMS, vectors=5)
    words = {item["id"]: item["text"] for item in texts(5)}
    assert texts_of(bench) == {**words, "item-1": "newer words", "item-3": "newer words"}
    progress = read_progress(bench.dataset_path(ITEMS), bench.settings)
    assert (progress.total, progress.vectors, progress.done, progress.conflicts) == (5, 5, 5, 0)
