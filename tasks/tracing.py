"""Traces for OpenTelemetry: a span of `submit`, below it those of its shards, and of their stages.

The message of a shard carries the span of its `submit`, as W3C's `traceparent`. Without the setting
`trace_url`, nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from clipfleet.errors import DependencyError
from clipfleet.settings import Settings
from clipfleet.workers.tally import Tally

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_NAME = "clipfleet"
_EXPORT_S = 5.0  # for one request to the collector
_FLUSH_MS = 2_000  # at the end of an engine process

Attributes = Mapping[str, str | int | float]


def check_tracing(settings: Settings) -> None:
    """Check that the packages are there, if traces are set.

    Raises:
        DependencyError: OpenTelemetry is not installed.
    """
    if settings.trace_url is not None:
        _provider(settings.trace_url)


@contextmanager
def submit_span(settings: Settings, dataset: str) -> Iterator[None]:
    """Make a block the span `submit`, the parent of the shards that are queued in it.

    Raises:
        DependencyError: OpenTelemetry is not installed.
    """
    if settings.trace_url is None:
        yield
        return
    with _tracer(settings.trace_url).start_as_current_span(
        "submit", attributes={"clipfleet.dataset": dataset}
    ):
        yield


def trace_headers(settings: Settings) -> dict[str, str]:
    """Return the headers with which a message carries the current span; none without one."""
    headers: dict[str, str] = {}
    if settings.trace_url is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def record_task(
    settings: Settings,
    name: str,
    tally: Tally,
    *,
    begin_s: float,
    error: BaseException | None,
    headers: Mapping[str, str],
    attributes: Attributes,
) -> None:
    """Record a task that began at `begin_s`, in seconds since the epoch, and ends now.

    `headers` are those of its message. Do nothing if no traces are set.
    """
    if settings.trace_url is None:
        return
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = _tracer(settings.trace_url)
    span = tracer.start_span(
        name,
        TraceContextTextMapPropagator().extract(headers),
        kind=SpanKind.CONSUMER,
        start_time=_ns(begin_s),
        attributes={f"clipfleet.{key}": value for key, value in attributes.items()},
    )
    for outcome, items in tally.outcomes.items():
        span.set_attribute(f"clipfleet.items.{outcome}", items)
    context = set_span_in_context(span)
    for stage, spent in tally.stages.items():
        part = tracer.start_span(stage, context, start_time=_ns(spent.begin_s))
        part.set_attribute("clipfleet.work_s", round(spent.seconds, 6))
        part.end(_ns(spent.end_s))
    if error is not None:
        _mark_failed(span, error)
    span.end(_ns(time.time()))


def flush_traces(settings: Settings) -> None:
    """Send the spans that were not sent yet."""
    if settings.trace_url is not None:
        _provider(settings.trace_url).force_flush(_FLUSH_MS)


def _mark_failed(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _ns(time_s: float) -> int:
    return int(time_s * 1e9)


def _tracer(url: str) -> Tracer:
    return _provider(url).get_tracer(_NAME)


@lru_cache(maxsize=1)
def _provider(url: str) -> TracerProvider:
    """Return what sends spans from a thread; not OpenTelemetry's global one, which is the user's.

    A collector that does not answer costs spans, and one line of the log for each try.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise DependencyError(
            f"traces need OpenTelemetry ({error}): from a checkout, pip install '.[tracing]', or "
            "unset CLIPFLEET_TRACE_URL"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": _NAME}))
    exporter = OTLPSpanExporter(endpoint=url, timeout=_EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
