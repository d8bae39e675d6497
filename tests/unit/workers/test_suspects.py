"""Items with which the engine's process died: tried first, acquitted, or an error in the end.

The engines here do what a worker would when it has seen its child die, and raise what no
code in between catches.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.jobs import ENGINE_CRASHED, Item
from clipfleet.settings import Settings
from storage.parts import Embedded
from workers.deaths import Deaths, Died
from workers.engines.base import Array
from workers.engines.fake import FakeEngine, fake_card
from workers.pipeline import Embedder
from workers.suspects import Suspects
from workers.tokenizer import Tokenizer

ATTEMPTS = 3
CARD = fake_card("txt", dim=8)


class ProcessDied(BaseException):
    """In place of a process's death."""


class DyingEngine(FakeEngine):
    """An engine whose process dies when `is_deadly` says so of its inputs so far."""

    def __init__(self, deaths: Deaths, is_deadly: Callable[[list[str]], bool]) -> None:
        super().__init__(CARD)
        self._deaths = deaths
        self._is_deadly = is_deadly
        self.taken: list[str] = []  # in this life

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        self.taken.append(name_of(inputs))
        if self._is_deadly(self.taken):
            self.taken = []
            self._deaths.count(os.getpid(), -signal.SIGABRT)
            raise ProcessDied
        return super().__call__(inputs)


IDS = {row.tobytes(): name for name in "abcd" for row in Tokenizer().encode([f"text {name}"], 52)}
ITEMS = [Item(id=name, text=f"text {name}") for name in "abcd"]


def name_of(inputs: Array) -> str:
    return "+".join(IDS.get(row.tobytes(), "-") for row in inputs)


def embed(
    is_deadly: Callable[[list[str]], bool], *, most: int = 20, items: list[Item] = ITEMS
) -> tuple[Embedded | None, int]:
    """Embed with a new process after each death; return what became of it, and the deaths."""
    deaths = Deaths()
    with Embedder(DyingEngine(deaths, is_deadly), Settings(item_attempts=ATTEMPTS)) as embedder:
        for died in range(most):
            suspects = Suspects(deaths, work="w", attempts=ATTEMPTS) if died else None
            try:
                return embedder.embed(items, suspects=suspects), died
            except ProcessDied:
                continue
    return None, most


def errors(embedded: Embedded | None) -> dict[str, str]:
    assert embedded is not None
    return {failure.item.id: failure.error for failure in embedded.failures}


def test_an_item_on_which_the_process_dies_every_time_is_an_error_beside_its_neighbours() -> None:
    embedded, died = embed(lambda taken: "c" in taken[-1])
    assert errors(embedded) == {"c": ENGINE_CRASHED}
    assert embedded is not None
    assert [item.id for item in embedded.items] == ["a", "b", "d"]
    assert len(embedded.vectors) == 3
    assert embedded.failures[0].message == (
        "it ended the engine's process 3 times in a row, each time alone in it; "
        "the last time of SIGABRT"
    )
    assert died == 1 + ATTEMPTS


def test_so_is_each_of_several() -> None:
    embedded, died = embed(lambda taken: bool(set("bcd") & set(taken[-1])))
    assert errors(embedded) == dict.fromkeys("bcd", ENGINE_CRASHED)
    assert died == 1 + 3 * ATTEMPTS


def test_an_engine_that_dies_of_everything_condemns_nothing() -> None:
    deaths = 50
    embedded, died = embed(lambda _: True, most=deaths)
    assert (embedded, died) == (None, deaths)


def test_an_engine_that_dies_of_all_but_an_empty_input_condemns_every_item() -> None:
    """Nothing tells that from items that are all deadly: so it is said, and can be retried."""
    embedded, _ = embed(lambda taken: taken[-1] != "-")
    assert errors(embedded) == dict.fromkeys("abcd", ENGINE_CRASHED)


def test_an_item_that_dies_of_what_went_before_it_is_no_error() -> None:
    """Tried first, in a process of its own, it is acquitted; then it died by bad luck only."""
    lives = 0

    def second_item_of_the_first_lives(taken: list[str]) -> bool:
        nonlocal lives
        lives += len(taken) == 1
        return lives < 10 and taken[-2:] == ["a", "b"]

    embedded, _ = embed(lambda taken: taken == ["a+b+c+d"] or second_item_of_the_first_lives(taken))
    assert errors(embedded) == {}


def test_deaths_count_in_a_row_only() -> None:
    """Each item dies four times, and is acquitted before its third death in a row."""
    times: dict[str, int] = {}

    def is_deadly(taken: list[str]) -> bool:
        times[taken[-1]] = count = times.get(taken[-1], 0) + 1
        return "+" in taken[-1] or (taken[-1] != "-" and count in {1, 2, 4, 5})

    embedded, died = embed(is_deadly, most=60)
    assert errors(embedded) == {}
    assert died == 1 + 4 * len(ITEMS)


def test_a_suspect_is_tried_before_anything_but_an_empty_input() -> None:
    deaths = Deaths()
    suspects = Suspects(deaths, work="w", attempts=ATTEMPTS)
    with suspects.alone([ITEMS[2]]):
        deaths.count(os.getpid(), -signal.SIGBUS)
    engine = DyingEngine(deaths, lambda _: False)
    with Embedder(engine, Settings()) as embedder:
        suspects = Suspects(deaths, work="w", attempts=ATTEMPTS)
        embedded = embedder.embed(ITEMS, suspects=suspects)
    assert engine.taken == ["-", "c", "a", "b", "c", "d"]
    assert deaths.counted() == {}
    assert [item.id for item in embedded.items] == list("abcd")


def test_a_suspect_that_never_came_to_the_engine_is_not_acquitted() -> None:
    """So is an image that could not be fetched this time."""
    deaths, unmade = Deaths(), Item(id="a", text=" ")
    with Suspects(deaths, work="w", attempts=ATTEMPTS).alone([unmade]):
        deaths.count(os.getpid(), -signal.SIGSEGV)
    with Embedder(FakeEngine(CARD), Settings()) as embedder:
        suspects = Suspects(deaths, work="w", attempts=ATTEMPTS)
        assert len(embedder.embed([unmade], suspects=suspects).failures) == 1
    assert list(deaths.counted().values()) == [Died(times=1, of="SIGSEGV")]


@pytest.mark.parametrize("work", ["w", "another"])
def test_an_item_of_other_work_is_another(work: str) -> None:
    deaths = Deaths()
    with Suspects(deaths, work="w", attempts=1).alone([ITEMS[0]]):
        deaths.count(os.getpid(), -signal.SIGSEGV)
    assert list(deaths.counted().values()) == [Died(times=1, of="SIGSEGV")]
    with Embedder(FakeEngine(CARD), Settings()) as embedder:
        suspects = Suspects(deaths, work=work, attempts=1)
        embedded = embedder.embed(ITEMS, suspects=suspects)
    assert errors(embedded) == ({"a": ENGINE_CRASHED} if work == "w" else {})


def test_the_fast_way_says_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alone", "counted", "forget"):
        monkeypatch.setattr(Deaths, name, lambda *_: pytest.fail("the record was looked at"))
    with Embedder(FakeEngine(CARD), Settings()) as embedder:
        assert len(embedder.embed(ITEMS).items) == len(ITEMS)
