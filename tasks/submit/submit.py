"""Submitting: plan the new items of a source, and queue the missing shards.

A producer loads this module: no engine, no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipfleet.images import PictureRules
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import Settings
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.filesystem.remote import input_location
from clipfleet.storage.format.dataset import FILE_COLUMNS, Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.refresh import Refresh, move_source, refresh_items
from clipfleet.storage.plan.withdraw import withdrawn_if_refused
from clipfleet.storage.skipped import skipped_lines
from clipfleet.storage.sources.base import Source
from clipfleet.storage.sources.normalisation import text_normalisation_of
from clipfleet.tasks.broker.redis_client import check_broker, is_local
from clipfleet.tasks.broker.security_check import log_security_warnings
from clipfleet.tasks.snapshot import Show, show_nothing
from clipfleet.tasks.submit.enqueue import later
from clipfleet.tasks.submit.job import plan_and_queue
from clipfleet.tasks.submit.planning import shown
from clipfleet.tasks.submit.url_count import CountedUrls
from clipfleet.tasks.tracing import submit_span


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The result of `submit`; `job` is None if the dataset had every id already.

    `skipped` counts the files of the source's folder that are no items, by extension or kind.
    `urls` counts the source's items that are URLs.

    Of a refresh: `newer_items` is the number of ids that take newer content, in job `newer_job`.
    `conflicts` counts the ids with newer content that keep their vectors; `first_conflicts` are
    some of them. `waiting_items` counts the ids with newer content whose shards are not done,
    `overwritten_items` those of the newer items whose files were overwritten, and `gone_items` the
    ids with vectors whose files do not exist.
    """

    dataset: str
    job: str | None
    planned_items: int
    planned_shards: int
    queued_shards: int
    later_shards: int = 0  # the workers queue these when there is room
    newer_job: str | None = None
    newer_items: int = 0
    conflicts: int = 0
    first_conflicts: tuple[str, ...] = ()
    waiting_items: int = 0
    overwritten_items: int = 0
    gone_items: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    urls: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        planned = (
            f"planned {self.planned_items:,} items in {self.planned_shards:,} shards as job "
            f"{self.job}"
            if self.job
            else "planned nothing new: every id is in the dataset's plan"
        )
        if self.queued_shards:
            queued = f"queued {self.queued_shards:,} shards"
        elif self.later_shards:
            queued = "queued nothing: the queue is full"
        else:
            queued = "queued nothing: every planned shard is done or in the queue"
        head = f"{self.dataset}: {planned}; {queued}{later(self.later_shards)}"
        return [head, *self.source_lines(), *self._url_lines()]

    def _url_lines(self) -> list[str]:
        allowed = "workers fetch from the hosts of their own --url-host (CLIPFLEET_URL_HOSTS)"
        return [f"  URLs in the source: {self.urls:,}; {allowed}"] if self.urls else []

    def source_lines(self) -> list[str]:
        """Return what was skipped, and what a refresh did with newer content, as lines of text."""
        lines = skipped_lines(self.skipped)
        if self.newer_items:
            of_files = f" ({self.overwritten_items:,} of them: their files were overwritten)"
            lines.append(
                f"  {self.newer_items:,} ids take newer content"
                f"{of_files if self.overwritten_items else ''}, planned as job {self.newer_job}"
            )
        if self.conflicts:
            shown = ", ".join(map(repr, self.first_conflicts))
            lines.append(
                f"  {self.conflicts:,} conflicts: ids with newer content that keep their vectors, "
                f"such as {shown}; `--on-conflict replace` embeds them again"
            )
        if self.waiting_items:
            lines.append(
                f"  {self.waiting_items:,} ids with newer content are in shards that are not done: "
                "refresh again when these are done"
            )
        if self.gone_items:
            lines.append(
                f"  {self.gone_items:,} ids have vectors and no file any more: `clipfleet remove "
                f"{self.dataset} --missing` removes them"
            )
        return lines


@dataclass(frozen=True, kw_only=True)
class PlanRules:
    """How a source is planned into a dataset that may have some of its ids.

    With `refresh`, newer content of known ids is planned too, by `settings.on_conflict`. With
    `moved_from`, the source's folder was there when it was planned. With `content_hash`, a new
    dataset gets content hashes, and a refresh compares them.
    """

    refresh: bool = False
    moved_from: str | None = None
    content_hash: bool = False


NEW_ITEMS = PlanRules()  # only the items whose ids the dataset does not have


def submit(
    source: Source,
    dataset_root: str,
    model: str | Path,
    *,
    settings: Settings,
    rules: PlanRules = NEW_ITEMS,
    show: Show = show_nothing,
) -> Submission:
    """Plan the items of a source that a dataset does not have, and queue the missing shards.

    `show` is called while a long source is planned.

    Raises:
        BrokerError: Redis does not answer. Nothing was planned, or not all shards were queued;
            another `submit` continues.
        DatasetKindError: The dataset is a stream of single items.
        UsageError: The card, the source or the dataset is not fit for use, or another command or
            fleet embeds the dataset.
    """
    card, _ = load_card(model)
    check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    if not is_local(settings.redis_url):
        log_security_warnings(settings.redis_url)
    dataset = create_planned(dataset_root, card, settings, source, content_hash=rules.content_hash)
    counted = CountedUrls(source)

    def plan() -> Refresh:
        with withdrawn_if_refused(dataset):
            if rules.moved_from is not None:
                move_source(dataset, source, input_location(rules.moved_from))
            size = settings.items_in_shard(card.runtime)
            on_planning = shown(show)
            if not rules.refresh:
                return Refresh(job=plan_items(dataset, counted, size, on_planning=on_planning))
            return refresh_items(
                dataset,
                counted,
                size,
                on_conflict=settings.on_conflict,
                by_hash=rules.content_hash,
                on_planning=on_planning,
            )

    with submit_span(settings, dataset.root):
        planned, queueing = plan_and_queue(dataset, settings, plan)
    job, newer = planned.job, planned.newer
    return Submission(
        dataset=dataset.root,
        job=job.id if job else None,
        planned_items=job.items if job else 0,
        planned_shards=job.shards if job else 0,
        queued_shards=queueing.queued,
        later_shards=queueing.later,
        newer_job=newer.id if newer else None,
        newer_items=newer.items if newer else 0,
        conflicts=planned.conflicts,
        first_conflicts=tuple(planned.first_conflicts),
        waiting_items=planned.waiting,
        overwritten_items=planned.overwritten,
        gone_items=planned.gone,
        skipped=dict(source.skipped),
        urls=counted.urls,
    )


def create_planned(
    root: str, card: ModelCard, settings: Settings, source: Source, *, content_hash: bool = False
) -> Dataset:
    """Create a planned dataset for a model's vectors of a source, or open it.

    Raises:
        DatasetMismatchError: It exists, for another model, embedding dtype, decoder, text
            normalisation or other picture rules, or without content hashes that are asked for.
        DatasetKindError: It is a stream of single items.
        DatasetError: The folder holds other files, or the dataset is damaged.
    """
    dataset = Dataset.create(
        root,
        card,
        kind="planned",
        embedding_dtype=settings.embedding_dtype,
        decode=settings.decode,
        rules=PictureRules.of(settings),
        text_normalisation=text_normalisation_of(source),
        columns=(
            *(FILE_COLUMNS if card.tower == "img" else ()),
            *(("content_hash",) if content_hash else ()),
        ),
        store_timeout_s=settings.store_timeout_s,
    )
    check_kind(dataset, "planned")
    return dataset
