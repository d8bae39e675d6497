"""docker-compose.yml, read by Docker Compose itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
