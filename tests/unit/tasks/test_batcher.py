"""Gathering messages into batches, with a clock that the test turns."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfleet.error_codes import ENGINE_CRASHED, ENGINE_FAILED
from clipfleet.tasks.items import batcher as gather
from clipfleet.tasks.items.batcher import Batch, Batcher, Delivery

ATTEMPTS = 3
KILLED = ChildProcessError("signal 11 (SIGSEGV)")


class Clock:
    """Timers that go off when the test lets time pass."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self.now_s + delay_s, next(self._number), call))

    def pass_s(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._calls and self._calls[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._calls)
            call()
        self.now_s = until_s


class Stand:
    """A batcher whose batches the test ends."""

    def __init__(self, *, window_items: int = 10, window_s: float = 5.0) -> None:
        self.clock = Clock()
        self.started: list[Batch] = []
        self.acked: list[str] = []
        self.deferred: list[str] = []
        self.redis_takes = True
        self.extension = 0
        self.batcher = Batcher(
            window_items=window_items,
            window_s=window_s,
            attempts=ATTEMPTS,
            run=self.started.append,
            after=self.clock.after,
            extend=self._extend,
            defer=self._defer,
        )

    def _extend(self, messages: int) -> None:
        self.extension += messages

    def _defer(self, deliveries: Sequence[Delivery]) -> bool:
        self.deferred += [delivery.raw() for delivery in deliveries if self.redis_takes]
        return self.redis_takes

    def add(
        self,
        name: str,
        items: int = 1,
        dataset: str | None = None,
        *,
        lost: int = 0,
    ) -> None:
        delivery = Delivery(
            dataset=dataset,
            items=[name] * items,
            ack=partial(self.acked.append, name),
            raw=lambda: name,
            lost=lost,
        )
        self.batcher.add(delivery)

    def sizes(self) -> list[int]:
        return [batch.size for batch in self.started]


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "retry_delay_s", float)


def test_a_window_starts_when_it_is_full() -> None:
    stand = Stand()
    for n in range(25):
        stand.add(f"m{n}")
    assert stand.sizes() == [10, 10]


def test_a_window_starts_when_its_first_message_has_waited() -> None:
    stand = Stand()
    stand.add("a")
    stand.clock.pass_s(4.9)
    stand.add("b")
    assert stand.started == []
    stand.clock.pass_s(0.2)
    assert stand.sizes() == [2]
    stand.clock.pass_s(100)
    assert stand.sizes() == [2]


def test_a_full_window_does_not_start_again_by_time() -> None:
    stand = Stand()
    stand.add("a", items=10)
    stand.add("b")
    stand.clock.pass_s(100)
    assert stand.sizes() == [10, 1]


def test_a_message_larger_than_the_window_starts_at_once() -> None:
    stand = Stand()
    stand.add("a", items=37)
    assert stand.sizes() == [37]


def test_each_dataset_has_its_window() -> None:
    stand = Stand()
    stand.add("a", items=6)
    stand.add("b", items=6, dataset="other")
    assert stand.started == []
    stand.clock.pass_s(5)
    assert sorted(str(batch.dataset) for batch in stand.started) == ["None", "other"]


def test_nothing_is_acknowledged_before_its_batch_is_finished() -> None:
    stand = Stand()
    stand.add("a", items=9)
    stand.add("b")
    assert stand.acked == []
    stand.batcher.finish(stand.started[0])
    assert stand.acked == ["a", "b"]


def test_a_failed_batch_runs_again_after_a_while() -> None:
    stand = Stand()
    stand.add("a", items=10)
    stand.batcher.try_again(stand.started[0], split=False)
    stand.clock.pass_s(0.9)
    assert len(stand.started) == 1
    stand.clock.pass_s(0.2)
    assert [batch.attempt for batch in stand.started[1:]] == [2]
    assert stand.acked == []


