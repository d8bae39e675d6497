"""A real redis-server for all tests of this folder, and a bench with it for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
import redis

from clipfleet.errors import DependencyError
from clipfleet.settings import Settings, load_settings
from clipfleet.tasks.local.redis_server import server_command
from clipfleet.workers.engines.fake import write_fake_engine
from tests.fork_server import ForkedProcess
from tests.integration.support import Bench, forget_settings
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server on a free port, with a password; its folder is temporary."""
    try:
        server_command()
    except DependencyError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def forked_local_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a local run in the test's process fork its workers, as `WorkerProcess` does."""

    def start(
        command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str]
    ) -> ForkedProcess:
        _, _, program, *arguments = command  # python -m clipfleet …
        return ForkedProcess(program, arguments, environment=environment, log=output)

    monkeypatch.setattr("clipfleet.tasks.local.fleet.start_child_process", start)


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeBench]:
    """A maker of benches with an empty Redis and a fake model; `item_s` slows the engine."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    redis.Redis.from_url(redis_url).flushall()
    benches: list[Bench] = []

    def make(*, item_s: float = 0.0, **changes: Any) -> Bench:
        model = write_fake_engine(tmp_path, "txt", item_s=item_s)
        settings = _settings(redis_url, tmp_path, model, **changes)
        benches.append(Bench(settings, tmp_path))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def _settings(redis_url: str, folder: Path, model: Path, **changes: Any) -> Settings:
    (folder / "output").mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "redis_url": redis_url,
        "tower": "txt",
        "model": str(model),
        "output": str(folder / "output"),
        "shard_size": 100,
        "window_items": 100,
        "window_s": 0.3,
        "visibility_timeout_s": 60,  # no test waits for it; a busy worker renews in time
    }
    return load_settings(**{**given, **changes})


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A bench with the usual settings."""
    return make_bench()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with a Redis of its own and a worker; `served` prepares it for each test."""
    folder = tmp_path_factory.mktemp("running")
    server = RedisServer(folder / "redis")
    server.start()
    model = write_fake_engine(folder, "txt")
    running = Bench(_settings(server.url, folder, model), folder)
    yield running
    running.close()
    server.stop()


@pytest.fixture
def served(running: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench whose worker, `workers[-1]`, is ready and serves all tests of a file.

    Each test has datasets of its own name, and sees only its own lines of the worker's log and
    its own refusals.
    """
    forget_settings(monkeypatch)
    monkeypatch.chdir(running.folder)
    if not running.workers or running.workers[-1].process.poll() is not None:
        running.start_worker().ready()
    running.workers[-1].forget_log()
    for refusals in running.client.scan_iter("*.refused.*"):
        running.client.delete(refusals)
    return running
