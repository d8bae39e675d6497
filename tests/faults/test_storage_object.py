"""An object store that is out of order in the middle of a job, in each of its ways."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from pyarrow.fs import S3FileSystem
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.resume import resume
from clipfleet.tasks.submit.retry_failed import retry
from tests.faults.conftest import Record
from tests.faults.harness import Rig, open_rig, seconds
from tests.integration.support import texts, wait_until
from tests.s3 import (
    CUT_DOWNLOAD,
    CUT_UPLOAD,
    HANG,
    LOSE_ANSWER,
    LOSE_ANSWER_500,
    REFUSE_403,
    REFUSE_500,
    REFUSE_503,
    S3,
    run_s3,
)

pytestmark = pytest.mark.integration

ITEMS = 1_000
OUTAGE_S = seconds(60, 2)
TIMEOUT_S = seconds(30, 1)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with run_s3("bucket") as running:
        yield running


@pytest.fixture(scope="module")
def rig(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One fleet for all tests of this file, whose output is in the store."""
    folder = tmp_path_factory.mktemp("object-store")
    with pytest.MonkeyPatch.context() as patch, open_rig(folder, item_s=0.001) as opened:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        patch.setenv("CLIPFLEET_STORE_TIMEOUT_S", str(TIMEOUT_S))
        place = {"output": "s3://bucket/vectors", "store_timeout_s": TIMEOUT_S}
        opened.settings = opened.settings.model_copy(update=place)
        opened.files = S3FileSystem(
            endpoint_override=s3.environment["AWS_ENDPOINT_URL"],
            access_key=s3.environment["AWS_ACCESS_KEY_ID"],
            secret_key=s3.environment["AWS_SECRET_ACCESS_KEY"],
            region=s3.environment["AWS_REGION"],
        )
        opened.start_held_worker().ready()
        yield opened


@pytest.fixture(autouse=True)
def _heal(s3: S3) -> Iterator[None]:
    yield
    s3.heal()


def parts(s3: S3, name: str) -> list[str]:
    return [key for key in list(s3.objects) if f"/{name}/parts/00001-" in key]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (REFUSE_403, "object store answers 403 for a while"),
        (REFUSE_500, "object store answers 500 for a while"),
        (REFUSE_503, "object store answers 503 for a while"),
        (HANG, "object store does not answer for a while"),
        (CUT_UPLOAD, "uploads to the object store are cut off for a while"),
        (CUT_DOWNLOAD, "downloads from the object store are cut off for a while"),
    ],
    ids=["403", "500", "503", "hang", "cut-upload", "cut-download"],
)
def test_a_store_that_is_out_of_order_holds_a_job_up_until_it_is_not(
    rig: Rig, s3: S3, record: Record, fault: str, told: str
) -> None:
    name = fault.replace(" ", "-")
    rig.submit_half(ITEMS, name)
    trouble = s3.break_(fault)
    rig.go_on()
    time.sleep(OUTAGE_S)
    assert trouble.met
    assert len(parts(s3, name)) < ITEMS / rig.settings.shard_size
    s3.heal()
    rig.recovery_begins()
    record(rig.outcome(told, name=name))


@pytest.mark.parametrize("fault", [LOSE_ANSWER, LOSE_ANSWER_500], ids=["cut", "500"])
def test_a_store_that_stores_and_does_not_say_so_gets_nothing_twice(
    rig: Rig, s3: S3, record: Record, fault: str
) -> None:
    name = fault.replace(" ", "-").replace(",", "")
    trouble = s3.break_(fault, method="PUT", key=f"{name}/parts/00001-", times=3)
    rig.submit(ITEMS, name)
    wait_until(lambda: trouble.met == 3, what="three lost answers")
    rig.recovery_begins()
    record(rig.outcome(f"object store stored a part: {fault}", name=name))


def test_a_worker_killed_in_the_middle_of_an_upload_leaves_nothing_of_it(
    rig: Rig, s3: S3, record: Record
) -> None:
    name = "killed"
    trouble = s3.break_(HANG, method="PUT", key=f"{name}/parts/00001-")
    rig.submit(ITEMS, name)
    wait_until(lambda: trouble.met, what="an upload")
    rig.workers[-1].kill()
    s3.heal()
    assert not parts(s3, name)
    rig.recovery_begins()
    rig.start_worker()
    record(rig.outcome("worker killed while it uploads, another started", name=name))


def test_a_submit_that_the_store_refuses_goes_on_when_it_is_run_again(
    rig: Rig, s3: S3, record: Record
) -> None:
    name = "submitted"
    source, model = str(rig.write_source(ITEMS, name)), str(rig.settings.model)
    command = ("submit", source, rig.dataset_path(name), "--model", model)
    s3.break_(REFUSE_503, key=f"{name}/plan/")
    refused = rig.run(*command)
    assert refused.returncode == 2
    assert "503" in refused.stderr
    assert "run again" in refused.stderr
    assert "Traceback" not in refused.stderr
    s3.heal()
    rig.recovery_begins()
    assert rig.run(*command).returncode == 0
    record(rig.outcome("object store answers 503 to a submitter, run again", name=name))


def test_a_lost_message_of_a_dataset_in_a_store_is_queued_again(
    rig: Rig, s3: S3, record: Record
) -> None:
    name = "lost"
    trouble = s3.break_(HANG, method="PUT", key=f"{name}/parts/00001-")  # so that messages wait
    rig.submit(ITEMS, name)
    wait_until(lambda: trouble.met, what="a shard at work")
    assert rig.client.lpop(rig.queue)
    s3.heal()
    rig.recovery_begins()
    record(rig.outcome("broker loses a message of a dataset in an object store", name=name))


def test_items_that_come_singly_are_written_once_while_the_store_loses_answers(
    rig: Rig, s3: S3, record: Record
) -> None:
    name = "singly"
    trouble = s3.break_(LOSE_ANSWER, method="PUT", key=f"{name}/", times=4)
    for _ in range(2):
        rig.queue_items(texts(200), size=20, dataset=rig.dataset_path(name))
    wait_until(lambda: trouble.met == 4, what="four lost answers")
    rig.recovery_begins()
    rig.submitted[name] = rig.submitted.pop(rig.dataset_path(name))
    record(rig.outcome("object store loses answers, items come singly and twice", name=name))


def test_items_that_come_singly_wait_while_the_store_forbids_their_dataset(
    rig: Rig, s3: S3, record: Record
) -> None:
    s3.break_(REFUSE_403)
    rig.queue_items(texts(50), dataset="forbidden")
    failed, before = "batch failed, will be tried again", len(rig.workers[-1].events())
    wait_until(
        lambda: any(e["event"] == failed for e in rig.workers[-1].events()[before:]),
        what="a refusal",
    )
    s3.heal()
    rig.recovery_begins()
    record(rig.outcome("object store answers 403, with single items", name="forbidden"))


def test_the_commands_take_a_dataset_in_a_store(rig: Rig) -> None:
    rig.submit(ITEMS, "commands")
    rig.wait_for_items(ITEMS, "commands")
    path = rig.dataset_path("commands")
    assert read_progress(f"{path}:00001", rig.settings).finished
    assert resume(f"{path}/", settings=rig.settings).open_shards == 0
    assert retry(path, settings=rig.settings).items == 0
    shown = CliRunner().invoke(app, ["errors", path, "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["dataset"] == path
    assert CliRunner().invoke(app, ["verify", path]).exit_code == 0
