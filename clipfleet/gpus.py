"""The GPUs of this machine, told apart without loading anything of CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from clipfleet.errors import UsageError

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
ALL = "all"

_FIELDS = ("uuid", "name", "compute_cap", "memory.total", "driver_version")
_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as nvidia-smi lists it."""

    uuid: str
    name: str
    compute_capability: str  # "9.0"
    memory: str  # "81559 MiB"
    driver: str


def list_gpus() -> list[Gpu]:
    """Return every GPU of the machine, in nvidia-smi's order; none where there is no nvidia-smi.

    Raises:
        UsageError: nvidia-smi fails, or gives no answer: there is a driver, and it is broken.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"nvidia-smi gave no answer within {_TIMEOUT_S} s: the driver hangs, see dmesg, and "
            "restart the machine"
        ) from None
    if run.returncode != 0:
        said = " ".join((run.stdout + run.stderr).split())
        raise UsageError(f"nvidia-smi failed: {said}; install the NVIDIA driver anew")
    return [_gpu(line) for line in run.stdout.splitlines() if line.strip()]


def _gpu(line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_FIELDS):
        raise UsageError(f"nvidia-smi printed {line!r} where {', '.join(_FIELDS)} were asked for")
    uuid, name, compute_capability, memory, driver = fields
    return Gpu(
        uuid=uuid, name=name, compute_capability=compute_capability, memory=memory, driver=driver
    )


def check_one_way(workers: int | None, gpus: str | None) -> None:
    """Refuse both a number of workers and GPUs with one each.

    Raises:
        UsageError: Both are given.
    """
    if workers and gpus:
        raise UsageError("--workers and --gpus: --gpus starts one worker for each GPU by itself")


def choose_gpus(wanted: str) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES must be for each wanted GPU to be the only one.

    `wanted` is "all", or positions and names of those that this process may see: the entries
    of its own CUDA_VISIBLE_DEVICES, where that is set, else the UUIDs of all.

    Raises:
        UsageError: There is none, or not the one that is wanted.
    """
    visible = _visible()
    if not visible:
        given = os.environ.get(VISIBLE_VARIABLE)
        why = "nvidia-smi lists none" if given is None else f"{VISIBLE_VARIABLE} is {given!r}"
        raise UsageError(f"--gpus {wanted}: no GPU found ({why}); leave --gpus out to do without")
    if wanted == ALL:
        return visible
    chosen = [_choose(part.strip(), visible) for part in wanted.split(",")]
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"--gpus {wanted} names a GPU twice: one worker a GPU")
    return chosen


def _visible() -> list[str]:
    given = os.environ.get(VISIBLE_VARIABLE)
    if given is None:
        return [gpu.uuid for gpu in list_gpus()]
    visible = []
    for entry in (part.strip() for part in given.split(",")):
        if entry in ("", "NoDevFiles") or entry.startswith("-"):
            break  # CUDA ignores whatever follows an invalid entry
        visible.append(entry)
    return visible


def _choose(name: str, visible: list[str]) -> str:
    if name in visible and not name.isdecimal():
        return name
    if name.isdecimal() and int(name) < len(visible):
        return visible[int(name)]
    numbered = ", ".join(f"{number}: {entry}" for number, entry in enumerate(visible))
    raise UsageError(f"--gpus: there is no GPU {name!r} here; give 'all' or some of {numbered}")
