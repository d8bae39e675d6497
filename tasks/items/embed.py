"""Embedding single items: those of new ids, and those of ids that come with other content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from clipfleet.error_codes import BAD_ITEM
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.commit.commit import commit, complete
from clipfleet.storage.commit.newer_content import plan_newer_content
from clipfleet.storage.commit.record import Commit
from clipfleet.storage.commit.single_items import KnownIds, catch_up, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.tasks.items.batcher import GivenUp
from clipfleet.tasks.items.parse import SingleItem
from clipfleet.tasks.worker.watchdog import working
from clipfleet.workers.embedder import Embedder

_MAX_KNOWN = 8  # datasets whose ids stay in memory, up to 64 MB each


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The parts that were written, and the items that were not.

    `conflicts`: their ids keep another content. `stuck`: their ids are in a shard that could not be
    embedded, and waits for `clipfleet resume`.
    """

    commits: list[Commit] = field(default_factory=list)
    conflicts: list[Item] = field(default_factory=list)
    stuck: list[Item] = field(default_factory=list)


def embed_single_items(
    single_items: Iterable[SingleItem],
    dataset: Dataset,
    embedder: Embedder,
    *,
    worker: str,
    given_up: GivenUp | None = None,
) -> Outcome:
    """Embed the items that a dataset does not have, and commit them as parts of about a window.

    An id that comes again with other content is treated by `settings.on_conflict`. If
    `given_up`, the items become failures without an attempt.

    Raises:
        UsageError: The dataset is damaged, or of another model.
        TransientError: Worth trying again; the parts that were committed stay.
        GpuLostError: This process can embed nothing any more; no item caused it.
    """
    arrival = _Arrival(dataset, embedder, worker=worker, given_up=given_up)
    rest = list(single_items)
    while rest:  # a second time only for what came twice, or changed meanwhile
        rest = arrival.write(rest)
    return arrival.outcome


class _Arrival:
    """Single items of one batch on their way into a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        embedder: Embedder,
        *,
        worker: str,
        given_up: GivenUp | None,
    ) -> None:
        self.outcome = Outcome()
        self._dataset = dataset
        self._embedder = embedder
        self._worker = worker
        self._given_up = given_up
        self._known = known_ids(dataset)

    def write(self, single_items: Sequence[SingleItem]) -> list[SingleItem]:
        """Write each id once; return the items that are to be looked at again."""
        catch_up(self._dataset, self._known)
        ones, again = _first_of_each_id(single_items)
        stuck = self._finish_retries(ones)
        new = [one for one in ones if one.item.id not in self._known]
        other = [
            one for one in ones if self._known.has_other(one.item) and one.item.id not in stuck
        ]
        return [*self._write_new(new), *self._write_other(other), *again]

    def _write_new(self, new: Sequence[SingleItem]) -> Sequence[SingleItem]:
        """Embed items of new ids; return all if another worker had some of the ids meanwhile."""
        written = 0
        for run in even_runs(new, self._embedder.settings.window_items):
            embedded = self._embed(run)
            # Leaves out the ids that another worker wrote meanwhile.
            with self._embedder.tally.measure("write"):
                done = commit_single_items(
                    self._dataset,
                    self._known,
                    embedded,
                    card=self._embedder.card,
                    worker=self._worker,
                )
            if done is not None:
                self._embedder.tally.count_items(embedded)
                self.outcome.commits.append(done)
                written += done.vectors + done.errors
        return new if written < len(new) else ()

    def _write_other(self, other: Sequence[SingleItem]) -> Iterable[SingleItem]:
        """Embed those contents that supersede what their ids have; return the undecided items."""
        settings = self._embedder.settings
        self.outcome.conflicts += [one.item for one in other if one.fault]
        right = {one.item.id: one for one in other if not one.fault}
        if not right:
            return ()
        newer = plan_newer_content(
            self._dataset,
            self._known,
            [one.item for one in right.values()],
            replace=settings.on_conflict == "replace",
            shard_size=settings.window_items,
        )
        for shard in shards(newer.job) if newer.job else ():
            self._commit_planned(shard)
        self.outcome.conflicts += newer.conflicts
        return [right[item.id] for item in newer.undecided]

    def _finish_retries(self, ones: Sequence[SingleItem]) -> set[str]:
        """Commit the shards of retries that have some of the ids; return the ids that are stuck.

        The worker that planned such a shard may have died: then nobody else embeds it. A retry of
        `clipfleet retry` may have it, too: where its id stands is known only afterwards.
        """
        items = {one.item.id: one.item for one in ones}
        stuck: set[str] = set()
        for shard in self._known.open_shards(items):
            done = complete(self._dataset, shard.name)  # a worker died before its record
            if done is not None:
                self.outcome.commits.append(done)
            elif not self._commit_planned(shard, allowed=items):
                stuck |= {id_ for id_ in items if self._known.part_of(id_) == shard.name}
        self.outcome.stuck += [items[id_] for id_ in stuck]
        return stuck

    def _commit_planned(self, shard: Shard, allowed: Collection[str] | None = None) -> bool:
        """Embed and commit a shard of a retry.

        If the items are given up, they become failures, but only if all of the shard's ids are
        `allowed`: the shard of a larger retry stays open, and this returns False.
        """
        work = read_shard_work(self._dataset, shard)
        if self._given_up and allowed is not None and {i.id for i in work.items} - set(allowed):
            return False
        embedded = self._embed([SingleItem(item=item) for item in work.items])
        card, tally = self._embedder.card, self._embedder.tally
        with tally.measure("write"):
            done = commit(
                self._dataset, shard.name, work.finish(embedded), card=card, worker=self._worker
            )
        tally.count_items(embedded)
        self.outcome.commits.append(done)
        return True

    def _embed(self, run: Sequence[SingleItem]) -> Embedded:
        valid = [one.item for one in run if not one.fault]
        failures = [Failure(item=o.item, error=BAD_ITEM, message=o.fault) for o in run if o.fault]
        if self._given_up is not None:
            code, reason = self._given_up
            failures += [Failure(item=item, error=code, message=reason) for item in valid]
            valid = []
        embedded = self._embedder.embed(
            valid, rules=self._dataset.info.rules, progress=working().progress
        )
        return replace(embedded, failures=[*embedded.failures, *failures])


def _first_of_each_id(
    single_items: Sequence[SingleItem],
) -> tuple[list[SingleItem], list[SingleItem]]:
    """Return the first item of each id, and the later ones that have another content."""
    first: dict[str, SingleItem] = {}
    for one in single_items:
        first.setdefault(one.item.id, one)
    again = [one for one in single_items if one.item != first[one.item.id].item]
    return list(first.values()), again


def even_runs(single_items: Sequence[SingleItem], window: int) -> Iterator[Sequence[SingleItem]]:
    """Yield runs of equal length: one for less than two windows, none for no item."""
    count = max(1, len(single_items) // window)
    length = -(-len(single_items) // count)
    for start in range(0, len(single_items), length or 1):
        yield single_items[start : start + length]


_known: OrderedDict[tuple[str, str], KnownIds] = OrderedDict()  # in the order of use


def known_ids(dataset: Dataset) -> KnownIds:
    """Return the ids of a dataset that this process knows, as of the last refresh."""
    key = (dataset.root, dataset.info.created_at)  # it may be deleted and made again
    if key not in _known:
        _known[key] = KnownIds(dataset)
    _known.move_to_end(key)
    if len(_known) > _MAX_KNOWN:
        _known.popitem(last=False)[1].close()
    return _known[key]
