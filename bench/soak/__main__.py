"""Run a job under faults: workers are killed every few seconds, Redis is restarted twice.

    python -m bench.soak --into docs/explanation/performance.md
    python -m bench.soak --items 20000 --workers 2 --kill-every-s 1 --json small.json

Texts go through `clipfleet submit`, a redis-server with an append-only file and real workers
with a fake engine. The first and the last part of the job run without faults. At the end, the
program looks for every submitted id in the parts and runs `clipfleet verify`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.soak.backlog import measure_backlog
from bench.soak.count import PREFIX, count_events, count_ids, rate, read_commits
from bench.soak.fleet import SoakFleet, SoakRedis, started
from bench.soak.memory import SETTLED, Memory, MemorySampler
from bench.soak.report import SECTION, write_results
from clipfleet.settings import Settings, cores, load_settings
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.environment import environment_of

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "bench" / "results" / "soak.json"
STARTED = 0.03  # of the job: rates count from here
FAULTS = (0.15, 0.80)  # kills come in this part of the job
RESTARTS = ((0.35, signal.SIGTERM), (0.60, signal.SIGKILL))
ENDED = 0.99  # rates count up to here: in the end, workers run out of shards
SETTLE_S = 15.0  # after the last fault: messages of a dead worker return to the queue
_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    items: int
    workers: int
    shard_size: int
    max_queued_shards: int
    backlog_shards: int
    item_s: float
    kill_every_s: float
    redelivery_s: int
    limit_s: float
    seed: int
    beside: str


class Soak:
    """One run in a folder of its own."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.memory = Memory()
        self.chance = random.Random(options.seed)
        self.redis = SoakRedis(folder / "redis")
        self.folder = folder
        (folder / "output").mkdir()
        self.dataset = folder / "output" / "texts"
        self.settings = self._settings()
        self.shards = -(-options.items // options.shard_size)
        self.times: dict[str, float] = {}  # seconds since 1970, by what happened

    def run(self) -> dict[str, Any]:
        """Return the result, in JSON's types."""
        try:
            submitted = self.submit()
        except BaseException:
            self.redis.close()
            raise
        fleet = SoakFleet(self.settings, self.options.workers, self.folder / "logs", self.chance)
        began_s = time.monotonic()
        sampler = MemorySampler(
            self.memory, lambda: [("Redis", self.redis.pid, True), *fleet.pids()], self.done
        )
        with started(self.redis, fleet), sampler:
            self.disturb(fleet, began_s + self.options.limit_s)
        seconds = time.monotonic() - began_s
        return {
            "options": self.options.__dict__,
            "machine": {"cores": cores(), "beside": self.options.beside},
            "submit": submitted,
            "seconds": round(seconds, 1),
            "shards": self.shards,
            **self.verify(),
            "faults": {
                **{name.replace(" ", "_"): count for name, count in sorted(fleet.counts.items())},
                "ended_by_themselves": fleet.ended,
                "redis_away_s": [round(s, 2) for s in self.redis.away_s],
            },
            **count_events(fleet.logs),
            "backlog": measure_backlog(self.settings, self.folder, self.options.backlog_shards),
            "rates": self.rates(),
            "memory": self.sizes(),
        }

    def submit(self) -> dict[str, Any]:
        """Plan all items and queue shards up to the limit; no worker runs yet."""
        source = write_texts(self.folder / "texts.jsonl", self.options.items)
        command = [sys.executable, "-m", "clipfleet", "submit", str(source), str(self.dataset)]
        command += ["--model", str(self.settings.model), "--json"]
        began_s = time.monotonic()
        with subprocess.Popen(
            command, env=environment_of(self.settings), stdout=subprocess.PIPE
        ) as process:
            elapsed = Memory()
            sampler = MemorySampler(
                elapsed,
                lambda: [("submitter", process.pid, True)],
                lambda: time.monotonic() - began_s,
            )
            with sampler:
                submitted = json.loads(process.communicate()[0])
        seconds = time.monotonic() - began_s
        self.memory.take(elapsed, scale=1 / seconds)  # its memory grows evenly over the job
        return {
            "seconds": round(seconds, 1),
            "queued_shards": submitted["queued_shards"],
            "later_shards": submitted["later_shards"],
        }

    def disturb(self, fleet: SoakFleet, deadline_s: float) -> None:
        """Kill and restart until the middle of the job is over, then wait for its end."""
        restarts = list(RESTARTS)
        next_kill_s = 0.0
        while (done := self.done()) < 1:
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise SystemExit(f"soak: {done:.1%} done within {self.options.limit_s} s")
            if FAULTS[0] <= done < FAULTS[1] and now_s >= next_kill_s:
                self._note("fault")
                fleet.kill_one()
                next_kill_s = now_s + self.options.kill_every_s * self.chance.uniform(0.5, 1.5)
            if restarts and done >= restarts[0][0]:  # even if a fast fleet has left the middle
                self._note("fault")
                self.redis.restart(restarts.pop(0)[1])
            fleet.supervise()
            time.sleep(_LOOK_S)

    def done(self) -> float:
        """Return the share of the shards that have their record."""
        return _count_shards(self.dataset / "manifest") / self.shards

    def verify(self) -> dict[str, Any]:
        """Return the counts of ids, and the result of `clipfleet verify`."""
        command = [sys.executable, "-m", "clipfleet", "verify", str(self.dataset), "--json"]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
        return {
            "ids": count_ids(self.dataset, self.options.items).__dict__,
            "verify": {"ok": found["ok"], "problems": found["problems"]},
        }

    def rates(self) -> dict[str, float | None]:
        """Return the items a second before the first fault, over all, and after the last."""
        commits = read_commits(self.dataset)
        begin_s = commits[int(STARTED * len(commits))][0]
        end_s = commits[int(ENDED * (len(commits) - 1))][0]
        first_s, last_s = self.times.get("first fault", end_s), self.times.get("last fault", end_s)
        return {
            "before": rate(commits, begin_s, first_s),
            "during": rate(commits, first_s, last_s),
            "after": rate(commits, last_s + SETTLE_S, end_s),
        }

    def sizes(self) -> dict[str, dict[str, float | None]]:
        """Return peak bytes by role, and growth in bytes a million items."""
        millions = self.options.items / 1e6
        sizes: dict[str, dict[str, float | None]] = {}
        for role, peak in self.memory.peaks.items():
            growth, late = (self.memory.growth(role, begin=begin) for begin in (SETTLED, 0.5))
            sizes[role] = {
                "peak_bytes": peak,
                "growth_bytes_a_million_items": growth and round(growth / millions),
                "late_growth_bytes_a_million_items": late and round(late / millions),
            }
        return sizes

    def _settings(self) -> Settings:
        return load_settings(
            redis_url=self.redis.url,
            tower="txt",
            model=str(write_fake_engine(self.folder, "txt", item_s=self.options.item_s)),
            output=str(self.folder / "output"),
            shard_size=self.options.shard_size,
            max_queued_shards=self.options.max_queued_shards,
            visibility_timeout_s=self.options.redelivery_s,
            reconcile_interval_s=3.0,
            decoders=1,
            engine_threads=1,
        )

    def _note(self, fault: str) -> None:
        now_s = time.time()
        self.times.setdefault(f"first {fault}", now_s)
        self.times[f"last {fault}"] = now_s


def write_texts(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            text = f"第{n}张图片：左上角有{n % 7}个红色的圆形 number {n * 7919}"
            file.write(json.dumps({"id": f"{PREFIX}{n}", "text": text}, ensure_ascii=False) + "\n")
    return path


def _count_shards(manifest: Path) -> int:
    try:
        return sum(name[0].isdecimal() for name in os.listdir(manifest))
    except FileNotFoundError:
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job, write the result, and return 0 if no id is lost or doubled."""
    parser = argparse.ArgumentParser(
        "python -m bench.soak", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--items", type=int, default=1_000_000)
    add("--workers", type=int, default=8)
    add("--shard-size", type=int, default=500)
    add("--max-queued-shards", type=int, default=400)
    add("--backlog-shards", type=int, default=500, help="a limit, for a plan 100 times as long")
    add("--item-s", type=float, default=0.002, help="the engine's seconds for an item; it sleeps")
    add("--kill-every-s", type=float, default=4.0, help="seconds between kills, on average")
    add("--redelivery-s", type=int, default=10, help="seconds until a dead worker's shards return")
    add("--limit-s", type=float, default=1800.0, help="seconds after which the run fails")
    add("--seed", type=int, default=1)
    add("--beside", default="nothing", help="other load of the machine, for the report")
    add("--json", type=Path, default=RESULT, help="file of the result")
    add("--into", type=Path, help="page whose table is rewritten")
    given = vars(parser.parse_args(arguments))
    json_path, page = given.pop("json"), given.pop("into")
    json_path.parent.mkdir(parents=True, exist_ok=True)
    if page is not None:
        SECTION.insert(page.read_text(encoding="utf-8"), "")  # refuse a wrong page before the run
    with tempfile.TemporaryDirectory(prefix="clipfleet-soak-") as folder:
        result = Soak(Options(**given), Path(folder)).run()
    write_results(result, json_path, page)
    ids = result["ids"]
    whole = result["verify"]["ok"] and not (ids["lost"] or ids["doubled"] or ids["foreign"])
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
