"""The vectors that indexes are measured with, and the table of the indexes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import clipfleet
from bench.index.lists import Queries
from bench.index.lists import measure as compare_lists
from bench.index.peers.child import Cost
from bench.index.peers.queries import Answers, ask, write_queries
from bench.index.peers.results import SECTION, Measured, Results, Setting, parse, report
from bench.index.sizes import add, read, size_of
from bench.index.sizes import report as report_sizes
from bench.index.vectors import Recipe, all_pictures, make
from bench.index.world import DIM, World
from clipfleet.retrieval.index.parameters import Structure
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import dataset_of


def small_world(seed: int) -> World:
    return World(seed, clusters=20, rank=8)


def test_the_made_datasets_are_whole_and_each_caption_is_nearest_to_its_picture(
    tmp_path: Path,
) -> None:
    recipe = Recipe(rows=230, texts=60, seed=3, clusters=20, rank=8, shard_rows=15)
    for name in ("one", "two"):
        make(tmp_path / name, recipe, processes=1)
        assert verify_dataset(str(tmp_path / name / "images")).ok
        assert verify_dataset(str(tmp_path / name / "texts")).ok
    images = clipfleet.Dataset(tmp_path / "one/images")
    texts = clipfleet.Dataset(tmp_path / "one/texts")
    assert images.model.checkpoint_sha256 == texts.model.checkpoint_sha256
    assert (len(images), len(texts), images.dim) == (230, 60, DIM)
    again = clipfleet.Dataset(tmp_path / "two/images").vectors()
    np.testing.assert_array_equal(images.vectors(), again)
    lines = (tmp_path / "one/test_texts.jsonl").read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line)["image_ids"] for line in lines]
    cosines = texts.vectors().astype(np.float32) @ images.vectors().astype(np.float32).T
    right = cosines[np.arange(60), [row for [row] in gold]]
    assert np.median((cosines > right[:, None]).sum(axis=1)) < 10
    own = images.vectors().astype(np.float32) @ images.vectors().astype(np.float32).T
    assert own.mean() > cosines.mean() + 0.3  # the modality gap
    assert (np.triu(own, 1) > 0.97).sum() >= 230 * 0.03 - 4  # near-copies, 3 % of each batch


def test_recall_counts_the_exact_neighbours_among_the_answers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows, asked = (random.standard_normal((n, 8)).astype(np.float32) for n in (50, 6))
    write_queries(tmp_path, {"images": asked, "texts": asked}, lambda: iter([rows]))

    def half(query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        found = np.argsort(-(query @ rows.T), axis=1)[:, :k]
        found[:, ::2] = -1
        return found

    assert ask(tmp_path, half)["texts"].recall == 0.5


def test_the_table_has_each_index_and_says_which_one_was_not_built() -> None:
    answers = Answers(recall=0.9571, p50_ms=2.04, p95_ms=3.0, cpu_ms=2.5)
    cost = Cost(seconds=100.4, cpu_s=180, peak_bytes=3 << 30)
    setting = Setting(setting="probes 64, rerank 10", images=answers, texts=answers)
    results = Results(
        rows=1000,
        dim=512,
        queries=10,
        machine="2 cores",
        versions={"faiss-cpu": "1"},
        indexes=(
            Measured(
                name="ours",
                build=cost + cost,
                codes_bytes=174_000,
                disk_bytes=1_200_000,
                searches=(setting,),
                note="killed",
            ),
            Measured(name="theirs", build=cost, error="exit code 1: no memory"),
        ),
    )
    text = report(parse(json.dumps(results.to_json())))
    assert "| ours | 201 | 360 | 3,072 | 174 | 1,200 |" in text
    assert "| theirs | 100 | 180 | 3,072 | – | – |" in text
    assert "| ours | probes 64, rerank 10 | 0.957 | 0.957 | 2.04 / 3.00 |" in text
    assert "- ours: killed" in text
    assert "- theirs built no index: `exit code 1: no memory`" in text


def test_the_page_has_the_tables_of_the_stored_result() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs/explanation/performance.md").read_text(encoding="utf-8")
    stored = (root / "bench/results/index_peers.json").read_text(encoding="utf-8")
    assert SECTION.insert(page, report(parse(stored))) == page


def unit_rows(count: int) -> NDArray[np.float32]:
    """Return pictures' vectors of the small world, float32 (n, D)."""
    world, random = small_world(3), np.random.default_rng(1)
    return world.images(random, world.contents(random, count)).astype(np.float32)


def test_sizes_are_added_one_by_one_and_measured_again_in_place(tmp_path: Path) -> None:
    index = tmp_path / "index"
    dataset = dataset_of(tmp_path / "images", unit_rows(300), part_rows=100)
    clipfleet.build_index(dataset.root, index, lists=8, bits=1, min_recall=0.5)
    size = size_of(index, Cost(seconds=9, cpu_s=3.0, peak_bytes=5 << 20))
    assert (size.rows, size.lists, size.bits) == (300, 8, 1)
    assert 0.5 <= size.bound <= size.recall <= 1
    path = tmp_path / "sizes.json"
    for rows in (2000, 300, 2000):
        add(path, replace(size, rows=rows))
    sizes = read(path)
    assert [one.rows for one in sizes] == [300, 2000]
    *_, first, second = report_sizes(sizes).splitlines()
    assert first.startswith("| 300 | 3 | 10,000 | 5 | 8, 1 |")
    assert second.startswith("| 2,000 | 3 | 1,500 | 5 | 8, 1 |")


def test_more_lists_are_compared_at_equal_recall() -> None:
    rows = unit_rows(2000)
    queries: Queries = {"img": rows[:20], "txt": rows[20:40]}
    structures = [
        Structure(kind="ivf-rabitq", lists=lists, bits=2, sample_rows=2000) for lists in (8, 16)
    ]
    found = list(compare_lists(rows.astype(np.float16), queries, structures, [0.9]))
    assert [one.lists for one in found] == [8, 16]
    assert all(one.reached and one.recall >= 0.9 and one.p50_ms > 0 for one in found)


def test_batches_without_a_caption_are_the_pictures_of_batches_with_some() -> None:
    some = Recipe(rows=100, texts=100, seed=3, clusters=20, rank=8, shard_rows=10)
    none = replace(some, texts=0)
    np.testing.assert_array_equal(
        np.concatenate([*all_pictures(some)]), np.concatenate([*all_pictures(none)])
    )
