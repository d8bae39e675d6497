"""The telemetry of a task: its tally becomes metrics and a trace, where these are set."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clipfleet.tasks.broker.consumer import TRACE_HEADER
from clipfleet.tasks.tracing import Attributes, record_task
from clipfleet.workers.embedder import Embedder


@contextmanager
def measured(
    embedder: Embedder, name: str, *, headers: Mapping[str, str], attributes: Attributes
) -> Iterator[None]:
    """Clear the embedder's tally; make telemetry of it after a block, also if the block fails.

    `name`, `attributes` and the `headers` of the message are for the trace.
    """
    embedder.tally.clear()
    begin_s = time.time()
    try:
        yield
    finally:
        if embedder.settings.metrics_port:
            from clipfleet.tasks.metrics.counters import count

            count(embedder)
        record_task(
            embedder.settings,
            name,
            embedder.tally,
            begin_s=begin_s,
            error=sys.exc_info()[1],
            headers=headers,
            attributes=attributes,
        )


def headers_of(request: Any) -> dict[str, str]:
    """Return the header of a task's message that names the span of its `submit`, if it has one."""
    value = request.get(TRACE_HEADER)
    return {TRACE_HEADER: value} if isinstance(value, str) else {}
