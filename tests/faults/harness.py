"""The harness of the fault tests: something to harm, and what is counted afterwards.

    rig.submit(300)
    …                                    # bring it to where the fault shall strike
    worker.kill()
    rig.recovery_begins()
    record(rig.outcome("a worker is killed"))

**Recovery** is the time from `recovery_begins` until the dataset is whole and Redis has no
message of it. It begins when what did the harm is over: at the kill itself, or at the end of
an outage. What remains to be embedded then takes the fake engine less than a second; a
worker that has to be started counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem, LocalFileSystem

from clipfleet.architectures import Tower
from clipfleet.errors import ClipfleetError
from clipfleet.messages import EMBED_TASK, EmbedTask, Shard
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.submit.submit import Submission
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.environment import environment_of
from tests.faults.counting import count_ids
from tests.faults.proxy import Proxy
from tests.integration.support import (
    PATIENCE_S,
    Bench,
    forget_settings,
    pause,
    run_command,
    wait_until,
)
from tests.redis_server import KEEPS_NOTHING, RedisServer, free_port, url_of
from tests.steps import Step, steps_environment

FULL_VARIABLE = "FAULTS_FULL"  # set: outages last a minute, and settings are the defaults
FULL = bool(os.environ.get(FULL_VARIABLE))

_QUICK: dict[str, Any] = {"visibility_timeout_s": 2, "reconcile_interval_s": 1.0}


def seconds(full: float, quick: float) -> float:
    """Return how long something lasts: in the full command, and in CI."""
    return full if FULL else quick


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault and what it did: a row of the table. `recovery_s` is None if it never ended.

    `lost` and `doubled` count submitted ids in parts and errors tables, read with pyarrow;
    `problems` are what `clipfleet verify` says beside it.
    """

    name: str
    submitted: int
    vectors: int
    errors: int
    lost: int
    doubled: int
    recovery_s: float | None
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        whole = self.vectors + self.errors == self.submitted
        harm = self.lost or self.doubled or self.problems
        return whole and not harm and self.recovery_s is not None


