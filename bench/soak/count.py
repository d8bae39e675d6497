"""Count the results of a soak from its files: ids, rates and the events of the workers' logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

PREFIX = "text-"


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Counts of the ids `text-0` … in parts and errors tables."""

    vectors: int
    errors: int
    lost: int  # in neither
    doubled: int  # more than once
    foreign: int  # never submitted


def count_ids(dataset: Path, submitted: int) -> Ids:
    """Count the rows of a dataset's parts and errors tables by id, with pyarrow alone."""
    seen = np.zeros(submitted, dtype=np.int64)
    rows: Counter[str] = Counter()
    foreign = 0
    for folder in ("parts", "errors"):
        for path in sorted((dataset / folder).glob("*.parquet")):
            ids = pq.read_table(path, columns=["id"])["id"].to_pylist()
            rows[folder] += len(ids)
            numbers = [int(i.removeprefix(PREFIX)) for i in ids if _is_ours(i, submitted)]
            foreign += len(ids) - len(numbers)
            np.add.at(seen, numbers, 1)
    return Ids(
        vectors=rows["parts"],
        errors=rows["errors"],
        lost=int((seen == 0).sum()),
        doubled=int((seen > 1).sum()),
        foreign=foreign,
    )


def _is_ours(id_: str, submitted: int) -> bool:
    number = id_.removeprefix(PREFIX)
    return id_ != number and number.isdecimal() and int(number) < submitted


def read_commits(dataset: Path) -> list[tuple[float, int]]:
    """Return when each shard was committed (seconds since 1970) and its items, in that order."""
    records = [json.loads(path.read_text()) for path in (dataset / "manifest").glob("[0-9]*.json")]
    return sorted(
        (datetime.fromisoformat(r["finished_at"]).timestamp(), r["vectors"] + r["errors"])
        for r in records
    )


def rate(commits: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> float | None:
    """Return the items a second that were committed between two times; None if no time is left."""
    within = [(at_s, items) for at_s, items in commits if begin_s <= at_s <= end_s]
    if len(within) < 2 or within[-1][0] <= within[0][0]:
        return None
    return sum(items for _, items in within[1:]) / (within[-1][0] - within[0][0])


def count_events(logs: Iterable[Path]) -> dict[str, int]:
    """Return the counts of repeated, returned and later queued shards."""
    embedded: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    for event in _events(logs):
        name = event["event"]
        if name == "shard embedded":
            embedded[event["dataset"], event["shard"]] += 1
        elif name == "shard was done before":
            counts["delivered_when_done"] += 1
        elif name == "lost shards queued again":
            counts["put_back"] += event["shards"]
        elif name == "shards queued, as there is room":
            counts["fed"] += event["shards"]
            counts["feeds"] += 1
    return {
        "shards_run_more_than_once": sum(count > 1 for count in embedded.values()),
        "delivered_when_done": counts["delivered_when_done"],
        "put_back": counts["put_back"],
        "fed": counts["fed"],
        "feeds": counts["feeds"],
    }


def _events(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in logs:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a killed process may leave half a line; libraries write warnings
            if isinstance(event, dict) and "event" in event:
                yield event
