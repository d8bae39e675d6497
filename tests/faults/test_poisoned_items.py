"""Pictures that end the decoder which holds them: the worker's child goes on."""

from __future__ import annotations

from typing import Any

import pytest

from clipfleet.error_codes import DECODE_TIMEOUT, DECODER_CRASHED
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig
from tests.faults.pictures import held_processes, write_pictures
from tests.faults.poisoned_rig import (
    ATTEMPTS,
    SHARD,
    deaths,
    errors,
    poisoned_rig,
    start_poisoned_worker,
    submit_pictures,
)
from tests.integration.support import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return poisoned_rig(make_rig)


def test_a_picture_that_ends_its_decoder_is_one_error(rig: Rig, record: Record) -> None:
    submit_pictures(rig, write_pictures(rig.folder / "in", 4 * SHARD, {30: "ABORT"}))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture whose decoder aborts, among four shards"))
    assert errors(rig) == {DECODER_CRASHED: 1}
    assert deaths(worker) == 0
    assert len(worker.events("image ended its decoder")) == ATTEMPTS


def test_several_poisoned_pictures_in_a_shard_are_as_many_errors(rig: Rig, record: Record) -> None:
    poisons = {3: "ABORT", 4: "SIGKILL", 17: "ABORT"}
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, poisons))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("three pictures in a shard whose decoders abort or are killed"))
    assert errors(rig) == {DECODER_CRASHED: 3}
    assert deaths(worker) == 0


def test_a_single_item_that_ends_its_decoder_is_an_error_too(rig: Rig, record: Record) -> None:
    items = write_pictures(rig.folder / "in", 2 * SHARD, {5: "ABORT"})
    told: list[dict[str, Any]] = [{"id": item.id, "uri": item.uri} for item in items]
    rig.queue_items(told)
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture whose decoder aborts, queued singly", name="items-img"))
    assert errors(rig, "items-img") == {DECODER_CRASHED: 1}
    assert deaths(worker) == 0


def test_a_picture_that_ends_the_whole_worker_is_an_error_too(rig: Rig, record: Record) -> None:
    """As where the memory of a container is full, and the kernel kills all that is in it."""
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, {5: "HANG"}))
    first = start_poisoned_worker(rig).ready()
    wait_until(lambda: held_processes(rig.folder), what="a held decoder")
    first.kill()
    rig.recovery_begins()
    second = start_poisoned_worker(rig)
    record(rig.outcome("a picture that ended the whole worker"))
    assert errors(rig) == {DECODE_TIMEOUT: 1}
    assert deaths(second) == 0
