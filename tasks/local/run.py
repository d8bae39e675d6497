"""Local run: embed a whole source on this machine, with its own Redis and workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from clipfleet.errors import BrokerError, ClipfleetError, EngineError
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import absolute
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.sources.base import Source
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.broker.redis_client import check_broker, connect, unreachable
from clipfleet.tasks.local.fleet import LocalFleet
from clipfleet.tasks.local.redis_server import private_redis
from clipfleet.tasks.local.url_check import fetchable
from clipfleet.tasks.report.write import write_report
from clipfleet.tasks.snapshot import Show, duration, show_nothing
from clipfleet.tasks.status.progress import Progress
from clipfleet.tasks.submit.enqueue import queue_of
from clipfleet.tasks.submit.retry_failed import Retry, retry
from clipfleet.tasks.submit.running import HeldDataset, hold_dataset, local_prefix
from clipfleet.tasks.submit.submit import NEW_ITEMS, PlanRules, Submission, create_planned, submit
from clipfleet.workers.copies.reuse import open_reused
from clipfleet.workers.engines.load import check_decode

_POLL_S = 0.25
_STALL_S = 15.0  # without progress, before the last reason in the workers' logs is shown
_RECONCILE_S = 3.0  # short, because a user waits for the end
_BROKER_LOST_S = 60.0  # without an answer of Redis, before the run fails

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a local run; `seconds` is the time of the embedding alone.

    `classes` counts the error rows of the whole dataset by their class.
    """

    submission: Submission | Retry
    verification: Verification
    classes: dict[str, int]
    seconds: float
    embedded_items: int  # in this run
    report: str | None  # its path or URL; None: it could not be written

    @property
    def ok(self) -> bool:
        """Whether every item has a vector or was removed, and the dataset is intact."""
        return self.verification.ok and self.verification.errors == self.verification.removed

    def to_json(self) -> dict[str, Any]:
        """Return the summary in JSON's types."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "embedded_items": self.embedded_items,
            "classes": self.classes,
            "report": self.report,
            "submission": asdict(self.submission),
            "verification": self.verification.to_json(),
        }

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        rate = self.embedded_items / max(self.seconds, 1e-9)
        done = (
            f"embedded {self.embedded_items:,} items in {duration(self.seconds)} ({rate:,.0f}/s)"
            if self.embedded_items
            else "nothing to do: every item was embedded before"
        )
        failed = [f"  {count:,} × {name}" for name, count in sorted(self.classes.items())]
        remedy = (
            [f"  `clipfleet errors {self.verification.dataset}` shows the reasons"]
            if failed
            else []
        )
        return [
            f"{self.verification.dataset}: {done}",
            *self.verification.lines(),
            *(self.submission.source_lines() if isinstance(self.submission, Submission) else []),
            *failed,
            *remedy,
            *([f"  report: {self.report}"] if self.report else []),
        ]


def embed_source(
    source: Source,
    out: str,
    model: str | Path,
    *,
    settings: Settings,
    rules: PlanRules = NEW_ITEMS,
    gpus: Sequence[str | None] = (None,),
    own_redis: bool,
    show: Show = show_nothing,
) -> Summary:
    """Embed a source into the dataset at `out`, and verify the dataset.

    `gpus` is as in `LocalFleet`. All processes are stopped at the end, also after an error.
    Committed shards stay, and the same call continues from there.

    Raises:
        UsageError: The source, the model or the dataset is not fit for use, or another command or
            fleet embeds the dataset.
        BrokerError: Redis does not start or answer.
        EngineError: The workers do not start, or refuse the work.
    """
    card, _ = load_card(model)
    check_decode(settings.decode, tower=card.tower, runtime=card.runtime)
    open_reused(settings, card)
    if card.tower == "img":
        source = fetchable(source, settings)
    return _run(
        lambda: create_planned(out, card, settings, source, content_hash=rules.content_hash),
        lambda fleet: submit(source, out, model, settings=fleet, rules=rules, show=show),
        _fleet_settings(settings, out, model, card),
        gpus=gpus,
        own_redis=own_redis,
        show=show,
    )


def retry_here(
    dataset: str,
    only: Collection[str],
    model: str | Path,
    *,
    settings: Settings,
    gpus: Sequence[str | None] = (None,),
    own_redis: bool,
    show: Show,
) -> Summary:
    """Embed again the items that ended as errors, of some classes (`only`) or of all.

    Raises:
        UsageError: There is no such dataset, or it is of another model.
        BrokerError: Redis does not start or answer.
        EngineError: The workers do not start, or refuse the work.
    """
    card, _ = load_card(model)
    opened = Dataset.open(dataset, store_timeout_s=settings.store_timeout_s)
    opened.check_model(card)
    settings = settings.model_copy(update={"decode": opened.info.decode})
    check_decode(settings.decode, tower=card.tower, runtime=card.runtime)
    return _run(
        lambda: opened,
        lambda fleet: retry(dataset, only, settings=fleet),
        _fleet_settings(settings, dataset, model, card),
        gpus=gpus,
        own_redis=own_redis,
        show=show,
    )


def _run(
    open_dataset: Callable[[], Dataset],
    queue: Callable[[Settings], Submission | Retry],
    settings: Settings,
    *,
    gpus: Sequence[str | None],
    own_redis: bool,
    show: Show,
) -> Summary:
    """Queue, embed what is queued, and verify the dataset, which this process holds meanwhile."""
    with _redis(settings, own=own_redis) as redis_url:
        settings = settings.model_copy(update={"redis_url": redis_url})
        check_broker(redis_url)
        dataset = open_dataset()
        with hold_dataset(dataset, queue_of(dataset, settings)) as held:
            submission = queue(settings)
            progress = Progress(dataset, settings)
            progress.refresh()
            before, started_s = progress.done, time.monotonic()
            if not progress.finished:
                with LocalFleet(settings, gpus) as fleet:
                    _wait(progress, fleet, held, show)
                    seconds = time.monotonic() - started_s
                    fleet.ask_to_stop()  # while the dataset is verified
                    verification = verify_dataset(dataset)
            else:
                seconds, verification = 0.0, verify_dataset(dataset)
    return Summary(
        submission=submission,
        verification=verification,
        classes=dict(count_failures(dataset)),
        seconds=seconds,
        embedded_items=progress.done - before,
        report=_report(dataset, settings),
    )


def _report(dataset: Dataset, settings: Settings) -> str | None:
    """Write the report; the vectors are there without it, so a full disk is no error any more."""
    try:
        return write_report(dataset, None, settings=settings)
    except ClipfleetError as error:
        log.warning("the report was not written: %s; `clipfleet report` writes it", error)
        return None


def _wait(progress: Progress, fleet: LocalFleet, held: HeldDataset, show: Show) -> None:
    """Show progress until everything is done.

    Raises:
        DatasetError: Another command took the dataset over.
        EngineError: The workers end too often, or refuse shards.
        BrokerError: Redis has not answered for a minute.
    """
    while not progress.finished:
        time.sleep(_POLL_S)
        fleet.check()
        held.check()
        progress.refresh()
        reason = fleet.last_reason() if progress.stalled_s > _STALL_S else None
        show(replace(progress.snapshot(), stall_reason=reason))
        if progress.refusals:
            refusal = progress.refusals[0]
            raise EngineError(f"the workers refuse {refusal.message}: {refusal.reason}")
        if progress.broker_error is not None and progress.stalled_s > _BROKER_LOST_S:
            raise BrokerError(progress.broker_error)


def _fleet_settings(settings: Settings, out: str, model: str | Path, card: ModelCard) -> Settings:
    """Return settings for workers of this dataset only, with queues of their own."""
    fleet = {
        "tower": card.tower,
        "model": str(Path(model).absolute()),
        "output": absolute(out),
        "queue_prefix": local_prefix(settings.queue_prefix),
        "reconcile_interval_s": _RECONCILE_S,
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
        _delete_queues(settings)


def _delete_queues(settings: Settings) -> None:
    """Delete a fleet's keys in a Redis that is not its own."""
    patterns = (f"{settings.queue_prefix}.*", f"_kombu.binding*{settings.queue_prefix}.*")
    try:
        with connect(settings.redis_url) as client:
            for pattern in patterns:
                for key in client.scan_iter(pattern, count=1000):
                    client.delete(key)
    except (RedisError, OSError) as error:  # an earlier error is more important
        log.warning("queues not deleted: %s", unreachable(settings.redis_url, error))
