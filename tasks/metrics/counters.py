"""The counters of an engine process.

The process writes them to files in the folder of `PROMETHEUS_MULTIPROC_DIR`, from which its
worker's parent serves them. A counter's file outlives its process, so the sum of all processes
never falls. Only processes whose worker serves metrics import this module.
"""

from __future__ import annotations

import logging

from prometheus_client import Counter, Gauge

from clipfleet.workers.embedder import Embedder
from clipfleet.workers.tally import VECTOR

_ITEMS = Counter(
    "clipfleet_items",
    "Items that were embedded, by outcome: vector, or the class of the error.",
    ("tower", "outcome"),
)
_STAGE_SECONDS = Counter(
    "clipfleet_stage_seconds",
    "Seconds of work in each stage; read and decode are those of all decoders.",
    ("tower", "stage"),
)
_ENGINE_ITEMS = Counter("clipfleet_engine_items", "Inputs of the engine's calls.", ("tower",))
_ENGINE_ROOM = Counter(
    "clipfleet_engine_room", "Inputs for which the engine's calls had room.", ("tower",)
)
# The processes of a worker share a GPU.
_GPU_MEMORY = Gauge(
    "clipfleet_gpu_memory_bytes",
    "Memory of the worker's GPU, used by any process, and in all.",
    ("tower", "state"),
    multiprocess_mode="mostrecent",
)

log = logging.getLogger(__name__)


def start_counting(embedder: Embedder) -> None:
    """Begin the counters of an engine process at 0, so that Prometheus sees each rise."""
    embedder.tally.clear()
    embedder.tally.outcomes[VECTOR] = 0
    with embedder.tally.measure("engine"):
        pass
    count(embedder)


def count(embedder: Embedder) -> None:
    """Add the embedder's tally to the counters, and look at its GPU's memory."""
    try:
        _count(embedder)
    except OSError as error:  # the temporary folder is full: the work goes on
        log.warning("metrics not counted", extra={"reason": str(error)})


def _count(embedder: Embedder) -> None:
    tower, tally = embedder.card.tower, embedder.tally
    for outcome, items in tally.outcomes.items():
        _ITEMS.labels(tower, outcome).inc(items)
    for stage, spent in tally.stages.items():
        _STAGE_SECONDS.labels(tower, stage).inc(spent.seconds)
    _ENGINE_ITEMS.labels(tower).inc(tally.engine_items)
    _ENGINE_ROOM.labels(tower).inc(tally.engine_room)
    memory = embedder.engine.memory_info()
    if memory is not None:
        free_bytes, total_bytes = memory
        _GPU_MEMORY.labels(tower, "used").set(total_bytes - free_bytes)
        _GPU_MEMORY.labels(tower, "total").set(total_bytes)
