"""Measure the stages of embedding a source: each alone, and all together."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import in_object_store, local_path
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.results import Failure
from clipfleet.storage.sources.base import Source
from clipfleet.tasks.bench.child import Say, measure_child, setup_of
from clipfleet.tasks.bench.dataset import whole_way
from clipfleet.tasks.bench.report import Report
from clipfleet.tasks.bench.sample import read_cold, read_warm, take_sample
from clipfleet.tasks.bench.stage import Stage
from clipfleet.tasks.bench.verdict import judge
from clipfleet.tasks.local.redis_server import server_command
from clipfleet.tasks.scratch import scratch_folder
from clipfleet.tasks.worker.engine_processes import with_engine_processes
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.open_decoders import decoder_count

_WHOLE_STAGES = 2.5  # times the time of another stage, for the whole way
_SHARDS = 8  # of the whole way, at least: its rate is that of the later ones


def measure_source(
    source: Source,
    model: str | Path,
    *,
    settings: Settings,
    out: str | None,
    stage_s: float,
    limit: int,
    say: Say,
) -> Report:
    """Measure each stage on the first items of a source, for `stage_s` seconds each.

    At most `limit` items are taken, over and over if they are too few. `out` is where a dataset
    would be: writing is measured on its disk, by default on that of the temporary folder. `say`
    gets what is measured next.

    Raises:
        UsageError: The source, the model or `out` is not fit for use, or no item can be embedded.
        DependencyError: There is no Redis server.
        EngineError: The engine does not load, or fails.
        BrokerError: Redis does not start.
    """
    server_command()  # raises now, and not after a minute
    card, _ = load_card(model)
    chosen = {"model": str(Path(model).absolute()), "tower": card.tower}
    settings = settings.model_copy(update=chosen)
    failures: dict[str, Failure] = {}
    with scratch_folder(folder_beside(out)) as folder:
        say("the source")
        items, listed = take_sample(source, limit, stage_s)
        stages = [listed]
        if card.tower == "img":
            say("reading")
            items, reads = _read(items, settings, stage_s)
            stages += reads
        # Before this process takes of the GPU's memory: so many as a worker would have.
        processes = with_engine_processes(settings).engine_processes
        say("loading the engine")
        with Embedder.from_settings(settings) as embedder:
            setup = setup_of(embedder, items, processes)
            parts = Path(folder, "parts")
            stages += measure_child(embedder, items, parts, stage_s, failures=failures, say=say)
        say("the whole way")
        [here_s] = [stage.items_s for stage in stages if stage.name == "embedder"]
        total = max(_SHARDS, int(here_s * stage_s * _WHOLE_STAGES))
        shard_size = min(setup.shard_size, total // _SHARDS)
        changes = {"shard_size": shard_size, "engine_processes": processes}
        settings = settings.model_copy(update=changes)
        setup = replace(setup, is_shard_reduced=shard_size < setup.shard_size)
        stages.append(whole_way(Path(folder, "whole"), items, total, settings))
    return Report(
        source=source.description,
        model=str(model),
        sample_items=len(items),
        setup=setup,
        stages=tuple(stages),
        classes=Counter(failure.error for failure in failures.values()),
        verdict=judge(stages, setup),
    )


def folder_beside(out: str | None) -> str | None:
    """Return the folder for the measured datasets: `out`, or if it is none yet, one above it."""
    if out is None:
        return None
    if in_object_store(out):
        raise UsageError(f"--out {out} is in an object store: bench measures disks; name a folder")
    path = Path(local_path(out)).absolute()
    while not path.is_dir() or (path / INFO_PATH).exists():
        path = path.parent
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: this user may not write to {path}; name another folder")
    return str(path)


def _read(items: list[Item], settings: Settings, stage_s: float) -> tuple[list[Item], list[Stage]]:
    """Read the files of pictures; return those that were read in the time, and the stages."""
    limits, threads = ImageLimits.from_settings(settings), decoder_count(settings)
    cold = read_cold(items, limits, stage_s, threads=threads)
    items = items[: cold.items]
    return items, [cold, read_warm(items, limits, stage_s, threads=threads)]
