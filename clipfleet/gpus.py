"""List and choose the GPUs of this machine with nvidia-smi, without loading CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfleet.errors import UsageError

if TYPE_CHECKING:
    from clipfleet.model_card import ModelCard

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
ALL = "all"

_FIELDS = ("uuid", "name", "compute_cap", "memory.total", "memory.free", "driver_version")
_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as nvidia-smi lists it."""

    uuid: str
    name: str
    compute_capability: str  # "9.0"
    memory: str  # "81559 MiB"
    free_memory: str  # "81008 MiB"
    driver: str

    @property
    def free_memory_bytes(self) -> int:
        """The free memory, 0 where nvidia-smi does not tell."""
        amount = self.free_memory.removesuffix(" MiB")
        return int(amount) << 20 if amount.isdecimal() else 0


def list_gpus() -> list[Gpu]:
    """Return the GPUs of the machine in nvidia-smi's order; none without an nvidia-smi.

    Raises:
        UsageError: nvidia-smi fails or does not answer: the driver is broken.
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
        output = " ".join((run.stdout + run.stderr).split())
        raise UsageError(f"nvidia-smi failed: {output}; reinstall the NVIDIA driver")
    return [_gpu(line) for line in run.stdout.splitlines() if line.strip()]


def _gpu(line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_FIELDS):
        raise UsageError(f"nvidia-smi printed {line!r} where {', '.join(_FIELDS)} were asked for")
    return Gpu(
        uuid=fields[0],
        name=fields[1],
        compute_capability=fields[2],
        memory=fields[3],
        free_memory=fields[4],
        driver=fields[5],
    )


def refuse_workers_with_gpus(workers: int | None, gpus: str | None) -> None:
    """Refuse a number of workers beside a list of GPUs, each of which gets one worker.

    Raises:
        UsageError: Both are given.
    """
    if workers and gpus:
        raise UsageError("--workers and --gpus: --gpus starts one worker for each GPU by itself")


def choose_gpus(wanted: str) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each wanted GPU, which then is the only one.

    `wanted` is "all", or a list of positions and names, separated by commas, among the GPUs that
    this process may use: the entries of its CUDA_VISIBLE_DEVICES if set, else the UUIDs of all.

    Raises:
        UsageError: There is no GPU, or a wanted one is missing or named twice.
    """
    visible = visible_gpus()
    if not visible:
        given = os.environ.get(VISIBLE_VARIABLE)
        why = "nvidia-smi lists none" if given is None else f"{VISIBLE_VARIABLE} is {given!r}"
        raise UsageError(
            f"--gpus {wanted}: no GPU found ({why}); leave --gpus out to run on the CPU"
        )
    if wanted == ALL:
        return visible
    chosen = [_choose(part.strip(), visible) for part in wanted.split(",")]
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"--gpus {wanted} names a GPU twice: one worker a GPU")
    return chosen


def gpus_of_workers(card: ModelCard, workers: int | None, gpus: str | None) -> Sequence[str | None]:
    """Return a value of CUDA_VISIBLE_DEVICES for each worker; None: it sees what this process sees.

    `workers` and `gpus` are as in `clipfleet.embed`. Without both, a TensorRT engine has a worker
    on each GPU.

    Raises:
        UsageError: As in `choose_gpus`.
    """
    if gpus:
        return choose_gpus(gpus)
    if workers is None and card.runtime == "tensorrt" and (found := gpus_of_model(card.gpu)):
        return found
    return [None] * (workers or 1)


def gpus_of_model(name: str | None) -> list[str]:
    """Return all GPUs that this process may use, if the machine has GPUs of this model only.

    They are values of CUDA_VISIBLE_DEVICES. Among several models, CUDA's first GPU is as good a
    choice as any: none is returned.
    """
    gpus = list_gpus()
    return visible_gpus(gpus) if gpus and {gpu.name for gpu in gpus} == {name} else []


def visible_gpus(listed: Sequence[Gpu] | None = None) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each GPU that this process may use.

    `listed` are those of `list_gpus`, where a caller has them already.

    Raises:
        UsageError: nvidia-smi fails or does not answer: the driver is broken.
    """
    given = os.environ.get(VISIBLE_VARIABLE)
    if given is None:
        return [gpu.uuid for gpu in (list_gpus() if listed is None else listed)]
    visible = []
    for entry in (part.strip() for part in given.split(",")):
        if entry in ("", "NoDevFiles") or entry.startswith("-"):
            break  # CUDA ignores everything after an invalid entry
        visible.append(entry)
    return visible


def _choose(name: str, visible: list[str]) -> str:
    if name in visible and not name.isdecimal():
        return name
    if name.isdecimal() and int(name) < len(visible):
        return visible[int(name)]
    numbered = ", ".join(f"{number}: {entry}" for number, entry in enumerate(visible))
    raise UsageError(f"--gpus: there is no GPU {name!r} here; give 'all' or some of {numbered}")
