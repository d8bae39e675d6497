"""Measure how a plan of many pictures costs: time, memory, plan bytes, Redis bytes, requests.

    python -m bench.planning --rows 10000000 --folder /large/disk
    python -m bench.planning --into-page

The source is a Parquet table of names that look like checksums, so they hardly compress. Nothing
is embedded. Each step is a process of its own: CPU time and peak memory are those of the process.
"Again" submits the same table, "append" one with a hundredth more rows. Redis and the object store
(`tests/s3.py`, which counts requests) are real servers of this machine. The result replaces that of
as many rows in bench/results/planning.json, from which `--into-page` writes the tables of
docs/explanation/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.planning.page import PAGE, RESULT, ROOT, SECTION, report
from clipfleet.messages import EmbedTask
from clipfleet.settings import Settings, cores, load_settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.open_source import open_source
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.local.redis_server import private_redis
from clipfleet.tasks.submit.enqueue import queue_missing
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from tests.datasets import numbered_texts
from tests.s3 import S3, run_s3

MIB = 1 << 20
TABLE_ROWS = 100_000  # in a row group
DIM = 512
PLANNED_SHARDS = 40  # in the object store
COUNTED_SHARDS = 4  # of these, whose requests are counted


def main() -> None:
    arguments = parse_arguments()
    if arguments.step:
        print(json.dumps(measured(arguments.step, arguments.folder, arguments.shard_size)))
        return
    result = json.loads(arguments.json.read_text("utf-8")) if arguments.json.exists() else {}
    if arguments.into_page:
        SECTION.write(PAGE, report(result))
        return
    plans = {plan["rows"]: plan for plan in result.get("plans", ())}
    for rows in arguments.rows:
        plans[rows] = measure(rows, arguments)
    result = {
        "cores": cores(),
        "shard_size": arguments.shard_size,
        "plans": [plans[rows] for rows in sorted(plans)],
        "redis": redis_of_a_full_queue(),
        "requests": requests_of_a_shard(arguments.shard_size),
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(report(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--shard-size", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where tables and datasets are made")
    parser.add_argument("--once", action="store_true", help="leave 'again' and 'append' out")
    parser.add_argument("--json", type=Path, default=RESULT, help="the kept result")
    parser.add_argument("--into-page", action="store_true", help="only write the page's tables")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args()


def measure(rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what planning and queueing a table of so many rows cost."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        Path(folder, "table").mkdir()
        write_table(Path(folder, "table", "1.parquet"), 0, rows)

        def step(name: str, redis_url: str = "") -> dict[str, float]:
            options = ["--step", name, "--folder", folder]
            options += ["--shard-size", str(arguments.shard_size)]
            environment = {**os.environ, "CLIPFLEET_REDIS_URL": redis_url}
            done = subprocess.run(
                [sys.executable, "-m", "bench.planning", *options],
                cwd=ROOT,
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
            )
            result: dict[str, float] = json.loads(done.stdout)
            print(rows, name, result, file=sys.stderr, flush=True)
            return result

        result: dict[str, Any] = {"rows": rows, "plan": step("plan")}
        (job,) = jobs(Dataset.open(f"{folder}/out"))
        files = list(Path(folder, "out", PLAN_FOLDER).iterdir())
        result |= {
            "shards": job.shards,
            "plan_files": len(files),
            "plan_bytes": sum(file.stat().st_size for file in files),
            "table_bytes": Path(folder, "table", "1.parquet").stat().st_size,
        }
        with private_redis() as url:
            result["queue"] = step("queue", url)
        if not arguments.once:
            result["again"] = step("again")
            write_table(Path(folder, "table", "2.parquet"), rows, rows + rows // 100)
            result["append"] = step("append")
    return result


def write_table(path: Path, first: int, end: int) -> None:
    """Write a table of pictures whose names are the numbers from `first` on, mixed."""
    schema = pa.schema([("id", pa.string()), ("uri", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(first, end, TABLE_ROWS):
            names = mixed(np.arange(start, min(end, start + TABLE_ROWS), dtype=np.uint64))
            ids = [f"{name >> 56:02x}/{name:016x}.jpg" for name in names.tolist()]
            writer.write_table(pa.table([ids, [f"/pictures/{id_}" for id_ in ids]], schema=schema))


def mixed(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return numbers that look like chance, all different: the steps of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    names: np.ndarray[Any, np.dtype[np.uint64]] = numbers ^ (numbers >> np.uint64(31))
    return names


def plan(folder: Path, shard_size: int) -> int:
    """Plan what the dataset does not have of the table; return the number of new items."""
    card = fake_card("img", dim=DIM)
    dataset = Dataset.create(f"{folder}/out", card, kind="planned", embedding_dtype="float16")
    job = plan_items(dataset, open_source(f"{folder}/table", tower="img"), shard_size)
    return job.items if job else 0


def queue(folder: Path, _: int) -> int:
    """Queue the shards of the dataset as `submit` does; return their number."""
    return queue_missing(Dataset.open(f"{folder}/out"), load_settings()).queued


STEPS: dict[str, Callable[[Path, int], int]] = {
    "plan": plan,
    "queue": queue,
    "again": plan,
    "append": plan,
}


def measured(name: str, folder: Path, shard_size: int) -> dict[str, float]:
    """Return what a step costs this process, and the number of its items or shards."""
    before_s, started_s = time.process_time(), time.monotonic()
    count = STEPS[name](folder, shard_size)
    return {
        "count": count,
        "cpu_s": round(time.process_time() - before_s, 2),
        "wall_s": round(time.monotonic() - started_s, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // MIB,
    }


def redis_of_a_full_queue() -> dict[str, int]:
    """Return the shards of a full queue, and the bytes by which they make Redis grow."""
    card = fake_card("txt", dim=DIM)
    with tempfile.TemporaryDirectory() as folder, private_redis() as url, connect(url) as client:
        settings = load_settings(redis_url=url)
        root = f"{folder}/out"
        dataset = Dataset.create(root, card, kind="planned", embedding_dtype="float16")
        plan_items(dataset, ListSource(numbered_texts(settings.max_queued_shards)), 1)
        before = int(client.info("memory")["used_memory"])
        queued = queue_missing(dataset, settings).queued
        after = int(client.info("memory")["used_memory"])
    return {"shards": queued, "bytes": after - before}


def requests_of_a_shard(shard_size: int) -> dict[str, float]:
    """Return the requests, by method, that a worker sends to an object store for one shard."""
    with run_s3("bucket") as s3, tempfile.TemporaryDirectory() as folder:
        os.environ.update(s3.environment)
        model = write_fake_engine(Path(folder), "txt")
        settings = load_settings(tower="txt", model=str(model), output="s3://bucket/vectors")
        found = _requests(s3, settings, shard_size)
    return {method: count / COUNTED_SHARDS for method, count in sorted(found.items())}


def _requests(s3: S3, settings: Settings, shard_size: int) -> Counter[str]:
    with Embedder.from_settings(settings) as embedder:
        root = f"{settings.output}/texts"
        dataset = Dataset.create(root, embedder.card, kind="planned", embedding_dtype="float16")
        plan_items(dataset, ListSource(numbered_texts(PLANNED_SHARDS * shard_size)), shard_size)
        shards = list(missing_shards(dataset))
        s3.requests.clear()
        for shard in shards[-COUNTED_SHARDS:]:
            model = embedder.card.identity
            task = EmbedTask(dataset=root, tower="txt", model=model, shard=shard)
            embed_shard(task, embedder, worker="bench")
    return Counter(request.partition(" ")[0] for request in s3.requests)


if __name__ == "__main__":
    main()
