"""When nothing can move, and why; the clock is the tests'."""

from __future__ import annotations

from dataclasses import replace

from clipfleet.tasks.status.stall import Look, Stall

WORKING = Look(done=0, missing=5, refused=0, waiting=3, held=2, served=2, broker_error=None)
UNSERVED = replace(WORKING, served=0)
EMPTY = replace(WORKING, waiting=0, held=0, served=0)
NO_REDIS = Look(
    done=0, missing=5, refused=0, waiting=None, held=None, served=None, broker_error="no answer"
)


def reason_after(*looks: tuple[float, Look]) -> str:
    """Return the reason at the last of some looks; each has its second."""
    stall = Stall(reconcile_interval_s=10, remedy="resume", start="start one", now_s=0)
    for now_s, look in looks:
        stall.add(look, now_s)
    return stall.reason(looks[-1][0])


def test_a_worker_that_holds_a_message_may_take_its_time() -> None:
    assert reason_after((0, WORKING), (5000, WORKING)) == ""


def test_messages_that_no_living_worker_holds_end_the_watch_after_a_minute() -> None:
    assert reason_after((0, UNSERVED), (59, UNSERVED)) == ""
    assert "no worker has held a message for 60 s, and 5 wait: start one" in reason_after(
        (0, UNSERVED), (61, UNSERVED)
    )
    assert reason_after((0, UNSERVED), (50, WORKING), (61, UNSERVED)) == ""


def test_a_redis_that_does_not_answer_ends_the_watch_after_a_minute_without_progress() -> None:
    assert reason_after((0, NO_REDIS), (59, NO_REDIS)) == ""
    assert reason_after((0, NO_REDIS), (61, NO_REDIS)) == "no answer"
    assert reason_after((0, NO_REDIS), (50, replace(NO_REDIS, done=1)), (61, NO_REDIS)) == ""


def test_refused_shards_end_the_watch_though_others_messages_wait() -> None:
    refused = replace(WORKING, refused=5)
    assert reason_after((0, refused), (9, refused)) == ""
    assert "refused every missing shard (5)" in reason_after((0, refused), (11, refused))
    assert reason_after((0, WORKING), (11, replace(WORKING, refused=4))) == ""


def test_shards_that_are_not_queued_are_waited_for_until_the_reconcilers_have_looked() -> None:
    assert reason_after((0, EMPTY), (29, EMPTY)) == ""
    assert "5 shards are missing and none is queued" in reason_after((0, EMPTY), (31, EMPTY))
    some_refused = replace(EMPTY, refused=1)
    assert "none is queued" in reason_after((0, some_refused), (11, some_refused))


def test_a_local_run_that_renews_its_file_is_at_work() -> None:
    def seen(beat: int) -> Look:
        return replace(NO_REDIS, run=beat)

    assert reason_after((0, seen(1)), (50, seen(2)), (100, seen(3))) == ""
    assert reason_after((0, seen(1)), (61, seen(1))) == "no answer"


def test_a_finished_dataset_is_not_stuck() -> None:
    done = replace(EMPTY, missing=0)
    assert reason_after((0, done), (5000, done)) == ""
