"""The environment and the name of a worker process."""

from __future__ import annotations

import os
import socket

from clipfleet.settings import CONFIG_VARIABLE, PREFIX, Settings
from clipfleet.settings.separators import SEPARATORS

# Without this variable a child process imports modules from its working folder, such as a user's
# json.py. CPython 3.10 ignores the variable.
SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"


def environment_of(settings: Settings, *, number: int = 0) -> dict[str, str]:
    """Return this process's environment, changed so that a child process gets these settings.

    Of several workers, each with its `number`, each has its own port for metrics. Arguments would
    show in the process list, and with them the password of Redis.
    """
    # The configuration file was read already, and the child may run in another folder.
    kept = {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE}
    values = settings.model_dump(exclude_none=True)
    if settings.metrics_port:
        values["metrics_port"] += number
    for name, separator in SEPARATORS.items():
        entries = values.pop(name)
        variable = f"{PREFIX}{name.upper()}"
        kept.pop(variable, None)
        if entries:  # an empty variable would be read as a list with one empty entry
            kept[variable] = separator.join(entries)
    variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}
    return {**kept, **variables, SAFE_PATH_VARIABLE: "1"}


def worker_name(settings: Settings) -> str:
    """Return a unique name for this worker; logs and part footers have it."""
    return f"{settings.tower}-{os.getpid()}@{socket.gethostname()}"
