"""Repairing: move damaged parts away, write records again, and queue the missing shards."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from clipfleet.errors import DatasetError
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import take_vectors
from clipfleet.storage.commit.damaged import move_away, readable_items, write_again
from clipfleet.storage.commit.manifest import missing_shards, unfinished
from clipfleet.storage.format.dataset import DAMAGED_FOLDER, Dataset
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, read_queued
from clipfleet.storage.format.parts import ITEMS_PREFIX, part_path
from clipfleet.storage.plan.retries import replaced_parts
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.submit.enqueue import later, queue_missing, queue_of
from clipfleet.tasks.submit.running import refuse_local_run


@dataclass(kw_only=True)
class Repair:
    """The result of `repair`.

    `moved` names the parts that were moved to `_damaged/`, `rewritten` the parts whose records and
    errors tables were written again. `resend` has the single items of moved parts, as their
    messages have them; `unreadable` names the moved and the lost parts that do not tell all their
    items. `left` has the problems that are to be mended by hand.
    """

    dataset: str
    dry_run: bool = False
    moved: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    resend: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    open_shards: int = 0
    queued_shards: int = 0
    later_shards: int = 0  # the workers queue these when there is room
    left: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done by hand: no item to queue again, no problem left."""
        return not (self.resend or self.unreadable or self.left)

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        would = "would be " if self.dry_run else ""
        done = (
            f"{self.dataset}: {len(self.moved)} damaged parts {would}moved to {DAMAGED_FOLDER}/"
            f"{_names(self.moved)}; {len(self.rewritten)} records {would}written again"
            f"{_names(self.rewritten)}; {self.open_shards:,} open shards, "
            f"{self.queued_shards:,} {would}queued{later(self.later_shards)}"
        )
        lines = [done]
        if self.resend:
            ids = [item["id"] for item in self.resend]
            lines.append(f"queue {len(ids):,} single items again (all with --json){_names(ids)}")
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} parts do not tell all of their items: queue again what "
                f"was sent when they were written{_names(self.unreadable)}"
            )
        return [*lines, *self.left]


def repair(
    dataset_root: str, *, dry_run: bool = False, queue: bool = True, settings: Settings
) -> Repair:
    """Verify a dataset, move its damaged parts away, and queue the missing shards.

    Records and errors tables that differ from their parts are written again. With `dry_run`,
    nothing changes. Without `queue`, nothing is queued: `clipfleet embed` or `resume` does it.

    Raises:
        DatasetError: There is no dataset, its `dataset.json` is damaged, or a local run embeds it.
        BrokerError: Redis does not answer; another `repair` continues.
    """
    dataset = Dataset.open(dataset_root, store_timeout_s=settings.store_timeout_s)
    queue = queue and not dry_run
    if queue:
        check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    if not dry_run:
        refuse_local_run(dataset, queue_of(dataset, settings))
    verification = verify_dataset(dataset)
    result = Repair(dataset=dataset.root, dry_run=dry_run, left=list(verification.by_hand))
    for name in verification.damaged:
        _move(dataset, name, result)
    for name in verification.stale:
        _write_again(dataset, name, result)
    for name in unfinished(dataset):  # a worker died between a part and its record
        if name not in verification.damaged:  # such as one that could not be moved
            _write_again(dataset, name, result)
    if not dry_run:
        _finish_replacements(dataset, result)
        _forget_damaged_queue(dataset)
    _queue(dataset, result, settings if queue else None)
    return result


def _move(dataset: Dataset, name: str, result: Repair) -> None:
    items, whole = readable_items(dataset, name) if name.startswith(ITEMS_PREFIX) else ([], True)
    try:
        if not result.dry_run:
            move_away(dataset, name)
    except DatasetError as error:
        result.left.append(str(error))
        return
    result.moved.append(name)
    for item in items:
        result.resend.append({k: v for k, v in asdict(item).items() if v is not None})
    if not whole:
        result.unreadable.append(name)


def _write_again(dataset: Dataset, name: str, result: Repair) -> None:
    if name.startswith(ITEMS_PREFIX) and not dataset.fs.exists(part_path(name)):
        result.unreadable.append(name)
    try:
        if not result.dry_run:
            write_again(dataset, name)
    except DatasetError as error:
        result.left.append(str(error))
    else:
        result.rewritten.append(name)


def _finish_replacements(dataset: Dataset, result: Repair) -> None:
    try:
        for name in replaced_parts(dataset):  # a worker died before it took their vectors
            take_vectors(dataset, name)
    except DatasetError as error:
        result.left.append(str(error))


def _forget_damaged_queue(dataset: Dataset) -> None:
    try:
        read_queued(dataset)
    except DatasetError:
        dataset.fs.delete(QUEUED_PATH)


def _queue(dataset: Dataset, result: Repair, settings: Settings | None) -> None:
    """Count the open shards, and queue them with `settings`."""
    try:
        result.open_shards = sum(1 for _ in missing_shards(dataset))
        if result.dry_run:  # the damaged parts are still there
            result.open_shards += sum(not n.startswith(ITEMS_PREFIX) for n in result.moved)
        if result.open_shards and settings is not None:
            queueing = queue_missing(dataset, settings)
            result.queued_shards, result.later_shards = queueing.queued, queueing.later
    except DatasetError as error:  # a job's record is damaged
        result.left.append(str(error))


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f": {shown}{', …' if len(names) > 5 else ''}" if names else ""
