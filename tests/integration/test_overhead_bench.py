"""`bench.overhead` on a small job: the command's rates, CPU time and memory by role."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu.pipeline.sources import caption_source
from bench.overhead.command import run_embed
from clipfleet.workers.engines.fake import write_fake_engine

pytestmark = pytest.mark.integration


def test_a_run_of_the_command_has_rates_cpu_time_and_the_memory_of_each_role(
    tmp_path: Path,
) -> None:
    # The engine takes its time: the samples between the first shard and the last have both ends.
    model = write_fake_engine(tmp_path, "txt", item_s=0.02)
    captions = caption_source(tmp_path, 100)
    run = run_embed(captions.path, tmp_path / "vectors", model, "--shard-size", "50")
    assert run.items == 100
    assert run.items_s is not None
    assert 0 < run.whole_items_s < run.items_s <= 50
    assert run.cpu_s is not None
    assert 0 < run.cpu_s < 2 / run.items_s  # one CPU is busy for less than the time of an item
    assert set(run.peaks_mib) == {"command", "worker", "engine process", "Redis"}
    assert all(5 < size < 1000 for size in run.peaks_mib.values())
