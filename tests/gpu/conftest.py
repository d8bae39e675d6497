"""GPU tests: skipped where nvidia-smi finds no GPU."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

GPU_TIMEOUT_S = 30


def has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    run = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=GPU_TIMEOUT_S
    )
    return run.returncode == 0 and "GPU" in run.stdout


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    if not has_gpu():
        pytest.skip("no GPU on this machine")


@pytest.fixture
def redis_url() -> Iterator[str]:
    from clipfleet.tasks.local.redis_server import (
        private_redis,  # not where only engines are tested
    )

    with private_redis() as url:
        yield url
