"""The progress of planning, as snapshots for a display."""

from __future__ import annotations

import time

from clipfleet.storage.plan.new_items import OnPlanning, Planning
from clipfleet.tasks.snapshot import Show, Snapshot

INTERVAL_S = 0.5  # a shorter plan is not shown


def shown(show: Show) -> OnPlanning:
    """Return a function that shows how far a plan is, about twice a second.

    The rate is that since the first row of the earlier jobs, or of the source, was read.
    """
    begun_s = last_s = time.monotonic()
    reads_source = False

    def on_planning(planning: Planning) -> None:
        nonlocal begun_s, last_s, reads_source
        now_s = time.monotonic()
        if planning.rows and not reads_source:
            begun_s, reads_source = now_s, True
        if now_s - last_s < INTERVAL_S:
            return
        last_s = now_s
        done = planning.rows if reads_source else planning.known
        rate = done / (now_s - begun_s) if now_s > begun_s else 0.0
        phase = "planning" if reads_source else "reading the plan"
        show(Snapshot(total=0, done=done, errors=0, items_per_s=rate, phase=phase))

    return on_planning