class Rig(Bench):
    """A bench with a Redis of its own that may be harmed, and the ids that were submitted."""

    def __init__(self, settings: Settings, folder: Path, server: RedisServer, proxy: Proxy) -> None:
        super().__init__(settings, folder)
        self.server = server
        self.proxy = proxy  # between Redis and all but the rig itself, if it is `proxied`
        self.files: FileSystem = LocalFileSystem()  # where the output is, for pyarrow
        self.client = connect(server.url)
        self.submitted: dict[str, set[str]] = {}  # dataset → ids
        self._begin_s = time.monotonic()

    def submit(self, count: int, name: str = "dataset", **changes: Any) -> Submission:
        self.note(name, (f"text-{n}" for n in range(count)))
        return super().submit(count, name, **changes)

    def write_source(self, count: int, name: str = "dataset") -> Path:
        """Write a source of texts for `clipfleet submit` into a dataset."""
        path = self.folder / f"{name}.jsonl"
        rows = [{"id": f"text-{n}", "text": f"the words of text {n}"} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.note(name, [row["id"] for row in rows])
        return path

    def queue_items(self, items: list[dict[str, Any]], *, size: int = 1, **keywords: Any) -> None:
        name = keywords.get("dataset", f"items-{self.settings.tower}")
        self.note(name, (item["id"] for item in items))
        super().queue_items(items, size=size, **keywords)

    def note(self, name: str, ids: Iterator[str] | Sequence[str]) -> None:
        """Remember ids as submitted to a dataset."""
        self.submitted.setdefault(name, set()).update(ids)

    def queue_again(self, shard: Shard, name: str = "dataset") -> None:
        """Queue a shard once more, as if its message had been delivered twice."""
        dataset = Dataset.open(self.dataset_path(name))
        task = EmbedTask(
            dataset=dataset.root, tower=dataset.info.tower, model=dataset.info.model, shard=shard
        )
        app = make_app(self.settings)
        app.send_task(EMBED_TASK, kwargs=task.to_json(), queue=self.queue)
        app.close()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `clipfleet` command to its end."""
        return run_command(*arguments, environment=environment_of(self.settings))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a `clipfleet` command that stops at the steps that `hold` names."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.steps", *arguments],
            env={**environment_of(self.settings), **steps_environment(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit_half(self, count: int, name: str = "dataset", *, workers: int = 0) -> None:
        """Submit a job, start workers, and return in its middle, where `go_on` lets it out.

        Two shards are done, and one is in a worker's engine and stays there. Workers that run
        already are `start_held_worker`'s, and have no other work.
        """
        self.hold_engine(after_shards=2)
        self.submit(count, name)
        for _ in range(workers):
            self.start_held_worker()
        self.wait_held(Step.ENGINE)
        wait_until(lambda: self.counts(name)[0] >= 2 * self.settings.shard_size, what="two shards")

    def go_on(self) -> None:
        """Let the worker go on that `submit_half` holds."""
        self.release(Step.ENGINE)

    def recovery_begins(self) -> None:
        """Say that what did the harm is over, see the module's docstring."""
        self._begin_s = time.monotonic()

    def is_whole(self, name: str = "dataset") -> bool:
        """Return whether every submitted id is committed, and Redis has no message any more."""
        return sum(self.counts(name)) >= len(self.submitted[name]) and self.in_redis() == (0, 0)

    def outcome(self, fault: str, *, name: str = "dataset", timeout_s: float = PATIENCE_S) -> Fault:
        """Wait until a dataset is whole, or for `timeout_s`, and return what is there."""
        recovery_s = self._seconds_until(lambda: self.is_whole(name), timeout_s)
        path = self.dataset_path(name)
        return outcome_of(fault, path, self.submitted[name], recovery_s, files=self.files)

    def _seconds_until(self, condition: Callable[[], bool], timeout_s: float) -> float | None:
        while (passed_s := time.monotonic() - self._begin_s) < timeout_s:
            if condition():
                return time.monotonic() - self._begin_s
            pause(passed_s)
        return None

    def close(self) -> None:
        super().close()
        self.proxy.cut()
        self.server.kill()


def outcome_of(
    fault: str,
    dataset: str,
    submitted: set[str],
    recovery_s: float | None,
    *,
    files: FileSystem | None = None,
) -> Fault:
    """Return what became of submitted ids in a dataset."""
    found = count_ids(dataset.removeprefix("s3://"), submitted, filesystem=files)
    problems = _problems(dataset)
    if found.foreign:
        problems.append(f"{found.foreign} ids that nobody submitted")
    return Fault(
        name=fault,
        submitted=len(submitted),
        vectors=found.vectors,
        errors=found.errors,
        lost=found.lost,
        doubled=found.doubled,
        recovery_s=recovery_s,
        problems=tuple(problems),
    )


def _problems(dataset: str) -> list[str]:
    try:
        return list(verify_dataset(dataset).problems)
    except ClipfleetError as error:  # there is no dataset
        return [str(error)]


@contextmanager
def open_rig(
    folder: Path,
    *,
    tower: Tower = "txt",
    item_s: float = 0.0,
    redis_options: Sequence[str] = KEEPS_NOTHING,
    proxied: bool = False,
    **changes: Any,
) -> Iterator[Rig]:
    """Make a rig in a folder, with a fake model whose items take `item_s`."""
    with pytest.MonkeyPatch.context() as patch:
        forget_settings(patch)
        patch.chdir(folder)
        server = RedisServer(folder / "redis", redis_options)
        server.start()
        (folder / "output").mkdir()
        proxy = Proxy(free_port(), server.port)
        if proxied:
            proxy.open()
        settings = load_settings(
            redis_url=url_of(proxy.port) if proxied else server.url,
            tower=tower,
            model=str(write_fake_engine(folder, tower, item_s=item_s)),
            output=str(folder / "output"),
            **{"shard_size": 100, "window_s": 0.3, **({} if FULL else _QUICK), **changes},
        )
        rig = Rig(settings, folder, server, proxy)
        try:
            yield rig
        finally:
            rig.close()