def test_a_batch_that_fails_for_no_transient_reason_is_halved_from_the_second_time_on() -> None:
    stand = Stand(window_items=4)
    for name in "abcd":
        stand.add(name)
    stand.batcher.try_again(stand.started[0], split=True)
    stand.clock.pass_s(10)
    assert stand.sizes() == [4, 4]
    stand.batcher.try_again(stand.started[1], split=True)
    stand.clock.pass_s(10)
    assert stand.sizes() == [4, 4, 2, 2]
    stand.batcher.finish(stand.started[2])
    stand.batcher.try_again(stand.started[3], split=True)
    stand.clock.pass_s(10)
    assert stand.sizes() == [4, 4, 2, 2, 1, 1]
    stand.batcher.finish(stand.started[4])
    assert stand.acked == ["a", "b", "c"]


def test_failures_that_may_be_an_items_fault_are_counted_for_a_message_by_itself() -> None:
    stand = Stand(window_items=2)
    stand.add("a")
    stand.add("b")
    for split in (True, True, True, False):
        stand.batcher.try_again(stand.started[-1], split=split)
        stand.clock.pass_s(10)
    assert stand.sizes() == [2, 2, 1, 1, 1, 1]
    assert [batch.failed_alone for batch in stand.started[2:]] == [0, 1, 1, 1]
    assert stand.started[-1] is stand.started[3]


def test_a_message_that_fails_by_itself_some_times_is_given_up() -> None:
    stand = Stand(window_items=1)
    stand.add("a")
    for _ in range(ATTEMPTS):
        assert stand.started[-1].given_up is None
        stand.batcher.try_again(stand.started[-1], split=True, reason="odd")
        stand.clock.pass_s(60)
    told = "it failed 3 times without its neighbours: odd"
    assert stand.started[-1].given_up == (ENGINE_FAILED, told)
    stand.batcher.try_again(stand.started[-1], split=False, reason="disk full")
    stand.clock.pass_s(60)
    assert stand.started[-1].given_up == (ENGINE_FAILED, told)
    stand.batcher.finish(stand.started[-1])
    assert stand.acked == ["a"]


def test_a_batch_whose_process_died_goes_again_whole_and_is_given_up_in_the_end() -> None:
    stand = Stand(window_items=2)
    stand.add("a")
    stand.add("b")
    for _ in range(ATTEMPTS):
        assert stand.started[-1].given_up is None
        stand.batcher.lost(stand.started[-1], KILLED)
        stand.clock.pass_s(10)
    assert stand.sizes() == [2] * (1 + ATTEMPTS)
    told = "it ended the engine's process 3 times; the last time: signal 11 (SIGSEGV)"
    assert stand.started[-1].given_up == (ENGINE_CRASHED, told)


def test_only_the_messages_that_were_lost_as_often_are_given_up() -> None:
    stand = Stand(window_items=3)
    stand.add("a", lost=ATTEMPTS - 1)
    stand.add("b")
    stand.add("c", lost=ATTEMPTS - 1)
    stand.batcher.lost(stand.started[0], KILLED)
    stand.clock.pass_s(10)
    rest, last = stand.started[1:]
    assert (rest.size, rest.given_up, rest.attempt) == (1, None, 2)
    assert (last.size, last.given_up is None, last.attempt) == (2, False, 2)
    stand.batcher.finish(last)
    stand.batcher.finish(rest)
    assert stand.acked == ["a", "c", "b"]
    assert stand.extension == 0


def test_messages_that_come_after_too_many_losses_are_given_up_without_their_neighbours() -> None:
    stand = Stand(window_items=2)
    stand.add("a", lost=ATTEMPTS)
    stand.add("b", lost=ATTEMPTS - 1)
    stand.add("c")
    stand.add("d", lost=ATTEMPTS)
    assert [[one.items for one in batch.deliveries] for batch in stand.started] == [
        [["b"], ["c"]],
        [["a"], ["d"]],
    ]
    told = "its workers died, or lost Redis, 3 times while they had it"
    assert [batch.given_up for batch in stand.started] == [None, (ENGINE_CRASHED, told)]


