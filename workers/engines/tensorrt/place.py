"""The place of a TensorRT engine: one GPU model and one TensorRT version. It runs nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipfleet.errors import DependencyError, GpuLostError
from clipfleet.gpus import visible_gpus


@dataclass(frozen=True, kw_only=True)
class Place:
    """The GPU model and the TensorRT version of an engine."""

    gpu: str
    runtime_version: str


def gpu_slug(gpu: str) -> str:
    """Return a GPU model as a part of a file name: "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def this_place() -> Place:
    """Return this machine's GPU model and TensorRT version; both libraries are loaded.

    Raises:
        DependencyError: TensorRT or cuda-bindings is not installed.
        GpuLostError: There is no GPU, or it does not work.
    """
    from clipfleet.workers.engines.cuda.runtime import device_name
    from clipfleet.workers.engines.tensorrt.compat import load_tensorrt

    gpu = device_name()  # first: without a GPU, TensorRT would end the process
    return Place(gpu=gpu, runtime_version=str(load_tensorrt().__version__))


def find_place() -> Place | str:
    """Return this machine's place, or the reason why no TensorRT engine can run here.

    Raises:
        GpuLostError: There is a GPU, and it does not work.
        UsageError: nvidia-smi fails.
    """
    try:
        return this_place()
    except DependencyError as error:
        return str(error)
    except GpuLostError as error:
        if visible_gpus():
            raise
        return str(error)
