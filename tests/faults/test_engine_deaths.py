"""Items on which the engine's own process dies, and an engine that dies on everything."""

from __future__ import annotations

import pytest

from clipfleet.jobs import ENGINE_CRASHED, Item
from storage.sources import ListSource
from tasks.submit import submit
from tests.faults.aborting_engine import POISON, aborting_environment, break_engine, mend_engine
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig
from tests.faults.poisoned_rig import ATTEMPTS, SHARD, deaths, errors
from tests.integration.support import WorkerProcess

pytestmark = pytest.mark.integration

NOBODY = -1


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(shard_size=SHARD, window_items=SHARD, item_attempts=ATTEMPTS)


def start_aborting_worker(rig: Rig) -> WorkerProcess:
    worker = WorkerProcess(
        rig.settings,
        rig.folder / "worker.log",
        program="tests.faults.aborting_engine",
        environment=aborting_environment(rig.folder),
    )
    rig.workers.append(worker)
    return worker


def texts(count: int, *, poisoned: int = NOBODY) -> list[Item]:
    return [
        Item(id=f"text-{n}", text=POISON if n == poisoned else f"the words of text {n}")
        for n in range(count)
    ]


def submit_texts(rig: Rig, items: list[Item], name: str = "dataset") -> None:
    rig.note(name, [item.id for item in items])
    path, model = rig.dataset_path(name), str(rig.settings.model)
    submit(ListSource(items), path, model, settings=rig.settings)


def test_an_item_that_ends_the_engines_process_is_an_error_beside_its_neighbours_vectors(
    rig: Rig, record: Record
) -> None:
    submit_texts(rig, texts(2 * SHARD, poisoned=30))
    worker = start_aborting_worker(rig)
    record(rig.outcome("a text on which the engine's process aborts, among two shards"))
    assert errors(rig) == {ENGINE_CRASHED: 1}
    assert deaths(worker) == 1 + ATTEMPTS

    rig.queue_items([{"id": i.id, "text": i.text} for i in texts(2 * SHARD, poisoned=5)])
    rig.recovery_begins()
    name = "items-txt"
    record(rig.outcome("a text on which the engine's process aborts, queued singly", name=name))
    assert errors(rig, name) == {ENGINE_CRASHED: 1}
    assert deaths(worker) == 2 * (1 + ATTEMPTS)


def test_an_engine_whose_process_dies_of_everything_condemns_no_item(
    rig: Rig, record: Record
) -> None:
    break_engine(rig.folder)
    submit_texts(rig, texts(SHARD))
    worker = start_aborting_worker(rig)
    worker.wait_for("engine loaded", count=1 + ATTEMPTS + 1)  # as if an item were to blame
    assert rig.counts("dataset") == (0, 0)
    mend_engine(rig.folder)
    rig.recovery_begins()
    record(rig.outcome("an engine whose process aborts on everything, then mended"))
    assert errors(rig) == {}
