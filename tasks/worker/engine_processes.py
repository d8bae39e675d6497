"""Engine processes: how many children of a worker hold its engine, and the share of each."""

from __future__ import annotations

from pathlib import Path

from billiard.process import current_process

from clipfleet.gpus import list_gpus
from clipfleet.model_card import load_card
from clipfleet.settings import Settings, cores

_ON_GPU = 2  # one embeds while the other writes its shard

# What a process takes of a GPU's memory, as a rule: its context and buffers, and its engine with
# the memory of several batches in flight.
_BESIDES_BYTES = 2 << 30
_ENGINES = 4  # times the file's size

# Limits of a worker, which its processes divide.
_DIVIDED = ("decode_memory_mib", "url_threads", "url_ahead_bytes")


def with_engine_processes(settings: Settings) -> Settings:
    """Return the settings of each engine process; `engine_processes` is their number.

    `settings` are the worker's, with a model.
    """
    count = settings.engine_processes or _fitting(str(settings.model))
    share = {name: getattr(settings, name) for name in _DIVIDED}
    share |= {name: getattr(settings, name) or cores() for name in ("decoders", "engine_threads")}
    divided = {name: max(1, whole // count) for name, whole in share.items()}
    return settings.model_copy(update={"engine_processes": count, **divided})


def process_number() -> int:
    """Return the number of this engine process among those of its worker, from 0.

    A process that replaces another has the other's number.
    """
    return getattr(current_process(), "index", 0)  # Celery's pool sets it


def process_name(worker: object, settings: Settings) -> str:
    """Return the name of this engine process in a part's footer: its worker's, and its number."""
    return f"{worker}/{process_number()}" if settings.engine_processes > 1 else str(worker)


def _fitting(model: str) -> int:
    card, engine = load_card(model)
    if card.runtime != "tensorrt":
        return 1
    free = [gpu.free_memory_bytes for gpu in list_gpus()]
    return _ON_GPU if free and min(free) >= _ON_GPU * _needed_bytes(engine) else 1


def _needed_bytes(engine: Path) -> int:
    return _BESIDES_BYTES + _ENGINES * engine.stat().st_size
