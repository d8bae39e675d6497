"""The disk full, read-only, and the output removed, in the middle of a job."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfleet.errors import DatasetError
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.status.progress import read_progress
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig, open_rig, seconds
from tests.faults.tmpfs import Tmpfs, mounted_tmpfs
from tests.integration.support import texts, wait_until

pytestmark = pytest.mark.integration

ITEMS = 1_000
SINGLE = "items-txt"
OUTAGE_S = seconds(60, 1)
SIZE_BYTES = 8 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Tmpfs]]:
    """A fleet whose output is a small file system."""
    with (
        open_rig(tmp_path_factory.mktemp("small"), item_s=0.001) as rig,
        mounted_tmpfs(Path(str(rig.settings.output)), SIZE_BYTES) as tmpfs,
    ):
        rig.start_held_worker()
        yield rig, tmpfs
        rig.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A fleet whose output is a folder."""
    with open_rig(tmp_path_factory.mktemp("plain"), item_s=0.001) as rig:
        rig.start_held_worker()
        yield rig


def wait_refused(rig: Rig, name: str, words: str) -> None:
    """Wait until the worker was refused a write, and go on so for a while."""
    event, worker = "shard failed, will be tried again", rig.workers[0]
    wait_until(
        lambda: any(words in told["reason"] for told in worker.events(event)),
        what=words,
    )
    time.sleep(OUTAGE_S)
    assert sum(rig.counts(name)) < ITEMS


def why_not(rig: Rig, name: str) -> str:
    """Return why a dataset has no status."""
    with pytest.raises(DatasetError) as caught:
        read_progress(rig.dataset_path(name), rig.settings)
    return str(caught.value)


def test_a_full_disk_holds_a_job_up_until_there_is_room(
    small: tuple[Rig, Tmpfs], record: Record
) -> None:
    rig, tmpfs = small
    rig.submit_half(ITEMS, "full")
    tmpfs.fill()
    rig.go_on()
    wait_refused(rig, "full", "No space left on device; free some space")
    source, model = str(rig.write_source(10, "other")), str(rig.settings.model)
    refused = rig.run("submit", source, rig.dataset_path("other"), "--model", model)
    assert refused.returncode == 2
    assert "free some space and run again" in refused.stderr
    tmpfs.empty()
    rig.recovery_begins()
    record(rig.outcome("disk full, then freed", name="full"))


def test_a_read_only_output_holds_a_job_up_until_it_is_writable(
    small: tuple[Rig, Tmpfs], record: Record
) -> None:
    rig, tmpfs = small
    rig.submit_half(ITEMS, "read-only")
    tmpfs.make_read_only()
    rig.go_on()
    wait_refused(rig, "read-only", "Read-only file system; mount it writable")
    another = rig.start_worker()
    assert another.wait() == 2
    assert "cannot write to the output folder" in another.log_text()
    rig.queue_items(texts(5), dataset="fresh")
    told = "no dataset at .*; 5 single items wait for the dataset: .* Read-only file system"
    wait_until(lambda: re.match(told, why_not(rig, "fresh")), what=told)
    tmpfs.make_writable()
    rig.recovery_begins()
    record(rig.outcome("output read-only, then writable", name="read-only"))
    rig.wait_for_items(5, "fresh")


@pytest.fixture
def forbidden(make_rig: MakeRig) -> Iterator[Rig]:
    """A fleet whose output `forbid` closes to it, as an expired ticket of a network disk does."""
    rig = make_rig()
    rig.start_plain_worker().ready()
    yield rig
    os.chmod(str(rig.settings.output), 0o700)


def test_a_forbidden_output_holds_a_job_up_until_it_is_allowed(
    forbidden: Rig, record: Record
) -> None:
    rig = forbidden
    rig.submit(ITEMS, "forbidden")
    os.chmod(str(rig.settings.output), 0o000)
    wait_until(lambda: rig.workers[0].events("shard failed, will be tried again"), what="a refusal")
    os.chmod(str(rig.settings.output), 0o700)
    rig.recovery_begins()
    record(rig.outcome("output forbidden (EACCES), then allowed", name="forbidden"))
    assert Refusals(rig.client, rig.settings.queue_prefix).all() == []


def test_a_forbidden_output_makes_single_items_wait_and_status_counts_them(
    forbidden: Rig, record: Record
) -> None:
    rig, worker = forbidden, forbidden.workers[0]
    rig.queue_items(texts(100))
    rig.wait_for_items(100, SINGLE)
    os.chmod(str(rig.settings.output), 0o000)
    rig.queue_items(texts(100, start=100))
    worker.wait_for("batch failed, will be tried again", count=2)
    told = json.loads(rig.run("status", rig.dataset_path(SINGLE), "--json").stdout)
    assert [w["items"] for w in told["waiting_items"]] == [100]
    assert "Permission denied" in told["waiting_items"][0]["reason"]
    os.chmod(str(rig.settings.output), 0o700)
    rig.recovery_begins()
    record(rig.outcome("output forbidden (EACCES), then allowed, with single items", name=SINGLE))
    assert Refusals(rig.client, rig.settings.queue_prefix).all() == []


def test_a_dataset_that_is_removed_ends_its_job_and_may_be_submitted_again(
    plain: Rig, record: Record
) -> None:
    path = Path(plain.dataset_path("removed"))
    plain.submit_half(ITEMS, path.name)
    path.rename(plain.folder / "away")  # at one moment
    plain.go_on()
    shutil.rmtree(plain.folder / "away")
    wait_until(lambda: plain.in_redis() == (0, 0), what="its messages are refused")
    assert not path.exists()  # no shard at work has brought some of it back
    told = plain.run("status", str(path))
    assert told.returncode == 2
    assert "no dataset at" in told.stderr
    plain.recovery_begins()
    plain.submit(ITEMS, "removed")
    record(plain.outcome("dataset removed, submitted again", name="removed"))


def test_an_output_folder_that_goes_away_ends_its_jobs_and_is_gone_on_with_when_it_is_back(
    plain: Rig, record: Record
) -> None:
    output = Path(str(plain.settings.output))
    plain.submit_half(ITEMS, "away")
    output.rename(plain.folder / "away")
    plain.go_on()
    wait_until(lambda: plain.in_redis() == (0, 0), what="its messages are refused")
    assert not output.exists()
    (plain.folder / "away").rename(output)
    plain.recovery_begins()
    assert plain.run("resume", plain.dataset_path("away")).returncode == 0
    record(plain.outcome("output folder away, then back, `clipfleet resume`", name="away"))
