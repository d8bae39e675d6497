"""The progress of planning: what a display is told, and how often."""

from __future__ import annotations

import itertools

import pytest

from clipfleet.cli.progress_bar import open_display
from clipfleet.storage.plan import new_items
from clipfleet.storage.plan.new_items import Planning
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.snapshot import Snapshot, sentence
from clipfleet.tasks.submit.planning import shown
from tests.datasets import memory_dataset, numbered_texts


def test_planning_is_told_row_by_row_also_of_earlier_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_items, "_BATCH_ITEMS", 2)
    dataset, told = memory_dataset(), list[Planning]()
    plan_items(dataset, ListSource(numbered_texts(3)), 2, on_planning=told.append)
    assert [(one.known, one.rows) for one in told] == [(0, 2), (0, 3)]
    told.clear()
    plan_items(dataset, ListSource(numbered_texts(3)), 2, on_planning=told.append)
    assert [(one.known, one.rows) for one in told] == [(2, 0), (3, 0), (3, 2), (3, 3)]


def test_planning_is_shown_twice_a_second_with_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.25)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    told: list[Snapshot] = []
    on_planning = shown(told.append)
    for n in range(1, 5):
        on_planning(Planning(known=1000 * n))
    for n in range(1, 5):
        on_planning(Planning(known=4000, rows=500 * n))
    assert [sentence(one) for one in told] == [
        "reading the plan: 2,000 rows, 4,000/s",
        "reading the plan: 4,000 rows, 4,000/s",
        "planning: 1,000 rows, 4,000/s",
        "planning: 2,000 rows, 2,667/s",
    ]


def test_planning_is_a_line_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with open_display(quiet=False, stays=False) as show:
        for rows in (10_000, 20_000):
            show(Snapshot(total=0, done=rows, errors=0, items_per_s=5000.0, phase="planning"))
    assert capsys.readouterr().err == "planning: 10,000 rows, 5,000/s\n"
