"""Engine build: find or build this machine's engine for `clipfleet worker --build-if-missing`.

A separate process does it, so that TensorRT's build libraries and the build's GPU memory are
released before the worker starts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from clipfleet.errors import EngineError, GpuLostError
from clipfleet.model_card import CARD_SUFFIX
from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.local.child_processes import end, start_child_process
from clipfleet.workers.preflight import preflight

BUILDER = "clipfleet.convert.tensorrt.find_or_build"  # not imported, because it loads TensorRT

_DEFAULT_CACHE = Path("~/.cache/clipfleet/engines")
_GPU_LOST = 3  # the builder's exit code
_GRACE_S = 2.0  # to remove partial files; a builder inside TensorRT does not react to SIGTERM


def check_before_build(settings: Settings) -> None:
    """Check what a worker needs besides its engine, before a build that takes minutes.

    Raises:
        UsageError: The model, the output folder or a setting is not fit for use.
        BrokerError: Redis does not answer.
    """
    model = str(_model_to_check(Path(str(settings.model))))
    preflight(settings.model_copy(update={"model": model}), builds=True)
    check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)


def _model_to_check(model: Path) -> Path:
    """Return the ONNX file from which the engine is built; the model if there is none."""
    engine = model.name.removesuffix(CARD_SUFFIX)
    onnx = model.with_name(f"{engine.removesuffix('.trt')}.onnx")
    return onnx if engine.endswith(".trt") and onnx.is_file() else model


def engine_of_this_machine(model: Path, settings: Settings) -> Path:
    """Return the card of the TensorRT engine for this machine's GPU; build one if there is none.

    `model` is an ONNX or TensorRT engine, or its card. Progress goes to standard error.

    Raises:
        EngineError: There is none, and the build failed; standard error has the reason.
        GpuLostError: The GPU failed during the build.
    """
    command = [sys.executable, "-m", BUILDER, str(model), "--cache", str(cache_folder(settings))]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = start_child_process(command, output=subprocess.PIPE, errors=sys.stderr.buffer)
    try:
        output, _ = process.communicate()
    except KeyboardInterrupt:
        end(process, grace_s=_GRACE_S)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if process.returncode != 0:
        raise (GpuLostError if process.returncode == _GPU_LOST else EngineError)(
            f"no TensorRT engine of {model} for this machine: finding or building it ended with "
            f"exit code {process.returncode}, for the reason above"
        )
    *_, last = output.splitlines()  # a library may have printed lines before
    return Path(json.loads(last)["card"])


def cache_folder(settings: Settings) -> Path:
    """Return the folder of the engines that were built on this machine."""
    cache = settings.engine_cache
    return (Path(cache) if cache else _DEFAULT_CACHE).expanduser().resolve()
