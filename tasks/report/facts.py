"""The facts of a report: from the records of a dataset, its jobs, and footers with failures.

No vector is read, and memory holds a few numbers for each shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from clipfleet.architectures import Tower
from clipfleet.errors import CardError
from clipfleet.model_card import ModelCard, parse_card
from clipfleet.storage.commit.manifest import committed_names, read_records
from clipfleet.storage.commit.record import Commit
from clipfleet.storage.format.dataset import Dataset, utc_now
from clipfleet.storage.format.parts import part_path, read_footer
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.storage.plan.failures import ErrorClass, error_classes
from clipfleet.storage.plan.jobs import Job, jobs, skipped_by_last_jobs

EXAMPLES = 6  # of a class of error
_MACHINES = 50  # whose engines are looked up


@dataclass(kw_only=True, slots=True)
class Machine:
    """A worker: what it embedded, in which time, and the card of its engine.

    `timed_items` are those of the shards whose seconds are known.
    """

    worker: str
    shards: int = 0
    items: int = 0
    timed_items: int = 0
    seconds: float = 0.0
    last_shard: str = ""
    last_at: str = ""
    card: ModelCard | None = None

    @property
    def items_per_s(self) -> float | None:
        """Items a second of its own time; None if no time is known."""
        return self.timed_items / self.seconds if self.seconds else None

    def add(self, record: Commit) -> None:
        items = record.vectors + record.errors
        self.shards += 1
        self.items += items
        if record.seconds is not None:
            self.timed_items += items
            self.seconds += record.seconds.of_process
        if record.finished_at >= self.last_at:
            self.last_at, self.last_shard = record.finished_at, record.name


@dataclass(kw_only=True, slots=True)
class ReportFacts:
    """What a report says of a dataset; `times` are (seconds since 1970, items) of each shard.

    `total` counts the items that were planned or came singly, `skipped` the files of folders that
    were no items, `machines` are in the order of their items. `seconds` is None if no shard was
    timed.
    """

    root: str
    tower: Tower
    card: ModelCard
    total: int
    vectors: int
    cut: int
    copied: int
    shards: int
    shards_done: int
    jobs: list[Job]
    skipped: dict[str, int]
    classes: dict[str, ErrorClass]
    machines: list[Machine]
    times: list[tuple[float, int]]
    seconds: StageSeconds | None
    made_at: str  # ISO 8601, UTC

    @property
    def failed(self) -> int:
        """Items without a vector, of which no retry is done."""
        return sum(found.count for found in self.classes.values())

    @property
    def missing(self) -> int:
        """Items whose shards are not done."""
        return max(0, self.total - self.vectors - self.failed)


def read_facts(dataset: Dataset) -> ReportFacts:
    """Return the facts of a dataset's report.

    Raises:
        DatasetError: A record, a part with failures or a plan is damaged.
        StorageError: The disk did not answer.
    """
    planned = jobs(dataset)
    seen = _Records()
    names = committed_names(dataset)
    for _, record in read_records(dataset, names):
        seen.add(record)
    machines = sorted(seen.machines.values(), key=lambda one: (-one.items, one.worker))
    for machine in machines[:_MACHINES]:
        machine.card = _card_of(dataset, machine.last_shard)
    job_ids = {job.id for job in planned}
    of_jobs = [name for name in names if name.partition("-")[0] in job_ids]
    single_items = seen.items_of(names - set(of_jobs))
    return ReportFacts(
        root=dataset.root,
        tower=dataset.info.tower,
        card=dataset.info.card,
        total=sum(job.items for job in planned if not job.retry) + single_items,
        vectors=seen.vectors,
        cut=seen.cut,
        copied=seen.copied,
        shards=sum(job.shards for job in planned),
        shards_done=len(of_jobs),
        jobs=planned,
        skipped=skipped_by_last_jobs(planned),
        classes=error_classes(dataset, examples=EXAMPLES),
        machines=machines,
        times=sorted(seen.times),
        seconds=seen.seconds,
        made_at=utc_now(),
    )


class _Records:
    """The sums over a dataset's records."""

    def __init__(self) -> None:
        self.vectors = self.cut = self.copied = 0
        self.times: list[tuple[float, int]] = []
        self.machines: dict[str, Machine] = {}
        self._items: dict[str, int] = {}  # of each shard
        self.seconds: StageSeconds | None = None

    def add(self, record: Commit) -> None:
        items = record.vectors + record.errors
        if not items:  # of a part of single items that was moved away
            return
        self.vectors += record.vectors
        self.cut += record.cut
        self.copied += record.copied
        self._items[record.name] = items
        finished_s = _seconds_of(record.finished_at)
        if finished_s is not None:
            self.times.append((finished_s, items))
        if record.seconds is not None:
            self.seconds = (self.seconds or StageSeconds()) + record.seconds
        self.machines.setdefault(record.worker, Machine(worker=record.worker)).add(record)

    def items_of(self, names: Iterable[str]) -> int:
        return sum(self._items.get(name, 0) for name in names)


def _card_of(dataset: Dataset, shard: str) -> ModelCard | None:
    """Return the card of the engine that made a part; None if the part or the card is gone."""
    path = part_path(shard)
    try:
        with dataset.fs.open(path) as file:
            return parse_card(read_footer(file, path=path).card, origin=path)
    except (FileNotFoundError, CardError):
        return None


def _seconds_of(time: str) -> float | None:
    """Return the seconds since 1970 of a record's time; None if it is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None
