"""A batch as a request of Celery's: how it ends, and what the batcher hears of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

from clipfleet.errors import DatasetMismatchError, EngineError, StorageError
from clipfleet.messages import EMBED_ITEMS_TASK
from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.items.batcher import Batch, Delivery
from clipfleet.tasks.items.receive import BatchRequest, make_batcher
from clipfleet.tasks.retry_policy import requeue_batch


class Ends:
    """A batcher that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def finish(self, batch: Batch) -> None:
        self.told.append("finished")

    def try_again(self, batch: Batch, *, split: bool, reason: str = "") -> None:
        self.told.append(f"again, split: {reason}" if split else "again")

    def lost(self, batch: Batch, error: BaseException) -> None:
        self.told.append(f"lost: {error}")


@pytest.fixture
def consumer() -> Any:
    app = make_app(load_settings(tower="txt"))
    app.loader.import_default_modules()
    app.finalize()
    return SimpleNamespace(app=app, hostname="txt-1@host", connection_errors=(OSError,))


def request_of(consumer: Any, ends: Any) -> BatchRequest:
    batch = Batch(dataset="d")
    for names in (["a", "b"], ["c"]):
        batch.deliveries.append(Delivery(dataset="d", items=[*names], ack=lambda: None))
    return BatchRequest(batch, ends, consumer.app.tasks[EMBED_ITEMS_TASK], consumer)


def failed(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except Exception:  # noqa: BLE001 - as Celery's tracer does
        return ExceptionInfo()


def given_back(error: Exception) -> ExceptionInfo:
    try:
        requeue_batch(error)
    except Exception:  # noqa: BLE001
        return ExceptionInfo()


def test_a_request_has_the_items_of_all_its_deliveries(consumer: Any) -> None:
    request = request_of(consumer, Ends())
    assert request.request_dict["args"] == [["a", "b", "c"]]
    assert request.request_dict["kwargs"] == {
        "dataset": "d",
        "given_up": None,
    }
    assert "'a'" not in request.argsrepr  # items are not for logs


def test_success_finishes_the_batch_once(consumer: Any) -> None:
    ends = Ends()
    request = request_of(consumer, ends)
    request.on_success((0, "None", 0.1))
    request.acknowledge()
    assert ends.told == ["finished"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (given_back(StorageError("disk full")), "again"),
        (given_back(DatasetMismatchError("another model's")), "again"),
        (given_back(EngineError("odd")), "again, split: EngineError: odd"),
        (
            failed(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "unforeseen")),
            "again, split: UnicodeEncodeError: 'utf-8' codec",
        ),
        (failed(WorkerLostError("killed")), "lost: killed"),
    ],
)
def test_failure_gives_the_batch_back_and_acknowledges_nothing(
    consumer: Any, how: ExceptionInfo, told: str
) -> None:
    ends = Ends()
    request_of(consumer, ends).on_failure(how)
    (found,) = ends.told
    assert found.startswith(told)


def test_what_the_child_raised_comes_back_through_the_result_too(consumer: Any) -> None:
    ends = Ends()
    request_of(consumer, ends).on_success((1, given_back(StorageError("disk full")), 0.1))
    assert ends.told == ["again"]


def test_the_deadline_gives_the_batch_back_once(consumer: Any) -> None:
    ends = Ends()
    request = request_of(consumer, ends)
    request.on_timeout(soft=False, timeout=1800)
    request.on_failure(failed(WorkerLostError("killed at its deadline")))
    assert ends.told == ["again, split: TimeoutError: it took too long"]


def test_the_batcher_runs_batches_on_the_pool_and_moves_the_prefetch_limit(consumer: Any) -> None:
    ran: list[Any] = []
    moved: list[int] = []
    consumer.on_task_request = ran.append
    consumer.timer = SimpleNamespace(call_after=lambda *_: None)
    consumer.qos = SimpleNamespace(
        increment_eventually=moved.append, decrement_eventually=lambda n: moved.append(-n)
    )
    settings = load_settings(tower="txt", window_items=2)
    batcher = make_batcher(consumer.app.tasks[EMBED_ITEMS_TASK], consumer, settings)
    acked: list[str] = []
    for name in "ab":
        batcher.add(
            Delivery(dataset=None, items=[name], ack=lambda name=name: acked.append(name))  # type: ignore[misc]
        )
    (request,) = ran
    assert moved == [1, 1]
    request.on_success((0, "None", 0.1))
    assert acked == ["a", "b"]
    assert moved == [1, 1, -2]