def test_a_transient_failure_keeps_a_batch_together() -> None:
    stand = Stand(window_items=4)
    stand.add("a", items=2)
    stand.add("b", items=2)
    for attempt in range(1, 5):
        stand.batcher.try_again(stand.started[-1], split=False)
        stand.clock.pass_s(10)
        assert stand.started[-1].attempt == attempt + 1
    assert stand.sizes() == [4] * 5


def test_one_window_waits_for_its_dataset_and_further_batches_are_deferred() -> None:
    stand = Stand(window_items=2)
    for name in "abcdef":
        stand.add(name)
    for batch in list(stand.started):
        stand.batcher.try_again(batch, split=False)
    assert stand.deferred == stand.acked == ["c", "d", "e", "f"]
    stand.clock.pass_s(1)
    assert [one.raw() for one in stand.started[-1].deliveries] == ["a", "b"]


def test_waiting_messages_leave_the_prefetch_limit_to_others() -> None:
    stand = Stand(window_items=2)
    for name in "abcd":
        stand.add(name)
    assert stand.extension == 3  # two windows are held: no further message is taken
    stand.batcher.try_again(stand.started[0], split=False)
    assert stand.extension == 4
    stand.batcher.try_again(stand.started[1], split=False)
    assert stand.extension == 2


def test_a_batch_larger_than_the_window_waits_here_if_no_other_does() -> None:
    stand = Stand(window_items=2)
    stand.add("a", items=9)
    stand.batcher.try_again(stand.started[0], split=False)
    stand.clock.pass_s(1)
    assert (stand.sizes(), stand.deferred) == ([9, 9], [])


def test_messages_that_redis_does_not_take_wait_here() -> None:
    stand = Stand(window_items=1)
    stand.redis_takes = False
    stand.add("a")
    stand.add("b")
    for batch in list(stand.started):
        stand.batcher.try_again(batch, split=False)
    assert stand.acked == []
    stand.clock.pass_s(1)
    assert stand.sizes() == [1] * 4


def test_a_message_that_was_given_up_is_not_deferred_because_redis_would_forget_that() -> None:
    stand = Stand(window_items=1)
    stand.add("a", lost=ATTEMPTS)
    stand.add("b", lost=ATTEMPTS)
    for batch in list(stand.started):
        stand.batcher.try_again(batch, split=False)
    assert stand.deferred == []


def test_a_closed_batcher_starts_nothing() -> None:
    stand = Stand()
    stand.add("a", items=10)
    stand.add("b")
    stand.batcher.try_again(stand.started[0], split=False)
    stand.batcher.close()
    stand.clock.pass_s(100)
    assert len(stand.started) == 1


def test_the_prefetch_limit_stays_ahead_of_the_messages_until_two_windows_are_in_hand() -> None:
    stand = Stand()
    for n in range(19):
        stand.add(f"m{n}")
    assert stand.extension == 19
    for n in range(2):  # these take the prefetch limit's own places, and no more come
        stand.add(f"n{n}")
    assert stand.extension == 19
    stand.batcher.finish(stand.started[0])
    assert stand.extension == 11
    stand.batcher.finish(stand.started[1])
    assert stand.extension == 1


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([None, "a", "b"]), st.floats(0, 3)),
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_every_message_is_acknowledged_once_and_the_extension_returns_to_zero(
    arrivals: list[tuple[int, str | None, float]], chance: object
) -> None:
    stand = Stand()
    ended = 0
    for n, (items, dataset, wait_s) in enumerate(arrivals):
        stand.add(f"m{n}", items, dataset)
        assert 0 <= stand.extension <= 60_000
        stand.clock.pass_s(wait_s)
    while True:
        stand.clock.pass_s(1000)
        if ended == len(stand.started):
            break
        batch = stand.started[ended]
        ended += 1
        if batch.attempt < 4 and chance.random() < 0.4:  # type: ignore[attr-defined]
            stand.batcher.try_again(batch, split=chance.random() < 0.5)  # type: ignore[attr-defined]
        else:
            stand.batcher.finish(batch)
    assert sorted(stand.acked) == sorted(f"m{n}" for n in range(len(arrivals)))
    assert len(set(stand.deferred)) == len(stand.deferred)
    assert stand.extension == 0
