"""A Redis whose policy deletes messages when it is full: who refuses it, and who warns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from clipfleet.cli.models.doctor import examine
from clipfleet.errors import BrokerError
from clipfleet.tasks.broker.redis_client import check_broker, connect
from clipfleet.tasks.items.queue import ItemQueue
from clipfleet.tasks.worker.main import run_worker
from tests.integration.support import Bench, texts

pytestmark = pytest.mark.integration

ANSWER = "maxmemory-policy allkeys-lru.*noeviction.*CLIPFLEET_ALLOW_EVICTION"


@pytest.fixture(autouse=True)
def _restored(redis_url: str) -> Iterator[None]:
    yield
    set_policy(redis_url, maxmemory=0, policy="noeviction")


def set_policy(url: str, *, maxmemory: int, policy: str) -> None:
    with connect(url) as client:
        client.config_set("maxmemory", maxmemory)
        client.config_set("maxmemory-policy", policy)


@pytest.mark.parametrize(
    ("maxmemory", "policy", "evicts"),
    [
        (1 << 30, "allkeys-lru", True),
        (1 << 30, "allkeys-random", True),
        (1 << 30, "volatile-ttl", False),  # no message expires
        (1 << 30, "noeviction", False),
        (0, "allkeys-lru", False),  # it is never full
    ],
)
def test_a_policy_that_may_delete_messages_is_refused(
    redis_url: str, maxmemory: int, policy: str, evicts: bool
) -> None:
    set_policy(redis_url, maxmemory=maxmemory, policy=policy)
    with pytest.raises(BrokerError, match=policy) if evicts else nullcontext():
        check_broker(redis_url)
    check_broker(redis_url, allow_eviction=True)


def test_workers_and_producers_refuse_it_or_warn(bench: Bench) -> None:
    settings: Any = bench.settings
    set_policy(settings.redis_url, maxmemory=1 << 30, policy="allkeys-lru")
    with pytest.raises(BrokerError, match=ANSWER):
        run_worker(settings)
    with pytest.raises(BrokerError, match=ANSWER):
        bench.submit(10)
    with ItemQueue("txt", settings=settings) as queue, pytest.warns(RuntimeWarning, match=ANSWER):
        queue.put(texts(1))
    assert [check.state for check in examine(settings, []) if check.name == "Redis"] == ["broken"]
    accepted = settings.model_copy(update={"allow_eviction": True})
    assert [check.state for check in examine(accepted, []) if check.name == "Redis"] == ["ok"]
    assert bench.submit(10, allow_eviction=True).queued_shards == 1
