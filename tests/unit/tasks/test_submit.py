"""Submitting: what it says, and that it fails early without Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import BrokerError, CardError
from clipfleet.settings import load_settings
from storage.sources import ListSource
from tasks.broker import held_messages, waiting_messages
from tasks.submit import Submission, queued_shards, submit
from tests.unit.tasks.support import items
from workers.engines.fake import write_fake_engine


def test_without_redis_nothing_is_planned(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "txt")
    settings = load_settings(redis_url="redis://:hush@127.0.0.1:1/0")
    out = tmp_path / "out"
    with pytest.raises(BrokerError, match=r"redis://:\*\*@127") as caught:
        submit(ListSource(items(5)), str(out), model, settings=settings)
    assert "hush" not in str(caught.value)
    assert not out.exists()


def test_without_a_card_nothing_is_tried(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no model card at"):
        submit(
            ListSource(items(5)), str(tmp_path / "o"), tmp_path / "x.onnx", settings=load_settings()
        )


def test_a_submission_in_words() -> None:
    done = Submission(
        dataset="/d", job="00002", planned_items=2048, planned_shards=2, queued_shards=3
    )
    assert done.lines() == ["/d: planned 2,048 items in 2 shards as job 00002; queued 3 shards"]
    nothing = Submission(dataset="/d", job=None, planned_items=0, planned_shards=0, queued_shards=0)
    assert "planned nothing" in nothing.lines()[0]
    assert "queued nothing" in nothing.lines()[0]
    assert nothing.to_json()["job"] is None


class Lists:
    """The few commands of Redis that looking into a queue uses."""

    def __init__(self, waiting: list[bytes], held: list[bytes]) -> None:
        self.waiting, self.held = waiting, held

    def lrange(self, name: str, start: int, end: int) -> list[bytes]:
        return self.waiting[start : end + 1] if name == "q" else []

    def hscan_iter(self, name: str, count: int) -> Any:
        assert name == "q.unacked"
        return enumerate(self.held)


def test_shards_in_redis_are_found_among_other_messages() -> None:
    from tasks.submit import _digest

    mine = _digest("/d")
    messages = [{"headers": {"id": f"{mine}.00001-{n:07d}.x"}} for n in range(1500)]
    other = [{"headers": {"id": "some-uuid"}}, {"headers": None}, [1], "text", 5, {}]
    waiting = [json.dumps(m).encode() for m in (*messages, *other)] + [b"garbage", b"\xff"]
    held = [
        json.dumps([{"headers": {"id": f"{mine}.00002-0000001.y"}}, "", "q"]).encode(),
        b"garbage",
        b"[]",
        b"{}",
    ]
    client: Any = Lists(waiting, held)
    found = queued_shards(client, "q", "/d")
    assert len(found) == 1501
    assert {"00001-0001499", "00002-0000001"} <= found
    assert queued_shards(client, "q", "/other") == set()
    assert len(list(waiting_messages(client, "q"))) == 1500 + 5
    assert len(list(held_messages(client, "q"))) == 1
