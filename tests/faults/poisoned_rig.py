"""A rig for pictures that do harm, and workers which these do it to."""

from __future__ import annotations

from collections.abc import Sequence

from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit.submit import submit
from tests.faults.conftest import MakeRig
from tests.faults.harness import FULL, Rig
from tests.faults.pictures import poisoned_environment
from tests.integration.support import WorkerProcess

ATTEMPTS = 3 if FULL else 2
SHARD = 20  # items


def poisoned_rig(make_rig: MakeRig) -> Rig:
    return make_rig(
        tower="img",
        shard_size=SHARD,
        window_items=SHARD,
        decode_attempts=ATTEMPTS,
        decode_timeout_s=4,
        shard_deadline_s=12,
    )


def submit_pictures(rig: Rig, items: Sequence[Item]) -> None:
    rig.note("dataset", [item.id for item in items])
    path, model = rig.dataset_path(), str(rig.settings.model)
    submit(ListSource(list(items)), path, model, settings=rig.settings)


def start_poisoned_worker(rig: Rig) -> WorkerProcess:
    log_path = rig.folder / f"worker-{len(rig.workers)}.log"
    worker = WorkerProcess(rig.settings, log_path, environment=poisoned_environment(rig.folder))
    rig.workers.append(worker)
    return worker


def deaths(*workers: WorkerProcess) -> int:
    """Return how many children of workers were started again."""
    return sum(len(worker.events("engine loaded")) - 1 for worker in workers)


def errors(rig: Rig, name: str = "dataset") -> dict[str, int]:
    return dict(count_failures(Dataset.open(rig.dataset_path(name))))
