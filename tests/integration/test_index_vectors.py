"""The vectors that indexes are measured with, made in several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import clipfleet
from bench.index.vectors import Recipe, make


def test_two_processes_make_the_vectors_that_one_makes(tmp_path: Path) -> None:
    recipe = Recipe(rows=500, texts=70, seed=3, clusters=20, rank=8, shard_rows=20)
    for processes in (1, 2):
        make(tmp_path / str(processes), recipe, processes=processes)
    for name in ("images", "texts"):
        one, two = (clipfleet.Dataset(tmp_path / processes / name) for processes in "12")
        assert one.ids == two.ids
        np.testing.assert_array_equal(one.vectors(), two.vectors())
    one_gold, two_gold = (tmp_path / processes / "test_texts.jsonl" for processes in "12")
    assert one_gold.read_bytes() == two_gold.read_bytes()
