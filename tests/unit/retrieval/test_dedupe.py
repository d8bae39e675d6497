"""Near-duplicates: the leader rule, the cells, the sample that checks them, and the table."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import clipfleet
from clipfleet.cli.main import app
from clipfleet.errors import DatasetError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.dedupe import cells, near_pairs
from clipfleet.retrieval.dedupe.cells import Cells, assign_cells
from clipfleet.retrieval.dedupe.equal_vectors import digests_of, find_first_equal
from clipfleet.retrieval.dedupe.leaders import find_groups
from clipfleet.retrieval.dedupe.near_pairs import NearPairs
from clipfleet.retrieval.dedupe.rows import Rows
from clipfleet.retrieval.dedupe.sample_check import SampleCheck, check_sample
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import ListSource
from tests.datasets import make_card
from tests.unit.test_docs_pages import commands_in

Vectors = NDArray[np.float32]

GUIDE = Path(__file__).parents[3] / "docs/how-to/dedupe.md"


def rows_of(vectors: Vectors) -> Rows:
    count = len(vectors)
    ids = pa.array([f"{n:05d}" for n in range(count)], pa.large_string())
    stored, order = vectors.astype(np.float16), np.arange(count)
    equal = find_first_equal(stored, order, digests_of(stored))
    return Rows(ids=ids, dataset_rows=order, stored=stored, first_equal=equal)


def at_angles(*degrees: float) -> Vectors:
    angles = np.radians(np.array(degrees, np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def one_cell(count: int) -> Cells:
    return Cells(of_rank=np.zeros((count, 1), np.int32))


def clustered(count: int, *, seed: int) -> Vectors:
    """Return vectors of 8 numbers in tight clusters, with many pairs and chains."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((count // 6, 8))
    vectors = centres[random.integers(0, len(centres), count)]
    vectors = vectors + 0.25 * random.standard_normal((count, 8))
    vectors[random.integers(0, count, 20)] = vectors[random.integers(0, count, 20)]  # equal ones
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def write_dataset(root: Path, items: list[tuple[str, tuple[int, int]]], vectors: Vectors) -> Path:
    """Write pictures with these ids, sizes and vectors."""
    card = make_card("img", dim=vectors.shape[1])
    dataset = Dataset.create(str(root), card, kind="planned", embedding_dtype="float16")
    source = [Item(id=id_, uri=f"/pictures/{id_}") for id_, _ in items]
    assert plan_items(dataset, ListSource(source), 3) is not None
    sizes, vector_of = dict(items), dict(zip((id_ for id_, _ in items), vectors, strict=True))
    with PlanReader(dataset) as plan:
        for shard in missing_shards(dataset):
            planned = plan.read(shard)
            embedded = Embedded(
                items=planned,
                vectors=np.stack([vector_of[item.id] for item in planned]),
                sizes=[sizes[item.id] for item in planned],
                failures=[],
            )
            commit(dataset, shard.name, embedded, card=card, worker="w")
    return root


def test_a_chain_of_near_rows_is_no_group() -> None:
    vectors = at_angles(0, 10, 20, 30)  # union-find would join all four
    pairs = NearPairs(
        rows=rows_of(vectors), cells=one_cell(4), threshold=math.cos(math.radians(12))
    )
    groups = find_groups(pairs)
    assert groups.kept.tolist() == [True, False, True, False]
    assert groups.representatives[[1, 3]].tolist() in (
        [0, 2],
        [2, 2],
    )  # 10° is as near to 0° as to 20°
    np.testing.assert_allclose(groups.cosines[[1, 3]], math.cos(math.radians(10)), atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_the_plain_rule_over_the_compared_pairs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "_TILE_ROWS", 7)
    count, threshold = 300, 0.9
    random, rows = np.random.default_rng(seed), rows_of(clustered(count, seed=seed))
    of_rank = np.stack([random.permutation(6)[:3] for _ in range(count)]).astype(np.int32)
    of_rank = of_rank[rows.first_equal]  # equal vectors have the same cells
    pairs = NearPairs(rows=rows, cells=Cells(of_rank=of_rank), threshold=threshold)
    cosines = rows.vectors(np.arange(count)) @ rows.vectors(np.arange(count)).T
    own = of_rank[:, :1]
    among = (of_rank[:, None, :] == own[None]).any(axis=2)
    near = (among | among.T) & (cosines >= threshold)
    kept: list[int] = []
    for rank in range(count):  # the rule, as it is said
        if not near[rank, kept].any():
            kept.append(rank)
    groups = find_groups(pairs)
    assert np.flatnonzero(groups.kept).tolist() == kept
    assert 0.2 * count < len(kept) < 0.8 * count
    for rank in set(range(count)) - set(kept):
        best = max((k for k in kept if near[rank, k]), key=lambda k: cosines[rank, k])
        assert groups.representatives[rank] == best
    assert groups.sizes[groups.kept].sum() == count


