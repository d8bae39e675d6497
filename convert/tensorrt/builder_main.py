"""The main module of the builder process, which `builder_process` starts.

The builder is one C++ call of minutes, which handles no signal, keeps memory and may crash. A
process of its own can be killed.

    python -m clipfleet.convert.tensorrt.builder_main EVENTS_FD    < the request, one line of JSON

Each line that it writes to EVENTS_FD is a JSON object of one key: `progress`, `error` or `done`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from clipfleet.convert.tensorrt.builder import build_plan
from clipfleet.convert.tensorrt.options import BuildRequest
from clipfleet.errors import ClipfleetError, ConversionError
from clipfleet.workers.engines.tensorrt import compat as versions

_PARENT_GONE = 1  # exit code


def _end_with_parent() -> None:
    """End this process when its standard input closes, which means that the parent ended."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(_PARENT_GONE)


def main(arguments: Sequence[str]) -> int:
    """Build the request on standard input; write its result or its error as an event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends this process
    with os.fdopen(int(arguments[0]), "w", encoding="utf-8") as events:

        def send(**event: Any) -> None:
            events.write(json.dumps(event) + "\n")
            events.flush()

        request = _request(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            result = build_plan(versions.load_tensorrt(), request, lambda line: send(progress=line))
        except ClipfleetError as error:
            send(error={"kind": type(error).__name__, "message": str(error)})
        except OSError as error:
            what = f"{error.filename or request.plan}: {error.strerror or error}"
            message = f"{request.onnx} was not built, a file cannot be read or written: {what}"
            send(error={"kind": ConversionError.__name__, "message": message})
        except Exception as error:  # noqa: BLE001 - the parent reports every error
            traceback.print_exc()
            send(error={"kind": ConversionError.__name__, "message": f"{request.onnx}: {error!r}"})
        else:
            send(done=asdict(result))
    return 0


def _request(line: str) -> BuildRequest:
    fields = json.loads(line)
    for name in ("fp32_ops", "tactic_sources"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return BuildRequest(**fields)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # unloading TensorRT may crash
