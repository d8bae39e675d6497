"""The soak, small: a job under kills and two restarts of Redis, through its command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.soak.__main__ import main
from bench.soak.report import SECTION, report

pytestmark = pytest.mark.integration

ITEMS = 8_000
# The engine takes its time: between the two restarts the job must not be over at one glance.
SMALL = f"--items {ITEMS} --workers 2 --item-s 0.001 --kill-every-s 10 --redelivery-s 4"


def test_nothing_is_lost_or_doubled_while_workers_and_redis_are_killed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{SECTION.begin}\n{SECTION.end}\nafter\n")
    told = ["--json", str(tmp_path / "soak.json"), "--into", str(page)]
    code = main([*SMALL.split(), "--backlog-shards", "5", "--limit-s", "200", *told])
    result = json.loads((tmp_path / "soak.json").read_text())
    assert code == 0, result
    ids = {"vectors": ITEMS, "errors": 0, "lost": 0, "doubled": 0, "foreign": 0}
    assert result["ids"] == ids
    assert result["verify"] == {"ok": True, "problems": []}
    faults = result["faults"]
    assert faults.get("workers_killed", 0) + faults.get("children_killed", 0) >= 1
    # A child that is killed before it is up takes its worker along, and no worker starts while
    # Redis is away.
    for words in faults["ended_by_themselves"]:
        assert re.search("Could not start worker|does not answer", words), words
    assert len(faults["redis_away_s"]) == 2
    assert set(result["memory"]) == {"submitter", "worker", "engine's child", "Redis"}
    assert result["backlog"]["shards"] == 500
    assert 0 < result["backlog"]["limited_bytes"] < result["backlog"]["unlimited_bytes"]
    assert report(result) in page.read_text()
