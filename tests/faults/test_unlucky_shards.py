"""Shards whose process is killed, or seems to hang: by one of their pictures, or by none."""

from __future__ import annotations

import signal

import pytest

from clipfleet.error_codes import DECODE_TIMEOUT
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import FULL
from tests.faults.pictures import write_pictures
from tests.faults.poisoned_rig import (
    ATTEMPTS,
    SHARD,
    deaths,
    errors,
    poisoned_rig,
    start_poisoned_worker,
    submit_pictures,
)
from tests.steps import Step

pytestmark = pytest.mark.integration

KILLS = 4 if FULL else 2  # fewer than the attempts of a shard


def test_a_picture_that_holds_its_decoder_is_an_error_and_the_child_goes_on(
    make_rig: MakeRig, record: Record
) -> None:
    rig = poisoned_rig(make_rig)
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, {7: "HANG"}))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture that holds its decoder for ever"))
    assert errors(rig) == {DECODE_TIMEOUT: 1}
    assert deaths(worker) == 0
    assert len(worker.events("image ended its decoder")) == ATTEMPTS


def test_a_slow_shard_that_goes_on_is_never_killed(make_rig: MakeRig, record: Record) -> None:
    rig = make_rig(tower="img", shard_size=160, shard_deadline_s=8, decoders=1, max_batch=8)
    slow = dict.fromkeys(range(160), "SLOW")  # 16 s, which is 0.8 s a batch
    submit_pictures(rig, write_pictures(rig.folder / "in", 160, slow))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a shard that takes two deadlines, and goes on"))
    assert deaths(worker) == 0


def test_an_innocent_shard_that_is_killed_a_few_times_is_vectors_only(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(tower="img", shard_size=SHARD, shard_attempts=KILLS + 1)
    rig.hold(Step.ENGINE)
    submit_pictures(rig, write_pictures(rig.folder / "in", SHARD, {}))
    worker = rig.start_held_worker()
    for killed in range(1, KILLS + 1):
        rig.wait_held(Step.ENGINE, count=killed)  # those that were killed stay counted
        if killed < KILLS:
            rig.hold(Step.ENGINE)
        worker.signal_child(signal.SIGKILL)
    rig.recovery_begins()
    record(rig.outcome(f"an innocent shard whose process is killed {KILLS} times"))
    assert errors(rig) == {}
    assert deaths(worker) == KILLS
