"""What a worker says of itself, and how a terminal shows it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from clipfleet.cli.fleet_page import fleet_page
from clipfleet.messages import EMBED_ITEMS_TASK, EMBED_TASK
from clipfleet.settings import Settings, load_settings
from clipfleet.tasks.broker.refusals import Refusal
from clipfleet.tasks.status.fleet import Fleet, running_items
from clipfleet.tasks.status.progress import Progress, read_progress
from clipfleet.tasks.worker.presence import Presence, RunningShard
from clipfleet.tasks.worker.presence_step import OwnPresence, running_shards
from clipfleet.tasks.worker.watchdog import ChildState
from tests.datasets import fake_dataset, make_card

MODEL = "m"


def request(pid: int, index: int, *, name: str = EMBED_TASK, **changes: Any) -> SimpleNamespace:
    shard = {"job": "00001", "index": index, "size": 100}
    kwargs = {"dataset": "/out/d", "tower": "txt", "model": MODEL, "shard": shard, **changes}
    return SimpleNamespace(name=name, worker_pid=pid, kwargs=kwargs)


def running(name: str, done: int, dataset: str = "/out/d") -> RunningShard:
    return RunningShard(dataset=dataset, name=name, items=100, done=done)


def presence(worker: str, *shards: RunningShard, gpu: str | None = None) -> Presence:
    return Presence(
        worker=worker,
        host="h",
        tower="txt",
        runtime="onnxruntime",
        gpu=gpu,
        items=12345,
        items_per_s=61.5,
        shard=f"{shards[-1].dataset} {shards[-1].name}" if shards else "",
        running=shards,
    )


def shown(fleet: Fleet, progress: Progress | None = None, **classes: int) -> str:
    """Return what a terminal shows."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(fleet_page(fleet, progress, classes))
    return console.export_text()


def test_a_worker_tells_the_shards_that_its_children_embed() -> None:
    children = [
        ChildState(pid=11, items=500, in_work=40),
        ChildState(pid=12, items=300, in_work=130),  # its retried items count twice
        ChildState(pid=0, items=7, in_work=7),
        ChildState(pid=13, items=0, in_work=0),
        ChildState(pid=14, items=0, in_work=0),
    ]
    requests = [
        request(11, 4),
        request(12, 5),
        request(13, 6, name=EMBED_ITEMS_TASK),
        request(14, 7, shard="garbage"),
    ]
    found = running_shards(children, requests)
    assert found == [running("00001-0000004", 40), running("00001-0000005", 100)]


def test_the_rate_is_of_the_last_seconds_and_the_last_shard_stays() -> None:
    own = OwnPresence("w", make_card())
    child = ChildState(pid=11, items=0, in_work=0)
    assert own.now([child], [request(11, 4)], now_s=0.0).items_per_s == 0
    for now_s, items in ((10.0, 100), (20.0, 300)):
        told = own.now([ChildState(pid=0, items=items, in_work=0)], [], now_s=now_s)
    assert (told.items, told.items_per_s) == (300, 20.0)
    assert (told.shard, told.running) == ("/out/d 00001-0000004", ())


def test_items_of_running_shards_count_once_and_for_their_own_dataset_and_job() -> None:
    workers = [
        presence("a", running("00001-0000001", 40), running("00001-0000002", 7)),
        presence("b", running("00001-0000001", 30), running("00002-0000000", 5)),
        presence("c", running("00001-0000003", 99, "/out/other")),
    ]
    names, committed = {"/out/d"}, {"00001-0000002"}
    assert running_items(workers, names, committed, None) == 30 + 5
    job = SimpleNamespace(id="00002")
    assert running_items(workers, names, committed, job) == 5  # type: ignore[arg-type]


def test_a_datasets_page_shows_its_own_refusals_and_the_fleets_page_all(tmp_path: Path) -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1/0")
    fleet = Fleet(settings)
    fleet.refusals = [
        Refusal(message="shard 00001-0000007", dataset=name, reason=f"of {name}", time="")
        for name in ("/out/own", "/out/other")
    ]
    progress = read_progress(fake_dataset(tmp_path).root, settings)
    assert "refused" not in shown(fleet, progress)
    progress.refusals = fleet.refusals[:1]
    own = shown(fleet, progress)
    assert "1 messages refused, the last: shard 00001-0000007: of /out/own" in own
    assert "/out/other" not in own
    assert "2 messages refused, the last: shard 00001-0000007: of /out/other" in shown(fleet)


def test_the_page_shows_workers_queues_and_errors_and_no_control_characters() -> None:
    fleet = Fleet(Settings())
    gpu = "NVIDIA H200 (0)"
    fleet.workers = [
        presence("txt-1@a", running("00001-0000001", 40), gpu=gpu),
        presence("txt-2@b\x1b[31m[red]"),
        *(presence(f"txt-{n}@c") for n in range(3, 43)),
    ]
    fleet.queues = {"img": {}, "txt": {0: 12, 3: 4}}
    fleet.held = {"img": 0, "txt": 2}
    fleet.deferred = {"img": 0, "txt": 1}
    text = shown(fleet, missing=3)
    assert "42 workers, 2,583 items/s; 16 messages wait, 2 are held" in text
    assert "txt-1@a" in text
    assert gpu in text
    assert "/out/d 00001-0000001 40/100" in text
    assert "txt-2@b\\x1b[31m[red]" in text
    assert "and 12 more" in text
    assert "0: 12, 3: 4" in text
    assert "missing" in text
    assert "\x1b" not in text
    assert fleet.lines()[1:3] == [
        f"  txt-1@a: {gpu}, 12,345 items, 62/s, /out/d 00001-0000001",
        "  txt-2@b\\x1b[31m[red]: onnxruntime, 12,345 items, 62/s, no shard yet",
    ]
