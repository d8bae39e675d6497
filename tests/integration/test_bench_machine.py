"""What nvidia-smi says, read."""

import os
from pathlib import Path

import pytest

from bench.gpu import machine
from bench.gpu.machine import Clocks, clocks_now, parse_clocks, this_machine

SMI = """#!/bin/sh
case "$1" in
  *name*) echo "NVIDIA H100 80GB HBM3, GPU-0a1b, 580.95.05, 1980, 700.00" ;;
  *) echo "1755, 2619, 41, 95.31" ;;
esac
echo "$@" >"$(dirname "$0")/asked"
"""


def test_the_machine_is_named_by_its_gpu_driver_and_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "boot_id").write_text("2f5c\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(machine, "BOOT_ID", tmp_path / "boot_id")
    found = this_machine()
    assert (found.gpu, found.gpu_uuid) == ("NVIDIA H100 80GB HBM3", "GPU-0a1b")
    assert (found.driver, found.boot_id) == ("580.95.05", "2f5c")
    assert (found.max_sm_clock_mhz, found.power_limit_w) == (1980, 700)
    assert (tmp_path / "asked").read_text().endswith("-i 3\n")
    assert clocks_now() == Clocks(sm_mhz=1755, memory_mhz=2619, temperature_c=41, power_w=95.31)


def test_what_a_gpu_does_not_say_is_none() -> None:
    assert parse_clocks("1755, 2619, 41, [N/A]").power_w is None
