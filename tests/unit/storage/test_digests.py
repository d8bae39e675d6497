"""Digests of ids: what comes twice, and what is known, in memory and in the temporary folder."""

from __future__ import annotations

import errno
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from clipfleet.errors import StorageError
from clipfleet.storage.plan import digests
from clipfleet.storage.plan.digests import DigestRuns, PlannedIds, content_digests, id_digests

IDS = [f"id {n * 7919 % 3000}" for n in range(3000)]


@pytest.fixture(params=[False, True], ids=["in memory", "on disk"])
def on_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        monkeypatch.setattr(digests, "RUN_ROWS", 400)
    return bool(request.param)


def add(runs: DigestRuns, ids: list[str], *, first: int = 1, content: str = "") -> None:
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        origins = np.arange(first + start, first + start + len(some), dtype=np.uint64)
        runs.add(id_digests(some), origins, content_digests(i + content for i in some))


def test_ids_that_come_twice_are_found_across_runs_in_the_order_of_their_second_place(
    on_disk: bool,
) -> None:
    with closing(DigestRuns()) as runs:
        add(runs, [*IDS, IDS[5], IDS[2999], IDS[5], IDS[0]])
        assert runs.on_disk == on_disk
        assert runs.twice(3) == [(6, 3001), (3000, 3002), (3001, 3003)]
        assert runs.twice(9)[3:] == [(1, 3004)]


def test_the_first_row_of_a_known_id_counts(on_disk: bool) -> None:
    with closing(DigestRuns()) as runs:
        add(runs, IDS, content=" new")
        add(runs, IDS[:500], first=10_000, content=" old")
        assert runs.on_disk == on_disk
        known = PlannedIds(runs)
    assert len(known) == 3000
    found = known.find(id_digests(["none", *IDS, "nothing"]))
    assert (found[0], found[-1]) == (-1, -1)
    assert [known.origin(int(n)) for n in found[1:-1]] == list(range(1, 3001))
    assert (known.contents(found[1:-1]) == content_digests(i + " new" for i in IDS)).all()


def test_ids_whose_digests_begin_alike_are_told_apart(on_disk: bool) -> None:
    words = np.array([[7, low] for low in (3, 1, 2)] * 200 + [[9, 1]], np.uint64)
    with closing(DigestRuns()) as runs:
        runs.add(words, np.arange(len(words), dtype=np.uint64))
        assert runs.on_disk == on_disk
        assert runs.twice(1) == [(0, 3)]
        known = PlannedIds(runs)
    found = known.find(np.array([[7, 1], [7, 2], [7, 3], [7, 4], [9, 1], [9, 2]], np.uint64))
    origins = [known.origin(int(n)) if n >= 0 else None for n in found]
    assert origins == [1, 2, 0, None, 600, None]


def test_no_id_is_known_of_no_rows() -> None:
    with closing(DigestRuns()) as runs:
        known = PlannedIds(runs)
    assert len(known) == 0
    assert known.find(id_digests(["a"])).tolist() == [-1]


def test_a_full_temporary_folder_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digests, "RUN_ROWS", 400)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with closing(DigestRuns()) as runs, pytest.raises(StorageError, match="set TMPDIR"):
        add(runs, IDS)
