"""The command line on a machine whose clock is an hour ahead: `python -m tests.faults.fast_clock`.

So is the worker's child, which imports this module again when it is spawned.
"""

from __future__ import annotations

import time

_true_time = time.time


def _an_hour_ahead() -> float:
    return _true_time() + 3600


if __name__ in {"__main__", "__mp_main__"}:  # before other modules take the name
    time.time = _an_hour_ahead

if __name__ == "__main__":
    from clipfleet.cli.main import main

    main()
