"""`clipfleet bench` without a process: a stage's clock, the sample, the verdict, the report."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfleet.errors import SourceError, UsageError
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import ZipMember
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.bench.dataset import WrittenPart, steady_part
from clipfleet.tasks.bench.images import copy_and_resize
from clipfleet.tasks.bench.report import Report
from clipfleet.tasks.bench.run import folder_beside
from clipfleet.tasks.bench.sample import read_cold, read_warm, take_sample
from clipfleet.tasks.bench.stage import Count, Setup, Stage, StageName, Steps, measure
from clipfleet.tasks.bench.verdict import Verdict, judge
from clipfleet.workers.engines.cuda.resize import Pixels
from clipfleet.workers.images.decode import ImageLimits
from tests.datasets import make_card, texts
from tests.unit.workers.fake_tensorrt import assert_nothing_held, install

GPU = Setup(
    tower="img",
    runtime="tensorrt",
    batch_size=32,
    is_on_gpu=True,
    takes_pictures=True,
    cores=16,
    decoders=16,
    engine_processes=2,
    shard_size=4096,
    jpeg_share=1.0,
)
CPU = replace(
    GPU,
    runtime="onnxruntime",
    is_on_gpu=False,
    takes_pictures=False,
    engine_processes=1,
    shard_size=1024,
)
TEXT = replace(GPU, tower="txt", takes_pictures=False, jpeg_share=0.0)
RATES: dict[StageName, float] = {  # of pictures; the engine is the slowest
    "list": 80_000,
    "read_cold": 19_000,
    "read_warm": 20_000,
    "tokenise": 50_000,
    "decode": 10_000,
    "decode_resize": 2_800,
    "copy": 78_000,
    "resize": 36_000,
    "engine": 9_000,
    "embedder": 8_800,
    "write": 40_000,
    "whole": 8_500,
}


def stage(name: StageName, items_s: float) -> Stage:
    return Stage(name=name, items=int(100 * items_s), seconds=100, limited_by="x", size_bytes=10**9)


def verdict(setup: Setup, **changes: float) -> Verdict:
    return judge([stage(name, changes.get(name, rate)) for name, rate in RATES.items()], setup)


def test_an_engine_on_a_gpu_that_is_the_slowest_stage_is_the_goal() -> None:
    found = verdict(GPU)
    assert found.bottleneck == "engine"
    assert found.share == pytest.approx(8_500 / 9_000)
    [advice] = found.advice
    assert advice.startswith("The engine makes 9,000/s, and decoding could feed it 10,000/s: there")
    assert "nothing to change" in advice


@pytest.mark.parametrize(
    ("setup", "changes", "bottleneck", "advice"),
    [
        (replace(GPU, batch_size=1), {"engine": 3600}, "engine", "build an engine for 32 items"),
        (GPU, {"decode": 4000}, "decode", "more cores, or decode on the GPU (`clipfleet embed"),
        (replace(GPU, decoders=4), {"decode": 4000}, "decode", "set CLIPFLEET_DECODERS to 16."),
        (GPU, {"read_cold": 900}, "read_cold", "900/s (10 MB/s) of files that are not in the"),
        (GPU, {"copy": 900}, "copy", "smaller pictures are copied faster"),
        (GPU, {"resize": 900}, "resize", "smaller pictures are resized faster"),
        (GPU, {"write": 900}, "write", "900/s in shards of 4,096 items"),
        (CPU, {"engine": 90}, "engine", "The engine makes 90/s on 16 cores"),
        (CPU, {}, "decode_resize", "2,800/s, and the engine takes 9,000/s: use a machine with"),
        (TEXT, {"tokenise": 4000}, "tokenise", "8,000/s in 2 engine processes, and the engine"),
        (TEXT, {"tokenise": 5000}, "engine", "tokenising could feed it 10,000/s"),
        (
            replace(GPU, runtime="onnxruntime", takes_pictures=False),
            {},
            "decode_resize",
            "use a TensorRT engine, whose GPU resizes (without a resize: 10,000/s)",
        ),
    ],
)
def test_the_slowest_stage_is_named_with_its_figures_and_what_to_change(
    setup: Setup, changes: dict[str, float], bottleneck: str, advice: str
) -> None:
    found = verdict(setup, **changes)
    assert found.bottleneck == bottleneck
    assert advice in found.advice[0]


def test_png_files_are_not_sent_to_the_gpu_to_be_decoded() -> None:
    found = verdict(replace(GPU, jpeg_share=0.4), decode=4000.0)
    assert "--decode" not in found.advice[0]


def test_reads_that_are_no_slower_than_those_of_the_cache_are_not_the_disks_fault() -> None:
    slow_reads = {"read_cold": 5000.0, "read_warm": 5100.0}
    assert verdict(GPU, **slow_reads).bottleneck == "engine"


def test_a_resize_that_the_gpu_does_is_no_limit_of_the_decoders() -> None:
    assert verdict(GPU, decode_resize=10.0).bottleneck == "engine"


def test_decoding_and_an_engine_on_the_same_cores_are_limited_together() -> None:
    found = verdict(CPU, decode_resize=300.0, engine=150.0, whole=95.0, embedder=98.0)
    [shared] = found.advice[1:]
    assert shared.endswith(
        "share 16 cores, which allows 100/s together; the whole way makes 95% of it."
    )


def test_pauses_between_shards_are_named_unless_the_shards_are_smaller_than_those_of_embed() -> (
    None
):
    [_, pauses] = verdict(GPU, whole=6500.0).advice
    assert "6,500/s, and decoding with the engine 8,800/s" in pauses
    assert pauses.endswith("shards of 4,096 items; use larger shards (--shard-size).")
    [_, pauses] = verdict(replace(GPU, engine_processes=1), whole=6500.0).advice
    assert "or set CLIPFLEET_ENGINE_PROCESSES to 2" in pauses
    assert len(verdict(replace(GPU, is_shard_reduced=True), whole=6500.0).advice) == 1


def test_a_report_has_a_line_for_each_stage_and_counts_the_items_that_failed() -> None:
    stages = [stage(name, rate) for name, rate in RATES.items()]
    stages[4] = replace(stages[4], errors=7)
    report = Report(
        source="folder photos",
        model="m.trt",
        sample_items=2000,
        setup=GPU,
        stages=tuple(stages),
        classes={"missing": 2, "decode_failed": 5},
        verdict=judge(stages, GPU),
    )
    lines = report.lines()
    assert lines[1].split() == ["list", "the", "source", "80,000", "10.0", "8,000,000", "x"]
    assert lines[5].endswith("x; 7 errors")
    begin = len(stages) + 2
    assert lines[begin : begin + 4] == [
        "7 of 2,000 items cannot be embedded:",
        "  5 × decode_failed",
        "  2 × missing",
        "bottleneck: engine, 9,000/s; the whole way makes 8,500/s, 94% of it",
    ]
    told = report.to_json()
    assert told["stages"][0]["items_s"] == 80_000
    assert told["bottleneck"] == "engine"
    assert told["setup"]["cores"] == 16


def test_a_stage_ends_with_its_time_and_does_not_count_the_warm_up() -> None:
    now_s, closed = 0.0, []

    def steps() -> Steps:
        nonlocal now_s
        try:
            while True:
                now_s += 1.0
                yield Count(items=10, errors=1, size_bytes=100)
        finally:
            closed.append(True)

    found = measure(
        "read_warm",
        steps(),
        3.0,
        limited_by="x",
        warm_up_items=15,
        has_bytes=True,
        clock=lambda: now_s,
    )
    assert (found.items, found.errors, found.seconds) == (30, 3, 3.0)
    assert (found.items_s, found.bytes_s) == (10.0, 100.0)
    assert closed == [True]


def test_files_are_read_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    items = [Item(id=name, uri=str(tmp_path / name)) for name in ("a", "b")]
    for read in (read_cold, read_warm):
        found = read(items, ImageLimits(), 60.0, threads=2)
        assert (found.items, found.errors, found.size_bytes) == (2, 1, 5)


def test_pictures_in_a_large_archive_count_with_their_own_sizes(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as archive:
        archive.truncate(8 << 30)  # without taking room
    member = ZipMember(
        path=f"{tmp_path}/a.zip", offset=0, size=5, method="stored", crc32=zlib.crc32(bytes(5))
    )
    items = [Item(id=name, uri=member.uri) for name in ("a", "b", "c")]
    found = read_cold(items, ImageLimits(), 60.0, threads=2)
    assert (found.items, found.errors, found.size_bytes) == (3, 0, 15)


def test_a_pipe_is_not_opened_to_drop_it_from_the_cache(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # a plain open would wait for a writer
    found = read_cold([Item(id="p", uri=str(tmp_path / "pipe"))], ImageLimits(), 60.0, threads=1)
    assert (found.items, found.errors) == (1, 1)


def test_a_sample_is_the_beginning_of_a_source() -> None:
    items, found = take_sample(ListSource(texts(*"abcde")), 3, 60.0)
    assert [item.id for item in items] == ["a", "b", "c"]
    assert found.items == 3


def test_a_source_without_items_and_one_of_urls_are_refused() -> None:
    with pytest.raises(SourceError, match="holds no item"):
        take_sample(ListSource([]), 3, 60.0)
    with pytest.raises(UsageError, match="bench measures files"):
        take_sample(ListSource([Item(id="u", uri="https://example.com/a.jpg")]), 3, 60.0)


def test_datasets_are_measured_on_the_disk_of_out_and_never_in_a_dataset(tmp_path: Path) -> None:
    root = tmp_path / "vectors"
    Dataset.create(str(root), make_card(), kind="planned", embedding_dtype="float16")
    assert folder_beside(None) is None
    assert folder_beside(str(tmp_path / "new" / "one")) == str(tmp_path)
    assert folder_beside(str(root)) == str(tmp_path)
    with pytest.raises(UsageError, match="bench measures disks"):
        folder_beside("s3://bucket/vectors")


def test_the_steady_part_begins_when_each_worker_has_written_and_counts_errors() -> None:
    def part(items: int, worker: str, written_s: float) -> WrittenPart:
        return WrittenPart(items=items, errors=0, worker=worker, written_s=written_s)

    parts = [part(64, "a", 1.0), part(64, "b", 3.0), part(64, "a", 2.0), part(50, "b", 5.0)]
    assert steady_part(parts) == (50, 2.0)
    assert steady_part(parts[:1]) == (0, 0.0)


class Decoded:
    """Decoded pixels."""

    on_gpu = False

    def __init__(self, width: int, height: int) -> None:
        self._pixels = np.full((height, width, 3), 9, np.uint8)
        self.width, self.height = width, height
        self.address: int = self._pixels.ctypes.data
        self.on_gpu = False


def test_pictures_are_copied_without_a_resize_and_then_resized_without_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = install(monkeypatch)
    launches, launch = count(), machine.driver.cuLaunchKernel

    def counted(*given: Any) -> Any:
        next(launches)
        return launch(*given)

    monkeypatch.setattr(machine.driver, "cuLaunchKernel", counted)
    pictures: list[Pixels] = [Decoded(30, 20), Decoded(9, 40)]
    copied, resized = copy_and_resize(pictures, 8, 0.001)
    assert copied.name == "copy"
    assert copied.size_bytes == copied.items * 3 * (30 * 20 + 9 * 40) / 2
    assert resized.name == "resize"
    # Two passes for each batch; one batch warms up.
    assert next(launches) == 2 * (resized.items / 2 + 1)
    assert_nothing_held(machine)
