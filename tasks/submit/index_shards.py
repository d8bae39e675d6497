"""The shards of an index are queued for the workers of a fleet, and waited for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfleet.errors import UsageError
from clipfleet.messages import INDEX_SHARD_TASK, IndexShardTask
from clipfleet.retrieval.index.build import Show
from clipfleet.retrieval.index.card import IndexShard
from clipfleet.retrieval.index.plan import BuildPlan, missing_shards
from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.submit.enqueue import (
    broker_errors,
    name_in_messages,
    queue_of,
    shards_in_redis,
)
from clipfleet.tasks.submit.lock import dataset_digest

_LOOK_S = 0.5  # between two looks at the folder
_LOST_S = 10.0  # between two searches for shards that Redis lost


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetBuild:
    """Builds the shards of an index by the workers that serve the queue of its dataset's tower."""

    settings: Settings

    def __call__(
        self,
        dataset: Dataset,
        folder: Path,
        plan: BuildPlan,
        shards: Sequence[IndexShard],
        *,
        show: Show,
    ) -> None:
        """Queue shards, and return when all are built.

        A shard that Redis lost is queued again. An interruption leaves the queued shards to the
        workers; the next call finds what they built.

        Raises:
            UsageError: The workers refused a shard.
            BrokerError: Redis does not answer.
        """
        name = str(folder.resolve())
        whole = sum(shard.rows for shard in plan.new_shards)
        with broker_errors(self.settings), connect(self.settings.redis_url) as client:
            refusals = Refusals(client, self.settings.queue_prefix)
            refusals.forget(name)
            missing, next_search_s = list(shards), 0.0
            while missing:
                if time.monotonic() >= next_search_s:
                    self._queue_lost(client, dataset, folder, plan)
                    next_search_s = time.monotonic() + _LOST_S
                _check_refusals(refusals, name, missing)
                show("copied and encoded", whole - sum(s.rows for s in missing), whole)
                time.sleep(_LOOK_S)
                missing = missing_shards(folder, plan)

    def _queue_lost(self, client: Client, dataset: Dataset, folder: Path, plan: BuildPlan) -> None:
        """Queue the shards that are neither built nor in Redis."""
        name, queue = str(folder.resolve()), queue_of(dataset, self.settings)
        digest = dataset_digest(name)
        in_redis = shards_in_redis(client, queue).get(digest, set())
        # Looked for afterwards: a shard is built before its message leaves Redis.
        lost = [s for s in missing_shards(folder, plan) if s.name not in in_redis]
        app = make_app(self.settings)
        try:
            for shard in lost:
                task = IndexShardTask(
                    index=name, dataset=name_in_messages(dataset), shard=shard.name
                )
                app.send_task(
                    INDEX_SHARD_TASK,
                    kwargs=task.to_json(),
                    queue=queue,
                    task_id=f"{digest}.{shard.name}.{uuid.uuid4().hex[:8]}",
                    argsrepr="",  # Celery would repeat the arguments in the headers
                    kwargsrepr="",
                )
        finally:
            app.close()


def _check_refusals(refusals: Refusals, name: str, missing: Sequence[IndexShard]) -> None:
    wanted = {f"shard {shard.name}" for shard in missing}
    for refusal in refusals.all():
        if refusal.dataset == name and refusal.message in wanted:
            raise UsageError(
                f"the workers refused {refusal.message} of the index {name} ({refusal.reason}): "
                "mend the cause, and run again; the other shards count"
            )
