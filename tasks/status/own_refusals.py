"""The refused messages of one dataset, among those of its fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.jobs import Job
from clipfleet.tasks.broker.refusals import Refusal
from clipfleet.tasks.submit.lock import dataset_digest

_SHOWN = 5


def own_refusals(
    refusals: Iterable[Refusal], dataset: Dataset, job: Job | None, names: set[str], queue: str
) -> list[Refusal]:
    """Return the refusals of a dataset, or of one job of it; `names` are its names in messages.

    A message that names no dataset counts for the streams of its queue.
    """
    # The id of a shard's message begins so, also where nothing else of the message may be read.
    ids = tuple(f"message '{dataset_digest(name)}." for name in names)
    takes_unnamed = dataset.info.kind != "planned"

    def is_own(refusal: Refusal) -> bool:
        if job and refusal.planned and not refusal.message.startswith(f"shard {job.id}-"):
            return False
        if refusal.dataset:
            return refusal.dataset in names
        if refusal.message.startswith(ids):
            return True
        return takes_unnamed and refusal.queue in ("", queue)

    return [refusal for refusal in refusals if is_own(refusal)]


def refusal_lines(refused: Sequence[Refusal]) -> list[str]:
    """Return refusals as lines of text."""
    lines = [f"  refused {r.message}: {r.reason}" for r in refused[:_SHOWN]]
    shards = sum(r.planned for r in refused)
    if shards:
        lines.append(f"  {shards:,} shards refused: mend the cause, then `clipfleet resume`")
    if len(refused) > shards:
        others = len(refused) - shards
        lines.append(f"  {others:,} other messages refused: queue again what was right in them")
    return lines
