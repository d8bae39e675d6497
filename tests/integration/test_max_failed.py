"""`--max-failed` in a fleet: a job stops, says why, and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import Bench, run_command, wait_until

pytestmark = pytest.mark.integration


def test_a_job_with_too_many_failures_stops_says_why_and_goes_on(
    served: Bench, tmp_path: Path
) -> None:
    source, root = tmp_path / "t.jsonl", served.dataset_path("too-many")
    url = ("--redis-url", served.settings.redis_url)

    def run(*arguments: str) -> str:
        ended = run_command(*arguments, *url)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def submit(name: str, *options: str) -> None:
        rows = ({"id": f"{name}{n:03d}", "text": "words" if n % 2 else ""} for n in range(200))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = ("--model", str(served.settings.model), "--shard-size", "10")
        run("submit", str(source), root, *model, *options)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run_command("status", root, *url, "--json").stdout)
        return found

    def stopped() -> bool:
        now = status()
        return bool(now["refusals"]) and not (now["waiting"] or now["held"])

    submit("a")
    wait_until(lambda: status()["finished"], what="a job without a limit is done")
    submit("b", "--max-failed", "10%")
    wait_until(stopped, what="a job with a limit is stopped")
    reason = "of the 200 items of job 00002 failed, which is more than --max-failed 10%"
    assert reason in run_command("status", root, *url).stdout
    assert status()["vectors"] >= 120  # what is embedded stays
    run("resume", root)
    wait_until(stopped, what="it is stopped again, as nothing was mended")
    run("resume", root, "--max-failed", "100%")
    wait_until(lambda: status()["finished"], what="it goes on")
    served.assert_whole("too-many", vectors=200, errors=200)
