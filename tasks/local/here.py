"""Embed a source with an engine in this process: for engines that no worker runs, as PyTorch's."""

from __future__ import annotations

from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import finish, missing_shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import Source
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.submit.submit import create_planned
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.embedder import Embedder

_WORKER = "in-process"  # in the records


def embed_here(source: Source, out: str, embedder: Embedder) -> Verification:
    """Embed a source into the dataset at `out`, and verify the dataset; a call again continues.

    Raises:
        UsageError: The source or the dataset is not fit for use.
        EngineError: The engine failed.
        StorageError: A disk did not answer.
    """
    card = embedder.card
    dataset = create_planned(out, card, embedder.settings, source)
    plan_items(dataset, source, embedder.settings.items_in_shard(card.runtime))
    finish(dataset)
    for shard in missing_shards(dataset):
        work = read_shard_work(dataset, shard)
        fingerprints = Fingerprints.of(dataset, embedder.copies)
        embedded = embedder.embed(work.items, rules=dataset.info.rules, fingerprints=fingerprints)
        embedded = work.finish(embedded)
        commit(dataset, shard.name, embedded, card=card, worker=_WORKER)
    return verify_dataset(dataset)
