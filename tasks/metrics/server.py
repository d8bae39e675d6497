"""The HTTP server of metrics, in a worker's parent process or in `clipfleet metrics`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipfleet.errors import UsageError
from clipfleet.settings import Settings
from clipfleet.tasks.scratch import scratch_folder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's, read when it is imported


@contextmanager
def serve_metrics(registry: CollectorRegistry, settings: Settings) -> Iterator[None]:
    """Serve a registry at `metrics_host` and `metrics_port`, from a thread.

    Raises:
        UsageError: The port is taken, or the address is not this machine's.
    """
    from prometheus_client import start_http_server

    host, port = settings.metrics_host, settings.metrics_port
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served at {host}:{port}: {error.strerror or error}; choose another "
            "port, or set CLIPFLEET_METRICS_HOST to an address of this machine"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_worker_metrics(settings: Settings) -> Iterator[None]:
    """Serve the metrics of this process's worker, whose engine processes start afterwards.

    Without a `metrics_port`, do nothing.

    Raises:
        UsageError: As in `serve_metrics`.
    """
    if not settings.metrics_port:
        yield
        return
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.multiprocess import MultiProcessCollector

    with scratch_folder() as folder:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        tower, processes = str(settings.tower), settings.engine_processes
        sizes = {"clipfleet_engine_processes": ("Engine processes of the worker.", processes)}
        if tower == "img":
            decoders = settings.decoders * processes
            sizes["clipfleet_decoders"] = ("Decoders of the worker.", decoders)
        for name, (described, number) in sizes.items():
            Gauge(name, described, ("tower",), registry=registry).labels(tower).set(number)
        os.environ[_FOLDER_VARIABLE] = folder
        try:
            with serve_metrics(registry, settings):
                yield
        finally:
            del os.environ[_FOLDER_VARIABLE]
