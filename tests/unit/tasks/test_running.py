"""Who embeds a dataset: local runs, also killed ones and those of other machines, and fleets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clipfleet.errors import DatasetError
from clipfleet.messages import queue_name
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, write_queued
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit import running
from clipfleet.tasks.submit.running import (
    DEAD_AFTER_S,
    RUN_PATH,
    HeldDataset,
    LocalRun,
    hold_dataset,
    local_prefix,
    refuse_others,
)
from tests.datasets import files_of, memory_dataset, numbered_texts

MINE, OTHER = "clipfleet.00000001.txt", "clipfleet.00000002.txt"


class Clock:
    """A time that passes only while somebody sleeps; then `meanwhile` may happen."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    return clock


def write_run(dataset: Dataset, **changes: Any) -> LocalRun:
    run = LocalRun(
        queue=OTHER,
        host="elsewhere",
        pid=os.getpid(),
        process=running._process(os.getpid()),
    )
    run = replace(run, **changes)
    dataset.fs.replace(RUN_PATH, run.to_json())
    return run


def planned(dataset: Dataset, queue: str) -> Dataset:
    """Plan shards that were queued in a queue, and are not done."""
    plan_items(dataset, ListSource(numbered_texts(5)), 2)
    write_queued(dataset, Queued(queue=queue, dataset=dataset.root, last_job="00001"))
    return dataset


def test_a_dataset_is_held_by_one_local_run_until_its_end() -> None:
    dataset = memory_dataset()
    with hold_dataset(dataset, MINE):
        told = rf"process {os.getpid()} on {socket.gethostname()} embeds dataset /memory now: wait"
        for take in (lambda: hold_dataset(dataset, OTHER).__enter__(), lambda: refuse(dataset)):
            with pytest.raises(DatasetError, match=told):
                take()
        refuse_others(dataset, MINE)
    assert RUN_PATH not in files_of(dataset)


def refuse(dataset: Dataset) -> None:
    refuse_others(dataset, "clipfleet.txt")


def test_a_killed_run_of_this_machine_holds_nothing(clock: Clock) -> None:
    dataset = memory_dataset()
    process = running._process(os.getpid())
    write_run(dataset, process=f"{process}0")  # another process has its pid by now
    with hold_dataset(dataset, MINE):
        pass
    assert clock.now_s == 0
    assert RUN_PATH not in files_of(dataset)


def test_a_run_of_another_machine_is_watched_and_lives_if_it_renews_its_file(clock: Clock) -> None:
    dataset = memory_dataset()
    write_run(dataset, process="another boot 7")

    def renew() -> None:
        if clock.now_s > 2:
            write_run(dataset, process="another boot 7", beat=1)

    clock.meanwhile = renew
    with pytest.raises(DatasetError, match="on elsewhere embeds dataset"):
        refuse(dataset)
    assert clock.now_s < DEAD_AFTER_S


def test_a_run_of_another_machine_that_renews_nothing_was_killed(clock: Clock) -> None:
    dataset = memory_dataset()
    write_run(dataset, process="another boot 7")
    with hold_dataset(dataset, MINE):
        assert clock.now_s >= DEAD_AFTER_S


def test_a_damaged_file_holds_nothing() -> None:
    dataset = memory_dataset()
    for damaged in (b"", b"[]", b'{"queue": 1}', b"\xff"):
        dataset.fs.replace(RUN_PATH, damaged)
        refuse(dataset)
        assert RUN_PATH not in files_of(dataset)


def test_open_shards_of_another_fleet_are_left_to_it() -> None:
    dataset = planned(memory_dataset(), "other.txt")
    told = r"were queued in other\.txt: wait .* delete queued\.json .* `clipfleet resume`"
    with pytest.raises(DatasetError, match=told):
        refuse(dataset)
    with pytest.raises(DatasetError, match=told):
        hold_dataset(dataset, MINE).__enter__()
    refuse_others(dataset, "other.txt")
    dataset.fs.delete("queued.json")
    refuse(dataset)


def test_open_shards_of_a_killed_local_run_are_everybodys() -> None:
    queue = queue_name("txt", local_prefix("my.fleet"))
    dataset = planned(memory_dataset(), queue)
    refuse(dataset)


def test_a_run_that_was_taken_over_says_by_whom() -> None:
    dataset = memory_dataset()
    held = HeldDataset(dataset, write_run(dataset, queue=MINE))
    held.renew()
    held.check()
    write_run(dataset)
    held.renew()
    with pytest.raises(DatasetError, match="on elsewhere took dataset /memory over"):
        held.check()


def test_a_run_whose_queue_was_replaced_says_so() -> None:
    dataset = planned(memory_dataset(), "before.txt")
    held = HeldDataset(dataset, write_run(dataset, queue=MINE))
    held.renew()  # it has queued nothing yet
    held.check()
    dataset.fs.delete("queued.json")
    for queue in (MINE, "other.txt"):
        write_queued(dataset, Queued(queue=queue, dataset=dataset.root, last_job="00001"))
        held.renew()
    with pytest.raises(DatasetError, match=r"for the queue other\.txt took dataset"):
        held.check()
