"""What a TensorRT run tells of itself: its metrics while it works, and its copies of equal bytes.

    TRT_PYTHON -m pytest -s -v -c /dev/null --rootdir . --import-mode=importlib \
        -p no:cacheprovider tests/gpu/test_tensorrt_metrics.py

TEST_MODEL and TEST_ENGINES are as in test_tensorrt_run.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt")
pytest.importorskip("cuda.bindings.runtime")

from prometheus_client.parser import text_string_to_metric_families

from tests.gpu.support import ROOT, clipfleet, draw, vectors
from tests.gpu.test_tensorrt_run import Engines, engine_of
from tests.redis_server import free_port

__all__ = ["engine_of"]  # a fixture

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

PICTURES = 300
TIMES = 40  # each picture in the table of the metrics' run
COPIES = 3  # each picture in the table of copies
SHARD_SIZE = 30 * COPIES  # a multiple: the copies of a picture are in one shard
LEAST_COSINE = 0.9999
RUN_S = 240.0
POLL_S = 0.02

Scrape = tuple[float, dict[str, float]]  # seconds, and samples by name and values of the labels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted((draw(tmp_path_factory.mktemp("corpus"), PICTURES) / "images").iterdir())


def table(path: Path, pictures: list[Path], times: int) -> Path:
    """Write a table with each picture so many times, one after the other, and return it."""
    rows = [{"id": f"{p.stem}-{n}", "uri": str(p)} for p in pictures for n in range(times)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scrape(port: int) -> dict[str, float]:
    """Return the samples that are served; none while nobody serves them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        " ".join([sample.name, *(v for _, v in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrapes_of_a_run(source: Path, dataset: Path, engine: Path) -> list[Scrape]:
    """Embed a source, and return what its metrics were until it ended."""
    port, found = free_port(), []
    options = ("--model", engine, "--shard-size", "500", "--metrics-port", str(port))
    command = [*(sys.executable, "-m", "clipfleet", "embed", source, dataset), *options]
    with (dataset.parent / "log").open("w+") as log:
        run = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=log, stderr=log)
        try:
            while run.poll() is None:
                found.append((time.monotonic(), scrape(port)))
                time.sleep(POLL_S)
        finally:
            run.kill()
        log.seek(0)
        assert run.wait() == 0, log.read()
    return found


def test_a_run_on_a_gpu_serves_its_memory_and_the_engines_idle_share(
    engine_of: Engines, pictures: list[Path], tmp_path: Path
) -> None:
    _, engine = engine_of("img")
    source = table(tmp_path / "many.jsonl", pictures, TIMES)
    scrapes = scrapes_of_a_run(source, tmp_path / "vectors", engine)
    items, seconds = "clipfleet_items_total vector img", "clipfleet_stage_seconds_total engine img"
    first = next(n for n, (_, samples) in enumerate(scrapes) if samples.get(items, 0) > 0)
    assert first > 0
    begin_s = scrapes[first - 1][0]
    end_s, last = [(at_s, samples) for at_s, samples in scrapes if samples.get(items, 0) > 0][-1]
    used, total = (last[f"clipfleet_gpu_memory_bytes {state} img"] for state in ("used", "total"))
    idle = max(0.0, 1 - last[seconds] / (end_s - begin_s))  # as in examples/monitoring/rules.yml
    print(f"\n{len(scrapes)} scrapes, {last[items]:.0f} items in {end_s - begin_s:.2f} s")
    print(f"GPU memory {used / 2**30:.2f} of {total / 2**30:.1f} GiB, engine idle {idle:.0%}")
    assert engine.stat().st_size < used < total
    assert last[seconds] > 0
    assert last["clipfleet_engine_items_total img"] == last[items]
    assert idle < 1


@pytest.mark.parametrize("decode", ["exact", "gpu"])
def test_copies_of_equal_bytes_have_the_vectors_of_a_run_without_content_hashes(
    engine_of: Engines, pictures: list[Path], tmp_path: Path, decode: str
) -> None:
    if decode == "gpu" and importlib.util.find_spec("nvidia.nvimgcodec") is None:
        pytest.skip("no nvImageCodec")
    _, engine = engine_of("img")
    source = table(tmp_path / "copies.jsonl", pictures, COPIES)
    once, each = tmp_path / "once", tmp_path / "each"
    options = ("--model", engine, "--dtype", "float32", "--shard-size", str(SHARD_SIZE))
    for dataset, more in ((once, ("--content-hash",)), (each, ())):
        told = clipfleet(
            "embed", source, dataset, *options, "--decode", decode, *more, timeout_s=RUN_S
        )
        assert told["ok"]
    status = clipfleet("status", once, timeout_s=RUN_S)
    assert status["vectors"] == COPIES * PICTURES
    assert status["copied"] == (COPIES - 1) * PICTURES
    (ids, got), (expected_ids, expected) = vectors(once), vectors(each)
    assert ids == expected_ids
    of_one = got.reshape(PICTURES, COPIES, -1)  # ids are sorted: the copies follow each other
    assert (of_one == of_one[:, :1]).all()
    cosines = np.einsum("nd,nd->n", got, expected)
    print(f"\n{decode}: {status['copied']} vectors saved, worst cosine {cosines.min():.8f}")
    if decode == "exact":
        assert np.array_equal(got, expected)
    assert cosines.min() >= LEAST_COSINE
