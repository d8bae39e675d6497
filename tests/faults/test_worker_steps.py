"""A worker killed with -9 at each step of a shard: its child alone, and all of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Record
from tests.faults.harness import Rig, open_rig
from tests.steps import WORKER_STEPS, Step

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One fleet for all tests of this file: the worker of one goes on in the next."""
    with open_rig(tmp_path_factory.mktemp("steps")) as opened:
        opened.start_held_worker().ready()
        yield opened


@pytest.mark.parametrize("step", WORKER_STEPS, ids=lambda step: step.name.lower())
def test_a_child_killed_at_a_step_costs_nothing(rig: Rig, record: Record, step: Step) -> None:
    name = f"child-{step.name.lower()}"
    rig.hold(step)
    rig.submit(300, name)
    rig.wait_held(step)
    rig.workers[-1].signal_child(signal.SIGKILL)
    rig.recovery_begins()
    rig.release(step)
    record(rig.outcome(f"worker's child killed while it {step.value}", name=name))


@pytest.mark.parametrize("step", WORKER_STEPS, ids=lambda step: step.name.lower())
def test_a_worker_killed_at_a_step_costs_nothing(rig: Rig, record: Record, step: Step) -> None:
    name = f"worker-{step.name.lower()}"
    rig.hold(step)
    rig.submit(300, name)
    rig.wait_held(step)
    rig.workers[-1].kill()
    rig.recovery_begins()
    rig.release(step)
    left = os.listdir(Path(rig.dataset_path(name), "_temporary"))
    assert len(left) == (1 if step is Step.WRITES else 0) or step is Step.RENAMED
    rig.start_held_worker()
    record(rig.outcome(f"worker killed while it {step.value}, started again", name=name))
