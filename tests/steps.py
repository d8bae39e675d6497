"""The command line with its steps wrapped, so that a test can kill a process at an exact one.

`python -m tests.steps worker …` is `clipfleet worker …`, and stops at the step of `Step.hold`.
So does the worker's child, which imports this module again when it is spawned.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

INDEX_VARIABLE = "FAULTS_INDEX_KIB"  # memory of an index of ids; a small one is soon on the disk
_VARIABLE = "FAULTS_STEPS"
_ROOT = Path(__file__).parents[1]
_POLL_S = 0.02
_BATCH_MESSAGES = 20  # small, so that a job of few shards is queued in several
_QUEUED_BEFORE = 30  # messages: one batch is in Redis, another begun


class Step(enum.Enum):
    """The steps of a process, in the words of the table of faults."""

    TAKEN = "has taken a message from the queue, and not begun it"
    DECODES = "decodes"
    ENGINE = "runs the engine"
    WRITES = "writes the part, whose temporary file is there"
    RENAMED = "has renamed the part, and not recorded it"
    RECORDED = "has recorded the part, and not acknowledged it"
    PLANS = "plans: files are written, the job is not"
    QUEUES = "queues: some messages are in Redis"

    def hold(self, folder: Path, *, after: int = 0) -> None:
        """Stop the next process at this step, after `after` processes have passed."""
        for number in range(after):
            (folder / f"pass-{self.name}-{number}").touch()
        (folder / f"hold-{self.name}").touch()

    def release(self, folder: Path) -> None:
        """Let the stopped processes continue, and stop no other."""
        (folder / f"hold-{self.name}").unlink(missing_ok=True)
        for path in self._held(folder):
            path.unlink()

    def count_held(self, folder: Path) -> int:
        """Return how many processes stopped here."""
        return len(self._held(folder))

    def _held(self, folder: Path) -> list[Path]:
        return list(folder.glob(f"held-{self.name}-*"))


WORKER_STEPS = (Step.DECODES, Step.ENGINE, Step.WRITES, Step.RENAMED, Step.RECORDED)


def steps_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that `hold` in a folder can stop."""
    return {_VARIABLE: str(folder), "PYTHONPATH": str(_ROOT)}


def pause(step: Step) -> None:
    """Stop here until released, if `hold` asked for the next process."""
    folder = Path(os.environ[_VARIABLE])
    for path in folder.glob(f"pass-{step.name}-*"):
        with suppress(FileNotFoundError):  # another process passed with it
            path.unlink()
            return
    held = folder / f"held-{step.name}-{os.getpid()}"
    try:
        os.rename(folder / f"hold-{step.name}", held)
    except FileNotFoundError:
        return
    while held.exists():
        time.sleep(_POLL_S)


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., Step | None] | None = None,
    after: Callable[..., Step | None] | None = None,
) -> None:
    """Make a function pause before or after its work, at the step that its arguments give."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **keywords: Any) -> Any:
        _pause_at(before, args)
        result = function(*args, **keywords)
        _pause_at(after, args)
        return result

    setattr(owner, name, wrapped)


def _pause_at(step_of: Callable[..., Step | None] | None, args: tuple[Any, ...]) -> None:
    step = step_of(*args) if step_of else None
    if step is not None:
        pause(step)


def _wrap_steps() -> None:
    from celery import Celery

    from clipfleet.storage.format import id_index
    from clipfleet.storage.plan import digests
    from clipfleet.tasks.broker.transport import FleetTransport
    from clipfleet.tasks.submit import enqueue as queueing
    from clipfleet.workers import input_chunks as inputs
    from clipfleet.workers.engines.fake import FakeEngine
    from clipfleet.workers.images.decoders import Decoders

    wrap(inputs, "tokenise", before=lambda *_: Step.DECODES)
    wrap(Decoders, "_hand_out", before=lambda *_: Step.DECODES)
    wrap(FleetTransport, "_deliver", before=lambda *_: Step.TAKEN)
    wrap(FakeEngine, "__call__", before=lambda *_: Step.ENGINE)
    # Every file of a dataset gets its name from one of these two.
    wrap(os, "link", before=_before_link, after=_after_link)
    wrap(os, "replace", after=_after_replace)
    queueing.BATCH_MESSAGES = _BATCH_MESSAGES
    if INDEX_VARIABLE in os.environ:
        kib = int(os.environ[INDEX_VARIABLE])
        id_index._CACHE_KIB = kib
        digests.RUN_ROWS = (kib << 10) // 32  # bytes of a row
    sent: list[None] = []
    wrap(Celery, "send_task", before=lambda *_: _before_send(sent))


def _before_link(_: Any, to: Any, *__: Any) -> Step | None:
    path = Path(os.fspath(to))
    if path.parent.name == "plan" and path.suffix == ".json":
        return Step.PLANS
    return Step.WRITES if path.parent.name == "parts" else None


def _after_link(_: Any, to: Any, *__: Any) -> Step | None:
    return Step.RENAMED if Path(os.fspath(to)).parent.name == "parts" else None


def _after_replace(_: Any, to: Any, *__: Any) -> Step | None:
    return Step.RECORDED if Path(os.fspath(to)).parent.name == "manifest" else None


def _before_send(sent: list[None]) -> Step | None:
    sent.append(None)
    return Step.QUEUES if len(sent) > _QUEUED_BEFORE else None


if os.environ.get(_VARIABLE):  # not in a test that imports the names above
    _wrap_steps()

if __name__ == "__main__":
    from clipfleet.cli.main import main

    main()
