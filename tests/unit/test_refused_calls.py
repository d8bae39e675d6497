"""The calls that tests/unit/conftest.py refuses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    "call",
    [
        lambda: subprocess.run(["true"], check=True),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
        lambda: os.fork(),  # noqa: PLW0108 - looked up when it is called
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: time.sleep(0),
    ],
)
def test_a_unit_test_starts_no_process_and_does_not_sleep(
    call: Callable[[], Any], refused_calls: list[str]
) -> None:
    with pytest.raises(AssertionError, match=r"unit tests start no process and do not sleep"):
        call()
    assert len(refused_calls) == 1
    refused_calls.clear()
