"""The settings of a worker's operation: where it writes, and who watches it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator


class IndexSettings(BaseModel):
    """Indexes."""

    index_root: str | None = None
    """Folder below which workers build shards of indexes, for `clipfleet index --queue`. Unset: the
    folder in which they write datasets; a worker that writes into an object store needs this
    one."""


class OperationSettings(BaseModel):
    """Operation."""

    heartbeat_file: str | None = None
    """File that a worker touches every 2 s while it receives messages from Redis, for a
    healthcheck. Unset: none."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port at which a worker serves metrics for Prometheus; 0: none. Of several workers that one
    command starts, each has the next port."""

    metrics_host: str = "127.0.0.1"
    """Address at which metrics are served. `0.0.0.0` lets other machines read them, without a
    password."""

    trace_url: str | None = None
    """Collector of OpenTelemetry that gets the traces of shards (OTLP over HTTP), such as
    `http://127.0.0.1:4318/v1/traces`. Unset: none. It needs the extra `tracing`."""

    @field_validator("trace_url")
    @classmethod
    def _check_trace_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no http:// or https:// URL of a collector")
        return url


class WorkerSettings(BaseModel):
    """Set by `clipfleet worker`."""

    model: str | None = None
    """Model card of the worker's engine; set by `--model`."""

    output: str | None = None
    """Folder or `s3://` prefix below which the worker writes datasets; set by `--output`."""

    tower: Literal["img", "txt"] | None = None
    """Queue that the worker serves; set by `--tower`."""