def test_only_vectors_that_are_equal_to_the_bit_are_equal() -> None:
    stored = np.array([[1, 0], [0.5, 0.5], [1, 0], [0.5, 0.5], [1, 2**-24]], np.float16)
    order = np.array([4, 2, 3, 1, 0])
    expected = [0, 1, 2, 2, 1]
    assert find_first_equal(stored, order, digests_of(stored)).tolist() == expected
    one_digest = np.zeros(5, np.uint64)  # as if all of them collided
    assert find_first_equal(stored, order, one_digest)[0] == 0
    assert find_first_equal(stored, order, one_digest)[1] == 1


def test_cells_find_near_copies_and_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "EXACT_ROWS", 100)
    random = np.random.default_rng(5)
    vectors = random.standard_normal((1000, 16)).astype(np.float32)
    vectors[500:] = vectors[:500] + 0.02 * random.standard_normal((500, 16))
    rows = rows_of(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    found = assign_cells(rows, near_cells=3, seed=1)
    assert found.count == 64
    np.testing.assert_array_equal(found.of_rank, assign_cells(rows, near_cells=3, seed=1).of_rank)
    groups = find_groups(NearPairs(rows=rows, cells=found, threshold=0.97))
    assert groups.representatives[500:].tolist() == list(range(500))


def test_the_sample_counts_pairs_that_the_cells_miss() -> None:
    rows = rows_of(at_angles(0, 1, 40, 41, 42, 90))
    of_rank = np.array([[0], [0], [1], [1], [2], [2]], np.int32)  # parts 42° from its like
    pairs = NearPairs(rows=rows, cells=Cells(of_rank=of_rank), threshold=0.99)
    check = check_sample(pairs, find_groups(pairs), rows=100, seed=0)
    assert check == SampleCheck(
        rows=6, rows_with_pairs=5, rows_whole=2, pairs=8, pairs_found=4, pairs_kept=2
    )
    assert check.recall == 0.5


def test_the_interval_of_a_sample_without_a_miss_is_that_of_wilson() -> None:
    whole = SampleCheck(
        rows=2048, rows_with_pairs=134, rows_whole=134, pairs=140, pairs_found=140, pairs_kept=0
    )
    assert whole.interval == pytest.approx((134 / (134 + 1.96**2), 1))
    none = SampleCheck(
        rows=9, rows_with_pairs=0, rows_whole=0, pairs=0, pairs_found=0, pairs_kept=0
    )
    assert (none.recall, none.interval) == (None, None)


def test_the_largest_picture_is_kept_then_the_lowest_id_whatever_the_order_of_parts(
    tmp_path: Path,
) -> None:
    small, large = (320, 240), (640, 480)
    items = [("a", small), ("b", large), ("c", large), ("d", small), ("z", small)]
    vectors = at_angles(0, 1, 2, 90, 91)
    tables = []
    for name, order in (("one", [0, 1, 2, 3, 4]), ("two", [4, 2, 3, 0, 1])):
        root = write_dataset(tmp_path / name, [items[n] for n in order], vectors[order])
        out = tmp_path / f"{name}.parquet"
        found = clipfleet.dedupe(root, out, threshold=0.99)
        assert (found.rows, found.kept, found.dropped) == (5, 2, 3)
        assert (found.groups, found.largest_group, found.check) == (2, 3, None)
        tables.append(pq.read_table(out))
    ids = [table["id"].to_pylist() for table in tables]
    assert ids == [list("abcdz"), list("zcdab")]  # as in each dataset
    for table in tables:
        chosen = dict(
            zip(table["id"].to_pylist(), table["representative"].to_pylist(), strict=True)
        )
        assert chosen == {"a": "b", "b": "b", "c": "b", "d": "d", "z": "d"}
        kept = [one["id"] for one in table.to_pylist() if one["kept"]]
        assert sorted(kept) == ["b", "d"]
    assert tables[0]["group_size"].to_pylist() == [3, 3, 3, 2, 2]
    assert tables[0]["uri"].to_pylist() == [f"/pictures/{id_}" for id_ in "abcdz"]
    facts = json.loads(tables[0].schema.metadata[b"clipfleet.dedupe"])
    assert (facts["threshold"], facts["kept"], facts["cells"]) == (0.99, 2, 1)


def test_a_dataset_without_vectors_has_an_empty_table(tmp_path: Path) -> None:
    card = make_card("img", dim=2)
    Dataset.create(str(tmp_path / "none"), card, kind="planned", embedding_dtype="float16")
    found = clipfleet.dedupe(tmp_path / "none", tmp_path / "none.parquet")
    assert (found.rows, found.kept, found.largest_group) == (0, 0, 0)
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


@pytest.mark.parametrize("threshold", [0.0, 1.5, math.nan])
def test_a_threshold_that_is_no_cosine_is_refused(tmp_path: Path, threshold: float) -> None:
    root = write_dataset(tmp_path / "d", [("a", (1, 1))], at_angles(0))
    with pytest.raises(UsageError, match="it is a cosine"):
        clipfleet.dedupe(root, tmp_path / "out.parquet", threshold=threshold)
    assert not (tmp_path / "out.parquet").exists()


def test_an_id_with_two_rows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    sizes = (1, 1)
    root = write_dataset(tmp_path / "d", [("a", sizes), ("b", sizes)], at_angles(0, 90))
    dataset = Dataset.open(str(root))
    again = Item(id="b", uri="/pictures/b")
    rows = Embedded(items=[again], vectors=at_angles(45), sizes=[sizes], failures=[])
    commit(dataset, "00001-0000007", rows, card=dataset.info.card, worker="w")
    with pytest.raises(
        DatasetError, match=rf"1 ids are in {root} twice \(b\), so .*`clipfleet verify"
    ):
        clipfleet.dedupe(root, tmp_path / "unique.parquet")
    assert not (tmp_path / "unique.parquet").exists()


def test_an_existing_file_stays(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [("a", (1, 1))], at_angles(0))
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(UsageError, match="choose another file"):
        clipfleet.dedupe(root, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "mine"
    with pytest.raises(UsageError, match=r"out\.csv: expected a name that ends with \.parquet"):
        clipfleet.dedupe(root, tmp_path / "out.csv")


def test_the_commands_and_the_python_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(
        tmp_path / "vectors/photos", [(id_, (1, 1)) for id_ in "abc"], at_angles(0, 1, 90)
    )
    monkeypatch.chdir(tmp_path)
    commands = commands_in(GUIDE)
    shown = [CliRunner().invoke(app, command, catch_exceptions=False) for command in commands]
    assert [done.exit_code for done in shown] == [0, 0, 0]
    assert "3 rows: 2 kept, 1 dropped (cosine ≥ 0.97)" in shown[0].output
    assert "every row was compared with every other one" in shown[0].output
    page = (tmp_path / "groups.html").read_text(encoding="utf-8")
    assert "The kept picture a" in page
    assert "<bdi>Picture b</bdi> is not shown" in page  # there is no such file
    assert "Picture c" not in page
    [block] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - the page is ours
    assert names["unique"] == ["a", "c"]
    assert names["dropped"]["representative"].to_pylist() == ["a"]
