"""A submitter killed with -9 in the middle of planning, and of queueing."""

from __future__ import annotations

import pytest

from tests.faults.conftest import MakeRig, Record
from tests.steps import Step

pytestmark = pytest.mark.integration


# What is not planned yet is in nobody's hands but the submitter's: `resume` is no way out.
@pytest.mark.parametrize(
    ("step", "way_out"),
    [
        (Step.PLANS, "submit"),
        (Step.QUEUES, "submit"),
        (Step.QUEUES, "resume"),
    ],
)
def test_a_submitter_that_is_killed_is_run_again(
    make_rig: MakeRig, record: Record, step: Step, way_out: str
) -> None:
    rig = make_rig()
    source = rig.write_source(500)
    submit = ["submit", str(source), rig.dataset_path(), "--model", str(rig.settings.model)]
    submit += ["--shard-size", "10"]
    rig.start_worker().ready()
    rig.hold(step)
    with rig.start(*submit) as killed:
        rig.wait_held(step)
        killed.kill()
    rig.recovery_begins()
    again = rig.run(*(submit if way_out == "submit" else ["resume", rig.dataset_path()]))
    assert again.returncode == 0, again.stderr
    record(rig.outcome(f"submitter killed while it {step.value}; `{way_out}`"))
