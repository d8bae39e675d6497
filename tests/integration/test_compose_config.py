"""docker-compose.yml, read by Docker Compose itself; its healthchecks, run by a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"


def test_docker_compose_accepts_the_file() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker client on this machine")
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip("the docker client has no compose plugin")
    command = ["docker", "compose", "--env-file", str(EXAMPLE), "-f", str(COMPOSE), "config"]
    environment = {"REDIS_PASSWORD": "secret", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("age_s", "healthy"), [(0, True), (300, False), (None, False)])
def test_a_worker_is_healthy_while_its_heartbeat_is_young(
    tmp_path: Path, age_s: int | None, healthy: bool
) -> None:
    heartbeat = tmp_path / "heartbeat"
    if age_s is not None:
        heartbeat.touch()
        os.utime(heartbeat, (time.time() - age_s,) * 2)
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    workers = [service for name, service in services.items() if "worker" in name]
    assert len(workers) == 4
    for service in workers:
        kind, probe = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        file = service["environment"]["CLIPFLEET_HEARTBEAT_FILE"]
        assert file in probe
        command = probe.replace("$$", "$").replace(file, str(heartbeat))
        run = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
        assert (run.returncode == 0) == healthy
