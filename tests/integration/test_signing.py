"""A fleet with a message key: what is signed is embedded, nothing else; the key is nowhere."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import DatasetError
from clipfleet.messages import EMBED_TASK
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, signature
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.reconcile import Reconciler
from clipfleet.tasks.submit.resume import resume
from clipfleet.workers.environment import environment_of
from clipfleet.workers.preflight import preflight
from tests.integration.conftest import MakeBench
from tests.integration.support import PATIENCE_S, Bench, processes_of, texts, wait_until

pytestmark = pytest.mark.integration

KEY, OTHER = "hush-" * 8, "other-" * 8
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"


def producer_of_the_page() -> str:
    """Return the program that docs/explanation/security.md shows to ETL systems."""
    (program,) = re.findall(r"```python\n(.*?hmac.*?)```", PAGE.read_text(), re.DOTALL)
    return str(program)


@pytest.fixture
def signed(make_bench: MakeBench) -> Bench:
    return make_bench(message_key=KEY)


def test_the_producer_of_the_page_is_ten_lines_and_is_taken(signed: Bench) -> None:
    program = producer_of_the_page()
    code = [line for line in program.splitlines() if line.strip() and line[0] != "#"]
    assert len(code) <= 12
    worker = signed.start_worker().ready()
    subprocess.run([sys.executable, "-c", program], env=environment_of(signed.settings), check=True)
    signed.wait_for_items(1, "items-txt")
    assert worker.events("message refused") == []
    assert worker.stop() == 0
    signed.assert_whole("items-txt", vectors=1)


def test_what_is_not_signed_is_refused_and_what_the_fleet_queues_is_embedded(
    signed: Bench,
) -> None:
    worker = signed.start_worker(reconcile_interval_s=0).ready()
    signed.queue_items(texts(3))  # by a program that has no key
    signed.submit(100, "stranger", message_key=None)
    signed.submit(100, "other", message_key=OTHER)
    signed.submit(200)
    signed.wait_for_items(200)
    assert signed.counts("stranger") == signed.counts("other") == signed.counts("items-txt")
    assert signed.counts("stranger") == (0, 0)
    for name, reason in (("stranger", "it is not signed"), ("other", "its signature is wrong")):
        progress = read_progress(signed.dataset_path(name), signed.settings)
        (refusal,) = progress.refusals  # of its own shard only
        assert reason in refusal.reason
        assert any(reason in line for line in progress.lines())
    assert read_progress(signed.dataset_path(), signed.settings).refusals == []
    with pytest.raises(DatasetError, match="5 messages without a dataset were refused"):
        read_progress(signed.dataset_path("items-txt"), signed.settings)
    told = worker.events("message refused")
    assert len(told) == 5
    assert any("CLIPFLEET_MESSAGE_KEY" in event["reason"] for event in told)
    # The plan is a file of the fleet's own: who has the key may queue it.
    assert resume(signed.dataset_path("stranger"), settings=signed.settings).queued_shards == 1
    signed.wait_for_items(100, "stranger")
    assert worker.stop() == 0
    signed.assert_whole("stranger", vectors=100)


def test_a_lost_message_is_queued_again_signed_and_so_is_a_shard_that_failed(
    signed: Bench,
) -> None:
    signed.submit(100)
    signed.client.delete(signed.queue)
    card = preflight(signed.settings)
    with_looks = signed.settings.model_copy(update={"reconcile_interval_s": 0.2})
    assert Reconciler(with_looks, card).look() == 1
    parts = Path(signed.dataset_path(), "parts")
    parts.write_text("in the way, as a disk that fails")
    worker = signed.start_worker().ready()
    worker.wait_for("shard failed, will be tried again")
    parts.unlink()
    signed.wait_for_items(100)
    assert worker.events("message refused") == []
    assert worker.stop() == 0
    signed.assert_whole(vectors=100)


def test_old_messages_and_remote_control_change_nothing_and_the_key_is_nowhere(
    signed: Bench,
) -> None:
    signed.submit(100)
    (message,) = signed.client.lrange(signed.queue, 0, -1)
    worker = signed.start_listed_worker().ready()
    signed.wait_for_items(100)
    before = files_of(signed)
    for _ in range(3):
        signed.client.lpush(signed.queue, message)
    with make_app(signed.settings) as app:
        assert not app.control.ping(timeout=0.5)
        app.control.shutdown()
    worker.wait_for("shard was done before", count=3)
    signed.queue_items(texts(1))
    worker.wait_for("message refused")
    assert before.keys() == files_of(signed).keys()
    told = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(signed.folder)]
    told += [Path(f"/proc/{pid}/comm").read_bytes() for pid in processes_of(signed.folder)]
    assert len(told) >= 4  # the worker, and the process with its engine
    kept: Any = [signed.client.dump(key) for key in signed.client.scan_iter()]
    assert len(kept) >= 2  # the refusal, and what Celery keeps
    assert worker.stop() == 0
    told += [*kept, *before.values(), worker.log_path.read_bytes()]
    assert len(told) > 10
    assert [text for text in told if b"hush" in text] == []
    signed.assert_whole(vectors=100)


def test_a_worker_signs_nothing_that_a_strangers_headers_name(signed: Bench) -> None:
    signed.submit(100)
    (raw,) = signed.client.lrange(signed.queue, 0, -1)
    message = json.loads(raw)
    # As another language signs it: Celery's own bodies say of callbacks that there are none.
    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    body = json.dumps([arguments, keywords, {}]).encode()
    message["body"] = base64.b64encode(body).decode()
    headers = message["headers"]
    told = {"task": EMBED_TASK, "id_": headers["id"], "queue": signed.queue}
    headers[SIGNATURE_HEADER] = signature(KEY, body=body, **told)
    # Celery queues the errbacks of what has a time that no clock has.
    forged = {"task": "a.strangers", "kwargs": {}, "options": {}, "immutable": True}
    headers["errbacks"] = [{**forged, "args": [], "subtask_type": None}]
    headers["eta"] = "9999-12-31T23:59:59-23:59"
    signed.client.delete(signed.queue)
    worker = signed.start_worker(reconcile_interval_s=0).ready()
    signed.client.lpush(signed.queue, json.dumps(message))
    wait_until(lambda: "OverflowError" in worker.log_text(), what="a fault")
    signed.client.lpush(signed.queue, raw)
    signed.wait_for_items(100)
    assert "a.strangers" not in worker.log_text()
    assert signed.client.llen("clipfleet.img") == 0
    assert worker.stop() == 0
    signed.assert_whole(vectors=100)


def files_of(bench: Bench) -> dict[Path, bytes]:
    """Return the cards, plans, parts and records of a bench; its workers' logs grow."""
    found = [path for path in bench.folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {path: path.read_bytes() for path in found}


def test_one_shot_embedding_signs_and_checks_like_a_fleet(signed: Bench) -> None:
    source = signed.folder / "texts.txt"
    source.write_text("one\ntwo\n")
    command = [sys.executable, "-m", "clipfleet", "embed", str(source)]
    command += [signed.dataset_path(), "--model", str(signed.settings.model)]
    subprocess.run(command, env=environment_of(signed.settings), check=True, timeout=PATIENCE_S)
    signed.assert_whole(vectors=2)
