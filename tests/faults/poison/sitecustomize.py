"""Makes Pillow of the processes with this folder in PYTHONPATH do what a picture's last bytes say.

Python imports this module by its name as it starts: so nothing of the product knows of it, and
the worker, its child and what decodes for them all have it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from PIL import Image

_open: Any = Image.open


def _poisoned_open(file: Any, *args: Any, **keywords: Any) -> Any:
    data = file.getvalue()
    if data.endswith(b"ABORT"):
        os.abort()
    if data.endswith(b"SIGKILL"):  # as the kernel does where memory is short
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(b"HANG"):
        Path(os.environ["PYTHON_POISON_MARKS"], f"hangs-{os.getpid()}").touch()
        time.sleep(3600)
    if data.endswith(b"MEMORY"):
        bytearray(1 << 40)
    if data.endswith(b"SLOW"):
        time.sleep(0.1)
    return _open(file, *args, **keywords)


setattr(Image, "open", _poisoned_open)  # noqa: B010 - mypy knows Image.open as it was
