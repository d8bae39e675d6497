"""The soak's counting: ids, rates, memory, and the table of the documentation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.soak.__main__ import RESULT
from bench.soak.count import Ids, count_events, count_ids, rate, read_commits
from bench.soak.memory import Memory, resident_bytes, slope
from bench.soak.report import SECTION, report

ROOT = Path(__file__).parents[3]


def write_ids(dataset: Path, folder: str, name: str, *ids: str) -> None:
    (dataset / folder).mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": list(ids)}), dataset / folder / f"{name}.parquet")


def test_lost_doubled_and_foreign_ids_are_counted(tmp_path: Path) -> None:
    write_ids(tmp_path, "parts", "a", "text-0", "text-1", "text-9", "stranger", "text-x", "3")
    write_ids(tmp_path, "parts", "b", "text-1", "text-2")
    write_ids(tmp_path, "errors", "b", "text-2", "text-4")
    found = count_ids(tmp_path, 6)
    assert found == Ids(vectors=8, errors=2, lost=2, doubled=2, foreign=4)


def test_a_whole_dataset_counts_as_such(tmp_path: Path) -> None:
    write_ids(tmp_path, "parts", "a", "text-0", "text-1")
    write_ids(tmp_path, "errors", "a", "text-2")
    assert count_ids(tmp_path, 3) == Ids(vectors=2, errors=1, lost=0, doubled=0, foreign=0)


def test_a_rate_is_of_the_shards_between_two_times(tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    for second in (1, 3, 2, 7):
        record = {"finished_at": f"1970-01-01T00:00:0{second}+00:00", "vectors": 90, "errors": 10}
        (tmp_path / "manifest" / f"{second}.json").write_text(json.dumps(record))
    commits = read_commits(tmp_path)
    assert commits == [(1.0, 100), (2.0, 100), (3.0, 100), (7.0, 100)]
    assert rate(commits, 1, 3) == 100
    assert rate(commits, 0, 9) == 50
    assert rate(commits, 4, 9) is None


def test_what_was_done_again_is_read_from_the_logs(tmp_path: Path) -> None:
    embedded = [{"event": "shard embedded", "dataset": "/d", "shard": s} for s in "aabbc"]
    other = [{"event": "lost shards queued again", "shards": 3}]
    other += [{"event": "shard was done before", "dataset": "/d", "shard": "a"}]
    other += 2 * [{"event": "shards queued, as there is room", "shards": 40}]
    (tmp_path / "1.log").write_text("\n".join(map(json.dumps, [*embedded, *other])))
    (tmp_path / "2.log").write_text('a warning\n5\n{"event": "shard embedded", "da')
    assert count_events(tmp_path.glob("*.log")) == {
        "shards_run_more_than_once": 2,
        "delivered_when_done": 1,
        "put_back": 3,
        "fed": 80,
        "feeds": 2,
    }


def test_growth_is_the_slope_within_each_life_of_a_process() -> None:
    memory = Memory()
    for done in (0.2, 0.4, 0.6):
        memory.add("Redis", 1, done, int(100 + 50 * done), follow=True)
        memory.add("Redis", 2, done + 0.3, int(9000 + 50 * (done + 0.3)), follow=True)
    memory.add("Redis", 3, 0.9, 70_000, follow=True)  # one sample gives no slope
    memory.add("Redis", 1, 0.01, 5_000, follow=True)  # at the start
    memory.add("worker", 4, 0.5, 80, follow=False)
    assert memory.peaks == {"Redis": 70_000, "worker": 80}
    assert memory.growth("Redis") == pytest.approx(50)
    assert memory.growth("Redis", begin=0.85) is None
    assert memory.growth("worker") is None
    assert slope([]) is None


def test_samples_in_other_units_are_taken_over() -> None:
    memory, elapsed = Memory(), Memory()
    for second in range(1, 11):
        elapsed.add("submitter", 1, second, 1000 + 7 * second, follow=True)
    memory.take(elapsed, scale=1 / 10)
    assert memory.growth("submitter") == pytest.approx(70)


def test_a_process_has_memory_until_it_ends() -> None:
    size_bytes = resident_bytes(os.getpid())
    assert size_bytes is not None
    assert size_bytes > 10 << 20
    assert resident_bytes(2**22 + 1) is None  # above the kernel's largest


def test_the_documentation_has_the_table_of_the_kept_result() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert SECTION.insert(page, report(result)) == page
    assert result["options"]["items"] >= 1_000_000
    ids = result["ids"]
    assert (ids["lost"], ids["doubled"], ids["foreign"]) == (0, 0, 0)
