"""What the integration tests share: waiting, and worker processes that can be harmed."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from clipfleet.cli.main import main
from clipfleet.items import Item
from clipfleet.messages import queue_name
from clipfleet.settings import PREFIX, Settings
from clipfleet.storage.commit.manifest import Manifest, unfinished
from clipfleet.storage.filesystem.locations import below
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import held_length, queue_length
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.submit.submit import Submission, submit
from clipfleet.workers.environment import environment_of
from tests.fork_server import ForkedProcess
from tests.steps import Step, steps_environment

PATIENCE_S = 120.0  # for what comes in a second or two, on a machine that does much else
_POLLS_S = (0.02, 0.2)  # the first look and the last ones: a look takes CPU
# Root without the capabilities that let it read and write where the mode forbids it.
WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
_LOG_LINES = 40


def wait_until(condition: Callable[[], Any], *, timeout_s: float = PATIENCE_S, what: str) -> None:
    """Wait until a condition holds that stays."""
    begin_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - begin_s
        if waited_s > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        pause(waited_s)


def pause(waited_s: float) -> None:
    """Sleep before the next look at a condition, for longer if it was waited for longer."""
    least_s, most_s = _POLLS_S
    time.sleep(min(max(least_s, waited_s / 10), most_s))


def run_command(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `clipfleet` to its end as its process does, in this process: a start takes a second.

    This process keeps its handlers of signals, and `environment` has what is changed of its own.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", ["clipfleet", *arguments])
        patch.setattr(signal, "signal", lambda *_: None)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    exit_code = int(ended.value.code or 0)
    return subprocess.CompletedProcess(arguments, exit_code, out.getvalue(), err.getvalue())


def forget_settings(patch: pytest.MonkeyPatch) -> None:
    """Take the settings out of the environment."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        patch.delenv(name)


