"""One shot: embed a whole source on this machine, with a Redis and workers of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipfleet.card import load_card
from clipfleet.display import Snapshot, duration
from clipfleet.errors import EngineError
from clipfleet.settings import Settings
from storage.dataset import Dataset
from storage.filesystem import local_path
from storage.proof import Proof, prove
from storage.sources import Source
from tasks.broker import connect
from tasks.local_fleet import LocalFleet
from tasks.private_redis import private_redis
from tasks.progress import Progress
from tasks.reconcile import Reconciler
from tasks.submit import Submission, submit

_LOOK_S = 0.25

Show = Callable[[Snapshot], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a source; `seconds` is the time of the embedding alone."""

    submission: Submission
    proof: Proof
    seconds: float
    embedded_items: int  # in this run

    @property
    def ok(self) -> bool:
        """Whether every item has a vector, and the dataset is whole."""
        return self.proof.ok and not self.proof.errors

    def to_json(self) -> dict[str, Any]:
        """Return the summary in JSON's types."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "embedded_items": self.embedded_items,
            "submission": asdict(self.submission),
            "proof": self.proof.to_json(),
        }

    def lines(self) -> list[str]:
        """Return the summary in words."""
        rate = self.embedded_items / max(self.seconds, 1e-9)
        done = (
            f"embedded {self.embedded_items:,} items in {duration(self.seconds)} ({rate:,.0f}/s)"
            if self.embedded_items
            else "nothing to do: every item was embedded before"
        )
        return [f"{self.proof.dataset}: {done}", *self.proof.lines()]


def embed_source(
    source: Source,
    out: str,
    model: str | Path,
    *,
    settings: Settings,
    workers: int,
    own_redis: bool,
    show: Show,
) -> Summary:
    """Embed a source into the dataset at `out`, and prove the result.

    Everything that is started is stopped again, whatever happens; what was committed until
    then stays, and the same call goes on from there.

    Raises:
        UsageError: The source, the model or the dataset is not fit for use.
        BrokerError: Redis does not start or answer.
        EngineError: The workers do not start, or refuse the work.
    """
    settings = _fleet_settings(settings, out, model)
    with _redis(settings, own=own_redis) as redis_url:
        settings = settings.model_copy(update={"redis_url": redis_url})
        submission = submit(source, out, model, settings=settings)
        progress = Progress(Dataset.open(submission.dataset), settings)
        progress.refresh()
        before, started_s = progress.done, time.monotonic()
        if not progress.finished:
            with LocalFleet(settings, workers) as fleet:
                _wait(progress, fleet, Reconciler(progress.dataset, settings), show)
                seconds = time.monotonic() - started_s
                fleet.ask_to_stop()  # while the proof is made
                proof = prove(submission.dataset)
        else:
            seconds, proof = 0.0, prove(submission.dataset)
    return Summary(
        submission=submission,
        proof=proof,
        seconds=seconds,
        embedded_items=progress.done - before,
    )


def _wait(progress: Progress, fleet: LocalFleet, reconciler: Reconciler, show: Show) -> None:
    """Show progress until everything is done.

    Raises:
        EngineError: The workers end again and again, or refuse shards.
    """
    while not progress.finished:
        time.sleep(_LOOK_S)
        fleet.check()
        progress.refresh()
        show(progress.snapshot())
        if progress.refusals:
            refusal = progress.refusals[0]
            raise EngineError(f"the workers refuse {refusal.message}: {refusal.reason}")
        if not progress.finished:
            reconciler.check()


def _fleet_settings(settings: Settings, out: str, model: str | Path) -> Settings:
    """Return settings for workers of this dataset only, on queues that are theirs only."""
    card, _ = load_card(model)
    fleet = {
        "tower": card.tower,
        "model": str(Path(model).resolve()),
        "output": local_path(out),
        "queue_prefix": f"{settings.queue_prefix}.{uuid.uuid4().hex[:8]}",
    }
    return settings.model_copy(update=fleet)


@contextmanager
def _redis(settings: Settings, *, own: bool) -> Iterator[str]:
    if own:
        with private_redis() as url:
            yield url
        return
    try:
        yield settings.redis_url
    finally:
        _sweep(settings)


def _sweep(settings: Settings) -> None:
    """Delete what a fleet left in a Redis that is not its own."""
    with connect(settings.redis_url) as client:
        patterns = (f"{settings.queue_prefix}.*", f"_kombu.binding*{settings.queue_prefix}.*")
        for pattern in patterns:
            for key in client.scan_iter(pattern, count=1000):
                client.delete(key)
