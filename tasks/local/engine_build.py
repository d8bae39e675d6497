"""This machine's engine: what `clipfleet worker --build-if-missing` serves.

It is found or built by a process of its own: TensorRT's libraries, and the GPU memory that a
build takes, are gone again before the worker starts.
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
from clipfleet.tasks.local.child_processes import end, start_dependent
from clipfleet.workers.preflight import preflight

BUILDER = "clipfleet.convert.tensorrt.find_or_build"  # not imported: it brings TensorRT

_DEFAULT_CACHE = Path("~/.cache/clipfleet/engines")
_GPU_LOST = 3  # the builder's exit code
_GRACE_S = 2.0  # to remove what was begun; a builder in a call of its library hears nothing


def look_before_build(settings: Settings) -> None:
    """Look at all that a worker needs but its engine: a build takes minutes.

    Raises:
        UsageError: The model, the output folder or a setting is not fit for use.
        BrokerError: Redis does not answer.
    """
    preflight(settings.model_copy(update={"model": str(_to_look_at(Path(str(settings.model))))}))
    check_broker(settings.redis_url)


def _to_look_at(model: Path) -> Path:
    """Return the ONNX file that the engine is built from; the model where there is none."""
    engine = model.name.removesuffix(CARD_SUFFIX)
    onnx = model.with_name(f"{engine.removesuffix('.trt')}.onnx")
    return onnx if engine.endswith(".trt") and onnx.is_file() else model


def engine_of_this_machine(model: Path, settings: Settings) -> Path:
    """Return the card of the TensorRT engine for this machine's GPU, built now if there is none.

    `model` is an ONNX or TensorRT engine, or its card; progress goes to standard error.

    Raises:
        EngineError: There is none and none could be built; standard error has the reason.
        GpuLostError: That is the reason.
    """
    command = [sys.executable, "-m", BUILDER, str(model), "--cache", str(cache_folder(settings))]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = start_dependent(command, output=subprocess.PIPE, errors=sys.stderr.buffer)
    try:
        said, _ = process.communicate()
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
    *_, last = said.splitlines()  # a library may have printed before
    return Path(json.loads(last)["card"])


def cache_folder(settings: Settings) -> Path:
    """Return where engines that were built on this machine are kept."""
    given = settings.engine_cache
    return (Path(given) if given else _DEFAULT_CACHE).expanduser().resolve()
