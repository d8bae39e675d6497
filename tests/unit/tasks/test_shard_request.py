"""A shard as a request of Celery's: what becomes of it when its process dies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.worker import state

from clipfleet.messages import EMBED_TASK
from clipfleet.settings import load_settings
from clipfleet.tasks import shard_request
from clipfleet.tasks.app import make_app
from clipfleet.tasks.shard_request import ShardRequest

SHARD = {"job": "00001", "index": 7, "size": 3}


class Stand:
    """A request, and what becomes of its message."""

    def __init__(self, lost: int) -> None:
        self.ends: list[str] = []
        info = {"exchange": "", "routing_key": "q"} | ({"lost": lost} if lost else {})
        message = SimpleNamespace(
            delivery_info=info,
            delivery_tag="tag",
            properties={"delivery_info": info},
            headers={"id": "id", "task": EMBED_TASK, "chain": [5], "timelimit": 5},
            payload=[[], {"dataset": "/out/d", "shard": SHARD}, {"callbacks": [5], "chain": [5]}],
            channel=SimpleNamespace(process_lost=lambda tag: self.ends.append(f"lost {tag}")),
        )
        app = make_app(load_settings(tower="txt"))
        app.loader.import_default_modules()
        self.request = ShardRequest(
            message,
            on_ack=lambda *_: self.ends.append("acknowledged"),
            on_reject=lambda *_: self.ends.append("put back"),
            app=app,
            task=app.tasks[EMBED_TASK],
            connection_errors=(OSError,),
        )

    def die(self, error: BaseException) -> list[str]:
        try:
            raise error
        except BaseException:  # noqa: BLE001 - as Celery's tracer does
            self.request.on_failure(ExceptionInfo())
        return self.ends


@pytest.fixture(autouse=True)
def refused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What is refused: the message's name, its dataset and the reason."""
    refused: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        shard_request, "refuse", lambda _, *names, reason: refused.append((*names, reason))
    )
    return refused


def test_a_shard_has_no_callbacks_and_no_limits() -> None:
    request = Stand(0).request
    assert request.body == ([], {"dataset": "/out/d", "shard": SHARD}, {})
    assert not {"chain", "callbacks", "timelimit"} & request.request_dict.keys()
    assert request.id == "id"


KILLED = WorkerLostError("Worker exited prematurely: signal 11 (SIGSEGV) Job: 0.")


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("error", [KILLED, SystemExit(1)])
def test_a_shard_whose_process_died_goes_back_and_the_loss_is_counted(
    refused: list[tuple[str, str, str]], lost: int, error: BaseException
) -> None:
    assert Stand(lost).die(error) == ["lost tag", "put back"]
    assert refused == []


def test_a_shard_whose_process_died_for_the_last_time_is_refused_with_how_it_ended(
    refused: list[tuple[str, str, str]],
) -> None:
    assert Stand(4).die(KILLED) == ["acknowledged"]
    reason = "it ended the engine's process 5 times; the last time: signal 11 (SIGSEGV)"
    assert refused == [("shard 00001-0000007", "/out/d", reason)]


@pytest.mark.parametrize("asked", ["should_stop", "should_terminate"])
def test_a_process_that_a_stopping_worker_kills_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, refused: list[tuple[str, str, str]], asked: str
) -> None:
    monkeypatch.setattr(state, asked, 0)
    assert Stand(4).die(KILLED) == ["put back"]
    assert refused == []