def processes_of(folder: Path) -> list[int]:
    """Return the processes that were told of a folder, by arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:  # it ended, or is not ours
                continue
            if os.fsencode(folder) in told:
                found.append(int(entry.name))
    return found


class WorkerProcess:
    """A real `clipfleet worker`, in a session of its own; `settings` are all it gets.

    `program` is a module that runs the command line, `environment` what it has besides. `launcher`
    is a command that starts it, perhaps empty; without one, it is forked.
    """

    def __init__(
        self,
        settings: Settings,
        log_path: Path,
        options: Sequence[str] = (),
        *,
        program: str = "clipfleet",
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] | None = None,
    ) -> None:
        self.log_path = log_path
        self._forgotten_bytes = 0  # of the log
        self._log = open(log_path, "wb")  # noqa: SIM115 - closed by `kill`
        arguments = ["worker", "--tower", str(settings.tower), "--model", str(settings.model)]
        arguments += ["--output", str(settings.output), *options]
        whole = {**environment_of(settings), **(environment or {})}
        self.process: ForkedProcess | subprocess.Popen[bytes]
        if launcher is None:
            self.process = ForkedProcess(program, arguments, environment=whole, log=self._log)
        else:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, "-m", program, *arguments],
                env=whole,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def log_text(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._forgotten_bytes)
            return log.read().decode("utf-8", errors="replace")

    def forget_log(self) -> None:
        """Leave what the log has until now out of `log_text` and `events`."""
        self._forgotten_bytes = self.log_path.stat().st_size

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return the lines of the log with an event, or all that are JSON."""
        whole = self.log_text().rpartition("\n")[0]  # without a line that is being written
        lines = [json.loads(line) for line in whole.splitlines() if line[:1] == "{"]
        return [line for line in lines if not name or line["event"] == name]

    def wait_for(
        self, event: str, *, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Return an event once the log has it `count` times."""
        try:
            wait_until(
                lambda: len(self.events(event)) >= count or self.process.poll() is not None,
                timeout_s=timeout_s,
                what=f"{count} × {event!r}",
            )
            return self.events(event)[count - 1]
        except (AssertionError, IndexError) as error:
            tail = "\n".join(self.log_text().splitlines()[-_LOG_LINES:])
            raise AssertionError(f"no {count} × {event!r} in the worker's log:\n{tail}") from error

    def ready(self) -> WorkerProcess:
        self.wait_for("engine loaded")
        return self

    def child_pid(self) -> int:
        """Return the process that holds the engine."""
        return int(self.events("engine loaded")[-1]["pid"])

    def signal_child(self, number: signal.Signals) -> None:
        os.kill(self.child_pid(), number)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Have it do nothing meanwhile, as on a machine that sleeps."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End everything, whatever state it is in."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


class Bench:
    """A test's Redis, output folder and model, and what one does with them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self.client = connect(settings.redis_url)
        self.queue = queue_name(settings.tower or "txt", settings.queue_prefix)

    def start_worker(self, *options: str, **changes: Any) -> WorkerProcess:
        return self._start(changes, options)

    def start_held_worker(self, **changes: Any) -> WorkerProcess:
        """Start a worker that stops at the steps that `hold` names."""
        environment = steps_environment(self.folder)
        return self._start(changes, program="tests.steps", environment=environment)

    def start_plain_worker(self, **changes: Any) -> WorkerProcess:
        """Start a worker that a chmod binds, also where the tests run as root."""
        return self._start(changes, launcher=WITHOUT_OVERRIDE if os.geteuid() == 0 else ())

    def start_listed_worker(self, *options: str, **changes: Any) -> WorkerProcess:
        """Start a worker as users do: its start is a subject, and /proc has its arguments."""
        return self._start(changes, options, launcher=())

    def _start(
        self, changes: dict[str, Any], options: Sequence[str] = (), **keywords: Any
    ) -> WorkerProcess:
        settings = self.settings.model_copy(update=changes)
        log_path = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(WorkerProcess(settings, log_path, options, **keywords))
        return self.workers[-1]

    def hold(self, step: Step) -> None:
        """Have the next process that comes to a step stop there for ever."""
        step.hold(self.folder)

    def hold_engine(self, *, after_shards: int) -> None:
        """Have a worker stop in its engine when so many shards have passed it."""
        batches = math.ceil(self.settings.shard_size / self.settings.max_batch)
        Step.ENGINE.hold(self.folder, after=after_shards * batches)

    def wait_held(self, step: Step, *, count: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Wait until so many processes are at a step, or ended there."""
        wait_until(
            lambda: step.count_held(self.folder) >= count,
            timeout_s=timeout_s,
            what=f"{count} processes at {step}",
        )

    def release(self, step: Step) -> None:
        """Let the processes at a step go on."""
        step.release(self.folder)

    def dataset_path(self, name: str = "dataset") -> str:
        return below(str(self.settings.output), name)

    def submit(self, count: int, name: str = "dataset", **changes: Any) -> Submission:
        """Submit so many texts."""
        settings = self.settings.model_copy(update=changes)
        items = [Item(id=f"text-{n}", text=f"the words of text {n}") for n in range(count)]
        path = self.dataset_path(name)
        return submit(ListSource(items), path, str(settings.model), settings=settings)

    def queue_items(self, items: list[dict[str, Any]], *, size: int = 1, **keywords: Any) -> None:
        """Queue items as an ETL system would, `size` a message."""
        from celery import Celery

        with Celery(broker=self.settings.redis_url, set_as_current=False) as app:
            for start in range(0, len(items), size):
                app.send_task(
                    "clipfleet.embed_items",
                    args=[items[start : start + size]],
                    kwargs=keywords,
                    queue=self.queue,
                )

    def counts(self, name: str) -> tuple[int, int]:
        """Return the vectors and errors of a dataset that may not exist yet."""
        path = self.dataset_path(name)
        if not open_filesystem(path).exists(INFO_PATH):
            return 0, 0
        manifest = Manifest(Dataset.open(path))
        manifest.refresh()
        return manifest.vectors, manifest.errors

    def wait_for_items(
        self, count: int, name: str = "dataset", timeout_s: float = PATIENCE_S
    ) -> None:
        """Wait until a dataset has so many vectors and errors, and nothing is in Redis."""
        try:
            wait_until(
                lambda: sum(self.counts(name)) >= count and self.in_redis() == (0, 0),
                timeout_s=timeout_s,
                what=f"{count} items in {name}",
            )
        except AssertionError as error:
            logs = "\n".join(
                line for w in self.workers for line in w.log_text().splitlines()[-_LOG_LINES:]
            )
            raise AssertionError(
                f"{error}; there are {self.counts(name)}, in Redis {self.in_redis()}\n{logs}"
            ) from error

    def in_redis(self) -> tuple[int, int]:
        """Return how many messages wait, in the queue or deferred, and how many workers hold."""
        waiting = queue_length(self.client, self.queue) + deferred_length(self.client, self.queue)
        return waiting, held_length(self.client, self.queue)

    def assert_whole(self, name: str = "dataset", *, vectors: int, errors: int = 0) -> None:
        """Check that a dataset is whole, once the last commit has written its record."""
        dataset = Dataset.open(self.dataset_path(name))
        wait_until(lambda: not unfinished(dataset), what="the last commit's record")
        result = verify_dataset(dataset)
        assert result.problems == []
        assert (result.vectors, result.errors) == (vectors, errors)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.client.close()


def texts(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Return items as an ETL system queues them."""
    return [{"id": f"item-{n}", "text": f"the words of {n}"} for n in range(start, start + count)]
