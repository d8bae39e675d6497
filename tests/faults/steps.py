"""A worker that stops at an exact step of a shard, so that a test can kill it there.

Run as `python -m tests.faults.steps worker …`, it is `clipfleet worker …` with the steps
wrapped: in the process that embeds, too, which imports this module again as it is spawned.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_VARIABLE = "FAULTS_STEPS"
_ROOT = Path(__file__).parents[2]


class Step(enum.Enum):
    """Where a shard can be, and what says so in the table."""

    DECODES = "decodes"
    ENGINE = "runs the engine"
    WRITES = "writes the part, whose temporary file is there"
    RENAMED = "has renamed the part, and not recorded it"
    RECORDED = "has recorded the part, and not acknowledged it"

    def hold(self, folder: Path) -> None:
        """Have the next process that comes here stop."""
        (folder / f"held-{self.name}").unlink(missing_ok=True)
        (folder / f"hold-{self.name}").touch()

    def is_held(self, folder: Path) -> bool:
        return (folder / f"held-{self.name}").exists()


def steps_environment(folder: Path) -> dict[str, str]:
    """Return what a worker has in its environment for `hold` in a folder to stop it."""
    return {_VARIABLE: str(folder), "PYTHONPATH": str(_ROOT)}


def release_all(folder: Path) -> None:
    """Hold no further process."""
    for step in Step:
        (folder / f"hold-{step.name}").unlink(missing_ok=True)


def pause(step: Step) -> None:
    """Stop here for ever, if this is the first to come since the step was held."""
    folder = Path(os.environ[_VARIABLE])
    try:
        os.rename(folder / f"hold-{step.name}", folder / f"held-{step.name}")
    except FileNotFoundError:
        return
    while True:
        time.sleep(60)


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., Step | None] | None = None,
    after: Callable[..., Step | None] | None = None,
) -> None:
    """Have a function pause before or after it did its work, at the step that its arguments say."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **keywords: Any) -> Any:
        step = before(*args) if before else None
        if step is not None:
            pause(step)
        result = function(*args, **keywords)
        step = after(*args) if after else None
        if step is not None:
            pause(step)
        return result

    setattr(owner, name, wrapped)


def _wrap_steps() -> None:
    from workers import inputs
    from workers.engines.fake import FakeEngine

    for name in ("fill_texts", "fill_images"):
        wrap(inputs, name, before=lambda *_: Step.DECODES)
    wrap(FakeEngine, "__call__", before=lambda *_: Step.ENGINE)
    wrap(
        os,
        "link",
        before=lambda _, to, *__: Step.WRITES if _is_in("parts", to) else None,
        after=lambda _, to, *__: Step.RENAMED if _is_in("parts", to) else None,
    )
    wrap(
        os,
        "replace",
        after=lambda _, to, *__: Step.RECORDED if _is_in("manifest", to) else None,
    )


def _is_in(folder: str, path: Any) -> bool:
    return Path(os.fspath(path)).parent.name == folder


if os.environ.get(_VARIABLE):  # a worker or its child, not a test
    _wrap_steps()

if __name__ == "__main__":
    from clipfleet.cli import main

    main()
