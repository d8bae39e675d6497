"""The machine and GPU of a measurement, and the GPU's clocks."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from pydantic.dataclasses import dataclass

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMEOUT_S = 20
_IDENTITY = "name,uuid,driver_version,clocks.max.sm,power.limit"
_CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One GPU in one machine since one start; two figures are comparable where these are equal."""

    host: str
    boot_id: str
    gpu: str
    gpu_uuid: str
    driver: str
    max_sm_clock_mhz: float | None
    power_limit_w: float | None
    cores: int


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """What the GPU reports at one moment."""

    sm_mhz: float | None
    memory_mhz: float | None
    temperature_c: float | None
    power_w: float | None


def this_machine() -> Machine:
    """Return the machine and its first visible GPU.

    Raises:
        OSError, subprocess.SubprocessError: There is no nvidia-smi, or it found no GPU.
    """
    return parse_machine(
        _query(_IDENTITY), host=platform.node(), boot_id=_boot_id(), cores=os.cpu_count() or 1
    )


def parse_machine(line: str, *, host: str, boot_id: str, cores: int) -> Machine:
    """Return what nvidia-smi's CSV line of a GPU says."""
    gpu, uuid, driver, clock, power = (field.strip() for field in line.split(","))
    return Machine(
        host=host,
        boot_id=boot_id,
        gpu=gpu,
        gpu_uuid=uuid,
        driver=driver,
        max_sm_clock_mhz=_number(clock),
        power_limit_w=_number(power),
        cores=cores,
    )


def clocks_now() -> Clocks:
    """Return the GPU's clocks, temperature and power at this moment."""
    return parse_clocks(_query(_CLOCKS))


def parse_clocks(line: str) -> Clocks:
    """Return what nvidia-smi's CSV line of a GPU says."""
    sm, memory, temperature, power = (_number(field.strip()) for field in line.split(","))
    return Clocks(sm_mhz=sm, memory_mhz=memory, temperature_c=temperature, power_w=power)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "[N/A]": this GPU, or part of one, does not say


def _query(fields: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    run = subprocess.run(
        [*command, "-i", visible.split(",", maxsplit=1)[0]],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
    return run.stdout.strip().splitlines()[0]


def _boot_id() -> str:
    return BOOT_ID.read_text().strip() if BOOT_ID.is_file() else "unknown"
